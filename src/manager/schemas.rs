//! The schemas of projects, of versions and of scripts, to show and compare them.

use std::path::Path;
use std::sync::Arc;

use super::Manager;
use super::generation::WantedSchema;
use crate::catalog::{Catalog, FolderOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::State;
use crate::project::ProjectId;
use crate::schema::Schema;

impl Manager {
    /// Returns a project's schema.
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such project.
    pub fn schema_of_project(&self, id: &ProjectId) -> Result<Arc<Schema>> {
        let unread = || Error::new(ErrorKind::Internal, "the schema was not read").in_project(id);
        self.inspect(id)?.schema.ok_or_else(unread)
    }

    /// Returns the schema that the migrations up to a version produce on an empty database, with the repeatable ones if it is
    /// the newest. `0` is an empty database, and `head` the newest version.
    ///
    /// Fails with [`ErrorKind::Usage`] if the catalog does not have the version, or if its schema depends on the data.
    pub fn schema_at_version(&self, version: &str) -> Result<Schema> {
        let state = self.state_at(version)?;
        self.reference()?.expected(state)?.cloned().ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("the schema of {version} is not known")).with_hint(
                "a migration declares that it depends on the data, or this role cannot create a schema",
            )
        })
    }

    /// Returns the schema of a version, as [`Manager::schema_at_version`] does, with the statements that create it.
    pub fn definitions_at_version(&self, version: &str) -> Result<WantedSchema> {
        self.definitions_of(&self.catalog_at(self.state_at(version)?)).map(WantedSchema)
    }

    /// The state of a project at a version, with the repeatable migrations if it is the newest.
    fn state_at(&self, version: &str) -> Result<State> {
        let head = self.catalog.head();
        let position = if version == "head" { head } else { self.catalog.resolve(version)? };
        Ok(State { position, is_complete: position == head })
    }

    /// The migrations that lead to a state.
    pub(super) fn catalog_at(&self, state: State) -> Catalog {
        if state.is_complete { (*self.catalog).clone() } else { self.catalog.up_to(state.position) }
    }

    /// Returns the schema of a script, as [`Manager::schema_of_script`] does, with the statements that create it.
    pub fn definitions_of_script(&self, script: &Path, options: &FolderOptions) -> Result<WantedSchema> {
        let catalog = Catalog::of_script(script, self.store.dialect(), options)?;
        self.definitions_of(&catalog).map(WantedSchema).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.summary(), ToString::to_string);
            Error::new(ErrorKind::Catalog, "the wanted schema cannot be created on an empty database")
                .caused_by(cause)
                .at(error.file().unwrap_or(script), error.line())
                .with_hint("fix this file; on Postgres, schemas and extensions that it uses are named in [store] shared")
        })
    }

    /// Returns the schema that a script produces on an empty database.
    ///
    /// Fails with [`ErrorKind::Catalog`] if the script cannot be read or fails.
    pub fn schema_of_script(&self, script: &Path, options: &FolderOptions) -> Result<Schema> {
        let catalog = Catalog::of_script(script, self.store.dialect(), options)?;
        let manager = Self::with_shared_store(Arc::clone(&self.store), catalog)?;
        manager.schema_at_version("head")
    }
}
