//! A run undone: the projects that it moved, and no others, go back to where they were.
//!
//! It must not lose what was written since without saying so: `down.sql` is taken where it can't, and a backup that the run
//! itself took otherwise.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Deserialize as _;

use super::Manager;
use super::backup::{Restore, Source};
use super::run::lock;
use super::verification::{Strictness, VerifyOptions};
use crate::apply::{DropTables, Executor, Preflight};
use crate::backup::{Backup, Reason};
use crate::catalog::Migration;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport, VersionChange};
use crate::plan::{DowngradeTo, Drift, Request};
use crate::project::ProjectId;
use crate::sql::effect::Effect;
use crate::sql::quote_name;
use crate::sql::statement::TableChange;
use crate::store::IfInUse;

/// A run that is to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The run.
    pub run: String,
    /// The projects that it moved.
    pub moved: BTreeMap<ProjectId, VersionChange>,
}

/// A place as an event has it.
fn parse_moved(event: &serde_json::Value) -> Result<VersionChange> {
    VersionChange::deserialize(event).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "an event of the run is not as tenantry writes it").caused_by(error)
    })
}

/// How a project goes back.
enum RollbackMethod {
    DownScripts,
    Backup(Box<Backup>),
}

impl Manager {
    /// What a run did, by the journal. Errors where there is no such run, or it still goes on.
    pub fn rollback_of(&self, run: &str) -> Result<Rollback> {
        let journal = self.journal.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "no journal is kept")
                .with_hint("name one: [journal] dir in tenantry.toml")
        })?;
        let events = journal.events(run)?;
        if let Some(other) = self.other_fleet(&events) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the run {run} was about another fleet: {other}"),
            )
            .with_hint("give the same --store and --pattern as that run had"));
        }
        if journal.is_open(run) {
            return Err(Error::new(ErrorKind::Locked, format!("the run {run} has not ended")).with_hint(
                "wait for it; if it was killed, run its command again first, which completes the journal from the ledgers",
            ));
        }
        let mut moved = BTreeMap::new();
        for event in events.iter().filter(|event| event.0["event"] == "project_finished") {
            let Some(project) = event.0["project"].as_str() else { continue };
            let project: ProjectId = project.parse()?;
            match event.0["outcome"].as_str() {
                Some("upgraded" | "stamped" | "downgraded") => {
                    drop(moved.insert(project, parse_moved(&event.0)?));
                }
                // What was committed before it failed is in the ledger alone.
                Some("failed") => match self.moved_in_run(&project, run) {
                    Ok(Some(found)) => drop(moved.insert(project, found)),
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.in_project(&project)),
                },
                _ => {}
            }
        }
        // What a killed run moved without telling anybody.
        for (project, found) in events.iter().filter_map(|event| event.0["moved"].as_object()).flatten() {
            moved.insert(project.parse()?, parse_moved(found)?);
        }
        if moved.is_empty() {
            let message = "the run took no project from one version to another";
            let hint =
                format!("what it did, and how to have back what it replaced: tenantry runs show {run}");
            return Err(Error::new(ErrorKind::Usage, message).with_hint(hint));
        }
        Ok(Rollback { run: run.into(), moved })
    }

    pub(super) fn roll_back_project(
        &self,
        project: &ProjectId,
        undo: &Rollback,
        dry_run: bool,
        run: &str,
    ) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Planned);
        let result = match undo.moved.get(project) {
            None => Ok(Outcome::UpToDate),
            Some(moved) => self.roll_back(project, &undo.run, moved, dry_run, run, &mut report),
        };
        report.outcome = result.unwrap_or_else(|error| Outcome::Failed(error.in_project(project)));
        report
    }

    fn roll_back(
        &self,
        project: &ProjectId,
        undone: &str,
        moved: &VersionChange,
        dry_run: bool,
        run: &str,
        report: &mut ProjectReport,
    ) -> Result<Outcome> {
        let now = self.newest_version(project)?;
        let at = now.clone().unwrap_or_else(|| self.catalog.version_at(0).as_str().into());
        if now == moved.from || (moved.from.as_deref() == Some(&at) && moved.to != at) {
            return Ok(Outcome::UpToDate);
        }
        let by_others = self.history(project)?.last().is_some_and(|done| done.run != undone);
        if at != moved.to || by_others {
            return Err(Error::new(
                ErrorKind::VersionMismatch,
                format!("it was moved again since the run took it to {}: it is at {at}", moved.to),
            )
            .with_hint("roll the later run back first: tenantry runs list"));
        }
        let way = self.rollback_method(project, undone, moved)?;
        report.notes.push(match &way {
            RollbackMethod::DownScripts => "by down.sql, which loses nothing".into(),
            RollbackMethod::Backup(backup) => format!("from {}: what was written since is lost", backup.name),
        });
        if dry_run {
            return Ok(Outcome::Planned);
        }
        let kept = self.take_backup(project, None, Reason::BeforeRollback, run)?;
        report.notes.push(format!("to undo it: tenantry backup restore {project} --from {}", kept.name));
        report.backup = Some(kept.name);
        let outcome = match way {
            RollbackMethod::DownScripts => self.run_down_scripts(project, moved, run)?,
            RollbackMethod::Backup(backup) => {
                let proof = VerifyOptions { level: 3, strictness: Strictness::Lenient, run };
                self.verify_backup(&backup, proof, &mut report.steps)?;
                let restore = Restore { source: Source::Newest, target: None, if_in_use: IfInUse::Fail };
                self.restore_in_place(project, &backup, &restore, run, report, &|_| Ok(()))?;
                Outcome::Restored
            }
        };
        let now = self.newest_version(project)?;
        if now != moved.from {
            return Err(Error::new(
                ErrorKind::VersionMismatch,
                format!("afterwards it is at {now:?}, not {:?}", moved.from),
            ));
        }
        Ok(outcome)
    }

    fn newest_version(&self, project: &ProjectId) -> Result<Option<String>> {
        let ledger = self.inspect(project)?.ledger;
        let newest =
            self.catalog.migrations().iter().rev().map(|it| &it.version).find(|it| ledger.is_applied(it));
        Ok(newest.map(|version| version.as_str().to_string()))
    }

    fn positions(&self, moved: &VersionChange) -> Result<(usize, usize)> {
        let position = |version: &str| self.catalog.resolve(version);
        Ok((moved.from.as_deref().map_or(Ok(0), position)?, position(&moved.to)?))
    }

    fn rollback_method(
        &self,
        project: &ProjectId,
        undone: &str,
        moved: &VersionChange,
    ) -> Result<RollbackMethod> {
        let (from, to) = self.positions(moved)?;
        // A project that had no ledger is to have none again, and one that went down has to go up.
        let lossy = if moved.from.is_none() {
            Some("it had no ledger before".to_string())
        } else if from > to {
            Some("the run went down".to_string())
        } else {
            let migrations: Vec<&Migration> = self.catalog.between(from..to).iter().collect();
            migrations
                .into_iter()
                .rev()
                .find_map(|migration| self.down_script_loses(project, migration).transpose())
                .transpose()?
        };
        let Some(lossy) = lossy else { return Ok(RollbackMethod::DownScripts) };
        let (backups, _) = self.archive()?.all(project)?;
        let taken = backups
            .into_iter()
            .find(|it| it.manifest.run == undone && it.manifest.reason == Reason::BeforeUpgrade);
        taken.map(|backup| RollbackMethod::Backup(Box::new(backup))).ok_or_else(|| {
            Error::new(ErrorKind::Blocked, format!("{lossy}, and the run took no backup")).with_hint(
                "go down all the same: tenantry downgrade ID --to VERSION; or restore an older backup",
            )
        })
    }

    /// Why undoing a migration by its `down.sql` would lose something; none where it can't.
    fn down_script_loses(&self, project: &ProjectId, migration: &Migration) -> Result<Option<String>> {
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
                return Ok(Some(format!("{label}'s down.sql does more than drop what is empty")));
            }
            for moves in &statement.table_changes {
                let TableChange::Dropped(table) = moves else { continue };
                // Nobody can be kept from writing into it before it is gone.
                if !migration.is_transactional() {
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
                rows.each(&["1".into()], &quote_name(table), &mut |_| {
                    found = true;
                    Ok(false)
                })?;
            }
            *lock(&has_rows) = found;
            Ok(())
        })?;
        Ok(*lock(&has_rows))
    }

    fn run_down_scripts(&self, project: &ProjectId, moved: &VersionChange, run: &str) -> Result<Outcome> {
        let (from, _) = self.positions(moved)?;
        let request = Request::Downgrade { down: DowngradeTo::Position(from), drift: Drift::Refuse };
        let executor = Executor { drops: DropTables::OnlyEmpty, ..self.executor(request, run)? };
        match self.execute_plan(&executor, project, &Preflight::UNPLANNED).outcome {
            Outcome::Failed(error) => Err(error),
            Outcome::Blocked(problems) => Err(super::blocked(project, &problems)),
            outcome => Ok(outcome),
        }
    }
}
