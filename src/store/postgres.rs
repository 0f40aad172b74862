//! Projects as schemas of one Postgres database.
//!
//! Behind a pooler, settings and locks last for one transaction: each may run in another server session.

mod access;
mod application;
mod bulk_inspect;
mod catalog;
mod catalog_rows;
mod commit;
mod confinement;
mod connect;
mod connection_url;
mod create;
mod diagnose;
mod discover;
mod explain;
mod external_references;
mod failure;
mod footprints;
mod journal_tables;
mod ledger;
mod leftovers;
mod names;
mod options;
mod pg_dump;
mod queries;
mod roles;
mod rows;
mod script;
mod session;
mod shared;
mod snapshot;
mod sql_text;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::catalog::Catalog;
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Inspection;
use crate::project::ProjectId;
use crate::sql::Dialect;
use crate::store::cache::SchemaCache;
use crate::store::connection::Connector;
use crate::store::{
    Create, DatabaseMaintenance, DeferredCommits, Discovery, ExclusiveProject, Finding, Footprint, IfInUse,
    Inspect, LoadedSql, ReadSchema, Rows, Session, Snapshot, SnapshotFile, Snapshots, SpareStore, Spares,
    SqlText, Store, Template,
};

use catalog::Reader;
use connect::{Connections, Server, ServerConnection, Timeouts};
use connection_url::ConnectionUrl;
use queries::Queries;
use session::PostgresSession;

pub(crate) use journal_tables::{JournalTables, OpenRun};
pub use options::{Isolation, PostgresOptions};

/// The longest name of a schema, in bytes. Postgres silently truncates longer names, so two ids could share a schema.
const MAX_NAME: usize = 63;
/// The prefix of tenantry's own schemas.
const OWN: &str = "tenantry_";
/// The most schemas in one bulk inspection. The server process remembers every table it has seen; see `connect`.
const MAX_BATCH: usize = 1_000;
/// How many batches a small fleet is divided into: two are read in parallel. More
/// would only repeat the server's query planning.
const BATCHES: usize = 2;
/// A smaller batch is not worth its round trips.
const MIN_BATCH: usize = 64;

/// The number of connections that measured best; see `docs/performance.md`.
const JOBS: usize = 4;

/// A Postgres database with a schema for each project.
pub struct PostgresStore {
    options: PostgresOptions,
    connections: Connections,
    /// The connections to the fleet's database, if this store is a scratch database beside it.
    fleet: Option<Connections>,
    /// The server on which copies are upgraded in a rehearsal, if it is another one.
    rehearsal: Option<Box<PostgresStore>>,
    schemas: SchemaCache,
    /// The queries on the server's system catalogs, for its version.
    queries: OnceLock<Arc<Queries>>,
    /// The folder with `pg_dump` and `pg_restore`.
    client_programs: OnceLock<PathBuf>,
    /// The extensions that are known to exist. The lock is held while one is created.
    extensions: Mutex<BTreeSet<String>>,
    /// Whether the leftovers of killed processes were removed.
    leftovers_removed: Once,
}

/// The folder name for a database's backups and journal: `DATABASE@HOST-PORT`.
pub(crate) fn folder_name(url: &str) -> String {
    ConnectionUrl::parse(url).map_or_else(|_| "default".into(), |target| target.folder_name())
}

impl PostgresStore {
    /// Creates a store for `postgres://user:password@host:port/database`. libpq takes missing parts from its environment
    /// variables. Does not connect.
    ///
    /// Fails with [`ErrorKind::Configuration`] if the URL is invalid. The error does not repeat the URL, which may have a
    /// password.
    pub fn new(url: &str, options: PostgresOptions) -> Result<Self> {
        let target = ConnectionUrl::parse(url)?;
        let timeouts = Timeouts { lock: options.lock_timeout, statement: options.statement_timeout };
        let of_copies = || PostgresOptions { rehearse_on: None, ..options.clone() };
        let rehearsal = options.rehearse_on.as_deref().map(|url| Self::new(url, of_copies())).transpose()?;
        let rehearsal = rehearsal.map(Box::new);
        Ok(Self {
            connections: Connections::new(target, timeouts),
            fleet: None,
            rehearsal,
            schemas: SchemaCache::new(options.ignore.clone()),
            options,
            queries: OnceLock::new(),
            client_programs: OnceLock::new(),
            extensions: Mutex::default(),
            leftovers_removed: Once::new(),
        })
    }

