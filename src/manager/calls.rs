//! What an application does with one project, a call each: runs of one project, recorded as any other.

use super::backup::{BackupTask, Restore, Source};
use super::command::{FinalBackup, Operation, Run, Selection};
use super::maintenance::MaintenanceTask;
use super::{Manager, blocked};
use crate::backup::Backup;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Outcome, ProjectReport, Summary};
use crate::plan::{DowngradeTo, Drift, Request};
use crate::project::ProjectId;
use crate::store::IfInUse;

impl Manager {
    /// Makes a project, at the catalog's head. Errors with [`ErrorKind::AlreadyExists`] when it exists.
    pub fn create(&self, id: &ProjectId) -> Result<()> {
        self.run_one(id, Operation::Create).map(drop)
    }

    /// Brings one project to the catalog's head. Errors with [`ErrorKind::Blocked`] when it has problems.
    pub fn upgrade(&self, id: &ProjectId) -> Result<ProjectReport> {
        self.run_one(id, Operation::Migrate(self.to_head()))
    }

    /// A run of one project, whose outcome is the caller's business.
    fn run_one(&self, id: &ProjectId, operation: Operation) -> Result<ProjectReport> {
        let run = Run::new(Selection::Ids(vec![id.clone()]), operation);
        let mut found = None;
        self.run(&run, |event| {
            if let Event::ProjectFinished(report) = event {
                found = Some(report);
            }
        })?;
        let report = found
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no report of the project").in_project(id))?;
        match report.outcome {
            Outcome::Failed(error) => Err(error),
            Outcome::Blocked(problems) => Err(blocked(id, &problems)),
            Outcome::NotStarted => Err(Error::new(ErrorKind::Interrupted, "it was not begun").in_project(id)),
            _ => Ok(report),
        }
    }

    /// Brings every project to the catalog's head, in parallel. `observer` is called on this thread, once an event.
    /// Errors only when the run can't be made; what became of projects is in the events and the summary.
    pub fn upgrade_all(&self, observer: impl FnMut(Event)) -> Result<Summary> {
        self.run(&Run::upgrade_all(self.catalog.head()), observer)
    }

    /// The store's projects, sorted. Opens none of them.
    pub fn list(&self) -> Result<Vec<ProjectId>> {
        self.store.discover().map(|found| found.projects)
    }

    /// Records the version whose schema a project has, without running anything; or the one that is named, where its schema is
    /// that version's, or `force` says that a difference does not matter.
    pub fn stamp(&self, id: &ProjectId, version: Option<&str>, force: bool) -> Result<ProjectReport> {
        let to = version.map(|version| self.catalog.resolve(version)).transpose()?;
        self.run_one(id, Operation::Migrate(Request::Stamp { to, force }))
    }

    /// Takes a project back to an older version by its migrations' `down.sql`; `0` is an empty database.
    pub fn downgrade(&self, id: &ProjectId, version: &str, drift: Drift) -> Result<ProjectReport> {
        let to = self.catalog.resolve(version)?;
        self.run_one(id, Operation::Migrate(Request::Downgrade { down: DowngradeTo::Position(to), drift }))
    }

    /// Deletes a project, after a last backup where one is wanted. Nobody may have it open.
    pub fn drop(&self, id: &ProjectId, copy: FinalBackup) -> Result<ProjectReport> {
        self.run_one(id, Operation::Drop(copy))
    }

    /// Takes a backup of a project; its name is in the report.
    pub fn backup(&self, id: &ProjectId, label: Option<&str>) -> Result<ProjectReport> {
        self.run_one(id, Operation::Backups(BackupTask::Take { label: label.map(Into::into) }))
    }

    /// A project's backups, oldest first. Errors where one of them can't be read.
    pub fn backups(&self, id: &ProjectId) -> Result<Vec<Backup>> {
        let (backups, broken) = self.archive()?.all(id)?;
        broken.into_iter().next().map_or(Ok(backups), Err)
    }

    /// Puts a backup in a project's place, once it is proven, and after a backup of what is there: its name is in the report.
    pub fn restore(&self, id: &ProjectId, source: Source) -> Result<ProjectReport> {
        let restore = Restore { source, target: None, if_in_use: IfInUse::Fail };
        self.run_one(id, Operation::Backups(BackupTask::Restore(restore)))
    }

    /// Makes another project of a project's backup.
    pub fn restore_as(&self, id: &ProjectId, source: Source, target: &ProjectId) -> Result<ProjectReport> {
        let restore = Restore { source, target: Some(target.clone()), if_in_use: IfInUse::Fail };
        self.run_one(id, Operation::Backups(BackupTask::Restore(restore)))
    }

    /// Checks a project by the database's own means and by what the set says must hold. Errors where something does not.
    pub fn check(&self, id: &ProjectId) -> Result<ProjectReport> {
        self.run_one(id, Operation::Maintain(MaintenanceTask::Check))
    }
}
