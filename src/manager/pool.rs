//! An application's connections: one r2d2 pool per project, one bound over all of them.
//!
//! It must not let the fleet's size decide how many databases are open.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::r2d2::R2D2Connection as _;
use scheduled_thread_pool::ScheduledThreadPool;

use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::store::connection::{Connector, ProjectConnection};

/// How long to wait for a connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Opens connections to one project.
struct ConnectionManager {
    connector: Connector,
}

/// What went wrong with a connection, told whole: r2d2 keeps only what an error displays.
#[derive(Debug)]
struct ConnectionError(String);

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConnectionError {}

impl r2d2::ManageConnection for ConnectionManager {
    type Connection = ProjectConnection;
    type Error = ConnectionError;

    fn connect(&self) -> std::result::Result<ProjectConnection, ConnectionError> {
        (self.connector)().map_err(|error| {
            let hint = error.hint_for_command().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            ConnectionError(format!("{}{hint}", error.summary()))
        })
    }

    fn is_valid(&self, connection: &mut ProjectConnection) -> std::result::Result<(), ConnectionError> {
        connection.ping().map_err(|error| ConnectionError(error.to_string()))
    }

    fn has_broken(&self, connection: &mut ProjectConnection) -> bool {
        // The second finds a transaction that was begun behind diesel's back: there can't be one in another.
        std::thread::panicking()
            || connection.is_broken()
            || connection.batch_execute("BEGIN; ROLLBACK").is_err()
    }
}

type Pool = r2d2::Pool<ConnectionManager>;

/// The pools of all projects that are in use.
pub(super) struct Pools {
    open: Mutex<PoolsState>,
    returned: Condvar,
    /// One set of threads opens and closes connections for all pools.
    threads: OnceLock<Arc<ScheduledThreadPool>>,
    capacity: usize,
    idle: Duration,
}

#[derive(Default)]
struct PoolsState {
    pools: HashMap<ProjectId, OpenPool>,
    /// Forgotten pools whose connections are not all back.
    retired: Vec<Arc<Pool>>,
    /// Connections that are being opened.
    opening: usize,
    /// Pools whose idle connections are being taken, one for each.
    taking: Vec<Arc<Pool>>,
}

struct OpenPool {
    pool: Arc<Pool>,
    at: Instant,
}

impl PoolsState {
    /// How many are about to take an idle connection that may be gone by now, closed for its age: then they open another.
    fn takers_without_any(&self) -> usize {
        let first_of =
            |index: usize| self.taking[..index].iter().all(|it| !Arc::ptr_eq(it, &self.taking[index]));
        let pools = (0..self.taking.len()).filter(|index| first_of(*index)).map(|index| &self.taking[index]);
        let without = |pool: &Arc<Pool>| {
            let takers = self.taking.iter().filter(|it| Arc::ptr_eq(it, pool)).count();
            takers.saturating_sub(pool.state().idle_connections as usize)
        };
        pools.map(without).sum()
    }

    /// Sees to it that a pool that is in use is counted, just once: it may have been closed or forgotten since it was
    /// looked up, and the project may have another by now.
    fn keep(&mut self, id: &ProjectId, pool: Arc<Pool>) {
        if self.retired.iter().any(|retired| Arc::ptr_eq(retired, &pool)) {
            return;
        }
        match self.pools.get_mut(id) {
            Some(used) if Arc::ptr_eq(&used.pool, &pool) => used.at = Instant::now(),
            Some(_) => self.retired.push(pool),
            None => {
                self.pools.insert(id.clone(), OpenPool { pool, at: Instant::now() });
            }
        }
    }
}

impl Pools {
    pub(super) fn new(capacity: usize, idle: Duration) -> Self {
        // A pool refuses to have no time at all.
        let idle = idle.max(Duration::from_millis(1));
        Self { open: Mutex::default(), returned: Condvar::new(), threads: OnceLock::new(), capacity, idle }
    }

