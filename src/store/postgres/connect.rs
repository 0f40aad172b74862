//! Connections to the server: opened with what every transaction relies on, kept, and bounded.
//!
//! It must not hand out one that is in a transaction, and must say which limit was met when the server has no room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::{CacheSize, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text};

use super::catalog::NEUTRAL;
use super::connection_url::ConnectionUrl;
use super::failure::{describe, described};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{quote_name, quote_text};

/// How long a full server is asked again before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// After how long a kept connection is asked whether it is still there.
const DOUBTFUL: Duration = Duration::from_millis(500);
/// After how many schemas a connection is closed instead of kept: its server process remembers each table it ever saw,
/// which takes memory, and goes through all of them at the end of each transaction that touches many.
const WORN: usize = 500;
/// Errors are told apart by their English texts.
const ENGLISH: &str = "SET lc_messages TO 'C'";

/// How tenantry reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A connection is a server process of one's own.
    Direct,
    /// A pooler in between gives each transaction another server process: nothing of a session lasts.
    Pooled,
}

/// What is known of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) route: Route,
    /// Such as 150018.
    pub(super) version: i32,
    /// Whether it can look whether its client is still there.
    pub(super) watches_clients: bool,
    pub(super) usual: DefaultSettings,
}

/// What a transaction waits for at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) lock: Duration,
    /// No limit where there is none.
    pub(super) statement: Option<Duration>,
}

/// For how long settings hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Session,
    Transaction,
}

/// A query that makes settings.
///
/// `SET` is not used: an extension may send the whole text of a message with a `SET LOCAL` to other servers, as Citus does, and
/// those take no message of several statements.
pub(super) fn settings<'a>(scope: Scope, settings: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let is_local = scope == Scope::Transaction;
    let set = |(name, value): (&str, String)| {
        format!("pg_catalog.set_config('{name}', {}, {is_local})", quote_text(&value))
    };
    format!("SELECT {}", settings.into_iter().map(set).collect::<Vec<_>>().join(", "))
}

/// What the server's settings are for anybody who connects as this role.
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
    /// The settings that tenantry's transactions rely on. Its own queries are long and cheap: planning one anew for each of
    /// the first schemas, or compiling it, takes longer than all of its answers.
    fn sql(&self, scope: Scope, server: Server) -> String {
        let plain = [
            ("lock_timeout", self.lock.as_millis().max(1).to_string()),
            ("statement_timeout", "0".into()),
            ("idle_in_transaction_session_timeout", "60s".into()),
            ("standard_conforming_strings", "on".into()),
            ("quote_all_identifiers", "off".into()),
            // Where a policy hides rows from this role, the server says so instead of counting the others.
            ("row_security", "off".into()),
            ("search_path", NEUTRAL.into()),
            ("plan_cache_mode", "force_generic_plan".into()),
            ("jit", "off".into()),
        ];
        // The server itself looks whether its client is still there.
        let interval = server.watches_clients.then(|| ("client_connection_check_interval", "2s".to_string()));
        settings(scope, plain.into_iter().chain(interval))
    }

    /// The settings for a migration's statements: their limit, which tenantry's own questions, that grow with the fleet,
    /// have not; and plans as the server makes them for anybody.
    pub(super) fn of_statements(&self, scope: Scope, schema: &str, usual: DefaultSettings) -> String {
        let statement = self.statement.map_or(0, |timeout| timeout.as_millis().max(1));
        let plain = [
            ("search_path", quote_name(schema)),
            ("statement_timeout", statement.to_string()),
            ("plan_cache_mode", usual.plans.into()),
            ("jit", usual.jit.into()),
            ("row_security", usual.row_security.into()),
        ];
        settings(scope, plain)
    }

    /// What gives tenantry's own queries their settings back.
    pub(super) fn after_statements() -> String {
        let plain = [
            ("search_path", NEUTRAL.into()),
            ("statement_timeout", "0".into()),
            ("plan_cache_mode", "force_generic_plan".into()),
            ("jit", "off".into()),
            ("row_security", "off".into()),
        ];
        settings(Scope::Transaction, plain)
    }

    /// How long a statement outside a transaction waits. A `CONCURRENTLY` waits for whoever looks at the database at all,
    /// and keeps nobody waiting meanwhile: it has no limit.
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
    /// Whether the server speaks English here because it was asked to.
    is_english: bool,
    /// How many schemas were looked at over it.
    pub(super) schemas: usize,
    /// Since when nobody uses it.
    idle_since: Instant,
    /// Whether it was used since it last ended a transaction, so that nobody knows whether it is still there.
    is_doubtful: bool,
}

