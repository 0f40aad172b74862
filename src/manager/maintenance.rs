//! Fleet commands that do not change versions: deleting old rows, checking projects, and `ANALYZE` and `VACUUM`.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::Manager;
use super::command::MaintenanceTask;
use super::reporting::{failed, lock};
use super::verification::unchecked_notes;
use crate::apply::rules::{Counts, RetentionCutoff, check};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::plan::{IfDrifted, IfNoLedger, Inspection, Problem, Request};
use crate::project::ProjectId;
use crate::store::{DatabaseMaintenance, Health};

/// The old rows that were found or deleted in one project.
#[derive(Default)]
struct RetentionResult {
    rows: Counts,
    notes: Vec<String>,
    /// Tables with a rule that do not exist in this project yet.
    missing_tables: Vec<String>,
}

impl Manager {
    /// Fails if the task needs rules and the set has none.
    pub(super) fn require_rules(&self, task: MaintenanceTask) -> Result<()> {
        if matches!(task, MaintenanceTask::Retain { .. }) && self.rules()?.retention.is_empty() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("{} has no retention rules", self.catalog.name()),
            )
            .with_hint("add a [[retention]] rule to set.toml, next to the migrations"));
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
            MaintenanceTask::Database(_) if dry_run => match self.store.read(project, &|_| Ok(())) {
                Ok(()) => ProjectReport::new(project.clone(), Outcome::Planned),
                Err(error) => failed(project, error),
            },
            MaintenanceTask::Database(maintenance) => {
                let outcome = match maintenance {
                    DatabaseMaintenance::Analyze => Outcome::Analyzed,
                    DatabaseMaintenance::Vacuum => Outcome::Vacuumed,
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
        let found = Mutex::new(RetentionResult::default());
        let result = self.retain(project, older_than, dry_run, &found);
        let RetentionResult { rows, notes, .. } = std::mem::take(&mut *lock(&found));
        let outcome = match result {
            Err(error) => Outcome::Failed(error.in_project(project)),
            Ok(Err(problems)) => Outcome::Blocked(problems),
            Ok(Ok(())) if rows.values().all(|rows| *rows == 0) => Outcome::UpToDate,
            Ok(Ok(())) if dry_run => Outcome::Planned,
            Ok(Ok(())) => Outcome::RowsDeleted,
        };
        ProjectReport { rows, notes, ..ProjectReport::new(project.clone(), outcome) }
    }

    fn retain(
        &self,
        project: &ProjectId,
        older_than: Option<Duration>,
        dry_run: bool,
        found: &Mutex<RetentionResult>,
    ) -> Result<Result<(), Vec<Problem>>> {
        // Drift does not prevent deleting old rows: the names in the rules are looked up in the live schema.
        let request =
            Request::Upgrade { to: self.catalog.head(), baseline: IfNoLedger::Stamp, drift: IfDrifted::Keep };
        let executor = self.executor_for(request, "")?;
        let plan = match executor.plan(&self.inspect(project)?) {
            Ok(plan) => plan,
            Err(problems) => return Ok(Err(problems)),
        };
        let is_behind = plan.from < plan.to;
        let (dialect, now) = (self.store.dialect(), SystemTime::now());
        let set_rules = self.rules()?;
        let cutoffs =
            || set_rules.retention.iter().map(|rule| RetentionCutoff { rule, dialect, now, older_than });
        self.store.read(project, &|rows| {
            // The store may call this several times. Only the last result counts.
            let mut current = RetentionResult::default();
            for cutoff in cutoffs() {
                let table = &cutoff.rule.table;
                if is_behind && rows.columns(table)?.is_empty() {
                    current
                        .notes
                        .push(format!("not at the newest version: table {table} does not exist yet"));
                    current.missing_tables.push(table.clone());
                } else {
                    cutoff.count(rows, &mut current.rows)?;
                }
            }
            *lock(found) = current;
            Ok(())
        })?;
        // A project without old rows is not locked.
        if dry_run || lock(found).rows.values().all(|rows| *rows == 0) {
            return Ok(Ok(()));
        }
        lock(found).rows.clear();
        let require_plan = |inspection: &Inspection| {
            executor.plan(inspection).map(drop).map_err(|problems| {
                let messages: Vec<_> = problems.iter().map(Problem::message).collect();
                Error::new(ErrorKind::Blocked, messages.join("; "))
                    .with_hint("show its status: tenantry status ID")
            })
        };
        let delete = || {
            let mut session = self.store.open(project)?;
            let mut found = lock(found);
            let RetentionResult { rows, missing_tables, .. } = &mut *found;
            for cutoff in cutoffs().filter(|it| !missing_tables.contains(&it.rule.table)) {
                cutoff.delete(&mut *session, &require_plan, rows)?;
            }
            Ok(())
        };
        let deleted = self.retry(delete);
        deleted.map(Ok).map_err(|error| {
            error.with_hint("the rows in the report are deleted; run the command again to delete the others")
        })
    }

    fn check_project(&self, project: &ProjectId) -> ProjectReport {
        let findings = Mutex::new((Vec::new(), Health::default()));
        let result = self.store.read(project, &|rows| {
            let mut health = rows.health()?;
            let mut failures = std::mem::take(&mut health.errors);
            for rule in &self.rules()?.checks {
                match check(rows, rule) {
                    Ok(failure) => failures.extend(failure),
                    // A check that cannot run must not hide the failures that were found.
                    Err(error) if !failures.is_empty() => {
                        failures.push(format!("{}: {}", rule.name, error.summary()));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            *lock(&findings) = (failures, health);
            Ok(())
        });
        let (mut failures, health) = std::mem::take(&mut *lock(&findings));
        let mut notes = unchecked_notes(&health);
        let result = result.and_then(|()| {
            if health.unvalidated.is_empty() {
                return Ok(());
            }
            let is_expected = self.expects_unvalidated(&self.inspect(project)?)?;
            if is_expected { &mut notes } else { &mut failures }.extend(health.unvalidated);
            Ok(())
        });
        match result {
            Err(error) => failed(project, error),
            Ok(()) if failures.is_empty() => {
                ProjectReport { notes, ..ProjectReport::new(project.clone(), Outcome::Checked) }
            }
            Ok(()) => {
                let error = Error::new(ErrorKind::CheckFailed, failures.join("; ")).with_hint(
                    "examine this before anything else is written; an older backup may have the correct rows",
                );
                ProjectReport { notes, ..failed(project, error) }
            }
        }
    }
}