    fn target(&self) -> &ConnectionUrl {
        self.connections.target()
    }

    /// The name of a project's schema. Fails without connecting if the id cannot be part of a schema name.
    fn name(&self, id: &ProjectId) -> Result<String> {
        let name = self.options.pattern.name(id);
        let refuse = |fault: String| {
            Err(Error::new(ErrorKind::Usage, fault)
                .in_project(id)
                .with_hint("on Postgres an id has only a-z 0-9 _ -, and its schema name at most 63 bytes"))
        };
        if id.as_str().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return refuse(format!(
                "project id {:?} has upper-case letters, which Postgres folds to lower case in unquoted names",
                id.as_str()
            ));
        }
        if name.len() > MAX_NAME {
            return refuse(format!(
                "its schema name would have {} bytes, and Postgres truncates names to 63",
                name.len()
            ));
        }
        if name.starts_with(OWN) || name.starts_with("pg_") || name == "information_schema" {
            return refuse(format!("its schema name would be {name}, which is reserved"));
        }
        Ok(name)
    }

    /// Retries work that only reads over a new connection if it lost its connection, until the reconnect timeout. Does not
    /// wait for a server that was never reached.
    fn retry_read<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut deadline = None;
        loop {
            match work() {
                Err(error) if error.kind() == ErrorKind::Disconnected && self.connections.was_reached() => {
                    let deadline =
                        *deadline.get_or_insert_with(|| Instant::now() + self.options.reconnect_timeout);
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    backoff.sleep();
                }
                other => return other,
            }
        }
    }

    fn queries(&self, server: Server) -> Arc<Queries> {
        Arc::clone(
            self.queries
                .get_or_init(|| Arc::new(Queries::new(server.version, &self.schemas.ignore().mark()))),
        )
    }

    /// Reads the server's system catalogs over a connection.
    fn reader<'a>(&'a self, link: &'a mut ServerConnection) -> Reader<'a> {
        Reader {
            target: self.target(),
            queries: self.queries(link.server),
            schemas: &self.schemas,
            connection: &mut link.connection,
        }
    }

    fn session(&self, id: &ProjectId) -> Result<PostgresSession<'_>> {
        let name = self.name(id)?;
        Ok(PostgresSession::new(self, self.connections.get()?, name))
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the schema {name} does not exist"))
        .with_hint("list the projects: tenantry list")
}

impl Store for PostgresStore {
    fn pattern(&self) -> String {
        self.options.pattern.to_string()
    }

    fn location(&self) -> String {
        self.target().location()
    }

    fn is_at(&self, location: &str) -> bool {
        // The user of the URL does not matter.
        let place = |location: &str| {
            location.rsplit_once('@').map_or_else(
                || location.trim_start_matches("postgres://").to_string(),
                |(_, place)| place.to_string(),
            )
        };
        place(&self.location()) == place(location)
    }

    fn place(&self, id: &ProjectId) -> String {
        self.options.pattern.name(id)
    }

    fn validate_id(&self, id: &ProjectId) -> Result<()> {
        self.name(id).map(|_| ())
    }

    fn diagnose(&self) -> Vec<Finding> {
        diagnose::diagnose(self)
    }

    fn explain_failure(&self, message: &str) -> Option<String> {
        explain::explain(self, message)
    }

    fn sweep(&self) -> Result<Vec<String>> {
        leftovers::sweep(self)
    }

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn exists(&self) -> bool {
        // A database cannot be missing: connecting to it fails.
        true
    }

    fn deferred_commits(&self) -> Option<&dyn DeferredCommits> {
        Some(self)
    }

    fn maintain(&self, id: &ProjectId, maintenance: DatabaseMaintenance) -> Result<()> {
        self.session(id)
            .and_then(|mut session| session.maintain(maintenance))
            .map_err(|error| error.in_project(id))
    }

    fn lanes(&self) -> Vec<usize> {
        vec![JOBS]
    }

    fn retries(&self) -> u32 {
        self.options.retries
    }

