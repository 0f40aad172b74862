//! Commits a transaction; if the connection is lost during the commit, finds out whether it took effect.

use diesel::prelude::*;

use super::catalog::{Exists, lock_key};
use super::session::{PostgresSession, TransactionOwner};
use crate::error::{ErrorKind, Result};
use crate::sql::{quote_name, quote_text};

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
