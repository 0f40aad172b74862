//! Restores projects from backups, and takes a backup before a project is changed, replaced or dropped.
//!
//! A project that can be read is replaced only after its current state was backed up.

use super::Manager;
use super::command::FinalBackup;
use super::command::Restore;
use super::reporting::failed;
use super::verification::{Strictness, VerifyOptions, snapshot_file};
use crate::backup::{Backup, Manifest, Reason};
use crate::disk::{already_exists, private_folder};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;
use crate::store::{IfInUse, Replaced};

impl Manager {
    pub(super) fn restore_project(
        &self,
        project: &ProjectId,
        restore: &Restore,
        dry_run: bool,
        run_id: &str,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let backup = self.find_backup(project, &restore.source, restore.target.as_ref())?;
        report.backup = Some(backup.name.clone());
        let target = match &restore.target {
            Some(target) => &self.store.place_new(std::slice::from_ref(target))?.remove(0),
            None => project,
        };
        self.store.validate_id(target)?;
        report.notes.push(format!(
            "{} was taken at {}, {}",
            backup.name, backup.manifest.taken_at, backup.manifest.reason
        ));
        let from = &backup.manifest.store;
        if !self.store.is_at(from) {
            let here = self.store.location_of(target);
            report.notes.push(format!("it was taken from {from}, but this store is {here}"));
        }
        if dry_run {
            // Higher levels create a scratch database.
            self.verify_backup(
                &backup,
                VerifyOptions { level: 1, strictness: Strictness::Strict, run_id },
                &mut report.steps,
            )?;
            report.notes.push(match self.inspect(target) {
                Err(error) if error.kind() == ErrorKind::NotFound => format!("would create {target}"),
                _ if restore.target.is_some() => return Err(already_exists().in_project(target)),
                Ok(_) if restore.if_in_use == IfInUse::Fail => {
                    format!(
                        "would replace {target}, after a backup of it, unless another process has it open"
                    )
                }
                Ok(_) => format!("would replace {target}, after a backup of it"),
                Err(error) => return Err(error),
            });
            return Ok(Outcome::Planned);
        }
        let strictness =
            if restore.if_in_use == IfInUse::Force { Strictness::Lenient } else { Strictness::Strict };
        self.verify_backup(&backup, VerifyOptions { level: 3, strictness, run_id }, &mut report.steps).map_err(
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
        self.restore_in_place(target, &backup, restore, run_id, report, &|_| Ok(()))?;
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
        run_id: &str,
        report: &mut ProjectReport,
        permit: &dyn Fn(&Manifest) -> Result<()>,
    ) -> Result<()> {
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        self.archive()?.unpack(backup, &file)?;
        let snapshot = snapshot_file(&backup.manifest, &file);
        if restore.target.is_some() {
            let notes = self.store.restore_as(target, snapshot)?;
            report.notes.push(format!("restored as {target}"));
            report.notes.extend(notes);
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
        let request = self.backup_request(target, None, Reason::BeforeRestore, run_id);
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

    pub(super) fn drop_project(
        &self,
        project: &ProjectId,
        backup: FinalBackup,
        run_id: &str,
    ) -> ProjectReport {
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
                    let request = self.backup_request(project, None, Reason::BeforeDrop, run_id);
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
