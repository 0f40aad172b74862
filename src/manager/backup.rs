//! Backups of projects: taken, proven by restoring them, put in a project's place, removed.
//!
//! It must not call a backup verified at a level that was not run, and must not replace a project whose present state is
//! not kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Manager;
use super::command::{FinalCopy, Run, Safety, Selection};
use super::run::{UNPLANNED, failed};
use crate::apply::Work;
use crate::backup::{Archive, Backup, Keep, Manifest, Moment, Note, Reason};
use crate::disk::{exists, private_folder};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Coverage, Outcome, ProjectReport, Step};
use crate::plan::{Baseline, Drift, Problem, Request};
use crate::project::ProjectId;
use crate::schema::bookkeeping::{DIESEL, HISTORY};
use crate::store::{Contents, CopyFile, Discovery, LeftOut, Mode, Old, Others, Session};
use crate::tend::check;

/// What is done with a project's backups.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    Prune(Keep),
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
    pub others: Others,
}

/// Which backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The newest.
    Newest,
    /// The newest that was taken by then.
    At(Moment),
    /// One by its name, or the newest with this label.
    Named(String),
}

/// What a backup has to be besides what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Sound, and as the set's rules have it.
    Full,
    /// Nothing: what was not sound then is wanted back all the same.
    AsItWas,
}

/// How old the leftovers of killed backups are before they are removed: what is younger may still be written.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

impl BackupTask {
    /// Whether migrations are run, so that it has to be known where they lead.
    pub(super) fn needs_reference(&self) -> bool {
        matches!(self, Self::Check { level: 3.., .. } | Self::Restore(_))
    }
}

impl Sample {
    fn has(self, project: &ProjectId) -> bool {
        // FNV-1a: any hash does that never changes.
        let hash = project.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash % self.of.max(1) == self.part - 1
    }
}

