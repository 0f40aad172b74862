//! The events of a run: its start, what was skipped, each project's report, notes, and its end.
//!
//! Their JSON is a stable format: fields are added, never renamed.

mod rehearsal;
mod summary;
mod waves;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::catalog::Version;
use crate::error::Error;
use crate::project::ProjectId;
use crate::store::Skipped;

pub use crate::plan::Problem;
pub use crate::schema::Difference;
pub use rehearsal::{MigrationTime, Prediction, Rehearsal, RowChange};
pub use summary::{ExitRules, Summary, Tally};
pub use waves::{GateResult, HaltReason, Halted, WaveFinished, WavePaused, WaveStarted, Waves};

/// One event of a run.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// An earlier run was killed, and the journal was completed from the projects' ledgers.
    KilledRun(KilledRun),
    /// The run starts.
    RunStarted(RunStarted),
    /// Something is skipped, such as a file that is named like a project but is not a database.
    #[serde(rename = "left_out")]
    Skipped(Skipped),
    /// A store of the fleet could not be reached, so its projects are not known.
    StoreFailed(StoreFailed),
    /// A remark about the run as a whole.
    Note(Note),
    /// The waves into which the projects of an upgrade are divided.
    Waves(Waves),
    /// A wave begins.
    WaveStarted(WaveStarted),
    /// The projects of a wave are finished, and the run waits.
    WavePaused(WavePaused),
    /// A wave is finished, and its gate passed if there is one.
    WaveFinished(WaveFinished),
    /// The run stopped before all projects were started.
    Halted(Halted),
    /// A project is finished, with any outcome.
    ProjectFinished(ProjectReport),
    /// How long the upgrade will take that was rehearsed.
    Prediction(Prediction),
    /// How well the fleet is covered by backups.
    Backups(Coverage),
    /// The run is finished.
    RunFinished(Summary),
}

/// A remark about a run as a whole.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Note {
    /// The remark.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// A store of a fleet that could not be reached.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoreFailed {
    /// Its name.
    pub store: String,
    /// Why.
    pub error: Error,
}

impl Serialize for StoreFailed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            store: &'a str,
            error: ErrorLine<'a>,
        }
        Line { store: &self.store, error: error_line(&self.error) }.serialize(serializer)
    }
}

/// A run that was killed, and what it did after the last event of its record.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KilledRun {
    /// The run's id.
    #[serde(rename = "run")]
    pub run: String,
    /// The run's command.
    pub command: String,
    /// The projects that it moved to another version without recording it.
    pub moved: BTreeMap<ProjectId, VersionChange>,
    /// The projects that it dropped without recording it.
    pub gone: Vec<ProjectId>,
    /// The projects that cannot be read now, so it is unknown whether the run moved them.
    pub unread: Vec<ProjectId>,
}

/// The change of a project's version by a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VersionChange {
    /// The version before; `None` without a ledger.
    pub from: Option<String>,
    /// The version after.
    pub to: String,
}

/// How well a fleet is covered by backups.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// The number of projects.
    pub projects: usize,
    /// The projects without a backup.
    pub without: Vec<ProjectId>,
    /// The number of projects with a backup that was verified at level 3 or higher in the last 7 days.
    pub verified_in_7_days: usize,
    /// The oldest backup that was never verified at level 3 or higher.
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
    /// The pattern of the names of files or schemas, with `{id}` for the project's id.
    pub pattern: String,
    /// The number of projects in the run.
    pub projects: usize,
    /// Whether this is a dry run.
    pub dry_run: bool,
    /// Whether the command is read-only (`status`, `check`), so that it changes nothing even without a dry run.
    #[serde(skip)]
    pub read_only: bool,
    /// How long a rehearsal predicted that the run takes.
    #[serde(
        rename = "predicted_us",
        skip_serializing_if = "Option::is_none",
        serialize_with = "rehearsal::optional_microseconds"
    )]
    pub predicted: Option<Duration>,
    /// The part of the fleet that this run takes, such as `2/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    /// What the runs of all parts have in common, such as the id of a scheduler's job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether this goes on with an earlier run, which has the same id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// The last killed run of the same command, if this run follows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The result of a run for one project.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing to do.
    UpToDate,
    /// There is something to do, and this run only reports it.
    Planned,
    /// Its upgrade succeeded in a rehearsal, which changed nothing.
    Rehearsed,
    /// Migrations were applied.
    Upgraded,
    /// A version was recorded without running migrations.
    Stamped,
    /// The ledger of another migration tool was taken over.
    Adopted,
    /// Migrations were reverted.
    Downgraded,
    /// Its schema is that of its version.
    AsExpected,
    /// Its schema was repaired, and is that of its version now.
    Repaired,
    /// Its schema differs from that of its version.
    Drifted(Vec<Difference>),
    /// The project was created.
    Created,
    /// The project was deleted.
    Dropped,
    /// Rows past their retention period were deleted.
    RowsDeleted,
    /// All checks passed.
    Checked,
    /// A backup was taken.
    BackedUp,
    /// A backup was verified.
    Verified,
    /// The project was restored from a backup.
    Restored,
    /// Old backups were removed.
    Pruned,
    /// The statistics of the query planner were updated (`ANALYZE`).
    Analyzed,
    /// The space of deleted rows was reclaimed (`VACUUM`).
    Vacuumed,
    /// The project was not changed, because of all these problems.
    Blocked(Vec<Problem>),
    /// The operation failed. The error says if a part of it was done; otherwise the project was not changed.
    Failed(Error),
    /// The run ended before this project was started.
    NotStarted,
}

