//! Repairs a project whose schema differs from that of its version, where that loses nothing.

use std::sync::Arc;

use super::Manager;
use super::reporting::failed;
use crate::apply::preserve_sequences;
use crate::backup::Reason;
use crate::catalog::{Catalog, Migration, NewMigration};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::ledger::{Action, NewHistoryRow};
use crate::plan::{self, Comparison, State};
use crate::project::ProjectId;
use crate::schema::Difference;
use crate::schema::alter::{Definitions, ExtraCode, RepairStep, Repairs, repairs};
use crate::store::{ForeignKeys, Mode, RowCounts, Session, Step};

/// Foreign keys are compared: rebuilding a table of SQLite drops it, which would delete the rows that reference its rows.
const MODE: Mode = Mode { foreign_keys: ForeignKeys::Compared, ..Mode::PLAIN };

/// What a repair did.
struct Done {
    sql: Vec<String>,
    /// What it left as it is, each with the reason.
    refused: Vec<String>,
    remaining: Vec<Difference>,
}

impl Manager {
    /// Repairs a project. A dry run repairs a private copy.
    pub(super) fn repair_project(
        &self,
        project: &ProjectId,
        extra: ExtraCode,
        dry_run: bool,
        run_id: &str,
    ) -> ProjectReport {
        self.try_repair(project, extra, dry_run, run_id).unwrap_or_else(|error| failed(project, error))
    }

    fn try_repair(
        &self,
        project: &ProjectId,
        extra: ExtraCode,
        dry_run: bool,
        run_id: &str,
    ) -> Result<ProjectReport> {
        let inspection = self.inspect(project)?;
        let reference = self.reference_for(std::iter::once(&inspection))?;
        let comparison = match plan::compare(&self.catalog, reference, &inspection) {
            Ok(comparison) => comparison,
            Err(problems) => return Ok(ProjectReport::new(project.clone(), Outcome::Blocked(problems))),
        };
        let Comparison { state, differences, notes } = comparison;
        let version = Some(self.catalog.version_at(state.position));
        let report = ProjectReport {
            from: version.clone(),
            to: version,
            notes,
            ..ProjectReport::new(project.clone(), Outcome::AsExpected)
        };
        let Some(schema) = inspection.schema.filter(|_| !differences.is_empty()) else { return Ok(report) };
        let found = Definitions { schema, statements: self.store.definitions(project)? };
        let expected = self.expected_definitions(state)?;
        let repairs = repairs(self.store.dialect(), &found, &expected, extra);
        let mut done = None;
        let mut backup = None;
        let mut work = |session: &mut dyn Session| {
            done = Some(self.repair(session, &found, &expected, &repairs, state, run_id)?);
            Ok(())
        };
        if dry_run {
            self.retry(|| self.store.with_copy(project, &mut work))?;
        } else {
            if !repairs.steps.is_empty() {
                backup = Some(self.take_backup(project, None, Reason::BeforeRepair, run_id)?.name);
            }
            self.retry(|| work(&mut *self.store.open(project)?))?;
            self.pools.forget(project);
        }
        let done = done.ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was repaired"))?;
        let mut report = ProjectReport { backup, ..report };
        report.notes.extend(done.refused);
        report.outcome = match (done.remaining.is_empty(), dry_run) {
            (false, _) => Outcome::Drifted(done.remaining),
            (true, true) => Outcome::Planned,
            (true, false) => Outcome::Repaired,
        };
        report.sql = done.sql;
        Ok(report)
    }

    /// The schema of a state, with the statements that create it. Read once for all projects.
    fn expected_definitions(&self, state: State) -> Result<Arc<Definitions>> {
        let mut all = super::reporting::lock(&self.definitions);
        if let Some(known) = all.get(&state) {
            return Ok(Arc::clone(known));
        }
        let definitions = Arc::new(self.definitions_of(&self.catalog_at(state))?);
        all.insert(state, Arc::clone(&definitions));
        Ok(definitions)
    }

