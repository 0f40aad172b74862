//! The journal: what changed a fleet, as a chain of entries of which each has the hash of the one before it.
//!
//! It must not say more than is durable: an entry is on the disk before whatever it reports is called done. It can't keep
//! whoever may write the file from writing a new one; an anchor kept elsewhere shows that.

mod entry;
pub(crate) mod runs;
mod verify;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::disk::{make_private, sync_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::time::Moment;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use entry::{NOTHING, Text, parse, seal};

pub(crate) use entry::NewEntry;
pub use entry::{Anchor, Entry, Json};
pub use verify::ChainCheck;

const FILE: &str = "journal.jsonl";
/// The longest entry that is read back.
const MAX_ENTRY: u64 = 16 << 20;
/// How much room is kept for the entry of a run's end, in bytes.
const ROOM_FOR_END: u64 = 8 << 10;

/// A fleet's journal, in a folder.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
    actor: String,
}

impl Journal {
    /// The journal in a folder, which is made when something is first written.
    pub fn new(directory: impl Into<PathBuf>, actor: impl Into<String>) -> Self {
        Self { directory: directory.into(), actor: actor.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.directory
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Writes an entry, durably. Errors where that is not possible: then nothing was written.
    pub(crate) fn append(&self, new: &NewEntry<'_>) -> Result<Entry> {
        make_private(&self.directory)?;
        let is_new = !self.path().exists();
        let (mut file, last) = self.repaired(true)?;
        let entry = self.write(&mut file, last.as_ref(), new)?;
        if is_new {
            sync_directory(&self.directory)?;
        }
        Ok(entry)
    }

    /// Cuts off what a killed process left of an entry, and says so in one: what follows the chain needs whole ones.
    pub(crate) fn repair(&self) -> Result<()> {
        if self.path().exists() {
            self.repaired(false)?;
        }
        Ok(())
    }

    /// The journal's file, locked, whose last entry is whole.
    fn repaired(&self, create: bool) -> Result<(File, Option<Entry>)> {
        let path = self.path();
        let mut file = self.locked(create).map_err(|error| Error::io("write", &path, error))?;
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

    /// The journal's file, which nobody else writes or replaces as long as it is open.
    fn locked(&self, create: bool) -> std::io::Result<File> {
        let path = self.path();
        loop {
            let file = OpenOptions::new().read(true).append(true).create(create).mode(0o600).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            // While this waited, pruning may have put another one in its place.
            let (held, there) = (file.metadata()?, std::fs::metadata(&path));
            if there.is_ok_and(|there| (held.dev(), held.ino()) == (there.dev(), there.ino())) {
                return Ok(file);
            }
        }
    }

    fn write(&self, file: &mut File, last: Option<&Entry>, new: &NewEntry<'_>) -> Result<Entry> {
        let path = self.path();
        let failed = |error: std::io::Error| {
            Error::io("write", &path, error).with_hint(
                "make room, or name another [journal] dir; what was done is in the projects' ledgers",
            )
        };
        let previous = last.map_or(NOTHING, Entry::link);
        let text = Text {
            seq: last.map_or(1, |last| last.seq + 1),
            at: Moment::now(),
            actor: &self.actor,
            kind: new.kind,
            command: new.command,
            project: new.project,
            run: new.run,
            payload: &new.payload,
            previous,
        };
        let mut line = seal(&text)?;
        if line.len() as u64 > MAX_ENTRY {
            // Nobody could read it again.
            let bytes = line.len();
            let payload =
                serde_json::json!({ "too_large": bytes, "sha256": hexadecimal(&Sha256::digest(&line)) });
            line = seal(&Text { payload: &payload, ..text })?;
        }
        let end = file.metadata().map_err(failed)?.len();
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        // Its end has to fit as well.
        let written = written.and_then(|()| {
            if new.kind == "run_started" { runs::keep_room(file, ROOM_FOR_END) } else { Ok(()) }
        });
        if let Err(error) = written {
            // Half a line helps nobody; where it can't be cut off, the next entry says that it was torn.
            let _ = file.set_len(end);
            return Err(failed(error));
        }
        parse(line.trim_end())
    }

    /// The last whole entry; what a killed process left of one after it is cut off, and how long that was is said.
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
            let whole = match (start, end) {
                (Some(start), Some(end)) => Some(&bytes[start + 1..end]),
                (None, Some(end)) if from == 0 => Some(&bytes[..end]),
                (None, None) if from == 0 => None,
                _ if size > MAX_ENTRY => return Err(broken(&path, "its last entry has no beginning")),
                _ => {
                    size *= 4;
                    continue;
                }
            };
            let torn = bytes.len() as u64 - end.map_or(0, |end| end as u64 + 1);
            let last = whole.map(|line| {
                std::str::from_utf8(line).map_err(|_| broken(&path, "its last entry is no text"))
            });
            let last = last.transpose()?.map(parse).transpose().map_err(|error| {
                broken(&path, &format!("its last entry is not as it was written: {}", error.summary()))
            })?;
            if torn > 0 {
                file.set_len(length - torn).map_err(failed)?;
            }
            return Ok((last, torn));
        }
    }
}

/// Who runs this process: `TENANTRY_ACTOR` where it is set, else the user and the machine.
#[must_use]
pub fn current_actor() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("TENANTRY_ACTOR").or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = user.unwrap_or_else(|| "somebody".into());
    if host.trim().is_empty() { user } else { format!("{user}@{}", host.trim()) }
}

fn broken(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::CheckFailed, format!("the journal does not hold: {what}"))
        .at(path, None)
        .with_hint("keep the file as it is for whoever looks into it, and compare it with a copy")
}
