//! Commits a transaction; if the connection is lost during the commit, finds out whether it took effect. Commits of several
//! projects wait for the disk together.

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool};

use super::catalog::{Exists, lock_key};
use super::session::{PostgresSession, TransactionOwner};
use super::{PostgresStore, failure};
use crate::error::{ErrorKind, Result};
use crate::project::ProjectId;
use crate::sql::{quote_name, quote_text};
use crate::store::DeferredCommits;

/// How many projects wait for the server's disk together.
const COMMIT_BATCH: usize = 8;
/// Writes a record without effect to the server's WAL. Its commit waits for the disk, which makes every commit that the
/// statement sees durable too.
const FLUSH: &str = "pg_catalog.pg_logical_emit_message(true, 'tenantry', '') IS NOT NULL";

#[derive(QueryableByName)]
struct CommitsFound {
    #[diesel(sql_type = Array<Bool>)]
    found: Vec<bool>,
}

impl PostgresSession<'_> {
    /// Commits with these statements.
    pub(super) fn commit_with(&mut self, sql: &str) -> Result<()> {
        if self.transaction_owner == TransactionOwner::Caller {
            return self.send();
        }
        let unsent = self.take_unsent();
        let result = self.pooled.connection()?.end(&format!("{unsent}{sql}"));
        let Err(error) = result else { return Ok(()) };
        let error = self.failed("cannot commit", &error);
        match error.kind() {
            ErrorKind::Disconnected if self.is_committed()? => {
                self.pooled.discard();
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Whether the transaction was committed, after the connection was lost during the commit. Looks in the ledger for
    /// the last row that was written.
    fn is_committed(&self) -> Result<bool> {
        let Some((run, entry)) = &self.recorded else { return Ok(false) };
        let wait = format!("SELECT pg_advisory_xact_lock({})", lock_key(&quote_text(&self.name)));
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {}.tenantry_history WHERE run = {} AND version = {} AND action = {}) AS exists",
            quote_name(&self.name),
            quote_text(run),
            quote_text(entry.version.as_str()),
            quote_text(entry.action.as_str()),
        );
        // A new connection, because whatever broke this one has probably broken the pooled ones too.
        let mut link = self.store.connections.fresh()?;
        let result = link.connection.transaction(|connection| {
            // The old server process may still be committing. It holds the project's lock until it is done.
            diesel::sql_query(&wait).execute(connection)?;
            diesel::sql_query(&sql).get_result(connection)
        });
        let Exists { exists } =
            result.map_err(|error| self.failed("cannot determine whether it was committed", &error))?;
        Ok(exists)
    }
}

impl DeferredCommits for PostgresStore {
    fn commit_batch_size(&self) -> usize {
        COMMIT_BATCH
    }

    fn flush_commits(&self, ids: &[ProjectId], run_id: &str) -> Result<Vec<bool>> {
        let run_id = quote_text(run_id);
        let has_commit = |id: &ProjectId| {
            let name = quote_name(&self.name(id)?);
            Ok(format!("EXISTS (SELECT FROM {name}.tenantry_history WHERE run = {run_id})"))
        };
        let found = ids.iter().map(has_commit).collect::<Result<Vec<_>>>()?.join(", ");
        let sql = format!("SELECT ARRAY[{found}]::boolean[] AS found WHERE {FLUSH}");
        let result = diesel::sql_query(sql).get_result(&mut self.connections.get()?.connection()?.connection);
        let CommitsFound { found } = result.map_err(|error| {
            failure::convert_error("cannot wait for the server's disk", self.target(), &error)
        })?;
        Ok(found)
    }
}
