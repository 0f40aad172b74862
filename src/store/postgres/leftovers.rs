//! Databases and schemas that are private to one process, and the removal of those that a dead process left behind.
//!
//! A process claims each private name with an advisory lock on a separate connection. The server releases the lock when
//! the process ends, however it ends. A private schema whose lock is free is a leftover, and so is a private database
//! whose lock is free and that nobody is connected to.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::PostgresStore;
use super::connect::{Route, ServerConnection};
use super::failure::convert_error;
use crate::error::Result;
use crate::sql::{quote_name, quote_text};

/// Prefix of scratch databases. The OID of the fleet's database follows it: a server may have several fleets, and
/// advisory locks belong to one database.
const SCRATCH_PREFIX: &str = "tenantry_scratch_";
/// Prefix of schemas that hold a restored snapshot until they get the project's name.
const RESTORED_PREFIX: &str = "tenantry_restore_";
/// Prefix of schemas that migrations fill until they get the project's name.
const FILLED_PREFIX: &str = "tenantry_new_";
/// Marks a private name that is not locked because a pooler allows no session locks. [`sweep`] skips such a name; it is
/// removed by hand.
const UNLOCKED_MARKER: &str = "p_";

/// What a private name is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrivateName {
    /// A scratch database.
    Database,
    /// A schema that a snapshot is restored into.
    Restored,
    /// A schema that migrations run in.
    Filled,
}

/// The key of the advisory lock on a private name, as an SQL expression. It differs from the project key of the same
/// name, which a session locks while it works on the schema.
fn private_key(name: &str) -> String {
    format!("hashtextextended('tenantry private ' || {}, 0)", quote_text(name))
}

/// A private name that is reserved for this process while this value lives.
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
    /// Reserves a new, unique name. The first call for a store also removes the leftovers of dead processes.
    pub(super) fn new(store: &PostgresStore, private: PrivateName) -> Result<Self> {
        store.leftovers_removed.call_once(|| {
            // A failed sweep is no reason to stop: `doctor` lists what remains.
            drop(sweep(store));
        });
        let failed = |error: &diesel::result::Error| {
            convert_error("cannot reserve a private name", store.target(), error)
        };
        let mut link = store.connections.fresh()?;
        let unlocked = if link.server.route == Route::ViaPooler { UNLOCKED_MARKER } else { "" };
        let prefix = match private {
            PrivateName::Database => scratch_prefix(&mut link).map_err(|error| failed(&error))?,
            PrivateName::Restored => RESTORED_PREFIX.into(),
            PrivateName::Filled => FILLED_PREFIX.into(),
        };
        let name = format!("{prefix}{unlocked}{}", uuid::Uuid::now_v7().simple());
        if link.server.route == Route::Direct {
            try_lock(&mut link, &name).map_err(|error| failed(&error))?;
        }
        Ok(Self { link, name })
    }

    /// Runs a statement that removes the claimed object, on this connection or, if that fails, on a new one.
    pub(super) fn run(&mut self, store: &PostgresStore, sql: &str) -> Result<()> {
        let failed = |error: &diesel::result::Error| {
            convert_error("cannot remove a private schema or database", store.target(), error)
        };
        if self.link.connection.batch_execute(sql).is_ok() {
            return Ok(());
        }
        let retry =
            || store.connections.fresh()?.connection.batch_execute(sql).map_err(|error| failed(&error));
        store.retry_read(retry)
    }
}

/// Returns the prefix of this fleet's scratch databases.
fn scratch_prefix(link: &mut ServerConnection) -> QueryResult<String> {
    let sql = "SELECT oid::text AS name FROM pg_database WHERE datname = current_database()";
    let Name { name } = diesel::sql_query(sql).get_result(&mut link.connection)?;
    Ok(format!("{SCRATCH_PREFIX}{name}_"))
}

fn try_lock(link: &mut ServerConnection, name: &str) -> QueryResult<bool> {
    let sql = format!("SELECT pg_try_advisory_lock({}) AS locked", private_key(name));
    diesel::sql_query(sql).get_result::<LockResult>(&mut link.connection).map(|row| row.locked)
}

/// Possible leftovers: scratch databases that nobody is connected to, and private schemas.
const POSSIBLE_LEFTOVERS: &str = "SELECT datname::text AS name FROM pg_database WHERE starts_with(datname, {scratch}) \
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = pg_database.datname) \
    UNION ALL SELECT nspname::text FROM pg_namespace \
    WHERE starts_with(nspname, 'tenantry_restore_') OR starts_with(nspname, 'tenantry_new_')\n\
        -- The schema of a reference is never committed in the fleet's database: a visible one is a leftover.\n\
        OR starts_with(nspname, 'tenantry_scratch_') ORDER BY 1";

/// Returns the names of possible leftovers. Some of them may still be in use.
pub(super) fn find_leftovers(link: &mut ServerConnection) -> QueryResult<Vec<String>> {
    let sql = POSSIBLE_LEFTOVERS.replace("{scratch}", &quote_text(&scratch_prefix(link)?));
    let names: Vec<Name> = diesel::sql_query(sql).load(&mut link.connection)?;
    Ok(names.into_iter().map(|it| it.name).collect())
}

/// Removes the leftovers of dead processes and returns their names. Skips whatever is in use. Behind a pooler it
/// removes nothing, because no session lock can be taken there.
pub(super) fn sweep(store: &PostgresStore) -> Result<Vec<String>> {
    let failed =
        |error: &diesel::result::Error| convert_error("cannot look for leftovers", store.target(), error);
    let mut link = store.connections.fresh()?;
    if link.server.route == Route::ViaPooler {
        return Ok(Vec::new());
    }
    let fleet_prefix = scratch_prefix(&mut link).map_err(|error| failed(&error))?;
    let mut removed = Vec::new();
    for name in find_leftovers(&mut link).map_err(|error| failed(&error))? {
        let before_id = name.rsplit_once('_').map_or("", |(before, _)| before);
        if before_id.ends_with("_p") || !try_lock(&mut link, &name).map_err(|error| failed(&error))? {
            continue;
        }
        let quoted = quote_name(&name);
        let is_database = name.starts_with(SCRATCH_PREFIX) && name.starts_with(&fleet_prefix);
        let drop = if is_database {
            // Without FORCE, so that this fails if somebody has connected since.
            format!("DROP DATABASE IF EXISTS {quoted}")
        } else {
            format!("DROP SCHEMA IF EXISTS {quoted} CASCADE")
        };
        if link.connection.batch_execute(&drop).is_ok() {
            removed.push(name.clone());
        }
        let unlock = format!("SELECT pg_advisory_unlock({})", private_key(&name));
        link.connection.batch_execute(&unlock).map_err(|error| failed(&error))?;
    }
    Ok(removed)
}
