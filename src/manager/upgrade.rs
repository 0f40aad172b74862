//! Executes a plan on one project with the backup that was asked for, and restores the project if only a part of the plan
//! was executed.

use super::Manager;
use super::command::{BackupBefore, Restore, Source};
use super::reporting::failed;
use super::verification::{Strictness, VerifyOptions};
use crate::apply::{Executor, Preflight, Progress, RowTracker};
use crate::backup::{Backup, Manifest, Reason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;
use crate::store::Lock;

impl Manager {
    /// Executes a plan, after the backup that `backup_before` requires. If the plan fails after it was executed in part,
    /// restores the project from that backup.
    pub(super) fn execute_with_backup(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        preflight: &Preflight,
        backup_before: BackupBefore,
    ) -> ProjectReport {
        if backup_before == BackupBefore::None {
            return self.execute(executor, project, preflight);
        }
        let mut steps = Vec::new();
        let backup =
            self.take_backup(project, None, Reason::BeforeUpgrade, executor.run_id).and_then(|backup| {
                if backup_before == BackupBefore::Check {
                    let options =
                        VerifyOptions { level: 3, strictness: Strictness::Strict, run_id: executor.run_id };
                    self.verify_backup(&backup, options, &mut steps)?;
                    self.archive()?.record_check(&backup, 3)?;
                }
                Ok(backup)
            });
        let backup = match backup {
            Ok(backup) => backup,
            Err(error) => return ProjectReport { steps, ..failed(project, error) },
        };
        let mut progress = Progress::new(executor.request);
        // Only a plan with a migration outside a transaction can be executed in part.
        if preflight.mode.lock == Lock::Session {
            progress.rows = Some(RowTracker::new(backup.manifest.tables.clone()));
        }
        let mut report = self.execute_with_progress(executor, project, preflight, &mut progress);
        // If the project was locked by others, this run changed nothing.
        let is_own_failure =
            matches!(&report.outcome, Outcome::Failed(error) if error.kind() != ErrorKind::Locked);
        if is_own_failure
            && let Err(error) =
                self.undo_partial(executor, project, &backup, progress.rows.as_ref(), &mut report)
        {
            report.notes.push(format!(
                "not restored automatically ({}); to restore it: tenantry backup restore {project} --from {}",
                error.summary(),
                backup.name
            ));
        }
        ProjectReport { backup: Some(backup.name), steps, ..report }
    }

    /// Restores a project from a backup if this run left it between two versions: only then does the ledger have rows
    /// of this run after a failure. Fails if others changed rows meanwhile.
    fn undo_partial(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        backup: &Backup,
        rows: Option<&RowTracker>,
        report: &mut ProjectReport,
    ) -> Result<()> {
        let mut history = self.history(project)?;
        history.retain(|row| row.run == executor.run_id);
        if history.is_empty() {
            return Ok(());
        }
        let permit = |now: &Manifest| {
            let changed_table = match rows {
                Some(rows) => rows.changed_by_others(&now.tables),
                None => RowTracker::new(backup.manifest.tables.clone()).changed_by_others(&now.tables),
            };
            match changed_table {
                None => Ok(()),
                Some(table) => Err(Error::new(
                    ErrorKind::Blocked,
                    format!(
                        "others or the migration changed rows of {table} since the backup was taken; they would be lost"
                    ),
                )),
            }
        };
        let restore = Restore::new(Source::Newest);
        self.restore_in_place(project, backup, &restore, executor.run_id, report, &permit)?;
        report.notes.push(format!("restored to its state before this run, from {}", backup.name));
        // The hint of the failure is about a project that was left as it is.
        if let Outcome::Failed(error) = &mut report.outcome {
            *error = error
                .duplicate()
                .with_hint("fix the migration and run the command again: the project was restored");
        }
        Ok(())
    }
}
