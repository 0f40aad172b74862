//! New databases: created from a template, or taken from those kept ready.

use super::Session;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::project::ProjectId;

/// Creates databases.
pub trait Create {
    /// Creates a project completely and durably, or not at all. `template.fill` migrates an empty database; a store may
    /// call it once and copy the result for every project with an equal template.
    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()>;

    /// Lets `work` use a private empty database for a catalog's migrations. The database is removed afterwards.
    fn scratch(&self, catalog: &Catalog, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()>;

    /// Lets `fill` fill a private empty database, and returns the statements that create its objects, as
    /// [`Inspect::definitions`](super::Inspect::definitions) does. The database is removed afterwards.
    fn scratch_definitions(
        &self,
        catalog: &Catalog,
        fill: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Vec<String>>;

    /// Databases kept ready to become projects, if the store keeps any.
    fn spares(&self) -> Option<&dyn SpareStore>;
}

/// Keeps migrated databases ready, so that a create need not wait for migrations.
pub trait SpareStore {
    /// Makes spares of this template until as many are ready as the store is configured to keep. Removes those of
    /// other catalogs.
    fn top_up(&self, template: Template<'_>) -> Result<Spares>;
}

/// How a new project's database is made.
#[derive(Clone, Copy)]
pub struct Template<'a> {
    /// The catalog's hash. Databases with equal hashes differ only in their ledgers' times and run ids.
    pub catalog_hash: [u8; 32],
    /// Whether one database may be copied for every project. If not, each is filled by itself.
    pub is_reusable: bool,
    /// Whether filling may need several transactions: a value added to an enum must be committed before it is used.
    pub adds_enum_values: bool,
    /// The id of the run that creates the project.
    pub run_id: &'a str,
    /// Migrates an empty database to the newest version, with at most the given number of migrations in a transaction.
    pub fill: &'a dyn Fn(&mut dyn Session, usize) -> Result<()>,
}

/// What [`SpareStore::top_up`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Spares {
    /// How many are ready now.
    pub ready: usize,
    /// How many were made.
    pub made: usize,
    /// How many of another catalog were removed.
    pub removed: usize,
}