impl ServerConnection {
    /// Begins a transaction, with a mode such as `READ ONLY`, with tenantry's settings and its own `search_path`. What a
    /// connection of one's own remembers need not be said again.
    pub(super) fn begin(&mut self, mode: &str) -> QueryResult<()> {
        let sql = self.beginning(mode);
        self.connection.batch_execute(&sql)
    }

    /// The statements that do so, for whoever sends them with others.
    pub(super) fn beginning(&mut self, mode: &str) -> String {
        self.in_transaction = true;
        match self.server.route {
            Route::Direct => format!("BEGIN {mode}"),
            Route::Pooled => {
                format!("BEGIN {mode}; {}", self.timeouts.sql(Scope::Transaction, self.server))
            }
        }
    }

    /// Undoes what a script may have set, so that it does not reach what comes after it.
    pub(super) fn reapply_settings(&mut self) -> QueryResult<()> {
        match self.server.route {
            Route::Direct => self.apply_settings(),
            // A pooler's own settings are not to be undone.
            Route::Pooled => {
                self.connection.batch_execute(&self.timeouts.sql(Scope::Transaction, self.server))
            }
        }
    }

    /// Makes a connection of one's own remember tenantry's settings, and nothing else.
    pub(super) fn apply_settings(&mut self) -> QueryResult<()> {
        let settings = self.timeouts.sql(Scope::Session, self.server);
        for alone in ["RESET ALL", "RESET SESSION AUTHORIZATION", &settings] {
            self.connection.batch_execute(alone)?;
        }
        if self.is_english {
            self.connection.batch_execute(ENGLISH)?;
        }
        Ok(())
    }

    /// Sends statements of which the last ends the transaction, where there is one.
    pub(super) fn end(&mut self, sql: &str) -> QueryResult<()> {
        if !self.in_transaction {
            return Ok(());
        }
        self.connection.batch_execute(sql)?;
        self.in_transaction = false;
        self.is_doubtful = false;
        Ok(())
    }

