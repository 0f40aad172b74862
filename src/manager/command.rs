//! The parameters of a fleet command: which projects, what to do, and with which options.

use std::collections::BTreeMap;
#[cfg(feature = "lint")]
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::pattern::IdPattern;
use super::portion::Portion;
use super::rehearsal::{RehearsalPlace, Rehearsing};
use super::rollout::{Resumed, Rollout};
use super::shard::JobShard;
use crate::backup::RetentionPolicy;
use crate::catalog::Version;
use crate::event::{ExitRules, VersionChange};
use crate::plan::{IfDrifted, IfNoLedger, Request};
use crate::project::{ProjectId, Shard};
use crate::schema::alter::ExtraCode;
use crate::store::{DatabaseMaintenance, IfInUse};
use crate::time::Timestamp;

/// The projects of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Selection {
    /// The projects with these ids.
    Ids(Vec<ProjectId>),
    /// The projects of the store.
    All {
        /// Selects only ids that match one of these patterns; empty for all ids.
        only: Vec<IdPattern>,
        /// Leaves out ids that match one of these patterns.
        except: Vec<IdPattern>,
        /// Selects only a part of all projects, the same as other tasks of a job do.
        shard: Option<JobShard>,
    },
}

impl Selection {
    /// Selects all projects of the store.
    #[must_use]
    pub fn all() -> Self {
        Self::All { only: Vec::new(), except: Vec::new(), shard: None }
    }

    /// Whether a project is selected.
    #[must_use]
    pub fn contains(&self, id: &ProjectId) -> bool {
        let matches_any = |patterns: &[IdPattern]| patterns.iter().any(|pattern| pattern.matches(id));
        match self {
            Self::Ids(ids) => ids.contains(id),
            Self::All { only, except, shard } => {
                (only.is_empty() || matches_any(only))
                    && !matches_any(except)
                    && shard.as_ref().is_none_or(|it| it.shard.contains(id))
            }
        }
    }
}

/// What a run does to each project.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Creates it at the newest version.
    Create,
    /// Creates it from the SQL in this file.
    Import(PathBuf),
    /// Reports its version and its pending migrations. Changes nothing. Skips reading a schema that the ledger records
    /// as verified.
    Status,
    /// Compares its schema with that of its version. Changes nothing. Skips reading a schema that the ledger records as
    /// verified.
    Drift,
    /// Brings its schema to that of its version where that loses nothing, after a backup. A dry run does it on a private copy.
    Repair(ExtraCode),
    /// Moves it to another version, or records a version.
    Migrate(Request),
    /// Deletes it.
    Drop(FinalBackup),
    /// Runs maintenance without changing its version.
    Maintain(MaintenanceTask),
    /// Takes, checks, restores or removes its backups.
    Backups(BackupTask),
    /// Moves it back to the version that it had before a run.
    RollBack(Rollback),
}

/// Whether to take a final backup before a project is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalBackup {
    /// Take one.
    Take,
    /// Take none.
    Skip,
}

/// What to do before a project is changed, so that the change can be undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupBefore {
    /// Nothing.
    #[default]
    None,
    /// Take a backup.
    Take,
    /// Take a backup, and verify it by restoring and comparing it.
    Check,
}

#[cfg(feature = "lint")]
/// What lint does in an upgrade: it looks at the migrations that will run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintOptions {
    /// The rules that are switched off.
    pub off: BTreeSet<String>,
    /// Whether nothing is changed if something is found.
    pub strict: bool,
}

/// A fleet command: the projects, what to do to each of them, and options.
///
/// ```
/// use tenantry::manager::{BackupBefore, Rollout, Run};
///
/// let rollout = Rollout::default().max_failures(10);
/// let run = Run::upgrade_all(3).backup_before(BackupBefore::Check).rollout(rollout).dry_run();
/// assert_eq!(run.name(), "upgrade-all");
/// ```
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "a dry run is a term")]
pub struct Run {
    pub(crate) selection: Selection,
    pub(crate) operation: Operation,
    pub(crate) dry_run: bool,
    pub(crate) rehearsal: Option<Rehearsing>,
    pub(crate) predicted: Option<Duration>,
    #[cfg(feature = "lint")]
    pub(crate) lint: Option<LintOptions>,
    pub(crate) backup_before: BackupBefore,
    pub(crate) allow_row_loss: Vec<Version>,
    pub(crate) rollout: Rollout,
    pub(crate) resumed: Option<Resumed>,
    pub(crate) exit_rules: ExitRules,
}

