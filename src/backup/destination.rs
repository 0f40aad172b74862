//! Where backups are kept: a folder, behind a seam that another place fits as well.
//!
//! It must not know what a backup is: it keeps files under names like `42/20261121T201700.123Z-1a2b3c4d.json`.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind as IoErrorKind, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::disk::{make_private, rename_new, sync_directory};
use crate::error::{Error, ErrorKind, Result};

/// A place for backups. Names have one `/`: a folder's name, and a file's.
pub trait Destination: Send + Sync {
    /// Where it is, fit to be shown.
    fn location(&self) -> String;

    /// A private folder, gone when it is dropped, for what is to be [put](Destination::put) there.
    fn workspace(&self) -> Result<Workspace>;

    /// Takes a finished file over, durably, under a name that is not taken. It is wholly there or not at all.
    fn put(&self, name: &str, file: &Path) -> Result<()>;

    /// Writes a small text under a name, over what is there. A power cut may lose it, but leaves none of it half written.
    fn note(&self, name: &str, text: &str) -> Result<()>;

    /// Opens what is under a name.
    fn open(&self, name: &str) -> Result<Box<dyn Read + Send>>;

    /// The names of folders.
    fn folders(&self) -> Result<Vec<String>>;

    /// The names in a folder, without it, sorted; none where there is no such folder.
    fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Removes what is under a name.
    fn remove(&self, name: &str) -> Result<()>;

    /// Removes what killed processes left of their private folders and files, where nobody wrote into it for this long.
    fn sweep(&self, idle: Duration) -> Result<()>;
}

/// A private folder, gone when it is dropped.
#[derive(Debug)]
pub struct Workspace(TempDir);

impl Workspace {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What begins the names of private folders.
const WORKSPACE: &str = ".new-";

/// A folder of the file system; nobody but its owner can read it.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The folder, which is made when something is first put there.
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
            _ => Err(Error::new(ErrorKind::Usage, format!("{name:?} is no backup's name"))
                .with_hint("see which there are: tenantry backup list")),
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
            .map_err(|error| Error::io("make a private folder in", &self.0, error))
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
        // A name is a plain file: nothing that hangs, and nothing that leads elsewhere.
        let metadata = path.symlink_metadata().map_err(|error| Error::io("look at", &path, error))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::CheckFailed, format!("{} is no plain file", path.display())));
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
                let is_private = path
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(WORKSPACE.as_bytes()));
                if is_private && is_idle(&path, idle)? {
                    let remove = if path.is_dir() {
                        std::fs::remove_dir_all(&path)
                    } else {
                        std::fs::remove_file(&path)
                    };
                    unless_gone(remove).map_err(|error| Error::io("remove", &path, error))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a file, or a folder with all that is in it, was not written for so long.
fn is_idle(path: &Path, idle: Duration) -> Result<bool> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(false),
        other => other.map_err(|error| Error::io("look at", path, error))?,
    };
    let written = metadata.modified().map_err(|error| Error::io("look at", path, error))?;
    // What was written in the future was written by a clock that is not to be trusted.
    if written.elapsed().unwrap_or_default() < idle {
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

/// Another process that does the same is no error.
fn unless_gone(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    match read() {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| Error::io("list", folder, error)),
    }
}

/// What is in a folder, sorted; hidden things are nobody's business.
fn names(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let name_of = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        (!name.starts_with('.') && is_wanted(&path)).then(|| name.to_string())
    };
    let mut names: Vec<String> = entries(folder)?.into_iter().filter_map(name_of).collect();
    names.sort();
    Ok(names)
}

/// Writes a new file that nobody else can read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    let write =
        || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io("write", path, error))
}
