//! Examines a database's file and its companions with `lstat` alone.
//!
//! Opens nothing: opening a FIFO would hang, and closing a file drops this process's locks on it.

use std::fs::Metadata;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, ErrorKind, Result};

/// The suffixes of the files that SQLite creates beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The longest tick of a kernel's clock for file times.
const TICK: Duration = Duration::from_millis(20);
/// The same for file systems that store times in units of one or two seconds.
const COARSE_TICK: Duration = Duration::from_millis(2_100);

/// Returns the path of a database's companion file.
pub(super) fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the SQLite URI of a file, with query parameters.
pub(super) fn uri(path: &Path, query: &str) -> String {
    let escape = |&byte: &u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let path: String = path.as_os_str().as_bytes().iter().map(escape).collect();
    format!("file:{path}?{query}")
}

/// Returns what a directory entry is if it cannot be a database, or `None` for a file that may be one.
pub(super) fn non_database_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    Some(if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else if metadata.len() == 0 {
        "an empty file"
    } else {
        return None;
    })
}

/// Returns the metadata of a file that may be a database. Returns `NotFound` if it does not exist, and `NotAProject` if
/// it cannot be a database.
pub(super) fn require_database(path: &Path) -> Result<Metadata> {
    let metadata = path.symlink_metadata().map_err(|error| match error.kind() {
        IoErrorKind::NotFound => Error::new(ErrorKind::NotFound, "it does not exist")
            .with_hint("to list the projects: tenantry list; to create this one: tenantry create ID"),
        _ => Error::io("read the metadata of", path, error),
    })?;
    match non_database_kind(&metadata) {
        None => Ok(metadata),
        Some(kind) => Err(Error::new(ErrorKind::NotAProject, format!("it is {kind}"))
            .with_hint("it was not changed; replace it with the project's database, or remove it")),
    }
}

/// The `lstat` results of a database and its companions. Equal before and after a read if nothing was written between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    main: Stat,
    /// The size of `-wal`, if it exists.
    pub(super) wal: Option<u64>,
    /// Whether `-wal` and `-shm` exist.
    pub(super) shm: bool,
    /// Whether `-journal` exists.
    pub(super) journal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let metadata = require_database(path)?;
        let main = Stat {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let wal = size_of(&companion(path, "-wal"))?;
        let shm = match wal {
            Some(_) => size_of(&companion(path, "-shm"))?.is_some(),
            None => false,
        };
        let journal = size_of(&companion(path, "-journal"))?.is_some();
        Ok(Self { main, wal, shm, journal })
    }

    /// Whether the next signature differs if the file is written to from now on. It does if the last write is at least
    /// one clock tick old.
    pub(super) fn detects_next_write(&self) -> bool {
        let (seconds, nanoseconds) = self.main.modified;
        let (Ok(seconds), Ok(fraction)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return false;
        };
        let modified = SystemTime::UNIX_EPOCH + Duration::new(seconds, fraction);
        let tick = if fraction == 0 { COARSE_TICK } else { TICK };
        // The next write replaces a time in the future by the current time.
        SystemTime::now().duration_since(modified).map_or(true, |age| age > tick)
    }
}

fn size_of(path: &Path) -> Result<Option<u64>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read the metadata of", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_20_a_file_written_within_the_clocks_tick_is_not_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        std::fs::write(&path, "x").unwrap();
        assert!(!Signature::of(&path).unwrap().detects_next_write());
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(5)).unwrap();
        let before = Signature::of(&path).unwrap();
        assert!(before.detects_next_write());
        std::fs::write(&path, "y").unwrap();
        assert_ne!(before, Signature::of(&path).unwrap());
    }

    #[test]
    fn a_uri_escapes_what_sqlite_would_read_as_a_query() {
        assert_eq!(uri(Path::new("a b/c?d#e%.db"), "mode=ro"), "file:a%20b/c%3Fd%23e%25.db?mode=ro");
    }
}