impl Run {
    /// Creates a command with default options: no dry run, no backups, and no limit of failures.
    #[must_use]
    pub fn new(selection: Selection, operation: Operation) -> Self {
        Self {
            selection,
            operation,
            dry_run: false,
            rehearsal: None,
            predicted: None,
            #[cfg(feature = "lint")]
            lint: None,
            backup_before: BackupBefore::None,
            allow_row_loss: Vec::new(),
            rollout: Rollout::default(),
            resumed: None,
            exit_rules: ExitRules::default(),
        }
    }

    /// Creates the command that upgrades all projects to a position. Projects without a ledger are stamped first.
    /// Projects with drift are not upgraded.
    #[must_use]
    pub fn upgrade_all(to: usize) -> Self {
        let request = Request::Upgrade { to, baseline: IfNoLedger::Stamp, drift: IfDrifted::Refuse };
        Self::new(Selection::all(), Operation::Migrate(request))
    }

    /// Creates the command that undoes a run, as read by [`Manager::changes_of_run`](super::Manager::changes_of_run).
    #[must_use]
    pub fn roll_back(rollback: Rollback) -> Self {
        let selection = Selection::Ids(rollback.moved.keys().chain(&rollback.unreadable).cloned().collect());
        Self::new(selection, Operation::RollBack(rollback)).exit_rules(ExitRules::default().allow_empty())
    }

    /// Only reports what would be done. A dry run changes nothing.
    #[must_use]
    pub fn dry_run(self) -> Self {
        Self { dry_run: true, ..self }
    }

    /// Executes the plan of each project where it changes nothing, and reports what happened there.
    #[must_use]
    pub fn rehearse(self, place: RehearsalPlace) -> Self {
        let rehearsal = Some(Rehearsing { place, sample: None });
        // A failure costs nothing here, so each is found.
        Self { rehearsal, dry_run: true, rollout: Rollout::default(), ..self }
    }

    /// Rehearses only a sample of the projects that would be upgraded. Every version that they are at, the largest and the
    /// oldest project are in it, even if that makes it larger. The others are planned.
    #[must_use]
    pub fn sample(self, size: Portion) -> Self {
        let rehearsal = self.rehearsal.map(|rehearsal| Rehearsing { sample: Some(size), ..rehearsal });
        Self { rehearsal, ..self }
    }

    /// Lints the migrations that an upgrade runs: a dry run reports what is found, and nothing is changed if that is strict.
    #[cfg(feature = "lint")]
    #[must_use]
    pub fn lint(self, options: LintOptions) -> Self {
        Self { lint: Some(options), ..self }
    }

    /// Sets how long a rehearsal predicted that the run takes, which its record then has as well.
    #[must_use]
    pub fn predicted(self, duration: Duration) -> Self {
        Self { predicted: Some(duration), ..self }
    }

    /// Sets what to do before a project is changed; default nothing.
    #[must_use]
    pub fn backup_before(self, backup_before: BackupBefore) -> Self {
        Self { backup_before, ..self }
    }

    /// Lets migrations delete rows of tables that they do not declare in `deletes_rows_from`.
    #[must_use]
    pub fn allow_row_loss(self, versions: impl IntoIterator<Item = Version>) -> Self {
        Self { allow_row_loss: versions.into_iter().collect(), ..self }
    }

    /// Sets the order and the waves of an upgrade, and when it stops; default all projects at once, without a limit of
    /// failures.
    #[must_use]
    pub fn rollout(self, rollout: Rollout) -> Self {
        Self { rollout, ..self }
    }

    /// Sets what changes the exit code of the summary.
    #[must_use]
    pub fn exit_rules(self, exit_rules: ExitRules) -> Self {
        Self { exit_rules, ..self }
    }

    /// Leaves out these projects.
    #[must_use]
    pub fn without(self, projects: &[ProjectId]) -> Self {
        let selection = match self.selection {
            Selection::Ids(ids) => {
                Selection::Ids(ids.into_iter().filter(|id| !projects.contains(id)).collect())
            }
            Selection::All { only, mut except, shard } => {
                except.extend(projects.iter().filter_map(IdPattern::of));
                Selection::All { only, except, shard }
            }
        };
        Self { selection, ..self }
    }

    /// The part of the fleet that this run takes as a task of a job, if it is one.
    pub(super) fn job_shard(&self) -> Option<&JobShard> {
        match &self.selection {
            Selection::All { shard, .. } => shard.as_ref(),
            Selection::Ids(_) => None,
        }
    }

