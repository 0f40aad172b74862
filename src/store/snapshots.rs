//! Copies of projects for backups, and putting them back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Session, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Inspection;
use crate::project::ProjectId;

/// Copies projects to files and restores them.
pub trait Snapshots {
    /// Copies a project, as it is at one moment and in the store's own format, to a file that must not exist. Others
    /// may go on writing to the project.
    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot>;

    /// Restores a snapshot into a private database for `work`. The database is removed afterwards, also on failure.
    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()>;

    /// Lets `work` change a private copy of a project, as it is at one moment. The project itself is only read. The copy is
    /// removed afterwards. `work` may be called more than once, each time with a new copy.
    fn with_copy(&self, id: &ProjectId, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()>;

    /// Lets `work` use a private store on the same disk or server that has copies of these projects. It is removed afterwards.
    /// Does not call `work` if the projects are in memory, or copied to another server.
    fn with_copies(
        &self,
        ids: &[ProjectId],
        work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
    ) -> Result<()>;

    /// Fails if another process holds a lock that an upgrade needs, for as long as an upgrade waits for it. Takes no lock.
    /// Finds nothing where that cannot be known.
    fn require_unlocked(&self, id: &ProjectId) -> Result<()> {
        let _ = id;
        Ok(())
    }

    /// The bytes that are free on a project's disk, if that is known.
    fn free_bytes(&self, id: &ProjectId) -> Option<u64> {
        let _ = id;
        None
    }

    /// Lets `work` change a project in a transaction that is rolled back, if the store can do that.
    fn with_rollback(
        &self,
        id: &ProjectId,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        let _ = work;
        Err(Error::new(ErrorKind::Internal, "this store cannot roll a rehearsal back").in_project(id))
    }

    /// Whether [`Snapshots::with_rollback`] works here.
    fn can_roll_back(&self) -> bool {
        false
    }

    /// Restores a snapshot as a new project: completely and durably, or not at all. Returns notes for the user, such as
    /// a missing role that should have been granted something.
    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>>;

    /// Locks a project so that nobody else can change it, in order to delete or replace it.
    fn lock_exclusive(&self, id: &ProjectId, if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>>;
}

/// A project that nobody else can change while this value exists.
pub trait ExclusiveProject {
    /// Copies it, as [`Snapshots::snapshot_to`] does. Fails with
    /// [`ErrorKind::NotADatabase`](crate::ErrorKind::NotADatabase) if it cannot be read.
    fn snapshot_to(&mut self, file: &Path) -> Result<Snapshot>;

    /// Deletes it. Returns what elsewhere still refers to it. Fails if something of another project would be deleted
    /// with it.
    fn remove(self: Box<Self>) -> Result<Vec<String>>;

    /// Replaces it with a snapshot. It is the old project or the new one at every moment. Returns notes for the user,
    /// such as where the old project was kept.
    fn replace(self: Box<Self>, snapshot: SnapshotFile<'_>, old: Replaced) -> Result<Vec<String>>;
}

/// What to do if others have the project open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfInUse {
    /// Fail.
    Fail,
    /// Replace it anyway, also if it can no longer be read.
    Force,
}

/// What happens to the project that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is deleted.
    Delete,
    /// It is kept under a name that is no project's.
    KeepAside,
}

/// A copied project and what it contained at that moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its ledger and schema.
    pub inspection: Inspection,
    /// Its rows.
    pub contents: Contents,
    /// The name and version of the database.
    pub database: String,
    /// The name of its file or schema.
    pub place: String,
    /// Statements that create what it needs from outside, such as extensions.
    pub needs: Vec<String>,
    /// Statements that restore owners and grants. `%1$I` stands for the schema.
    pub access: Vec<String>,
}

/// A file that [`Snapshots::snapshot_to`] wrote, with what is needed to restore it.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotFile<'a> {
    /// The file.
    pub file: &'a Path,
    /// The name that the project's file or schema had.
    pub place: &'a str,
    /// Statements that create what it needs from outside, such as extensions.
    pub needs: &'a [String],
    /// Statements that restore owners and grants. `%1$I` stands for the schema.
    pub access: &'a [String],
}

/// A summary of a project's rows. Equal exactly if all tables have the same rows, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Every table.
    pub tables: BTreeMap<String, TableSummary>,
    /// The database's own numbers, such as SQLite's `user_version`.
    pub properties: BTreeMap<String, i64>,
}

/// A summary of a table's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSummary {
    /// How many rows it has.
    pub rows: u64,
    /// A hash of all rows, in hexadecimal.
    pub hash: String,
}
