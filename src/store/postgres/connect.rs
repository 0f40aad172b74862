//! Opens connections with the settings that every transaction relies on, and pools them.
//!
//! A pooled connection is never in a transaction. If the server accepts no more connections, the error names the limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::{CacheSize, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text};

use super::connection_url::ConnectionUrl;
use super::failure::{convert_error, new_error};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::quote_text;

/// The `search_path` of tenantry's own queries.
pub(super) const CATALOG_PATH: &str = "pg_catalog";

/// How long to retry connecting to a server that accepts no more connections.
const FULL_SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be idle and still be reused without a check.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);
/// After how many schemas a connection is closed instead of reused. Its server process caches each table it has
/// accessed, which takes memory, and walks through all of them at the end of each transaction that accesses many.
const MAX_SCHEMAS: usize = 500;
/// Requests English messages, since errors are recognized by their English texts.
const ENGLISH: &str = "SET lc_messages TO 'C'";

/// How tenantry reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Each connection has its own server process.
    Direct,
    /// A pooler may give each transaction another server process, so session state is lost.
    ViaPooler,
}

/// What is known about the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) route: Route,
    /// The version number, such as 150018 for 15.18.
    pub(super) version: i32,
    /// Whether it can check that its client is still connected.
    pub(super) watches_clients: bool,
    pub(super) defaults: DefaultSettings,
}

/// The timeouts of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) lock: Duration,
    /// No limit if `None`.
    pub(super) statement: Option<Duration>,
}

/// How long settings last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Session,
    Transaction,
}

/// A query that applies settings.
///
/// It does not use `SET`: an extension such as Citus may send the whole text of a message with a `SET LOCAL` to other
/// servers, which reject a message of several statements.
pub(super) fn settings<'a>(scope: Scope, settings: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let is_local = scope == Scope::Transaction;
    let set = |(name, value): (&str, String)| {
        format!("pg_catalog.set_config('{name}', {}, {is_local})", quote_text(&value))
    };
    format!("SELECT {}", settings.into_iter().map(set).collect::<Vec<_>>().join(", "))
}

/// The settings that a connection of this role has by default.
#[derive(Clone, Copy, Debug)]
pub(super) struct DefaultSettings {
    jit: &'static str,
    plans: &'static str,
    row_security: &'static str,
}

impl DefaultSettings {
    fn new(jit: &str, plans: &str, row_security: &str) -> Self {
        let switch = |text: &str| if text == "off" { "off" } else { "on" };
        let plans = ["force_generic_plan", "force_custom_plan"].into_iter().find(|it| *it == plans);
        Self { jit: switch(jit), plans: plans.unwrap_or("auto"), row_security: switch(row_security) }
    }
}

impl Timeouts {
    /// The settings that tenantry's transactions rely on. Its own queries are long but cheap to execute: custom plans
    /// for the first schemas, or JIT compilation, take longer than all executions together.
    fn sql(&self, scope: Scope, server: Server) -> String {
        let plain = [
            ("lock_timeout", self.lock.as_millis().max(1).to_string()),
            ("statement_timeout", "0".into()),
            ("idle_in_transaction_session_timeout", "60s".into()),
            ("standard_conforming_strings", "on".into()),
            ("quote_all_identifiers", "off".into()),
            // If a policy hides rows from this role, the server raises an error instead of leaving them out.
            ("row_security", "off".into()),
            ("search_path", CATALOG_PATH.into()),
            ("plan_cache_mode", "force_generic_plan".into()),
            ("jit", "off".into()),
        ];
        // Lets the server notice a lost client while a statement runs.
        let interval = server.watches_clients.then(|| ("client_connection_check_interval", "2s".to_string()));
        settings(scope, plain.into_iter().chain(interval))
    }

