//! Inspects projects in batches, and plans them. The first batches are read while the reference is built.
//!
//! Builds the reference only if a schema is compared with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Manager;
use super::reporting::{failed, lock};
use crate::apply::{Executor, Preflight, other_ledger};
use crate::catalog::Version;
use crate::error::Result;
use crate::event::{Outcome, ProjectReport};
use crate::plan::{Inspection, Problem, Reference, Request};
use crate::project::ProjectId;
use crate::store::{ReadSchema, SchemaSource};

/// Inspections that were read while the reference was built, with the projects of their batch, by its first project.
pub(super) type Prefetched = HashMap<ProjectId, (Vec<ProjectId>, Vec<Result<Inspection>>)>;

/// What planning a fleet leads to.
#[derive(Default)]
pub(super) struct Planned {
    /// The projects to work on.
    pub(super) projects: Vec<(ProjectId, Preflight)>,
    /// The projects that a dry run would work on.
    pub(super) would_run: Vec<ProjectId>,
    /// The lowest position that one of the plans begins at, if one runs a migration.
    pub(super) lowest: Option<usize>,
}

/// How many batches are read while the reference is built.
const PREFETCHED_BATCHES: usize = 8;
/// How many of them are read at once.
const PREFETCH_THREADS: usize = 2;

/// A project's version, and what an upgrade would do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The newest version in its ledger; `None` without a ledger.
    pub version: Option<Version>,
    /// The pending versions, in order. Empty if there are problems.
    pub pending: Vec<Version>,
    /// The problems that prevent an upgrade.
    pub problems: Vec<Problem>,
}

impl Status {
    /// Whether the project is at the newest version and has no problems.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.version.is_some() && self.pending.is_empty() && self.problems.is_empty()
    }
}

impl Manager {
    /// Returns a project's version, pending migrations and problems. Changes nothing.
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the project does not exist.
    pub fn status(&self, id: &ProjectId) -> Result<Status> {
        let id = &self.resolve(id)?;
        let inspections = [self.inspect_with(id, ReadSchema::IfUnverified)];
        let executor = self.executor_for_status(&inspections)?;
        let [inspection] = inspections;
        let inspection = inspection?;
        let version = self
            .catalog
            .migrations()
            .iter()
            .rev()
            .map(|it| &it.version)
            .find(|it| inspection.ledger.is_applied(it));
        let (pending, problems) = match executor.plan(&inspection) {
            Ok(plan) => (
                plan.migrations(&self.catalog)
                    .into_iter()
                    .map(|migration| migration.version.clone())
                    .collect(),
                Vec::new(),
            ),
            Err(problems) => (Vec::new(), problems),
        };
        Ok(Status { version: version.cloned(), pending, problems })
    }

