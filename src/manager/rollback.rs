//! Undoes a run: moves the projects that it changed back to their former versions.
//!
//! Uses `down.sql` if that loses no data, otherwise the backup that the run took. The report says if changes are lost.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;

use serde::Deserialize as _;

use super::Manager;
use super::command::{Restore, Rollback, Source};
use super::reporting::{blocked, lock};
use super::verification::{Strictness, VerifyOptions};
use crate::apply::{DropTables, Executor, Preflight};
use crate::backup::{Backup, Reason};
use crate::catalog::{Migration, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport, VersionChange};
use crate::ledger::Action;
use crate::plan::{DowngradeTarget, IfDrifted, Request};
use crate::project::ProjectId;
use crate::sql::effect::Effect;
use crate::sql::quote_name;
use crate::sql::statement::TableChange;

/// Reads a version change from an event of a run.
fn parse_version_change(event: &serde_json::Value) -> Result<VersionChange> {
    VersionChange::deserialize(event).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "an event of the run is not in tenantry's format").caused_by(error)
    })
}

/// Adds what a run did to a project. A run that was resumed can have changed it twice: it began where the first change did.
fn add_change(moved: &mut BTreeMap<ProjectId, VersionChange>, project: ProjectId, change: VersionChange) {
    match moved.entry(project) {
        Entry::Vacant(entry) => drop(entry.insert(change)),
        Entry::Occupied(mut entry) => entry.get_mut().to = change.to,
    }
}

/// How to move a project back.
enum RollbackMethod {
    DownScripts,
    Backup(Box<Backup>),
}

impl Manager {
    /// Reads from the journal, and from the ledgers of failed projects, what a run changed. Undo it with
    /// [`Operation::RollBack`](super::Operation::RollBack).
    ///
    /// Fails with [`ErrorKind::NotFound`] if the run does not exist, with [`ErrorKind::Locked`] if it has not ended,
    /// and with [`ErrorKind::Usage`] if it changed no version or belongs to another fleet.
    pub fn changes_of_run(&self, run_id: &str) -> Result<Rollback> {
        let Rollback { run, moved, unreadable } = self.read_changes(run_id)?;
        if moved.is_empty() && unreadable.is_empty() {
            let message = "the run changed no project's version";
            let hint =
                format!("see what it did, and how to restore what it replaced: tenantry runs show {run_id}");
            return Err(Error::new(ErrorKind::Usage, message).with_hint(hint));
        }
        Ok(Rollback { run, moved, unreadable })
    }

    /// Reads what a run changed, which may be nothing.
    pub(super) fn read_changes(&self, run_id: &str) -> Result<Rollback> {
        let journal = self.required_journal()?;
        let events = journal.events(run_id)?;
        self.require_this_fleet(run_id, &events)?;
        if journal.is_open(run_id)? {
            return Err(Error::new(ErrorKind::Locked, format!("the run {run_id} has not ended")).with_hint(
                "wait for its end; if it was killed, run its command again first, to complete the journal",
            ));
        }
        let (mut moved, mut unreadable) = (BTreeMap::new(), Vec::new());
        for event in &events {
            // What a killed run changed without recording it, as completed from the ledgers.
            for (project, change) in event.0["moved"].as_object().into_iter().flatten() {
                add_change(&mut moved, self.resolve(&project.parse()?)?, parse_version_change(change)?);
            }
            let Some(project) =
                event.0["project"].as_str().filter(|_| event.0["event"] == "project_finished")
            else {
                continue;
            };
            let project = self.resolve(&project.parse()?)?;
            match event.0["outcome"].as_str() {
                // A project that was repaired in part is still drifted.
                Some("drifted") if event.0["sql"].is_null() => {}
                Some("upgraded" | "stamped" | "adopted" | "downgraded" | "repaired" | "drifted") => {
                    add_change(&mut moved, project, parse_version_change(&event.0)?);
                }
                // The event does not say what was committed before the failure. The ledger does.
                Some("failed") => match self.version_change_in_run(&project, run_id) {
                    Ok(Some(change)) => add_change(&mut moved, project, change),
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    // The rollback reports it as failed, and rolls back the others.
                    Err(_) => unreadable.push(project),
                },
                _ => {}
            }
        }
        unreadable.retain(|project| !moved.contains_key(project));
        Ok(Rollback { run: run_id.into(), moved, unreadable })
    }