impl Outcome {
    /// Returns the outcome's name in JSON.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UpToDate => "up_to_date",
            Self::Planned => "planned",
            Self::Rehearsed => "rehearsed",
            Self::Upgraded => "upgraded",
            Self::Stamped => "stamped",
            Self::Adopted => "adopted",
            Self::Downgraded => "downgraded",
            Self::AsExpected => "as_expected",
            Self::Repaired => "repaired",
            Self::Drifted(_) => "drifted",
            Self::Created => "created",
            Self::Dropped => "dropped",
            Self::RowsDeleted => "rows_deleted",
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

/// The report of one project in a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct ProjectReport {
    /// The project.
    pub project: ProjectId,
    /// The result.
    pub outcome: Outcome,
    /// The version before; `None` without a ledger.
    pub from: Option<Version>,
    /// The version after, or the version that the project would have.
    pub to: Option<Version>,
    /// The version that was recorded without running migrations, or would be.
    pub stamped: Option<Version>,
    /// Whether `migrations` were reverted, or would be. It does not follow from `from` and `to`, since only the catalog
    /// knows the order of versions.
    pub goes_down: bool,
    /// The versions that were run or reverted, or would be, in order.
    pub migrations: Vec<Version>,
    /// The number of rows that retention deleted from each table, or would delete.
    pub rows: BTreeMap<String, u64>,
    /// The statements of a repair that were run, or would be.
    pub sql: Vec<String>,
    /// The backup that was taken, checked or restored, or would be.
    pub backup: Option<String>,
    /// The verification steps that passed, in order.
    pub steps: Vec<VerificationStep>,
    /// What a rehearsal measured, if this is the report of one.
    pub rehearsal: Option<Rehearsal>,
    /// Remarks that prevent nothing.
    pub notes: Vec<String>,
    /// The duration.
    pub elapsed: Duration,
}

/// A verification step of a backup that passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerificationStep {
    /// The verification level that the step belongs to, 1 to 4.
    pub level: u8,
    /// What was verified, with numbers.
    pub found: String,
}

impl ProjectReport {
    /// Creates a report with only an outcome.
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
            sql: Vec::new(),
            backup: None,
            steps: Vec::new(),
            rehearsal: None,
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    sql: &'a [String],
    backup: &'a Option<String>,
    steps: &'a [VerificationStep],
    problems: &'a [Problem],
    differences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsal: &'a Option<Rehearsal>,
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
        let differences: &[Difference] =
            if let Outcome::Drifted(differences) = &self.outcome { differences } else { &[] };
        ProjectLine {
            project: &self.project,
            outcome: self.outcome.code(),
            from: &self.from,
            to: &self.to,
            stamped: &self.stamped,
            migrations: &self.migrations,
            rows: &self.rows,
            sql: &self.sql,
            backup: &self.backup,
            steps: &self.steps,
            problems,
            rehearsal: &self.rehearsal,
            differences: differences.iter().map(ToString::to_string).collect(),
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
