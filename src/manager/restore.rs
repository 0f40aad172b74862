//! Restores projects from backups, and takes a backup before a project is changed, replaced or dropped.
//!
//! A project that can be read is replaced only after its current state was backed up.

use super::Manager;
use super::command::{FinalBackup, Safety};
use super::command::{Restore, Source};
use super::reporting::failed;
use super::verification::{Strictness, VerifyOptions, snapshot_file};
use crate::apply::{Executor, Preflight, Progress, RowTracker};
use crate::backup::{Backup, Manifest, Reason};
use crate::disk::{exists, private_folder};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;
use crate::store::{IfInUse, Lock, Replaced};

impl Manager {
    pub(super) fn restore_project(
        &self,
        project: &ProjectId,
        restore: &Restore,
        dry_run: bool,
        run: &str,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let backup = self.find_backup(project, &restore.source, restore.target.as_ref())?;
        report.backup = Some(backup.name.clone());
        let target = restore.target.as_ref().unwrap_or(project);
        self.store.validate_id(target)?;
        report.notes.push(format!(
            "{} was taken at {}, {}",
            backup.name, backup.manifest.taken_at, backup.manifest.reason
        ));
        let from = &backup.manifest.store;
        if !self.store.is_at(from) {
            report
                .notes
                .push(format!("it was taken from {from}, but this store is {}", self.store.location()));
        }
        if dry_run {
            // Higher levels create a scratch database.
            self.verify_backup(
                &backup,
                VerifyOptions { level: 1, strictness: Strictness::Strict, run },
                &mut report.steps,
            )?;
            report.notes.push(match self.inspect(target) {
                Err(error) if error.kind() == ErrorKind::NotFound => format!("would create {target}"),
                _ if restore.target.is_some() => return Err(exists().in_project(target)),
                Ok(_) => format!("would replace {target}, after a backup of it"),
                Err(error) => return Err(error),
            });
            return Ok(Outcome::Planned);
        }
        let strictness =
            if restore.if_in_use == IfInUse::Force { Strictness::Lenient } else { Strictness::Strict };
        self.verify_backup(&backup, VerifyOptions { level: 3, strictness, run }, &mut report.steps).map_err(
            |error| {
                error.with_hint(
                    "use another backup of this project (tenantry backup list ID); if only the database's checks or \
                     the set's rules fail, --force restores it as it was",
                )
            },
        )?;
        if strictness == Strictness::Strict {
            self.record_check(&backup, 3, report)?;
        }
        self.restore_in_place(target, &backup, restore, run, report, &|_| Ok(()))?;
        Ok(Outcome::Restored)
    }

    /// Replaces a project with a backup, or creates the project if it does not exist. Calls `permit` with the manifest
    /// of the replaced project, after a backup of it was taken and while others cannot change it. An error from
    /// `permit` prevents the replacement.
    pub(super) fn restore_in_place(
        &self,
        target: &ProjectId,
        backup: &Backup,
        restore: &Restore,
        run: &str,
        report: &mut ProjectReport,
        permit: &dyn Fn(&Manifest) -> Result<()>,
    ) -> Result<()> {
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        self.archive()?.unpack(backup, &file)?;
        let snapshot = snapshot_file(&backup.manifest, &file);
        if restore.target.is_some() {
            report.notes.extend(self.store.restore_as(target, snapshot)?);
            return Ok(());
        }
        self.pools.forget(target);
        let mut exclusive = match self.store.lock_exclusive(target, restore.if_in_use) {
            Ok(exclusive) => exclusive,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                report.notes.extend(self.store.restore_as(target, snapshot)?);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Locked && restore.if_in_use == IfInUse::Fail => {
                return Err(error.with_hint(
                    "stop it first; --force replaces the project anyway, and the process keeps using the old one",
                ));
            }
            Err(error) => return Err(error),
        };
        let request = self.backup_request(None, Reason::BeforeRestore, run);
        let old = match self.archive()?.create(target, &request, |file| exclusive.snapshot_to(file)) {
            Ok(undo) => {
                permit(&undo.manifest)?;
                report
                    .notes
                    .push(format!("to undo it: tenantry backup restore {target} --from {}", undo.name));
                Replaced::Delete
            }
            // A project that cannot be read is kept aside instead.
            Err(error) if restore.if_in_use == IfInUse::Force && is_unreadable(&error) => Replaced::KeepAside,
            Err(error) => {
                return Err(error.with_hint("--force keeps a project that cannot be read under another name"));
            }
        };
        report.notes.extend(exclusive.replace(snapshot, old)?);
        Ok(())
    }

    /// Executes a plan, after the backup that `safety` requires. If the plan fails after it was executed in part,
    /// restores the project from that backup.
    pub(super) fn execute_with_backup(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        preflight: &Preflight,
        safety: Safety,
    ) -> ProjectReport {
        if safety == Safety::None {
            return self.execute_plan(executor, project, preflight);
        }
        let mut steps = Vec::new();
        let backup =
            self.take_backup(project, None, Reason::BeforeUpgrade, executor.run).and_then(|backup| {
                if safety == Safety::CheckedBackup {
                    let options =
                        VerifyOptions { level: 3, strictness: Strictness::Strict, run: executor.run };
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
        let mut report = self.execute_from(executor, project, preflight, &mut progress);
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
        history.retain(|row| row.run == executor.run);
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
        self.restore_in_place(project, backup, &restore, executor.run, report, &permit)?;
        report.notes.push(format!("restored to its state before this run, from {}", backup.name));
        Ok(())
    }

    pub(super) fn drop_project(&self, project: &ProjectId, backup: FinalBackup, run: &str) -> ProjectReport {
        self.pools.forget(project);
        let drop = || {
            let exclusive = self.store.lock_exclusive(project, IfInUse::Fail);
            let mut exclusive = exclusive.map_err(|error| match error.kind() {
                ErrorKind::Locked => {
                    error.with_hint("stop it first: it would keep using the deleted project")
                }
                _ => error,
            })?;
            let backup = match backup {
                FinalBackup::Take => {
                    let request = self.backup_request(None, Reason::BeforeDrop, run);
                    Some(self.archive()?.create(project, &request, |file| exclusive.snapshot_to(file))?)
                }
                FinalBackup::Skip => None,
            };
            let notes = exclusive.remove()?;
            Ok((backup, notes))
        };
        match self.retry(drop) {
            Ok((backup, notes)) => ProjectReport {
                notes: backup
                    .iter()
                    .map(|backup| {
                        format!("to restore it: tenantry backup restore {project} --from {}", backup.name)
                    })
                    .chain(notes)
                    .collect(),
                backup: backup.map(|backup| backup.name),
                ..ProjectReport::new(project.clone(), Outcome::Dropped)
            },
            Err(error) => failed(project, error),
        }
    }
}

fn is_unreadable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotADatabase | ErrorKind::Corrupt | ErrorKind::Database)
}
