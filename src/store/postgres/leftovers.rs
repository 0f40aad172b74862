//! Databases and schemas that are private to a process, and what a dead process left of them.
//!
//! Each is claimed by an advisory lock of a connection of its own, which the server lets go of when that process is gone,
//! however it went. What nobody claims, and nobody is connected to, is nobody's.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::PostgresStore;
use super::connect::{Route, ServerConnection};
use super::failure::describe;
use crate::error::Result;
use crate::sql::{quote_name, quote_text};

/// What begins the names of private databases, before the number of the fleet's own: a server may have several fleets, and the
/// locks of each are of its own database.
const SCRATCH: &str = "tenantry_scratch_";
/// What begins the names of schemas that are restored and wait for their own.
const RESTORED: &str = "tenantry_restore_";
/// What begins the names of schemas that are filled and wait for their own.
const FILLED: &str = "tenantry_new_";
/// What comes before the last part of a name that a pooler lets nobody lock: those are removed by hand.
const UNLOCKED: &str = "p_";

/// What a private name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrivateName {
    /// A database that a copy is restored into.
    Database,
    /// A schema that a copy is restored into.
    Restored,
    /// A schema that migrations are run in.
    Filled,
}

/// The key of the lock on a private name: another one than that of a project, which is locked while it is worked on.
fn private_key(name: &str) -> String {
    format!("hashtextextended('tenantry private ' || {}, 0)", quote_text(name))
}

/// A name that is this process's as long as this is there.
pub(super) struct Claim {
    link: ServerConnection,
    pub(super) name: String,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct LockResult {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

impl Claim {
    /// Claims a name that nobody else can have, and first removes what dead processes left.
    pub(super) fn new(store: &PostgresStore, private: PrivateName) -> Result<Self> {
        store.swept.call_once(|| {
            // What can't be removed now is no reason not to go on: `doctor` names it.
            drop(sweep(store));
        });
        let failed =
            |error: &diesel::result::Error| describe("cannot claim a private name", store.target(), error);
        let mut link = store.connections.fresh()?;
        let unlocked = if link.server.route == Route::Pooled { UNLOCKED } else { "" };
        let prefix = match private {
            PrivateName::Database => scratch_prefix(&mut link).map_err(|error| failed(&error))?,
            PrivateName::Restored => RESTORED.into(),
            PrivateName::Filled => FILLED.into(),
        };
        let name = format!("{prefix}{unlocked}{}", uuid::Uuid::now_v7().simple());
        if link.server.route == Route::Direct {
            try_lock(&mut link, &name).map_err(|error| failed(&error))?;
        }
        Ok(Self { link, name })
    }

    /// Runs a statement about what is claimed, over this connection or, where that is lost, over another one.
    pub(super) fn run(&mut self, store: &PostgresStore, sql: &str) -> Result<()> {
        let failed =
            |error: &diesel::result::Error| describe("cannot remove what was private", store.target(), error);
        if self.link.connection.batch_execute(sql).is_ok() {
            return Ok(());
        }
        let again =
            || store.connections.fresh()?.connection.batch_execute(sql).map_err(|error| failed(&error));
        store.again(again)
    }
}

/// What begins the names of the private databases of this fleet.
fn scratch_prefix(link: &mut ServerConnection) -> QueryResult<String> {
    let sql = "SELECT oid::text AS name FROM pg_database WHERE datname = current_database()";
    let Name { name } = diesel::sql_query(sql).get_result(&mut link.connection)?;
    Ok(format!("{SCRATCH}{name}_"))
}

fn try_lock(link: &mut ServerConnection, name: &str) -> QueryResult<bool> {
    let sql = format!("SELECT pg_try_advisory_lock({}) AS locked", private_key(name));
    diesel::sql_query(sql).get_result::<LockResult>(&mut link.connection).map(|row| row.locked)
}

/// What may be left: databases that nobody is connected to, and schemas.
const LEFT: &str = "SELECT datname::text AS name FROM pg_database WHERE starts_with(datname, {scratch}) \
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = pg_database.datname) \
    UNION ALL SELECT nspname::text FROM pg_namespace \
    WHERE starts_with(nspname, 'tenantry_restore_') OR starts_with(nspname, 'tenantry_new_')\n\
        -- In the fleet's own database a reference is never committed: one that can be seen is nobody's.\n\
        OR starts_with(nspname, 'tenantry_scratch_') ORDER BY 1";

/// The names of what dead processes may have left.
pub(super) fn left(link: &mut ServerConnection) -> QueryResult<Vec<String>> {
    let sql = LEFT.replace("{scratch}", &quote_text(&scratch_prefix(link)?));
    let names: Vec<Name> = diesel::sql_query(sql).load(&mut link.connection)?;
    Ok(names.into_iter().map(|it| it.name).collect())
}

/// Removes what dead processes left; gives the names of what is gone. Touches nothing that anybody uses.
pub(super) fn sweep(store: &PostgresStore) -> Result<Vec<String>> {
    let failed = |error: &diesel::result::Error| describe("cannot look for leftovers", store.target(), error);
    let mut link = store.connections.fresh()?;
    if link.server.route == Route::Pooled {
        return Ok(Vec::new());
    }
    let databases = scratch_prefix(&mut link).map_err(|error| failed(&error))?;
    let mut gone = Vec::new();
    for name in left(&mut link).map_err(|error| failed(&error))? {
        let last = name.rsplit_once('_').map_or("", |(before, _)| before);
        if last.ends_with("_p") || !try_lock(&mut link, &name).map_err(|error| failed(&error))? {
            continue;
        }
        let quoted = quote_name(&name);
        let is_database = name.starts_with(SCRATCH) && name.starts_with(&databases);
        let drop = if is_database {
            // Without FORCE: whoever came meanwhile keeps it.
            format!("DROP DATABASE IF EXISTS {quoted}")
        } else {
            format!("DROP SCHEMA IF EXISTS {quoted} CASCADE")
        };
        if link.connection.batch_execute(&drop).is_ok() {
            gone.push(name.clone());
        }
        let unlock = format!("SELECT pg_advisory_unlock({})", private_key(&name));
        link.connection.batch_execute(&unlock).map_err(|error| failed(&error))?;
    }
    Ok(gone)
}
