//! Databases and schemas that are private to a process, and what a dead process left of them.
//!
//! Each is claimed by an advisory lock of a connection of its own, which the server lets go of when that process is gone,
//! however it went. What nobody claims, and nobody is connected to, is nobody's.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::connect::{Link, Route};
use super::failure::describe;
use super::{OWN, PostgresStore};
use crate::error::Result;
use crate::sql::{quote_name, quote_text};

/// What begins the names of databases that copies are restored into.
pub(super) const SCRATCH: &str = "tenantry_scratch_";
/// What begins the names of schemas that wait for their own.
pub(super) const PRIVATE: [&str; 2] = ["restore_", "new_"];

/// The key of the lock on a private name: another one than that of a project, which is locked while it is worked on.
fn private_key(name: &str) -> String {
    format!("hashtextextended('tenantry private ' || {}, 0)", quote_text(name))
}

/// A name that is this process's as long as this is there.
pub(super) struct Claim {
    link: Link,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

impl Claim {
    /// Claims a name that nobody else can have, and first removes what dead processes left.
    pub(super) fn new(store: &PostgresStore, name: &str) -> Result<Self> {
        store.swept.call_once(|| {
            // What can't be removed now is no reason not to go on: `doctor` names it.
            drop(sweep(store));
        });
        let mut link = store.links.fresh()?;
        if link.server.route == Route::Direct {
            try_lock(&mut link, name)
                .map_err(|error| describe("cannot claim a private name", store.target(), &error))?;
        }
        Ok(Self { link })
    }

    /// Runs a statement about what is claimed, over this connection or, where that is lost, over another one.
    pub(super) fn run(&mut self, store: &PostgresStore, sql: &str) -> Result<()> {
        let failed =
            |error: &diesel::result::Error| describe("cannot remove what was private", store.target(), error);
        if self.link.connection.batch_execute(sql).is_ok() {
            return Ok(());
        }
        let again = || store.links.fresh()?.connection.batch_execute(sql).map_err(|error| failed(&error));
        store.again(again)
    }
}

fn try_lock(link: &mut Link, name: &str) -> QueryResult<bool> {
    let sql = format!("SELECT pg_try_advisory_lock({}) AS locked", private_key(name));
    diesel::sql_query(sql).get_result::<Locked>(&mut link.connection).map(|row| row.locked)
}

/// Removes what dead processes left; gives the names of what is gone. Touches nothing that anybody uses.
pub(super) fn sweep(store: &PostgresStore) -> Result<Vec<String>> {
    let failed = |error: &diesel::result::Error| describe("cannot look for leftovers", store.target(), error);
    let mut link = store.links.fresh()?;
    if link.server.route == Route::Pooled {
        return Ok(Vec::new());
    }
    let schemas: Vec<String> = PRIVATE
        .iter()
        .map(|kind| format!("starts_with(nspname, {})", quote_text(&format!("{OWN}{kind}"))))
        .collect();
    let sql = format!(
        "SELECT datname::text AS name FROM pg_database WHERE starts_with(datname, {}) \
         AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = pg_database.datname) \
         UNION ALL SELECT nspname::text FROM pg_namespace WHERE {}",
        quote_text(SCRATCH),
        schemas.join(" OR ")
    );
    let names: Vec<Name> =
        diesel::sql_query(sql).load(&mut link.connection).map_err(|error| failed(&error))?;
    let mut gone = Vec::new();
    for Name { name } in names {
        if !try_lock(&mut link, &name).map_err(|error| failed(&error))? {
            continue;
        }
        let quoted = quote_name(&name);
        let drop = if name.starts_with(SCRATCH) {
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
