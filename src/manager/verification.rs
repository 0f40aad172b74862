//! Verifies backups: restores them into a scratch database, compares them with their manifests, and upgrades them.

use std::cell::RefCell;
use std::path::Path;

use super::Manager;
use crate::apply::rules::check;
use crate::apply::{Executor, Preflight, Progress};
use crate::backup::{Backup, Manifest};
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::event::VerificationStep;
use crate::plan::State;
use crate::plan::{Inspection, Problem};
use crate::schema::Fingerprint;
use crate::store::{Contents, Health, Session, SnapshotFile};

/// How to verify a backup.
#[derive(Clone, Copy, Debug)]
pub(super) struct VerifyOptions<'a> {
    /// The level, 1 to 4: see [`BackupTask::Check`](super::BackupTask).
    pub(super) level: u8,
    pub(super) strictness: Strictness,
    /// The run that verifies it.
    pub(super) run_id: &'a str,
}

/// What to require besides equality with the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// The database's own checks and the set's rules pass.
    Strict,
    /// Nothing: a project that failed these checks when it was backed up is restored as it was.
    Lenient,
}

impl Manager {
    /// Verifies a backup up to a level. Adds a step for each verification that passed.
    pub(super) fn verify_backup(
        &self,
        backup: &Backup,
        options: VerifyOptions<'_>,
        steps: &mut Vec<VerificationStep>,
    ) -> Result<()> {
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        self.archive()?.unpack(backup, &file)?;
        let manifest = &backup.manifest;
        let steps = RefCell::new(steps);
        let step = |level: u8, found: String| steps.borrow_mut().push(VerificationStep { level, found });
        step(1, format!("its file has {} bytes and the recorded SHA-256", manifest.file.size));
        if options.level < 2 {
            return Ok(());
        }
        let in_backup = |error: Error| {
            let error = error.at(&backup.name, None);
            // An error that has a hint already, such as a migration's, is not the backup's fault.
            match error.hint_for_command() {
                Some(_) => error,
                None => {
                    error.with_hint("use another backup of this project; list them: tenantry backup list ID")
                }
            }
        };
        let steps_before = steps.borrow().len();
        self.store.restore_scratch(snapshot_file(manifest, &file), &mut |session| {
            // The store calls this again after a lost connection.
            steps.borrow_mut().truncate(steps_before);
            self.verify_restored(session, manifest, options, &step).map_err(in_backup)
        })
    }

