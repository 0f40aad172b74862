//! Records runs in the journal, and completes the records of killed runs from the projects' ledgers.
//!
//! A run is reported as finished only once the journal has that on disk.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::Manager;
use super::command::BackupTask;
use super::command::MaintenanceTask;
use super::command::{Operation, Run, Selection};
use super::run_options::options;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, KilledRun, Summary};
use crate::journal::runs::RunRecord;
use crate::journal::{Journal, Json, NewEntry};
use crate::project::{ProjectId, Shard};

/// The record of a run in progress.
pub(super) struct Recording<'a> {
    journal: &'a Journal,
    record: RunRecord,
    run_id: &'a str,
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
    /// Whether this part of the record goes on with an earlier one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
}

/// Whether a run can change anything, so that it is recorded.
fn changes_anything(run: &Run) -> bool {
    let is_read_only = matches!(
        run.operation,
        Operation::Maintain(MaintenanceTask::Check) | Operation::Backups(BackupTask::Check { .. })
    );
    !run.dry_run && !is_read_only
}

impl Manager {
    /// Completes the records of killed runs, then starts the record of a run. Returns the record, or `None` if nothing is
    /// to be recorded, and the last killed run of the same command.
    pub(super) fn start_recording<'a>(
        &'a self,
        run: &Run,
        id: &'a str,
        projects: &[ProjectId],
        observer: &mut impl FnMut(Event),
    ) -> Result<(Option<Recording<'a>>, Option<String>)> {
        // A run without projects changes nothing. Nor does a run on a store that does not exist, unless it creates
        // projects; no journal is created for a mistyped folder.
        let creates = matches!(
            run.operation,
            Operation::Create | Operation::Import(_) | Operation::Backups(BackupTask::Restore(_))
        );
        let has_store = creates || self.store.exists();
        // A part of a fleet reports even if it has no project.
        let has_work = !projects.is_empty() || run.job_shard().is_some();
        let is_recorded = changes_anything(run) && has_work && has_store;
        let Some(journal) = self.journal.as_ref().filter(|_| is_recorded) else { return Ok((None, None)) };
        let mut after = None;
        let killed = journal.orphaned_runs()?;
        if !killed.is_empty() {
            journal.repair()?;
        }
        for killed in killed {
            let Some(completed) = self.complete_killed_run(journal, &killed.run)? else { continue };
            if completed.command == run.name() {
                after = Some(killed.run.clone());
            }
            observer(Event::KilledRun(completed));
        }
        // The ids as they were resolved: they may be resolved in another way later.
        let options = match &run.selection {
            Selection::Ids(_) => {
                let selection = Selection::Ids(projects.to_vec());
                options(&Run { selection, ..run.clone() }, self.catalog.hash())
            }
            Selection::All { .. } => options(run, self.catalog.hash()),
        };
        let resumed = run.resumed.is_some();
        let mut record = if resumed {
            journal.reopen_record(id, projects.len())?
        } else {
            journal.record(id, projects.len())?
        };
        let mut payload = options.clone();
        payload["projects"] = projects.len().into();
        payload["pattern"] = self.store.pattern().into();
        payload["store"] = self.store.location().into();
        payload["after"] = json!(after);
        let project = match &run.selection {
            Selection::Ids(_) if projects.len() == 1 => Some(projects[0].as_str()),
            _ => None,
        };
        let kind = if resumed { "run_resumed" } else { "run_started" };
        let entry = NewEntry { kind, command: run.name(), project, run: Some(id), payload };
        if let Err(error) = journal.append(&entry) {
            // The run is not started, so it must not be taken for a killed one.
            drop(record);
            if !resumed {
                journal.remove_events(id)?;
            }
            journal.close(id)?;
            return Err(error);
        }
        // The entry comes first: the entries before it cover the record without what follows.
        let header =
            RunHeader { run: id, command: run.name(), options: &options, after: after.as_deref(), resumed };
        record.event(&header);
        Ok((Some(Recording { journal, record, run_id: id, command: run.name() }), after))
    }

    /// Completes the record of a killed run from the ledgers of the projects that the record lacks. Returns `None` if
    /// the run had ended and was only not closed yet, or if it belongs to another fleet.
    fn complete_killed_run(&self, journal: &Journal, run_id: &str) -> Result<Option<KilledRun>> {
        let mut is_finished = false;
        journal.for_each_entry(|entry| {
            if entry.run.as_deref() == Some(run_id) {
                is_finished = entry.kind == "run_finished";
            }
        })?;
        if is_finished {
            journal.close(run_id)?;
            return Ok(None);
        }
        let events = match journal.events(run_id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            events => events?,
        };
        if self.other_fleet(&events).is_some() {
            return Ok(None);
        }
        let killed_run = self.reconstruct_from_ledgers(run_id, &events)?;
        journal.append_event(run_id, &Event::KilledRun(killed_run.clone()))?;
        let (size, hash) = journal.hash_of_events(run_id, None)?.unzip();
        let payload = json!({
            "moved": killed_run.moved,
            "gone": killed_run.gone,
            "unread": killed_run.unread,
            "from": "the projects' ledgers",
            "events": hash,
            "events_bytes": size,
        });
        journal.append(&NewEntry {
            kind: "killed_run",
            command: &killed_run.command,
            project: None,
            run: Some(run_id),
            payload,
        })?;
        journal.close(run_id)?;
        Ok(Some(killed_run))
    }

    /// Describes the fleet of a run, according to its events, if it is not this fleet.
    fn other_fleet(&self, events: &[Json]) -> Option<String> {
        let started = events.iter().find(|event| event.0["event"] == "run_started")?;
        let store = started.0["store"].as_str().unwrap_or_default();
        let pattern = started.0["pattern"].as_str();
        let is_this_fleet = self.store.is_fleet(store, pattern);
        (!is_this_fleet).then(|| format!("{} in {store}", pattern.unwrap_or("another fleet")))
    }

    /// Fails if a run was one of another fleet.
    pub(super) fn require_this_fleet(&self, run_id: &str, events: &[Json]) -> Result<()> {
        let Some(other) = self.other_fleet(events) else { return Ok(()) };
        let message = format!("the run {run_id} belongs to another fleet: {other}");
        Err(Error::new(ErrorKind::Usage, message).with_hint("use the --store and --pattern of that run"))
    }

    /// The journal. Fails if there is none.
    pub(super) fn required_journal(&self) -> Result<&Journal> {
        self.journal.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "no journal is configured")
                .with_hint("set one: [journal] dir in tenantry.toml")
        })
    }

    /// Determines what a killed run did to the projects that its events do not report, from their ledgers.
    fn reconstruct_from_ledgers(&self, run_id: &str, events: &[Json]) -> Result<KilledRun> {
        let Json(header) = events.first().cloned().unwrap_or_default();
        let reported = reported_projects(events);
        let projects: Vec<ProjectId> = match header["options"]["selection"]["ids"].as_array() {
            Some(ids) => {
                let ids: Vec<ProjectId> = ids.iter().filter_map(|id| id.as_str()?.parse().ok()).collect();
                self.store.resolve(&ids)?
            }
            None => self.store.discover()?.require_complete().map_err(|error| {
                error.with_hint(
                    "a killed run is completed first; to leave this store out: --store NAME for each other",
                )
            })?,
        };
        // A run of a part of the fleet has changed nothing else.
        let shard: Option<Shard> =
            header["options"]["selection"]["shard"].as_str().and_then(|text| text.parse().ok());
        let is_meant = |project: &ProjectId| shard.is_none_or(|shard| shard.contains(project));
        let command = header["command"].as_str().unwrap_or_default().to_string();
        let (mut moved, mut gone, mut unread) = (BTreeMap::new(), Vec::new(), Vec::new());
        for project in projects.into_iter().filter(is_meant).filter(|project| {
            !reported.contains(project.as_str()) && !reported.contains(project.in_its_store().as_str())
        }) {
            match self.version_change_in_run(&project, run_id) {
                Ok(None) => {}
                Ok(Some(change)) => drop(moved.insert(project, change)),
                Err(error) if error.kind() == ErrorKind::NotFound => gone.push(project),
                Err(_) => unread.push(project),
            }
        }
        // For any other command than `drop`, a missing project was never created.
        gone.retain(|_| command == "drop");
        Ok(KilledRun { run: run_id.to_string(), command, moved, gone, unread })
    }

    /// Appends an entry about something that is not a run.
    pub(super) fn append_to_journal(&self, command: &str, payload: Value) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.append(&NewEntry { kind: command, command, project: None, run: None, payload })
    }
}

