//! Copies of schemas: dumped from one moment, restored into a database of their own, and put in a schema's place.
//!
//! It must not rename anything in a dump's text: that would rewrite data. A schema is renamed by the server, in a database of
//! its own, which is gone afterwards whatever happens.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connect::{Connections, Timeouts};
use super::leftovers::{Claim, PrivateName};
use super::session::PostgresSession;
use super::{Isolation, OWN, PostgresOptions, PostgresStore, pg_dump};
use crate::disk::{exists, private_folder};
use crate::error::Result;
use crate::project::ProjectId;
use crate::sql::{quote_name, quote_text};
use crate::store::cache::SchemaCache;
use crate::store::{ExclusiveProject, Mode, Replaced, Session, Snapshot, SnapshotFile};

pub(super) const ALONE: Mode = Mode::PLAIN;

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Copies a schema as it is at this moment.
pub(super) fn snapshot_to(store: &PostgresStore, id: &ProjectId, file: &Path) -> Result<Snapshot> {
    let mut session = store.session(id)?;
    session.begin_reading()?;
    session.copy_out(file)
}

/// A schema whose rows nobody else can change.
pub(super) fn lock_exclusive<'a>(store: &'a PostgresStore, id: &ProjectId) -> Result<PostgresSession<'a>> {
    let mut session = store.session(id)?;
    session.begin(ALONE)?;
    session.place()?;
    session.lock_tables()?;
    Ok(session)
}

/// Lets `work` have the schema of a snapshot, in a database of its own.
pub(super) fn restore_scratch(
    store: &PostgresStore,
    snapshot: SnapshotFile<'_>,
    work: &mut dyn FnMut(&mut PostgresSession<'_>) -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::new(store)?;
    let own = scratch.store();
    let mut session = PostgresSession::new(&own, own.connections.get()?, snapshot.place.to_string());
    own.restore(snapshot, &mut session)?;
    work(&mut session)
}

/// Makes a project of a copy; says what of it could not be given to whom it was granted.
pub(super) fn restore_as(
    store: &PostgresStore,
    id: &ProjectId,
    snapshot: SnapshotFile<'_>,
) -> Result<Vec<String>> {
    let staged = StagedSchema::new(store, snapshot)?;
    let mut session = store.session(id)?;
    session.begin(ALONE)?;
    if session.place.is_some() {
        return Err(exists());
    }
    session.put(&staged.claim.name, snapshot.place)?;
    session.ensure_role()?;
    session.remember_state()?;
    session.commit()?;
    Ok(staged.notes.clone())
}

/// A database of its own, gone when this is dropped.
pub(super) struct Scratch<'a> {
    store: &'a PostgresStore,
    claim: Claim,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(store: &'a PostgresStore) -> Result<Self> {
        let claim = Claim::new(store, PrivateName::Database)?;
        let mut pooled = store.connections.get()?;
        let connection = &mut pooled.link()?.connection;
        let mut make = || -> QueryResult<()> {
            let same: Value = diesel::sql_query(
                "SELECT format('ENCODING %L LC_COLLATE %L LC_CTYPE %L', pg_encoding_to_char(encoding), datcollate, datctype) \
                 AS value FROM pg_database WHERE datname = current_database()",
            )
            .get_result(connection)?;
            connection.batch_execute(&format!(
                "CREATE DATABASE {} TEMPLATE template0 {}",
                quote_name(&claim.name),
                same.value
            ))
        };
        make().map_err(|error| {
            super::failure::describe("cannot make a database to restore into", store.target(), &error)
                .with_hint("a backup is restored into a database of its own: give the role CREATEDB")
        })?;
        Ok(Self { store, claim })
    }

    /// The same schemas' names, in this database.
    pub(super) fn store(&self) -> PostgresStore {
        let options = PostgresOptions { spares: 0, isolation: Isolation::None, ..self.store.options.clone() };
        let timeouts = Timeouts { lock: options.lock_timeout, statement: options.statement_timeout };
        PostgresStore {
            connections: Connections::new(self.store.target().with("dbname", &self.claim.name), timeouts),
            fleet: Some(Connections::new(self.store.target().clone(), timeouts)),
            options,
            schemas: SchemaCache::default(),
            queries: std::sync::OnceLock::new(),
            tools: std::sync::OnceLock::new(),
            swept: std::sync::Once::new(),
        }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What can't be dropped now the next command removes; the error that counts is another one.
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_name(&self.claim.name));
        drop(self.claim.run(self.store, &sql));
    }
}

/// A copy in the fleet's own database, under a name that is no project's; gone when this is dropped, unless it was renamed.
struct StagedSchema<'a> {
    store: &'a PostgresStore,
    claim: Claim,
    /// What of it could not be given to whom it was granted.
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
            session.rename_schema("cannot rename the copy", snapshot.place, &name)?;
            session.end_transaction("COMMIT")?;
            session.store.dump(&name, &renamed, None)
        })?;
        let mut staged = Self { store, claim, notes: Vec::new() };
        let mut session = PostgresSession::new(store, store.connections.get()?, name.clone());
        store.restore(SnapshotFile { file: &renamed, place: &name, ..snapshot }, &mut session)?;
        staged.notes = std::mem::take(&mut session.withheld);
        Ok(staged)
    }
}

impl Drop for StagedSchema<'_> {
    fn drop(&mut self) {
        // After the renaming there is nothing of this name. What can't be dropped now the next command removes.
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", quote_name(&self.claim.name));
        drop(self.claim.run(self.store, &sql));
    }
}

