//! A request carried out on one project: lock, look again and plan again (or compare with what was seen), run, prove, commit.
//!
//! It must not know which database it is on, and must not commit what it has not proven.

mod reference;
mod rows;

use crate::catalog::{Catalog, Migration, Script, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Entry};
use crate::plan::{self, Drift, Inspection, Plan, Problem, Reference, Request};
use crate::schema::{Difference, Schema};
use crate::store::{Census, ForeignKeys, Lock, Look, Mode, Ran, Session, Step};

pub(crate) use reference::{Downs, build_reference};

pub(crate) use rows::RowsSeen;
use rows::{Allowance, Lost, Violations, keep_marks, keep_still, prove_rows};

/// What a project is brought to, and in which run.
pub(crate) struct Work<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) reference: &'a Reference,
    pub(crate) request: Request,
    pub(crate) run: &'a str,
    /// Whether a table that has rows may be dropped.
    pub(crate) drops: Drops,
    /// Whose rows the project has.
    pub(crate) rows: RowsOf,
    /// The migrations that may delete rows without having declared it.
    pub(crate) may_lose_rows: &'a [Version],
    /// When what is committed is durable.
    pub(crate) durability: Durability,
}

/// When what is committed is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// With the commit.
    Now,
    /// Once the store has settled it, which whoever asked for this sees to before it tells anybody.
    Later,
}

/// Whose rows a project has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOf {
    /// An application's: none may get lost.
    Application,
    /// The migrations' own, since nobody else has seen the project yet: they may do with them as they like.
    Migrations,
}

/// What a migration may drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    /// What it says.
    Anything,
    /// Only tables without rows.
    Empty,
}

/// How a project is begun with.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    /// How to lock it.
    pub(crate) mode: Mode,
    /// What was seen of it without the lock, where the plan for it was made by that.
    pub(crate) seen: Option<Inspection>,
}

impl Outlook {
    /// Where nothing was planned: under the lock it turns out what is needed.
    pub(crate) const UNPLANNED: Self = Self { mode: Mode::PLAIN, seen: None };
}

/// How far a request is on one project.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// [`Work::request`] at first. Once a part of the plan is committed it names the plan's target, so that neither the next part
    /// nor another attempt counts its steps from the new position.
    pub(crate) request: Request,
    /// How many migrations go into one transaction at most.
    pub(crate) at_most: usize,
    /// The rows as this run has left them, where it is to be known afterwards whether somebody else wrote any.
    pub(crate) rows: Option<RowsSeen>,
}

impl Progress {
    pub(crate) const fn new(request: Request) -> Self {
        Self { request, at_most: usize::MAX, rows: None }
    }
}

/// What a part of a plan leaves behind besides the project.
struct Left<'a> {
    rows: Option<&'a mut RowsSeen>,
    notes: Vec<String>,
}

/// What was done: the plan as it stood under the lock, or the problems found there.
pub(crate) type Done = Result<Plan, Vec<Problem>>;

