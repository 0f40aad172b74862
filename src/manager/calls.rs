//! Methods for the common operations on a project, for applications; `Manager::run` does the others. Each is a run, recorded like any other.

use super::Manager;
use super::command::MaintenanceTask;
use super::command::{BackupTask, Restore, Source};
use super::command::{FinalBackup, Operation, Run, Selection};
use super::reporting::blocked;
use crate::backup::Backup;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Outcome, ProjectReport, Summary};
use crate::plan::{DowngradeTarget, IfDrifted, Request};
use crate::project::ProjectId;

impl Manager {
    /// Creates a project at the newest version. Fails with [`ErrorKind::AlreadyExists`] if it exists.
    pub fn create(&self, id: &ProjectId) -> Result<()> {
        self.run_one(id, Operation::Create).map(drop)
    }

    /// Upgrades a project to the newest version. A project without a ledger is stamped first, with the version whose
    /// schema it has.
    ///
    /// Fails with [`ErrorKind::Blocked`] if the project has problems that prevent an upgrade.
    pub fn upgrade(&self, id: &ProjectId) -> Result<ProjectReport> {
        self.run_one(id, Operation::Migrate(self.upgrade_request()))
    }

    /// Runs an operation on one project. Fails unless the project's outcome is a success.
    fn run_one(&self, id: &ProjectId, operation: Operation) -> Result<ProjectReport> {
        let run = Run::new(Selection::Ids(vec![id.clone()]), operation);
        let mut finished = None;
        self.run(&run, |event| {
            if let Event::ProjectFinished(report) = event {
                finished = Some(report);
            }
        })?;
        let report = finished
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the run reported no outcome").in_project(id))?;
        match report.outcome {
            Outcome::Failed(error) => Err(error),
            Outcome::Blocked(problems) => Err(blocked(id, &problems)),
            Outcome::NotStarted => {
                Err(Error::new(ErrorKind::Interrupted, "it was not started").in_project(id))
            }
            _ => Ok(report),
        }
    }

    /// Upgrades all projects to the newest version, in parallel. `observer` is called on this thread, once for each
    /// event.
    ///
    /// The outcome of each project is in the events, and the summary counts them; a failed project is not an error.
    /// Fails as [`Manager::run`] does.
    pub fn upgrade_all(&self, observer: impl FnMut(Event)) -> Result<Summary> {
        self.run(&Run::upgrade_all(self.catalog.head()), observer)
    }

    /// Returns the store's projects, sorted. Opens none of them.
    pub fn list(&self) -> Result<Vec<ProjectId>> {
        self.store.discover()?.require_complete()
    }

    /// Records the version that a project has, without running migrations: the version in its ledger, or, without a
    /// ledger, the version whose schema it has.
    ///
    /// Fails with [`ErrorKind::Blocked`] if no version has its schema, or several.
    pub fn stamp(&self, id: &ProjectId) -> Result<ProjectReport> {
        self.run_one(id, Operation::Migrate(Request::Stamp { to: None, force: false }))
    }

    /// Records a version in a project's ledger without running migrations. With [`IfDrifted::Keep`] it is recorded even if
    /// the project's schema differs from that version's.
    ///
    /// Fails with [`ErrorKind::Usage`] if the catalog does not have the version, and with [`ErrorKind::Blocked`] if the
    /// schema differs and `drift` is [`IfDrifted::Refuse`].
    pub fn stamp_version(&self, id: &ProjectId, version: &str, drift: IfDrifted) -> Result<ProjectReport> {
        let to = Some(self.catalog.resolve(version)?);
        self.run_one(id, Operation::Migrate(Request::Stamp { to, force: drift == IfDrifted::Keep }))
    }

    /// Reverts a project to an older version by running `down.sql` scripts. Version `0` is an empty database. `drift`
    /// says what to do if a script does not restore the older version's schema.
    ///
    /// Fails with [`ErrorKind::Usage`] if the catalog does not have the version, and with [`ErrorKind::Blocked`] if a
    /// `down.sql` is missing.
    pub fn downgrade(&self, id: &ProjectId, version: &str, drift: IfDrifted) -> Result<ProjectReport> {
        let to = self.catalog.resolve(version)?;
        self.run_one(
            id,
            Operation::Migrate(Request::Downgrade { target: DowngradeTarget::Position(to), drift }),
        )
    }

    /// Deletes a project, after a final backup with [`FinalBackup::Take`]. Fails with [`ErrorKind::Locked`] if others
    /// have the project open.
    pub fn drop(&self, id: &ProjectId, backup: FinalBackup) -> Result<ProjectReport> {
        self.run_one(id, Operation::Drop(backup))
    }

    /// Takes a backup of a project. [`ProjectReport::backup`] is its name.
    pub fn backup(&self, id: &ProjectId, label: Option<&str>) -> Result<ProjectReport> {
        self.run_one(id, Operation::Backups(BackupTask::Take { label: label.map(Into::into) }))
    }

    /// Returns a project's backups, oldest first. Fails if one of them cannot be read.
    pub fn backups(&self, id: &ProjectId) -> Result<Vec<Backup>> {
        let (backups, unreadable) = self.archive()?.all(&self.resolve(id)?)?;
        unreadable.into_iter().next().map_or(Ok(backups), Err)
    }

    /// Replaces a project with a backup, or creates the project if it does not exist. Verifies the backup first, and
    /// takes a backup of the replaced project; a note in the report has its name.
    ///
    /// Fails with [`ErrorKind::CheckFailed`] if the backup does not pass its verification, and with
    /// [`ErrorKind::Locked`] if others have the project open.
    pub fn restore(&self, id: &ProjectId, source: Source) -> Result<ProjectReport> {
        let restore = Restore::new(source);
        self.run_one(id, Operation::Backups(BackupTask::Restore(restore)))
    }

    /// Restores a backup of project `id` as the new project `target`. Fails with [`ErrorKind::AlreadyExists`] if
    /// `target` exists.
    pub fn restore_as(&self, id: &ProjectId, source: Source, target: &ProjectId) -> Result<ProjectReport> {
        let restore = Restore::new(source).target(target.clone());
        self.run_one(id, Operation::Backups(BackupTask::Restore(restore)))
    }

    /// Runs the database's own checks and those of the set's rules. Fails with [`ErrorKind::CheckFailed`] if one of
    /// them fails.
    pub fn check(&self, id: &ProjectId) -> Result<ProjectReport> {
        self.run_one(id, Operation::Maintain(MaintenanceTask::Check))
    }
}
