//! A database's file and its companions, told apart by `lstat` alone.
//!
//! It must not open anything: a FIFO would hang, and closing a file drops this process's locks on it.

use std::fs::Metadata;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, ErrorKind, Result};

/// The files that SQLite puts beside a database, by the ends of their names.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The longest time between two ticks of a kernel's clock for file times.
const TICK: Duration = Duration::from_millis(20);
/// The same for file systems that keep whole seconds, or every second one.
const COARSE_TICK: Duration = Duration::from_millis(2_100);

/// The companion of a database's file.
pub(super) fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file as SQLite's URI, with a query.
pub(super) fn uri(path: &Path, query: &str) -> String {
    let escape = |&byte: &u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let path: String = path.as_os_str().as_bytes().iter().map(escape).collect();
    format!("file:{path}?{query}")
}

/// Why something that stands where a database should be is none; `None` for a file that may be one.
pub(super) fn oddity(metadata: &Metadata) -> Option<&'static str> {
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

/// The metadata of a file that may be a database, or why it can't be one.
pub(super) fn require_database(path: &Path) -> Result<Metadata> {
    let metadata = path.symlink_metadata().map_err(|error| match error.kind() {
        IoErrorKind::NotFound => Error::new(ErrorKind::NotFound, "it does not exist")
            .with_hint("see which there are: tenantry list; or make it: tenantry create ID"),
        _ => Error::io("look at", path, error),
    })?;
    match oddity(&metadata) {
        None => Ok(metadata),
        Some(oddity) => Err(Error::new(ErrorKind::NotAProject, format!("it is {oddity}"))
            .with_hint("tenantry leaves it alone; put the project's own database there, or remove it")),
    }
}

/// What `stat` says of a database and its companions; equal before and after a read when nothing was written between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    main: Stat,
    /// The size of `-wal`, where there is one.
    pub(super) wal: Option<u64>,
    /// Whether there is a `-shm`.
    pub(super) shm: bool,
    /// Whether there is a `-journal`.
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

    /// Whether a write since this signature was taken would show in the next one: the last write is at least one
    /// tick of the clock ago.
    pub(super) fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.main.modified;
        let (Ok(seconds), Ok(fraction)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return false;
        };
        let modified = SystemTime::UNIX_EPOCH + Duration::new(seconds, fraction);
        let tick = if fraction == 0 { COARSE_TICK } else { TICK };
        // A time in the future is no clock's of now: the next write changes it.
        SystemTime::now().duration_since(modified).map_or(true, |age| age > tick)
    }
}

fn size_of(path: &Path) -> Result<Option<u64>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path, error)),
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
        assert!(!Signature::of(&path).unwrap().is_settled());
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(5)).unwrap();
        let before = Signature::of(&path).unwrap();
        assert!(before.is_settled());
        std::fs::write(&path, "y").unwrap();
        assert_ne!(before, Signature::of(&path).unwrap());
    }

    #[test]
    fn a_uri_escapes_what_sqlite_would_read_as_a_query() {
        assert_eq!(uri(Path::new("a b/c?d#e%.db"), "mode=ro"), "file:a%20b/c%3Fd%23e%25.db?mode=ro");
    }
}
