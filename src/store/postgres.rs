//! Projects as schemas of one Postgres database.
//!
//! It must not let anything of a project reach another schema, and must not rely on what a session remembers: behind a
//! pooler each transaction may run in another one. Settings are made for one transaction, locks are a transaction's.

mod access;
mod bulk_inspect;
mod catalog;
mod catalog_rows;
mod confinement;
mod connect;
mod connection_url;
mod create;
mod diagnose;
mod discover;
mod explain;
mod external_references;
mod failure;
mod ledger;
mod leftovers;
mod names;
mod pg_dump;
mod queries;
mod roles;
mod rows;
mod script;
mod session;
mod snapshot;
mod sql_text;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Nullable, Text};

use crate::backoff::Backoff;
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Inspection;
use crate::project::{NamePattern, ProjectId};
use crate::sql::{Dialect, quote_name, quote_text};
use crate::store::cache::SchemaCache;
use crate::store::connection::{Connector, ProjectConnection};
use crate::store::{
    Discovery, ExclusiveProject, Finding, IfInUse, LoadedSql, Maintenance, ReadSchema, Rows, Session,
    Snapshot, SnapshotFile, Spares, Store, Template,
};

use catalog::Reader;
use connect::{Connections, Server, ServerConnection, Timeouts};
use connection_url::ConnectionUrl;
use queries::Queries;
use session::PostgresSession;

/// The longest name of a schema, in bytes: what is longer is cut off without a word, and two ids become one.
const MAX_NAME: usize = 63;
/// What begins the names of schemas that are tenantry's own.
const OWN: &str = "tenantry_";
/// How many schemas are surveyed at most over one connection: see `connect` for what it remembers of them.
const PART: usize = 1_000;

/// Into how many parts few schemas are divided for that: each asks the server to plan, and two are read at once.
const PARTS: usize = 2;
/// Fewer schemas are not worth another round of questions.
const SMALL_PART: usize = 64;

/// The best number of connections was measured: see `docs/design.md`.
const JOBS: usize = 4;

/// How many projects wait for the server's disk together.
const TOGETHER: usize = 8;
/// Writes a record to the server's log that changes nothing. Its commit waits for the disk, and with it all that the
/// statement sees.
const FLUSH: &str = "pg_catalog.pg_logical_emit_message(true, 'tenantry', '') IS NOT NULL";

#[derive(QueryableByName)]
struct CommitsFound {
    #[diesel(sql_type = Array<Bool>)]
    found: Vec<bool>,
}

/// A Postgres database with a schema per project.
pub struct PostgresStore {
    options: PostgresOptions,
    connections: Connections,
    /// The fleet's own database, where this store is a private copy beside it.
    fleet: Option<Connections>,
    schemas: SchemaCache,
    /// The queries on the catalogs, as the server's version wants them.
    queries: OnceLock<Arc<Queries>>,
    /// Where the server's own programs are.
    tools: OnceLock<PathBuf>,
    /// Whether it was looked for what dead processes left.
    swept: Once,
}

/// How a Postgres store behaves; the defaults suit most.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// How ids and schema names relate; default `project_{id}`.
    pub pattern: NamePattern,
    /// How long to wait for a lock, at a time; default 2 s.
    pub lock_timeout: Duration,
    /// How often a project is tried again that waited in vain; default 3.
    pub retries: u32,
    /// How long one statement of a migration may run; no limit by default.
    pub statement_timeout: Option<Duration>,
    /// How long reading is tried again that lost its connection; default 10 s.
    pub reconnect_timeout: Duration,
    /// How many schemas are kept ready to become projects; default none.
    pub spares: usize,
    /// What keeps projects apart; default nothing but their names.
    pub isolation: Isolation,
}

/// What keeps projects apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Every connection may reach every schema: a `search_path` leads to one, and is no wall.
    None,
    /// Each project has a role of its schema's name, which can log in and reaches that schema alone.
    Role,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            pattern: NamePattern::of_schemas(),
            lock_timeout: Duration::from_secs(2),
            retries: 3,
            statement_timeout: None,
            reconnect_timeout: Duration::from_secs(10),
            spares: 0,
            isolation: Isolation::None,
        }
    }
}

