//! Projects put back: what takes a project's place, and what is kept of it before anything is done to it.
//!
//! It must not replace or delete a project whose present state is not kept, nor lose what others wrote meanwhile.

use super::Manager;
use super::backup::{Restore, Source};
use super::command::{FinalBackup, Safety};
use super::run::failed;
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
            report.notes.push(format!("it was taken of {from}, and this is {}", self.store.location()));
        }
        if dry_run {
            // Only what changes nothing at all.
            self.verify_backup(
                &backup,
                VerifyOptions { level: 1, strictness: Strictness::Strict, run },
                &mut report.steps,
            )?;
            report.notes.push(match self.inspect(target) {
                Err(error) if error.kind() == ErrorKind::NotFound => format!("would make {target}"),
                _ if restore.target.is_some() => return Err(exists().in_project(target)),
                Ok(_) => format!("would take the place of {target}, after a backup of that"),
                Err(error) => return Err(error),
            });
            return Ok(Outcome::Planned);
        }
        let strictness =
            if restore.if_in_use == IfInUse::Force { Strictness::Lenient } else { Strictness::Strict };
        self.verify_backup(&backup, VerifyOptions { level: 3, strictness, run }, &mut report.steps).map_err(|error| {
            error.with_hint("trust another backup of this project (tenantry backup list ID); one that is only not sound is \
                        restored as it was by --force")
        })?;
        if strictness == Strictness::Strict {
            self.record_check(&backup, 3, report)?;
        }
        self.restore_in_place(target, &backup, restore, run, report, &|_| Ok(()))?;
        Ok(Outcome::Restored)
    }

    /// Puts a backup in a project's place, or makes the project of it where there is none. `may` sees what the project is at
    /// that moment, when nobody else can change it any more.
    pub(super) fn restore_in_place(
        &self,
        target: &ProjectId,
        backup: &Backup,
        restore: &Restore,
        run: &str,
        report: &mut ProjectReport,
        may: &dyn Fn(&Manifest) -> Result<()>,
    ) -> Result<()> {
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        self.archive()?.unpack(backup, &file)?;
        let copy = snapshot_file(&backup.manifest, &file);
        if restore.target.is_some() {
            report.notes.extend(self.store.restore_as(target, copy)?);
            return Ok(());
        }
        self.pools.forget(target);
        let mut exclusive = match self.store.lock_exclusive(target, restore.if_in_use) {
            Ok(exclusive) => exclusive,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                report.notes.extend(self.store.restore_as(target, copy)?);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Locked && restore.if_in_use == IfInUse::Fail => {
                return Err(error.with_hint(
                    "stop it first; --force goes on without: it would keep using what is replaced",
                ));
            }
            Err(error) => return Err(error),
        };
        let note = self.backup_request(None, Reason::BeforeRestore, run);
        let old = match self.archive()?.take(target, &note, |file| exclusive.snapshot_to(file)) {
            Ok(undo) => {
                may(&undo.manifest)?;
                report
                    .notes
                    .push(format!("to undo it: tenantry backup restore {target} --from {}", undo.name));
                Replaced::Delete
            }
            // What can't be read any more is set aside instead.
            Err(error) if restore.if_in_use == IfInUse::Force && is_unreadable(&error) => Replaced::KeepAside,
            Err(error) => return Err(error.with_hint("--force sets aside what can't be read any more")),
        };
        report.notes.extend(exclusive.replace(copy, old)?);
        Ok(())
    }

    /// Changes a project, after a backup where one is wanted; and puts it back where it was changed in part.
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
        let taken = self.take_backup(project, None, Reason::BeforeUpgrade, executor.run).and_then(|backup| {
            if safety == Safety::CheckedBackup {
                let proof = VerifyOptions { level: 3, strictness: Strictness::Strict, run: executor.run };
                self.verify_backup(&backup, proof, &mut steps)?;
                self.archive()?.record_check(&backup, 3)?;
            }
            Ok(backup)
        });
        let backup = match taken {
            Ok(backup) => backup,
            Err(error) => return ProjectReport { steps, ..failed(project, error) },
        };
        let mut progress = Progress::new(executor.request);
        // Only what runs outside a transaction can fail in part.
        if preflight.mode.lock == Lock::Session {
            progress.rows = Some(RowTracker::new(backup.manifest.tables.clone()));
        }
        let mut report = self.execute_from(executor, project, preflight, &mut progress);
        // Only what this run itself did is undone: what it could not even begin was another's.
        let is_ours = matches!(&report.outcome, Outcome::Failed(error) if error.kind() != ErrorKind::Locked);
        if is_ours
            && let Err(error) =
                self.undo_partial(executor, project, &backup, progress.rows.as_ref(), &mut report)
        {
            report.notes.push(format!(
                "it is left as it is ({}); to put it back by hand: tenantry backup restore {project} --from {}",
                error.summary(),
                backup.name
            ));
        }
        ProjectReport { backup: Some(backup.name), steps, ..report }
    }

    /// Only what ran outside a transaction can have left a project between two versions.
    fn undo_partial(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        backup: &Backup,
        rows: Option<&RowTracker>,
        report: &mut ProjectReport,
    ) -> Result<()> {
        let mut begun = self.history(project)?;
        begun.retain(|done| done.run == executor.run);
        if begun.is_empty() {
            return Ok(());
        }
        let may = |now: &Manifest| {
            let touched = match rows {
                Some(rows) => rows.changed_by_others(&now.tables),
                None => RowTracker::new(backup.manifest.tables.clone()).changed_by_others(&now.tables),
            };
            match touched {
                None => Ok(()),
                Some(name) => Err(Error::new(
                    ErrorKind::Blocked,
                    format!(
                        "somebody wrote into {name} since the backup was taken, or the migration itself did: it would be lost"
                    ),
                )),
            }
        };
        let restore = Restore { source: Source::Newest, target: None, if_in_use: IfInUse::Fail };
        self.restore_in_place(project, backup, &restore, executor.run, report, &may)?;
        report.notes.push(format!("put back to what it was, from {}", backup.name));
        Ok(())
    }

    pub(super) fn drop_project(&self, project: &ProjectId, copy: FinalBackup, run: &str) -> ProjectReport {
        self.pools.forget(project);
        let drop = || {
            let exclusive = self.store.lock_exclusive(project, IfInUse::Fail);
            let mut exclusive = exclusive.map_err(|error| match error.kind() {
                ErrorKind::Locked => error.with_hint("stop it first: it would go on with what is deleted"),
                _ => error,
            })?;
            let backup = match copy {
                FinalBackup::Take => {
                    let note = self.backup_request(None, Reason::BeforeDrop, run);
                    Some(self.archive()?.take(project, &note, |file| exclusive.snapshot_to(file))?)
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
                        format!("to have it back: tenantry backup restore {project} --from {}", backup.name)
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
