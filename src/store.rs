//! Where projects live: the seam between what tenantry decides and how a database does it.
//!
//! Above it nothing may know which database it is. Below it nothing may decide what a project needs.

mod cache;
pub mod connection;
#[cfg(feature = "postgres")]
pub mod postgres;
mod session;
pub mod sqlite;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::Path;

use crate::catalog::Catalog;
use crate::error::Result;
use crate::plan::Inspection;
use crate::project::ProjectId;
use crate::sql::Dialect;

use connection::Connector;

pub use session::{
    ForeignKeyViolations, ForeignKeys, Health, Lock, Mode, ReadSchema, RowCounts, Rows, SchemaSource,
    ScriptRun, Session, Step,
};

/// A fleet's home: a folder of SQLite files, or a Postgres database with a schema per project.
pub trait Store: Send + Sync {
    /// Where it is, fit to be shown: without a password.
    fn location(&self) -> String;

    /// What its projects' files or schemas are called, with `{id}` for a project's.
    fn pattern(&self) -> String;

    /// Where a project is, for people: a file's path, a schema's name.
    fn place(&self, id: &ProjectId) -> String;

    /// Whether an id can be a project's name here. Looks at nothing but the id.
    fn validate_id(&self, id: &ProjectId) -> Result<()> {
        let _ = id;
        Ok(())
    }

    /// Whether there is a place for projects yet; the first create makes it.
    fn exists(&self) -> bool {
        true
    }

    /// What can be said of the store's health without changing it.
    fn diagnose(&self) -> Vec<Finding>;

    /// What to do about an error of a migration on an empty database, where what else is there explains it.
    fn explain_failure(&self, message: &str) -> Option<String> {
        let _ = message;
        None
    }

    /// Removes what processes left that were killed: private copies and half-made projects. Touches nothing that anybody uses;
    /// gives the names of what is gone.
    fn sweep(&self) -> Result<Vec<String>>;

    /// The dialect its migrations are written in.
    fn dialect(&self) -> Dialect;

    /// Every project, and every odd thing found where projects are, named. Opens nothing.
    fn discover(&self) -> Result<Discovery>;

    /// Whether this is the store at a location, as one was [given](Store::location) before.
    fn is_at(&self, location: &str) -> bool {
        self.location() == location
    }

    /// Whether a backup in a place was taken of a project of this fleet: by the store's location, what its file or schema was
    /// called, and which project it was.
    fn owns(&self, taken_of: &str, place: &str, id: &ProjectId, kept_at: &str) -> bool {
        let _ = kept_at;
        self.is_at(taken_of) && self.place(id) == place
    }

    /// Reads projects' ledgers and schemas, as far as `read_schema` says, in their order, and changes not one byte doing so.
    fn inspect(&self, ids: &[ProjectId], read_schema: ReadSchema) -> Vec<Result<Inspection>>;

    /// Whether its ledgers say of schemas that they were proven, so that [`ReadSchema::IfUnverified`] leaves any out.
    fn ledger_verifies_schemas(&self) -> bool {
        false
    }

    /// Into how large parts so many projects are best divided for [`Store::inspect`].
    fn inspect_batch_size(&self, projects: usize) -> usize {
        let _ = projects;
        1
    }

    /// Lets `work` read a project's rows, all of one moment, and changes not one byte doing so. `work` may be called more
    /// than once.
    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()>;

    /// Has the database look after itself, beside whoever works with it.
    fn maintain(&self, id: &ProjectId, maintenance: Maintenance) -> Result<()>;

    /// How many projects are best worked on at once.
    fn default_jobs(&self) -> usize;

    /// How often a project is tried again that another process held a lock on.
    fn retries(&self) -> u32 {
        0
    }

    /// How many projects at once are best [settled](Store::flush_commits): one where a commit is best durable by itself.
    fn commit_batch_size(&self) -> usize {
        1
    }

    /// Makes durable what was committed by [`Session::commit_async`]; says of each of these projects whether what the run did
    /// to it is there: a server that went and came again meanwhile may have lost it.
    fn flush_commits(&self, ids: &[ProjectId], run: &str) -> Result<Vec<bool>> {
        let _ = run;
        Ok(vec![true; ids.len()])
    }

    /// Whether [`Session::begin_if_unchanged`] is worth keeping for it what was seen of a project.
    fn supports_begin_if_unchanged(&self) -> bool {
        false
    }

    /// Opens a project for writing. Nothing is locked before [`Session::begin`].
    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>>;

    /// Makes a project: wholly, durably, or not at all. `fill` brings an empty database to where `template` says; a
    /// store may call it once and copy the result for every project of the same template.
    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()>;

    /// How many new databases are kept ready to become projects.
    fn spare_count(&self) -> usize {
        0
    }

    /// Sees to it that so many are ready, made from this template.
    fn top_up_spares(&self, template: Template<'_>) -> Result<Spares> {
        let _ = template;
        Ok(Spares::default())
    }

    /// Copies a project, as it is at one moment and in the store's own form, to a file that is not there yet. Whoever
    /// works with the project goes on.
    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot>;

