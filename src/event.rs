//! What a run tells: one event at its start, one for each project, one at its end.
//!
//! It must not format for people: reports do. Its JSON is a contract: fields are added, never renamed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::catalog::Version;
use crate::error::Error;
use crate::plan::Problem;
use crate::project::ProjectId;
use crate::store::Skipped;

/// One thing that a run tells, in order.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// An earlier run was killed, and the journal was completed from the projects' ledgers.
    #[serde(rename = "run_completed")]
    Completed(KilledRun),
    /// The run begins.
    RunStarted(RunStarted),
    /// Something looks like a project and is left alone.
    #[serde(rename = "left_out")]
    Skipped(Skipped),
    /// Something about the run as a whole that somebody may want to know.
    Note(Note),
    /// A project is done with, whatever became of it.
    ProjectFinished(ProjectReport),
    /// How well a fleet is covered by backups.
    Backups(Coverage),
    /// The run is over.
    RunFinished(Summary),
}

/// Something about a run as a whole.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Note {
    /// What it is.
    pub message: String,
    /// What can be done about it.
    pub hint: String,
}

/// A run that was killed, and what it did without being able to say so.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KilledRun {
    /// Its id.
    #[serde(rename = "run")]
    pub killed: String,
    /// Its command.
    pub command: String,
    /// The projects that it moved, of those that are not in its record.
    pub moved: BTreeMap<ProjectId, VersionChange>,
    /// The projects that it was to drop and that are gone, of those that are not in its record.
    pub gone: Vec<ProjectId>,
    /// Projects that can't be read now.
    pub unread: Vec<ProjectId>,
}

/// Where a run moved a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VersionChange {
    /// The version that its ledger said before; none without one.
    pub from: Option<String>,
    /// The version that it had afterwards.
    pub to: String,
}

/// How well a fleet is covered by backups.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// How many projects there are.
    pub projects: usize,
    /// Those that have no backup.
    pub without: Vec<ProjectId>,
    /// How many have a backup that was restored and compared (level 3 or more) within the last 7 days.
    pub verified_in_7_days: usize,
    /// The oldest backup that never was.
    pub oldest_unverified: Option<String>,
}

/// The start of a run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RunStarted {
    /// The run's id: a UUID that sorts by time.
    pub run: String,
    /// The command, as on the command line.
    pub command: &'static str,
    /// The store, without a password.
    pub store: String,
    /// What its projects' files or schemas are called, with `{id}` for a project's.
    pub pattern: String,
    /// How many projects it is about.
    pub projects: usize,
    /// Whether it only says what would happen.
    pub dry_run: bool,
    /// Whether it asks where projects stand, so that nothing would happen anyway.
    #[serde(skip)]
    pub looks: bool,
    /// The killed run of the same command that this one comes after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What became of a project.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// There was nothing to do.
    UpToDate,
    /// This would be done.
    Planned,
    /// Migrations were applied.
    Upgraded,
    /// A version was recorded, and nothing run.
    Stamped,
    /// Migrations were reverted.
    Downgraded,
    /// It was made.
    Created,
    /// It was deleted.
    Dropped,
    /// Rows were deleted that are no longer kept.
    Retained,
    /// All that must hold does.
    Checked,
    /// A backup of it was taken.
    BackedUp,
    /// Its backup was checked, and holds.
    Verified,
    /// A backup took its place.
    Restored,
    /// Backups of it that are not kept were removed.
    Pruned,
    /// Its planner's figures were gathered anew.
    Analyzed,
    /// The room of rows that are gone was given back.
    Vacuumed,
    /// It was left alone, for all these reasons.
    Blocked(Vec<Problem>),
    /// It was tried and did not work; the project is as it was.
    Failed(Error),
    /// The run ended before its turn.
    NotStarted,
}

impl Outcome {
    /// The outcome's name in JSON.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UpToDate => "up_to_date",
            Self::Planned => "planned",
            Self::Upgraded => "upgraded",
            Self::Stamped => "stamped",
            Self::Downgraded => "downgraded",
            Self::Created => "created",
            Self::Dropped => "dropped",
            Self::Retained => "retained",
            Self::Checked => "checked",
            Self::BackedUp => "backed_up",
            Self::Verified => "verified",
            Self::Restored => "restored",
            Self::Pruned => "pruned",
            Self::Analyzed => "analyzed",
            Self::Vacuumed => "vacuumed",
            Self::Blocked(_) => "blocked",
            Self::Failed(_) => "failed",
            Self::NotStarted => "not_started",
        }
    }
}

/// One project's part in a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct ProjectReport {
    /// The project.
    pub project: ProjectId,
    /// What became of it.
    pub outcome: Outcome,
    /// The version that its ledger said before; `None` without one.
    pub from: Option<Version>,
    /// The version that it has now, or would have.
    pub to: Option<Version>,
    /// The version that was recorded without running anything, or would be.
    pub stamped: Option<Version>,
    /// Whether those are, or would be, reverted: versions have no order of their own, the catalog says which is later.
    pub goes_down: bool,
    /// The versions that were run, or would be, in order.
    pub migrations: Vec<Version>,
    /// How many rows of which table were deleted because of their age, or would be.
    pub rows: BTreeMap<String, u64>,
    /// The backup that was taken, checked or restored, or would be.
    pub backup: Option<String>,
    /// What was found to hold, in order.
    pub steps: Vec<Step>,
    /// What is worth knowing and hinders nothing.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// One thing that was found to hold of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// The level of the check that it belongs to, 1 to 4.
    pub level: u8,
    /// What was found, with its figures.
    pub found: String,
}

