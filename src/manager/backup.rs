//! Backups of projects: what can be asked for, which is meant, and those taken, checked and removed.
//!
//! It must not call a backup verified at a level that was not run: `prove` runs them, `restore` puts them back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Manager;
use super::command::{Run, Selection};
use super::verification::{Strictness, VerifyOptions};
use crate::backup::{Archive, Backup, BackupRequest, Manifest, Reason, RetentionPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Coverage, Outcome, ProjectReport};
use crate::project::ProjectId;
use crate::store::{Discovery, IfInUse, Skipped};
use crate::time::Moment;

/// What is done with a project's backups.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupTask {
    /// One is taken.
    Take {
        /// What it is called.
        label: Option<String>,
    },
    /// One is checked: the newest where none is named.
    Check {
        /// How far: 1 its file, 2 restored and sound, 3 the same schema and rows as when it was taken, 4 upgraded.
        level: u8,
        /// Which, by project.
        names: BTreeMap<ProjectId, String>,
        /// Only a part of all projects.
        sample: Option<Sample>,
    },
    /// One takes the project's place.
    Restore(Restore),
    /// Those that are not kept are removed.
    Prune(RetentionPolicy),
}

/// One of so many parts that a fleet is divided into, always in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which part, counted from 1.
    pub part: u64,
    /// How many parts.
    pub of: u64,
}

/// How a project is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// From which backup.
    pub source: Source,
    /// As which project; itself where there is none.
    pub target: Option<ProjectId>,
    /// Whether others may have it open, or it may be past reading.
    pub if_in_use: IfInUse,
}

/// Which backup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The newest.
    Newest,
    /// The newest that was taken by then.
    At(Moment),
    /// One by its name, or the newest with this label.
    Named(String),
}

/// How old the leftovers of killed backups are before they are removed: what is younger may still be written.
pub(super) const ABANDONED: Duration = Duration::from_hours(24);

impl BackupTask {
    /// Whether migrations are run, so that it has to be known where they lead.
    pub(super) fn needs_reference(&self) -> bool {
        matches!(self, Self::Check { level: 3.., .. } | Self::Restore(_))
    }
}

impl Sample {
    fn contains(self, project: &ProjectId) -> bool {
        // FNV-1a: any hash does that never changes.
        let hash = project.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.part.checked_sub(1) == Some(hash % self.of.max(1))
    }
}