    pub(super) fn roll_back_project(
        &self,
        project: &ProjectId,
        rollback: &Rollback,
        dry_run: bool,
        run_id: &str,
    ) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Planned);
        let moved = match rollback.moved.get(project) {
            Some(moved) => Ok(Some(moved.clone())),
            // Its ledger may be readable by now.
            None if rollback.unreadable.contains(project) => {
                self.version_change_in_run(project, &rollback.run)
            }
            None => Err(Error::new(ErrorKind::Internal, "the rollback does not know what the run did to it")),
        };
        let result = moved.and_then(|moved| match moved {
            Some(moved) => self.roll_back(project, &rollback.run, &moved, dry_run, run_id, &mut report),
            None => Ok(Outcome::UpToDate),
        });
        report.outcome = result.unwrap_or_else(|error| Outcome::Failed(error.in_project(project)));
        report
    }

    fn roll_back(
        &self,
        project: &ProjectId,
        undone_run: &str,
        moved: &VersionChange,
        dry_run: bool,
        run_id: &str,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let now = self.newest_version(project)?;
        let version = now.clone().unwrap_or_else(|| self.catalog.version_at(0).as_str().into());
        let history = self.history(project)?;
        let is_fixed = |action: Action| matches!(action, Action::Repeat | Action::Repair);
        let repeated = history.iter().find(|row| row.run == undone_run && is_fixed(row.action));
        let is_back = now == moved.from || (moved.from.as_deref() == Some(&version) && moved.to != version);
        if is_back && repeated.is_none() {
            return Ok(Outcome::UpToDate);
        }
        let is_changed_since = history.last().is_some_and(|row| row.run != undone_run);
        if version != moved.to || is_changed_since {
            return Err(Error::new(
                ErrorKind::VersionMismatch,
                format!(
                    "another run changed it since: the run left it at {}, and it is at {version}",
                    moved.to
                ),
            )
            .with_hint("roll back the later run first; list the runs: tenantry runs list"));
        }
        let repeated = repeated.map(|row| match row.action {
            Action::Repair => "it repaired the schema".to_string(),
            _ => format!("it ran {}, which no down.sql reverts", row.version),
        });
        let method = self.rollback_method(project, undone_run, moved, repeated)?;
        report.from = Some(Version::new(version.as_str()));
        report.to = moved.from.as_deref().map(Version::new);
        if let RollbackMethod::DownScripts = method {
            let (from, to) = self.positions(moved)?;
            let reverted = self.catalog.between(from..to).iter().rev();
            report.migrations = reverted.map(|migration| migration.version.clone()).collect();
            report.goes_down = true;
        }
        report.notes.push(match &method {
            RollbackMethod::DownScripts => "by down.sql, which loses no data".into(),
            RollbackMethod::Backup(backup) => format!("from {}: changes since then are lost", backup.name),
        });
        if dry_run {
            return Ok(Outcome::Planned);
        }
        let outcome = match method {
            RollbackMethod::DownScripts => {
                let current = self.take_backup(project, None, Reason::BeforeRollback, run_id)?;
                report
                    .notes
                    .push(format!("to undo it: tenantry backup restore {project} --from {}", current.name));
                report.backup = Some(current.name);
                self.run_down_scripts(project, moved, run_id)?
            }
            RollbackMethod::Backup(backup) => {
                report.backup = Some(backup.name.clone());
                let options = VerifyOptions { level: 3, strictness: Strictness::Lenient, run_id };
                self.verify_backup(&backup, options, &mut report.steps)?;
                let restore = Restore::new(Source::Newest);
                self.restore_in_place(project, &backup, &restore, run_id, report, &|_| Ok(()))?;
                Outcome::Restored
            }
        };
        let now = self.newest_version(project)?;
        if now != moved.from {
            return Err(Error::new(
                ErrorKind::VersionMismatch,
                format!("after the rollback it is at {now:?}, not at {:?}", moved.from),
            ));
        }
        Ok(outcome)
    }

    /// The newest version in a project's ledger.
    fn newest_version(&self, project: &ProjectId) -> Result<Option<String>> {
        let ledger = self.inspect(project)?.ledger;
        let newest =
            self.catalog.migrations().iter().rev().map(|it| &it.version).find(|it| ledger.is_applied(it));
        Ok(newest.map(|version| version.as_str().to_string()))
    }

    /// The positions before and after a version change.
    fn positions(&self, moved: &VersionChange) -> Result<(usize, usize)> {
        let position = |version: &str| self.catalog.resolve(version);
        Ok((moved.from.as_deref().map_or(Ok(0), position)?, position(&moved.to)?))
    }

    fn rollback_method(
        &self,
        project: &ProjectId,
        undone_run: &str,
        moved: &VersionChange,
        repeated: Option<String>,
    ) -> Result<RollbackMethod> {
        let (from, to) = self.positions(moved)?;
        // No down.sql removes the ledger of a project that had none, or reapplies the migrations that a run reverted.
        let obstacle = if moved.from.is_none() {
            Some("it had no ledger before".to_string())
        } else if from > to {
            Some("the run was a downgrade".to_string())
        } else if let Some(repeated) = repeated {
            Some(repeated)
        } else {
            let migrations: Vec<&Migration> = self.catalog.between(from..to).iter().collect();
            migrations
                .into_iter()
                .rev()
                .find_map(|migration| self.data_loss_by_down_script(project, migration).transpose())
                .transpose()?
        };
        let Some(obstacle) = obstacle else { return Ok(RollbackMethod::DownScripts) };
        let (backups, _) = self.archive()?.all(project)?;
        // A run that was resumed has a backup for each of its parts. The newest one of the version before is the one that
        // has all rows.
        let backup = backups.into_iter().rev().find(|it| {
            let reason = it.manifest.reason;
            let versions = self.catalog.migrations().iter().rev().map(|migration| migration.version.as_str());
            let version = versions.into_iter().find(|version| it.manifest.ledger.contains_key(*version));
            it.manifest.run == undone_run
                && version == moved.from.as_deref()
                && matches!(reason, Reason::BeforeUpgrade | Reason::BeforeRepair | Reason::BeforeRollback)
        });
        backup.map(|backup| RollbackMethod::Backup(Box::new(backup))).ok_or_else(|| {
            let hint = if moved.from.is_none() {
                "restore an older backup: tenantry backup list ID"
            } else {
                "to revert its migrations even so, which can lose data: tenantry downgrade ID --to VERSION; or restore \
                 an older backup: tenantry backup list ID"
            };
            Error::new(ErrorKind::Blocked, format!("{obstacle}, and the run took no backup")).with_hint(hint)
        })
    }

    /// The reason why a migration's `down.sql` may lose data, or `None` if it cannot.
    fn data_loss_by_down_script(&self, project: &ProjectId, migration: &Migration) -> Result<Option<String>> {
        let label = migration.label();
        let Some(down) = &migration.down else { return Ok(Some(format!("{label} has no down.sql"))) };
        for statement in down.statements() {
            let words: Vec<String> =
                statement.sql.split_whitespace().take(2).map(str::to_ascii_uppercase).collect();
            let is_harmless = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["CREATE", ..] => statement.effect == Effect::Defines,
                ["DROP", "INDEX" | "VIEW" | "TRIGGER" | "TABLE"] | ["COMMENT" | "ANALYZE", ..] => true,
                _ => false,
            };
            let cascades = statement.sql.to_ascii_uppercase().contains("CASCADE");
            if !is_harmless || cascades {
                return Ok(Some(format!(
                    "{label}'s down.sql does more than drop indexes, views, triggers and empty tables"
                )));
            }
            for change in &statement.table_changes {
                let TableChange::Dropped(table) = change else { continue };
                // Without a transaction, others could write into the table before it is dropped.
                if !down.is_transactional() {
                    return Ok(Some(format!("{label}'s down.sql drops {table} outside a transaction")));
                }
                if self.has_rows(project, table)? {
                    return Ok(Some(format!("{label}'s down.sql drops {table}, which has rows")));
                }
            }
        }
        Ok(None)
    }

    fn has_rows(&self, project: &ProjectId, table: &str) -> Result<bool> {
        let has_rows = Mutex::new(false);
        self.store.read(project, &|rows| {
            let mut found = false;
            if !rows.columns(table)?.is_empty() {
                rows.for_each_row(&["1".into()], &quote_name(table), &mut |_| {
                    found = true;
                    Ok(false)
                })?;
            }
            *lock(&has_rows) = found;
            Ok(())
        })?;
        Ok(*lock(&has_rows))
    }

    fn run_down_scripts(&self, project: &ProjectId, moved: &VersionChange, run_id: &str) -> Result<Outcome> {
        let (from, _) = self.positions(moved)?;
        let request =
            Request::Downgrade { target: DowngradeTarget::Position(from), drift: IfDrifted::Refuse };
        let executor = Executor { drops: DropTables::OnlyEmpty, ..self.executor_for(request, run_id)? };
        match self.execute(&executor, project, &Preflight::UNPLANNED).outcome {
            Outcome::Failed(error) => Err(error),
            Outcome::Blocked(problems) => Err(blocked(project, &problems)),
            outcome => Ok(outcome),
        }
    }
}
