//! Implements diesel's `MigrationSource` for a catalog, for applications that run migrations with diesel.
//!
//! diesel gets the same versions, scripts and transactions that tenantry runs, in an order that diesel's sorting keeps.
//! tenantry itself does not run migrations through diesel.

use diesel::backend::Backend;
use diesel::connection::BoxableConnection;
use diesel::migration::{self, MigrationMetadata, MigrationName, MigrationSource, MigrationVersion};

use super::{Catalog, Migration};
use crate::error::{Error, ErrorKind};

struct DieselMigration {
    migration: Migration,
    name: Name,
}

struct Name {
    version: String,
    label: String,
}

struct Transactional(bool);

/// Works for either database. The catalog must have the dialect of that database, or its scripts fail.
impl<DB: Backend> MigrationSource<DB> for Catalog {
    fn migrations(&self) -> migration::Result<Vec<Box<dyn migration::Migration<DB>>>> {
        if !Self::migrations(self).is_sorted_by(|a, b| a.version.as_str() < b.version.as_str()) {
            let message = "diesel would run these versions in the order of their text, not of their numbers";
            return Err(Error::new(ErrorKind::Catalog, message)
                .with_hint("pad them with zeros to the same length")
                .into());
        }
        let adapt = |migration: &Migration| {
            let name = Name { version: migration.version.to_string(), label: migration.label() };
            Box::new(DieselMigration { migration: migration.clone(), name })
                as Box<dyn migration::Migration<DB>>
        };
        Ok(Self::migrations(self).iter().map(adapt).collect())
    }
}

impl<DB: Backend> migration::Migration<DB> for DieselMigration {
    fn run(&self, connection: &mut dyn BoxableConnection<DB>) -> migration::Result<()> {
        Ok(connection.batch_execute(&self.migration.up.text_in_transaction())?)
    }

    fn revert(&self, connection: &mut dyn BoxableConnection<DB>) -> migration::Result<()> {
        match &self.migration.down {
            Some(down) => Ok(connection.batch_execute(&down.text_in_transaction())?),
            None => Err(Error::new(ErrorKind::Usage, "the migration has no down.sql")
                .in_migration(self.migration.label())
                .into()),
        }
    }

    fn metadata(&self) -> &dyn MigrationMetadata {
        if self.migration.is_transactional() { &Transactional(true) } else { &Transactional(false) }
    }

    fn name(&self) -> &dyn MigrationName {
        &self.name
    }
}

impl MigrationMetadata for Transactional {
    fn run_in_transaction(&self) -> bool {
        self.0
    }
}

impl MigrationName for Name {
    fn version(&self) -> MigrationVersion<'_> {
        MigrationVersion::from(self.version.as_str())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.label)
    }
}