    fn verify_restored(
        &self,
        session: &mut dyn Session,
        manifest: &Manifest,
        options: VerifyOptions<'_>,
        step: &dyn Fn(u8, String),
    ) -> Result<()> {
        let VerifyOptions { level, strictness, run_id } = options;
        session.begin(Preflight::UNPLANNED.mode)?;
        match self.require_healthy(session) {
            Err(error) if strictness == Strictness::Lenient => {
                step(2, format!("restored; {}", error.message()));
            }
            result => {
                let notes = result?;
                step(2, "restored; integrity and foreign keys verified".into());
                for note in notes {
                    step(2, note);
                }
            }
        }
        if level >= 3 {
            let inspection = session.inspect()?;
            let found = inspection.fingerprint()?;
            // Grants are not compared: roles that do not exist here were granted nothing.
            if !Fingerprint::parse(&manifest.schema).is_some_and(|recorded| recorded.has_same_objects(&found))
            {
                let message = format!("its restored schema is {found}, but was {}", manifest.schema);
                return Err(Error::new(ErrorKind::CheckFailed, message));
            }
            require_same_contents(&session.contents()?, manifest)?;
            let rows: u64 = manifest.tables.values().map(|table| table.rows).sum();
            step(
                3,
                format!(
                    "schema {:.12}, {} table(s) and {rows} row(s) match the manifest",
                    found.to_string(),
                    manifest.tables.len()
                ),
            );
            let request = self.upgrade_request();
            let executor = self.executor_for(request, run_id)?;
            match executor.plan(&inspection) {
                Ok(plan) if plan.from == plan.to && strictness == Strictness::Strict => {
                    step(3, self.require_rules_hold(session)?);
                }
                _ if strictness == Strictness::Lenient => {}
                _ => step(3, "checks of the set skipped: the backup is not at the newest version".into()),
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
            match executor.execute(session, &Preflight::UNPLANNED, &mut Progress::new(executor.request))? {
                Ok(plan) => plan,
                Err(problems) => {
                    let messages: Vec<_> = problems.iter().map(Problem::message).collect();
                    let message = format!("its restored copy cannot be upgraded: {}", messages.join("; "));
                    let hint = problems
                        .first()
                        .map_or_else(|| "check the migrations".to_string(), Problem::hint_for_command);
                    return Err(Error::new(ErrorKind::CheckFailed, message).with_hint(hint));
                }
            };
        // A copy that was not upgraded was verified at the lower levels.
        if plan.is_empty() {
            return Ok(format!("it is at {}, the newest version", self.catalog.version_at(plan.to)));
        }
        session.begin(Preflight::UNPLANNED.mode)?;
        self.require_healthy(session)?;
        let rules = self.require_rules_hold(session)?;
        session.rollback()?;
        let (from, to) = (self.catalog.version_at(plan.from), self.catalog.version_at(plan.to));
        Ok(format!("upgraded from {from} to {to}; integrity and foreign keys verified, {rules}"))
    }

    /// Runs the database's own checks on a restored copy. Fails if it is damaged; otherwise returns notes about it.
    pub(super) fn require_healthy(&self, session: &mut dyn Session) -> Result<Vec<String>> {
        let health = session.health()?;
        let (mut notes, mut errors) = (unchecked_notes(&health), health.errors);
        if !health.unvalidated.is_empty() {
            let is_expected = self.expects_unvalidated(&session.inspect()?)?;
            if is_expected { &mut notes } else { &mut errors }.extend(health.unvalidated);
        }
        if errors.is_empty() {
            return Ok(notes);
        }
        Err(Error::new(
            ErrorKind::CheckFailed,
            format!("its restored copy is damaged: {}", errors.join("; ")),
        ))
    }

    /// Whether the migrations themselves leave every constraint unvalidated that is unvalidated in this project.
    pub(super) fn expects_unvalidated(&self, inspection: &Inspection) -> Result<bool> {
        let Some(schema) = &inspection.schema else { return Ok(false) };
        let position =
            self.catalog.migrations().iter().filter(|it| inspection.ledger.is_applied(&it.version)).count();
        let pending = inspection.ledger.pending_repeatables(&self.catalog);
        let is_complete = position == self.catalog.head() && pending.is_empty();
        let expected = self.reference()?.expected(State { position, is_complete })?;
        Ok(expected.is_some_and(|expected| schema.unvalidated().is_subset(&expected.unvalidated())))
    }

    fn require_rules_hold(&self, session: &mut dyn Session) -> Result<String> {
        let checks = &self.rules()?.checks;
        for rule in checks {
            if let Some(failure) = check(session, rule)? {
                return Err(Error::new(ErrorKind::CheckFailed, failure));
            }
        }
        Ok(match checks.len() {
            0 => "the set defines no checks".to_string(),
            count => format!("{count} check(s) of the set pass"),
        })
    }
}

pub(super) fn snapshot_file<'a>(manifest: &'a Manifest, file: &'a Path) -> SnapshotFile<'a> {
    SnapshotFile { file, place: &manifest.place, needs: &manifest.needs, access: &manifest.access }
}

fn require_same_contents(found: &Contents, manifest: &Manifest) -> Result<()> {
    let differs = |what: String| Err(Error::new(ErrorKind::CheckFailed, what));
    for (name, recorded) in &manifest.tables {
        match found.tables.get(name) {
            None => return differs(format!("its restored copy has no table {name}")),
            Some(table) if table.rows != recorded.rows => {
                return differs(format!(
                    "its restored table {name} has {} row(s), but had {}",
                    table.rows, recorded.rows
                ));
            }
            Some(table) if table.hash != recorded.hash => {
                return differs(format!(
                    "its restored table {name} has different rows than when it was backed up"
                ));
            }
            Some(_) => {}
        }
    }
    if let Some(extra) = found.tables.keys().find(|name| !manifest.tables.contains_key(*name)) {
        return differs(format!("its restored copy has an unexpected table {extra}"));
    }
    if found.properties != manifest.properties {
        return differs(format!(
            "its restored copy has the properties {:?}, but had {:?}",
            found.properties, manifest.properties
        ));
    }
    Ok(())
}

/// Notes about what could not be checked.
pub(super) fn unchecked_notes(health: &Health) -> Vec<String> {
    health.unchecked.iter().map(|what| format!("not checked: {what}")).collect()
}
