//! What a fleet command is: which projects, what to do, and how.
//!
//! It must not do anything: `run` does.

use std::path::PathBuf;

use super::backup::BackupTask;
use super::rollback::Undo;
use super::tend::Task;
use crate::catalog::Version;
use crate::event::Verdict;
use crate::plan::{Baseline, Drift, Request};
use crate::project::ProjectId;

/// Which projects a run is about.
#[derive(Clone, Debug)]
pub enum Selection {
    /// These.
    Ids(Vec<ProjectId>),
    /// All of the store.
    All {
        /// Only those whose id one of these fits; all where there is none.
        only: Vec<glob::Pattern>,
        /// None whose id one of these fits.
        except: Vec<glob::Pattern>,
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
    pub fn has(&self, id: &ProjectId) -> bool {
        let fits = |patterns: &[glob::Pattern]| patterns.iter().any(|pattern| pattern.matches(id.as_str()));
        match self {
            Self::Ids(ids) => ids.contains(id),
            Self::All { only, except } => (only.is_empty() || fits(only)) && !fits(except),
        }
    }
}

/// What a run does to each project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes it, at the catalog's head.
    Create,
    /// Makes it of SQL text in this file.
    Import(PathBuf),
    /// Nothing: says where it stands. What a ledger proves is taken from there.
    Look,
    /// Moves it to another version, or records one.
    Change(Request),
    /// Deletes it.
    Drop(FinalCopy),
    /// Leaves it where it is, and does something for it.
    Tend(Task),
    /// Takes, checks, restores or removes backups of it.
    Backups(BackupTask),
    /// Takes it back to where it was before a run.
    RollBack(Undo),
}

/// Whether `drop` takes a last backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalCopy {
    /// It does.
    Keep,
    /// It does not.
    None,
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
    /// The command's name, for events.
    pub command: &'static str,
    /// Which projects.
    pub selection: Selection,
    /// What to do.
    pub operation: Operation,
    /// Whether only to say what would be done. A dry run changes nothing.
    pub dry_run: bool,
    /// What is done before a project is changed.
    pub safety: Safety,
    /// The migrations that may delete rows of tables that they have not declared.
    pub may_lose_rows: Vec<Version>,
    /// After how many failures no further project is begun.
    pub max_failures: Option<usize>,
    /// What makes the exit code other than the outcomes.
    pub verdict: Verdict,
}

impl Run {
    /// A command with its usual settings: it is carried out, on as many projects as there are.
    #[must_use]
    pub fn new(command: &'static str, selection: Selection, operation: Operation) -> Self {
        Self {
            command,
            selection,
            operation,
            dry_run: false,
            safety: Safety::None,
            may_lose_rows: Vec::new(),
            max_failures: None,
            verdict: Verdict::default(),
        }
    }

    /// The main job: all projects to a position, those without a ledger taken over.
    #[must_use]
    pub fn upgrade_all(to: usize) -> Self {
        let request = Request::Upgrade { to, baseline: Baseline::Stamp, drift: Drift::Refuse };
        Self::new("upgrade-all", Selection::all(), Operation::Change(request))
    }
}