impl Manager {
    pub(super) fn archive(&self) -> Result<&Archive> {
        self.archive.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "no place for backups is known")
                .hint("name one: [backup] dir in tenantry.toml, or --backup-dir; in an application: Manager::with_archive")
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
                left_out: vec![LeftOut { name: self.store.location(), reason: error.summary() }],
            },
            (Err(error), _) => return Err(error),
        };
        if !matches!(task, BackupTask::Take { .. }) {
            found.projects.extend(self.archive()?.projects()?);
            found.projects.sort();
            found.projects.dedup();
        }
        found.projects.retain(|id| run.selection.has(id));
        if let BackupTask::Check { sample: Some(sample), .. } = task {
            found.projects.retain(|id| sample.has(id));
        }
        Ok(found)
    }

    pub(super) fn with_backups_of(
        &self,
        project: &ProjectId,
        task: &BackupTask,
        dry_run: bool,
        run: &str,
    ) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Planned);
        let result = match task {
            BackupTask::Take { .. } if dry_run => self.inspected(project).map(|_| Outcome::Planned),
            BackupTask::Take { label } => {
                self.take(project, label.as_deref(), Reason::Asked, run).map(|backup| {
                    report.backup = Some(backup.name);
                    Outcome::BackedUp
                })
            }
            BackupTask::Check { level, names, .. } => {
                self.checked_backup(project, *level, names.get(project), run, &mut report)
            }
            BackupTask::Restore(restore) => self.restored(project, restore, dry_run, run, &mut report),
            BackupTask::Prune(keep) => self.pruned(project, keep, dry_run, &mut report),
        };
        report.outcome = result.unwrap_or_else(|error| Outcome::Failed(error.in_project(project)));
        report
    }

    fn note<'a>(&self, location: &'a str, label: Option<&'a str>, reason: Reason, run: &'a str) -> Note<'a> {
        let _ = self;
        Note { label, reason, run, store: location }
    }

    pub(super) fn take(
        &self,
        project: &ProjectId,
        label: Option<&str>,
        reason: Reason,
        run: &str,
    ) -> Result<Backup> {
        let location = self.store.location();
        let note = self.note(&location, label, reason, run);
        self.retry(|| self.archive()?.take(project, note, |file| self.store.copy(project, file)))
    }

    fn checked_backup(
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
        match self.prove(&backup, level, run, Strictness::Full, &mut report.steps) {
            Ok(()) => archive.mark_verified(&backup, level)?,
            // Whatever it was once, it is not now.
            Err(error) if error.kind() == ErrorKind::CheckFailed => {
                archive.unmark(&backup.name)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Ok(Outcome::Verified)
    }

    /// Checks a backup up to a level.
    pub(super) fn prove(
        &self,
        backup: &Backup,
        level: u8,
        run: &str,
        strictness: Strictness,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        self.archive()?.unpack(backup, &file)?;
        let manifest = &backup.manifest;
        let steps = RefCell::new(steps);
        let step = |level: u8, found: String| steps.borrow_mut().push(Step { level, found });
        step(1, format!("its file has {} bytes and the SHA-256 that it had", manifest.file.size));
        if level < 2 {
            return Ok(());
        }
        let broken = |error: Error| {
            error
                .at(&backup.name, None)
                .hint("trust another backup of this project; see which: tenantry backup list ID")
        };
        self.store.unpack(copy_file(manifest, &file), &mut |session| {
            self.prove_restored(session, manifest, level, run, strictness, &step).map_err(broken)
        })
    }

    fn prove_restored(
        &self,
        session: &mut dyn Session,
        manifest: &Manifest,
        level: u8,
        run: &str,
        strictness: Strictness,
        step: &dyn Fn(u8, String),
    ) -> Result<()> {
        session.begin(UNPLANNED)?;
        match require_sound(session) {
            Err(error) if strictness == Strictness::AsItWas => {
                step(2, format!("restored; {}", error.message()));
            }
            other => {
                other?;
                step(2, "restored; integrity and foreign keys hold".into());
            }
        }
        if level >= 3 {
            let inspection = session.inspect()?;
            let found = inspection.schema.fingerprint().to_string();
            if found != manifest.schema {
                let message = format!("its restored schema is {found}, and was {}", manifest.schema);
                return Err(Error::new(ErrorKind::CheckFailed, message));
            }
            require_same(&session.contents()?, manifest)?;
            let rows: u64 = manifest.tables.values().map(|table| table.rows).sum();
            step(
                3,
                format!(
                    "schema {:.12}, {} table(s) and {rows} row(s) as they were",
                    found,
                    manifest.tables.len()
                ),
            );
            let request = self.to_head();
            let work = Work { catalog: &self.catalog, reference: self.reference()?, request, run };
            match work.plan(&inspection) {
                Ok(plan) if plan.from == plan.to && strictness == Strictness::Full => {
                    step(3, self.require_rules_hold(session)?);
                }
                _ if strictness == Strictness::AsItWas => {}
                _ => step(3, "the set's rules are those of its newest version, where it is not".into()),
            }
            session.rollback()?;
            if level >= 4 {
                step(4, self.prove_upgrade(session, &work)?);
            }
        }
        session.rollback()
    }

    fn prove_upgrade(&self, session: &mut dyn Session, work: &Work<'_>) -> Result<String> {
        let plan = match work.perform(session, UNPLANNED)? {
            Ok(plan) => plan,
            Err(problems) => {
                let said: Vec<_> = problems.iter().map(Problem::message).collect();
                return Err(Error::new(
                    ErrorKind::CheckFailed,
                    format!("its restored copy can't be upgraded: {}", said.join("; ")),
                ));
            }
        };
        // What nothing was done to was looked at already.
        if plan.is_empty() {
            return Ok(format!("it is at {}, the newest version", self.catalog.version_at(plan.to)));
        }
        session.begin(UNPLANNED)?;
        require_sound(session)?;
        let rules = self.require_rules_hold(session)?;
        session.rollback()?;
        let (from, to) = (self.catalog.version_at(plan.from), self.catalog.version_at(plan.to));
        Ok(format!("upgraded from {from} to {to}; integrity and foreign keys hold, {rules}"))
    }

    fn require_rules_hold(&self, session: &mut dyn Session) -> Result<String> {
        for rule in &self.rules.checks {
            if let Some(wrong) = check(session, rule)? {
                return Err(Error::new(ErrorKind::CheckFailed, wrong));
            }
        }
        Ok(format!("{} rule(s) of the set hold", self.rules.checks.len()))
    }

    pub(super) fn to_head(&self) -> Request {
        Request::Upgrade { to: self.catalog.head(), baseline: Baseline::Stamp, drift: Drift::Refuse }
    }

    fn restored(
        &self,
        project: &ProjectId,
        restore: &Restore,
        dry_run: bool,
        run: &str,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let backup = self.find(project, &restore.source)?;
        report.backup = Some(backup.name.clone());
        let target = restore.target.as_ref().unwrap_or(project);
        self.store.check(target)?;
        report.notes.push(format!(
            "{} was taken at {}, {}",
            backup.name, backup.manifest.taken_at, backup.manifest.reason
        ));
        if dry_run {
            // Only what changes nothing at all.
            self.prove(&backup, 1, run, Strictness::Full, &mut report.steps)?;
            report.notes.push(match self.inspected(target) {
                Err(error) if error.kind() == ErrorKind::NotFound => format!("would make {target}"),
                _ if restore.target.is_some() => return Err(exists().in_project(target)),
                _ => format!("would take the place of {target}, after a backup of that"),
            });
            return Ok(Outcome::Planned);
        }
        let strictness =
            if restore.others == Others::Ignore { Strictness::AsItWas } else { Strictness::Full };
        self.prove(&backup, 3, run, strictness, &mut report.steps).map_err(|error| {
            error.hint("trust another backup of this project (tenantry backup list ID); one that is only not sound is \
                        restored as it was by --force")
        })?;
        if strictness == Strictness::Full {
            self.archive()?.mark_verified(&backup, 3)?;
        }
        self.put_back(target, &backup, restore, run, report, &|_| Ok(()))?;
        Ok(Outcome::Restored)
    }

    /// Puts a backup in a project's place, or makes the project of it where there is none. `may` sees what the project is at
    /// that moment, when nobody else can change it any more.
    pub(super) fn put_back(
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
        let copy = copy_file(&backup.manifest, &file);
        if restore.target.is_some() {
            return self.store.install(target, copy);
        }
        self.pools.forget(target);
        let mut held = match self.store.hold(target, restore.others) {
            Ok(held) => held,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.store.install(target, copy),
            Err(error) => return Err(error),
        };
        let location = self.store.location();
        let note = self.note(&location, None, Reason::BeforeRestore, run);
        let old = match self.archive()?.take(target, note, |file| held.copy(file)) {
            Ok(undo) => {
                may(&undo.manifest)?;
                report
                    .notes
                    .push(format!("to undo it: tenantry backup restore {target} --from {}", undo.name));
                Old::Gone
            }
            // What can't be read any more is set aside instead.
            Err(error) if restore.others == Others::Ignore && is_past_reading(&error) => Old::Aside,
            Err(error) => return Err(error.hint("--force sets aside what can't be read any more")),
        };
        report.notes.extend(held.replace(copy, old)?);
        Ok(())
    }

    fn find(&self, project: &ProjectId, source: &Source) -> Result<Backup> {
        let archive = self.archive()?;
        match source {
            Source::Newest => archive.newest(project, None)?.ok_or_else(no_backup),
            Source::At(moment) => archive.newest(project, Some(*moment))?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("it has no backup from before {moment}"))
                    .hint("see which it has: tenantry backup list ID")
            }),
            Source::Named(name) if name.contains('/') => {
                let backup = archive.get(name)?;
                if backup.manifest.project == *project {
                    return Ok(backup);
                }
                let other = &backup.manifest.project;
                Err(Error::new(ErrorKind::Usage, format!("{name} is a backup of {other}")).hint(format!(
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
                    .hint("see which it has: tenantry backup list ID")
                })
            }
        }
    }

    fn pruned(
        &self,
        project: &ProjectId,
        keep: &Keep,
        dry_run: bool,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let archive = self.archive()?;
        let (backups, broken) = archive.all(project)?;
        let left = |error: &Error| format!("left for whoever looks into it: {}", error.summary());
        report.notes.extend(broken.iter().map(left));
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
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
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

    /// Changes a project, after a backup where one is wanted; and puts it back where it was changed in part.
    pub(super) fn performed_safely(
        &self,
        work: &Work<'_>,
        project: &ProjectId,
        mode: Mode,
        safety: Safety,
    ) -> ProjectReport {
        if safety == Safety::None {
            return self.performed(work, project, mode);
        }
        let mut steps = Vec::new();
        let taken = self.take(project, None, Reason::BeforeUpgrade, work.run).and_then(|backup| {
            if safety == Safety::CheckedBackup {
                self.prove(&backup, 3, work.run, Strictness::Full, &mut steps)?;
                self.archive()?.mark_verified(&backup, 3)?;
            }
            Ok(backup)
        });
        let backup = match taken {
            Ok(backup) => backup,
            Err(error) => return ProjectReport { steps, ..failed(project, error) },
        };
        let mut report = self.performed(work, project, mode);
        // Only what this run itself did is undone: what it could not even begin was another's.
        let is_ours = matches!(&report.outcome, Outcome::Failed(error) if error.kind() != ErrorKind::Locked);
        if is_ours && let Err(error) = self.undo_in_part(work, project, &backup, &mut report) {
            report.notes.push(format!(
                "it is left as it is ({}); to put it back by hand: tenantry backup restore {project} --from {}",
                error.summary(),
                backup.name
            ));
        }
        ProjectReport { backup: Some(backup.name), steps, ..report }
    }

    /// Only what ran outside a transaction can have left a project between two versions.
    fn undo_in_part(
        &self,
        work: &Work<'_>,
        project: &ProjectId,
        backup: &Backup,
        report: &mut ProjectReport,
    ) -> Result<()> {
        let begun = self.versions_of_run(project, work.run)?;
        if begun.is_empty() {
            return Ok(());
        }
        let scripts: Vec<String> = self
            .catalog
            .migrations()
            .iter()
            .filter(|migration| begun.iter().any(|version| version == migration.version.as_str()))
            .map(|migration| migration.up.text().to_lowercase())
            .collect();
        let may = |now: &Manifest| {
            let is_migrations =
                |name: &str| scripts.iter().any(|script| script.contains(&name.to_lowercase()));
            let was =
                backup.manifest.tables.iter().filter(|(name, _)| !is_books(name) && !is_migrations(name));
            match was.into_iter().find(|(name, was)| now.tables.get(*name) != Some(was)) {
                None => Ok(()),
                Some((name, _)) => Err(Error::new(
                    ErrorKind::Blocked,
                    format!("somebody wrote into {name} since the backup was taken, which would be lost"),
                )),
            }
        };
        let restore = Restore { source: Source::Newest, target: None, others: Others::Refuse };
        self.put_back(project, backup, &restore, work.run, report, &may)?;
        report.notes.push(format!("put back to what it was, from {}", backup.name));
        Ok(())
    }

    pub(super) fn dropped(&self, project: &ProjectId, copy: FinalCopy, run: &str) -> ProjectReport {
        self.pools.forget(project);
        let location = self.store.location();
        let drop = || {
            let mut held = self.store.hold(project, Others::Refuse)?;
            let backup = match copy {
                FinalCopy::Keep => {
                    let note = self.note(&location, None, Reason::BeforeDrop, run);
                    Some(self.archive()?.take(project, note, |file| held.copy(file))?)
                }
                FinalCopy::None => None,
            };
            held.remove()?;
            Ok(backup)
        };
        match self.retry(drop) {
            Ok(backup) => ProjectReport {
                notes: backup
                    .iter()
                    .map(|backup| {
                        format!("to have it back: tenantry backup restore {project} --from {}", backup.name)
                    })
                    .collect(),
                backup: backup.map(|backup| backup.name),
                ..ProjectReport::new(project.clone(), Outcome::Dropped)
            },
            Err(error) => failed(project, error),
        }
    }
}

