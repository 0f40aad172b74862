//! The journal of a fleet: a hash chain with an entry for every change. Each entry has the hash of the one before it.
//!
//! An entry is on disk before the change that it records is reported as done. A user who may write the journal can replace
//! the whole chain; comparing it with an anchor that is kept elsewhere detects that.

#[cfg(feature = "postgres")]
mod database;
mod entry;
mod folder;
mod group;
pub(crate) mod runs;
mod storage;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::time::Timestamp;
use entry::{NO_HASH, UnsealedEntry, parse, seal};
use folder::Folder;
use storage::{Create, Storage};

pub(crate) use entry::NewEntry;
pub use entry::{Anchor, Entry, Json};
pub use group::{MergedReport, ShardReport};
pub use verify::ChainCheck;

/// The space that is reserved for the last entry of a run, in bytes.
const RESERVE_FOR_END: u64 = 8 << 10;
/// The longest entry that can be read back, in bytes.
const MAX_ENTRY: u64 = 16 << 20;

/// The journal of a fleet, in a folder or in a Postgres database.
#[derive(Clone)]
pub struct Journal {
    storage: Arc<dyn Storage>,
    actor: String,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({})", self.location())
    }
}

impl Journal {
    /// Creates a journal in a folder. The folder is created when the first entry is written.
    ///
    /// `actor` is the user that entries name.
    pub fn new(directory: impl Into<PathBuf>, actor: impl Into<String>) -> Self {
        Self { storage: Arc::new(Folder(directory.into())), actor: actor.into() }
    }

    /// Creates a journal in the schema `tenantry_journal` of a Postgres database. The schema is created when the first entry
    /// is written. A lost connection is opened again for `reconnect_timeout`.
    ///
    /// Fails with [`ErrorKind::Configuration`] if the URL is invalid. Does not connect.
    #[cfg(feature = "postgres")]
    pub fn in_database(
        url: &str,
        actor: impl Into<String>,
        reconnect_timeout: std::time::Duration,
    ) -> Result<Self> {
        let storage = Arc::new(database::Database::new(url, reconnect_timeout)?);
        Ok(Self { storage, actor: actor.into() })
    }

    /// Returns the folder or the database, without a password.
    #[must_use]
    pub fn location(&self) -> String {
        self.storage.location()
    }

    /// Appends an entry durably. If this fails, the entry may have been written, but is not reported as done.
    pub(crate) fn append(&self, new: &NewEntry<'_>) -> Result<()> {
        self.append_after_repair(Create::Missing, Some(new))
    }

    /// Cuts off an incomplete entry that a killed process left, and appends an entry that says so. Verifying the chain
    /// requires complete entries.
    pub(crate) fn repair(&self) -> Result<()> {
        self.append_after_repair(Create::Existing, None)
    }

    fn append_after_repair(&self, create: Create, new: Option<&NewEntry<'_>>) -> Result<()> {
        // The entry of a run's end must fit too.
        let begins_run = new.is_some_and(|new| matches!(new.kind, "run_started" | "run_resumed"));
        let reserve = if begins_run { RESERVE_FOR_END } else { 0 };
        self.storage.append(create, reserve, &mut |last, torn| {
            let mut last = last.map(|line| self.parse_last(line)).transpose()?;
            let mut lines = Vec::new();
            let torn = (torn > 0).then(|| NewEntry {
                kind: "torn",
                command: "",
                project: None,
                run: None,
                payload: serde_json::json!({ "bytes": torn }),
            });
            for new in torn.iter().chain(new) {
                let line = self.seal(last.as_ref(), new)?;
                last = Some(parse(&line)?);
                lines.push(line);
            }
            Ok(lines)
        })
    }

    fn parse_last(&self, line: &[u8]) -> Result<Entry> {
        let location = self.location();
        let line = std::str::from_utf8(line).map_err(|_| broken(&location, "the last entry is not UTF-8"))?;
        parse(line)
            .map_err(|error| broken(&location, &format!("the last entry is invalid: {}", error.summary())))
    }

    /// Returns the line of the entry that follows `last`.
    fn seal(&self, last: Option<&Entry>, new: &NewEntry<'_>) -> Result<String> {
        let unsealed = UnsealedEntry {
            seq: last.map_or(1, |last| last.seq + 1),
            at: Timestamp::now(),
            actor: &self.actor,
            kind: new.kind,
            command: new.command,
            project: new.project,
            run: new.run,
            payload: &new.payload,
            previous: last.map_or(NO_HASH, Entry::chain_hash),
        };
        let line = seal(&unsealed)?;
        if line.len() as u64 <= MAX_ENTRY {
            return Ok(line);
        }
        // The entry could not be read back. It is replaced by its size and hash.
        let payload =
            serde_json::json!({ "too_large": line.len(), "sha256": hexadecimal(&Sha256::digest(&line)) });
        seal(&UnsealedEntry { payload: &payload, ..unsealed })
    }

    /// Copies a journal, with the records of its runs, into this one, which must be empty. The chain stays as it is.
    ///
    /// Fails with [`ErrorKind::AlreadyExists`] if this journal has entries, and with [`ErrorKind::CheckFailed`] if the other
    /// one is damaged.
    pub fn import(&self, other: &Self) -> Result<u64> {
        let has_lines = |journal: &Self| journal.for_each_entry(|_| ()).map(|chain| chain.is_some());
        if has_lines(self)? {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{} has entries", self.location()))
                .with_hint(
                    "a journal can be copied only into an empty one, since its chain has one beginning",
                ));
        }
        if other.verify(None)?.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no journal in {}", other.location()),
            ));
        }
        let (mut lines, mut runs) = (Vec::new(), Vec::new());
        other.storage.for_each_line(&mut |_, line, _| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })?;
        other.for_each_entry(|entry| runs.extend(entry.run))?;
        runs.sort();
        runs.dedup();
        for run in &runs {
            if other.is_open(run)? {
                return Err(Error::new(ErrorKind::Locked, format!("the run {run} has not ended")).with_hint(
                    "wait for its end; if it was killed, run any command that changes something with the old journal first",
                ));
            }
        }
        for run in &runs {
            if let Some(bytes) = other.storage.read_record(run)? {
                self.storage.write_record(run, &bytes)?;
            }
        }
        let count = lines.len() as u64;
        self.storage.append(Create::Missing, 0, &mut |last, _| match last {
            None => Ok(lines.clone()),
            Some(_) => Err(Error::new(ErrorKind::AlreadyExists, format!("{} has entries", self.location()))
                .with_hint(
                    "a journal can be copied only into an empty one, since its chain has one beginning",
                )),
        })?;
        self.verify(None)?;
        Ok(count)
    }
}

/// The error for a run that a process has in progress.
fn in_progress(run: &str) -> Error {
    Error::new(ErrorKind::Locked, format!("the run {run} is in progress"))
        .with_hint("wait for its end, or interrupt it")
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

fn broken(location: &str, what: &str) -> Error {
    Error::new(ErrorKind::CheckFailed, format!("the journal is damaged: {what}"))
        .at(location, None)
        .with_hint("keep it unchanged for the investigation, and compare it with a copy; to work on meanwhile, rename the journal's \
             folder or schema: the next command begins a new one")
}
