//! Connections for applications: one r2d2 pool per project, and one limit for the connections of all pools.

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

/// An error's full text. r2d2 keeps only what an error displays.
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
        // The second statement finds a transaction that was started without diesel: transactions cannot be nested.
        std::thread::panicking()
            || connection.is_broken()
            || connection.batch_execute("BEGIN; ROLLBACK").is_err()
    }
}

type Pool = r2d2::Pool<ConnectionManager>;

/// The pools of all projects that are in use.
pub(super) struct Pools {
    state: Mutex<PoolsState>,
    /// Notified when a connection is returned or opened.
    returned: Condvar,
    /// One set of threads opens and closes connections for all pools.
    threads: OnceLock<Arc<ScheduledThreadPool>>,
    capacity: usize,
    idle_timeout: Duration,
}

#[derive(Default)]
struct PoolsState {
    pools: HashMap<ProjectId, OpenPool>,
    /// Forgotten pools of which connections are still in use.
    retired: Vec<Arc<Pool>>,
    /// How many connections are being opened.
    opening: usize,
    /// The pools that idle connections are being taken from, once for each connection.
    taking: Vec<Arc<Pool>>,
}

struct OpenPool {
    pool: Arc<Pool>,
    used_at: Instant,
}

impl PoolsState {
    /// How many threads expect an idle connection that has since expired. Each of them opens a new one.
    fn takers_without_connection(&self) -> usize {
        let is_first =
            |index: usize| self.taking[..index].iter().all(|it| !Arc::ptr_eq(it, &self.taking[index]));
        let pools = (0..self.taking.len()).filter(|index| is_first(*index)).map(|index| &self.taking[index]);
        let missing = |pool: &Arc<Pool>| {
            let takers = self.taking.iter().filter(|it| Arc::ptr_eq(it, pool)).count();
            takers.saturating_sub(pool.state().idle_connections as usize)
        };
        pools.map(missing).sum()
    }

    /// Ensures that a pool in use is counted exactly once. It may have been closed or forgotten since it was looked up,
    /// and the project may have another pool by now.
    fn register(&mut self, id: &ProjectId, pool: Arc<Pool>) {
        if self.retired.iter().any(|retired| Arc::ptr_eq(retired, &pool)) {
            return;
        }
        match self.pools.get_mut(id) {
            Some(open) if Arc::ptr_eq(&open.pool, &pool) => open.used_at = Instant::now(),
            Some(_) => self.retired.push(pool),
            None => {
                self.pools.insert(id.clone(), OpenPool { pool, used_at: Instant::now() });
            }
        }
    }
}

impl Pools {
    pub(super) fn new(capacity: usize, idle_timeout: Duration) -> Self {
        // r2d2 rejects an idle timeout of zero.
        let idle_timeout = idle_timeout.max(Duration::from_millis(1));
        Self {
            state: Mutex::default(),
            returned: Condvar::new(),
            threads: OnceLock::new(),
            capacity,
            idle_timeout,
        }
    }

