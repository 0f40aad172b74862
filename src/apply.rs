//! Executes a request on one project: locks it, plans again under the lock, runs the scripts, verifies the result and
//! commits.
//!
//! Nothing is committed before it is verified.

pub(crate) mod other_ledger;
mod reference;
mod rows;
pub(crate) mod rules;
mod segment;

use std::time::{Duration, Instant};

use crate::catalog::{Catalog, Migration, Version};
use crate::error::{ErrorKind, Result};
use crate::plan::{self, Inspection, Plan, Problem, Reference, Request};
use crate::store::{ForeignKeys, Lock, Mode, SchemaSource, Session};

pub(crate) use reference::{ScratchRun, TestDownScripts, run_migrations};

pub(crate) use rows::{RowTracker, preserve_sequences};
use segment::SegmentContext;

/// Plans and executes one request on projects.
#[derive(Clone, Copy)]
pub(crate) struct Executor<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) reference: &'a Reference,
    pub(crate) request: Request,
    pub(crate) run_id: &'a str,
    /// Which tables may be dropped.
    pub(crate) drops: DropTables,
    /// Who owns the project's rows.
    pub(crate) rows: RowOwner,
    /// The migrations that may delete rows that they do not declare.
    pub(crate) allow_row_loss: &'a [Version],
    /// When commits are durable.
    pub(crate) durability: Durability,
}

/// When commits are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When the commit returns.
    Immediate,
    /// After [`DeferredCommits::flush_commits`](crate::store::DeferredCommits::flush_commits). The caller must call
    /// this before it reports the project.
    Deferred,
}

/// Who owns a project's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOwner {
    /// An application: no row may be lost.
    Application,
    /// The migrations: the project is new, so they may delete any row.
    Migrations,
}

/// Which tables migrations may drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropTables {
    /// Any table.
    Any,
    /// Only tables without rows.
    OnlyEmpty,
}

/// What the survey learned about a project before it was locked.
#[derive(Clone, Debug)]
pub(crate) struct Preflight {
    /// How to lock it.
    pub(crate) mode: Mode,
    /// The inspection that it was planned from, if it may be used under the lock once the project is known to be
    /// unchanged.
    pub(crate) inspection: Option<Inspection>,
}

impl Preflight {
    /// For a project that was not planned yet. It is planned under the lock.
    pub(crate) const UNPLANNED: Self = Self { mode: Mode::PLAIN, inspection: None };
}

/// The progress of a request on one project. Kept between attempts.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// [`Executor::request`] at first. After the first commit it names the target position, so that `--steps` is not
    /// counted twice.
    pub(crate) request: Request,
    /// The maximum number of migrations in one transaction.
    pub(crate) max_migrations: usize,
    /// Tracks whether others change rows, if a failed run has to know that.
    pub(crate) rows: Option<RowTracker>,
    /// The longest time from taking the lock to a commit.
    pub(crate) longest_lock: Duration,
}

impl Progress {
    pub(crate) const fn new(request: Request) -> Self {
        Self { request, max_migrations: usize::MAX, rows: None, longest_lock: Duration::ZERO }
    }
}

/// A plan, or the problems that prevent one.
pub(crate) type PlanResult = Result<Plan, Vec<Problem>>;

/// A locked project with its plan.
struct Locked {
    inspection: Inspection,
    plan: Plan,
    /// The mode of the transaction that was begun.
    mode: Mode,
    /// Whether the inspection is from before the lock. The first script that runs checks it.
    is_unchecked: bool,
}