    /// The settings for a migration's statements: the server's defaults for planning, and the statement timeout.
    /// tenantry's own queries have no timeout, because they take longer in a larger fleet.
    pub(super) fn of_statements(&self, scope: Scope, path: &str, defaults: DefaultSettings) -> String {
        let statement = self.statement.map_or(0, |timeout| timeout.as_millis().max(1));
        let plain = [
            ("search_path", path.into()),
            ("statement_timeout", statement.to_string()),
            ("plan_cache_mode", defaults.plans.into()),
            ("jit", defaults.jit.into()),
            ("row_security", defaults.row_security.into()),
        ];
        settings(scope, plain)
    }

    /// Restores the settings for tenantry's own queries.
    pub(super) fn after_statements() -> String {
        let plain = [
            ("search_path", CATALOG_PATH.into()),
            ("statement_timeout", "0".into()),
            ("plan_cache_mode", "force_generic_plan".into()),
            ("jit", "off".into()),
            ("row_security", "off".into()),
        ];
        settings(Scope::Transaction, plain)
    }

    /// The lock timeout of a statement outside a transaction. A `CONCURRENTLY` has none: it waits for every transaction
    /// that has a snapshot of the database, and blocks nobody meanwhile.
    pub(super) fn outside(&self, is_concurrent: bool) -> String {
        let lock = if is_concurrent { 0 } else { self.lock.as_millis().max(1) };
        settings(Scope::Session, [("lock_timeout", lock.to_string())])
    }
}

/// An open connection.
pub(super) struct ServerConnection {
    pub(super) connection: PgConnection,
    pub(super) server: Server,
    pub(super) timeouts: Timeouts,
    in_transaction: bool,
    /// Whether English messages were requested successfully.
    is_english: bool,
    /// How many schemas were accessed over this connection.
    pub(super) schemas: usize,
    /// When it was last returned to the pool.
    idle_since: Instant,
    /// Whether it was used since it last ended a transaction, so that it may be broken.
    needs_check: bool,
}

impl ServerConnection {
    /// Begins a transaction with tenantry's settings and `search_path`. `mode` is empty or a transaction mode such as
    /// `READ ONLY`. A direct connection already has the settings, so they are not sent again.
    pub(super) fn begin(&mut self, mode: &str) -> QueryResult<()> {
        let sql = self.begin_sql(mode);
        self.connection.batch_execute(&sql)
    }

    /// The statements of [`Self::begin`], for a caller that sends them together with others.
    pub(super) fn begin_sql(&mut self, mode: &str) -> String {
        self.in_transaction = true;
        match self.server.route {
            Route::Direct => format!("BEGIN {mode}"),
            Route::ViaPooler => {
                format!("BEGIN {mode}; {}", self.timeouts.sql(Scope::Transaction, self.server))
            }
        }
    }

    /// Restores settings that a script may have changed, so that they do not affect later statements.
    pub(super) fn reapply_settings(&mut self) -> QueryResult<()> {
        match self.server.route {
            Route::Direct => self.apply_settings(),
            // `RESET ALL` would also reset the settings that the pooler made.
            Route::ViaPooler => {
                self.connection.batch_execute(&self.timeouts.sql(Scope::Transaction, self.server))
            }
        }
    }

    /// Resets all settings of a direct connection and applies tenantry's.
    pub(super) fn apply_settings(&mut self) -> QueryResult<()> {
        let settings = self.timeouts.sql(Scope::Session, self.server);
        for statement in ["RESET ALL", "RESET SESSION AUTHORIZATION", &settings] {
            self.connection.batch_execute(statement)?;
        }
        if self.is_english {
            self.connection.batch_execute(ENGLISH)?;
        }
        Ok(())
    }

    /// Sends statements of which the last one ends the transaction. Does nothing if there is no transaction.
    pub(super) fn end(&mut self, sql: &str) -> QueryResult<()> {
        if !self.in_transaction {
            return Ok(());
        }
        self.connection.batch_execute(sql)?;
        self.in_transaction = false;
        self.needs_check = false;
        Ok(())
    }

    fn is_alive(&mut self) -> bool {
        self.connection.batch_execute("SELECT 1 AS tenantry").is_ok()
    }
}