    /// Returns a connection. Calls `connector` if the project has no pool yet. No lock is held during that call or
    /// while a connection is opened, so that a project that is slow to open does not delay others.
    ///
    /// Fails with [`ErrorKind::PoolExhausted`] if no connection is available within [`TIMEOUT`].
    pub(super) fn get(
        self: &Arc<Self>,
        id: &ProjectId,
        connector: impl Fn() -> Result<Connector>,
    ) -> Result<PooledConnection> {
        let pool = self.pool(id, connector)?;
        let deadline = Instant::now() + TIMEOUT;
        let mut state = self.lock();
        let is_new = loop {
            self.close_idle(&mut state);
            let taken = state.taking.iter().filter(|it| Arc::ptr_eq(it, &pool)).count();
            if pool.state().idle_connections as usize > taken {
                state.taking.push(Arc::clone(&pool));
                break false;
            }
            if self.make_room(&mut state) {
                state.opening += 1;
                break true;
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                let message = format!("all {} connections of the fleet are in use", self.capacity);
                return Err(Error::new(ErrorKind::PoolExhausted, message)
                    .in_project(id)
                    .with_hint("return connections sooner, or raise the limit: Manager::with_connections"));
            }
            state = self.returned.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        let connection = pool.get();
        let mut state = self.lock();
        if is_new {
            state.opening -= 1;
        } else if let Some(index) = state.taking.iter().position(|it| Arc::ptr_eq(it, &pool)) {
            state.taking.swap_remove(index);
        }
        state.register(id, pool);
        drop(state);
        // A waiting thread may have counted this connection twice meanwhile, so it has to count again.
        self.returned.notify_all();
        let connection = connection.map_err(|error| unavailable(id, &error))?;
        Ok(PooledConnection { connection, _returned: ReturnedConnection(Arc::clone(self)) })
    }

    fn pool(&self, id: &ProjectId, connector: impl Fn() -> Result<Connector>) -> Result<Arc<Pool>> {
        let existing = |state: &PoolsState| state.pools.get(id).map(|open| Arc::clone(&open.pool));
        if let Some(pool) = existing(&self.lock()) {
            return Ok(pool);
        }
        let connector = connector()?;
        let mut state = self.lock();
        // Another thread may have created the pool meanwhile.
        if let Some(pool) = existing(&state) {
            return Ok(pool);
        }
        let pool = Arc::new(self.build(id, connector)?);
        state.register(id, Arc::clone(&pool));
        Ok(pool)
    }

    fn build(&self, id: &ProjectId, connector: Connector) -> Result<Pool> {
        let threads =
            self.threads.get_or_init(|| Arc::new(ScheduledThreadPool::builder().num_threads(2).build()));
        r2d2::Pool::builder()
            .max_size(u32::try_from(self.capacity).unwrap_or(u32::MAX))
            .min_idle(Some(0))
            .idle_timeout(Some(self.idle_timeout))
            .test_on_check_out(false)
            .connection_timeout(TIMEOUT)
            .thread_pool(Arc::clone(threads))
            .build(ConnectionManager { connector })
            .map_err(|error| unavailable(id, &error))
    }

    /// Closes pools that were not used for the idle timeout.
    fn close_idle(&self, state: &mut PoolsState) {
        state.pools.retain(|_, open| open.used_at.elapsed() < self.idle_timeout || !is_unused(&open.pool));
        state.retired.retain(|pool| !is_unused(pool));
    }

    /// Whether one more connection may be opened. At the limit, makes room by closing the idle pool that was unused
    /// longest, if there is one.
    fn make_room(&self, state: &mut PoolsState) -> bool {
        let pools = state.pools.values().map(|open| &open.pool).chain(&state.retired);
        let count: u32 = pools.map(|pool| pool.state().connections).sum();
        if (count as usize) + state.opening + state.takers_without_connection() < self.capacity {
            return true;
        }
        let is_closable = |open: &OpenPool| open.pool.state().connections > 0 && is_unused(&open.pool);
        let closable = state.pools.iter().filter(|(_, open)| is_closable(open));
        let oldest = closable.min_by_key(|(_, open)| open.used_at);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else { return false };
        state.pools.remove(&id);
        true
    }

    /// Drops a project's pool, so that the next [`Pools::get`] checks the project's version again.
    pub(super) fn forget(&self, id: &ProjectId) {
        let mut state = self.lock();
        if let Some(open) = state.pools.remove(id) {
            state.retired.push(open.pool);
        }
        self.close_idle(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, PoolsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether no connection of a pool is in use or about to be taken. Only then does dropping the pool close all of them.
fn is_unused(pool: &Arc<Pool>) -> bool {
    let state = pool.state();
    Arc::strong_count(pool) == 1 && state.connections == state.idle_connections
}

fn unavailable(id: &ProjectId, error: &r2d2::Error) -> Error {
    Error::new(ErrorKind::Database, "cannot open a connection").in_project(id).caused_by(error.to_string())
}

/// A diesel connection to a project. Dropping it returns it to its pool.
pub struct PooledConnection {
    connection: r2d2::PooledConnection<ConnectionManager>,
    /// Declared last, so that the connection is in its pool before waiting threads are notified.
    _returned: ReturnedConnection,
}

struct ReturnedConnection(Arc<Pools>);

impl Drop for ReturnedConnection {
    fn drop(&mut self) {
        // A thread that finds no free connection holds the lock until it waits. Taking the lock here ensures that it
        // does not miss the notification.
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
