//! Snapshots of schemas: takes one, restores it into a scratch database, and puts it in a project's place.
//!
//! Never renames a schema in the text of a dump, because that could change data. The server renames it, in a scratch
//! database that is dropped afterwards.

use std::path::Path;
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connect::{Connections, Timeouts};
use super::leftovers::{Claim, PrivateName};
use super::session::{PostgresSession, TransactionOwner};
use super::{Isolation, OWN, PostgresOptions, PostgresStore, pg_dump};
use crate::disk::{already_exists, private_folder};
use crate::error::Result;
use crate::project::ProjectId;
use crate::sql::{quote_name, quote_text};
use crate::store::cache::SchemaCache;
use crate::store::{ExclusiveProject, Mode, Replaced, Session, Snapshot, SnapshotFile, Store};

pub(super) const DEFAULT_MODE: Mode = Mode::PLAIN;

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Takes a snapshot of a project.
pub(super) fn snapshot_to(store: &PostgresStore, id: &ProjectId, file: &Path) -> Result<Snapshot> {
    let mut session = store.session(id)?;
    session.begin_reading()?;
    session.take_snapshot(file)
}

/// Opens a session that holds the project's lock and keeps others from changing its rows.
pub(super) fn lock_exclusive<'a>(store: &'a PostgresStore, id: &ProjectId) -> Result<PostgresSession<'a>> {
    let mut session = store.session(id)?;
    session.begin(DEFAULT_MODE)?;
    session.require_schema()?;
    session.lock_tables()?;
    Ok(session)
}

/// Calls `work` with a locked project in a transaction that is rolled back.
pub(super) fn with_rollback(
    store: &PostgresStore,
    id: &ProjectId,
    work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
) -> Result<()> {
    let mut session = store.session(id)?;
    session.begin(DEFAULT_MODE)?;
    session.require_schema()?;
    session.transaction_owner = TransactionOwner::Caller;
    let result = work(&mut session);
    session.transaction_owner = TransactionOwner::Session;
    let rolled_back = session.rollback();
    result.and(rolled_back)
}

/// Restores a snapshot into a scratch database and calls `work` with its schema.
pub(super) fn restore_scratch(
    store: &PostgresStore,
    snapshot: SnapshotFile<'_>,
    work: &mut dyn FnMut(&mut PostgresSession<'_>) -> Result<()>,
) -> Result<()> {
    restore_copy(store, store, snapshot, work)
}

/// Calls `work` with a store in a scratch database that has copies of these projects.
pub(super) fn with_copies(
    store: &PostgresStore,
    ids: &[ProjectId],
    work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::new(store)?;
    for id in ids {
        let folder = private_folder()?;
        let file = folder.path().join("copy");
        let Snapshot { place, needs, access, .. } = snapshot_to(store, id, &file)?;
        let copies = scratch.store();
        let mut session = PostgresSession::new(&copies, copies.connections.get()?, place.clone());
        let snapshot = SnapshotFile { file: &file, place: &place, needs: &needs, access: &access };
        copies.restore(snapshot, &mut session).map_err(|error| error.in_project(id))?;
    }
    work(Arc::new(scratch.store()))
}

/// Restores a snapshot of a project of `source` into a scratch database on the server of `store`.
pub(super) fn restore_copy(
    store: &PostgresStore,
    source: &PostgresStore,
    snapshot: SnapshotFile<'_>,
    work: &mut dyn FnMut(&mut PostgresSession<'_>) -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::with_shared_of(store, source)?;
    let scratch_store = scratch.store();
    let pooled = scratch_store.connections.get()?;
    let mut session = PostgresSession::new(&scratch_store, pooled, snapshot.place.to_string());
    scratch_store.restore(snapshot, &mut session)?;
    work(&mut session)
}

/// Creates a project from a snapshot. Returns notes on the owners and privileges that could not be set.
pub(super) fn restore_as(
    store: &PostgresStore,
    id: &ProjectId,
    snapshot: SnapshotFile<'_>,
) -> Result<Vec<String>> {
    let staged = StagedSchema::new(store, snapshot)?;
    let mut session = store.session(id)?;
    session.begin(DEFAULT_MODE)?;
    if session.schema_info.is_some() {
        return Err(already_exists());
    }
    session.install(&staged.claim.name, snapshot.place)?;
    session.ensure_role()?;
    session.record_restored_state()?;
    session.commit()?;
    Ok(staged.notes.clone())
}

/// A scratch database, which is deleted when this value is dropped.
pub(super) struct Scratch<'a> {
    store: &'a PostgresStore,
    claim: Claim,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(store: &'a PostgresStore) -> Result<Self> {
        Self::with_shared_of(store, store)
    }

    /// Creates one on the server of `store`, with a copy of the schemas that the projects of `source` share.
    fn with_shared_of(store: &'a PostgresStore, source: &PostgresStore) -> Result<Self> {
        let claim = Claim::new(store, PrivateName::Database)?;
        let mut pooled = store.connections.get()?;
        let connection = &mut pooled.connection()?.connection;
        let mut create = || -> QueryResult<()> {
            let locale: Value = diesel::sql_query(
                "SELECT format('ENCODING %L LC_COLLATE %L LC_CTYPE %L', pg_encoding_to_char(encoding), datcollate, datctype) \
                 AS value FROM pg_database WHERE datname = current_database()",
            )
            .get_result(connection)?;
            connection.batch_execute(&format!(
                "CREATE DATABASE {} TEMPLATE template0 {}",
                quote_name(&claim.name),
                locale.value
            ))
        };
        create().map_err(|error| {
            super::failure::convert_error("cannot create a temporary database", store.target(), &error)
                .with_hint(
                    "backups and imports are loaded into a temporary database: grant the role CREATEDB",
                )
        })?;
        let scratch = Self { store, claim };
        source.copy_shared_to(&scratch.store())?;
        Ok(scratch)
    }

    /// A store in this database, with the same schema names.
    pub(super) fn store(&self) -> PostgresStore {
        let options = PostgresOptions { spares: 0, isolation: Isolation::None, ..self.store.options.clone() };
        let timeouts = Timeouts { lock: options.lock_timeout, statement: options.statement_timeout };
        PostgresStore {
            connections: Connections::new(self.store.target().with("dbname", &self.claim.name), timeouts),
            fleet: Some(Connections::new(self.store.target().clone(), timeouts)),
            rehearsal: None,
            options,
            schemas: SchemaCache::new(self.store.options.ignore.clone()),
            queries: std::sync::OnceLock::new(),
            client_programs: std::sync::OnceLock::new(),
            extensions: std::sync::Mutex::default(),
            leftovers_removed: std::sync::Once::new(),
        }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // If this fails, the next command removes the database. The error would only hide the one that matters.
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_name(&self.claim.name));
        drop(self.claim.run(self.store, &sql));
    }
}

