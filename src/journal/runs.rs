//! The records of runs: one file per run, with its events in order.
//!
//! A killed process loses no event. A power cut may lose the last ones; the projects' ledgers still record the changes.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Journal, Json};
use crate::disk::{make_private, sync_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;

const FOLDER: &str = "runs";
const EVENTS: &str = "jsonl";
/// The extension of the lock file of a run that has not ended. The process that runs it holds the lock.
const OPEN: &str = "open";

/// The record of a run in progress.
pub(crate) struct RunRecord {
    events: File,
    path: PathBuf,
    /// The lock file, locked while this process lives.
    #[expect(dead_code, reason = "held for its lock, never read")]
    lock: File,
    /// The first event that could not be written.
    failure: Option<std::io::Error>,
}

/// The disk space that is reserved for the events of a run, in bytes.
const RESERVE_FOR_RUN: u64 = 16 << 10;
/// The disk space that is reserved for the event of each project, in bytes.
const RESERVE_FOR_PROJECT: u64 = 768;

/// Reserves disk space after the end of a file. Does nothing on file systems that do not support it.
pub(super) fn reserve_space(file: &File, bytes: u64) -> std::io::Result<()> {
    let end = file.metadata()?.len();
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, end, bytes) {
        Err(error) if [Errno::NOSPC, Errno::DQUOT, Errno::FBIG, Errno::IO].contains(&error) => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// Ends the last line of a record, which a power cut may have left incomplete. It stays a line by itself, which readers skip.
fn complete_last_line(file: &mut File) -> std::io::Result<()> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
}

/// A run whose process died before the run ended.
pub(crate) struct OrphanedRun {
    pub(crate) run: String,
    /// Held, so that only one process completes the record.
    #[expect(dead_code, reason = "held for its lock, never read")]
    lock: File,
}

#[derive(Serialize)]
struct Line<'a, T> {
    v: u8,
    #[serde(flatten)]
    event: &'a T,
}

impl RunRecord {
    /// Writes an event. Returns `false` if this or an earlier event could not be written; then no further project may
    /// be started.
    pub(crate) fn event(&mut self, event: &impl Serialize) -> bool {
        let text = serde_json::to_string(&Line { v: 1, event }).map_err(std::io::Error::from);
        let written = text.and_then(|text| self.events.write_all(format!("{text}\n").as_bytes()));
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
        self.failure.is_none()
    }

    /// Syncs the events to disk. Returns the first error of writing one. The run counts as in progress until this
    /// record is dropped.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let failed = |error| {
            Error::io("write", &self.path, error)
                .with_hint("completed changes remain, and the projects' ledgers record them")
        };
        match self.failure.take() {
            Some(error) => Err(failed(error)),
            None => self.events.sync_data().map_err(failed),
        }
    }
}

impl Journal {
    fn runs_folder(&self) -> PathBuf {
        self.location().join(FOLDER)
    }

    /// Returns the path of a run's events. Fails if `run` is not a UUID, since it becomes part of a file name.
    fn run_path(&self, run_id: &str) -> Result<PathBuf> {
        if uuid::Uuid::parse_str(run_id).is_err() {
            return Err(Error::new(ErrorKind::Usage, format!("{run_id:?} is not the id of a run"))
                .with_hint("to see the ids: tenantry runs list"));
        }
        Ok(self.runs_folder().join(format!("{run_id}.{EVENTS}")))
    }

