//! A journal in a folder: a file with the chain, and one file for the record of each run.
//!
//! A killed process loses no event. A power cut may lose the last ones; the projects' ledgers still record the changes.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, flock};
use rustix::io::Errno;

use super::storage::{Choose, Create, Next, OpenRecord, RecordLock, Storage, Visit};
use super::{MAX_ENTRY, broken};
use crate::disk::{make_private, sync_directory};
use crate::error::{Error, Result};

const FILE: &str = "journal.jsonl";
const RUNS: &str = "runs";
const EVENTS: &str = "jsonl";
/// The extension of the lock file of a run that has not ended. The process that runs it holds the lock.
const OPEN: &str = "open";
/// The disk space that is reserved for the events of a run, in bytes.
const RESERVE_FOR_RUN: u64 = 16 << 10;
/// The disk space that is reserved for the event of each project, in bytes.
const RESERVE_FOR_PROJECT: u64 = 768;
const HINT: &str =
    "free disk space, or set another [journal] dir; the projects' ledgers record what was done";

/// A folder that has a journal. It is created when the first line is written.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    fn path(&self) -> PathBuf {
        self.0.join(FILE)
    }

    fn runs(&self) -> PathBuf {
        self.0.join(RUNS)
    }

    fn record(&self, run: &str) -> PathBuf {
        self.runs().join(format!("{run}.{EVENTS}"))
    }

    /// Opens and locks the journal's file. No other process writes or replaces it while it is open.
    fn open_locked(&self, create: Create) -> std::io::Result<File> {
        let path = self.path();
        loop {
            let create = create == Create::Missing;
            let file = OpenOptions::new().read(true).append(true).create(create).mode(0o600).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            // Pruning may have replaced the file while this process waited for the lock.
            let (locked, current) = (file.metadata()?, std::fs::metadata(&path));
            if current.is_ok_and(|current| (locked.dev(), locked.ino()) == (current.dev(), current.ino())) {
                return Ok(file);
            }
        }
    }

    /// Returns the last complete line. Cuts off an incomplete one after it, which a killed process left, and returns its
    /// length in bytes.
    fn tail(&self, file: &mut File) -> Result<(Option<Vec<u8>>, u64)> {
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
                _ if size > MAX_ENTRY => {
                    return Err(broken(&self.location(), "the start of the last entry is missing"));
                }
                _ => {
                    size *= 4;
                    continue;
                }
            };
            let torn = bytes.len() as u64 - end.map_or(0, |end| end as u64 + 1);
            let last = complete.map(<[u8]>::to_vec);
            if torn > 0 {
                file.set_len(length - torn).map_err(failed)?;
            }
            return Ok((last, torn));
        }
    }

    /// Creates the lock file of a run, locked. It gets its name only then, since an unlocked one means a killed run.
    fn lock_run(&self, run: &str) -> Result<File> {
        let path = self.record(run).with_extension(OPEN);
        let failed = |error: std::io::Error| Error::io("create", &path, error);
        let new =
            tempfile::Builder::new().prefix(run).suffix(".new").tempfile_in(self.runs()).map_err(failed)?;
        flock(&new, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        new.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => super::in_progress(run),
            _ => failed(error.error),
        })
    }

    fn open_record(&self, run: &str, projects: usize, options: &OpenOptions) -> Result<Box<dyn OpenRecord>> {
        let path = self.record(run);
        let lock = self.lock_run(run)?;
        let open = || {
            let mut events = options.open(&path)?;
            complete_last_line(&mut events)?;
            reserve_space(&events, RESERVE_FOR_RUN + RESERVE_FOR_PROJECT * projects as u64)?;
            Ok(events)
        };
        let events = open()
            .and_then(|events| sync_directory(&self.runs()).map_err(std::io::Error::other).map(|()| events));
        match events {
            Ok(events) => Ok(Box::new(FolderRecord { events, path, lock })),
            Err(error) => {
                // The run was not started, so it must not be taken for a killed one.
                self.close(run)?;
                Err(Error::io("reserve space for", &path, error).with_hint(
                    "free disk space, or set another [journal] dir; nothing is changed without a journal",
                ))
            }
        }
    }
}

/// Reserves disk space after the end of a file. Does nothing on file systems that do not support it.
fn reserve_space(file: &File, bytes: u64) -> std::io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
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

