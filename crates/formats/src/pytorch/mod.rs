//! PyTorch's files: `.pth`, `.pt`, `.pth.tar`, as zip archives and in the old format.
//!
//! Such a file is a pickle, a program for Python's object machine, with the tensors' numbers
//! beside it. [`read`] runs that program in a machine of its own (`machine`) that only knows
//! data: nothing is imported, nothing is called, and a file that asks for more is refused by the
//! name of what it asked for. [`write()`] makes files that `torch.load(weights_only=True)` reads.
//!
//! Formats: `torch/serialization.py`, `torch/_utils.py`; `pickletools` in Python's library.

mod archive;
mod calls;
mod container;
mod legacy;
mod machine;
mod tensor;
mod value;
mod write;

pub use write::write;

use crate::Content;
use crate::error::{Error, Result};
use machine::Machine;

/// The format's name in messages.
const FORMAT: &str = "PyTorch";

/// Whether the bytes look like a file of PyTorch's, whole or damaged: a zip archive with a
/// `data.pkl`, or a pickle.
pub fn recognises(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"PK\x03\x04") {
        return contains(bytes, b"data.pkl")
            && !contains(&bytes[..bytes.len().min(512)], b"model.weights.h5");
    }
    // Pickles of protocol 2 and later say so; earlier ones begin with a mark or a name, and torch
    // never wrote them, but whoever means harm does.
    matches!(bytes, [0x80, 2..=5, ..]) || bytes.starts_with(b"(") || bytes.starts_with(b"c")
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Reads a file that `torch.save` wrote: a state_dict, or a training script's dictionary around
/// one. Names are the file's, without `module.`; values become f32; counters such as
/// `num_batches_tracked` are left out.
///
/// # Errors
/// [`Error::Damaged`] if the file is cut short, malformed, or tensors reach beyond their storages;
/// [`Error::Refused`] if the pickle asks to call a function (named), holds a whole network object,
/// or the archive unfolds to many times its size.
pub fn read(bytes: &[u8]) -> Result<Content> {
    if bytes.is_empty() {
        return Err(Error::damaged(FORMAT, "the file is empty"));
    }
    let state_dict = if bytes.starts_with(b"PK") {
        let archive = archive::Archive::open(bytes)?;
        let pickle = archive.pickle()?;
        let mut machine = Machine::new(&pickle);
        let root = machine.run()?;
        container::read(&machine.values, root, &archive)?
    } else {
        let (machine, root, storages) = legacy::open(bytes)?;
        container::read(&machine.values, root, &storages)?
    };
    Ok(Content::StateDict(state_dict))
}