#[derive(QueryableByName)]
struct SessionInfo {
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Bool)]
    is_on_linux: bool,
    #[diesel(sql_type = Nullable<Text>)]
    direct: Option<String>,
    #[diesel(sql_type = Text)]
    jit: String,
    #[diesel(sql_type = Text)]
    plans: String,
    #[diesel(sql_type = Text)]
    row_security: String,
}

/// Opens a connection. It sends a startup setting that only a direct connection keeps, to detect a pooler.
pub(super) fn open(target: &ConnectionUrl, timeouts: Timeouts) -> Result<ServerConnection> {
    match attempt(&target.with("options", "-c tenantry.direct=yes"), timeouts) {
        Err(refused) if refused.summary().contains("startup parameter") => attempt(target, timeouts),
        other => other,
    }
}

fn attempt(target: &ConnectionUrl, timeouts: Timeouts) -> Result<ServerConnection> {
    #[expect(clippy::disallowed_methods, reason = "connecting to Postgres creates nothing")]
    let mut connection = PgConnection::establish(&target.conninfo()).map_err(|error| match error {
        ConnectionError::CouldntSetupConfiguration(error) => convert_error("cannot connect", target, &error),
        other => {
            let message = other.to_string();
            let full = ["too many", "remaining connection slots", "no more connections"];
            let kind = if full.iter().any(|text| message.contains(text)) {
                ErrorKind::PoolExhausted
            } else {
                ErrorKind::Disconnected
            };
            let error = new_error("cannot connect", target, kind, &message);
            if kind == ErrorKind::PoolExhausted {
                error
            } else {
                error.with_hint("check the URL, the server and its pg_hba.conf")
            }
        }
    })?;
    let info: SessionInfo = diesel::sql_query(
        "SELECT current_setting('server_version_num')::int AS version, \
         version() ILIKE '%linux%' AS is_on_linux, \
         nullif(current_setting('tenantry.direct', true), '') AS direct, \
         current_setting('jit') AS jit, current_setting('plan_cache_mode') AS plans, \
         current_setting('row_security') AS row_security",
    )
    .get_result(&mut connection)
    .map_err(|error| convert_error("cannot connect", target, &error))?;
    if info.version < 130_000 {
        let version = info.version / 10_000;
        return Err(Error::new(ErrorKind::Configuration, format!("the server runs Postgres {version}"))
            .with_hint("tenantry works with Postgres 13 and later"));
    }
    let route = if info.direct.is_some() { Route::Direct } else { Route::ViaPooler };
    let defaults = DefaultSettings::new(&info.jit, &info.plans, &info.row_security);
    // Available since version 14, and only on some platforms.
    let watches_clients = info.version >= 140_000 && info.is_on_linux;
    let server = Server { route, version: info.version, watches_clients, defaults };
    let mut link = ServerConnection {
        connection,
        server,
        timeouts,
        in_transaction: false,
        is_english: false,
        schemas: 0,
        idle_since: Instant::now(),
        needs_check: false,
    };
    match route {
        Route::Direct => {
            link.apply_settings().map_err(|error| convert_error("cannot connect", target, &error))?;
            // If the role may not set this, errors are in the server's language, and a lock timeout is not recognized.
            link.is_english = link.connection.batch_execute(ENGLISH).is_ok();
        }
        Route::ViaPooler => link.connection.set_prepared_statement_cache_size(CacheSize::Disabled),
    }
    Ok(link)
}

/// Whether the error of a failed connection came from a server that starts, stops or closed the connection.
fn is_from_server(error: &Error) -> bool {
    const TEXTS: [&str; 3] =
        ["server closed the connection", "terminating connection", "the database system is"];
    let summary = error.summary();
    TEXTS.iter().any(|text| summary.contains(text))
}

/// The state of a connection pool.
#[derive(Default)]
struct State {
    idle: Vec<ServerConnection>,
    /// How many connections are in use.
    in_use: usize,
}

/// The connection pool of one store. It keeps as many connections as are in use at the same time.
pub(super) struct Connections {
    target: ConnectionUrl,
    timeouts: Timeouts,
    state: Mutex<State>,
    returned: Condvar,
    was_reached: AtomicBool,
}