impl Manager {
    pub(super) fn archive(&self) -> Result<&Archive> {
        self.archive.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "no place for backups is known")
                .with_hint("name one: [backup] dir in tenantry.toml, or --backup-dir; in an application: Manager::with_archive")
        })
    }

    /// The fleet's projects, and those of which there are only backups left.
    pub(super) fn select_with_backups(&self, run: &Run) -> Result<Discovery> {
        let super::Operation::Backups(task) = &run.operation else { return Ok(Discovery::default()) };
        let Selection::All { .. } = &run.selection else { return self.select_ids(&run.selection) };
        let mut found = match (self.store.discover(), task) {
            (Ok(found), _) => found,
            // Backups are checked where the store is lost: then most of all.
            (Err(error), BackupTask::Check { .. } | BackupTask::Prune(_)) => Discovery {
                projects: Vec::new(),
                skipped: vec![Skipped { name: self.store.location(), reason: error.summary() }],
            },
            (Err(error), _) => return Err(error),
        };
        if !matches!(task, BackupTask::Take { .. }) {
            found.projects.extend(self.archive()?.projects()?);
            found.projects.sort();
            found.projects.dedup();
        }
        found.projects.retain(|id| run.selection.contains(id));
        if let BackupTask::Check { sample: Some(sample), .. } = task {
            found.projects.retain(|id| sample.contains(id));
        }
        Ok(found)
    }

    pub(super) fn backup_task(
        &self,
        project: &ProjectId,
        task: &BackupTask,
        dry_run: bool,
        run: &str,
    ) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Planned);
        let result = match task {
            BackupTask::Take { .. } if dry_run => self.inspect(project).map(|_| Outcome::Planned),
            BackupTask::Take { label } => {
                self.take_backup(project, label.as_deref(), Reason::Asked, run).map(|backup| {
                    report.backup = Some(backup.name);
                    Outcome::BackedUp
                })
            }
            BackupTask::Check { level, names, .. } => {
                self.check_backup(project, *level, names.get(project), run, &mut report)
            }
            BackupTask::Restore(restore) => self.restore_project(project, restore, dry_run, run, &mut report),
            BackupTask::Prune(keep) => self.prune_backups(project, keep, dry_run, &mut report),
        };
        report.outcome = result.unwrap_or_else(|error| Outcome::Failed(error.in_project(project)));
        report
    }

    pub(super) fn backup_request<'a>(
        &self,
        label: Option<&'a str>,
        reason: Reason,
        run: &'a str,
    ) -> BackupRequest<'a> {
        BackupRequest { label, reason, run, store: self.store.location() }
    }

    pub(super) fn take_backup(
        &self,
        project: &ProjectId,
        label: Option<&str>,
        reason: Reason,
        run: &str,
    ) -> Result<Backup> {
        let note = self.backup_request(label, reason, run);
        self.retry(|| self.archive()?.take(project, &note, |file| self.store.snapshot_to(project, file)))
    }

    fn check_backup(
        &self,
        project: &ProjectId,
        level: u8,
        name: Option<&String>,
        run: &str,
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
            VerifyOptions { level, strictness: Strictness::Strict, run },
            &mut report.steps,
        ) {
            Ok(()) => self.record_check(&backup, level, report)?,
            Err(error) => {
                // What a migration or a rule does not like is not the backup's fault.
                let is_whole = report.steps.iter().any(|step| step.level >= 3);
                if error.kind() == ErrorKind::CheckFailed && !is_whole {
                    self.record_check(&backup, 0, report)?;
                }
                return Err(error);
            }
        }
        Ok(Outcome::Verified)
    }

    /// Remembers how a check ended; 0 where it failed. That this can't be written, on a medium that is only read, say,
    /// changes nothing about the backup.
    pub(super) fn record_check(&self, backup: &Backup, level: u8, report: &mut ProjectReport) -> Result<()> {
        if let Err(error) = self.archive()?.record_check(backup, level) {
            report.notes.push(format!("that it was checked can't be written down: {}", error.summary()));
        }
        Ok(())
    }

    /// The backup that is meant. One of another fleet's project is only taken to make another project of it.
    pub(super) fn find_backup(
        &self,
        project: &ProjectId,
        source: &Source,
        target: Option<&ProjectId>,
    ) -> Result<Backup> {
        let archive = self.archive()?;
        match source {
            // What an undo keeps is what somebody wanted to be rid of.
            Source::Newest => {
                let is_undo = |it: &Backup| {
                    matches!(it.manifest.reason, Reason::BeforeRestore | Reason::BeforeRollback)
                };
                for name in archive.names(project)?.iter().rev() {
                    let backup = archive.get(name)?;
                    if archive.owns(&backup.manifest) && !is_undo(&backup) {
                        return Ok(backup);
                    }
                }
                Err(no_backup())
            }
            Source::At(moment) => archive.newest(project, Some(*moment))?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("it has no backup from before {moment}"))
                    .with_hint("see which it has: tenantry backup list ID")
            }),
            Source::Named(name) if name.contains('/') => {
                let backup = archive.get(name)?;
                if backup.manifest.project == *project {
                    return if target.is_some() || archive.owns(&backup.manifest) {
                        Ok(backup)
                    } else {
                        let Manifest { store, place, .. } = &backup.manifest;
                        Err(Error::new(ErrorKind::Usage, format!("{name} was taken of {place} in {store}, which is another project"))
                            .with_hint(format!("to make a project of it: tenantry backup restore {project} --from {name} --as NEWID")))
                    };
                }
                let other = &backup.manifest.project;
                Err(Error::new(ErrorKind::Usage, format!("{name} is a backup of {other}")).with_hint(format!(
                    "to make another project of it: tenantry backup restore {other} --from {name} --as NEWID"
                )))
            }
            Source::Named(label) => {
                let (backups, _) = archive.all(project)?;
                let named = |backup: &Backup| {
                    backup.manifest.label.as_deref() == Some(label)
                        || backup.name.ends_with(&format!("/{label}"))
                };
                backups.into_iter().rev().find(named).ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotFound,
                        format!("it has no backup with the label or name {label:?}"),
                    )
                    .with_hint("see which it has: tenantry backup list ID")
                })
            }
        }
    }

    fn prune_backups(
        &self,
        project: &ProjectId,
        keep: &RetentionPolicy,
        dry_run: bool,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let archive = self.archive()?;
        let (backups, broken) = archive.all(project)?;
        let left = |error: &Error| format!("left for whoever looks into it: {}", error.summary());
        report.notes.extend(broken.iter().map(left));
        let failed = backups.iter().filter(|backup| backup.failed.is_some());
        report
            .notes
            .extend(failed.map(|backup| {
                format!("left for whoever looks into it: {}, whose check failed", backup.name)
            }));
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
            report.notes.push("removed what killed backups had left".into());
        }
        Ok(match (surplus.is_empty(), dry_run) {
            (true, _) => Outcome::UpToDate,
            (false, true) => Outcome::Planned,
            (false, false) => Outcome::Pruned,
        })
    }

    /// How well these projects are covered by backups.
    pub(super) fn coverage(&self, projects: &[ProjectId]) -> Result<Coverage> {
        const WEEK: Duration = Duration::from_hours(168);
        let mut coverage = Coverage {
            projects: projects.len(),
            without: Vec::new(),
            verified_in_7_days: 0,
            oldest_unverified: None,
        };
        let mut oldest: Option<(Moment, String)> = None;
        for project in projects {
            let (backups, broken) = self.archive()?.all(project)?;
            if backups.is_empty() && broken.is_empty() {
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
    Error::new(ErrorKind::NotFound, "it has no backup").with_hint("take one: tenantry backup create ID")
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn the_parts_of_a_sample_are_all_of_a_fleet_and_no_other_part_is_any() {
        let ids: Vec<crate::project::ProjectId> =
            (0..100).map(|id| id.to_string().parse().unwrap()).collect();
        let count = |part: u64, of: u64| ids.iter().filter(|id| Sample { part, of }.contains(id)).count();
        assert_eq!((1..=7).map(|part| count(part, 7)).sum::<usize>(), 100);
        // There is no part before the first, none after the last, and none of nothing.
        assert_eq!((count(0, 7), count(8, 7), count(0, 0)), (0, 0, 0));
    }
}