impl Executor<'_> {
    /// Plans the request for an inspected project.
    pub(crate) fn plan(&self, inspection: &Inspection) -> PlanResult {
        self.plan_for(self.request, inspection)
    }

    fn plan_for(&self, request: Request, inspection: &Inspection) -> PlanResult {
        plan::plan(self.catalog, self.reference, inspection, request)
    }

    /// Executes the request on a project. Returns the plan that was executed, or the problems that prevent it.
    ///
    /// `preflight` was learned without the lock, so it may be outdated. Under the lock the project is read and planned
    /// again, or checked to be unchanged.
    pub(crate) fn execute(
        &self,
        session: &mut dyn Session,
        preflight: &Preflight,
        progress: &mut Progress,
    ) -> Result<PlanResult> {
        let mut executed: Option<Plan> = None;
        let (mut mode, mut inspected) = (preflight.mode, preflight.inspection.as_ref());
        loop {
            let locked = match self.lock_and_plan(session, progress.request, mode, inspected.take())? {
                Ok(locked) => locked,
                Err(problems) => return Ok(Err(problems)),
            };
            let Locked { inspection, plan, is_unchecked, .. } = locked;
            mode = locked.mode;
            let locked_at = Instant::now();
            if plan.is_empty() {
                session.rollback()?;
                return Ok(Ok(executed.unwrap_or(plan)));
            }
            let max_migrations = if session.can_commit() { progress.max_migrations } else { usize::MAX };
            let segment = self.first_segment(&plan, session.can_commit(), max_migrations);
            let is_last = segment.to == plan.to && segment.repeatables == plan.repeatables;
            if let Some(rows) = &mut progress.rows {
                session.lock_rows()?;
                rows.observe(&session.contents()?.tables);
            }
            let mut context = SegmentContext { rows: progress.rows.as_mut(), notes: Vec::new() };
            match self.run_segment(session, &inspection, &segment, mode, is_last, &mut context) {
                // The project changed since the preflight. Begin again without it.
                Err(error) if is_unchecked && error.kind() == ErrorKind::VersionMismatch => {
                    session.rollback()?;
                    continue;
                }
                Err(error) if executed.is_some() => {
                    let version = self.catalog.version_at(segment.from);
                    return Err(error.with_hint(format!(
                        "it is at {version} now, since the migrations before are committed: fix the migration or its data, and run the \
                         command again"
                    )));
                }
                result => result?,
            }
            let notes = context.notes;
            progress.longest_lock = progress.longest_lock.max(locked_at.elapsed());
            progress.request = progress.request.with_target(plan.to);
            let executed = executed.get_or_insert(plan);
            executed.notes.extend(notes);
            if is_last {
                return Ok(Ok(executed.clone()));
            }
        }
    }

    /// Locks a project and plans a request for it, with a transaction in the mode that the plan needs. Returns the
    /// problems, without a lock, if there is no plan.
    ///
    /// `inspected` is the project's inspection from before the lock. If the store can check it together with the first
    /// scripts, the project is not read again.
    fn lock_and_plan(
        &self,
        session: &mut dyn Session,
        request: Request,
        mut mode: Mode,
        mut inspected: Option<&Inspection>,
    ) -> Result<Result<Locked, Vec<Problem>>> {
        loop {
            let unchecked = match inspected.take() {
                Some(inspection) if session.begin_if_unchanged(mode, inspection)? => Some(inspection),
                _ => None,
            };
            let inspection = if let Some(inspection) = unchecked {
                inspection.clone()
            } else {
                session.begin(mode)?;
                self.inspect(session)?
            };
            match self.plan_for(request, &inspection) {
                Ok(plan) => {
                    let mut needed = self.mode_for(&plan);
                    if mode.schema == SchemaSource::Live {
                        needed.schema = SchemaSource::Live;
                    }
                    if needed == mode {
                        let is_unchecked = unchecked.is_some();
                        return Ok(Ok(Locked { inspection, plan, mode, is_unchecked }));
                    }
                    session.rollback()?;
                    mode = needed;
                }
                // The fingerprint in the ledger may be outdated, if another tool changed the project. Read the schema.
                Err(_) if mode.schema == SchemaSource::Ledger => {
                    session.rollback()?;
                    mode.schema = SchemaSource::Live;
                }
                Err(problems) => {
                    session.rollback()?;
                    return Ok(Err(problems));
                }
            }
        }
    }

    /// Inspects a locked project, with the ledgers of other tools if they are to be taken over.
    fn inspect(&self, session: &mut dyn Session) -> Result<Inspection> {
        let mut inspection = session.inspect()?;
        if let Request::Adopt { from, .. } = self.request {
            other_ledger::read(session, self.catalog.dialect(), &mut inspection, from)?;
        }
        Ok(inspection)
    }

    /// How to begin a transaction for a plan. Foreign keys are not enforced if the plan drops a table, since that would
    /// delete the rows that reference its rows.
    pub(crate) fn mode_for(&self, plan: &Plan) -> Mode {
        let foreign_keys =
            if plan.drops_table(self.catalog) { ForeignKeys::Compared } else { ForeignKeys::Enforced };
        let lock = if plan.is_transactional(self.catalog) { Lock::Transaction } else { Lock::Session };
        // A plan that runs no migration does not verify the schema at its end. Drift can only be kept if it was read.
        let runs_script = plan.from != plan.to || !plan.repeatables.is_empty();
        let is_verified = runs_script && plan.drift.is_empty();
        Mode {
            foreign_keys,
            lock,
            schema: if is_verified { SchemaSource::Ledger } else { SchemaSource::Live },
            file: plan.file_settings(self.catalog),
        }
    }

    /// The segment of a plan that is committed next, with at most `max_migrations` migrations.
    ///
    /// It ends before a migration that cannot run in a transaction; such a migration is a segment by itself. If segments can
    /// be committed, it also ends after a migration that adds a value to an enum, since the value is usable only after
    /// that, and before a migration that validates a constraint, since the earlier ones hold locks that would block
    /// applications meanwhile. The repeatable migrations are run together.
    fn first_segment(&self, plan: &Plan, can_commit: bool, max_migrations: usize) -> Plan {
        let migrations = plan.migrations(self.catalog);
        let is_up = plan.from <= plan.to;
        let transactional = plan.scripts(self.catalog).take_while(|script| script.is_transactional()).count();
        let ends_segment = |migration: &&Migration| is_up && can_commit && migration.up.adds_enum_value();
        let last = migrations.iter().take(transactional).position(ends_segment);
        let begins_segment =
            |migration: &&Migration| is_up && can_commit && migration.up.validates_constraint();
        let next = migrations.iter().take(transactional).skip(1).position(begins_segment);
        let in_transaction = last.map_or(transactional, |last| last + 1).min(max_migrations);
        let in_transaction = next.map_or(in_transaction, |next| in_transaction.min(next + 1));
        let count = match (in_transaction, &plan.stamp) {
            (0, Some(_)) => 0,
            (0, None) => 1.min(migrations.len()),
            (count, _) => count,
        };
        let is_whole = count == migrations.len() || plan.from == plan.to;
        let count = count.min(plan.from.abs_diff(plan.to));
        let to = if is_up { plan.from + count } else { plan.from - count };
        let repeatables = if is_whole { plan.repeatables.clone() } else { Vec::new() };
        let is_complete = plan.is_complete && is_whole;
        Plan { to, repeatables, is_complete, ..plan.clone() }
    }
}