/// The name of a folder that is one database's own, by its URL: `DATABASE@HOST-PORT`.
pub(crate) fn folder_name(url: &str) -> String {
    ConnectionUrl::parse(url).map_or_else(|_| "default".into(), |target| target.folder_name())
}

impl PostgresStore {
    /// The store at `postgres://user:password@host:port/database`; what the URL leaves out libpq takes from its
    /// environment. Connects to nothing yet. Errors when it is no such URL; the error doesn't repeat it.
    pub fn new(url: &str, options: PostgresOptions) -> Result<Self> {
        let target = ConnectionUrl::parse(url)?;
        let timeouts = Timeouts { lock: options.lock_timeout, statement: options.statement_timeout };
        Ok(Self {
            options,
            connections: Connections::new(target, timeouts),
            fleet: None,
            schemas: SchemaCache::default(),
            queries: OnceLock::new(),
            tools: OnceLock::new(),
            swept: Once::new(),
        })
    }

    fn target(&self) -> &ConnectionUrl {
        self.connections.target()
    }

    /// A project's schema. Errors where the id can't be one's name, before anything is connected to.
    fn name(&self, id: &ProjectId) -> Result<String> {
        let name = self.options.pattern.name(id);
        let refuse = |fault: String| {
            Err(Error::new(ErrorKind::Usage, fault)
                .in_project(id)
                .with_hint("on Postgres an id is of a-z 0-9 _ -, and with its pattern at most 63 bytes long"))
        };
        if id.as_str().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return refuse(format!("project id {:?} has upper case, which unquoted names lose", id.as_str()));
        }
        if name.len() > MAX_NAME {
            return refuse(format!(
                "its schema's name would be {} bytes long, and Postgres cuts it at 63",
                name.len()
            ));
        }
        if name.starts_with(OWN) || name.starts_with("pg_") || name == "information_schema" {
            return refuse(format!("its schema's name would be {name}, which is not free"));
        }
        Ok(name)
    }

    /// Does again, over another connection, what only reads and lost its own: until it goes through, or the time for that is
    /// over. A server that was never reached is not waited for.
    fn again<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut deadline = None;
        loop {
            match work() {
                Err(error) if error.kind() == ErrorKind::Disconnected && self.connections.was_reached() => {
                    let until =
                        deadline.get_or_insert_with(|| Instant::now() + self.options.reconnect_timeout);
                    if Instant::now() >= *until {
                        return Err(error);
                    }
                    backoff.sleep();
                }
                other => return other,
            }
        }
    }

    fn queries(&self, server: Server) -> Arc<Queries> {
        Arc::clone(self.queries.get_or_init(|| Arc::new(Queries::new(server.version))))
    }

    /// Asks the catalogs over a connection.
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
    Error::new(ErrorKind::NotFound, format!("there is no schema {name}"))
        .with_hint("see which projects there are: tenantry list")
}

impl Store for PostgresStore {
    fn pattern(&self) -> String {
        self.options.pattern.to_string()
    }

    fn location(&self) -> String {
        self.target().location()
    }

