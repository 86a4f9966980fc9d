//! The cache's layout: `models--owner--name/{refs/REVISION, blobs/ETAG, snapshots/COMMIT/FILE}`;
//! a ref holds a commit, a snapshot's file links to its blob.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// One model's folder in the cache.
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// In the cache folder; nothing is made yet.
    pub fn new(cache: &Path, owner: &str, name: &str) -> Self {
        Self { folder: cache.join(format!("models--{owner}--{name}")) }
    }

    /// A file of a revision (branch, tag or commit), if it is here whole.
    pub fn find(&self, revision: &str, file: &str) -> Option<PathBuf> {
        let known = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let commit = known.as_deref().map_or(revision, str::trim);
        let commit = Some(commit).filter(|commit| is_commit(commit))?;
        Some(self.snapshot(commit).join(file)).filter(|path| path.is_file())
    }

    /// Notes which commit a branch or tag is at.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`] when the cache cannot be written.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        make_parent(&path)?;
        Ok(mobilenet::atomic_file::write(&path, |file| file.write_all(commit.as_bytes()))?)
    }

    /// Where a download goes, with its folder made: the blob that its ETag names. Without a usable
    /// one, a name of the commit and file stands in.
    ///
    /// # Errors
    /// [`Error::Io`] when the cache cannot be written.
    pub fn new_blob(&self, etag: Option<&str>, commit: &str, file: &str) -> Result<PathBuf> {
        let usable =
            |tag: &&str| (8..=128).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
        let name = etag.filter(usable).map_or_else(|| format!("{commit}-{file}"), str::to_owned);
        let path = self.folder.join("blobs").join(name);
        make_parent(&path)?;
        Ok(path)
    }

    /// Makes a blob appear as a snapshot's file.
    ///
    /// # Errors
    /// [`Error::Io`] when the cache cannot be written.
    pub fn link(&self, blob: &Path, commit: &str, file: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        make_parent(&path)?;
        // What is there is a link to a blob that was removed.
        let _ = std::fs::remove_file(&path);
        link(blob, &path).or_else(|error| {
            // Another process may have been faster.
            if path.is_file() {
                Ok(())
            } else {
                Err(Error::io(path.as_path(), "link to the downloaded file at")(error))
            }
        })
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(Error::io(parent, "make the folder")),
        None => Ok(()),
    }
}

/// A relative link, as the cache may be moved as a whole.
#[cfg(unix)]
fn link(blob: &Path, path: &Path) -> std::io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), path)
}

/// Where links need privileges, the file itself, as `huggingface_hub` does.
#[cfg(not(unix))]
fn link(blob: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::rename(blob, path)
}
