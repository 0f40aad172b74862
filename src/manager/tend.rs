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
use crate::project::ProjectId;
use crate::store::Care;
use crate::tend::{Counts, Expiry, check};

/// What is done to each project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Rows that the set's rules no longer keep are deleted.
    Retain {
        /// An age over those of the rules.
        older_than: Option<Duration>,
    },
    /// The database's own checks and those of the set.
    Check,
    /// What the database can do for itself.
    LookAfter(Care),
}

impl Manager {
    /// Whether there is anything to do for a task at all.
    pub(super) fn require_rules(&self, task: Task) -> Result<()> {
        if matches!(task, Task::Retain { .. }) && self.rules.retention.is_empty() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("{} says of no rows how long they are kept", self.catalog.name()),
            )
            .hint("write a [[retention]] rule into set.toml, beside the migrations"));
        }
        Ok(())
    }

    pub(super) fn tended(&self, project: &ProjectId, task: Task, dry_run: bool) -> ProjectReport {
        match task {
            Task::Retain { older_than } => self.retained(project, older_than, dry_run),
            Task::Check => self.checked(project),
            Task::LookAfter(_) if dry_run => match self.store.read(project, &|_| Ok(())) {
                Ok(()) => ProjectReport::new(project.clone(), Outcome::Planned),
                Err(error) => failed(project, error),
            },
            Task::LookAfter(care) => {
                let outcome = match care {
                    Care::Analyze => Outcome::Analyzed,
                    Care::Vacuum => Outcome::Vacuumed,
                };
                match self.retry(|| self.store.look_after(project, care)) {
                    Ok(()) => ProjectReport::new(project.clone(), outcome),
                    Err(error) => failed(project, error),
                }
            }
        }
    }

    fn retained(&self, project: &ProjectId, older_than: Option<Duration>, dry_run: bool) -> ProjectReport {
        let (dialect, now) = (self.store.dialect(), SystemTime::now());
        let rules = || self.rules.retention.iter().map(|rule| Expiry { rule, dialect, now, older_than });
        let counts = Mutex::new(Counts::new());
        let count = || {
            self.store.read(project, &|rows| {
                // It may be read more than once, and only the last time counts.
                let mut found = Counts::new();
                rules().try_for_each(|rule| rule.count(rows, &mut found))?;
                *lock(&counts) = found;
                Ok(())
            })
        };
        let delete = || {
            let mut session = self.store.open(project)?;
            rules().try_for_each(|rule| rule.delete(&mut *session, &mut lock(&counts)))
        };
        // What has nothing to delete is not even locked.
        let result = count().and_then(|()| {
            let is_idle = lock(&counts).values().all(|rows| *rows == 0);
            if dry_run || is_idle {
                return Ok(());
            }
            lock(&counts).clear();
            self.retry(delete)
        });
        let rows = std::mem::take(&mut *lock(&counts));
        let outcome = match result {
            Err(error) => Outcome::Failed(error.in_project(project)),
            Ok(()) if rows.values().all(|rows| *rows == 0) => Outcome::UpToDate,
            Ok(()) if dry_run => Outcome::Planned,
            Ok(()) => Outcome::Retained,
        };
        ProjectReport { rows, ..ProjectReport::new(project.clone(), outcome) }
    }

    fn checked(&self, project: &ProjectId) -> ProjectReport {
        let wrong = Mutex::new(Vec::new());
        let result = self.store.read(project, &|rows| {
            let mut found = rows.damage()?;
            for rule in &self.rules.checks {
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
            *lock(&wrong) = found;
            Ok(())
        });
        let wrong = std::mem::take(&mut *lock(&wrong));
        match result {
            Err(error) => failed(project, error),
            Ok(()) if wrong.is_empty() => ProjectReport::new(project.clone(), Outcome::Checked),
            Ok(()) => {
                let error = Error::new(ErrorKind::CheckFailed, wrong.join("; ")).hint(
                    "look at these rows before anything else is written; a copy from before is what helps",
                );
                failed(project, error)
            }
        }
    }
}
