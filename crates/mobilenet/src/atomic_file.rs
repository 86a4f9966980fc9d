//! Files that are either whole or not there: a temporary name, fsync, rename.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Where one can write, and go back to what was written.
pub trait WriteSeek: Write + Seek {}

impl<T: Write + Seek> WriteSeek for T {}

/// Writes a file such that whoever opens `path`, at any moment and after any crash, finds either
/// what was there before or everything that `fill` writes.
///
/// # Errors
/// [`Error::Io`] when the folder does not exist or may not be written, when the disk is full, or
/// when `fill` fails; what stood at `path` stays.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_seek(path, |file| fill(file))
}

/// [`write()`] for formats whose beginning is only known at their end.
///
/// # Errors
/// As [`write()`].
pub fn write_seek(path: &Path, fill: impl FnOnce(&mut dyn WriteSeek) -> io::Result<()>) -> Result<()> {
    if path.is_dir() {
        return Err(Error::Io {
            path: path.to_owned(),
            action: "write",
            source: io::Error::new(io::ErrorKind::IsADirectory, "it is a folder; name a file"),
        });
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    // As for any new file, the umask decides who may read it (temporary files are private).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(Error::io(folder, "create a file in"))?;
    let mut writer = BufWriter::with_capacity(1 << 18, temporary.as_file_mut());
    fill(&mut writer)
        .and_then(|()| writer.flush())
        .and_then(|()| writer.get_ref().sync_all())
        .map_err(Error::io(path, "write"))?;
    drop(writer);
    temporary.persist(path).map_err(|error| error.error).map_err(Error::io(path, "write"))?;
    sync_folder(folder)
}

/// Makes the new name itself durable.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|handle| handle.sync_all()).map_err(Error::io(folder, "sync"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failed_write_leaves_what_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let failed = write(&path, |file| {
            file.write_all(&[0; 1 << 20])?;
            Err(io::Error::new(io::ErrorKind::StorageFull, "no space left"))
        });
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("model") && message.contains("no space left"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["model"]);
    }

    #[test]
    fn replaces_a_file_and_refuses_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        write(&path, |file| file.write_all(b"old")).unwrap();
        write(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let message = write(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("it is a folder"), "{message}");
        let nowhere = folder.path().join("missing/model");
        let message = write(&nowhere, |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("missing") && message.contains("create a file in"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_it_as_the_umask_says() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write(&ours, |_| Ok(())).unwrap();
        std::fs::write(&plain, b"").unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(ours), mode(plain));
    }
}
