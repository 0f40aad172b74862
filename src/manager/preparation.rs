//! Finds what is wrong with a command before its run begins.

use super::Manager;
use super::command::{BackupBefore, FinalBackup, MaintenanceTask, Operation, Run, Selection};
use super::rehearsal::RehearsalPlace;
use super::survey::Prefetched;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Request;
use crate::project::ProjectId;
use crate::store::{ReadSchema, Unreachable};

impl Manager {
    /// Finds what is wrong with the command itself before any project is changed: builds the reference if the operation
    /// needs one, and inspects the first projects.
    pub(super) fn prepare(&self, run: &Run, projects: &[ProjectId]) -> Result<Prefetched> {
        if run.backup_before != BackupBefore::None {
            self.archive()?;
        }
        let is_in_place = run.rehearsal.is_some_and(|it| it.place == RehearsalPlace::InPlace);
        if is_in_place && !self.store.can_roll_back() {
            return Err(Error::new(
                ErrorKind::Usage,
                "SQLite databases are rehearsed on private copies, not in place",
            )
            .with_hint("leave out --in-place, or =in-place after --rehearse"));
        }
        require_canaries(run, projects)?;
        let needs_reference = match &run.operation {
            Operation::Status | Operation::Drift => return self.prefetch(projects, ReadSchema::IfUnverified),
            Operation::Migrate(Request::Downgrade { .. }) => {
                if !projects.is_empty() {
                    self.reference_with_down_results()?;
                }
                return Ok(Prefetched::default());
            }
            Operation::Migrate(_) => return self.prefetch(projects, ReadSchema::Always),
            Operation::Drop(FinalBackup::Skip) => false,
            Operation::Drop(FinalBackup::Take) => {
                self.archive()?;
                false
            }
            Operation::Create | Operation::Import(_) => true,
            Operation::Repair(_) | Operation::RollBack(_) => {
                self.archive()?;
                true
            }
            Operation::Maintain(task) => {
                self.require_rules(*task)?;
                matches!(task, MaintenanceTask::Retain { .. })
            }
            Operation::Backups(task) => {
                self.archive()?;
                task.needs_reference()
            }
        };
        if needs_reference && !projects.is_empty() {
            self.reference()?;
        }
        Ok(Prefetched::default())
    }

    /// Fails unless a run that changes projects can be rolled back, and all projects can be reached.
    pub(super) fn require_way_back(&self, unreachable: &[Unreachable]) -> Result<()> {
        self.archive()?;
        self.required_journal()?;
        match unreachable.first() {
            None => Ok(()),
            Some(Unreachable { store, error }) => Err(error
                .duplicate()
                .in_store(store)
                .with_hint("nothing was changed: not all projects can be reached")),
        }
    }
}

/// Fails if a canary is none of the projects, unless only a part of the fleet is meant, or left: it may be in the other part.
fn require_canaries(run: &Run, projects: &[ProjectId]) -> Result<()> {
    let is_whole = match &run.selection {
        Selection::All { only, except, shard } => only.is_empty() && except.is_empty() && shard.is_none(),
        Selection::Ids(_) => true,
    };
    let is_unknown = |canary: &&ProjectId| !projects.iter().any(|id| id.answers_to(canary));
    let unknown = run.rollout.canary.iter().find(is_unknown);
    match unknown.filter(|_| is_whole && run.resumed.is_none()) {
        None => Ok(()),
        Some(id) => {
            Err(Error::new(ErrorKind::Usage, "it is to be a canary, but is none of the projects of this run")
                .in_project(id)
                .with_hint("to see the projects: tenantry list"))
        }
    }
}
