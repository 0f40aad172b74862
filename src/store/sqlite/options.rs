//! Settings of a SQLite store.

use std::time::Duration;

use crate::project::NamePattern;
use crate::schema::ignore::IgnoreList;

/// Settings of a [`SqliteStore`](super::SqliteStore). The defaults suit most fleets.
///
/// ```
/// use std::time::Duration;
/// use tenantry::store::SqliteOptions;
///
/// let options = SqliteOptions::default().pattern("tenant-{id}.sqlite3".parse()?).lock_timeout(Duration::from_secs(1));
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub(super) pattern: NamePattern,
    pub(super) lock_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(super) ignore: IgnoreList,
    pub(super) load: Vec<String>,
    pub(super) rehearsal_memory: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            pattern: NamePattern::default(),
            lock_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(10),
            ignore: IgnoreList::default(),
            load: Vec::new(),
            rehearsal_memory: 64 << 20,
        }
    }
}

impl SqliteOptions {
    /// Sets the pattern of file names; default `project_{id}.db`.
    #[must_use]
    pub fn pattern(self, pattern: NamePattern) -> Self {
        Self { pattern, ..self }
    }

    /// Sets how long to wait for another process's lock; default 5 s.
    #[must_use]
    pub fn lock_timeout(self, lock_timeout: Duration) -> Self {
        Self { lock_timeout, ..self }
    }

    /// Sets the objects that are not compared with the migrations; default none.
    #[must_use]
    pub fn ignore(self, ignore: IgnoreList) -> Self {
        Self { ignore, ..self }
    }

    /// Sets the extensions of SQLite that every connection of tenantry's loads, by name or path; default none. They are
    /// foreign code: name only libraries that you trust. Applications load them into their own connections.
    #[must_use]
    pub fn load(self, extensions: impl IntoIterator<Item = String>) -> Self {
        Self { load: extensions.into_iter().collect(), ..self }
    }

    /// Sets up to which size in bytes a database is rehearsed in memory; default 64 MiB. A larger one is copied into a
    /// temporary file.
    #[must_use]
    pub fn rehearsal_memory(self, bytes: u64) -> Self {
        Self { rehearsal_memory: bytes, ..self }
    }

    /// Sets how long reading one project's ledger and schema may take; default 10 s.
    #[must_use]
    pub fn read_timeout(self, read_timeout: Duration) -> Self {
        Self { read_timeout, ..self }
    }
}