    /// A connection. `connector` is asked for when the project has no pool yet, and may refuse. No lock is held while it
    /// looks, nor while a connection is opened: one project that is slow to open keeps nobody else waiting.
    pub(super) fn get(
        self: &Arc<Self>,
        id: &ProjectId,
        connector: impl Fn() -> Result<Connector>,
    ) -> Result<PooledConnection> {
        let pool = self.pool(id, connector)?;
        let deadline = Instant::now() + TIMEOUT;
        let mut open = self.lock();
        let is_new = loop {
            self.close_idle(&mut open);
            let taken = open.taking.iter().filter(|it| Arc::ptr_eq(it, &pool)).count();
            if pool.state().idle_connections as usize > taken {
                open.taking.push(Arc::clone(&pool));
                break false;
            }
            if self.has_room(&mut open) {
                open.opening += 1;
                break true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = format!("all {} connections of the fleet are in use", self.capacity);
                return Err(Error::new(ErrorKind::PoolExhausted, message)
                    .in_project(id)
                    .with_hint("give connections back sooner, or allow more: Manager::with_connections"));
            }
            open = self.returned.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(open);
        let connection = pool.get();
        let mut open = self.lock();
        if is_new {
            open.opening -= 1;
        } else if let Some(index) = open.taking.iter().position(|it| Arc::ptr_eq(it, &pool)) {
            open.taking.swap_remove(index);
        }
        open.keep(id, pool);
        drop(open);
        // Whoever waits may have counted this one twice meanwhile.
        self.returned.notify_all();
        let connection = connection.map_err(|error| unavailable(id, &error))?;
        Ok(PooledConnection { connection, _returned: ReturnedConnection(Arc::clone(self)) })
    }

    fn pool(&self, id: &ProjectId, connector: impl Fn() -> Result<Connector>) -> Result<Arc<Pool>> {
        let known = |open: &PoolsState| open.pools.get(id).map(|used| Arc::clone(&used.pool));
        if let Some(pool) = known(&self.lock()) {
            return Ok(pool);
        }
        let connector = connector()?;
        let mut open = self.lock();
        // Another thread may have been quicker meanwhile.
        if let Some(pool) = known(&open) {
            return Ok(pool);
        }
        let pool = Arc::new(self.build(id, connector)?);
        open.keep(id, Arc::clone(&pool));
        Ok(pool)
    }

    fn build(&self, id: &ProjectId, connector: Connector) -> Result<Pool> {
        let threads =
            self.threads.get_or_init(|| Arc::new(ScheduledThreadPool::builder().num_threads(2).build()));
        r2d2::Pool::builder()
            .max_size(u32::try_from(self.capacity).unwrap_or(u32::MAX))
            .min_idle(Some(0))
            .idle_timeout(Some(self.idle))
            .test_on_check_out(false)
            .connection_timeout(TIMEOUT)
            .thread_pool(Arc::clone(threads))
            .build(ConnectionManager { connector })
            .map_err(|error| unavailable(id, &error))
    }

    /// Closes the pools that nobody used for a while.
    fn close_idle(&self, open: &mut PoolsState) {
        open.pools.retain(|_, used| used.at.elapsed() < self.idle || !is_unused(&used.pool));
        open.retired.retain(|pool| !is_unused(pool));
    }

    /// Whether one more connection may be opened, closing the longest unused idle pool where that makes room.
    fn has_room(&self, open: &mut PoolsState) -> bool {
        let pools = open.pools.values().map(|used| &used.pool).chain(&open.retired);
        let count: u32 = pools.map(|pool| pool.state().connections).sum();
        if (count as usize) + open.opening + open.takers_without_any() < self.capacity {
            return true;
        }
        let closable = |used: &OpenPool| used.pool.state().connections > 0 && is_unused(&used.pool);
        let oldest = open.pools.iter().filter(|(_, used)| closable(used)).min_by_key(|(_, used)| used.at);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else { return false };
        open.pools.remove(&id);
        true
    }

    /// Drops a project's idle connections, so that its version is looked at again.
    pub(super) fn forget(&self, id: &ProjectId) {
        let mut open = self.lock();
        if let Some(used) = open.pools.remove(id) {
            open.retired.push(used.pool);
        }
        self.close_idle(&mut open);
    }

    fn lock(&self) -> MutexGuard<'_, PoolsState> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody has a connection of a pool, nor is about to take one: only then closing it closes all of them.
fn is_unused(pool: &Arc<Pool>) -> bool {
    let state = pool.state();
    Arc::strong_count(pool) == 1 && state.connections == state.idle_connections
}

fn unavailable(id: &ProjectId, error: &r2d2::Error) -> Error {
    Error::new(ErrorKind::Database, "cannot open a connection").in_project(id).caused_by(error.to_string())
}

/// A connection that goes back to its pool when it is dropped. It is a diesel connection.
pub struct PooledConnection {
    connection: r2d2::PooledConnection<ConnectionManager>,
    /// Declared last, so that the connection is back before anybody is told.
    _returned: ReturnedConnection,
}

struct ReturnedConnection(Arc<Pools>);

impl Drop for ReturnedConnection {
    fn drop(&mut self) {
        // Whoever looked and found nothing free holds the lock until it waits: so it can't miss this.
        drop(self.0.lock());
        self.0.returned.notify_all();
    }
}

impl Deref for PooledConnection {
    type Target = ProjectConnection;

    fn deref(&self) -> &ProjectConnection {
        &self.connection
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut ProjectConnection {
        &mut self.connection
    }
}
