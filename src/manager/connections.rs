//! Gives applications connections to projects that are at the catalog's newest version.

use super::Manager;
use super::pool::PooledConnection;
use super::reporting::blocked;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Problem;
use crate::project::ProjectId;
use crate::store::connection::ProjectConnection;

impl Manager {
    /// Returns a pooled connection to a project. Dropping it returns it to the pool. One limit applies to the
    /// connections of the whole fleet; see [`Manager::with_connections`].
    ///
    /// Fails with [`ErrorKind::VersionMismatch`] if the project is not at the catalog's newest version, which this code
    /// was written for. Fails with [`ErrorKind::PoolExhausted`] if the limit is reached and no connection is returned
    /// within 10 s.
    pub fn connection(&self, id: &ProjectId) -> Result<PooledConnection> {
        let id = &self.resolve(id)?;
        let get = || {
            self.pools.get(id, || {
                self.require_current(id)?;
                self.store.connector(id)
            })
        };
        let mut connection = get()?;
        if self.has_catalog_versions(&mut connection) {
            return Ok(connection);
        }
        // Another process changed its version since the pool was opened.
        drop(connection);
        self.pools.forget(id);
        self.require_current(id)?;
        get()
    }

    /// Whether the ledger contains exactly the catalog's versions, as read through this connection.
    fn has_catalog_versions(&self, connection: &mut ProjectConnection) -> bool {
        use diesel::prelude::*;
        diesel::table! {
            __diesel_schema_migrations (version) {
                version -> Text,
            }
        }
        let versions = __diesel_schema_migrations::table
            .select(__diesel_schema_migrations::version)
            .load::<String>(connection)
            .unwrap_or_default();
        versions.len() == self.catalog.head() && versions.iter().all(|it| self.catalog.position(it).is_some())
    }

    fn require_current(&self, id: &ProjectId) -> Result<()> {
        let status = self.status(id)?;
        if status.is_current() {
            return Ok(());
        }
        let mismatch = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::VersionMismatch, message).in_project(id).with_hint(hint))
        };
        let unknown = status.problems.iter().find(|problem| matches!(problem, Problem::Unknown { .. }));
        match unknown {
            Some(problem) => mismatch(problem.message(), "newer code has migrated it: use that code"),
            None if !status.problems.is_empty() => Err(blocked(id, &status.problems)),
            None if status.pending.is_empty() => {
                mismatch("it has no ledger".into(), "record its version: tenantry stamp ID")
            }
            None => mismatch(
                format!("{} migration(s) are pending", status.pending.len()),
                "upgrade it: tenantry upgrade ID",
            ),
        }
    }
}
