//! Takes, finds, checks and prunes backups of projects. `verification` runs the checks, `restore` restores backups.

use std::time::Duration;

use super::Manager;
use super::command::Source;
use super::verification::{Strictness, VerifyOptions};
use crate::backup::{Backup, BackupRequest, Manifest, Reason, RetentionPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Coverage, Outcome, ProjectReport};
use crate::project::ProjectId;
use crate::time::Timestamp;

/// The age from which files of unfinished backups are removed. Younger ones may still be in progress.
pub(super) const ABANDONED: Duration = Duration::from_hours(24);

impl Manager {
    pub(super) fn backup_request<'a>(
        &self,
        project: &ProjectId,
        label: Option<&'a str>,
        reason: Reason,
        run_id: &'a str,
    ) -> BackupRequest<'a> {
        BackupRequest { label, reason, run_id, store: self.store.location_of(project) }
    }

    pub(super) fn take_backup(
        &self,
        project: &ProjectId,
        label: Option<&str>,
        reason: Reason,
        run_id: &str,
    ) -> Result<Backup> {
        let request = self.backup_request(project, label, reason, run_id);
        self.retry(|| self.archive()?.create(project, &request, |file| self.store.snapshot_to(project, file)))
    }

    pub(super) fn check_backup(
        &self,
        project: &ProjectId,
        level: u8,
        name: Option<&String>,
        run_id: &str,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let archive = self.archive()?;
        let backup = match name {
            Some(name) => archive.get(name)?,
            None => archive.newest(project, None)?.ok_or_else(no_backup)?,
        };
        report.backup = Some(backup.name.clone());
        match self.verify_backup(
            &backup,
            VerifyOptions { level, strictness: Strictness::Strict, run_id },
            &mut report.steps,
        ) {
            Ok(()) => self.record_check(&backup, level, report)?,
            Err(error) => {
                // At level 3 the backup itself is intact. Later failures are those of a rule or a migration.
                let is_intact = report.steps.iter().any(|step| step.level >= 3);
                if error.kind() == ErrorKind::CheckFailed && !is_intact {
                    self.record_check(&backup, 0, report)?;
                }
                return Err(error);
            }
        }
        Ok(Outcome::Verified)
    }

    /// Records the level that a check reached, or 0 if the check failed. If this cannot be written, for example to a
    /// read-only medium, it only adds a note, since the backup is no worse for it.
    pub(super) fn record_check(&self, backup: &Backup, level: u8, report: &mut ProjectReport) -> Result<()> {
        if let Err(error) = self.archive()?.record_check(backup, level) {
            report.notes.push(format!("the result of this check cannot be recorded: {}", error.summary()));
        }
        Ok(())
    }

    /// Finds the backup that `source` means. A backup from another fleet is accepted only if it is named and restored
    /// as another project, `target`.
    pub(super) fn find_backup(
        &self,
        project: &ProjectId,
        source: &Source,
        target: Option<&ProjectId>,
    ) -> Result<Backup> {
        let archive = self.archive()?;
        match source {
            // A backup that was taken before a restore or rollback has the state that the user wanted to leave.
            Source::Newest => {
                let is_undo = |it: &Backup| {
                    matches!(it.manifest.reason, Reason::BeforeRestore | Reason::BeforeRollback)
                };
                for name in archive.names(project)?.iter().rev() {
                    let backup = archive.get(name)?;
                    if archive.owns(project, &backup.manifest) && !is_undo(&backup) {
                        return Ok(backup);
                    }
                }
                Err(no_backup())
            }
            Source::At(moment) => archive.newest(project, Some(*moment))?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("it has no backup taken at or before {moment}"))
                    .with_hint("list its backups: tenantry backup list ID")
            }),
            Source::Named(name) if name.contains('/') => {
                let backup = archive.get(name)?;
                if project.answers_to(&backup.manifest.project) {
                    return if target.is_some() || archive.owns(project, &backup.manifest) {
                        Ok(backup)
                    } else {
                        let Manifest { store, place, .. } = &backup.manifest;
                        let message =
                            format!("{name} is a backup of {place} in {store}, which is another project");
                        let hint = format!(
                            "to restore it as a new project: tenantry backup restore {project} --from {name} --as NEWID"
                        );
                        Err(Error::new(ErrorKind::Usage, message).with_hint(hint))
                    };
                }
                let other = &backup.manifest.project;
                Err(Error::new(ErrorKind::Usage, format!("{name} is a backup of {other}")).with_hint(format!(
                    "to restore it as a new project: tenantry backup restore {other} --from {name} --as NEWID"
                )))
            }
            Source::Named(label) => {
                let (backups, _) = archive.all(project)?;
                let matches = |backup: &Backup| {
                    backup.manifest.label.as_deref() == Some(label)
                        || backup.name.ends_with(&format!("/{label}"))
                };
                backups.into_iter().rev().find(matches).ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotFound,
                        format!("it has no backup with the label or name {label:?}"),
                    )
                    .with_hint("list its backups: tenantry backup list ID")
                })
            }
        }
    }

    pub(super) fn prune_backups(
        &self,
        project: &ProjectId,
        keep: &RetentionPolicy,
        dry_run: bool,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let archive = self.archive()?;
        let (backups, unreadable) = archive.all(project)?;
        let note = |error: &Error| format!("kept for inspection: {}", error.summary());
        report.notes.extend(unreadable.iter().map(note));
        let failed = backups.iter().filter(|backup| backup.failed.is_some());
        let note = |backup: &Backup| format!("kept for inspection: {}, whose check failed", backup.name);
        report.notes.extend(failed.map(note));
        let surplus = keep.surplus(&backups);
        for backup in &surplus {
            if !dry_run {
                archive.remove(&backup.name)?;
            }
            report.notes.push(format!(
                "{} {}",
                if dry_run { "would remove" } else { "removed" },
                backup.name
            ));
        }
        if !dry_run && archive.sweep(project, ABANDONED)? > 0 {
            report.notes.push("removed files of unfinished backups".into());
        }
        Ok(match (surplus.is_empty(), dry_run) {
            (true, _) => Outcome::UpToDate,
            (false, true) => Outcome::Planned,
            (false, false) => Outcome::Pruned,
        })
    }

    /// Counts how many of these projects have backups, and verified ones.
    pub(super) fn coverage(&self, projects: &[ProjectId]) -> Result<Coverage> {
        const WEEK: Duration = Duration::from_hours(168);
        let mut coverage = Coverage {
            projects: projects.len(),
            without: Vec::new(),
            verified_in_7_days: 0,
            oldest_unverified: None,
        };
        let mut oldest: Option<(Timestamp, String)> = None;
        for project in projects {
            let (backups, unreadable) = self.archive()?.all(project)?;
            if backups.is_empty() && unreadable.is_empty() {
                coverage.without.push(project.clone());
            }
            if backups
                .iter()
                .any(|it| it.verified.is_some_and(|verified| verified.level >= 3 && verified.at.age() < WEEK))
            {
                coverage.verified_in_7_days += 1;
            }
            if let Some(first) =
                backups.into_iter().find(|it| it.verified.is_none_or(|verified| verified.level < 3))
                && oldest.as_ref().is_none_or(|(moment, _)| first.manifest.taken_at < *moment)
            {
                oldest = Some((first.manifest.taken_at, first.name));
            }
        }
        coverage.oldest_unverified = oldest.map(|(_, name)| name);
        Ok(coverage)
    }
}

fn no_backup() -> Error {
    Error::new(ErrorKind::NotFound, "it has no backup").with_hint(
        "take one: tenantry backup create ID; if there should be one, check --backup-dir and --store",
    )
}