/// A snapshot restored into the fleet's database, under a private name. The schema is deleted when this value is
/// dropped, unless it was renamed.
struct StagedSchema<'a> {
    store: &'a PostgresStore,
    claim: Claim,
    /// Notes on the owners and privileges that could not be set.
    notes: Vec<String>,
}

impl<'a> StagedSchema<'a> {
    fn new(store: &'a PostgresStore, snapshot: SnapshotFile<'_>) -> Result<Self> {
        let claim = Claim::new(store, PrivateName::Restored)?;
        let name = claim.name.clone();
        let folder = private_folder()?;
        let renamed = folder.path().join("renamed");
        restore_scratch(store, snapshot, &mut |session| {
            session.begin_transaction()?;
            session.rename_schema("cannot rename the restored schema", snapshot.place, &name)?;
            session.end_transaction("COMMIT")?;
            session.store.dump(&name, &renamed, None)
        })?;
        let mut staged = Self { store, claim, notes: Vec::new() };
        let mut session = PostgresSession::new(store, store.connections.get()?, name.clone());
        store.restore(SnapshotFile { file: &renamed, place: &name, ..snapshot }, &mut session)?;
        staged.notes = std::mem::take(&mut session.refused_grants);
        Ok(staged)
    }
}

impl Drop for StagedSchema<'_> {
    fn drop(&mut self) {
        // After a rename no schema has this name. If this fails, the next command removes the schema.
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", quote_name(&self.claim.name));
        drop(self.claim.run(self.store, &sql));
    }
}

impl PostgresStore {
    pub(super) fn client_folder(&self) -> Result<&Path> {
        if let Some(folder) = self.client_programs.get() {
            return Ok(folder);
        }
        let server = self.connections.get()?.connection()?.server;
        let folder = pg_dump::find(server)?;
        Ok(self.client_programs.get_or_init(|| folder))
    }

    /// Dumps a schema to a new file. If `snapshot` is given, reads the schema in that exported snapshot of another
    /// session.
    pub(super) fn dump(&self, schema: &str, file: &Path, snapshot: Option<&str>) -> Result<()> {
        self.dump_as("--format=custom", schema, file, snapshot)
    }

    pub(super) fn dump_as(
        &self,
        format: &str,
        schema: &str,
        file: &Path,
        snapshot: Option<&str>,
    ) -> Result<()> {
        // The option takes a pattern; quotes make it a literal name.
        let schema = format!("--schema={}", quote_name(schema));
        let file = format!("--file={}", file.display());
        let wait = format!("--lock-wait-timeout={}", self.options.lock_timeout.as_millis().max(1));
        let snapshot = snapshot.map(|snapshot| format!("--snapshot={snapshot}"));
        let mut arguments =
            vec![format, "--compress=0", "--no-owner", "--no-privileges", &schema, &file, &wait];
        arguments.extend(snapshot.as_deref());
        pg_dump::run(self.client_folder()?, "pg_dump", self.target(), &arguments)
    }