    /// Lets `work` have a private database made of such a copy, which is gone afterwards, whatever happens.
    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()>;

    /// Makes a project of such a copy: wholly, durably, or not at all. Says what is worth a note, such as a role that is not
    /// there and was to be granted something.
    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>>;

    /// Writes a project, as it is at one moment, as SQL text that the database's own program reads.
    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()>;

    /// Makes of such a text what [`Store::snapshot_to`] makes of a project, in a file that is not there yet. Refuses a text that
    /// reaches beyond the project.
    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql>;

    /// Keeps everybody else from changing a project, to delete or replace it.
    fn lock_exclusive(&self, id: &ProjectId, if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>>;

    /// Lets `work` have a private empty database for a catalog's migrations, which is gone afterwards, whatever happens.
    fn scratch(&self, catalog: &Catalog, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()>;

    /// What opens an application's connections to a project.
    fn connector(&self, id: &ProjectId) -> Result<Connector>;
}

/// What a new project's database is to be.
#[derive(Clone, Copy)]
pub struct Template<'a> {
    /// The hash of the catalog: equal hashes, equal databases but for the ledger's times and run ids.
    pub catalog: [u8; 32],
    /// Whether one database may be copied for every project; where not, each is filled by itself.
    pub is_reusable: bool,
    /// Whether it may take several transactions: an added value of an enum has to be committed before it is used.
    pub adds_enum_values: bool,
    /// The run that makes the project.
    pub run: &'a str,
    /// Brings an empty database to the catalog's head, with at most so many migrations in one transaction.
    pub fill: &'a dyn Fn(&mut dyn Session, usize) -> Result<()>,
}

/// What became of the spares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Spares {
    /// How many are ready now.
    pub ready: usize,
    /// How many were made.
    pub made: usize,
    /// How many were of another catalog, and are gone.
    pub removed: usize,
}

/// What was found where projects are.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// The projects, sorted.
    pub projects: Vec<ProjectId>,
    /// What looks like a project and is left alone.
    pub skipped: Vec<Skipped>,
}

/// Something that looks like a project and is left alone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Skipped {
    /// Its name in the store.
    pub name: String,
    /// Why it is left alone.
    pub reason: String,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

/// A project that nobody else can change as long as this is there.
pub trait ExclusiveProject {
    /// Copies it, as [`Store::snapshot_to`] does. Errors with [`ErrorKind::NotADatabase`](crate::ErrorKind::NotADatabase) where
    /// there is nothing that could be read.
    fn snapshot_to(&mut self, file: &Path) -> Result<Snapshot>;

    /// Deletes it; says what elsewhere goes on naming it. Refuses where something of another project would go with it.
    fn remove(self: Box<Self>) -> Result<Vec<String>>;

    /// Puts a copy in its place: it is the old one or the new one, whatever happens. Says what is worth a note, such as where
    /// the old one is, if it was kept.
    fn replace(self: Box<Self>, snapshot: SnapshotFile<'_>, old: Replaced) -> Result<Vec<String>>;
}

/// What to do when others have a project open that is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfInUse {
    /// Leave it.
    Fail,
    /// Replace it all the same; and what can't be read any more, too.
    Force,
}

/// What becomes of a project that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is gone.
    Delete,
    /// It gets another name, which is no project's.
    KeepAside,
}

/// A project copied, and what was in it at that moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its ledger and schema.
    pub inspection: Inspection,
    /// Its rows.
    pub contents: Contents,
    /// The database's name and version.
    pub database: String,
    /// What its file or schema is called.
    pub place: String,
    /// Statements that make what it needs and does not have itself.
    pub needs: Vec<String>,
    /// Statements that give a copy to whom it belongs and is granted, in which `%1$I` is its schema.
    pub access: Vec<String>,
}

/// What was made of a text.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadedSql {
    /// What the project's file or schema is called in it.
    pub place: String,
    /// Statements that give it to whom it belongs and is granted, in which `%1$I` is its schema.
    pub access: Vec<String>,
    /// What could not be given to whom the text gives it.
    pub notes: Vec<String>,
}

/// A file that a project was copied to.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotFile<'a> {
    /// The file.
    pub file: &'a Path,
    /// What the project's file or schema was called.
    pub place: &'a str,
    /// Statements that make what it needs and does not have itself.
    pub needs: &'a [String],
    /// Statements that give it to whom it belongs and is granted, in which `%1$I` is its schema.
    pub access: &'a [String],
}

/// A project's rows, summed up: equal exactly when the tables have the same rows, in whatever order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Every table.
    pub tables: BTreeMap<String, Table>,
    /// What else the database says of itself.
    pub properties: BTreeMap<String, i64>,
}

/// A table's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// How many there are.
    pub rows: u64,
    /// A hash of all of them, in hexadecimal.
    pub hash: String,
}

/// What a database can do for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Maintenance {
    /// Gather anew what its planner goes by.
    Analyze,
    /// Give back the room of rows that are gone.
    Vacuum,
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.location())
    }
}
