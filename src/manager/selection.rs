//! Finds the projects of a run.

use super::Manager;
use super::command::{BackupTask, Operation, Run, Selection};
use crate::error::Result;
use crate::project::ProjectId;
use crate::store::{Discovery, Skipped};

impl Manager {
    pub(super) fn select(&self, run: &Run) -> Result<Discovery> {
        match &run.selection {
            _ if matches!(run.operation, Operation::Backups(_)) => self.select_with_backups(run),
            Selection::Ids(_) => self.select_ids(run),
            Selection::All { .. } => {
                let mut discovery = self.store.discover()?;
                discovery.projects.retain(|id| run.selection.contains(id));
                Ok(discovery)
            }
        }
    }

    /// Returns the given ids as the store calls them, without duplicates. Fails if one cannot be a project's id in this store.
    pub(super) fn select_ids(&self, run: &Run) -> Result<Discovery> {
        let Selection::Ids(ids) = &run.selection else { return Ok(Discovery::default()) };
        let ids = match &run.operation {
            Operation::Create | Operation::Import(_) => self.store.place_new(ids)?,
            _ => self.store.resolve(ids)?,
        };
        let mut projects: Vec<ProjectId> = Vec::new();
        for id in ids {
            if !projects.contains(&id) {
                self.store.validate_id(&id)?;
                projects.push(id);
            }
        }
        Ok(Discovery { projects, ..Discovery::default() })
    }

    /// Returns the fleet's projects, and those that no longer exist but have backups.
    pub(super) fn select_with_backups(&self, run: &Run) -> Result<Discovery> {
        let super::Operation::Backups(task) = &run.operation else { return Ok(Discovery::default()) };
        let Selection::All { .. } = &run.selection else { return self.select_ids(run) };
        let mut discovery = match (self.store.discover(), task) {
            (Ok(discovery), _) => discovery,
            // Backups can be checked and pruned even if the store is lost.
            (Err(error), BackupTask::Check { .. } | BackupTask::Prune(_)) => Discovery {
                skipped: vec![Skipped { name: self.store.location(), reason: error.summary() }],
                ..Discovery::default()
            },
            (Err(error), _) => return Err(error),
        };
        if !matches!(task, BackupTask::Take { .. }) {
            discovery.projects.extend(self.archive()?.projects()?);
            discovery.projects.sort();
            discovery.projects.dedup();
        }
        discovery.projects.retain(|id| run.selection.contains(id));
        if let BackupTask::Check { sample: Some(sample), .. } = task {
            discovery.projects.retain(|id| sample.contains(id));
        }
        Ok(discovery)
    }
}