    /// Returns an executor that plans these projects. Builds the reference only if one of their schemas was read.
    pub(super) fn executor_for_status<'a, 'b>(
        &'a self,
        inspections: impl IntoIterator<Item = &'b Result<Inspection>>,
    ) -> Result<Executor<'a>> {
        static NONE: Reference = Reference::unknown();
        let with_schema = inspections.into_iter().flatten().filter(|it| it.schema.is_some());
        let mut with_schema = with_schema.peekable();
        let reference = if with_schema.peek().is_some() { self.reference_for(with_schema)? } else { &NONE };
        Ok(self.executor_with(reference, self.upgrade_request(), ""))
    }

    /// Reads the first batches of projects. Normally builds the reference at the same time. If the store can skip verified
    /// schemas, builds it afterwards, and only if a schema was read.
    pub(super) fn prefetch(&self, projects: &[ProjectId], read_schema: ReadSchema) -> Result<Prefetched> {
        if projects.is_empty() {
            return Ok(Prefetched::new());
        }
        let batch_size = self.store.inspect_batch_size(projects.len()).max(1);
        let batches: Vec<&[ProjectId]> = projects.chunks(batch_size).take(PREFETCHED_BATCHES).collect();
        let (next, prefetched) = (AtomicUsize::new(0), Mutex::new(Prefetched::new()));
        std::thread::scope(|scope| {
            let read = || {
                while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let inspections = self.store.inspect(batch, read_schema);
                    lock(&prefetched).insert(batch[0].clone(), (batch.to_vec(), inspections));
                }
            };
            let readers: Vec<_> =
                (0..PREFETCH_THREADS.min(batches.len())).map(|_| scope.spawn(read)).collect();
            if (read_schema == ReadSchema::Always || !self.store.ledger_verifies_schemas())
                && let Err(error) = self.reference()
            {
                next.store(PREFETCHED_BATCHES, Ordering::Relaxed);
                return Err(error);
            }
            // If a reader panicked, the workers read its batches again. They catch panics.
            for reader in readers {
                drop(reader.join());
            }
            Ok(())
        })?;
        let prefetched = prefetched.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Builds the reference if any of them needs it, so that a failing migration ends the command here.
        self.executor_for_status(prefetched.values().flat_map(|(_, inspections)| inspections))?;
        Ok(prefetched)
    }

    /// Inspects projects, batch by batch.
    pub(super) fn inspect_all<'a>(
        &'a self,
        projects: &'a [ProjectId],
    ) -> impl Iterator<Item = (&'a ProjectId, Result<Inspection>)> {
        let batches = projects.chunks(self.store.inspect_batch_size(projects.len()).max(1));
        batches.flat_map(|batch| batch.iter().zip(self.store.inspect(batch, ReadSchema::IfUnverified)))
    }

    /// Returns the inspections of a batch of projects. Reads the projects if they were not prefetched.
    pub(super) fn take_prefetched_or_inspect(
        &self,
        projects: &[ProjectId],
        prefetched: &Mutex<Prefetched>,
        read_schema: ReadSchema,
    ) -> Vec<Result<Inspection>> {
        let prefetched = projects.first().and_then(|first| lock(prefetched).remove(first));
        match prefetched {
            Some((batch, inspections)) if batch == projects => inspections,
            // The workers divide the projects of several stores in another way.
            _ => self.store.inspect(projects, read_schema),
        }
    }

    /// Reports on a batch of projects, of which nothing is changed.
    pub(super) fn survey_reports(
        &self,
        projects: &[ProjectId],
        prefetched: &Mutex<Prefetched>,
        report_on: &dyn Fn(&Executor<'_>, &ProjectId, &Inspection) -> ProjectReport,
    ) -> Vec<ProjectReport> {
        let inspections = self.take_prefetched_or_inspect(projects, prefetched, ReadSchema::IfUnverified);
        let executor = self.executor_for_status(&inspections);
        let report = |(project, inspection): (&ProjectId, Result<Inspection>)| match (inspection, &executor) {
            (Ok(inspection), Ok(executor)) => report_on(executor, project, &inspection),
            (Ok(_), Err(error)) => failed(project, error.duplicate()),
            (Err(error), _) => failed(project, error),
        };
        projects.iter().zip(inspections).map(report).collect()
    }

    /// Plans a project. Returns its report if it is finished. Otherwise adds the project to `planned`.
    pub(super) fn plan_project(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        inspection: Result<Inspection>,
        dry_run: bool,
        planned: &Mutex<Planned>,
    ) -> Option<ProjectReport> {
        let inspection = inspection.and_then(|it| self.with_other_ledgers(executor, project, it));
        let inspection = match inspection {
            Ok(inspection) => inspection,
            Err(error) => return Some(failed(project, error)),
        };
        let plan_result = executor.plan(&inspection);
        if let Ok(plan) = &plan_result
            && plan.from < plan.to
        {
            let mut planned = lock(planned);
            planned.lowest = Some(planned.lowest.map_or(plan.from, |lowest| lowest.min(plan.from)));
        }
        let preflight = match &plan_result {
            Ok(plan) if !plan.is_empty() => {
                let mode = executor.mode_for(plan);
                // Inspections of the whole fleet would be kept in memory, so keep only those that are used.
                let keep = self.store.supports_begin_if_unchanged() && mode.schema == SchemaSource::Ledger;
                Some(Preflight { mode, inspection: keep.then_some(inspection) })
            }
            // Another run may be migrating it now. Only under the lock is it certain that no run is.
            Err(problems) if problems.iter().any(|it| matches!(it, Problem::Dirty { .. })) => {
                Some(Preflight::UNPLANNED)
            }
            Ok(_) | Err(_) => None,
        };
        if dry_run && preflight.is_some() && plan_result.is_ok() {
            lock(planned).would_run.push(project.clone());
        }
        match preflight.filter(|_| !dry_run) {
            Some(preflight) => {
                lock(planned).projects.push((project.clone(), preflight));
                None
            }
            None => Some(self.report(project, plan_result, Outcome::Planned)),
        }
    }

    /// Reads the ledgers of other tools, if they are to be taken over.
    fn with_other_ledgers(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        mut inspection: Inspection,
    ) -> Result<Inspection> {
        let Request::Adopt { from, .. } = executor.request else { return Ok(inspection) };
        let found = Mutex::new(inspection.clone());
        self.store.read(project, &|rows| {
            // The store may call this several times. Only the last result counts.
            other_ledger::read(rows, self.store.dialect(), &mut lock(&found), from)
        })?;
        inspection = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(inspection)
    }
}
