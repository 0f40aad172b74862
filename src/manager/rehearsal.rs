//! Rehearses an upgrade: executes a project's plan on a private copy, or in a transaction that is rolled back, and reports
//! what happened there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Manager;
use super::portion::Portion;
use super::reporting::failed;
use crate::apply::{Executor, PlanResult, Preflight, Progress};
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{MigrationTime, Outcome, ProjectReport, Rehearsal, RowChange};
use crate::project::ProjectId;
use crate::schema::bookkeeping::HISTORY;
use crate::sql::{Dialect, quote_text};
use crate::store::{Mode, RowCounts, Session};

/// How an upgrade is rehearsed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rehearsing {
    pub(crate) place: RehearsalPlace,
    pub(crate) sample: Option<Portion>,
}

/// Where an upgrade is rehearsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RehearsalPlace {
    /// On a private copy of each project, which is only read: on SQLite in memory, or in a file if it is large; on Postgres
    /// in a scratch database.
    Copy,
    /// On Postgres, in a transaction that is rolled back. It takes the locks of an upgrade, and numbers that sequences give
    /// out are not given back.
    InPlace,
}

/// What is measured of a project before and after its migrations.
struct Measurement {
    rows: RowCounts,
    bytes: u64,
}

impl Manager {
    /// Executes the request on a copy of a project.
    pub(super) fn rehearse_project(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        place: RehearsalPlace,
    ) -> ProjectReport {
        let mut rehearsed = None;
        let mut work = |session: &mut dyn Session| {
            rehearsed = Some(self.rehearse(executor, session)?);
            Ok(())
        };
        let result = self.store.require_unlocked(project).and_then(|()| {
            self.retry(|| match place {
                RehearsalPlace::Copy => self.store.with_copy(project, &mut work),
                RehearsalPlace::InPlace => self.store.with_rollback(project, &mut work),
            })
        });
        match (result, rehearsed) {
            (Err(error), _) => failed(project, error),
            (Ok(()), Some((plan_result, rehearsal))) => {
                if let Err(error) = require_space(rehearsal.growth(), self.store.free_bytes(project)) {
                    return failed(project, error);
                }
                let report = self.report(project, plan_result, Outcome::Rehearsed);
                ProjectReport { rehearsal: Some(rehearsal), ..report }
            }
            (Ok(()), None) => failed(project, Error::new(ErrorKind::Internal, "nothing was rehearsed")),
        }
    }

    fn rehearse(
        &self,
        executor: &Executor<'_>,
        session: &mut dyn Session,
    ) -> Result<(PlanResult, Rehearsal)> {
        let before = self.measure(session)?;
        let started = Instant::now();
        let mut progress = Progress::new(executor.request);
        let plan = executor.execute(session, &Preflight::UNPLANNED, &mut progress)?;
        let took = started.elapsed();
        let after = self.measure(session)?;
        session.begin(Mode::PLAIN)?;
        let migrations = if plan.is_ok() { times(session, executor.run_id)? } else { Vec::new() };
        session.rollback()?;
        let rows = changes(&before.rows.rows, &after.rows.rows);
        let (bytes_before, bytes_after) = (before.bytes, after.bytes);
        // SQLite's journal has the former pages that change, the server's log what is written.
        let log = match self.store.dialect() {
            Dialect::Sqlite => bytes_before,
            Dialect::Postgres => bytes_after,
        };
        let bytes_needed = bytes_after.saturating_sub(bytes_before) + log;
        let longest_lock = progress.longest_lock;
        Ok((
            plan,
            Rehearsal { took, longest_lock, migrations, rows, bytes_before, bytes_after, bytes_needed },
        ))
    }

    fn measure(&self, session: &mut dyn Session) -> Result<Measurement> {
        session.begin(Mode::PLAIN)?;
        let rows = session.count_rows()?;
        let (expression, from) = match self.store.dialect() {
            Dialect::Sqlite => ("page_count * page_size", "pragma_page_count, pragma_page_size"),
            Dialect::Postgres => (
                "coalesce(sum(pg_total_relation_size(c.oid)), 0)",
                "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'm', 'S')",
            ),
        };
        let mut bytes = 0;
        session.for_each_row(&[expression.into()], from, &mut |row| {
            bytes = row.into_iter().flatten().next().and_then(|text| text.parse().ok()).unwrap_or(0);
            Ok(false)
        })?;
        session.rollback()?;
        Ok(Measurement { rows, bytes })
    }
}

/// Fails if a database would grow by more bytes than its disk has left, if that is known.
fn require_space(growth: u64, free: Option<u64>) -> Result<()> {
    let Some(free) = free.filter(|free| *free < growth) else { return Ok(()) };
    let message =
        format!("it grows by {} MiB, and its disk has {} MiB left", growth.div_ceil(1 << 20), free >> 20);
    Err(Error::new(ErrorKind::DiskFull, message).with_hint("free some space first"))
}

/// How long each migration of a run took, according to the ledger.
fn times(session: &mut dyn Session, run_id: &str) -> Result<Vec<MigrationTime>> {
    let mut found = Vec::new();
    if session.columns(HISTORY)?.is_empty() {
        return Ok(found);
    }
    let columns = ["version", "duration_us"].map(String::from);
    let from = format!(
        "{HISTORY} WHERE run = {} AND action IN ('apply', 'repeat') ORDER BY sequence",
        quote_text(run_id)
    );
    session.for_each_row(&columns, &from, &mut |row| {
        if let [Some(version), Some(duration)] = row.as_slice() {
            let took = Duration::from_micros(duration.parse().unwrap_or_default());
            found.push(MigrationTime { version: Version::new(version.as_str()), took });
        }
        Ok(true)
    })?;
    Ok(found)
}

/// The tables whose number of rows is another one afterwards. A table that is missing has no rows.
fn changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, RowChange> {
    let count = |counts: &BTreeMap<String, u64>, table: &str| counts.get(table).copied().unwrap_or(0);
    let tables = before.keys().chain(after.keys());
    let change = |table: &String| {
        let change = RowChange { before: count(before, table), after: count(after, table) };
        (change.before != change.after).then(|| (table.clone(), change))
    };
    tables.filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_would_fill_its_disk_is_not_upgraded() {
        assert!(require_space(4096, None).is_ok() && require_space(4096, Some(4096)).is_ok());
        let error = require_space(3 << 20, Some((3 << 20) - 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        assert_eq!(error.message(), "it grows by 3 MiB, and its disk has 2 MiB left");
    }
}
