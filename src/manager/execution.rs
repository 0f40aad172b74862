//! Executes a plan on one project, and makes the commits of several projects durable together.
//!
//! A project is reported as done only once its commit is on disk.

use std::cell::Cell;
use std::sync::PoisonError;
use std::time::Duration;

use super::Manager;
use super::reporting::failed;
use crate::apply::{Executor, Preflight, Progress};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;

impl Manager {
    pub(super) fn execute(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        preflight: &Preflight,
    ) -> ProjectReport {
        self.execute_with_progress(executor, project, preflight, &mut Progress::new(executor.request))
    }

    pub(super) fn execute_with_progress(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        preflight: &Preflight,
        progress: &mut Progress,
    ) -> ProjectReport {
        let all = self.catalog.head() + self.catalog.repeatables().len();
        let max_migrations = Cell::new(all.max(1));
        let execute = || {
            progress.max_migrations = max_migrations.get();
            let mut session = self.store.open(project)?;
            executor.execute(&mut *session, preflight, progress)
        };
        let halve = || {
            let is_divisible = max_migrations.get() > 1;
            max_migrations.set(max_migrations.get().div_ceil(2));
            is_divisible
        };
        let result = self.retry_with_smaller_transactions(execute, halve);
        self.pools.forget(project);
        match result {
            Ok(plan_result) => {
                let outcome = match &plan_result {
                    Ok(plan) if plan.from < plan.to => Outcome::Upgraded,
                    Ok(plan) if plan.from > plan.to => Outcome::Downgraded,
                    Ok(plan) if !plan.repeatables.is_empty() => Outcome::Upgraded,
                    Ok(plan) if plan.adoption.is_some() => Outcome::Adopted,
                    Ok(_) | Err(_) => Outcome::Stamped,
                };
                self.report(project, plan_result, outcome)
            }
            Err(error) => failed(project, error),
        }
    }

    /// Makes the commits to these projects durable, before they are reported. Also flushes for up-to-date projects:
    /// another run may have upgraded them a moment ago with an asynchronous commit.
    pub(super) fn flush_commits(&self, reports: &mut [ProjectReport], run_id: &str) {
        let is_done = |it: &Outcome| {
            matches!(it, Outcome::Upgraded | Outcome::Downgraded | Outcome::Stamped | Outcome::Adopted)
        };
        let ids: Vec<ProjectId> =
            reports.iter().filter(|it| is_done(&it.outcome)).map(|it| it.project.clone()).collect();
        if ids.is_empty() && !reports.iter().any(|it| matches!(it.outcome, Outcome::UpToDate)) {
            return;
        }
        let Some(store) = self.store.deferred_commits() else { return };
        // If the flush of all fails, each project is flushed separately: the connection may have been lost, or one
        // project may have made the others fail.
        let flush_one = |id: &ProjectId| {
            store.flush_commits(std::slice::from_ref(id), run_id).map(|durable| durable == [true])
        };
        let durable: Vec<Result<bool>> = match store.flush_commits(&ids, run_id) {
            Ok(durable) => durable.into_iter().map(Ok).collect(),
            Err(_) => ids.iter().map(flush_one).collect(),
        };
        for (report, is_durable) in reports.iter_mut().filter(|it| is_done(&it.outcome)).zip(durable) {
            let error = match is_durable {
                Ok(true) => continue,
                Ok(false) => {
                    let message = "the server lost its commit before it was on disk";
                    Error::new(ErrorKind::Disconnected, message)
                }
                Err(error) => {
                    let message = "it was committed, but the commit may not be on the server's disk";
                    Error::new(error.kind(), message).caused_by(error.summary())
                }
            };
            let error = error.with_hint("run the command again to see the state of the project");
            report.outcome = Outcome::Failed(error.in_project(&report.project));
        }
    }

    /// Does `work`, and repeats it if another process held a lock. If the server's lock table is full, repeats it while
    /// this run works on no other project.
    pub(super) fn retry<T>(&self, work: impl FnMut() -> Result<T>) -> Result<T> {
        self.retry_with_smaller_transactions(work, || false)
    }

    /// Like [`Manager::retry`]. If the lock table is still full without other projects, calls `halve` to make the work
    /// smaller and repeats it, until `halve` returns `false`.
    fn retry_with_smaller_transactions<T>(
        &self,
        mut work: impl FnMut() -> Result<T>,
        halve: impl Fn() -> bool,
    ) -> Result<T> {
        let shared = self.lock_table_gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut result = work();
        for _ in 0..self.store.retries() {
            if !matches!(&result, Err(error) if error.kind() == ErrorKind::Locked) {
                break;
            }
            backoff.sleep();
            result = work();
        }
        drop(shared);
        let is_exhausted =
            |it: &Result<T>| matches!(it, Err(error) if error.kind() == ErrorKind::LocksExhausted);
        if !is_exhausted(&result) {
            return result;
        }
        let _exclusive = self.lock_table_gate.write().unwrap_or_else(PoisonError::into_inner);
        result = work();
        while is_exhausted(&result) && halve() {
            result = work();
        }
        result
    }
}