impl ProjectReport {
    /// A report of nothing but an outcome.
    #[must_use]
    pub fn new(project: ProjectId, outcome: Outcome) -> Self {
        Self {
            project,
            outcome,
            from: None,
            to: None,
            stamped: None,
            goes_down: false,
            migrations: Vec::new(),
            rows: BTreeMap::new(),
            backup: None,
            steps: Vec::new(),
            notes: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }
}

#[derive(Serialize)]
struct ProjectLine<'a> {
    project: &'a ProjectId,
    outcome: &'static str,
    from: &'a Option<Version>,
    to: &'a Option<Version>,
    stamped: &'a Option<Version>,
    migrations: &'a [Version],
    rows: &'a BTreeMap<String, u64>,
    backup: &'a Option<String>,
    steps: &'a [Step],
    problems: &'a [Problem],
    notes: &'a [String],
    error: Option<ErrorLine<'a>>,
    elapsed_us: u128,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    kind: &'static str,
    message: String,
    migration: Option<&'a str>,
    file: Option<String>,
    line: Option<u32>,
    hint: Option<&'a str>,
}

impl Serialize for ProjectReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (problems, error) = match &self.outcome {
            Outcome::Blocked(problems) => (problems.as_slice(), None),
            Outcome::Failed(error) => (&[][..], Some(error_line(error))),
            _ => (&[][..], None),
        };
        ProjectLine {
            project: &self.project,
            outcome: self.outcome.code(),
            from: &self.from,
            to: &self.to,
            stamped: &self.stamped,
            migrations: &self.migrations,
            rows: &self.rows,
            backup: &self.backup,
            steps: &self.steps,
            problems,
            notes: &self.notes,
            error,
            elapsed_us: self.elapsed.as_micros(),
        }
        .serialize(serializer)
    }
}

fn error_line(error: &Error) -> ErrorLine<'_> {
    ErrorLine {
        kind: error.kind().code(),
        message: error.summary(),
        migration: error.migration(),
        file: error.file().map(|file| file.display().to_string()),
        line: error.line(),
        hint: error.hint_for_command(),
    }
}

/// How many projects had which outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, outcome: &Outcome) {
        *self.0.entry(outcome.code()).or_default() += 1;
    }

    /// How many had an outcome, by its name in JSON.
    #[must_use]
    pub fn count(&self, outcome: &str) -> usize {
        self.0.get(outcome).copied().unwrap_or_default()
    }

    /// All counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }

    /// How many there were in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// What became of how many.
    pub outcomes: Tally,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// The exit code that says it: see [`Summary::exit_code`].
    pub exit: u8,
}

/// What makes a run's exit code other than its outcomes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExitRules {
    /// An empty fleet is fine.
    pub allow_empty: bool,
    /// Something pending is not fine.
    pub check: bool,
}

impl Summary {
    /// The end of a run, judged.
    #[must_use]
    pub fn new(outcomes: Tally, elapsed: Duration, interrupted: bool, exit_rules: ExitRules) -> Self {
        let exit = Self::exit_code(&outcomes, interrupted, exit_rules);
        Self { outcomes, elapsed, interrupted, exit }
    }

    /// 130 interrupted, 3 some failed, 4 some blocked, 5 something pending where that is checked, 6 no project, else 0.
    #[must_use]
    pub fn exit_code(outcomes: &Tally, interrupted: bool, exit_rules: ExitRules) -> u8 {
        if interrupted {
            130
        } else if outcomes.count("failed") > 0 {
            3
        } else if outcomes.count("blocked") > 0 {
            4
        } else if exit_rules.check && outcomes.count("planned") > 0 {
            5
        } else if outcomes.total() == 0 && !exit_rules.allow_empty {
            6
        } else {
            0
        }
    }
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut object = serializer.serialize_struct("Summary", 3)?;
        object.serialize_field("outcomes", &self.outcomes)?;
        object.serialize_field("elapsed_us", &self.elapsed.as_micros())?;
        object.serialize_field("exit", &self.exit)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_the_worst() {
        let code = |outcomes: &[Outcome], interrupted, allow_empty, check| {
            let mut tally = Tally::default();
            for outcome in outcomes {
                tally.add(outcome);
            }
            Summary::exit_code(&tally, interrupted, ExitRules { allow_empty, check })
        };
        let failed = || Outcome::Failed(Error::new(crate::ErrorKind::Io, "x"));
        let blocked = || Outcome::Blocked(Vec::new());
        assert_eq!(code(&[], false, false, false), 6);
        assert_eq!(code(&[], false, true, false), 0);
        assert_eq!(code(&[Outcome::Upgraded], false, false, true), 0);
        assert_eq!(code(&[Outcome::Planned], false, false, false), 0);
        assert_eq!(code(&[Outcome::Planned], false, false, true), 5);
        assert_eq!(code(&[Outcome::Planned, blocked()], false, false, true), 4);
        assert_eq!(code(&[blocked(), failed(), Outcome::Upgraded], false, false, false), 3);
        assert_eq!(code(&[failed(), Outcome::NotStarted], true, false, false), 130);
    }
}
