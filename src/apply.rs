//! A request carried out on one project: lock, look again and plan again (or compare with what was seen), run, prove, commit.
//!
//! It must not know which database it is on, and must not commit what it has not proven.

mod reference;
mod rows;
mod segment;

use crate::catalog::{Catalog, Migration, Version};
use crate::error::{ErrorKind, Result};
use crate::plan::{self, Inspection, Plan, Problem, Reference, Request};
use crate::store::{ForeignKeys, Lock, Mode, SchemaSource, Session};

pub(crate) use reference::{DownScripts, build_reference};

pub(crate) use rows::RowTracker;
use segment::SegmentContext;

/// What a project is brought to, and in which run.
pub(crate) struct Executor<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) reference: &'a Reference,
    pub(crate) request: Request,
    pub(crate) run: &'a str,
    /// Whether a table that has rows may be dropped.
    pub(crate) drops: DropTables,
    /// Whose rows the project has.
    pub(crate) rows: RowOwner,
    /// The migrations that may delete rows without having declared it.
    pub(crate) allow_row_loss: &'a [Version],
    /// When what is committed is durable.
    pub(crate) durability: Durability,
}

/// When what is committed is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// With the commit.
    Immediate,
    /// Once the store has settled it, which whoever asked for this sees to before it tells anybody.
    Deferred,
}

/// Whose rows a project has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOwner {
    /// An application's: none may get lost.
    Application,
    /// The migrations' own, since nobody else has seen the project yet: they may do with them as they like.
    Migrations,
}

/// What a migration may drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropTables {
    /// What it says.
    Any,
    /// Only tables without rows.
    OnlyEmpty,
}

/// How a project is begun with.
#[derive(Clone, Debug)]
pub(crate) struct Preflight {
    /// How to lock it.
    pub(crate) mode: Mode,
    /// What was seen of it without the lock, where the plan for it was made by that.
    pub(crate) seen: Option<Inspection>,
}

impl Preflight {
    /// Where nothing was planned: under the lock it turns out what is needed.
    pub(crate) const UNPLANNED: Self = Self { mode: Mode::PLAIN, seen: None };
}

/// How far a request is on one project.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// [`Executor::request`] at first. Once a part of the plan is committed it names the plan's target, so that neither the next part
    /// nor another attempt counts its steps from the new position.
    pub(crate) request: Request,
    /// How many migrations go into one transaction at most.
    pub(crate) at_most: usize,
    /// The rows as this run has left them, where it is to be known afterwards whether somebody else wrote any.
    pub(crate) rows: Option<RowTracker>,
}

impl Progress {
    pub(crate) const fn new(request: Request) -> Self {
        Self { request, at_most: usize::MAX, rows: None }
    }
}

/// What was done: the plan as it stood under the lock, or the problems found there.
pub(crate) type PlanResult = Result<Plan, Vec<Problem>>;

impl Executor<'_> {
    /// What a project needs, by what was read of it.
    pub(crate) fn plan(&self, inspection: &Inspection) -> PlanResult {
        self.plan_for(self.request, inspection)
    }

    fn plan_for(&self, request: Request, inspection: &Inspection) -> PlanResult {
        plan::plan(self.catalog, self.reference, inspection, request)
    }

    /// Does it. `preflight` is what was seen and planned without the lock: only a guess, since under the lock everything is
    /// read and planned again, or compared with what was seen.
    pub(crate) fn perform(
        &self,
        session: &mut dyn Session,
        preflight: &Preflight,
        progress: &mut Progress,
    ) -> Result<PlanResult> {
        let mut whole: Option<Plan> = None;
        let (mut mode, mut seen) = (preflight.mode, preflight.seen.as_ref());
        loop {
            let as_seen = match seen.take() {
                Some(seen) if session.begin_if_unchanged(mode, seen)? => Some(seen),
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
                Err(_) if mode.schema == SchemaSource::Ledger => {
                    session.rollback()?;
                    mode.schema = SchemaSource::Live;
                    continue;
                }
                Err(problems) => {
                    session.rollback()?;
                    return Ok(Err(problems));
                }
            };
            let mut needed = self.mode(&plan);
            if mode.schema == SchemaSource::Live {
                needed.schema = SchemaSource::Live;
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
            let at_most = if session.can_commit() { progress.at_most } else { usize::MAX };
            let segment = self.first_segment(&plan, session.can_commit(), at_most);
            let is_last = segment.to == plan.to;
            if let Some(rows) = &mut progress.rows {
                session.lock_rows()?;
                rows.observe(&session.contents()?.tables);
            }
            let mut context = SegmentContext { rows: progress.rows.as_mut(), notes: Vec::new() };
            match self.run_segment(session, &inspection, &segment, mode, is_last, &mut context) {
                Err(error) if as_seen.is_some() && error.kind() == ErrorKind::VersionMismatch => {
                    session.rollback()?;
                    continue;
                }
                ran => ran?,
            }
            let notes = context.notes;
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
            schema: if is_proven { SchemaSource::Ledger } else { SchemaSource::Live },
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
}
