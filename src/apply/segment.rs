//! Executes one segment of a plan on a locked project: runs its scripts, verifies rows and schema, writes the ledger and
//! commits.
//!
//! A migration outside a transaction is a segment by itself.

use super::rows::{Allowance, RowLoss, RowTracker, Violations, lock_tables, preserve_sequences, verify_rows};
use super::{DropTables, Durability, Executor, RowOwner};
use crate::catalog::Migration;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Ledger, NewHistoryRow};
use crate::plan::{IfDrifted, Inspection, Plan, Request, State};
use crate::schema::bookkeeping::RETIRED;
use crate::schema::{Difference, Schema};
use crate::sql::quote_name;
use crate::store::{ForeignKeys, Mode, ScriptRun, Session, Step};

/// The notes of a segment, and the row tracker that all segments share.
pub(super) struct SegmentContext<'a> {
    pub(super) rows: Option<&'a mut RowTracker>,
    pub(super) notes: Vec<String>,
}

impl Executor<'_> {
    /// Runs a segment of a plan, verifies it, and commits it.
    pub(super) fn run_segment(
        &self,
        session: &mut dyn Session,
        inspection: &Inspection,
        segment: &Plan,
        mode: Mode,
        is_last: bool,
        context: &mut SegmentContext<'_>,
    ) -> Result<()> {
        let notes = &mut context.notes;
        let action = if segment.from <= segment.to { Action::Apply } else { Action::Revert };
        let migrations = segment.migrations(self.catalog);
        let steps: Vec<Step<'_>> =
            migrations.into_iter().map(|migration| step(migration, action)).collect::<Result<_>>()?;
        for table in segment.adoption.iter().flat_map(|adoption| &adoption.retired_tables) {
            let new = quote_name(&format!("{table}{RETIRED}"));
            session.change(&format!("ALTER TABLE {} RENAME TO {new}", quote_name(table)))?;
        }
        let ledger = &inspection.ledger;
        let mut entries = match &segment.stamp {
            Some(stamp) if segment.adoption.is_some() => {
                ledger.entries_for_adoption(self.catalog, stamp.position)
            }
            Some(stamp) => ledger.entries_for_stamp(self.catalog, stamp.position, stamp.forced),
            None => Vec::new(),
        };
        if let Some(stamp) = &segment.stamp {
            entries.extend(Ledger::entries_for_repeatables(self.catalog, &stamp.repeatables));
        }
        if let [step] = steps.as_slice()
            && !step.script.is_transactional()
        {
            return self.run_without_transaction(session, *step, action, segment, mode, notes);
        }
        if inspection.ledger.is_empty() && !steps.is_empty() {
            session.create_ledger()?;
        }
        let applied = self.run_in_transaction(session, &steps, action, inspection, mode, notes)?;
        entries.extend(applied.into_iter().map(|entry| mark_forced(segment, entry)));
        if action == Action::Revert {
            // With a squashed migration, those that it replaces are reverted.
            entries.extend(steps.iter().flat_map(|step| ledger.entries_for_replaced(step.migration)));
        }
        if !steps.is_empty() {
            let check = self.verify_schema(&*session.schema()?, segment)?;
            if check.is_forced {
                for entry in &mut entries {
                    entry.forced = true;
                }
            }
            notes.extend(check.notes);
        }
        session.record(&entries, self.run_id)?;
        if let Some(rows) = &mut context.rows {
            rows.update(session.contents()?.tables);
        }
        let result = match self.durability {
            // Earlier segments commit durably, since a migration outside a transaction may follow.
            Durability::Deferred if is_last => session.commit_async(),
            _ => session.commit(),
        };
        result.map_err(|error| match steps.last() {
            Some(step) => error.in_migration(step.migration.label()),
            None => error,
        })
    }

    /// Runs scripts in the transaction. Counts rows before and after each script that may delete rows. If foreign keys
    /// are not enforced, compares violations at the end, since a later migration may fix what an earlier one breaks.
    fn run_in_transaction(
        &self,
        session: &mut dyn Session,
        steps: &[Step<'_>],
        action: Action,
        inspection: &Inspection,
        mode: Mode,
        notes: &mut Vec<String>,
    ) -> Result<Vec<NewHistoryRow>> {
        let counts_rows = self.rows == RowOwner::Application && !has_no_tables(inspection);
        let mut writes_may_delete =
            inspection.schema.as_ref().is_none_or(|schema| schema.writes_may_delete());
        let is_counted = |step: &Step<'_>| {
            let deletes_in_reference = action == Action::Apply
                && self.catalog.index_of(step.migration).is_some_and(|it| self.reference.up_may_delete(it));
            ((step.script.may_delete(&mut writes_may_delete) || deletes_in_reference) && counts_rows)
                || self.drops == DropTables::OnlyEmpty
        };
        let counted: Vec<bool> = steps.iter().map(is_counted).collect();
        if self.drops == DropTables::OnlyEmpty {
            steps.iter().try_for_each(|step| lock_tables(session, self.catalog, step.script))?;
        }
        let mut violations = match mode.foreign_keys {
            ForeignKeys::Compared => Some(Violations::new(session.violations()?)),
            ForeignKeys::Enforced => None,
        };
        let (mut entries, mut before) = (Vec::new(), None);
        while let [first, ..] = &steps[entries.len()..] {
            let (remaining, counted) = (&steps[entries.len()..], &counted[entries.len()..]);
            // Consecutive scripts that need no counts are run together.
            let batch_size = counted.iter().take_while(|counted| !**counted).count().max(1);
            before = if counted[0] { Some(before.map_or_else(|| session.count_rows(), Ok)?) } else { None };
            entries.extend(run_scripts(session, &remaining[..batch_size], action)?);
            let Some(counts) = before.take() else { continue };
            let mut after = session.count_rows()?;
            notes.extend(preserve_sequences(
                session,
                first.script,
                self.catalog.dialect(),
                &counts,
                &mut after,
            )?);
            if let Some(violations) = &mut violations {
                violations.record_after(&session.violations()?, first.migration);
            }
            let lost = verify_rows(&counts, &after, *first, self.allowance(first.migration));
            // A violated foreign key is a more precise error than lost rows.
            let lost =
                lost.map_err(|error| violations.as_mut().and_then(Violations::take_first).unwrap_or(error))?;
            if let Some(entry) = entries.last_mut() {
                entry.forced |= lost == RowLoss::Allowed;
            }
            before = Some(after);
        }
        if let Some((violations, last)) = violations.zip(steps.last()) {
            violations.verify(&session.violations()?, last.migration)?;
        }
        Ok(entries)
    }

    /// What a migration may do to rows besides what it declares.
    fn allowance(&self, migration: &Migration) -> Allowance {
        Allowance {
            drops: self.drops,
            undeclared: self.rows == RowOwner::Migrations || self.allow_row_loss.contains(&migration.version),
        }
    }

    /// Runs a migration outside a transaction. Commits a `start` row to the ledger first. The project is dirty from
    /// then on until the end of the migration is recorded.
    fn run_without_transaction(
        &self,
        session: &mut dyn Session,
        step: Step<'_>,
        action: Action,
        segment: &Plan,
        mode: Mode,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let (before, violations) = (session.count_rows()?, Violations::new(session.violations()?));
        session.record(&[NewHistoryRow::new(step.migration, Action::Start)], self.run_id)?;
        session.commit()?;
        let finish = || {
            let entries = run_scripts(session, &[step], action)?;
            session.begin(mode)?;
            let mut after = session.count_rows()?;
            notes.extend(preserve_sequences(
                session,
                step.script,
                self.catalog.dialect(),
                &before,
                &mut after,
            )?);
            violations.verify(&session.violations()?, step.migration)?;
            let lost = verify_rows(&before, &after, step, self.allowance(step.migration))?;
            let check = self.verify_schema(&*session.schema()?, segment)?;
            notes.extend(check.notes);
            let is_allowed = lost == RowLoss::Allowed && self.rows == RowOwner::Application;
            let entry =
                |entry: NewHistoryRow| NewHistoryRow { forced: is_allowed || check.is_forced, ..entry };
            let entries: Vec<_> = entries.into_iter().map(|it| mark_forced(segment, entry(it))).collect();
            session.record(&entries, self.run_id)?;
            session.commit()
        };
        finish().map_err(|error| {
            error.in_migration(step.migration.label()).with_hint(
                "it ran outside a transaction, so it may be applied in part: examine the database, then record its \
                 version with tenantry stamp ID --to VERSION --force",
            )
        })
    }

    /// Fails unless the schema is the catalog's, or differs from it exactly as it did before. A downgrade with
    /// [`IfDrifted::Keep`] accepts any schema.
    fn verify_schema(&self, schema: &Schema, segment: &Plan) -> Result<SchemaCheck> {
        let mut check = SchemaCheck { is_forced: false, notes: Vec::new() };
        let state = State { position: segment.to, is_complete: segment.is_complete };
        if segment.to < segment.from {
            check.notes = self.reference.notes(schema, state)?;
        }
        let mut differences = self.reference.differences(schema, state)?;
        if segment.has_former_repeatables {
            differences.retain(|it| !it.is_extra_code());
        }
        if differences == segment.drift || self.reference.expected(state)?.is_none() {
            return Ok(check);
        }
        let added: Vec<_> =
            differences.iter().filter(|it| !segment.drift.contains(it)).map(Difference::to_string).collect();
        let removed: Vec<_> =
            segment.drift.iter().filter(|it| !differences.contains(it)).map(Difference::to_string).collect();
        let what =
            if added.is_empty() { format!("no longer: {}", removed.join("; ")) } else { added.join("; ") };
        let version = self.catalog.version_at(segment.to);
        let message = format!("the resulting schema is not that of {version}: {what}");
        let hint = match self.request {
            Request::Downgrade { drift: IfDrifted::Keep, .. } => {
                check.is_forced = true;
                check.notes.push(message);
                return Ok(check);
            }
            Request::Downgrade { .. } => {
                "fix the down.sql; or downgrade anyway and record the difference in the ledger: --allow-drift"
            }
            _ if !self.catalog.repeatables().is_empty() => {
                "drop what is no longer made in the script that made it (DROP ... IF EXISTS), or list it in [schema] ignore"
            }
            _ => {
                "if the migration's result depends on the data, set schema_depends_on_data = true in its metadata.toml"
            }
        };
        Err(Error::new(ErrorKind::SchemaMismatch, message).with_hint(hint))
    }
}