impl Connections {
    pub(super) fn new(target: ConnectionUrl, timeouts: Timeouts) -> Self {
        Self {
            target,
            timeouts,
            state: Mutex::default(),
            returned: Condvar::new(),
            was_reached: AtomicBool::new(false),
        }
    }

    pub(super) fn target(&self) -> &ConnectionUrl {
        &self.target
    }

    /// Takes an idle connection or opens a new one. If the server accepts no more connections, waits until one of this
    /// pool is returned, and retries with growing pauses. Fails with `PoolExhausted` after [`FULL_SERVER_TIMEOUT`], but keeps
    /// waiting while another connection of this pool is in use.
    pub(super) fn get(&self) -> Result<ConnectionGuard<'_>> {
        let deadline = Instant::now() + FULL_SERVER_TIMEOUT;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let pooled = {
                let mut state = self.lock();
                state.in_use += 1;
                state.idle.pop()
            };
            // The server may have been restarted meanwhile.
            let is_usable =
                |link: &mut ServerConnection| link.idle_since.elapsed() < TRUSTED_IDLE || link.is_alive();
            let had_idle = pooled.is_some();
            let pooled = pooled.and_then(|mut link| is_usable(&mut link).then_some(link));
            if had_idle && pooled.is_none() {
                // Whatever broke this connection has probably broken the others too.
                self.lock().idle.clear();
            }
            let opened = pooled.map_or_else(|| open(&self.target, self.timeouts), Ok);
            let error = match opened {
                Ok(mut link) => {
                    self.was_reached.store(true, Ordering::Relaxed);
                    link.schemas += 1;
                    return Ok(ConnectionGuard { link: Some(link), connections: self });
                }
                Err(error) => error,
            };
            if is_from_server(&error) {
                self.was_reached.store(true, Ordering::Relaxed);
            }
            let mut state = self.lock();
            state.in_use -= 1;
            let is_worth_waiting = state.in_use > 0 || Instant::now() < deadline;
            if error.kind() != ErrorKind::PoolExhausted || !is_worth_waiting {
                return Err(error);
            }
            if state.idle.is_empty() {
                let pause = backoff.next();
                drop(self.returned.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Whether the server was ever reached.
    pub(super) fn was_reached(&self) -> bool {
        self.was_reached.load(Ordering::Relaxed)
    }

    /// Opens a new connection outside the pool.
    pub(super) fn fresh(&self) -> Result<ServerConnection> {
        open(&self.target, self.timeouts)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that returns to the pool when dropped, unless it is broken or has reached [`MAX_SCHEMAS`].
pub(super) struct ConnectionGuard<'a> {
    link: Option<ServerConnection>,
    connections: &'a Connections,
}

impl ConnectionGuard<'_> {
    pub(super) fn connection(&mut self) -> Result<&mut ServerConnection> {
        let closed = || Error::new(ErrorKind::Internal, "the connection is closed");
        let link = self.link.as_mut().ok_or_else(closed)?;
        link.needs_check = true;
        Ok(link)
    }

    /// Closes the connection instead of returning it to the pool.
    pub(super) fn discard(&mut self) {
        self.link = None;
    }
}

impl Drop for ConnectionGuard<'_> {
    fn drop(&mut self) {
        // The rollback fails on a broken connection, which is then closed. Without a transaction nothing is sent, and
        // the connection is checked below.
        let link = self.link.take().and_then(|mut link| link.end("ROLLBACK").is_ok().then_some(link));
        let link = link.filter(|link| link.schemas < MAX_SCHEMAS);
        let link = link.and_then(|mut link| (!link.needs_check || link.is_alive()).then_some(link));
        let mut state = self.connections.lock();
        state.in_use -= 1;
        state.idle.extend(link.map(|link| ServerConnection { idle_since: Instant::now(), ..link }));
        drop(state);
        self.connections.returned.notify_one();
    }
}
