//! Runs the backup commands on a project: takes, checks, restores or prunes its backups.

use super::Manager;
use super::backup::ABANDONED;
use super::command::{BackupTask, Run, Selection};
use super::sink::EventSink;
use crate::backup::Reason;
use crate::error::Result;
use crate::event::{Event, Outcome, ProjectReport};
use crate::project::ProjectId;

impl Manager {
    pub(super) fn run_backup_task(
        &self,
        project: &ProjectId,
        task: &BackupTask,
        dry_run: bool,
        run_id: &str,
    ) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Planned);
        let result = match task {
            BackupTask::Take { .. } if dry_run => self.inspect(project).map(|_| Outcome::Planned),
            BackupTask::Take { label } => {
                self.take_backup(project, label.as_deref(), Reason::Asked, run_id).map(|backup| {
                    report.backup = Some(backup.name);
                    Outcome::BackedUp
                })
            }
            BackupTask::Check { level, names, .. } => {
                let name = names.iter().find(|(named, _)| project.answers_to(named)).map(|(_, name)| name);
                self.check_backup(project, *level, name, run_id, &mut report)
            }
            BackupTask::Restore(restore) => {
                self.restore_project(project, restore, dry_run, run_id, &mut report)
            }
            BackupTask::Prune(keep) => self.prune_backups(project, keep, dry_run, &mut report),
        };
        report.outcome = result.unwrap_or_else(|error| Outcome::Failed(error.in_project(project)));
        report
    }

    /// Reports or removes what concerns the backups of all projects together.
    pub(super) fn finish_backups<F: FnMut(Event)>(
        &self,
        run: &Run,
        task: &BackupTask,
        projects: &[ProjectId],
        sink: &mut EventSink<'_, F>,
    ) -> Result<()> {
        match task {
            BackupTask::Check { .. } if matches!(run.selection, Selection::All { .. }) => {
                sink.emit(Event::Backups(self.coverage(projects)?));
            }
            BackupTask::Prune(_) if !run.dry_run => self.archive()?.sweep_unfinished(ABANDONED)?,
            _ => {}
        }
        Ok(())
    }
}
