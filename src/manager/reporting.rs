//! Turns plans, problems and errors into a project's report or error.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Manager;
use crate::apply::PlanResult;
use crate::error::{Error, ErrorKind};
use crate::event::{Outcome, ProjectReport};
use crate::plan::{self, Inspection, Plan, Problem, Reference};
use crate::project::ProjectId;

impl Manager {
    /// Creates a report from a plan. `outcome` is the outcome if the plan is not empty.
    pub(super) fn report(&self, project: &ProjectId, result: PlanResult, outcome: Outcome) -> ProjectReport {
        let plan = match result {
            Ok(plan) => plan,
            Err(problems) => return ProjectReport::new(project.clone(), Outcome::Blocked(problems)),
        };
        let version = |position: usize| self.catalog.version_at(position);
        let outcome = if plan.is_empty() { Outcome::UpToDate } else { outcome };
        let migrations =
            plan.migrations(&self.catalog).into_iter().map(|migration| migration.version.clone()).collect();
        let goes_down = plan.to < plan.from;
        let Plan { recorded_position, stamp, to, mut notes, .. } = plan;
        if stamp.as_ref().is_some_and(|stamp| stamp.forced) {
            notes.push("recorded although the project differs from the migrations".into());
        }
        ProjectReport {
            from: recorded_position.map(version),
            to: Some(version(to)),
            stamped: stamp.map(|stamp| version(stamp.position)),
            goes_down,
            migrations,
            notes,
            ..ProjectReport::new(project.clone(), outcome)
        }
    }
}

impl Manager {
    /// Creates a report of how a project's schema compares with its version.
    pub(super) fn report_drift(
        &self,
        project: &ProjectId,
        reference: &Reference,
        inspection: &Inspection,
    ) -> ProjectReport {
        let comparison = match plan::compare(&self.catalog, reference, inspection) {
            Ok(comparison) => comparison,
            Err(problems) => return ProjectReport::new(project.clone(), Outcome::Blocked(problems)),
        };
        let outcome = if comparison.differences.is_empty() {
            Outcome::AsExpected
        } else {
            Outcome::Drifted(comparison.differences)
        };
        let to = Some(self.catalog.version_at(comparison.state.position));
        ProjectReport { to, notes: comparison.notes, ..ProjectReport::new(project.clone(), outcome) }
    }
}

pub(super) fn blocked(id: &ProjectId, problems: &[Problem]) -> Error {
    let messages: Vec<_> = problems.iter().map(Problem::message).collect();
    let error = Error::new(ErrorKind::Blocked, messages.join("; ")).in_project(id);
    match problems.first() {
        Some(problem) => error.with_hint(problem.hint_for_command()),
        None => error,
    }
}

pub(super) fn failed(project: &ProjectId, error: Error) -> ProjectReport {
    // Nothing was attempted: the user has to choose one of the project's names first.
    if error.kind() == ErrorKind::SharedFile {
        let hint = error.hint_for_command().unwrap_or_default().to_string();
        let problem = Problem::SharedFile { message: error.message().into(), hint };
        return ProjectReport::new(project.clone(), Outcome::Blocked(vec![problem]));
    }
    // A store of several knows the project by another name.
    ProjectReport::new(project.clone(), Outcome::Failed(error.of_project(project)))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