/// The result of verifying a schema.
struct SchemaCheck {
    /// Whether it differs from the catalog's and was accepted anyway.
    is_forced: bool,
    notes: Vec<String>,
}

/// Whether a project had no tables when it was inspected. All its rows are the migrations' own then.
fn has_no_tables(inspection: &Inspection) -> bool {
    inspection.schema.as_ref().is_some_and(|schema| schema.tables().next().is_none())
}

/// Marks a ledger row as forced if the project has drift.
fn mark_forced(segment: &Plan, entry: NewHistoryRow) -> NewHistoryRow {
    NewHistoryRow { forced: entry.forced || !segment.drift.is_empty(), ..entry }
}

/// The script of a migration to run.
fn step(migration: &Migration, action: Action) -> Result<Step<'_>> {
    let script = if action == Action::Revert { migration.down.as_ref() } else { Some(&migration.up) };
    let missing =
        || Error::new(ErrorKind::Internal, "it has no script to run").in_migration(migration.label());
    Ok(Step { migration, script: script.ok_or_else(missing)? })
}

/// Runs scripts and returns their ledger rows.
fn run_scripts(session: &mut dyn Session, steps: &[Step<'_>], action: Action) -> Result<Vec<NewHistoryRow>> {
    let runs = session.execute(steps)?;
    let entry = |(step, run): (&Step<'_>, ScriptRun)| NewHistoryRow {
        started: run.started,
        duration: run.took,
        ..NewHistoryRow::new(step.migration, action)
    };
    Ok(steps.iter().zip(runs).map(entry).collect())
}
