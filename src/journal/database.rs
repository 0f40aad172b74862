//! A journal in a schema of a Postgres database, so that everybody who uses the fleet shares one.

use std::time::Duration;

use super::in_progress;
use super::storage::{Choose, Create, Next, OpenRecord, RecordLock, Storage, Visit};
use crate::error::Result;
use crate::store::postgres::{JournalTables, OpenRun};

/// The schema `tenantry_journal` of a database.
pub(super) struct Database(JournalTables);

impl Database {
    pub(super) fn new(url: &str, reconnect_timeout: Duration) -> Result<Self> {
        JournalTables::new(url, reconnect_timeout).map(Self)
    }
}

impl Storage for Database {
    fn location(&self) -> String {
        self.0.location()
    }

    fn for_each_line(&self, visit: &mut Visit<'_>) -> Result<bool> {
        let Some(lines) = self.0.entries()? else { return Ok(false) };
        for (number, line) in (1_u32..).zip(&lines) {
            visit(number, line.as_bytes(), true)?;
        }
        Ok(true)
    }

    fn append(&self, create: Create, _reserve: u64, next: &mut Next<'_>) -> Result<()> {
        if create == Create::Existing && !self.0.exists()? {
            return Ok(());
        }
        // A transaction leaves no incomplete line.
        self.0.append(&mut |last| next(last.map(str::as_bytes), 0))
    }

    fn replace_first(&self, choose: &mut Choose<'_>) -> Result<usize> {
        if self.0.exists()? { self.0.replace_first(choose) } else { Ok(0) }
    }

    fn create_record(&self, run: &str, _projects: usize) -> Result<Box<dyn OpenRecord>> {
        self.0.create()?;
        self.reopen_record(run, 0)
    }

    fn reopen_record(&self, run: &str, _projects: usize) -> Result<Box<dyn OpenRecord>> {
        match self.0.open_run(run)? {
            Some(run) => Ok(Box::new(run)),
            None => Err(in_progress(run)),
        }
    }

    fn orphans(&self) -> Result<Vec<(String, RecordLock)>> {
        if !self.0.exists()? {
            return Ok(Vec::new());
        }
        let orphans = self.0.orphans()?;
        Ok(orphans.into_iter().map(|(run, lock)| (run, RecordLock(Box::new(lock)))).collect())
    }

    fn is_open(&self, run: &str) -> Result<bool> {
        Ok(self.0.exists()? && self.0.is_open(run)?)
    }

    fn append_event(&self, run: &str, line: &str) -> Result<()> {
        self.0.append_event(run, line)
    }

    fn close(&self, run: &str) -> Result<()> {
        self.0.close(run)
    }

    fn read_record(&self, run: &str) -> Result<Option<Vec<u8>>> {
        if !self.0.exists()? {
            return Ok(None);
        }
        let events = self.0.events(run)?;
        Ok(events.map(|lines| lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()))
    }

    fn write_record(&self, run: &str, bytes: &[u8]) -> Result<()> {
        self.0.create()?;
        let text = String::from_utf8_lossy(bytes);
        self.0.write_events(run, &text.lines().collect::<Vec<_>>())
    }

    fn remove_record(&self, run: &str) -> Result<()> {
        self.0.remove_events(run)
    }
}

impl OpenRecord for OpenRun {
    fn append(&mut self, line: &str) -> Result<()> {
        self.append_event(line)
    }

    fn sync(&mut self) -> Result<()> {
        // The commit of the run's last entry comes after these, and writes them to the server's disk as well.
        Ok(())
    }

    fn is_lost(&self) -> bool {
        self.has_lost_its_lock()
    }
}
