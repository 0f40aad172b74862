//! The journal of a fleet: a hash chain with an entry for every change. Each entry has the hash of the one before it.
//!
//! An entry is on disk before the change that it records is reported as done. A user who may write the file can replace
//! the whole chain; comparing it with an anchor that is kept elsewhere detects that.

mod entry;
mod group;
pub(crate) mod runs;
mod verify;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::disk::{make_private, sync_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::time::Timestamp;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use entry::{NO_HASH, UnsealedEntry, parse, seal};

pub(crate) use entry::NewEntry;
pub use entry::{Anchor, Entry, Json};
pub use group::{MergedReport, ShardReport};
pub use verify::ChainCheck;

const FILE: &str = "journal.jsonl";
/// The longest entry that can be read back, in bytes.
const MAX_ENTRY: u64 = 16 << 20;
/// The disk space that is reserved for the last entry of a run, in bytes.
const RESERVE_FOR_END: u64 = 8 << 10;

/// The journal of a fleet, in a folder.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
    actor: String,
}

impl Journal {
    /// Creates a journal in a folder. The folder is created when the first entry is written.
    ///
    /// `actor` is the user that entries name.
    pub fn new(directory: impl Into<PathBuf>, actor: impl Into<String>) -> Self {
        Self { directory: directory.into(), actor: actor.into() }
    }

    /// Returns the folder.
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.directory
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Appends an entry durably. If this fails, the entry may have been written, but is not reported as done.
    pub(crate) fn append(&self, new: &NewEntry<'_>) -> Result<Entry> {
        make_private(&self.directory)?;
        let is_new = !self.path().exists();
        let (mut file, last) = self.open_repaired(true)?;
        let entry = self.write(&mut file, last.as_ref(), new)?;
        if is_new {
            sync_directory(&self.directory)?;
        }
        Ok(entry)
    }

    /// Cuts off an incomplete entry that a killed process left, and appends an entry that says so. Verifying the chain
    /// requires complete entries.
    pub(crate) fn repair(&self) -> Result<()> {
        if self.path().exists() {
            self.open_repaired(false)?;
        }
        Ok(())
    }

    /// Opens and locks the journal's file, and repairs its end. Returns the last entry.
    fn open_repaired(&self, create: bool) -> Result<(File, Option<Entry>)> {
        let path = self.path();
        let mut file = self.open_locked(create).map_err(|error| Error::io("write", &path, error))?;
        let (mut last, torn) = self.tail(&mut file)?;
        if torn > 0 {
            let new = NewEntry {
                kind: "torn",
                command: "",
                project: None,
                run: None,
                payload: serde_json::json!({ "bytes": torn }),
            };
            last = Some(self.write(&mut file, last.as_ref(), &new)?);
        }
        Ok((file, last))
    }

    /// Opens and locks the journal's file. No other process writes or replaces it while it is open.
    fn open_locked(&self, create: bool) -> std::io::Result<File> {
        let path = self.path();
        loop {
            let file = OpenOptions::new().read(true).append(true).create(create).mode(0o600).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            // Pruning may have replaced the file while this process waited for the lock.
            let (locked, current) = (file.metadata()?, std::fs::metadata(&path));
            if current.is_ok_and(|current| (locked.dev(), locked.ino()) == (current.dev(), current.ino())) {
                return Ok(file);
            }
        }
    }

    fn write(&self, file: &mut File, last: Option<&Entry>, new: &NewEntry<'_>) -> Result<Entry> {
        let path = self.path();
        let failed = |error: std::io::Error| {
            Error::io("write", &path, error).with_hint(
                "free disk space, or set another [journal] dir; the projects' ledgers record what was done",
            )
        };
        let previous = last.map_or(NO_HASH, Entry::chain_hash);
        let unsealed = UnsealedEntry {
            seq: last.map_or(1, |last| last.seq + 1),
            at: Timestamp::now(),
            actor: &self.actor,
            kind: new.kind,
            command: new.command,
            project: new.project,
            run: new.run,
            payload: &new.payload,
            previous,
        };
        let mut line = seal(&unsealed)?;
        if line.len() as u64 > MAX_ENTRY {
            // The entry could not be read back. It is replaced by its size and hash.
            let bytes = line.len();
            let payload =
                serde_json::json!({ "too_large": bytes, "sha256": hexadecimal(&Sha256::digest(&line)) });
            line = seal(&UnsealedEntry { payload: &payload, ..unsealed })?;
        }
        let end = file.metadata().map_err(failed)?.len();
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        // The entry of the run's end must fit too.
        let written = written.and_then(|()| {
            if new.kind == "run_started" { runs::reserve_space(file, RESERVE_FOR_END) } else { Ok(()) }
        });
        if let Err(error) = written {
            // Removes the partial line. If that fails, the next writer cuts it off and records that.
            let _ = file.set_len(end);
            return Err(failed(error));
        }
        parse(line.trim_end())
    }

    /// Returns the last complete entry. Cuts off an incomplete one after it, which a killed process left, and returns
    /// its length in bytes.
    fn tail(&self, file: &mut File) -> Result<(Option<Entry>, u64)> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("read", &path, error);
        let length = file.metadata().map_err(failed)?.len();
        let mut size = 4096_u64;
        loop {
            let from = length.saturating_sub(size);
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            let mut bytes = Vec::new();
            file.take(size).read_to_end(&mut bytes).map_err(failed)?;
            let end = bytes.iter().rposition(|&byte| byte == b'\n');
            let start = end.and_then(|end| bytes[..end].iter().rposition(|&byte| byte == b'\n'));
            let complete = match (start, end) {
                (Some(start), Some(end)) => Some(&bytes[start + 1..end]),
                (None, Some(end)) if from == 0 => Some(&bytes[..end]),
                (None, None) if from == 0 => None,
                _ if size > MAX_ENTRY => return Err(broken(&path, "the start of the last entry is missing")),
                _ => {
                    size *= 4;
                    continue;
                }
            };
            let torn = bytes.len() as u64 - end.map_or(0, |end| end as u64 + 1);
            let last = complete.map(|line| {
                std::str::from_utf8(line).map_err(|_| broken(&path, "the last entry is not UTF-8"))
            });
            let last =
                last.transpose()?.map(parse).transpose().map_err(|error| {
                    broken(&path, &format!("the last entry is invalid: {}", error.summary()))
                })?;
            if torn > 0 {
                file.set_len(length - torn).map_err(failed)?;
            }
            return Ok((last, torn));
        }
    }
}

/// Returns the user that runs this process: `TENANTRY_ACTOR` or the login name, and the host name.
#[must_use]
pub fn current_actor() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("TENANTRY_ACTOR").or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = user.unwrap_or_else(|| "somebody".into());
    if host.trim().is_empty() { user } else { format!("{user}@{}", host.trim()) }
}

fn broken(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::CheckFailed, format!("the journal is damaged: {what}"))
        .at(path, None)
        .with_hint("keep the file unchanged for the investigation, and compare it with a copy; to work on meanwhile, move the journal's \
             folder elsewhere: the next command begins a new one")
}