impl PostgresStore {
    pub(super) fn tools(&self) -> Result<&Path> {
        if let Some(folder) = self.tools.get() {
            return Ok(folder);
        }
        let server = self.connections.get()?.link()?.server;
        let folder = pg_dump::find(server)?;
        Ok(self.tools.get_or_init(|| folder))
    }

    /// Dumps a schema to a file that is not there yet, as it is in a snapshot of another session where one is given.
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
        // A pattern, of which quotes make a name.
        let schema = format!("--schema={}", quote_name(schema));
        let file = format!("--file={}", file.display());
        let wait = format!("--lock-wait-timeout={}", self.options.lock_timeout.as_millis().max(1));
        let snapshot = snapshot.map(|snapshot| format!("--snapshot={snapshot}"));
        let mut arguments =
            vec![format, "--compress=0", "--no-owner", "--no-privileges", &schema, &file, &wait];
        arguments.extend(snapshot.as_deref());
        pg_dump::run(self.tools()?, "pg_dump", self.target(), &arguments)
    }

    /// Restores a dump under the name that it has, all or nothing.
    fn restore(&self, snapshot: SnapshotFile<'_>, session: &mut PostgresSession<'_>) -> Result<()> {
        for statement in snapshot.needs {
            let result = session.pooled.link()?.connection.batch_execute(statement);
            result.map_err(|error| session.failed("cannot make what it needs", &error))?;
        }
        let file = snapshot.file.display().to_string();
        let arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", &file];
        pg_dump::run(self.tools()?, "pg_restore", self.target(), &arguments)?;
        session.begin_transaction()?;
        session.look_for_it()?;
        session.withheld = session.give_copy(snapshot.access)?;
        session.end_transaction("COMMIT")
    }
}

impl PostgresSession<'_> {
    /// Dumps the schema, and sums it up as it is in that same snapshot.
    pub(super) fn copy_out(&mut self, file: &Path) -> Result<Snapshot> {
        // However long a dump takes, this transaction waits for it.
        self.batch("cannot begin", "SELECT set_config('idle_in_transaction_session_timeout', '0', true)")?;
        let snapshot = self.value("SELECT pg_export_snapshot() AS value")?;
        let inspection = self.inspect()?;
        let contents = crate::store::Rows::contents(self)?;
        let (needs, access) = (self.needs()?, self.access()?);
        let database =
            format!("PostgreSQL {}", self.value("SELECT current_setting('server_version') AS value")?);
        self.store.dump(&self.name, file, Some(&snapshot))?;
        Ok(Snapshot { inspection, contents, database, place: self.name.clone(), needs, access })
    }

    /// The one column of a query's rows, called `value`.
    pub(super) fn texts_of(&mut self, sql: &str) -> Result<Vec<String>> {
        let rows: QueryResult<Vec<Value>> = diesel::sql_query(sql).load(&mut self.pooled.link()?.connection);
        let rows = rows.map_err(|error| self.failed("cannot ask the server", &error))?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }

    fn value(&mut self, sql: &str) -> Result<String> {
        let result = diesel::sql_query(sql).get_result::<Value>(&mut self.pooled.link()?.connection);
        result.map(|row| row.value).map_err(|error| self.failed("cannot ask the server", &error))
    }

    /// Nobody may write any more; reading goes on, a dump's as well.
    pub(super) fn lock_tables(&mut self) -> Result<()> {
        let schema = self.number()?;
        let sql = format!(
            "DO $$ DECLARE name text; BEGIN FOR name IN SELECT format('%I.%I', {}, relname) FROM pg_catalog.pg_class \
             WHERE relnamespace = {schema} AND relkind IN ('r', 'p') ORDER BY relname LOOP \
             EXECUTE 'LOCK TABLE ' || name || ' IN EXCLUSIVE MODE'; END LOOP; END $$",
            quote_text(&self.name)
        );
        self.batch("cannot lock its tables", &sql)
    }

    /// Gives a copy of what was called `former` its own name.
    fn put(&mut self, copy: &str, former: &str) -> Result<()> {
        let to = self.name.clone();
        self.rename_schema("cannot give the copy its name", copy, &to)?;
        self.read = None;
        self.look_for_it()?;
        self.require_own_names(former)
    }
}

impl ExclusiveProject for PostgresSession<'_> {
    fn snapshot_to(&mut self, file: &Path) -> Result<Snapshot> {
        self.copy_out(file)
    }

    fn remove(mut self: Box<Self>) -> Result<Vec<String>> {
        self.require_alone()?;
        let notes = self.left_behind()?;
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
                self.require_alone()?;
                let sql = format!("DROP SCHEMA {} CASCADE", quote_name(&name));
                self.batch("cannot delete what is replaced", &sql)?;
                None
            }
            Replaced::KeepAside => {
                let aside = format!("{OWN}damaged_{}", uuid::Uuid::now_v7().simple());
                let sql = format!("ALTER SCHEMA {} RENAME TO {}", quote_name(&name), quote_name(&aside));
                self.batch("cannot set aside what is replaced", &sql)?;
                Some(format!("what was there is now the schema {aside}"))
            }
        };
        self.put(&staged.claim.name, snapshot.place)?;
        self.grant_again()?;
        let mut notes = staged.notes.clone();
        notes.extend(self.give(&access)?);
        self.remember_state()?;
        // Last: rows of a published table without a key can't be changed.
        for published in publications {
            self.batch("cannot publish it again", &published)?;
        }
        self.commit()?;
        notes.extend(aside);
        Ok(notes)
    }
}
