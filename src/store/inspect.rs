//! Finding projects and reading them without changing a byte.

use super::Rows;
use crate::error::{Error, Result};
use crate::plan::Inspection;
use crate::project::ProjectId;

/// Finds and reads projects. Nothing here changes a byte of a project.
pub trait Inspect {
    /// Lists every project, and by name everything else that looks like one. Opens nothing.
    fn discover(&self) -> Result<Discovery>;

    /// Reads the ledgers of projects, and their schemas as far as `read_schema` says. Results are in the order of `ids`.
    fn inspect(&self, ids: &[ProjectId], read_schema: ReadSchema) -> Vec<Result<Inspection>>;

    /// How many of `projects` to pass to one call of [`Inspect::inspect`].
    fn inspect_batch_size(&self, projects: usize) -> usize;

    /// Whether ledgers record a verified schema. If not, [`ReadSchema::IfUnverified`] reads every schema.
    fn ledger_verifies_schemas(&self) -> bool;

    /// Lets `work` read a project's rows as they were at one moment. `work` may be called more than once.
    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()>;

    /// Returns how large and how old projects are, in the order of `ids`.
    fn footprints(&self, ids: &[ProjectId]) -> Result<Vec<Footprint>>;

    /// Returns the statements that create a project's objects, in an order in which they can run, without the name of its
    /// schema and without the tables of migration tools.
    fn definitions(&self, id: &ProjectId) -> Result<Vec<String>>;
}

/// Whether [`Inspect::inspect`] reads schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSchema {
    /// Reads every schema.
    Always,
    /// Skips a schema if the ledger records that it was verified for its version and it has not changed since.
    IfUnverified,
}

/// How large and how old a project is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was created: smaller for an older project, without a unit.
    pub created: u64,
}

/// What [`Inspect::discover`] found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The projects, sorted.
    pub projects: Vec<ProjectId>,
    /// What looks like a project and is none.
    pub skipped: Vec<Skipped>,
    /// The stores of a fleet that could not be reached, if others could.
    pub unreachable: Vec<Unreachable>,
}

impl Discovery {
    /// Returns the projects. Fails if a store could not be reached.
    pub fn require_complete(self) -> Result<Vec<ProjectId>> {
        match self.unreachable.into_iter().next() {
            Some(Unreachable { store, error }) => Err(error.in_store(&store)),
            None => Ok(self.projects),
        }
    }
}

/// A store of a fleet that could not be reached.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unreachable {
    /// Its name.
    pub store: String,
    /// Why.
    pub error: Error,
}

/// Something that looks like a project and is skipped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Skipped {
    /// Its name in the store.
    pub name: String,
    /// Why it is skipped.
    pub reason: String,
}
