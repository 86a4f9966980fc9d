//! The zip archive that `torch.save` writes since PyTorch 1.6: `NAME/data.pkl`, and the numbers
//! of each storage in `NAME/data/KEY`, usually stored and 64-byte aligned.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{Cursor, Read};

use zip::ZipArchive;

use super::FORMAT;
use super::tensor::Storages;
use crate::error::{Error, Result};

/// Entries may be deflated; together they may unfold to this many times the file. (Weights hardly
/// shrink; a fresh optimizer's zeros do.)
const MOST_EXPANSION: u64 = 64;

/// An open archive.
pub struct Archive<'a> {
    zip: RefCell<ZipArchive<Cursor<&'a [u8]>>>,
    /// The folder within the archive, with its slash.
    folder: String,
    big_endian: bool,
    total: usize,
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::damaged(FORMAT, problem)
}

impl<'a> Archive<'a> {
    /// Opens an archive and checks its sizes.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is no zip archive or cut short; [`Error::Refused`] if it unfolds
    /// to many times its size, or is another kind of archive (TorchScript).
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| {
            damaged(format!(
                "the zip archive cannot be read ({e}); was the file cut short when it was copied?"
            ))
        })?;
        let mut total = 0u64;
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(|e| damaged(format!("zip entry {index}: {e}")))?;
            total = total.saturating_add(entry.size());
        }
        let most = MOST_EXPANSION.saturating_mul(bytes.len() as u64);
        if total > most {
            return Err(Error::refused(
                FORMAT,
                format!(
                    "the zip archive of {} bytes claims to unfold to {total}, more than {MOST_EXPANSION} times \
                     as many: a zip bomb, or not weights",
                    bytes.len()
                ),
            ));
        }
        let pickle = zip
            .file_names()
            .filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
            .min_by_key(|name| name.len())
            .ok_or_else(|| damaged("a zip archive without data.pkl, which torch.save would have written"))?;
        let folder = pickle.trim_end_matches("data.pkl").to_owned();
        let script = format!("{folder}constants.pkl");
        if zip.index_for_name(&script).is_some() {
            return Err(Error::refused(
                FORMAT,
                "this is a TorchScript archive, a program; save its weights alone: \
                 torch.save(torch.jit.load(FILE).state_dict(), \"weights.pth\")",
            ));
        }
        let mut archive =
            Self { zip: RefCell::new(zip), folder, big_endian: false, total: total.min(most) as usize };
        if archive.zip.borrow().index_for_name(&format!("{}byteorder", archive.folder)).is_some() {
            archive.big_endian = archive.entry("byteorder")? == b"big";
        }
        Ok(archive)
    }

    /// The pickle.
    pub fn pickle(&self) -> Result<Vec<u8>> {
        self.entry("data.pkl")
    }

    fn entry(&self, name: &str) -> Result<Vec<u8>> {
        let name = format!("{}{name}", self.folder);
        let mut zip = self.zip.borrow_mut();
        let entry = zip.by_name(&name).map_err(|e| damaged(format!("zip entry {name}: {e}")))?;
        let size = entry.size();
        // At most what was declared (and summed up above) is read, whatever the data unfold to.
        // The buffer grows as they arrive: the declaration may lie.
        let mut content = Vec::new();
        entry
            .take(size)
            .read_to_end(&mut content)
            .map_err(|e| damaged(format!("zip entry {name}: {e}; the file is damaged")))?;
        if content.len() as u64 != size {
            return Err(damaged(format!(
                "zip entry {name}: {size} bytes stated, {} found; the file is damaged",
                content.len()
            )));
        }
        Ok(content)
    }
}

impl Storages for Archive<'_> {
    fn bytes(&self, key: &str, needed: usize) -> Result<Cow<'_, [u8]>> {
        let content = self.entry(&format!("data/{key}"))?;
        if content.len() < needed {
            return Err(damaged(format!(
                "storage {key:?}: {needed} bytes needed, the archive has {}",
                content.len()
            )));
        }
        Ok(Cow::Owned(content))
    }

    fn big_endian(&self) -> bool {
        self.big_endian
    }

    fn total(&self) -> usize {
        self.total
    }
}