/// The projects of which a killed run reported what became of them.
fn reported_projects(events: &[Json]) -> BTreeSet<&str> {
    let last_start = events.iter().rposition(|event| event.0["event"] == "run").unwrap_or_default();
    let reports = events.iter().enumerate().filter(|(_, event)| event.0["event"] == "project_finished");
    // What was not changed before the run was resumed may have been changed since.
    let counts = |index: usize, event: &Json| {
        index > last_start
            || !matches!(event.0["outcome"].as_str(), Some("failed" | "blocked" | "not_started"))
    };
    reports
        .filter(|(index, event)| counts(*index, event))
        .filter_map(|(_, event)| event.0["project"].as_str())
        .collect()
}

impl Recording<'_> {
    /// Records an event. Returns `false` if this or an earlier event could not be written.
    pub(super) fn event(&mut self, event: &Event) -> bool {
        self.record.event(event)
    }

    /// Makes the record durable: first the events, then the journal's entry. Fails if an event could not be written.
    pub(super) fn finish(self, summary: &Summary) -> Result<()> {
        let Self { journal, mut record, run_id, command } = self;
        // The run has ended even if some events could not be written, so it is closed like any other.
        let synced = record.sync();
        // The record may be that of another process now.
        if record.is_lost() {
            return synced;
        }
        let (size, hash) = journal.hash_of_events(run_id, None)?.unzip();
        let mut payload = json!({
            "outcomes": summary.outcomes,
            "exit": summary.exit,
            "interrupted": summary.interrupted,
            "events": hash,
            "events_bytes": size,
        });
        if let Err(error) = &synced {
            payload["lost_events"] = error.summary().into();
        }
        journal.append(&NewEntry {
            kind: "run_finished",
            command,
            project: None,
            run: Some(run_id),
            payload,
        })?;
        journal.close(run_id)?;
        // The record's lock marks the run as in progress until here.
        drop(record);
        synced
    }
}
