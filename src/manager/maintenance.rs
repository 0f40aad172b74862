//! The fleet commands that move no project: deleting what is old, checking what must hold, having databases look after
//! themselves.
//!
//! It must not write in a dry run or a check: those only read.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::Manager;
use super::run::{failed, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::maintenance::{Counts, RetentionCutoff, check};
use crate::plan::{Baseline, Drift, Inspection, Problem, Request};
use crate::project::ProjectId;
use crate::store::{Health, Maintenance};

/// What is done to each project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaintenanceTask {
    /// Rows that the set's rules no longer keep are deleted.
    Retain {
        /// An age over those of the rules.
        older_than: Option<Duration>,
    },
    /// The database's own checks and those of the set.
    Check,
    /// What the database can do for itself.
    Maintain(Maintenance),
}

/// What was found out about a project's old rows.
#[derive(Default)]
struct RetentionResult {
    rows: Counts,
    notes: Vec<String>,
    /// Tables of rules that the project has not got yet.
    absent: Vec<String>,
}

impl Manager {
    /// Whether there is anything to do for a task at all.
    pub(super) fn require_rules(&self, task: MaintenanceTask) -> Result<()> {
        if matches!(task, MaintenanceTask::Retain { .. }) && self.rules()?.retention.is_empty() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("{} says of no rows how long they are kept", self.catalog.name()),
            )
            .with_hint("write a [[retention]] rule into set.toml, beside the migrations"));
        }
        Ok(())
    }

    pub(super) fn maintain_project(
        &self,
        project: &ProjectId,
        task: MaintenanceTask,
        dry_run: bool,
    ) -> ProjectReport {
        match task {
            MaintenanceTask::Retain { older_than } => self.retain_project(project, older_than, dry_run),
            MaintenanceTask::Check => self.check_project(project),
            MaintenanceTask::Maintain(_) if dry_run => match self.store.read(project, &|_| Ok(())) {
                Ok(()) => ProjectReport::new(project.clone(), Outcome::Planned),
                Err(error) => failed(project, error),
            },
            MaintenanceTask::Maintain(maintenance) => {
                let outcome = match maintenance {
                    Maintenance::Analyze => Outcome::Analyzed,
                    Maintenance::Vacuum => Outcome::Vacuumed,
                };
                match self.retry(|| self.store.maintain(project, maintenance)) {
                    Ok(()) => ProjectReport::new(project.clone(), outcome),
                    Err(error) => failed(project, error),
                }
            }
        }
    }

    fn retain_project(
        &self,
        project: &ProjectId,
        older_than: Option<Duration>,
        dry_run: bool,
    ) -> ProjectReport {
        let seen = Mutex::new(RetentionResult::default());
        let result = self.retain(project, older_than, dry_run, &seen);
        let RetentionResult { rows, notes, .. } = std::mem::take(&mut *lock(&seen));
        let outcome = match result {
            Err(error) => Outcome::Failed(error.in_project(project)),
            Ok(Err(problems)) => Outcome::Blocked(problems),
            Ok(Ok(())) if rows.values().all(|rows| *rows == 0) => Outcome::UpToDate,
            Ok(Ok(())) if dry_run => Outcome::Planned,
            Ok(Ok(())) => Outcome::Retained,
        };
        ProjectReport { rows, notes, ..ProjectReport::new(project.clone(), outcome) }
    }

    fn retain(
        &self,
        project: &ProjectId,
        older_than: Option<Duration>,
        dry_run: bool,
        seen: &Mutex<RetentionResult>,
    ) -> Result<Result<(), Vec<Problem>>> {
        // A difference in the schema is no reason to keep what is old: the names in the rules are looked up.
        let request =
            Request::Upgrade { to: self.catalog.head(), baseline: Baseline::Stamp, drift: Drift::Keep };
        let executor = self.executor(request, "")?;
        let plan = match executor.plan(&self.inspect(project)?) {
            Ok(plan) => plan,
            Err(problems) => return Ok(Err(problems)),
        };
        let is_behind = plan.from < plan.to;
        let (dialect, now) = (self.store.dialect(), SystemTime::now());
        let set = self.rules()?;
        let rules = || set.retention.iter().map(|rule| RetentionCutoff { rule, dialect, now, older_than });
        self.store.read(project, &|rows| {
            // It may be read more than once, and only the last time counts.
            let mut found = RetentionResult::default();
            for cutoff in rules() {
                let table = &cutoff.rule.table;
                if is_behind && rows.columns(table)?.is_empty() {
                    found.notes.push(format!("behind the newest version: no table {table} yet"));
                    found.absent.push(table.clone());
                } else {
                    cutoff.count(rows, &mut found.rows)?;
                }
            }
            *lock(seen) = found;
            Ok(())
        })?;
        // What has nothing to delete is not even locked.
        if dry_run || lock(seen).rows.values().all(|rows| *rows == 0) {
            return Ok(Ok(()));
        }
        lock(seen).rows.clear();
        let permit = |inspection: &Inspection| {
            executor.plan(inspection).map(drop).map_err(|problems| {
                let said: Vec<_> = problems.iter().map(Problem::message).collect();
                Error::new(ErrorKind::Blocked, said.join("; "))
                    .with_hint("see where it stands: tenantry status ID")
            })
        };
        let delete = || {
            let mut session = self.store.open(project)?;
            let mut seen = lock(seen);
            let RetentionResult { rows, absent, .. } = &mut *seen;
            for cutoff in rules().filter(|it| !absent.contains(&it.rule.table)) {
                cutoff.delete(&mut *session, &permit, rows)?;
            }
            Ok(())
        };
        let deleted = self.retry(delete);
        deleted.map(Ok).map_err(|error| {
            error.with_hint("what the report counts is deleted; run the command again for the rest")
        })
    }

    fn check_project(&self, project: &ProjectId) -> ProjectReport {
        let seen = Mutex::new((Vec::new(), Health::default()));
        let result = self.store.read(project, &|rows| {
            let mut health = rows.health()?;
            let mut found = std::mem::take(&mut health.damage);
            for rule in &self.rules()?.checks {
                match check(rows, rule) {
                    Ok(wrong) => found.extend(wrong),
                    // What was found is not to be lost because something else can't be asked.
                    Err(error) if !found.is_empty() => {
                        found.push(format!("{}: {}", rule.name, error.summary()));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            *lock(&seen) = (found, health);
            Ok(())
        });
        let (mut wrong, health) = std::mem::take(&mut *lock(&seen));
        let mut notes = not_checked(&health);
        let result = result.and_then(|()| {
            if health.unvalidated.is_empty() {
                return Ok(());
            }
            let is_meant = self.are_left_unvalidated(&self.inspect(project)?)?;
            if is_meant { &mut notes } else { &mut wrong }.extend(health.unvalidated);
            Ok(())
        });
        match result {
            Err(error) => failed(project, error),
            Ok(()) if wrong.is_empty() => {
                ProjectReport { notes, ..ProjectReport::new(project.clone(), Outcome::Checked) }
            }
            Ok(()) => {
                let error = Error::new(ErrorKind::CheckFailed, wrong.join("; ")).with_hint(
                    "look at these rows before anything else is written; a copy from before is what helps",
                );
                ProjectReport { notes, ..failed(project, error) }
            }
        }
    }

    /// Whether the migrations themselves leave all those constraints unvalidated that a project has so.
    pub(super) fn are_left_unvalidated(&self, found: &Inspection) -> Result<bool> {
        let Some(schema) = &found.schema else { return Ok(false) };
        let position =
            self.catalog.migrations().iter().filter(|it| found.ledger.is_applied(&it.version)).count();
        let expected = self.reference()?.expected(position);
        Ok(expected.is_some_and(|expected| schema.unvalidated().is_subset(&expected.unvalidated())))
    }
}

/// What a check could not look at, in words.
pub(super) fn not_checked(health: &Health) -> Vec<String> {
    health.unchecked.iter().map(|what| format!("not checked: {what}")).collect()
}
