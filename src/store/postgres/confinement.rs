//! Checks on the server that migrations changed nothing outside their schema.
//!
//! The SQL text may hide such a change (a function that writes elsewhere, a statement assembled at run time). The
//! server shows it: a transaction holds a lock on each table that it writes, and a created object has a catalog row
//! with the transaction's ID.

use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{quote_name, quote_text};

/// Tables of other schemas that this transaction may have written or changed, and database-wide objects that it
/// created. Foreign key checks do not appear: they take a weaker lock. Locks on tables in shared schemas come last: a
/// foreign key that leads to such a table locks it as well when it is created or dropped.
const OUTSIDE: &str = "
SELECT name, is_shared FROM (
SELECT format('%s.%s', n.nspname, c.relname) AS name, n.nspname = ANY ({shared}) AND l.mode <> 'RowExclusiveLock' AS is_shared FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND n.nspname NOT IN ({schema}, 'pg_catalog', 'pg_toast', 'information_schema') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
    AND NOT ({created_with_extension})
UNION ALL SELECT format('the server''s %s', c.relname), false FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.database = 0 AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock')
    AND c.relname IN ('pg_authid', 'pg_auth_members', 'pg_database', 'pg_tablespace', 'pg_db_role_setting', 'pg_parameter_acl')
UNION ALL SELECT 'a cast', false FROM pg_cast c WHERE {written_here} AND NOT ({of_extension})
UNION ALL SELECT format('access method %s', amname), false FROM pg_am c WHERE {written_here} AND NOT ({of_extension})
UNION ALL SELECT format('extension %s', extname), false FROM pg_extension WHERE extnamespace = {schema_oid}
UNION ALL SELECT format('event trigger %s', evtname), false FROM pg_event_trigger WHERE {written_here}
UNION ALL SELECT format('publication %s', pubname), false FROM pg_publication WHERE {written_here}
UNION ALL SELECT format('language %s', lanname), false FROM pg_language c WHERE {written_here} AND NOT ({of_extension})
UNION ALL SELECT format('server %s', srvname), false FROM pg_foreign_server WHERE {written_here}
UNION ALL SELECT format('foreign-data wrapper %s', fdwname), false FROM pg_foreign_data_wrapper c WHERE {written_here} AND NOT ({of_extension})
UNION ALL SELECT format('schema %s', nspname), false FROM pg_namespace n WHERE {written_here} AND nspname <> {schema}
    AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extnamespace = n.oid AND {extension_written_here})
) found ORDER BY is_shared LIMIT 1";

/// The files of a schema's relations. A table that is truncated or rewritten gets a new one.
const FILES: &str = "SELECT coalesce(string_agg(concat(oid, ' ', pg_relation_filenode(oid)), ',' ORDER BY oid), '') AS name, false AS is_shared \
    FROM pg_class WHERE relnamespace = to_regnamespace({schema})";

/// The condition that the object `c` belongs to an extension. The transaction that builds the reference creates extensions
/// that do not exist yet, and is rolled back.
const OF_EXTENSION: &str =
    "EXISTS (SELECT FROM pg_depend d WHERE d.classid = c.tableoid AND d.objid = c.oid AND d.deptype = 'e')";

/// The condition that this transaction, or one of its subtransactions, wrote a catalog row. The row is visible, so if
/// its transaction is in progress it is this one. Older transactions are excluded first, because the server may no
/// longer know their status.
fn written_here(alias: &str) -> String {
    format!(
        "age({alias}xmin) <= age(pg_current_xact_id()::xid) AND pg_xact_status((\
         ((pg_current_xact_id()::text::bigint >> 32) << 32) | {alias}xmin::text::bigint)::text::xid8) = 'in progress'"
    )
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Text)]
    name: String,
    /// Whether it is in a shared schema, and its rows were not written.
    #[diesel(sql_type = Bool)]
    is_shared: bool,
}

impl PostgresSession<'_> {
    /// Fails with `Catalog` if this transaction changed anything outside the schema.
    pub(super) fn require_confined(&mut self) -> Result<()> {
        let sql = OUTSIDE
            .replace("{schema}", &quote_text(&self.name))
            .replace("{shared}", &shared_list(&self.store.options.shared))
            .replace("{schema_oid}", &self.schema_oid_sql()?)
            .replace("{created_with_extension}", &format!("{OF_EXTENSION} AND {}", written_here("c.")))
            .replace("{extension_written_here}", &written_here("e."))
            .replace("{of_extension}", OF_EXTENSION)
            .replace("{written_here}", &written_here(""));
        self.reader()?;
        let found: QueryResult<Option<Found>> =
            diesel::sql_query(sql).get_result(&mut self.pooled.connection()?.connection).optional();
        let found = found.map_err(|error| self.failed("cannot check what the migrations changed", &error))?;
        match found {
            None => Ok(()),
            Some(found) if found.is_shared && !self.has_changed_shared_schema()? => Ok(()),
            Some(Found { name, .. }) => Err(Error::new(
                ErrorKind::Catalog,
                format!("a migration changes {name}, which is outside the project's schema"),
            )
            .with_hint(
                "a migration may change only one project's schema, since it runs once for each project; foreign keys may lead to \
                 schemas that all projects share: [store] shared in tenantry.toml",
            )),
        }
    }

    /// Whether a shared schema is not as other sessions see it. They do not see what this transaction changed.
    fn has_changed_shared_schema(&mut self) -> Result<bool> {
        let store = self.store;
        let mut others = store.connections.get()?;
        for schema in &store.options.shared {
            let here = (self.reader()?.schema(schema)?.schema.fingerprint(), self.files_of(schema)?);
            let fingerprint = store.reader(others.connection()?).schema(schema)?.schema.fingerprint();
            let files = files_of(&mut others.connection()?.connection, schema);
            let files = files.map_err(|error| self.failed("cannot read the shared schemas", &error))?;
            if here != (fingerprint, files) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn files_of(&mut self, schema: &str) -> Result<String> {
        let files = files_of(&mut self.pooled.connection()?.connection, schema);
        files.map_err(|error| self.failed("cannot read the shared schemas", &error))
    }
}

fn files_of(connection: &mut PgConnection, schema: &str) -> QueryResult<String> {
    let sql = FILES.replace("{schema}", &quote_text(&quote_name(schema)));
    diesel::sql_query(sql).get_result::<Found>(connection).map(|found| found.name)
}

/// The shared schemas as an array of SQL.
fn shared_list(shared: &[String]) -> String {
    let names: Vec<String> = shared.iter().map(|schema| quote_text(schema)).collect();
    format!("ARRAY[{}]::text[]", names.join(", "))
}