    /// Restores a dump under the name that it has, all or nothing, after creating what it depends on.
    fn restore(&self, snapshot: SnapshotFile<'_>, session: &mut PostgresSession<'_>) -> Result<()> {
        for statement in snapshot.needs {
            let result = session.pooled.connection()?.connection.batch_execute(statement);
            result.map_err(|error| session.failed("cannot create what it depends on", &error))?;
        }
        let file = snapshot.file.display().to_string();
        let arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", &file];
        pg_dump::run(self.client_folder()?, "pg_restore", self.target(), &arguments)?;
        session.begin_transaction()?;
        session.find_schema()?;
        session.refused_grants = session.apply_and_verify_access(snapshot.access)?;
        session.end_transaction("COMMIT")
    }
}

impl PostgresSession<'_> {
    /// Dumps the schema to a file, and reads its inspection and its rows' hashes in the same snapshot.
    fn take_snapshot(&mut self, file: &Path) -> Result<Snapshot> {
        // This transaction is idle while the dump runs, however long that takes.
        self.batch(
            "cannot prepare the snapshot",
            "SELECT set_config('idle_in_transaction_session_timeout', '0', true)",
        )?;
        let snapshot = self.value("SELECT pg_export_snapshot() AS value")?;
        let inspection = self.inspect()?;
        let contents = crate::store::Rows::contents(self)?;
        let (needs, access) = (self.needs()?, self.access()?);
        let database =
            format!("PostgreSQL {}", self.value("SELECT current_setting('server_version') AS value")?);
        self.store.dump(&self.name, file, Some(&snapshot))?;
        Ok(Snapshot { inspection, contents, database, place: self.name.clone(), needs, access })
    }

    /// Returns the column `value` of a query's rows.
    pub(super) fn texts_of(&mut self, sql: &str) -> Result<Vec<String>> {
        let rows: QueryResult<Vec<Value>> =
            diesel::sql_query(sql).load(&mut self.pooled.connection()?.connection);
        let rows = rows.map_err(|error| self.failed("cannot query the server", &error))?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }

    fn value(&mut self, sql: &str) -> Result<String> {
        let result = diesel::sql_query(sql).get_result::<Value>(&mut self.pooled.connection()?.connection);
        result.map(|row| row.value).map_err(|error| self.failed("cannot query the server", &error))
    }

    /// Locks the tables against writes until the transaction ends. Others, such as `pg_dump`, can still read them.
    pub(super) fn lock_tables(&mut self) -> Result<()> {
        let schema = self.schema_oid_sql()?;
        let sql = format!(
            "DO $$ DECLARE name text; BEGIN FOR name IN SELECT format('%I.%I', {}, relname) FROM pg_catalog.pg_class \
             WHERE relnamespace = {schema} AND relkind IN ('r', 'p') ORDER BY relname LOOP \
             EXECUTE 'LOCK TABLE ' || name || ' IN EXCLUSIVE MODE'; END LOOP; END $$",
            quote_text(&self.name)
        );
        self.batch("cannot lock its tables", &sql)
    }

    /// Renames a restored schema to this session's schema. Fails if the schema refers to another one or to `former`,
    /// its name when the snapshot was taken.
    fn install(&mut self, restored: &str, former: &str) -> Result<()> {
        let to = self.name.clone();
        self.rename_schema("cannot rename the restored schema", restored, &to)?;
        self.current = None;
        self.find_schema()?;
        self.require_no_other_schemas(former)
    }
}

impl ExclusiveProject for PostgresSession<'_> {
    fn snapshot_to(&mut self, file: &Path) -> Result<Snapshot> {
        self.take_snapshot(file)
    }

    fn remove(mut self: Box<Self>) -> Result<Vec<String>> {
        self.require_no_dependents()?;
        let notes = self.deletion_notes()?;
        PostgresSession::remove(&mut self)?;
        Ok(notes)
    }

    fn replace(mut self: Box<Self>, snapshot: SnapshotFile<'_>, old: Replaced) -> Result<Vec<String>> {
        let staged = StagedSchema::new(self.store, snapshot)?;
        let name = self.name.clone();
        let (access, publications) = (self.all_access()?, self.publications()?);
        self.reader()?;
        let aside = match old {
            Replaced::Delete => {
                self.require_no_dependents()?;
                let sql = format!("DROP SCHEMA {} CASCADE", quote_name(&name));
                self.batch("cannot delete the schema that is replaced", &sql)?;
                None
            }
            Replaced::KeepAside => {
                let aside = format!("{OWN}damaged_{}", uuid::Uuid::now_v7().simple());
                let sql = format!("ALTER SCHEMA {} RENAME TO {}", quote_name(&name), quote_name(&aside));
                self.batch("cannot rename the schema that is replaced", &sql)?;
                Some(format!("the replaced schema is kept as {aside}"))
            }
        };
        self.install(&staged.claim.name, snapshot.place)?;
        self.grant_to_role()?;
        let mut notes = staged.notes.clone();
        notes.extend(self.apply_access(&access)?);
        self.record_restored_state()?;
        // Last: `record_restored_state` updates the ledger, and Postgres refuses UPDATE on a published table without a key.
        for published in publications {
            self.batch("cannot add it to its publications again", &published)?;
        }
        self.commit()?;
        notes.extend(aside);
        Ok(notes)
    }
}