    fn is_there(&mut self) -> bool {
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

/// Opens a connection. A setting that only a connection of one's own takes along tells whether a pooler is in between.
pub(super) fn open(target: &ConnectionUrl, timeouts: Timeouts) -> Result<ServerConnection> {
    match attempt(&target.with("options", "-c tenantry.direct=yes"), timeouts) {
        Err(refused) if refused.summary().contains("startup parameter") => attempt(target, timeouts),
        other => other,
    }
}

fn attempt(target: &ConnectionUrl, timeouts: Timeouts) -> Result<ServerConnection> {
    #[expect(clippy::disallowed_methods, reason = "Postgres makes nothing by being connected to")]
    let mut connection = PgConnection::establish(&target.conninfo()).map_err(|error| match error {
        ConnectionError::CouldntSetupConfiguration(error) => describe("cannot connect", target, &error),
        other => {
            let message = other.to_string();
            let full = ["too many", "remaining connection slots", "no more connections"];
            let kind = if full.iter().any(|text| message.contains(text)) {
                ErrorKind::PoolExhausted
            } else {
                ErrorKind::Disconnected
            };
            let error = described("cannot connect", target, kind, &message);
            if kind == ErrorKind::PoolExhausted {
                error
            } else {
                error.with_hint("look at the URL, the server and its pg_hba.conf")
            }
        }
    })?;
    let greeting: SessionInfo = diesel::sql_query(
        "SELECT current_setting('server_version_num')::int AS version, \
         version() ILIKE '%linux%' AS is_on_linux, \
         nullif(current_setting('tenantry.direct', true), '') AS direct, \
         current_setting('jit') AS jit, current_setting('plan_cache_mode') AS plans, \
         current_setting('row_security') AS row_security",
    )
    .get_result(&mut connection)
    .map_err(|error| describe("cannot connect", target, &error))?;
    if greeting.version < 130_000 {
        let version = greeting.version / 10_000;
        return Err(Error::new(ErrorKind::Configuration, format!("the server is Postgres {version}"))
            .with_hint("tenantry works with Postgres 13 and later"));
    }
    let route = if greeting.direct.is_some() { Route::Direct } else { Route::Pooled };
    let usual = DefaultSettings::new(&greeting.jit, &greeting.plans, &greeting.row_security);
    // Since version 14, and not on every platform.
    let watches_clients = greeting.version >= 140_000 && greeting.is_on_linux;
    let server = Server { route, version: greeting.version, watches_clients, usual };
    let mut link = ServerConnection {
        connection,
        server,
        timeouts,
        in_transaction: false,
        is_english: false,
        schemas: 0,
        idle_since: Instant::now(),
        is_doubtful: false,
    };
    match route {
        Route::Direct => {
            link.apply_settings().map_err(|error| describe("cannot connect", target, &error))?;
            // A role that may not do so reads errors in the server's language; then a lock timeout is not told from others.
            link.is_english = link.connection.batch_execute(ENGLISH).is_ok();
        }
        Route::Pooled => link.connection.set_prepared_statement_cache_size(CacheSize::Disabled),
    }
    Ok(link)
}

/// Whether an error that a connection could not be opened with came from a server: one that ends, begins or was cut off.
fn is_answer(error: &Error) -> bool {
    const SAID: [&str; 3] =
        ["server closed the connection", "terminating connection", "the database system is"];
    let summary = error.summary();
    SAID.iter().any(|said| summary.contains(said))
}

/// The connections of one store, kept and given out.
#[derive(Default)]
struct State {
    idle: Vec<ServerConnection>,
    /// How many are given out.
    out: usize,
}

/// The connections of one store: as many as are worked with at once, kept for the next project.
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

    /// A connection: one that is kept, or a new one. Where the server has no room for another, this waits for one of its
    /// own to be given back; and where it has none, it asks again a little later each time, and at last names the limit.
    pub(super) fn get(&self) -> Result<PooledConnection<'_>> {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let pooled = {
                let mut state = self.lock();
                state.out += 1;
                state.idle.pop()
            };
            // The server may have gone and come again meanwhile.
            let is_there =
                |link: &mut ServerConnection| link.idle_since.elapsed() < DOUBTFUL || link.is_there();
            let was_kept = pooled.is_some();
            let pooled = pooled.and_then(|mut link| is_there(&mut link).then_some(link));
            if was_kept && pooled.is_none() {
                // What cut one has mostly cut them all.
                self.lock().idle.clear();
            }
            let opened = pooled.map_or_else(|| open(&self.target, self.timeouts), Ok);
            let error = match opened {
                Ok(mut link) => {
                    self.was_reached.store(true, Ordering::Relaxed);
                    link.schemas += 1;
                    return Ok(PooledConnection { link: Some(link), connections: self });
                }
                Err(error) => error,
            };
            if is_answer(&error) {
                self.was_reached.store(true, Ordering::Relaxed);
            }
            let mut state = self.lock();
            state.out -= 1;
            let is_worth_waiting = state.out > 0 || Instant::now() < deadline;
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

    /// A connection of its own, never given out before.
    pub(super) fn fresh(&self) -> Result<ServerConnection> {
        open(&self.target, self.timeouts)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is kept for the next project once it is dropped, unless something went wrong with it.
pub(super) struct PooledConnection<'a> {
    link: Option<ServerConnection>,
    connections: &'a Connections,
}

impl PooledConnection<'_> {
    pub(super) fn link(&mut self) -> Result<&mut ServerConnection> {
        let gone = || Error::new(ErrorKind::Internal, "the connection was given up");
        let link = self.link.as_mut().ok_or_else(gone)?;
        link.is_doubtful = true;
        Ok(link)
    }

    /// Closes it instead of keeping it.
    pub(super) fn give_up(&mut self) {
        self.link = None;
    }
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        // On a broken connection this fails, and that one goes; where there is no transaction to end, it is asked.
        let link = self.link.take().and_then(|mut link| link.end("ROLLBACK").is_ok().then_some(link));
        let link = link.filter(|link| link.schemas < WORN);
        let link = link.and_then(|mut link| (!link.is_doubtful || link.is_there()).then_some(link));
        let mut state = self.connections.lock();
        state.out -= 1;
        state.idle.extend(link.map(|link| ServerConnection { idle_since: Instant::now(), ..link }));
        drop(state);
        self.connections.returned.notify_one();
    }
}