    /// Returns the name in events and in the journal: the equivalent command of the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (&self.operation, &self.selection) {
            (Operation::Create, _) => "create",
            (Operation::Import(_), _) => "import",
            (Operation::Status, _) => "status",
            (Operation::Drift, _) => "schema drift",
            (Operation::Repair(_), _) => "schema repair",
            (Operation::Migrate(Request::Upgrade { .. }), _) if self.rehearsal.is_some() => "rehearse",
            (Operation::Migrate(Request::Upgrade { .. }), Selection::All { .. }) => "upgrade-all",
            (Operation::Migrate(Request::Upgrade { .. }), Selection::Ids(_)) => "upgrade",
            (Operation::Migrate(Request::Stamp { .. }), _) => "stamp",
            (Operation::Migrate(Request::Adopt { .. }), _) => "adopt",
            (Operation::Migrate(Request::Downgrade { .. }), _) => "downgrade",
            (Operation::Drop(_), _) => "drop",
            (Operation::Maintain(MaintenanceTask::Retain { .. }), _) => "retain",
            (Operation::Maintain(MaintenanceTask::Check), _) => "check",
            (Operation::Maintain(MaintenanceTask::Database(DatabaseMaintenance::Analyze)), _) => "analyze",
            (Operation::Maintain(MaintenanceTask::Database(DatabaseMaintenance::Vacuum)), _) => "vacuum",
            (Operation::Backups(BackupTask::Take { .. }), _) => "backup create",
            (Operation::Backups(BackupTask::Check { .. }), _) => "backup check",
            (Operation::Backups(BackupTask::Restore(_)), _) => "backup restore",
            (Operation::Backups(BackupTask::Prune(_)), _) => "backup prune",
            (Operation::RollBack(_), _) => "runs rollback",
        }
    }
}

/// Maintenance of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaintenanceTask {
    /// Delete rows that are past the retention period in the set's rules.
    Retain {
        /// A period that replaces those in the rules.
        older_than: Option<Duration>,
    },
    /// Run the database's own checks and those in the set's rules.
    Check,
    /// Run the database's own maintenance.
    Database(DatabaseMaintenance),
}

/// What to do with a project's backups.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupTask {
    /// Take a backup.
    Take {
        /// A label to find it by.
        label: Option<String>,
    },
    /// Verify a backup.
    Check {
        /// The level: 1 verifies the file's hash, 2 restores it and runs the database's own checks, 3 compares schema
        /// and rows with those when it was taken, 4 upgrades it. Each level includes the lower ones.
        level: u8,
        /// The backup to verify, by project. The default is the project's newest.
        names: BTreeMap<ProjectId, String>,
        /// Verifies only a part of all projects.
        sample: Option<Shard>,
    },
    /// Restore a backup.
    Restore(Restore),
    /// Remove the backups that the policy does not keep.
    Prune(RetentionPolicy),
}

impl BackupTask {
    /// Whether the task compares schemas with the reference.
    pub(super) fn needs_reference(&self) -> bool {
        matches!(self, Self::Check { level: 3.., .. } | Self::Restore(_))
    }
}

/// How a project is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    pub(crate) source: Source,
    pub(crate) target: Option<ProjectId>,
    pub(crate) if_in_use: IfInUse,
}

impl Restore {
    /// Replaces the project with a backup. Fails if others have the project open.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self { source, target: None, if_in_use: IfInUse::Fail }
    }

    /// Restores the backup as a new project instead.
    #[must_use]
    pub fn target(self, id: ProjectId) -> Self {
        Self { target: Some(id), ..self }
    }

    /// Sets what to do if others have the project open or it cannot be read.
    #[must_use]
    pub fn if_in_use(self, if_in_use: IfInUse) -> Self {
        Self { if_in_use, ..self }
    }
}

/// Selects one of a project's backups.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The newest, except backups that were taken before a restore or rollback.
    Newest,
    /// The newest that was taken at or before this time.
    At(Timestamp),
    /// The backup with this name, or the newest with this label.
    Named(String),
}

/// A run to undo.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rollback {
    /// The run's id.
    pub run: String,
    /// The projects whose version it changed.
    pub moved: BTreeMap<ProjectId, VersionChange>,
    /// The projects that failed in it and cannot be read, so that it is not known whether it changed them.
    pub unreadable: Vec<ProjectId>,
}

/// Creates a run id. Ids sort by the time of their creation.
pub(super) fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
