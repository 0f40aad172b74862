//! What a run leaves in the journal; and what is made up for when an earlier one was killed.
//!
//! It must not call a run done before the journal says so on the disk. Where a process died in between, the projects' own
//! ledgers are the truth, and the journal is completed from them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::Manager;
use super::backup::BackupTask;
use super::command::{FinalBackup, IdPattern, Operation, Run, Safety, Selection};
use super::maintenance::MaintenanceTask;
use crate::error::{ErrorKind, Result};
use crate::event::{Event, KilledRun, Summary};
use crate::hash::hexadecimal;
use crate::journal::runs::RunRecord;
use crate::journal::{Journal, Json, NewEntry};
use crate::plan::{Baseline, DowngradeTo, Drift, Request};
use crate::project::ProjectId;

/// The record of a run that goes on.
pub(super) struct Recording<'a> {
    journal: &'a Journal,
    record: RunRecord,
    run: &'a str,
    command: &'static str,
}

/// The first line of a run's record.
#[derive(Serialize)]
#[serde(tag = "event", rename = "run")]
struct RunHeader<'a> {
    run: &'a str,
    command: &'static str,
    options: &'a Value,
    after: Option<&'a str>,
}

/// What a run is, in its record: everything that decides what it did.
fn options(run: &Run, catalog: [u8; 32]) -> Value {
    let selection = match &run.selection {
        Selection::Ids(ids) => json!({ "ids": ids }),
        Selection::All { only, except } => {
            let texts = |patterns: &[IdPattern]| {
                patterns.iter().map(|it| it.as_str().to_string()).collect::<Vec<_>>()
            };
            json!({ "all": true, "only": texts(only), "except": texts(except) })
        }
    };
    json!({
        "selection": selection,
        "operation": operation(run),
        "safety": match run.safety {
            Safety::None => "none",
            Safety::Backup => "backup",
            Safety::CheckedBackup => "checked_backup",
        },
        "may_lose_rows": run.allow_row_loss,
        "max_failures": run.max_failures,
        "catalog": hexadecimal(&catalog),
    })
}

/// What a run does to each project, in words that stay.
fn operation(run: &Run) -> Value {
    let drift = |drift: Drift| if drift == Drift::Keep { "keep" } else { "refuse" };
    let details = match &run.operation {
        Operation::Migrate(Request::Upgrade { to, baseline, drift: kept }) => json!({
            "to": to, "baseline": if *baseline == Baseline::Stamp { "stamp" } else { "refuse" }, "drift": drift(*kept),
        }),
        Operation::Migrate(Request::Stamp { to, force }) => json!({ "to": to, "force": force }),
        Operation::Migrate(Request::Downgrade { down: DowngradeTo::Position(to), drift: kept }) => {
            json!({ "to": to, "drift": drift(*kept) })
        }
        Operation::Migrate(Request::Downgrade { down: DowngradeTo::Steps(steps), drift: kept }) => {
            json!({ "steps": steps, "drift": drift(*kept) })
        }
        Operation::Import(file) => json!({ "file": file.display().to_string() }),
        Operation::Drop(copy) => json!({ "backup": *copy == FinalBackup::Take }),
        Operation::RollBack(undo) => json!({ "run": undo.run }),
        Operation::Backups(BackupTask::Take { label }) => json!({ "label": label }),
        Operation::Backups(BackupTask::Check { level, .. }) => json!({ "level": level }),
        Operation::Backups(BackupTask::Restore(restore)) => json!({ "as": restore.target }),
        Operation::Maintain(MaintenanceTask::Retain { older_than }) => {
            json!({ "older_than_s": older_than.map(|age| age.as_secs()) })
        }
        Operation::Create
        | Operation::Status
        | Operation::Maintain(_)
        | Operation::Backups(BackupTask::Prune(_)) => {
            json!({})
        }
    };
    json!({ "do": run.name(), "with": details })
}

/// Whether a run changes anything that somebody may want to know of later.
fn changes(run: &Run) -> bool {
    let only_looks = matches!(
        run.operation,
        Operation::Maintain(MaintenanceTask::Check) | Operation::Backups(BackupTask::Check { .. })
    );
    !run.dry_run && !only_looks
}

