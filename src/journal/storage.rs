//! Where a journal is kept: the lines of its chain, and the records of its runs. Does not know what the lines say.

use crate::error::Result;

/// Gets a line's number, counted from 1, the line without its end, and whether it is complete.
pub(super) type Visit<'a> = dyn FnMut(u32, &[u8], bool) -> Result<()> + 'a;
/// Gets the last complete line and the number of bytes after it. Returns the lines to append.
pub(super) type Next<'a> = dyn FnMut(Option<&[u8]>, u64) -> Result<Vec<String>> + 'a;
/// Gets all lines. Returns how many of the first to replace, and by which line; `None` for nothing.
pub(super) type Choose<'a> = dyn FnMut(&[String]) -> Result<Option<(usize, String)>> + 'a;

/// Keeps a journal's lines and its runs' records.
pub(super) trait Storage: Send + Sync {
    /// The location, without a password.
    fn location(&self) -> String;

    /// Passes every line to `visit`, in order, also an incomplete last one. Returns `false` if there is no journal yet.
    fn for_each_line(&self, visit: &mut Visit<'_>) -> Result<bool>;

    /// Cuts off an incomplete last line, and appends the lines that `next` returns. They are durable when this returns, and
    /// `reserve` bytes are reserved for the next ones, if the storage can. No other process appends meanwhile.
    fn append(&self, create: Create, reserve: u64, next: &mut Next<'_>) -> Result<()>;

    /// Replaces the first lines by one, as `choose` says. No other process appends meanwhile. Returns how many were replaced.
    fn replace_first(&self, choose: &mut Choose<'_>) -> Result<usize>;

    /// Creates the record of a run for the events of so many projects.
    fn create_record(&self, run: &str, projects: usize) -> Result<Box<dyn OpenRecord>>;

    /// Opens the record of a run that has ended, to go on with it. Fails with [`Locked`](crate::ErrorKind::Locked) if a
    /// process has it in progress.
    fn reopen_record(&self, run: &str, projects: usize) -> Result<Box<dyn OpenRecord>>;

    /// Returns the runs that did not end and whose process is dead, sorted. Each is locked until its lock is dropped, so that
    /// no other process completes its record.
    fn orphans(&self) -> Result<Vec<(String, RecordLock)>>;

    /// Whether a run is in progress, or was killed and its record is not completed yet.
    fn is_open(&self, run: &str) -> Result<bool>;

    /// Adds an event to the record of a killed run, durably.
    fn append_event(&self, run: &str, line: &str) -> Result<()>;

    /// Marks a run as ended.
    fn close(&self, run: &str) -> Result<()>;

    /// Returns the record of a run: its events, each with a line end. `None` if there is none.
    fn read_record(&self, run: &str) -> Result<Option<Vec<u8>>>;

    /// Writes a whole record, for a journal that is copied. Replaces an existing one.
    fn write_record(&self, run: &str, bytes: &[u8]) -> Result<()>;

    /// Removes the record of a run. Does nothing if there is none.
    fn remove_record(&self, run: &str) -> Result<()>;
}

/// What to do if there is no journal yet: create it, or do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Create {
    Missing,
    Existing,
}

/// The record of a run in progress. The process that has it holds the run's lock.
pub(super) trait OpenRecord: Send {
    /// Appends an event. A killed process loses none.
    fn append(&mut self, line: &str) -> Result<()>;

    /// Makes the events durable.
    fn sync(&mut self) -> Result<()>;

    /// Whether this process no longer has the run's lock, so that another one may have taken the run over.
    fn is_lost(&self) -> bool {
        false
    }
}

/// A lock that is released on drop.
#[expect(dead_code, reason = "held for what it locks, never read")]
pub(super) struct RecordLock(pub(super) Box<dyn Send>);
