//! What a fleet command is: which projects, what to do, and how.
//!
//! It must not do anything: `run` does.

use std::path::PathBuf;
use std::str::FromStr;

use super::backup::BackupTask;
use super::maintenance::MaintenanceTask;
use super::rollback::Rollback;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::event::ExitRules;
use crate::plan::{Baseline, Drift, Request};
use crate::project::ProjectId;
use crate::store::Maintenance;

/// A pattern for ids: `*` stands for anything, `?` for one character, `[a-c]` for one of those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPattern(glob::Pattern);

impl IdPattern {
    /// Whether an id is one of those.
    #[must_use]
    pub fn matches(&self, id: &ProjectId) -> bool {
        self.0.matches(id.as_str())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for IdPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        glob::Pattern::new(text).map(Self).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("{text:?} is no pattern for ids"))
                .caused_by(error)
                .with_hint("such as 'a*' or '[0-9]*'")
        })
    }
}

/// Which projects a run is about.
#[derive(Clone, Debug)]
pub enum Selection {
    /// These.
    Ids(Vec<ProjectId>),
    /// All of the store.
    All {
        /// Only those whose id one of these fits; all where there is none.
        only: Vec<IdPattern>,
        /// None whose id one of these fits.
        except: Vec<IdPattern>,
    },
}

impl Selection {
    /// All projects of the store.
    #[must_use]
    pub fn all() -> Self {
        Self::All { only: Vec::new(), except: Vec::new() }
    }

    /// Whether a project is among them.
    #[must_use]
    pub fn contains(&self, id: &ProjectId) -> bool {
        let fits = |patterns: &[IdPattern]| patterns.iter().any(|pattern| pattern.matches(id));
        match self {
            Self::Ids(ids) => ids.contains(id),
            Self::All { only, except } => (only.is_empty() || fits(only)) && !fits(except),
        }
    }
}

/// What a run does to each project.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Makes it, at the catalog's head.
    Create,
    /// Makes it of SQL text in this file.
    Import(PathBuf),
    /// Nothing: says where it stands. What a ledger proves is taken from there.
    Status,
    /// Moves it to another version, or records one.
    Migrate(Request),
    /// Deletes it.
    Drop(FinalBackup),
    /// Leaves it where it is, and does something for it.
    Maintain(MaintenanceTask),
    /// Takes, checks, restores or removes backups of it.
    Backups(BackupTask),
    /// Takes it back to where it was before a run.
    RollBack(Rollback),
}

/// Whether `drop` takes a last backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalBackup {
    /// It does.
    Take,
    /// It does not.
    Skip,
}

/// What is done before a project is changed, so that it can be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Safety {
    /// Nothing.
    #[default]
    None,
    /// A backup is taken.
    Backup,
    /// A backup is taken, restored and compared.
    CheckedBackup,
}

/// A fleet command.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which projects.
    pub selection: Selection,
    /// What to do.
    pub operation: Operation,
    /// Whether only to say what would be done. A dry run changes nothing.
    pub dry_run: bool,
    /// What is done before a project is changed.
    pub safety: Safety,
    /// The migrations that may delete rows of tables that they have not declared.
    pub allow_row_loss: Vec<Version>,
    /// After how many failures no further project is begun.
    pub max_failures: Option<usize>,
    /// What makes the exit code other than the outcomes.
    pub exit_rules: ExitRules,
}

impl Run {
    /// A command with its usual settings: it is carried out, on as many projects as there are.
    #[must_use]
    pub fn new(selection: Selection, operation: Operation) -> Self {
        Self {
            selection,
            operation,
            dry_run: false,
            safety: Safety::None,
            allow_row_loss: Vec::new(),
            max_failures: None,
            exit_rules: ExitRules::default(),
        }
    }

    /// The main job: all projects to a position, those without a ledger taken over.
    #[must_use]
    pub fn upgrade_all(to: usize) -> Self {
        let request = Request::Upgrade { to, baseline: Baseline::Stamp, drift: Drift::Refuse };
        Self::new(Selection::all(), Operation::Migrate(request))
    }

    /// What it is called in events and in the journal: the command of the command line that does the same.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (&self.operation, &self.selection) {
            (Operation::Create, _) => "create",
            (Operation::Import(_), _) => "import",
            (Operation::Status, _) => "status",
            (Operation::Migrate(Request::Upgrade { .. }), Selection::All { .. }) => "upgrade-all",
            (Operation::Migrate(Request::Upgrade { .. }), Selection::Ids(_)) => "upgrade",
            (Operation::Migrate(Request::Stamp { .. }), _) => "stamp",
            (Operation::Migrate(Request::Downgrade { .. }), _) => "downgrade",
            (Operation::Drop(_), _) => "drop",
            (Operation::Maintain(MaintenanceTask::Retain { .. }), _) => "retain",
            (Operation::Maintain(MaintenanceTask::Check), _) => "check",
            (Operation::Maintain(MaintenanceTask::Maintain(Maintenance::Analyze)), _) => "analyze",
            (Operation::Maintain(MaintenanceTask::Maintain(Maintenance::Vacuum)), _) => "vacuum",
            (Operation::Backups(BackupTask::Take { .. }), _) => "backup create",
            (Operation::Backups(BackupTask::Check { .. }), _) => "backup check",
            (Operation::Backups(BackupTask::Restore(_)), _) => "backup restore",
            (Operation::Backups(BackupTask::Prune(_)), _) => "backup prune",
            (Operation::RollBack(_), _) => "runs rollback",
        }
    }
}
