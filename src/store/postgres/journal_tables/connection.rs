//! Connections to a journal's database, and the queries that its tables and its runs have in common.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::query_dsl::methods::LoadQuery;
use diesel::result::Error as DieselError;
use diesel::sql_types::{BigInt, Bool, Text};

use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::store::postgres::connect::{Route, ServerConnection, Timeouts, open};
use crate::store::postgres::connection_url::ConnectionUrl;
use crate::store::postgres::failure::{Failure, convert_error};

/// How long an entry waits for those that others append.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
#[derive(QueryableByName)]
pub(super) struct Line {
    #[diesel(sql_type = Text)]
    pub(super) line: String,
}

#[derive(QueryableByName)]
struct Yes {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

#[derive(QueryableByName)]
pub(super) struct Number {
    #[diesel(sql_type = BigInt)]
    pub(super) number: i64,
}

/// Lets both sides notice within a minute that the other machine is gone. Otherwise the server would keep the locks of a
/// vanished process for hours. Without effect on a socket of the same machine.
const KEEPALIVES: &str = "SELECT set_config('tcp_keepalives_idle', '30', false), \
    set_config('tcp_keepalives_interval', '10', false), set_config('tcp_keepalives_count', '3', false)";

pub(super) fn connect(target: &ConnectionUrl) -> Result<ServerConnection> {
    let target = &[("keepalives_idle", "30"), ("keepalives_interval", "10"), ("keepalives_count", "3")]
        .iter()
        .fold(target.clone(), |target, (key, value)| target.with(key, value));
    let mut link =
        open(target, Timeouts { lock: LOCK_TIMEOUT, statement: None }).map_err(Error::in_journal)?;
    if link.server.route == Route::ViaPooler {
        return Err(Error::new(
            ErrorKind::Configuration,
            "a journal in a database cannot be reached through a pooler",
        )
        .with_hint(
            "give the server's own address: [journal] url in tenantry.toml; or a folder: [journal] dir",
        ));
    }
    link.connection.batch_execute(KEEPALIVES).map_err(|error| failed(target, &error))?;
    Ok(link)
}

/// Loads the column `line` of a query.
pub(super) fn lines<'q>(
    connection: &mut PgConnection,
    query: impl LoadQuery<'q, PgConnection, Line>,
) -> QueryResult<Vec<String>> {
    Ok(query.load::<Line>(connection)?.into_iter().map(|it| it.line).collect())
}

pub(super) fn yes(connection: &mut PgConnection, sql: &str, run: &str) -> QueryResult<bool> {
    diesel::sql_query(sql).bind::<Text, _>(run).get_result::<Yes>(connection).map(|it| it.yes)
}

/// Adds an event with this number, unless it is there already.
pub(super) fn add_event(
    connection: &mut PgConnection,
    run: &str,
    number: i64,
    line: &str,
) -> QueryResult<()> {
    let sql =
        "INSERT INTO tenantry_journal.events (run, number, line) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let query = diesel::sql_query(sql).bind::<Text, _>(run).bind::<BigInt, _>(number).bind::<Text, _>(line);
    query.execute(connection).map(drop)
}

/// Returns the number that the next event of a run gets.
pub(super) fn next_event(connection: &mut PgConnection, run: &str) -> QueryResult<i64> {
    let sql = "SELECT 1 + coalesce(max(number), 0) AS number FROM tenantry_journal.events WHERE run = $1";
    diesel::sql_query(sql).bind::<Text, _>(run).get_result::<Number>(connection).map(|it| it.number)
}

/// Takes the lock of a run for as long as the connection lasts. Returns `false` if another connection has it.
pub(super) fn try_lock(connection: &mut PgConnection, run: &str) -> QueryResult<bool> {
    yes(connection, "SELECT pg_try_advisory_lock(hashtextextended('tenantry run ' || $1, 0)) AS yes", run)
}

/// Sets that commits do not wait for the server's disk. A killed client loses no event then. A crash of the server may lose
/// the last ones, unless the run's end was committed after them.
pub(super) fn commit_asynchronously(connection: &mut PgConnection) -> QueryResult<()> {
    connection.batch_execute("SELECT set_config('synchronous_commit', 'off', false)")
}

pub(super) fn is_disconnected(error: &DieselError) -> bool {
    Failure::of(error).kind == ErrorKind::Disconnected
}

/// Pauses between attempts to connect again.
pub(super) fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}

/// Why something with the journal failed.
pub(super) enum Failed {
    Database(DieselError),
    Other(Error),
}

impl From<DieselError> for Failed {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

pub(super) fn failed(target: &ConnectionUrl, error: &DieselError) -> Error {
    convert_error("cannot use the journal", target, error)
}