    /// Runs the repairs on a locked project, one after the other, and commits those that succeed.
    fn repair(
        &self,
        session: &mut dyn Session,
        found: &Definitions,
        expected: &Definitions,
        repairs: &Repairs,
        state: State,
        run_id: &str,
    ) -> Result<Done> {
        session.begin(MODE)?;
        // Reads the ledger as well, to which a row is added.
        session.inspect()?;
        let now = session.schema()?;
        if now.full_fingerprint() != found.schema.full_fingerprint() {
            return Err(Error::new(ErrorKind::VersionMismatch, "its schema changed since it was read")
                .with_hint("run the command again"));
        }
        session.lock_rows()?;
        let mut done = Done { sql: Vec::new(), refused: repairs.refused.clone(), remaining: Vec::new() };
        for step in &repairs.steps {
            match self.run_step(session, step)? {
                None => {
                    done.sql.extend(step.statements.iter().cloned());
                    let table = step.object.strip_prefix("table ");
                    let is_new = |table: &&str| !found.schema.tables().any(|it| it == *table);
                    if let Some(table) = table.filter(is_new) {
                        done.refused
                            .push(format!("table {table} is empty: rows that it had are only in backups"));
                    }
                }
                Some(reason) => done.refused.push(format!("{} is not repaired: {reason}", step.object)),
            }
        }
        let differences = session.schema()?.differences(&expected.schema);
        done.remaining = differences.into_iter().filter(|it| !it.is_note()).collect();
        let before = found.schema.differences(&expected.schema);
        if let Some(new) = done.remaining.iter().find(|it| !before.contains(it)) {
            let message = format!("the repair would lead elsewhere: {new}");
            return Err(Error::new(ErrorKind::SchemaMismatch, message)
                .with_hint("repair it by hand, or restore a backup; this project was not changed"));
        }
        if done.sql.is_empty() {
            session.rollback()?;
            return Ok(done);
        }
        // What differs still was not verified.
        let row = NewHistoryRow { forced: !done.remaining.is_empty(), ..self.repair_row(state) };
        session.record(&[row], run_id)?;
        session.commit()?;
        Ok(done)
    }

    /// Runs the statements of one repair. Returns the reason if they fail or would lose rows; they are undone then.
    fn run_step(&self, session: &mut dyn Session, step: &RepairStep) -> Result<Option<String>> {
        let text = step.statements.join(";\n");
        let script = NewMigration::new("repair", text, None);
        let catalog = match Catalog::empty(self.store.dialect()).with(std::slice::from_ref(&script)) {
            Ok(catalog) => catalog,
            Err(error) => return Ok(Some(error.summary())),
        };
        let Some(migration) = catalog.migrations().first() else { return Ok(None) };
        let (rows, before) = (session.count_rows()?, session.schema()?);
        let violations = session.violations()?;
        let dialect = self.store.dialect();
        let check = &mut |session: &mut dyn Session| {
            let mut after = session.count_rows()?;
            preserve_sequences(session, &migration.up, dialect, &rows, &mut after)?;
            if let Some(table) = lost_rows(&rows, &after) {
                return Err(Error::new(ErrorKind::RowsLost, format!("{table} would lose rows")));
            }
            if let Some(lost) = before.lost_access(&*session.schema()?) {
                return Err(Error::new(ErrorKind::SchemaMismatch, format!("{lost} would be lost")));
            }
            let added = session
                .violations()?
                .into_iter()
                .find(|(pair, count)| *count > violations.get(pair).copied().unwrap_or_default());
            match added {
                None => Ok(()),
                Some(((child, parent), count)) => Err(Error::new(
                    ErrorKind::ForeignKeys,
                    format!("{count} row(s) of {child} reference missing rows of {parent}"),
                )),
            }
        };
        let failed = session.run_or_undo(Step { migration, script: &migration.up }, check)?;
        Ok(failed.map(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            cause.unwrap_or_else(|| error.message().to_string())
        }))
    }

    /// The row of the ledger for a repair at a position.
    fn repair_row(&self, state: State) -> NewHistoryRow {
        let last = state.position.checked_sub(1).and_then(|index| self.catalog.migrations().get(index));
        let row = |migration: &Migration| NewHistoryRow::new(migration, Action::Repair);
        last.map_or_else(NewHistoryRow::repair_of_empty, row)
    }
}

/// A table that has fewer rows than before.
fn lost_rows<'a>(before: &'a RowCounts, after: &RowCounts) -> Option<&'a String> {
    let lost = |(table, count): &(&'a String, &u64)| after.rows.get(*table).is_none_or(|now| now < *count);
    before.rows.iter().find(lost).map(|(table, _)| table)
}
