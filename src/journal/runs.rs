//! The records of runs: the events of each, in order.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::storage::{OpenRecord, RecordLock};
use super::{Journal, Json};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;

/// The record of a run in progress.
pub(crate) struct RunRecord {
    record: Box<dyn OpenRecord>,
    /// The first event that could not be written.
    failure: Option<Error>,
}

/// A run whose process died before the run ended.
pub(crate) struct OrphanedRun {
    pub(crate) run: String,
    /// Held, so that only one process completes the record.
    #[expect(dead_code, reason = "held for what it locks, never read")]
    lock: RecordLock,
}

#[derive(Serialize)]
struct Line<'a, T> {
    v: u8,
    #[serde(flatten)]
    event: &'a T,
}

fn line(event: &impl Serialize) -> Result<String> {
    serde_json::to_string(&Line { v: 1, event })
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot serialize an event").caused_by(error))
}

impl RunRecord {
    /// Writes an event. Returns `false` if this or an earlier event could not be written; then no further project may
    /// be started.
    pub(crate) fn event(&mut self, event: &impl Serialize) -> bool {
        if self.failure.is_none() {
            self.failure = line(event).and_then(|line| self.record.append(&line)).err();
        }
        self.failure.is_none()
    }

    /// Whether another process may have taken the run over. Then nothing more may be recorded.
    pub(crate) fn is_lost(&self) -> bool {
        self.record.is_lost()
    }

    /// Makes the events durable. Returns the first error of writing one. The run counts as in progress until this record is
    /// dropped.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let result = match self.failure.take() {
            Some(error) => Err(error),
            None => self.record.sync(),
        };
        result.map_err(|error| {
            error.with_hint("completed changes remain, and the projects' ledgers record them")
        })
    }
}

impl Journal {
    /// Creates the record of a run. Reserves space for the events of `projects` projects, if the storage can, so that a disk
    /// that fills up during the run loses none of them.
    pub(crate) fn record(&self, run_id: &str, projects: usize) -> Result<RunRecord> {
        let record = self.storage.create_record(valid(run_id)?, projects)?;
        Ok(RunRecord { record, failure: None })
    }

    /// Opens the record of a run that has ended, to go on with it. Reserves space as [`Journal::record`] does.
    ///
    /// Fails with [`ErrorKind::Locked`] if a process has the run in progress.
    pub(crate) fn reopen_record(&self, run_id: &str, projects: usize) -> Result<RunRecord> {
        let record = self.storage.reopen_record(valid(run_id)?, projects)?;
        Ok(RunRecord { record, failure: None })
    }

    /// Returns the runs that did not end and whose process is dead. Each is locked until it is dropped, so that no
    /// other process completes its record.
    pub(crate) fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>> {
        let orphans = self.storage.orphans()?;
        Ok(orphans.into_iter().map(|(run, lock)| OrphanedRun { run, lock }).collect())
    }

    /// Whether a run is in progress, or was killed and its record is not completed yet.
    pub fn is_open(&self, run_id: &str) -> Result<bool> {
        self.storage.is_open(valid(run_id)?)
    }

    /// Adds an event to a killed run's record.
    pub(crate) fn append_event(&self, run_id: &str, event: &impl Serialize) -> Result<()> {
        self.storage.append_event(valid(run_id)?, &line(event)?)
    }

    /// Marks a run as ended, or its record as completed.
    pub(crate) fn close(&self, run_id: &str) -> Result<()> {
        self.storage.close(valid(run_id)?)
    }

    /// Returns the size of a run's events in bytes and their SHA-256 in hexadecimal; of the first `size` bytes if it is
    /// given. `None` if they do not exist.
    pub(crate) fn hash_of_events(&self, run_id: &str, size: Option<u64>) -> Result<Option<(usize, String)>> {
        let Some(bytes) = self.storage.read_record(valid(run_id)?)? else { return Ok(None) };
        let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(bytes.len()).min(bytes.len());
        Ok(Some((size, hexadecimal(&Sha256::digest(&bytes[..size])))))
    }

    /// Removes the events of a run. Does nothing if they do not exist.
    pub(crate) fn remove_events(&self, run_id: &str) -> Result<()> {
        self.storage.remove_record(valid(run_id)?)
    }

    /// Returns the events of a run, in order. Skips a line that a power cut left incomplete.
    ///
    /// Returns `NotFound` if the run does not exist.
    pub fn events(&self, run_id: &str) -> Result<Vec<Json>> {
        let bytes = self.storage.read_record(valid(run_id)?)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("run {run_id} does not exist"))
                .with_hint("to see the ids: tenantry runs list")
        })?;
        Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// Fails if a text is not the id of a run, since the id becomes part of a file's name.
fn valid(run_id: &str) -> Result<&str> {
    match uuid::Uuid::parse_str(run_id) {
        Ok(_) => Ok(run_id),
        Err(_) => Err(Error::new(ErrorKind::Usage, format!("{run_id:?} is not the id of a run"))
            .with_hint("to see the ids: tenantry runs list")),
    }
}
