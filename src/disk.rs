//! Atomic, durable and non-overwriting file operations, and private temporary folders.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Once;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use tempfile::TempDir;

use crate::error::{Error, ErrorKind, Result};

/// Renames a file without overwriting. Returns `AlreadyExists` if the name is taken.
///
/// A plain rename would overwrite, so two concurrent creates would both succeed.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(already_exists()),
        // The file system does not support NOREPLACE. A hard link does not overwrite either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match std::fs::hard_link(from, to) {
            Ok(()) => std::fs::remove_file(from).map_err(|error| Error::io("remove", from, error)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(already_exists()),
            Err(error) => Err(Error::io("create", to, error)),
        },
        Err(error) => Err(Error::io("create", to, error.into())),
    }
}

/// The error for a project that already exists.
pub(crate) fn already_exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, "it already exists")
        .with_hint("it was not changed; see its state: tenantry status ID")
}

/// Creates a folder, and missing parents, with access for the owner only. An existing folder is left unchanged.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_private(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("create the folder", path, error))
        }
        _ => sync_directory(path.parent().unwrap_or(Path::new("."))),
    }
}

/// A temporary folder that only its owner can access. It is deleted on drop.
pub(crate) struct PrivateFolder {
    folder: TempDir,
    /// Locked while the folder is in use, so that no other process sweeps it.
    _lock: File,
}

impl PrivateFolder {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The prefix of the names of private folders.
const PRIVATE: &str = "tenantry-";
/// The prefix of the names of private folders in a folder of somebody else.
const HIDDEN: &str = ".tenantry-";
/// The lock file in each private folder.
const LOCK: &str = ".lock";

/// Creates a private folder. The first call of a process also removes the private folders of dead processes.
pub(crate) fn private_folder() -> Result<PrivateFolder> {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        // A sweep that fails is tried again by the next process.
        drop(sweep_private_folders());
    });
    let create = || loop {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(PRIVATE).permissions(Permissions::from_mode(0o700)).tempdir()?;
        let lock = File::create(folder.path().join(LOCK))?;
        if claim(&lock)? {
            return Ok(PrivateFolder { folder, _lock: lock });
        }
    };
    create().map_err(|error: std::io::Error| {
        Error::new(ErrorKind::Io, "cannot create a private folder").caused_by(error)
    })
}

/// Creates a folder in another folder, with access for the owner only. Removes those there of dead processes first.
pub(crate) fn private_folder_in(parent: &Path) -> Result<PrivateFolder> {
    sweep_private_folders_in(parent, HIDDEN)?;
    let create = || loop {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(HIDDEN).permissions(Permissions::from_mode(0o700)).tempdir_in(parent)?;
        let lock = File::create(folder.path().join(LOCK))?;
        if claim(&lock)? {
            return Ok(PrivateFolder { folder, _lock: lock });
        }
    };
    create().map_err(|error: std::io::Error| Error::io("create a private folder in", parent, error))
}

/// Locks a newly created file, so that no sweep takes it for the file of a dead process. Returns `false` if a sweep
/// removed the file before it was locked.
///
/// A file system without locks is not an error: a sweep cannot lock the file there, so it does not remove it.
pub(crate) fn claim(file: &File) -> std::io::Result<bool> {
    let _ = flock(file, FlockOperation::LockExclusive);
    Ok(file.metadata()?.nlink() > 0)
}

/// Removes the private folders of dead processes. Returns their paths.
pub(crate) fn sweep_private_folders() -> Result<Vec<String>> {
    sweep_private_folders_in(&std::env::temp_dir(), PRIVATE)
}

fn sweep_private_folders_in(parent: &Path, prefix: &str) -> Result<Vec<String>> {
    let unreadable = |error| Error::io("list", parent, error);
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(parent).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_private = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        let is_free = |lock: &File| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_private
            && path.symlink_metadata().is_ok_and(|it| it.is_dir())
            && File::open(path.join(LOCK))
                .is_ok_and(|lock| is_free(&lock) && std::fs::remove_dir_all(&path).is_ok())
        {
            removed.push(path.display().to_string());
        }
    }
    Ok(removed)
}

/// Syncs a folder, so that created, renamed and removed names survive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("sync", directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is created while another process sweeps is never removed.
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
