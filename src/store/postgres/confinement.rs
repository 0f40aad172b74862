//! Checks on the server that migrations changed nothing outside their schema.
//!
//! The SQL text may hide such a change (a function that writes elsewhere, a statement assembled at run time). The
//! server shows it: a transaction holds a lock on each table that it writes, and a created object has a catalog row
//! with the transaction's ID.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::quote_text;

/// Tables of other schemas that this transaction may have written or changed, and database-wide objects that it
/// created. Foreign key checks do not appear: they take a weaker lock.
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
UNION ALL SELECT 'a cast' FROM pg_cast WHERE {written_here}
UNION ALL SELECT format('access method %s', amname) FROM pg_am WHERE {written_here}
UNION ALL SELECT format('extension %s', extname) FROM pg_extension WHERE extnamespace = {schema_oid}
UNION ALL SELECT format('event trigger %s', evtname) FROM pg_event_trigger WHERE {written_here}
UNION ALL SELECT format('publication %s', pubname) FROM pg_publication WHERE {written_here}
UNION ALL SELECT format('language %s', lanname) FROM pg_language WHERE {written_here}
UNION ALL SELECT format('server %s', srvname) FROM pg_foreign_server WHERE {written_here}
UNION ALL SELECT format('foreign-data wrapper %s', fdwname) FROM pg_foreign_data_wrapper WHERE {written_here}
UNION ALL SELECT format('schema %s', nspname) FROM pg_namespace WHERE {written_here} AND nspname <> {schema}
LIMIT 1";

/// The condition that this transaction, or one of its subtransactions, wrote a catalog row. The row is visible, so if
/// its transaction is in progress it is this one. Older transactions are excluded first, because the server may no
/// longer know their status.
const WRITTEN_HERE: &str = "age(xmin) <= age(pg_current_xact_id()::xid) AND pg_xact_status((\
    ((pg_current_xact_id()::text::bigint >> 32) << 32) | xmin::text::bigint)::text::xid8) = 'in progress'";

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

impl PostgresSession<'_> {
    /// Fails with `Catalog` if this transaction changed anything outside the schema.
    pub(super) fn require_confined(&mut self) -> Result<()> {
        let sql = OUTSIDE
            .replace("{schema}", &quote_text(&self.name))
            .replace("{schema_oid}", &self.schema_oid_sql()?)
            .replace("{written_here}", WRITTEN_HERE);
        self.reader()?;
        let found: QueryResult<Vec<Name>> =
            diesel::sql_query(sql).load(&mut self.pooled.connection()?.connection);
        let found = found.map_err(|error| self.failed("cannot check what the migrations changed", &error))?;
        match found.into_iter().next() {
            None => Ok(()),
            Some(Name { name }) => Err(Error::new(
                ErrorKind::Catalog,
                format!("a migration changes {name}, which is outside the project's schema"),
            )
            .with_hint(
                "a migration may change only one project's schema, since it runs once for each project",
            )),
        }
    }
}
