//! Files that appear under their names whole and durably, or not at all.
//!
//! It must not overwrite anything.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
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
        .hint("it was left as it is; see where it stands: tenantry status ID")
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
    let make = || {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(PRIVATE).permissions(Permissions::from_mode(0o700)).tempdir()?;
        let lock = File::create(folder.path().join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(PrivateFolder { folder, _lock: lock })
    };
    make().map_err(|error: std::io::Error| {
        Error::new(ErrorKind::Io, "cannot make a private folder").caused_by(error)
    })
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