impl Manager {
    /// Begins the record of a run, after what is left of killed ones; gives none where nothing is to be recorded.
    pub(super) fn start_recording<'a>(
        &'a self,
        run: &Run,
        id: &'a str,
        projects: usize,
        observer: &mut impl FnMut(Event),
    ) -> Result<(Option<Recording<'a>>, Option<String>)> {
        // Nothing can be changed of no project, nor where nothing is; and a mistyped folder is not to be made.
        let makes = matches!(
            run.operation,
            Operation::Create | Operation::Import(_) | Operation::Backups(BackupTask::Restore(_))
        );
        let is_there = makes || self.store.exists();
        let wanted = changes(run) && projects > 0 && is_there;
        let Some(journal) = self.journal.as_ref().filter(|_| wanted) else { return Ok((None, None)) };
        let mut after = None;
        let killed = journal.killed()?;
        if !killed.is_empty() {
            journal.repair()?;
        }
        for killed in killed {
            let Some(interrupted) = self.complete_killed_run(journal, &killed.run)? else { continue };
            if interrupted.command == run.name() {
                after = Some(killed.run.clone());
            }
            observer(Event::Completed(interrupted));
        }
        let options = options(run, self.catalog.hash());
        let mut record = journal.record(id, projects)?;
        record.event(&RunHeader { run: id, command: run.name(), options: &options, after: after.as_deref() });
        let mut payload = options;
        payload["projects"] = projects.into();
        payload["pattern"] = self.store.pattern().into();
        payload["store"] = self.store.location().into();
        payload["after"] = json!(after);
        let one = match &run.selection {
            Selection::Ids(ids) if ids.len() == 1 => Some(ids[0].as_str()),
            _ => None,
        };
        let said =
            NewEntry { kind: "run_started", command: run.name(), project: one, run: Some(id), payload };
        if let Err(error) = journal.append(&said) {
            // It was not begun, so nobody is to look after it.
            drop(record);
            journal.forget(id)?;
            journal.close(id)?;
            return Err(error);
        }
        Ok((Some(Recording { journal, record, run: id, command: run.name() }), after))
    }

    /// Finds out what a killed run did, from its record and from the ledgers of the projects that are not in it.
    /// Gives nothing where it had ended, and only its last step was missing; or where it was another store's.
    fn complete_killed_run(&self, journal: &Journal, run: &str) -> Result<Option<KilledRun>> {
        let mut is_finished = false;
        journal
            .each(|entry| is_finished |= entry.kind == "run_finished" && entry.run.as_deref() == Some(run))?;
        if is_finished {
            journal.close(run)?;
            return Ok(None);
        }
        let events = match journal.events(run) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            events => events?,
        };
        if self.other_fleet(&events).is_some() {
            return Ok(None);
        }
        let interrupted = self.reconstruct(run, &events)?;
        journal.add(run, &Event::Completed(interrupted.clone()))?;
        let payload = json!({
            "moved": interrupted.moved,
            "gone": interrupted.gone,
            "unread": interrupted.unread,
            "from": "the projects' ledgers",
            "events": journal.hash_of_events(run)?,
        });
        journal.append(&NewEntry {
            kind: "run_completed",
            command: &interrupted.command,
            project: None,
            run: Some(run),
            payload,
        })?;
        journal.close(run)?;
        Ok(Some(interrupted))
    }

    /// Which other fleet a run was about, by its events; none where it was this one.
    pub(super) fn other_fleet(&self, events: &[Json]) -> Option<String> {
        let started = events.iter().find(|event| event.0["event"] == "run_started")?;
        let store = started.0["store"].as_str().unwrap_or_default();
        let pattern = started.0["pattern"].as_str();
        let is_own = self.store.is_at(store) && pattern.is_none_or(|pattern| pattern == self.store.pattern());
        (!is_own).then(|| format!("{} in {store}", pattern.unwrap_or("another fleet")))
    }

    /// What became of the projects that a killed run's events don't report, by what is there now.
    fn reconstruct(&self, run: &str, events: &[Json]) -> Result<KilledRun> {
        let Json(begun) = events.first().cloned().unwrap_or_default();
        let reports = events.iter().filter(|event| event.0["event"] == "project_finished");
        let reported: Vec<&str> = reports.filter_map(|event| event.0["project"].as_str()).collect();
        let projects: Vec<ProjectId> = match begun["options"]["selection"]["ids"].as_array() {
            Some(ids) => ids.iter().filter_map(|id| id.as_str()?.parse().ok()).collect(),
            None => self.store.discover()?.projects,
        };
        let command = begun["command"].as_str().unwrap_or_default().to_string();
        let (mut moved, mut gone, mut unread) = (BTreeMap::new(), Vec::new(), Vec::new());
        for project in projects.into_iter().filter(|project| !reported.contains(&project.as_str())) {
            match self.moved_in_run(&project, run) {
                Ok(None) => {}
                Ok(Some(found)) => drop(moved.insert(project, found)),
                Err(error) if error.kind() == ErrorKind::NotFound => gone.push(project),
                Err(_) => unread.push(project),
            }
        }
        // What is not there was never made by any other command.
        gone.retain(|_| command == "drop");
        Ok(KilledRun { killed: run.to_string(), command, moved, gone, unread })
    }

    /// Writes an entry about something that is no run.
    pub(super) fn append_to_journal(&self, command: &str, payload: Value) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.append(&NewEntry { kind: command, command, project: None, run: None, payload }).map(|_| ())
    }
}

impl Recording<'_> {
    /// Records an event; says whether that could be done so far.
    pub(super) fn event(&mut self, event: &Event) -> bool {
        self.record.event(event)
    }

    /// Makes all of it durable, the chain's entry last.
    pub(super) fn finish(self, summary: &Summary) -> Result<()> {
        let Self { journal, mut record, run, command } = self;
        // It has ended whether or not all of its events could be written: it is nobody's to look after.
        let synced = record.sync();
        let mut payload = json!({
            "outcomes": summary.outcomes,
            "exit": summary.exit,
            "interrupted": summary.interrupted,
            "events": journal.hash_of_events(run)?,
        });
        if let Err(error) = &synced {
            payload["lost_events"] = error.summary().into();
        }
        journal.append(&NewEntry {
            kind: "run_finished",
            command,
            project: None,
            run: Some(run),
            payload,
        })?;
        journal.close(run)?;
        // Up to here its lock says that the run goes on.
        drop(record);
        synced
    }
}
