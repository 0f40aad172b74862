//! What the projects of a database share: extensions and schemas beside their own.
//!
//! Creates extensions once for the database. Copies the shared schemas into scratch databases, where the schemas of
//! projects refer to them.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connect::ConnectionGuard;
use super::failure::convert_error;
use super::session::{PostgresSession, TransactionOwner};
use super::{PostgresStore, pg_dump};
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::extension::Extension;
use crate::sql::{quote_name, quote_text};
use crate::store::Step;

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Statements that create the shared schemas and the extensions in them. A dump of schemas has no extensions.
const EXTENSIONS: &str = "
SELECT name FROM (
    SELECT 0 AS part, format('CREATE SCHEMA IF NOT EXISTS %I', nspname) AS name FROM pg_namespace WHERE nspname IN ({shared})
    UNION ALL
    SELECT 1, format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I CASCADE', e.extname, n.nspname)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname IN ({shared})
) statements ORDER BY part, name";

/// The tables of shared schemas whose rows are not needed: no foreign key of a project leads to them, directly or
/// through other shared tables.
const UNREFERENCED: &str = "
WITH RECURSIVE shared AS (
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ({shared}) AND c.relkind IN ('r', 'p')
), referenced AS (
    SELECT DISTINCT k.confrelid AS oid FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid IN (SELECT oid FROM shared)
    AND k.conrelid NOT IN (SELECT oid FROM shared)
    UNION SELECT k.confrelid FROM pg_constraint k JOIN referenced r ON k.conrelid = r.oid WHERE k.contype = 'f'
), rows AS (
    SELECT oid FROM referenced UNION SELECT i.inhrelid FROM pg_inherits i JOIN referenced r ON r.oid = i.inhparent
)
SELECT name FROM shared WHERE oid NOT IN (SELECT oid FROM rows) ORDER BY name";

impl PostgresStore {
    /// Copies the shared schemas of this store's database into a scratch database: their extensions and objects, and the
    /// rows that foreign keys of projects need.
    pub(super) fn copy_shared_to(&self, scratch: &Self) -> Result<()> {
        if self.options.shared.is_empty() {
            return Ok(());
        }
        let failed = |error| convert_error("cannot copy the shared schemas", self.target(), &error);
        let shared: Vec<String> = self.options.shared.iter().map(|schema| quote_text(schema)).collect();
        let names = |sql: &str| -> Result<Vec<String>> {
            let sql = sql.replace("{shared}", &shared.join(", "));
            let mut pooled = self.connections.get()?;
            let rows: Vec<Name> =
                diesel::sql_query(sql).load(&mut pooled.connection()?.connection).map_err(failed)?;
            Ok(rows.into_iter().map(|row| row.name).collect())
        };
        let mut pooled = scratch.connections.get()?;
        for statement in names(EXTENSIONS)? {
            pooled.connection()?.connection.batch_execute(&statement).map_err(failed)?;
        }
        drop(pooled);
        let folder = private_folder()?;
        let file = folder.path().join("shared").display().to_string();
        let mut dump = vec![
            "--format=custom".into(),
            "--compress=0".into(),
            "--no-owner".into(),
            "--no-privileges".into(),
            format!("--file={file}"),
            format!("--lock-wait-timeout={}", self.options.lock_timeout.as_millis().max(1)),
        ];
        // The options take patterns; quotes make them literal names.
        dump.extend(self.options.shared.iter().map(|schema| format!("--schema={}", quote_name(schema))));
        dump.extend(names(UNREFERENCED)?.iter().map(|table| format!("--exclude-table-data={table}")));
        let dump: Vec<&str> = dump.iter().map(String::as_str).collect();
        pg_dump::run(self.client_folder()?, "pg_dump", self.target(), &dump)?;
        let mut restore: Vec<String> =
            vec!["--exit-on-error".into(), "--no-owner".into(), "--no-privileges".into()];
        // Only what is in the schemas, not the schemas, which exist.
        restore.extend(self.options.shared.iter().map(|schema| format!("--schema={schema}")));
        restore.push(file);
        let restore: Vec<&str> = restore.iter().map(String::as_str).collect();
        pg_dump::run(self.client_folder()?, "pg_restore", scratch.target(), &restore)
    }
}

impl PostgresSession<'_> {
    /// Creates the extensions that these scripts need, unless they exist: once for the database, and durably. In a
    /// transaction that is not committed, they are part of it.
    pub(super) fn ensure_extensions(&mut self, steps: &[Step<'_>]) -> Result<()> {
        for step in steps {
            for extension in step.script.extensions() {
                self.ensure_extension(extension).map_err(|error| {
                    error.in_migration(step.migration.label()).at(step.script.path(), None)
                })?;
            }
        }
        Ok(())
    }

    fn ensure_extension(&mut self, extension: &Extension) -> Result<()> {
        let store = self.store;
        let mut created = store.extensions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if created.contains(&extension.name) {
            return Ok(());
        }
        if self.transaction_owner == TransactionOwner::Caller {
            self.reader()?;
            return create(store, &mut self.pooled, extension);
        }
        // A connection of its own: the extension stays, whatever becomes of the project.
        let mut pooled = store.connections.get()?;
        let failed = |error| convert_error("cannot create the extension", store.target(), &error);
        pooled.connection()?.begin("").map_err(failed)?;
        create(store, &mut pooled, extension)?;
        pooled.connection()?.connection.batch_execute("COMMIT").map_err(failed)?;
        created.insert(extension.name.clone());
        Ok(())
    }
}

/// Creates an extension and its schema in the current transaction, unless they exist. Waits for others that do the same.
fn create(store: &PostgresStore, pooled: &mut ConnectionGuard<'_>, extension: &Extension) -> Result<()> {
    let connection = &mut pooled.connection()?.connection;
    let schema = store.options.extension_schema(extension.schema.as_deref());
    let exists = format!(
        "SELECT extname::text AS name FROM pg_extension WHERE extname = {}",
        quote_text(&extension.name)
    );
    let missing_schema = format!(
        "SELECT 'missing' AS name WHERE to_regnamespace({}) IS NULL",
        quote_text(&quote_name(&schema))
    );
    let run = || -> QueryResult<()> {
        connection
            .batch_execute("SELECT pg_advisory_xact_lock(hashtextextended('tenantry extensions', 0))")?;
        if diesel::sql_query(exists).get_result::<Name>(connection).optional()?.is_some() {
            return Ok(());
        }
        if diesel::sql_query(missing_schema).get_result::<Name>(connection).optional()?.is_some() {
            connection.batch_execute(&format!("CREATE SCHEMA {}", quote_name(&schema)))?;
        }
        connection.batch_execute(&extension.create_sql(Some(&schema)))
    };
    run().map_err(|error| {
        let what = format!("cannot create the extension {}", extension.name);
        let error = convert_error(&what, store.target(), &error);
        let is_temporary = matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Locked);
        if is_temporary { error } else { with_extension_hint(error, extension, &schema) }
    })
}

fn with_extension_hint(error: Error, extension: &Extension, schema: &str) -> Error {
    error.with_hint(format!(
        "if it is not installed on the server, install its package; if this role may not create it, let an administrator \
         run once: {}",
        extension.create_sql(Some(schema))
    ))
}
