//! What migrations did outside of their schema, as the server itself tells it.
//!
//! A text can hide it (a function that writes elsewhere, a statement put together at run time), the server can't: whoever writes
//! a table holds a lock on it, and whoever makes an object leaves a row with the transaction's number.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::quote_text;

/// Tables of other schemas that this transaction may have written or changed, and objects of the whole database that it made.
/// A foreign key's check takes a lighter lock.
const OUTSIDE: &str = "
SELECT format('%s.%s', n.nspname, c.relname) AS name FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND n.nspname NOT IN ({schema}, 'pg_catalog', 'pg_toast', 'information_schema') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
UNION ALL SELECT format('the server''s %s', c.relname) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.database = 0 AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock')
    AND c.relname IN ('pg_authid', 'pg_auth_members', 'pg_database', 'pg_tablespace', 'pg_db_role_setting', 'pg_parameter_acl')
UNION ALL SELECT 'a cast' FROM pg_cast WHERE {own}
UNION ALL SELECT format('access method %s', amname) FROM pg_am WHERE {own}
UNION ALL SELECT format('extension %s', extname) FROM pg_extension WHERE extnamespace = {number}
UNION ALL SELECT format('event trigger %s', evtname) FROM pg_event_trigger WHERE {own}
UNION ALL SELECT format('publication %s', pubname) FROM pg_publication WHERE {own}
UNION ALL SELECT format('language %s', lanname) FROM pg_language WHERE {own}
UNION ALL SELECT format('server %s', srvname) FROM pg_foreign_server WHERE {own}
UNION ALL SELECT format('foreign-data wrapper %s', fdwname) FROM pg_foreign_data_wrapper WHERE {own}
UNION ALL SELECT format('schema %s', nspname) FROM pg_namespace WHERE {own} AND nspname <> {schema}
LIMIT 1";

/// The condition for a row of a catalog to be this transaction's, or one of its subtransactions'. The row can be seen, so a
/// transaction that goes on is this one. What is older than it is not asked for: the server may not know any more.
const OWN: &str = "age(xmin) <= age(pg_current_xact_id()::xid) AND pg_xact_status((\
    ((pg_current_xact_id()::text::bigint >> 32) << 32) | xmin::text::bigint)::text::xid8) = 'in progress'";

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

impl PostgresSession<'_> {
    /// Errors where this transaction has changed anything outside of the schema.
    pub(super) fn require_confined(&mut self) -> Result<()> {
        let sql = OUTSIDE
            .replace("{schema}", &quote_text(&self.name))
            .replace("{number}", &self.number()?)
            .replace("{own}", OWN);
        self.reader()?;
        let found: QueryResult<Vec<Name>> = diesel::sql_query(sql).load(&mut self.pooled.link()?.connection);
        let found = found.map_err(|error| self.failed("cannot see what the migrations changed", &error))?;
        match found.into_iter().next() {
            None => Ok(()),
            Some(Name { name }) => Err(Error::new(
                ErrorKind::Catalog,
                format!("a migration changes {name}, which is outside of the project's schema"),
            )
            .with_hint("a migration is about one project's schema alone: it runs once for each project")),
        }
    }
}