struct FolderRecord {
    events: File,
    path: PathBuf,
    /// The lock file, locked while this process lives.
    #[expect(dead_code, reason = "held for its lock, never read")]
    lock: File,
}

impl OpenRecord for FolderRecord {
    fn append(&mut self, line: &str) -> Result<()> {
        self.events
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| Error::io("write", &self.path, error))
    }

    fn sync(&mut self) -> Result<()> {
        self.events.sync_data().map_err(|error| Error::io("write", &self.path, error))
    }
}

impl Storage for Folder {
    fn location(&self) -> String {
        self.0.display().to_string()
    }

    fn for_each_line(&self, visit: &mut Visit<'_>) -> Result<bool> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("read", &path, error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let mut reader = BufReader::new(file);
        for number in 1_u32.. {
            let mut line = Vec::new();
            reader.by_ref().take(MAX_ENTRY).read_until(b'\n', &mut line).map_err(failed)?;
            match line.strip_suffix(b"\n") {
                Some(text) => visit(number, text, true)?,
                None if line.is_empty() => break,
                None => visit(number, &line, false)?,
            }
        }
        Ok(true)
    }

    fn append(&self, create: Create, reserve: u64, next: &mut Next<'_>) -> Result<()> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("write", &path, error).with_hint(HINT);
        let is_new = !path.exists();
        match create {
            Create::Missing => make_private(&self.0)?,
            Create::Existing if is_new => return Ok(()),
            Create::Existing => {}
        }
        let mut file = self.open_locked(create).map_err(failed)?;
        let (last, torn) = self.tail(&mut file)?;
        let lines = next(last.as_deref(), torn)?;
        let end = file.metadata().map_err(failed)?.len();
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        let written = written.and_then(|()| reserve_space(&file, reserve));
        if let Err(error) = written {
            // Removes the partial line. If that fails, the next writer cuts it off and records that.
            let _ = file.set_len(end);
            return Err(failed(error));
        }
        if is_new { sync_directory(&self.0) } else { Ok(()) }
    }

    fn replace_first(&self, choose: &mut Choose<'_>) -> Result<usize> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let _lock = match self.open_locked(Create::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed(error)),
        };
        let existing = std::fs::read_to_string(&path).map_err(failed)?;
        let lines: Vec<String> = existing.lines().map(String::from).collect();
        let Some((count, line)) = choose(&lines)? else { return Ok(0) };
        let kept = [line].into_iter().chain(lines.into_iter().skip(count));
        let text: String = kept.flat_map(|line| [line, "\n".into()]).collect();
        let temporary = path.with_extension("new");
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(failed)?;
        sync_directory(&self.0)?;
        Ok(count)
    }

    fn create_record(&self, run: &str, projects: usize) -> Result<Box<dyn OpenRecord>> {
        make_private(&self.runs())?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(true).mode(0o600);
        let opened = self.open_record(run, projects, &options);
        if opened.is_err() {
            self.remove_record(run)?;
        }
        opened
    }

    fn reopen_record(&self, run: &str, projects: usize) -> Result<Box<dyn OpenRecord>> {
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        self.open_record(run, projects, &options)
    }

    fn orphans(&self) -> Result<Vec<(String, RecordLock)>> {
        let folder = self.runs();
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
                killed.push((run, RecordLock(Box::new(file))));
            }
        }
        killed.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(killed)
    }

    fn is_open(&self, run: &str) -> Result<bool> {
        Ok(self.record(run).with_extension(OPEN).exists())
    }

    fn append_event(&self, run: &str, line: &str) -> Result<()> {
        let path = self.record(run);
        let write = || {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
            complete_last_line(&mut file)?;
            file.write_all(format!("{line}\n").as_bytes())?;
            file.sync_data()
        };
        write().map_err(|error| Error::io("write", &path, error))
    }

    fn close(&self, run: &str) -> Result<()> {
        remove(&self.record(run).with_extension(OPEN))?;
        sync_directory(&self.runs())
    }

    fn read_record(&self, run: &str) -> Result<Option<Vec<u8>>> {
        let path = self.record(run);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    fn write_record(&self, run: &str, bytes: &[u8]) -> Result<()> {
        make_private(&self.runs())?;
        let path = self.record(run);
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|error| Error::io("write", &path, error))
    }

    fn remove_record(&self, run: &str) -> Result<()> {
        remove(&self.record(run))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
