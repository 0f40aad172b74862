//! Storage for the files of backups: a folder, behind a trait that other kinds of storage can implement.
//!
//! Stores files by names such as `42/20261121T201700.123Z-1a2b3c4d.json` and does not interpret them.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind as IoErrorKind, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::disk::{make_private, rename_new, sync_directory};
use crate::error::{Error, ErrorKind, Result};

/// Storage for backups. A name is `folder/file`, with exactly one `/`.
pub trait Destination: Send + Sync {
    /// Returns the location for messages, without secrets.
    fn location(&self) -> String;

    /// Creates a private folder for files that are to be [stored](Destination::put). It is deleted on drop.
    fn workspace(&self) -> Result<Workspace>;

    /// Moves a finished file into the storage, atomically and durably. Fails if the name is taken.
    fn put(&self, name: &str, file: &Path) -> Result<()>;

    /// Writes a small text file atomically, and replaces an existing one. Not durable: a power cut may lose the new
    /// text.
    fn note(&self, name: &str, text: &str) -> Result<()>;

    /// Opens a file for reading.
    fn open(&self, name: &str) -> Result<Box<dyn Read + Send>>;

    /// Returns the names of the folders.
    fn folders(&self) -> Result<Vec<String>>;

    /// Returns the names of the files in a folder, without the folder, sorted. Empty if the folder does not exist.
    fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<()>;

    /// Removes private folders and temporary files of killed processes that were not written to for `idle`.
    fn sweep(&self, idle: Duration) -> Result<()>;
}

/// A private folder. It is deleted on drop.
#[derive(Debug)]
pub struct Workspace(TempDir);

impl Workspace {
    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The prefix of the names of private folders and temporary files.
const WORKSPACE: &str = ".new-";

/// A folder of the file system that only its owner can read.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Creates a destination. The folder is created when the first file is stored.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let is_plain = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
        };
        match name.split_once('/') {
            Some((folder, file)) if is_plain(folder) && is_plain(file) => Ok(self.0.join(folder).join(file)),
            _ => Err(Error::new(ErrorKind::Usage, format!("{name:?} is not the name of a backup"))
                .with_hint("to see the names: tenantry backup list")),
        }
    }
}

impl Destination for Directory {
    fn location(&self) -> String {
        self.0.display().to_string()
    }

    fn workspace(&self) -> Result<Workspace> {
        make_private(&self.0)?;
        tempfile::Builder::new()
            .prefix(WORKSPACE)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&self.0)
            .map(Workspace)
            .map_err(|error| Error::io("create a private folder in", &self.0, error))
    }

    fn put(&self, name: &str, file: &Path) -> Result<()> {
        let path = self.path(name)?;
        let folder = path.parent().unwrap_or(&self.0);
        make_private(folder)?;
        File::open(file)
            .and_then(|file| {
                file.set_permissions(Permissions::from_mode(0o600))?;
                file.sync_all()
            })
            .map_err(|error| Error::io("sync", file, error))?;
        rename_new(file, &path)?;
        sync_directory(folder)
    }

    fn note(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name)?;
        let random = uuid::Uuid::new_v4().simple().to_string();
        let temporary = path.with_file_name(format!("{WORKSPACE}{random}"));
        write_private(&temporary, text)?;
        std::fs::rename(&temporary, &path).map_err(|error| Error::io("rename", &temporary, error))
    }

    fn open(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let path = self.path(name)?;
        // Opening a FIFO would hang, and a link would lead outside of the folder.
        let metadata =
            path.symlink_metadata().map_err(|error| Error::io("read the metadata of", &path, error))?;
        if !metadata.is_file() {
            return Err(Error::new(
                ErrorKind::CheckFailed,
                format!("{} is not a regular file", path.display()),
            ));
        }
        let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        Ok(Box::new(file))
    }

    fn folders(&self) -> Result<Vec<String>> {
        names(&self.0, Path::is_dir)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        names(&self.0.join(folder), |_| true)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        sync_directory(path.parent().unwrap_or(&self.0))
    }

    fn sweep(&self, idle: Duration) -> Result<()> {
        for folder in [PathBuf::new()].into_iter().chain(self.folders()?.into_iter().map(PathBuf::from)) {
            for path in entries(&self.0.join(folder))? {
                let is_temporary = path
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(WORKSPACE.as_bytes()));
                if is_temporary && is_idle(&path, idle)? {
                    let remove = if path.is_dir() {
                        std::fs::remove_dir_all(&path)
                    } else {
                        std::fs::remove_file(&path)
                    };
                    ignore_not_found(remove).map_err(|error| Error::io("remove", &path, error))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a file, or a folder and everything in it, was not modified for `idle`. A missing file is not idle.
fn is_idle(path: &Path, idle: Duration) -> Result<bool> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(false),
        other => other.map_err(|error| Error::io("read the metadata of", path, error))?,
    };
    let modified = metadata.modified().map_err(|error| Error::io("read the metadata of", path, error))?;
    // A time in the future is no evidence that the file is idle.
    if modified.elapsed().unwrap_or_default() < idle {
        return Ok(false);
    }
    if !metadata.is_dir() {
        return Ok(true);
    }
    for inner in entries(path)? {
        if !is_idle(&inner, idle)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Turns `NotFound` into success, since another process may have removed the same file.
fn ignore_not_found(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Returns the paths in a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    match read() {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| Error::io("list", folder, error)),
    }
}

/// Returns the wanted names in a folder, sorted, without hidden ones.
fn names(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let name_of = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        (!name.starts_with('.') && is_wanted(&path)).then(|| name.to_string())
    };
    let mut names: Vec<String> = entries(folder)?.into_iter().filter_map(name_of).collect();
    names.sort();
    Ok(names)
}

/// Writes a new file that only its owner can read. Fails if it exists.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    let write =
        || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io("write", path, error))
}
