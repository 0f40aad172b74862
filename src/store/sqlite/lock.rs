//! Finds who holds a database's write lock, without opening the file or taking a lock.
//!
//! On Linux the kernel lists all locks in `/proc/locks`. Elsewhere nothing is found.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::file::companion;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};

/// The bytes of a database file that a writer locks: SQLite's pending and reserved byte, and the bytes that readers share.
const WRITER: std::ops::RangeInclusive<u64> = 0x4000_0000..=0x4000_01ff;
/// The byte of the file `-shm` that a writer locks if the database has a write-ahead log.
const WAL_WRITER: std::ops::RangeInclusive<u64> = 120..=120;

/// Fails if another process holds the write lock for this long.
pub(super) fn require_unlocked(path: &Path, timeout: Duration) -> Result<()> {
    if writer_in(&recent_locks(), path).is_none() {
        return Ok(());
    }
    let deadline = Instant::now() + timeout;
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    while let Some(process) = writer_in(&locks(), path) {
        if Instant::now() >= deadline {
            let message = format!("the process {process} holds its write lock");
            return Err(Error::new(ErrorKind::Locked, message)
                .with_hint("wait until it has committed, or stop it, and run the command again"));
        }
        backoff.sleep();
    }
    Ok(())
}

/// For how long a list of locks is used. While the kernel writes one, no process can lock or unlock a file.
const LIFETIME: Duration = Duration::from_millis(200);

/// The locks of this moment, or of a moment ago.
fn recent_locks() -> Arc<str> {
    static RECENT: Mutex<Option<(Instant, Arc<str>)>> = Mutex::new(None);
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    match &*recent {
        Some((read_at, locks)) if read_at.elapsed() < LIFETIME => Arc::clone(locks),
        _ => {
            let locks: Arc<str> = locks().into();
            *recent = Some((Instant::now(), Arc::clone(&locks)));
            locks
        }
    }
}

/// How often the list is read. The kernel may leave a lock out of a list that changes while it is read.
const READS: usize = 3;

/// The kernel's list of locks. Empty if there is none.
fn locks() -> String {
    (0..READS).filter_map(|_| read_locks().ok()).collect()
}

/// Reads the list in large pieces, so that little changes in between.
fn read_locks() -> std::io::Result<String> {
    let mut file = std::fs::File::open("/proc/locks")?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// The process that holds a database's write lock.
fn writer_in(locks: &str, path: &Path) -> Option<u32> {
    let holder = |path: &Path, bytes: &std::ops::RangeInclusive<u64>| {
        let metadata = path.symlink_metadata().ok()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
        locks.lines().find_map(|line| holder_in(line, &file, bytes))
    };
    holder(path, &WRITER).or_else(|| holder(&companion(path, "-shm"), &WAL_WRITER))
}

/// The process of a line such as `1: POSIX  ADVISORY  WRITE 123 fe:01:456 1073741825 1073741825`, if it is another one that
/// locks one of these bytes for writing.
fn holder_in(line: &str, file: &str, bytes: &std::ops::RangeInclusive<u64>) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, "WRITE", process, its_file, first, last] = words.as_slice() else { return None };
    let process = process.parse().ok()?;
    let first: u64 = first.parse().ok()?;
    let last = if *last == "EOF" { u64::MAX } else { last.parse().ok()? };
    let overlaps = first <= *bytes.end() && last >= *bytes.start();
    (*its_file == file && overlaps && process != std::process::id()).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::{WRITER, holder_in};

    #[test]
    fn only_another_process_write_lock_on_the_writers_bytes_counts() {
        let holder = |line: &str| holder_in(line, "fe:01:456", &WRITER);
        assert_eq!(holder("1: POSIX  ADVISORY  WRITE 123 fe:01:456 1073741825 1073741825"), Some(123));
        assert_eq!(holder("1: OFDLCK ADVISORY  WRITE 123 fe:01:456 0 EOF"), Some(123));
        for line in [
            "1: POSIX  ADVISORY  READ 123 fe:01:456 1073741825 1073741825",
            "1: POSIX  ADVISORY  WRITE 123 fe:01:457 1073741825 1073741825",
            "1: POSIX  ADVISORY  WRITE 123 fe:01:456 120 120",
            "1: -> POSIX  ADVISORY  WRITE 123 fe:01:456 1073741825 1073741825",
            "",
        ] {
            assert_eq!(holder(line), None, "{line}");
        }
        let own = format!("1: POSIX  ADVISORY  WRITE {} fe:01:456 1073741825 1073741825", std::process::id());
        assert_eq!(holder(&own), None);
    }
}
