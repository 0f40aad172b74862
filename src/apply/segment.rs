//! One part of a plan carried out on a locked project: scripts run, rows and schema compared, the ledger written, committed.
//!
//! A migration outside a transaction is a part by itself.

use super::rows::{Allowance, RowLoss, RowTracker, Violations, lock_tables, preserve_sequences, verify_rows};
use super::{DropTables, Durability, Executor, RowOwner};
use crate::catalog::{Migration, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Entry};
use crate::plan::{Drift, Inspection, Plan, Request};
use crate::schema::{Difference, Schema};
use crate::store::{ForeignKeys, Mode, RowCounts, ScriptRun, Session, Step};

/// What a part of a plan leaves behind besides the project.
pub(super) struct SegmentContext<'a> {
    pub(super) rows: Option<&'a mut RowTracker>,
    pub(super) notes: Vec<String>,
}

impl Executor<'_> {
    /// Runs a part of a plan, and commits it once it is proven.
    pub(super) fn run_segment(
        &self,
        session: &mut dyn Session,
        found: &Inspection,
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
        let mut entries = match segment.stamp {
            Some(stamp) => found.ledger.entries_for_stamp(self.catalog, stamp.position, stamp.forced),
            None => Vec::new(),
        };
        if let [alone] = steps.as_slice()
            && !alone.migration.is_transactional()
        {
            return self.run_without_transaction(session, *alone, action, segment, mode, notes);
        }
        if found.ledger.is_empty() && !steps.is_empty() {
            session.make_ledger()?;
        }
        let ran = self.run_in_transaction(session, &steps, action, found, mode, notes)?;
        entries.extend(ran.into_iter().map(|entry| mark_forced(segment, entry)));
        if !steps.is_empty() {
            let found = self.verify_schema(&*session.schema()?, segment)?;
            if found.is_forced {
                for entry in &mut entries {
                    entry.forced = true;
                }
            }
            notes.extend(found.notes);
        }
        session.record(&entries, self.run)?;
        if let Some(rows) = &mut context.rows {
            rows.update(session.contents()?.tables);
        }
        let committed = match self.durability {
            // What comes next may be outside a transaction.
            Durability::Deferred if is_last => session.commit_async(),
            _ => session.commit(),
        };
        committed.map_err(|error| match steps.last() {
            Some(step) => error.in_migration(step.migration.label()),
            None => error,
        })
    }

    /// Runs scripts in the transaction, and counts rows around those that may delete some. Foreign keys that are not enforced
    /// are compared at the end: what one migration breaks a later one may mend.
    fn run_in_transaction(
        &self,
        session: &mut dyn Session,
        steps: &[Step<'_>],
        action: Action,
        found: &Inspection,
        mode: Mode,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Entry>> {
        let is_counted = self.rows == RowOwner::Application && !has_no_tables(found);
        let mut armed = found.schema.as_ref().is_none_or(|schema| schema.writes_may_delete());
        let counted = |step: &Step<'_>| {
            let is_seen = action == Action::Apply
                && self
                    .catalog
                    .position(step.migration.version.as_str())
                    .is_some_and(|it| self.reference.deletes(it - 1));
            ((step.script.may_delete(&mut armed) || is_seen) && is_counted)
                || self.drops == DropTables::OnlyEmpty
        };
        let counted: Vec<bool> = steps.iter().map(counted).collect();
        if self.drops == DropTables::OnlyEmpty {
            steps.iter().try_for_each(|step| lock_tables(session, self.catalog, step.script))?;
        }
        let mut violations = match mode.foreign_keys {
            ForeignKeys::Compared => Some(Violations::new(session.violations()?)),
            ForeignKeys::Enforced => None,
        };
        let (mut entries, mut before) = (Vec::new(), None);
        while let [first, ..] = &steps[entries.len()..] {
            let (rest, counted) = (&steps[entries.len()..], &counted[entries.len()..]);
            // What need not be counted around runs in one go.
            let together = counted.iter().take_while(|counted| !**counted).count().max(1);
            before = if counted[0] { Some(before.map_or_else(|| session.count_rows(), Ok)?) } else { None };
            entries.extend(run(session, &rest[..together], action)?);
            let Some(counts) = before.take() else { continue };
            let mut after = session.count_rows()?;
            notes.extend(self.preserve_sequences(session, first.script, &counts, &mut after)?);
            if let Some(violations) = &mut violations {
                violations.record_after(&session.violations()?, first.migration);
            }
            let lost = verify_rows(&counts, &after, *first, self.allowance(first.migration));
            // What points at nothing says more than what is gone.
            let lost =
                lost.map_err(|error| violations.as_mut().and_then(Violations::first).unwrap_or(error))?;
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

    fn preserve_sequences(
        &self,
        session: &mut dyn Session,
        script: &Script,
        before: &RowCounts,
        after: &mut RowCounts,
    ) -> Result<Vec<String>> {
        preserve_sequences(session, script.words(self.catalog.dialect()), before, after)
    }

    /// What a migration may do to rows besides what it declares.
    fn allowance(&self, migration: &Migration) -> Allowance {
        Allowance {
            drops: self.drops,
            undeclared: self.rows == RowOwner::Migrations || self.allow_row_loss.contains(&migration.version),
        }
    }

    /// A migration without a transaction: its start is durable before it begins, and only its end makes the project
    /// clean again.
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
        session.record(&[Entry::new(step.migration, Action::Start)], self.run)?;
        session.commit()?;
        let finish = || {
            let entries = run(session, &[step], action)?;
            session.begin(mode)?;
            let mut after = session.count_rows()?;
            notes.extend(self.preserve_sequences(session, step.script, &before, &mut after)?);
            violations.verify(&session.violations()?, step.migration)?;
            let lost = verify_rows(&before, &after, step, self.allowance(step.migration))?;
            let found = self.verify_schema(&*session.schema()?, segment)?;
            notes.extend(found.notes);
            let is_allowed = lost == RowLoss::Allowed && self.rows == RowOwner::Application;
            let entry = |entry: Entry| Entry { forced: is_allowed || found.is_forced, ..entry };
            let entries: Vec<_> = entries.into_iter().map(|it| mark_forced(segment, entry(it))).collect();
            session.record(&entries, self.run)?;
            session.commit()
        };
        finish().map_err(|error| {
            error.in_migration(step.migration.label()).with_hint(
                "it ran outside a transaction, so a part of it may be done: look, then say where the project stands \
                 with tenantry stamp ID --to VERSION --force",
            )
        })
    }

    /// The schema is the catalog's, or differs from it just as it did before; or a way down was asked for wherever it leads.
    fn verify_schema(&self, schema: &Schema, segment: &Plan) -> Result<SchemaCheck> {
        let mut proven = SchemaCheck { is_forced: false, notes: Vec::new() };
        if segment.to < segment.from {
            proven.notes = self.reference.notes(schema, segment.to);
        }
        let differences = self.reference.differences(schema, segment.to);
        if differences == segment.drift || self.reference.expected(segment.to).is_none() {
            return Ok(proven);
        }
        let found: Vec<_> =
            differences.iter().filter(|it| !segment.drift.contains(it)).map(Difference::to_string).collect();
        let gone: Vec<_> =
            segment.drift.iter().filter(|it| !differences.contains(it)).map(Difference::to_string).collect();
        let what =
            if found.is_empty() { format!("no longer: {}", gone.join("; ")) } else { found.join("; ") };
        let version = self.catalog.version_at(segment.to);
        let message = format!("the schema that came out is not that of {version}: {what}");
        let hint = match self.request {
            Request::Downgrade { drift: Drift::Keep, .. } => {
                proven.is_forced = true;
                proven.notes.push(message);
                return Ok(proven);
            }
            Request::Downgrade { .. } => {
                "mend the down.sql; or go down all the same, and have the ledger say so: --allow-drift"
            }
            _ => {
                "a migration whose schema depends on the data says schema_depends_on_data = true in its metadata.toml"
            }
        };
        Err(Error::new(ErrorKind::SchemaMismatch, message).with_hint(hint))
    }
}

/// What is to be said of a schema that came out.
struct SchemaCheck {
    /// Whether it is not the catalog's.
    is_forced: bool,
    notes: Vec<String>,
}

/// Whether a project had no table when it was looked at: then none of its rows is anybody's but its migrations'.
fn has_no_tables(found: &Inspection) -> bool {
    found.schema.as_ref().is_some_and(|schema| schema.tables().next().is_none())
}

/// The row of what was run, which says whether the schema that came out is the catalog's.
fn mark_forced(segment: &Plan, entry: Entry) -> Entry {
    Entry { forced: entry.forced || !segment.drift.is_empty(), ..entry }
}

/// What is run of a migration.
fn step(migration: &Migration, action: Action) -> Result<Step<'_>> {
    let script = if action == Action::Revert { migration.down.as_ref() } else { Some(&migration.up) };
    let missing =
        || Error::new(ErrorKind::Internal, "there is no script to run").in_migration(migration.label());
    Ok(Step { migration, script: script.ok_or_else(missing)? })
}

fn run(session: &mut dyn Session, steps: &[Step<'_>], action: Action) -> Result<Vec<Entry>> {
    let ran = session.execute(steps)?;
    let entry = |(step, ran): (&Step<'_>, ScriptRun)| Entry {
        started: ran.started,
        duration: ran.took,
        ..Entry::new(step.migration, action)
    };
    Ok(steps.iter().zip(ran).map(entry).collect())
}
