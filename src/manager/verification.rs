//! Backups proven: restored into a private database, compared with their manifests, upgraded.
//!
//! It must not say of a level that it holds before it was run.

use std::cell::RefCell;
use std::path::Path;

use super::Manager;
use super::maintenance::not_checked;
use crate::apply::{Executor, Preflight, Progress};
use crate::backup::{Backup, Manifest};
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Step;
use crate::maintenance::check;
use crate::plan::Problem;
use crate::schema::Fingerprint;
use crate::store::{Contents, Session, SnapshotFile};

/// How far a backup is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct VerifyOptions<'a> {
    /// 1 to 4: see [`BackupTask::Check`](super::BackupTask).
    pub(super) level: u8,
    pub(super) strictness: Strictness,
    /// The run that checks it.
    pub(super) run: &'a str,
}

/// What a backup has to be besides what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Sound, and as the set's rules have it.
    Strict,
    /// Nothing: what was not sound then is wanted back all the same.
    Lenient,
}

impl Manager {
    /// Checks a backup up to a level.
    pub(super) fn verify_backup(
        &self,
        backup: &Backup,
        proof: VerifyOptions<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        self.archive()?.unpack(backup, &file)?;
        let manifest = &backup.manifest;
        let steps = RefCell::new(steps);
        let step = |level: u8, found: String| steps.borrow_mut().push(Step { level, found });
        step(1, format!("its file has {} bytes and the SHA-256 that it had", manifest.file.size));
        if proof.level < 2 {
            return Ok(());
        }
        let broken = |error: Error| {
            let error = error.at(&backup.name, None);
            // What is wrong with a migration is not the backup's fault, and says itself what to do.
            match error.hint_for_command() {
                Some(_) => error,
                None => error
                    .with_hint("trust another backup of this project; see which: tenantry backup list ID"),
            }
        };
        let begun = steps.borrow().len();
        self.store.restore_scratch(snapshot_file(manifest, &file), &mut |session| {
            // What a lost connection left half done is done again.
            steps.borrow_mut().truncate(begun);
            self.verify_restored(session, manifest, proof, &step).map_err(broken)
        })
    }

    fn verify_restored(
        &self,
        session: &mut dyn Session,
        manifest: &Manifest,
        proof: VerifyOptions<'_>,
        step: &dyn Fn(u8, String),
    ) -> Result<()> {
        let VerifyOptions { level, strictness, run } = proof;
        session.begin(Preflight::UNPLANNED.mode)?;
        match self.require_sound(session) {
            Err(error) if strictness == Strictness::Lenient => {
                step(2, format!("restored; {}", error.message()));
            }
            other => {
                let notes = other?;
                step(2, "restored; integrity and foreign keys hold".into());
                for note in notes {
                    step(2, note);
                }
            }
        }
        if level >= 3 {
            let inspection = session.inspect()?;
            let found = inspection.fingerprint()?;
            // Roles that are not here are granted nothing, which was said.
            if !Fingerprint::parse(&manifest.schema).is_some_and(|was| was.has_same_objects(&found)) {
                let message = format!("its restored schema is {found}, and was {}", manifest.schema);
                return Err(Error::new(ErrorKind::CheckFailed, message));
            }
            require_same_contents(&session.contents()?, manifest)?;
            let rows: u64 = manifest.tables.values().map(|table| table.rows).sum();
            step(
                3,
                format!(
                    "schema {:.12}, {} table(s) and {rows} row(s) as they were",
                    found.to_string(),
                    manifest.tables.len()
                ),
            );
            let request = self.to_head();
            let executor = self.executor(request, run)?;
            match executor.plan(&inspection) {
                Ok(plan) if plan.from == plan.to && strictness == Strictness::Strict => {
                    step(3, self.require_rules_hold(session)?);
                }
                _ if strictness == Strictness::Lenient => {}
                _ => step(3, "the set's rules are those of its newest version, where it is not".into()),
            }
            session.rollback()?;
            if level >= 4 {
                step(4, self.verify_upgrade(session, &executor)?);
            }
        }
        session.rollback()
    }

    fn verify_upgrade(&self, session: &mut dyn Session, executor: &Executor<'_>) -> Result<String> {
        let plan =
            match executor.perform(session, &Preflight::UNPLANNED, &mut Progress::new(executor.request))? {
                Ok(plan) => plan,
                Err(problems) => {
                    let said: Vec<_> = problems.iter().map(Problem::message).collect();
                    let message = format!("its restored copy can't be upgraded: {}", said.join("; "));
                    let hint = problems
                        .first()
                        .map_or_else(|| "look at the migrations".to_string(), Problem::hint_for_command);
                    return Err(Error::new(ErrorKind::CheckFailed, message).with_hint(hint));
                }
            };
        // What nothing was done to was looked at already.
        if plan.is_empty() {
            return Ok(format!("it is at {}, the newest version", self.catalog.version_at(plan.to)));
        }
        session.begin(Preflight::UNPLANNED.mode)?;
        self.require_sound(session)?;
        let rules = self.require_rules_hold(session)?;
        session.rollback()?;
        let (from, to) = (self.catalog.version_at(plan.from), self.catalog.version_at(plan.to));
        Ok(format!("upgraded from {from} to {to}; integrity and foreign keys hold, {rules}"))
    }

    /// Errors where a restored copy is damaged; gives what is to be said of one that is not.
    pub(super) fn require_sound(&self, session: &mut dyn Session) -> Result<Vec<String>> {
        let health = session.health()?;
        let (mut notes, mut damage) = (not_checked(&health), health.damage);
        if !health.unvalidated.is_empty() {
            let is_meant = self.are_left_unvalidated(&session.inspect()?)?;
            if is_meant { &mut notes } else { &mut damage }.extend(health.unvalidated);
        }
        if damage.is_empty() {
            return Ok(notes);
        }
        Err(Error::new(
            ErrorKind::CheckFailed,
            format!("its restored copy is damaged: {}", damage.join("; ")),
        ))
    }

    fn require_rules_hold(&self, session: &mut dyn Session) -> Result<String> {
        let checks = &self.rules()?.checks;
        for rule in checks {
            if let Some(wrong) = check(session, rule)? {
                return Err(Error::new(ErrorKind::CheckFailed, wrong));
            }
        }
        Ok(format!("{} rule(s) of the set hold", checks.len()))
    }
}

pub(super) fn snapshot_file<'a>(manifest: &'a Manifest, file: &'a Path) -> SnapshotFile<'a> {
    SnapshotFile { file, place: &manifest.place, needs: &manifest.needs, access: &manifest.access }
}

fn require_same_contents(found: &Contents, manifest: &Manifest) -> Result<()> {
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
    if found.properties != manifest.properties {
        return differs(format!(
            "its restored copy says {:?} of itself, and said {:?}",
            found.properties, manifest.properties
        ));
    }
    Ok(())
}
