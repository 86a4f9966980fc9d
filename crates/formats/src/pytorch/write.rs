//! Writing a state_dict as `torch.save` does.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::FORMAT;
use crate::error::{Error, Result};

/// Where `torch.save` aligns numbers, so that they can be memory-mapped.
const ALIGNMENT: u16 = 64;
/// The folder in the archive; torch takes any.
const FOLDER: &str = "weights";

/// A zip archive with an `OrderedDict` of float tensors in the given order, for
/// `torch.load(weights_only=True)`. A tensor is its name, shape and row-major values.
///
/// `num_batches_tracked` need not be among them: a state_dict without versions, such as this, is
/// completed by `BatchNorm2d` itself, and `load_state_dict(strict=True)` accepts it.
///
/// # Errors
/// [`Error::Unsupported`] if a tensor has fewer or more values than its shape says, or a name
/// occurs twice.
pub fn write(tensors: &[(String, Vec<usize>, &[f32])]) -> Result<Vec<u8>> {
    let mut names = std::collections::BTreeSet::new();
    for (name, shape, values) in tensors {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::Unsupported(format!("{name}: {} values for shape {shape:?}", values.len())));
        }
        if !names.insert(name) {
            return Err(Error::Unsupported(format!("{name}: two tensors of this name")));
        }
    }
    let failed = |e: &dyn std::fmt::Display| {
        Error::Unsupported(format!("{FORMAT}: the archive cannot be written: {e}"))
    };
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let aligned = stored.with_alignment(ALIGNMENT);
    let size: usize = tensors.iter().map(|(name, _, values)| 4 * values.len() + 2 * name.len() + 512).sum();
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(size)));
    let mut entry = |name: &str, options, content: &[u8]| -> Result<()> {
        zip.start_file(format!("{FOLDER}/{name}"), options).map_err(|e| failed(&e))?;
        zip.write_all(content).map_err(|e| failed(&e))
    };
    entry("data.pkl", stored, &pickle(tensors))?;
    entry("byteorder", stored, b"little")?;
    for (index, (_, _, values)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        entry(&format!("data/{index}"), aligned, &bytes)?;
    }
    entry("version", stored, b"3\n")?;
    Ok(zip.finish().map_err(|e| failed(&e))?.into_inner())
}

/// The pickle, protocol 2: `OrderedDict()`, filled with a `_rebuild_tensor_v2` a tensor.
fn pickle(tensors: &[(String, Vec<usize>, &[f32])]) -> Vec<u8> {
    let mut p = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (index, (name, shape, values)) in tensors.iter().enumerate() {
        text(&mut p, name);
        p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        // The storage's persistent id.
        text(&mut p, "storage");
        p.extend(b"ctorch\nFloatStorage\n");
        text(&mut p, &index.to_string());
        text(&mut p, "cpu");
        integer(&mut p, values.len());
        // Offset 0, shape, strides.
        p.extend(b"tQK\x00(");
        shape.iter().for_each(|extent| integer(&mut p, *extent));
        p.extend(b"t(");
        for dimension in 0..shape.len() {
            integer(&mut p, shape[dimension + 1..].iter().product());
        }
        // No gradient wanted, no hooks.
        p.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    p.extend(b"u.");
    p
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn integer(pickle: &mut Vec<u8>, value: usize) {
    // LONG1: eight bytes of value and one of sign hold any.
    pickle.extend([0x8a, 9]);
    pickle.extend((value as u64).to_le_bytes());
    pickle.push(0);
}