impl Work<'_> {
    /// What a project needs, by what was read of it.
    pub(crate) fn plan(&self, inspection: &Inspection) -> Done {
        self.plan_for(self.request, inspection)
    }

    fn plan_for(&self, request: Request, inspection: &Inspection) -> Done {
        plan::plan(self.catalog, self.reference, inspection, request)
    }

    /// Does it. `outlook` is what was seen and planned without the lock: only a guess, since under the lock everything is
    /// read and planned again, or compared with what was seen.
    pub(crate) fn perform(
        &self,
        session: &mut dyn Session,
        outlook: &Outlook,
        progress: &mut Progress,
    ) -> Result<Done> {
        let mut whole: Option<Plan> = None;
        let (mut mode, mut seen) = (outlook.mode, outlook.seen.as_ref());
        loop {
            let as_seen = match seen.take() {
                Some(seen) if session.begin_as_seen(mode, seen)? => Some(seen),
                _ => None,
            };
            let inspection = if let Some(seen) = as_seen {
                seen.clone()
            } else {
                session.begin(mode)?;
                session.inspect()?
            };
            let plan = match self.plan_for(progress.request, &inspection) {
                Ok(plan) => plan,
                // What is remembered may be older than the ledger: somebody else moved it by other means.
                Err(_) if mode.look == Look::Remembered => {
                    session.rollback()?;
                    mode.look = Look::Anew;
                    continue;
                }
                Err(problems) => {
                    session.rollback()?;
                    return Ok(Err(problems));
                }
            };
            let mut needed = self.mode(&plan);
            if mode.look == Look::Anew {
                needed.look = Look::Anew;
            }
            if needed != mode {
                session.rollback()?;
                mode = needed;
                continue;
            }
            if plan.is_empty() {
                session.rollback()?;
                return Ok(Ok(whole.unwrap_or(plan)));
            }
            let at_most = if session.commits() { progress.at_most } else { usize::MAX };
            let segment = self.first_segment(&plan, session.commits(), at_most);
            let is_last = segment.to == plan.to;
            if let Some(rows) = &mut progress.rows {
                session.keep_rows_still()?;
                rows.look(&session.contents()?.tables);
            }
            let mut left = Left { rows: progress.rows.as_mut(), notes: Vec::new() };
            match self.run_segment(session, &inspection, &segment, mode, is_last, &mut left) {
                Err(error) if as_seen.is_some() && error.kind() == ErrorKind::VersionMismatch => {
                    session.rollback()?;
                    continue;
                }
                ran => ran?,
            }
            let notes = left.notes;
            progress.request = progress.request.with_target(plan.to);
            let whole = whole.get_or_insert(plan);
            whole.notes.extend(notes);
            if is_last {
                return Ok(Ok(whole.clone()));
            }
        }
    }

    /// Foreign keys are enforced unless a table is dropped: its rows would take their children with them.
    pub(crate) fn mode(&self, plan: &Plan) -> Mode {
        let foreign_keys =
            if plan.drops_table(self.catalog) { ForeignKeys::Compared } else { ForeignKeys::Enforced };
        let lock = if plan.is_transactional(self.catalog) { Lock::Transaction } else { Lock::Session };
        // What runs nothing proves nothing afterwards, and a drift has to be seen to be kept.
        let is_proven = plan.from != plan.to && plan.drift.is_empty();
        Mode {
            foreign_keys,
            lock,
            look: if is_proven { Look::Remembered } else { Look::Anew },
            file: plan.file_settings(self.catalog),
        }
    }

    /// The part of a plan that is committed next: all migrations up to the first that cannot run in a transaction, or that
    /// one alone; and where parts are committed at all, none after one that adds a value to an enum, which nobody can use before
    /// that; and no more than `at_most`.
    fn first_segment(&self, plan: &Plan, commits: bool, at_most: usize) -> Plan {
        let migrations = plan.migrations(self.catalog);
        let is_up = plan.from <= plan.to;
        let together = migrations.iter().take_while(|migration| migration.is_transactional()).count();
        let ends = |migration: &&Migration| is_up && commits && migration.up.adds_enum_value();
        let last = migrations.iter().take(together).position(ends);
        let together = last.map_or(together, |last| last + 1).min(at_most);
        let count = match (together, &plan.stamp) {
            (0, Some(_)) => 0,
            (0, None) => 1.min(migrations.len()),
            (count, _) => count,
        };
        let to = if is_up { plan.from + count } else { plan.from - count };
        Plan { to, ..plan.clone() }
    }

    fn run_segment(
        &self,
        session: &mut dyn Session,
        found: &Inspection,
        segment: &Plan,
        mode: Mode,
        is_last: bool,
        left: &mut Left<'_>,
    ) -> Result<()> {
        let notes = &mut left.notes;
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
            return self.run_outside(session, *alone, action, segment, mode, notes);
        }
        if found.ledger.is_empty() && !steps.is_empty() {
            session.make_ledger()?;
        }
        let ran = self.run_inside(session, &steps, action, found, mode, notes)?;
        entries.extend(ran.into_iter().map(|entry| in_spite_of(segment, entry)));
        if !steps.is_empty() {
            let found = self.prove_schema(&*session.schema()?, segment)?;
            if found.is_forced {
                for entry in &mut entries {
                    entry.forced = true;
                }
            }
            notes.extend(found.notes);
        }
        session.record(&entries, self.run)?;
        if let Some(rows) = &mut left.rows {
            rows.set(session.contents()?.tables);
        }
        let committed = match self.durability {
            // What comes next may be outside a transaction.
            Durability::Later if is_last => session.commit_soon(),
            _ => session.commit(),
        };
        committed.map_err(|error| match steps.last() {
            Some(step) => error.in_migration(step.migration.label()),
            None => error,
        })
    }

    /// Runs scripts in the transaction, and counts rows around those that may delete some. Foreign keys that are not enforced
    /// are compared at the end: what one migration breaks a later one may mend.
    fn run_inside(
        &self,
        session: &mut dyn Session,
        steps: &[Step<'_>],
        action: Action,
        found: &Inspection,
        mode: Mode,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Entry>> {
        let is_counted = self.rows == RowsOf::Application && !has_no_tables(found);
        let mut armed = found.schema.as_ref().is_none_or(|schema| schema.writes_may_delete());
        let counted = |step: &Step<'_>| {
            let is_seen = action == Action::Apply
                && self
                    .catalog
                    .position(step.migration.version.as_str())
                    .is_some_and(|it| self.reference.deletes(it - 1));
            ((step.script.may_delete(&mut armed) || is_seen) && is_counted) || self.drops == Drops::Empty
        };
        let counted: Vec<bool> = steps.iter().map(counted).collect();
        if self.drops == Drops::Empty {
            steps.iter().try_for_each(|step| keep_still(session, self.catalog, step.script))?;
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
            before = if counted[0] { Some(before.map_or_else(|| session.census(), Ok)?) } else { None };
            entries.extend(run(session, &rest[..together], action)?);
            let Some(counts) = before.take() else { continue };
            let mut after = session.census()?;
            notes.extend(self.keep_marks(session, first.script, &counts, &mut after)?);
            if let Some(violations) = &mut violations {
                violations.look(&session.violations()?, first.migration);
            }
            let lost = prove_rows(&counts, &after, *first, self.allowance(first.migration));
            // What points at nothing says more than what is gone.
            let lost =
                lost.map_err(|error| violations.as_mut().and_then(Violations::first).unwrap_or(error))?;
            if let Some(entry) = entries.last_mut() {
                entry.forced |= lost == Lost::AsAllowed;
            }
            before = Some(after);
        }
        if let Some((violations, last)) = violations.zip(steps.last()) {
            violations.prove(&session.violations()?, last.migration)?;
        }
        Ok(entries)
    }

    fn keep_marks(
        &self,
        session: &mut dyn Session,
        script: &Script,
        before: &Census,
        after: &mut Census,
    ) -> Result<Vec<String>> {
        keep_marks(session, script.words(self.catalog.dialect()), before, after)
    }

    /// What a migration may do to rows besides what it declares.
    fn allowance(&self, migration: &Migration) -> Allowance {
        Allowance {
            drops: self.drops,
            undeclared: self.rows == RowsOf::Migrations || self.may_lose_rows.contains(&migration.version),
        }
    }

    /// A migration without a transaction: its start is durable before it begins, and only its end makes the project
    /// clean again.
    fn run_outside(
        &self,
        session: &mut dyn Session,
        step: Step<'_>,
        action: Action,
        segment: &Plan,
        mode: Mode,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let (before, violations) = (session.census()?, Violations::new(session.violations()?));
        session.record(&[Entry::new(step.migration, Action::Start)], self.run)?;
        session.commit()?;
        let finish = || {
            let entries = run(session, &[step], action)?;
            session.begin(mode)?;
            let mut after = session.census()?;
            notes.extend(self.keep_marks(session, step.script, &before, &mut after)?);
            violations.prove(&session.violations()?, step.migration)?;
            let lost = prove_rows(&before, &after, step, self.allowance(step.migration))?;
            let found = self.prove_schema(&*session.schema()?, segment)?;
            notes.extend(found.notes);
            let is_allowed = lost == Lost::AsAllowed && self.rows == RowsOf::Application;
            let entry = |entry: Entry| Entry { forced: is_allowed || found.is_forced, ..entry };
            let entries: Vec<_> = entries.into_iter().map(|it| in_spite_of(segment, entry(it))).collect();
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
    fn prove_schema(&self, schema: &Schema, segment: &Plan) -> Result<Proven> {
        let mut proven = Proven { is_forced: false, notes: Vec::new() };
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
struct Proven {
    /// Whether it is not the catalog's.
    is_forced: bool,
    notes: Vec<String>,
}

/// Whether a project had no table when it was looked at: then none of its rows is anybody's but its migrations'.
fn has_no_tables(found: &Inspection) -> bool {
    found.schema.as_ref().is_some_and(|schema| schema.tables().next().is_none())
}

/// The row of what was run, which says whether the schema that came out is the catalog's.
fn in_spite_of(segment: &Plan, entry: Entry) -> Entry {
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
    let entry = |(step, ran): (&Step<'_>, Ran)| Entry {
        started: ran.started,
        duration: ran.took,
        ..Entry::new(step.migration, action)
    };
    Ok(steps.iter().zip(ran).map(entry).collect())
}