    fn supports_begin_if_unchanged(&self) -> bool {
        true
    }

    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(self.session(id).map_err(|error| error.in_project(id))?))
    }

    fn connector(&self, id: &ProjectId) -> Result<Connector> {
        let name = self.name(id)?;
        let target = match self.options.isolation {
            Isolation::None => {
                let path = self.options.search_path(&name).replace('\\', "\\\\").replace(' ', "\\ ");
                self.target().with("options", &format!("-c search_path={path}"))
            }
            // The role has its search_path as a default, which works through any pooler. libpq looks up its password.
            Isolation::Role => self.target().with_user(&name),
        };
        Ok(Box::new(move || application::connect(&target, &name)))
    }
}

impl Inspect for PostgresStore {
    fn discover(&self) -> Result<Discovery> {
        self.retry_read(|| discover::discover(self))
    }

    fn inspect(&self, ids: &[ProjectId], read_schema: ReadSchema) -> Vec<Result<Inspection>> {
        let inspections = bulk_inspect::inspect(self, ids, read_schema);
        inspections.into_iter().zip(ids).map(|(it, id)| it.map_err(|error| error.in_project(id))).collect()
    }

    fn inspect_batch_size(&self, projects: usize) -> usize {
        projects.div_ceil(BATCHES).clamp(MIN_BATCH, MAX_BATCH)
    }

    fn ledger_verifies_schemas(&self) -> bool {
        true
    }

    fn footprints(&self, ids: &[ProjectId]) -> Result<Vec<Footprint>> {
        self.retry_read(|| footprints::footprints(self, ids))
    }

    fn definitions(&self, id: &ProjectId) -> Result<Vec<String>> {
        sql_text::definitions(self, &self.name(id)?).map_err(|error| error.in_project(id))
    }

    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()> {
        let read = || {
            let mut session = self.session(id)?;
            session.begin_reading()?;
            work(&mut session)
        };
        self.retry_read(read).map_err(|error| error.in_project(id))
    }
}

impl Create for PostgresStore {
    fn spares(&self) -> Option<&dyn SpareStore> {
        (self.options.spares > 0).then_some(self as &dyn SpareStore)
    }

    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()> {
        create::create(self, id, template).map_err(|error| error.in_project(id))
    }

    fn scratch_definitions(
        &self,
        _catalog: &Catalog,
        fill: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Vec<String>> {
        self.retry_read(|| create::scratch_definitions(self, fill))
    }

    fn scratch(&self, catalog: &Catalog, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        self.retry_read(|| create::scratch(self, catalog, work))
    }
}

impl Snapshots for PostgresStore {
    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot> {
        self.retry_read(|| snapshot::snapshot_to(self, id, file)).map_err(|error| error.in_project(id))
    }

    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        self.retry_read(|| snapshot::restore_scratch(self, snapshot, &mut |session| work(session)))
    }

    fn with_copy(&self, id: &ProjectId, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        let mut copy = || {
            let folder = private_folder()?;
            let file = folder.path().join("copy");
            let Snapshot { place, needs, access, .. } = self.snapshot_to(id, &file)?;
            let snapshot = SnapshotFile { file: &file, place: &place, needs: &needs, access: &access };
            let server = self.rehearsal.as_deref().unwrap_or(self);
            self.retry_read(|| snapshot::restore_copy(server, self, snapshot, &mut |session| work(session)))
        };
        copy().map_err(|error| error.in_project(id))
    }

    fn with_copies(
        &self,
        ids: &[ProjectId],
        work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
    ) -> Result<()> {
        // Another server is not as fast as this one.
        if self.rehearsal.is_some() { Ok(()) } else { snapshot::with_copies(self, ids, work) }
    }

    fn can_roll_back(&self) -> bool {
        true
    }

    fn with_rollback(
        &self,
        id: &ProjectId,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        snapshot::with_rollback(self, id, work).map_err(|error| error.in_project(id))
    }

    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>> {
        snapshot::restore_as(self, id, snapshot).map_err(|error| error.in_project(id))
    }

    fn lock_exclusive(&self, id: &ProjectId, _if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>> {
        // `if_in_use` does not matter here: connected sessions look the schema up by its name, and so reach the new one.
        Ok(Box::new(snapshot::lock_exclusive(self, id).map_err(|error| error.in_project(id))?))
    }
}

impl SqlText for PostgresStore {
    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        sql_text::dump(self, id, out).map_err(|error| error.in_project(id))
    }

    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql> {
        sql_text::load(self, text, file)
    }
}

impl SpareStore for PostgresStore {
    fn top_up(&self, template: Template<'_>) -> Result<Spares> {
        create::top_up_spares(self, template)
    }
}