    /// Creates the record of a run. Reserves disk space for the events of `projects` projects, so that a disk that
    /// fills up during the run loses none of them.
    pub(crate) fn record(&self, run_id: &str, projects: usize) -> Result<RunRecord> {
        let folder = self.runs_folder();
        make_private(&folder)?;
        let path = self.run_path(run_id)?;
        let create = |path: &Path| {
            OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).map_err(|error| {
                Error::io("create", path, error).with_hint("nothing is changed without a journal")
            })
        };
        let new = path.with_extension("new");
        let lock = create(&new)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| Error::io("lock", &new, error.into()))?;
        let events = create(&path)?;
        if let Err(error) = reserve_space(&events, RESERVE_FOR_RUN + RESERVE_FOR_PROJECT * projects as u64) {
            // The run was not started, so it must not be taken for a killed one.
            drop((std::fs::remove_file(&new), std::fs::remove_file(&path)));
            return Err(Error::io("reserve space for", &path, error).with_hint(
                "free disk space, or set another [journal] dir; nothing is changed without a journal",
            ));
        }
        // The lock file gets its name after it is locked, since an unlocked one means a killed run.
        std::fs::rename(&new, path.with_extension(OPEN)).map_err(|error| Error::io("rename", &new, error))?;
        sync_directory(&folder)?;
        Ok(RunRecord { events, path, lock, failure: None })
    }

    /// Opens the record of a run that has ended, to go on with it. Reserves disk space as [`Journal::record`] does.
    ///
    /// Fails with [`ErrorKind::Locked`] if a process has the run in progress.
    pub(crate) fn reopen_record(&self, run_id: &str, projects: usize) -> Result<RunRecord> {
        let (path, folder) = (self.run_path(run_id)?, self.runs_folder());
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let mut new = tempfile::Builder::new();
        let new = new.prefix(run_id).suffix(".new").tempfile_in(&folder).map_err(failed)?;
        flock(&new, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let lock =
            new.persist_noclobber(path.with_extension(OPEN)).map_err(|error| match error.error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Error::new(ErrorKind::Locked, format!("the run {run_id} is in progress"))
                        .with_hint("wait for its end, or interrupt it")
                }
                _ => failed(error.error),
            })?;
        let open = || {
            let mut events = OpenOptions::new().read(true).append(true).open(&path)?;
            complete_last_line(&mut events)?;
            reserve_space(&events, RESERVE_FOR_RUN + RESERVE_FOR_PROJECT * projects as u64)?;
            Ok(events)
        };
        match open() {
            Ok(events) => Ok(RunRecord { events, path, lock, failure: None }),
            Err(error) => {
                self.close(run_id)?;
                Err(failed(error))
            }
        }
    }

    /// Returns the runs that did not end and whose process is dead. Each is locked until it is dropped, so that no
    /// other process completes its record.
    pub(crate) fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>> {
        let folder = self.runs_folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", &folder, error)),
        };
        let mut killed = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| Error::io("list", &folder, error))?.path();
            let run = path.file_stem().and_then(|stem| stem.to_str()).map(String::from);
            let (Some(run), true) = (run, path.extension().is_some_and(|it| it == OPEN)) else { continue };
            // A run that ended meanwhile has no lock file any more.
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
                killed.push(OrphanedRun { run, lock: file });
            }
        }
        killed.sort_by(|a, b| a.run.cmp(&b.run));
        Ok(killed)
    }

    /// Whether a run is in progress, or was killed and its record is not completed yet.
    #[must_use]
    pub fn is_open(&self, run_id: &str) -> bool {
        self.run_path(run_id).is_ok_and(|path| path.with_extension(OPEN).exists())
    }

    /// Adds an event to a killed run's record.
    pub(crate) fn append_event(&self, run_id: &str, event: &impl Serialize) -> Result<()> {
        let path = self.run_path(run_id)?;
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let mut text = serde_json::to_string(&Line { v: 1, event })
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot serialize an event").caused_by(error))?;
        text.push('\n');
        let write = || {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
            complete_last_line(&mut file)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        write().map_err(failed)
    }

    /// Marks a run as ended, or its record as completed.
    pub(crate) fn close(&self, run_id: &str) -> Result<()> {
        let lock = self.run_path(run_id)?.with_extension(OPEN);
        match std::fs::remove_file(&lock) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &lock, error))
            }
            _ => sync_directory(&self.runs_folder()),
        }
    }

    /// Returns the size of a run's events in bytes; `None` if they do not exist.
    pub(crate) fn size_of_events(&self, run_id: &str) -> Result<Option<u64>> {
        let path = self.run_path(run_id)?;
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Returns the SHA-256 of the first `size` bytes of a run's events, or of all, in hexadecimal; `None` if they do not exist.
    pub(crate) fn hash_of_events(&self, run_id: &str, size: Option<u64>) -> Result<Option<String>> {
        let path = self.run_path(run_id)?;
        match std::fs::read(&path) {
            Ok(bytes) => {
                let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(bytes.len());
                Ok(Some(hexadecimal(&Sha256::digest(&bytes[..size.min(bytes.len())]))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Removes the events of a run. Does nothing if they do not exist.
    pub(crate) fn remove_events(&self, run_id: &str) -> Result<()> {
        let path = self.run_path(run_id)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// Returns the events of a run, in order. Skips a line that a power cut left incomplete.
    ///
    /// Returns `NotFound` if the run does not exist.
    pub fn events(&self, run_id: &str) -> Result<Vec<Json>> {
        let path = self.run_path(run_id)?;
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("run {run_id} does not exist"))
                    .with_hint("to see the ids: tenantry runs list")
            }
            _ => Error::io("read", &path, error),
        })?;
        let lines = BufReader::new(file).split(b'\n');
        let read = lines.map(|line| line.map(|line| serde_json::from_slice::<Json>(&line).ok()));
        let events =
            read.collect::<std::io::Result<Vec<_>>>().map_err(|error| Error::io("read", &path, error))?;
        Ok(events.into_iter().flatten().collect())
    }
}