/// Whether a table is a ledger's, which every run writes.
fn is_books(table: &str) -> bool {
    [DIESEL, HISTORY].contains(&table)
}

fn is_past_reading(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotADatabase | ErrorKind::Corrupt | ErrorKind::Database)
}

fn no_backup() -> Error {
    Error::new(ErrorKind::NotFound, "it has no backup").hint("take one: tenantry backup create ID")
}

fn copy_file<'a>(manifest: &'a Manifest, file: &'a Path) -> CopyFile<'a> {
    CopyFile { file, place: &manifest.place, needs: &manifest.needs }
}

pub(super) fn require_sound(session: &mut dyn Session) -> Result<()> {
    let damage = session.damage()?;
    if damage.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::CheckFailed, format!("its restored copy is damaged: {}", damage.join("; "))))
}

fn require_same(found: &Contents, manifest: &Manifest) -> Result<()> {
    let differs = |what: String| Err(Error::new(ErrorKind::CheckFailed, what));
    for (name, was) in &manifest.tables {
        match found.tables.get(name) {
            None => return differs(format!("its restored copy has no table {name}")),
            Some(is) if is.rows != was.rows => {
                return differs(format!(
                    "its restored table {name} has {} row(s), and had {}",
                    is.rows, was.rows
                ));
            }
            Some(is) if is.hash != was.hash => {
                return differs(format!("the rows of its restored table {name} are not those that it had"));
            }
            Some(_) => {}
        }
    }
    if let Some(extra) = found.tables.keys().find(|name| !manifest.tables.contains_key(*name)) {
        return differs(format!("its restored copy has a table {extra} that it had not"));
    }
    if found.marks != manifest.marks {
        return differs(format!(
            "its restored copy says {:?} of itself, and said {:?}",
            found.marks, manifest.marks
        ));
    }
    Ok(())
}
