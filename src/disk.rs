//! Files that appear under their names whole and durably, or not at all.
//!
//! It must not overwrite anything.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Once;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use tempfile::TempDir;

use crate::error::{Error, ErrorKind, Result};

/// Renames, and refuses where the name is taken: a plain rename would overwrite, and two creates both succeed.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(exists()),
        // A file system without this: a link refuses as well.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match std::fs::hard_link(from, to) {
            Ok(()) => std::fs::remove_file(from).map_err(|error| Error::io("remove", from, error)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists()),
            Err(error) => Err(Error::io("make", to, error)),
        },
        Err(error) => Err(Error::io("make", to, error.into())),
    }
}

pub(crate) fn exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, "it exists already")
        .with_hint("it was left as it is; see where it stands: tenantry status ID")
}

/// Makes a folder that only its owner can look into, where there is none.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_private(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("make the folder", path, error))
        }
        _ => sync_directory(path.parent().unwrap_or(Path::new("."))),
    }
}

/// A folder that only its owner can look into, gone when it is dropped.
pub(crate) struct PrivateFolder {
    folder: TempDir,
    /// Locked as long as somebody uses the folder.
    _lock: File,
}

impl PrivateFolder {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What begins the names of such folders, and what each has in it.
const PRIVATE: &str = "tenantry-";
const LOCK: &str = ".lock";

/// Makes a private folder, after what dead processes left of theirs.
pub(crate) fn private_folder() -> Result<PrivateFolder> {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        // What can't be removed now is no reason not to go on.
        drop(sweep_private_folders());
    });
    let make = || loop {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(PRIVATE).permissions(Permissions::from_mode(0o700)).tempdir()?;
        let lock = File::create(folder.path().join(LOCK))?;
        if claim(&lock)? {
            return Ok(PrivateFolder { folder, _lock: lock });
        }
    };
    make().map_err(|error: std::io::Error| {
        Error::new(ErrorKind::Io, "cannot make a private folder").caused_by(error)
    })
}

/// Locks a file that was made a moment ago, so that nobody takes it for what a dead process left; says whether that came before
/// somebody did. Where the file system has no such locks, nobody removes it either.
pub(crate) fn claim(file: &File) -> std::io::Result<bool> {
    let _ = flock(file, FlockOperation::LockExclusive);
    Ok(file.metadata()?.nlink() > 0)
}

/// Removes private folders whose processes are gone; gives what they were called.
pub(crate) fn sweep_private_folders() -> Result<Vec<String>> {
    let parent = std::env::temp_dir();
    let unreadable = |error| Error::io("list", &parent, error);
    let mut gone = Vec::new();
    for entry in std::fs::read_dir(&parent).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_private = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PRIVATE));
        let is_free = |lock: &File| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_private
            && path.symlink_metadata().is_ok_and(|it| it.is_dir())
            && File::open(path.join(LOCK))
                .is_ok_and(|lock| is_free(&lock) && std::fs::remove_dir_all(&path).is_ok())
        {
            gone.push(path.display().to_string());
        }
    }
    Ok(gone)
}

/// Makes names in a folder durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("sync", directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is made while another process looks for what the dead left is never taken for that.
    #[test]
    fn a_folder_that_lives_is_never_swept() {
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                        sweep_private_folders().unwrap();
                    }
                });
            }
            let folders: Vec<PrivateFolder> = (0..500).map(|_| private_folder().unwrap()).collect();
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            let lost = folders.iter().filter(|folder| !folder.path().join(LOCK).exists()).count();
            assert_eq!(lost, 0);
        });
    }
}
