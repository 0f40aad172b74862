//! What became of each run: its events as they came, one file a run.
//!
//! It must not lose an event to a killed process; only a power cut may take the last ones, and then the projects' own
//! ledgers know.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
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
/// Beside the events of a run that has not ended; whoever runs it holds a lock on it.
const OPEN: &str = "open";

/// The events of a run that goes on.
pub(crate) struct RunRecord {
    events: File,
    path: PathBuf,
    /// Locked as long as this process lives.
    #[expect(dead_code, reason = "it is held, not read")]
    open: File,
    /// The first event that could not be written.
    failure: Option<std::io::Error>,
}

/// How much room is kept for a run's events, in bytes: for the run, and for each project.
const ROOM: u64 = 16 << 10;
const ROOM_FOR_EACH: u64 = 768;

/// Has the file system keep so much room behind the end of a file; where it knows no such thing, nobody can.
pub(super) fn keep_room(file: &File, bytes: u64) -> std::io::Result<()> {
    let end = file.metadata()?.len();
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, end, bytes) {
        Err(error) if [Errno::NOSPC, Errno::DQUOT, Errno::FBIG, Errno::IO].contains(&error) => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// A run whose process is gone.
pub(crate) struct OrphanedRun {
    pub(crate) run: String,
    /// Held, so that one process alone looks after it.
    #[expect(dead_code, reason = "it is held, not read")]
    lock: File,
}

#[derive(Serialize)]
struct Line<'a, T> {
    v: u8,
    #[serde(flatten)]
    event: &'a T,
}

impl RunRecord {
    /// Writes an event. Says whether all of them were written: where not, nothing new is to begin.
    pub(crate) fn event(&mut self, event: &impl Serialize) -> bool {
        let text = serde_json::to_string(&Line { v: 1, event }).map_err(std::io::Error::from);
        let written = text.and_then(|text| self.events.write_all(format!("{text}\n").as_bytes()));
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
        self.failure.is_none()
    }

    /// Makes the events durable. The run goes on until this is dropped.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let failed = |error| {
            Error::io("write", &self.path, error)
                .with_hint("what was done is done, and in the projects' ledgers")
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

    /// A run's id is a UUID, and so fit to be a file's name.
    fn run_path(&self, run: &str) -> Result<PathBuf> {
        if uuid::Uuid::parse_str(run).is_err() {
            return Err(Error::new(ErrorKind::Usage, format!("{run:?} is no run's id"))
                .with_hint("see which there are: tenantry runs list"));
        }
        Ok(self.runs_folder().join(format!("{run}.{EVENTS}")))
    }

    /// Begins a record, with room for the events of so many projects: none of it is lost to a disk that fills up.
    pub(crate) fn record(&self, run: &str, projects: usize) -> Result<RunRecord> {
        let folder = self.runs_folder();
        make_private(&folder)?;
        let path = self.run_path(run)?;
        let create = |path: &Path| {
            OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).map_err(|error| {
                Error::io("make", path, error).with_hint("without a journal nothing is changed")
            })
        };
        // Under its name it is only once it is locked: without a lock it is a killed run's.
        let new = path.with_extension("new");
        let open = create(&new)?;
        flock(&open, FlockOperation::LockExclusive).map_err(|error| Error::io("lock", &new, error.into()))?;
        let events = create(&path)?;
        if let Err(error) = keep_room(&events, ROOM + ROOM_FOR_EACH * projects as u64) {
            // Nothing was begun: it is not to be taken for a killed run's.
            drop((std::fs::remove_file(&new), std::fs::remove_file(&path)));
            return Err(Error::io("keep room for the events of", &path, error).with_hint(
                "make room, or name another [journal] dir: without a journal nothing is changed",
            ));
        }
        std::fs::rename(&new, path.with_extension(OPEN)).map_err(|error| Error::io("rename", &new, error))?;
        sync_directory(&folder)?;
        Ok(RunRecord { events, path, open, failure: None })
    }

    /// The runs that were begun and never ended, whose process is gone. As long as one is held nobody else looks after it.
    pub(crate) fn killed(&self) -> Result<Vec<OrphanedRun>> {
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
            // One that just ended is gone by now.
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
                killed.push(OrphanedRun { run, lock: file });
            }
        }
        killed.sort_by(|a, b| a.run.cmp(&b.run));
        Ok(killed)
    }

    /// Whether a run goes on, or was killed and not yet looked after.
    #[must_use]
    pub fn is_open(&self, run: &str) -> bool {
        self.run_path(run).is_ok_and(|path| path.with_extension(OPEN).exists())
    }

    /// Adds an event to a killed run's record.
    pub(crate) fn add(&self, run: &str, event: &impl Serialize) -> Result<()> {
        let path = self.run_path(run)?;
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let mut text = serde_json::to_string(&Line { v: 1, event })
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot write an event").caused_by(error))?;
        text.push('\n');
        // What a power cut left of the last line is a line of its own, which nobody can read.
        let whole = std::fs::read(&path).unwrap_or_default();
        if whole.last().is_some_and(|&byte| byte != b'\n') {
            text.insert(0, '\n');
        }
        let write = || {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        write().map_err(failed)
    }

    /// Says that a run has ended, or was looked after.
    pub(crate) fn close(&self, run: &str) -> Result<()> {
        let open = self.run_path(run)?.with_extension(OPEN);
        match std::fs::remove_file(&open) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &open, error))
            }
            _ => sync_directory(&self.runs_folder()),
        }
    }

    /// The SHA-256 of a run's events, in hexadecimal; none where they are gone.
    pub(crate) fn hash_of_events(&self, run: &str) -> Result<Option<String>> {
        let path = self.run_path(run)?;
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(hexadecimal(&Sha256::digest(bytes)))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Removes the events of a run that ended.
    pub(crate) fn forget(&self, run: &str) -> Result<()> {
        let path = self.run_path(run)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// The events of a run, in order. What a power cut left of one is passed over.
    pub fn events(&self, run: &str) -> Result<Vec<Json>> {
        let path = self.run_path(run)?;
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("there is no run {run}"))
                .with_hint("see which there are: tenantry runs list"),
            _ => Error::io("read", &path, error),
        })?;
        let lines = BufReader::new(file).split(b'\n');
        let read = lines.map(|line| line.map(|line| serde_json::from_slice::<Json>(&line).ok()));
        let events =
            read.collect::<std::io::Result<Vec<_>>>().map_err(|error| Error::io("read", &path, error))?;
        Ok(events.into_iter().flatten().collect())
    }
}
