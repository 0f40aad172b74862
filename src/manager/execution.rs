//! A plan carried out on one project, and several of them made durable together.
//!
//! It must not say of a project that it was done before that is on the disk.

use std::cell::Cell;
use std::sync::PoisonError;
use std::time::Duration;

use super::Manager;
use super::run::failed;
use crate::apply::{Executor, Preflight, Progress};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;

impl Manager {
    pub(super) fn execute_plan(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        preflight: &Preflight,
    ) -> ProjectReport {
        self.execute_from(executor, project, preflight, &mut Progress::new(executor.request))
    }

    pub(super) fn execute_from(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        preflight: &Preflight,
        progress: &mut Progress,
    ) -> ProjectReport {
        let at_most = Cell::new(self.catalog.head().max(1));
        let perform = || {
            progress.at_most = at_most.get();
            let mut session = self.store.open(project)?;
            executor.perform(&mut *session, preflight, progress)
        };
        let divide = || {
            let is_divisible = at_most.get() > 1;
            at_most.set(at_most.get().div_ceil(2));
            is_divisible
        };
        let result = self.retry_in_parts(perform, divide);
        self.pools.forget(project);
        match result {
            Ok(done) => {
                let outcome = match &done {
                    Ok(plan) if plan.from < plan.to => Outcome::Upgraded,
                    Ok(plan) if plan.from > plan.to => Outcome::Downgraded,
                    Ok(_) | Err(_) => Outcome::Stamped,
                };
                self.report(project, done, outcome)
            }
            Err(error) => failed(project, error),
        }
    }

    /// Has the store make durable what was done to these projects: nobody is told before. What another run did and this one
    /// only found may be as young.
    pub(super) fn flush_commits(&self, reports: &mut [ProjectReport], run: &str) {
        let is_done = |it: &Outcome| matches!(it, Outcome::Upgraded | Outcome::Downgraded | Outcome::Stamped);
        let ids: Vec<ProjectId> =
            reports.iter().filter(|it| is_done(&it.outcome)).map(|it| it.project.clone()).collect();
        if ids.is_empty() && !reports.iter().any(|it| matches!(it.outcome, Outcome::UpToDate)) {
            return;
        }
        // A connection may have been cut, or one of them be in the way of the others.
        let alone = |id: &ProjectId| {
            self.store.flush_commits(std::slice::from_ref(id), run).map(|there| there == [true])
        };
        let there: Vec<Result<bool>> = match self.store.flush_commits(&ids, run) {
            Ok(there) => there.into_iter().map(Ok).collect(),
            Err(_) => ids.iter().map(alone).collect(),
        };
        for (report, there) in reports.iter_mut().filter(|it| is_done(&it.outcome)).zip(there) {
            let lost = match there {
                Ok(true) => continue,
                Ok(false) => {
                    let message =
                        "it was committed, and the server lost that again before it was on its disk";
                    Error::new(ErrorKind::Disconnected, message)
                }
                Err(error) => {
                    let message = "it was committed, and whether that is on the server's disk is not known";
                    Error::new(error.kind(), message).caused_by(error.summary())
                }
            };
            let lost = lost.with_hint("run the command again to see where the project stands");
            report.outcome = Outcome::Failed(lost.in_project(&report.project));
        }
    }

    /// Tries again where another process held a lock: whoever did may be done by now. What the server has no locks left for,
    /// beside the others of this run, is tried again alone.
    pub(super) fn retry<T>(&self, work: impl FnMut() -> Result<T>) -> Result<T> {
        self.retry_in_parts(work, || false)
    }

    /// The same; and what the server has not locks enough for alone is tried in smaller parts, as long as `divide` can make them
    /// smaller.
    fn retry_in_parts<T>(&self, mut work: impl FnMut() -> Result<T>, divide: impl Fn() -> bool) -> Result<T> {
        let among_others = self.alone.read().unwrap_or_else(PoisonError::into_inner);
        // Each time a little longer, and not all at once.
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut result = work();
        for _ in 0..self.store.retries() {
            if !matches!(&result, Err(error) if error.kind() == ErrorKind::Locked) {
                break;
            }
            backoff.sleep();
            result = work();
        }
        drop(among_others);
        let is_exhausted =
            |it: &Result<T>| matches!(it, Err(error) if error.kind() == ErrorKind::LocksExhausted);
        if !is_exhausted(&result) {
            return result;
        }
        let _alone = self.alone.write().unwrap_or_else(PoisonError::into_inner);
        result = work();
        while is_exhausted(&result) && divide() {
            result = work();
        }
        result
    }
}