    fn is_at(&self, location: &str) -> bool {
        // Whoever connects, it is one database.
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

    fn discover(&self) -> Result<Discovery> {
        self.again(|| discover::discover(self))
    }

    fn inspect(&self, ids: &[ProjectId], read_schema: ReadSchema) -> Vec<Result<Inspection>> {
        let inspections = bulk_inspect::inspect(self, ids, read_schema);
        inspections.into_iter().zip(ids).map(|(it, id)| it.map_err(|error| error.in_project(id))).collect()
    }

    fn ledger_verifies_schemas(&self) -> bool {
        true
    }

    fn inspect_batch_size(&self, projects: usize) -> usize {
        projects.div_ceil(PARTS).clamp(SMALL_PART, PART)
    }

    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()> {
        let read = || {
            let mut session = self.session(id)?;
            session.begin_reading()?;
            work(&mut session)
        };
        self.again(read).map_err(|error| error.in_project(id))
    }

    fn maintain(&self, id: &ProjectId, maintenance: Maintenance) -> Result<()> {
        self.session(id)
            .and_then(|mut session| session.maintain(maintenance))
            .map_err(|error| error.in_project(id))
    }

    fn default_jobs(&self) -> usize {
        JOBS
    }

    fn retries(&self) -> u32 {
        self.options.retries
    }

    fn commit_batch_size(&self) -> usize {
        TOGETHER
    }

    fn flush_commits(&self, ids: &[ProjectId], run: &str) -> Result<Vec<bool>> {
        let run = quote_text(run);
        let is_there = |id: &ProjectId| {
            let name = quote_name(&self.name(id)?);
            Ok(format!("EXISTS (SELECT FROM {name}.tenantry_history WHERE run = {run})"))
        };
        let exist = ids.iter().map(is_there).collect::<Result<Vec<_>>>()?.join(", ");
        let sql = format!("SELECT ARRAY[{exist}]::boolean[] AS found WHERE {FLUSH}");
        let settled = diesel::sql_query(sql).get_result(&mut self.connections.get()?.link()?.connection);
        let CommitsFound { found } = settled
            .map_err(|error| failure::describe("cannot wait for the server's disk", self.target(), &error))?;
        Ok(found)
    }

    fn supports_begin_if_unchanged(&self) -> bool {
        true
    }

    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(self.session(id).map_err(|error| error.in_project(id))?))
    }

    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()> {
        create::create(self, id, template).map_err(|error| error.in_project(id))
    }

    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot> {
        self.again(|| snapshot::snapshot_to(self, id, file)).map_err(|error| error.in_project(id))
    }

    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        self.again(|| snapshot::restore_scratch(self, snapshot, &mut |session| work(session)))
    }

    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>> {
        snapshot::restore_as(self, id, snapshot).map_err(|error| error.in_project(id))
    }

    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        sql_text::dump(self, id, out).map_err(|error| error.in_project(id))
    }

    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql> {
        sql_text::load(self, text, file)
    }

    fn lock_exclusive(&self, id: &ProjectId, _if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>> {
        // Whoever has it open finds what took its place by its name.
        Ok(Box::new(snapshot::lock_exclusive(self, id).map_err(|error| error.in_project(id))?))
    }

    fn spare_count(&self) -> usize {
        self.options.spares
    }

    fn top_up_spares(&self, template: Template<'_>) -> Result<Spares> {
        create::top_up_spares(self, template)
    }

    fn scratch(&self, catalog: &Catalog, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        self.again(|| create::scratch(self, catalog, work))
    }

    fn connector(&self, id: &ProjectId) -> Result<Connector> {
        let name = self.name(id)?;
        let target = match self.options.isolation {
            Isolation::None => {
                let path = quote_name(&name).replace('\\', "\\\\");
                self.target().with("options", &format!("-c search_path={path}"))
            }
            // The role brings its search_path along, through any pooler; libpq finds its password.
            Isolation::Role => self.target().with_user(&name),
        };
        Ok(Box::new(move || open_for_application(&target, &name)))
    }
}

/// An application's connection, whose `search_path` is the project's schema for as long as it is open.
fn open_for_application(target: &ConnectionUrl, name: &str) -> Result<ProjectConnection> {
    #[derive(QueryableByName)]
    struct Place {
        #[diesel(sql_type = Nullable<Text>)]
        place: Option<String>,
    }
    let pooled = || {
        Error::new(ErrorKind::Configuration, "a pooler is in between, and it gives each transaction another connection").with_hint(
            "an application's search_path would be lost there: name the server itself, or give each project a role of its \
             own with isolation = \"role\"",
        )
    };
    #[expect(clippy::disallowed_methods, reason = "Postgres makes nothing by being connected to")]
    let mut connection = PgConnection::establish(&target.conninfo()).map_err(|error| {
        let message = error.to_string();
        if message.contains("startup parameter") {
            return pooled();
        }
        failure::described("cannot connect", target, ErrorKind::Disconnected, &message)
    })?;
    let Place { place } = diesel::sql_query("SELECT current_schema()::text AS place")
        .get_result(&mut connection)
        .map_err(|error| failure::describe("cannot connect", target, &error))?;
    match place {
        Some(place) if place == name => Ok(ProjectConnection::Postgres(connection)),
        _ => Err(pooled()),
    }
}
