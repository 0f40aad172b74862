//! One report of several runs: those of the tasks of one job, each of which took a shard of the fleet.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Journal, Json};
use crate::error::{Error, ErrorKind, Result};
use crate::project::Shard;

/// The command whose runs are shown of a job that has others as well.
const UPGRADE: &str = "upgrade-all";

/// The runs of one job, as one report.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MergedReport {
    /// The shards that reported, in order.
    pub shards: Vec<ShardReport>,
    /// The shards that never reported, such as `5/8`.
    pub missing: Vec<String>,
    /// The number of projects by outcome.
    pub outcomes: BTreeMap<String, usize>,
    /// The exit code of the job as a whole: the first that applies of 130, 3, 4 and 0, as for a single run. A shard that did
    /// not report, or not to its end, counts as failed.
    pub exit: u8,
    /// The last report of each project.
    #[serde(skip)]
    pub projects: Vec<Json>,
}

/// What one shard of a job did.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ShardReport {
    /// The shard, such as `2/8`.
    pub shard: String,
    /// Its last run.
    pub run: String,
    /// `finished`, `killed`, or `open` if the run has not ended.
    pub state: &'static str,
    /// The exit code, if the run ended.
    pub exit: Option<u64>,
    /// The number of its runs: more than one if the scheduler started it again.
    pub runs: usize,
}

/// The shard that a run took.
fn shard_of(events: &[Json]) -> Option<&str> {
    events.iter().find_map(|event| match event.0["event"].as_str()? {
        "run_started" => event.0["shard"].as_str(),
        // The first line of a record. A run may have been killed before it had another one.
        "run" => event.0["options"]["selection"]["shard"].as_str(),
        _ => None,
    })
}

/// The command of a run.
fn command_of(events: &[Json]) -> &str {
    events.iter().find_map(|event| event.0["command"].as_str()).unwrap_or_default()
}

/// Divides what a command wrote into its runs: a rehearsal or a rollback is a run of its own.
fn split_runs(events: Vec<Json>) -> Vec<Vec<Json>> {
    let mut runs: Vec<Vec<Json>> = Vec::new();
    for event in events {
        let begins = event.0["event"] == "run_started" || event.0["event"] == "run";
        let run = event.0["run"].as_str().unwrap_or_default();
        match runs.last_mut() {
            // A record has both lines, with the same run.
            Some(last) if !begins || run_of(last) == run => last.push(event),
            _ => runs.push(vec![event]),
        }
    }
    runs
}

/// Returns the runs that are to be merged, oldest first.
fn runs_of_one_command(mut runs: Vec<Vec<Json>>) -> Result<Vec<Vec<Json>>> {
    // What comes before and after an upgrade is not the upgrade.
    if runs.iter().any(|events| command_of(events) == UPGRADE) {
        runs.retain(|events| command_of(events) == UPGRADE);
    }
    let Some(first) = runs.first().map(|events| command_of(events).to_string()) else {
        return Err(Error::new(ErrorKind::Usage, "there is no run")
            .with_hint("give the --format json outputs of runs with --shard"));
    };
    if let Some(other) = runs.iter().map(|events| command_of(events)).find(|command| *command != first) {
        let message = format!("the runs are of different commands: {first} and {other}");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    // Ids of runs sort by time.
    runs.sort_by_key(|events| run_of(events));
    Ok(runs)
}

impl MergedReport {
    /// Merges runs, given by their events.
    ///
    /// Fails with [`ErrorKind::Usage`] if there is none, if one of them took no shard, or if they divide the fleet
    /// differently.
    pub fn new(runs: Vec<Vec<Json>>) -> Result<Self> {
        let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
        let runs = runs_of_one_command(runs.into_iter().flat_map(split_runs).collect())?;
        let mut shards: BTreeMap<u64, ShardReport> = BTreeMap::new();
        let mut total = None;
        let mut projects: BTreeMap<String, Json> = BTreeMap::new();
        for events in &runs {
            let run = run_of(events);
            let Some(shard) = shard_of(events) else {
                return usage(format!("run {run} took no shard of a fleet"));
            };
            let shard: Shard = shard.parse()?;
            if *total.get_or_insert(shard.of) != shard.of {
                return usage(format!("run {run} is shard {shard}, and others divide the fleet differently"));
            }
            let runs = shards.get(&shard.part).map_or(0, |earlier| earlier.runs) + 1;
            let report = ShardReport { shard: shard.to_string(), runs, ..state_of(events, run) };
            shards.insert(shard.part, report);
            for event in events {
                add_projects(&mut projects, event);
            }
        }
        let of = total.unwrap_or_default();
        let missing =
            (1..=of).filter(|part| !shards.contains_key(part)).map(|part| Shard { part, of }.to_string());
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for project in projects.values() {
            *outcomes.entry(project.0["outcome"].as_str().unwrap_or_default().into()).or_default() += 1;
        }
        let mut merged = Self {
            missing: missing.collect(),
            shards: shards.into_values().collect(),
            outcomes,
            exit: 0,
            projects: projects.into_values().collect(),
        };
        merged.exit = merged.exit_code();
        Ok(merged)
    }

    fn exit_code(&self) -> u8 {
        let has = |outcome: &str| self.outcomes.contains_key(outcome);
        let exits: BTreeSet<Option<u64>> = self.shards.iter().map(|shard| shard.exit).collect();
        if exits.contains(&Some(130)) {
            130
        } else if has("failed")
            || !self.missing.is_empty()
            || exits.contains(&None)
            || exits.contains(&Some(3))
        {
            3
        } else if has("blocked") || has("drifted") {
            4
        } else {
            0
        }
    }
}

fn run_of(events: &[Json]) -> String {
    let run = events.iter().find_map(|event| event.0["run"].as_str());
    run.unwrap_or_default().to_string()
}

fn state_of(events: &[Json], run: String) -> ShardReport {
    // A run that was resumed has an earlier end, which does not count.
    let start = events.iter().rposition(|event| event.0["event"] == "run_started").unwrap_or_default();
    let is_end = |event: &&Json| event.0["event"] == "run_finished" || event.0["event"] == "killed_run";
    let end = events[start..].iter().rev().find(is_end);
    let state = match end {
        Some(end) if end.0["event"] == "killed_run" => "killed",
        Some(_) => "finished",
        None => "open",
    };
    let exit = end.and_then(|end| end.0["exit"].as_u64());
    ShardReport { shard: String::new(), run, state, exit, runs: 1 }
}

/// Adds what an event says of projects. A project that was upgraded and is then found up to date counts as upgraded; one that
/// failed does not count as failed any more.
fn add_projects(projects: &mut BTreeMap<String, Json>, event: &Json) {
    if event.0["event"] == "project_finished" {
        let project = event.0["project"].as_str().unwrap_or_default();
        let earlier = projects.get(project).and_then(|it| it.0["outcome"].as_str());
        let was_changed = matches!(earlier, Some("upgraded" | "stamped" | "adopted" | "repaired"));
        let adds_nothing = match event.0["outcome"].as_str() {
            Some("up_to_date") => was_changed,
            Some("not_started") => earlier.is_some(),
            _ => false,
        };
        if !adds_nothing {
            projects.insert(project.into(), event.clone());
        }
    }
    for (project, change) in event.0["moved"].as_object().into_iter().flatten() {
        let mut report = change.clone();
        report["event"] = "project_finished".into();
        report["project"] = project.as_str().into();
        report["outcome"] = "upgraded".into();
        projects.insert(project.clone(), Json(report));
    }
}

impl Journal {
    /// Returns the report of the runs of a job.
    ///
    /// Fails with [`ErrorKind::NotFound`] if no run belongs to it.
    pub fn group(&self, group: &str) -> Result<MergedReport> {
        let mut runs = Vec::new();
        self.for_each_entry(|entry| {
            let is_of_group = entry.kind == "run_started" && entry.payload.0["selection"]["group"] == group;
            runs.extend(entry.run.filter(|_| is_of_group));
        })?;
        if runs.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("no run belongs to the job {group}"))
                .with_hint("to see the runs and their jobs: tenantry runs list"));
        }
        MergedReport::new(runs.iter().map(|run| self.events(run)).collect::<Result<_>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, shard: &str, events: &str) -> Vec<Json> {
        let start = format!(r#"{{"event":"run_started","run":"{id}","shard":"{shard}"}}"#);
        [start.as_str()]
            .into_iter()
            .chain(events.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    const END: &str = r#"{"event":"run_finished","exit":0}"#;

    fn project(id: &str, outcome: &str) -> String {
        format!("{{\"event\":\"project_finished\",\"project\":\"{id}\",\"outcome\":\"{outcome}\"}}\n")
    }

    #[test]
    fn a_part_that_was_started_again_counts_once() {
        let killed =
            project("1", "upgraded") + r#"{"event":"killed_run","moved":{"2":{"from":"1","to":"2"}}}"#;
        let again =
            project("1", "up_to_date") + &project("2", "up_to_date") + &project("3", "upgraded") + END;
        let merged = MergedReport::new(vec![
            run("b", "1/2", &again),
            run("a", "1/2", &killed),
            run("c", "2/2", &(project("4", "blocked") + END)),
        ])
        .unwrap();
        assert_eq!(merged.outcomes, BTreeMap::from([("upgraded".into(), 3), ("blocked".into(), 1)]));
        assert_eq!((merged.exit, merged.missing.len(), merged.shards[0].runs), (4, 0, 2));
        assert_eq!((merged.shards[0].run.as_str(), merged.shards[0].state), ("b", "finished"));
    }

    #[test]
    fn what_failed_and_was_done_later_counts_as_done() {
        let failed =
            project("1", "failed") + &project("2", "not_started") + r#"{"event":"run_finished","exit":3}"#;
        let later = project("1", "up_to_date") + &project("2", "upgraded") + END;
        let merged = MergedReport::new(vec![run("a", "1/1", &failed), run("b", "1/1", &later)]).unwrap();
        assert_eq!(merged.outcomes, BTreeMap::from([("up_to_date".into(), 1), ("upgraded".into(), 1)]));
        assert_eq!(merged.exit, 0);
        // A rehearsal in the same output is not the upgrade, which did not end.
        let with_command = |command: &str, id: &str, events: &str| {
            let mut events = run(id, "1/1", events);
            events[0].0["command"] = command.into();
            events
        };
        let output = [with_command("rehearse", "a", END), with_command("upgrade-all", "b", "")].concat();
        let merged = MergedReport::new(vec![output]).unwrap();
        assert_eq!((merged.shards[0].run.as_str(), merged.shards[0].state, merged.exit), ("b", "open", 3));
        // A run that goes on has not ended, although its first part has.
        let resumed = [run("a", "1/1", END), run("a", "1/1", "")].concat();
        assert_eq!(MergedReport::new(vec![resumed]).unwrap().shards[0].state, "open");
    }

    #[test]
    fn a_part_that_is_missing_or_did_not_end_is_a_failure() {
        let merged = MergedReport::new(vec![run("a", "2/3", END), run("b", "3/3", END)]).unwrap();
        assert_eq!((merged.missing.as_slice(), merged.exit), (["1/3".to_string()].as_slice(), 3));
        let open = MergedReport::new(vec![run("a", "1/1", &project("1", "upgraded"))]).unwrap();
        assert_eq!((open.shards[0].state, open.exit), ("open", 3));
        assert!(MergedReport::new(vec![run("a", "1/2", END), run("b", "1/3", END)]).is_err());
        // Nothing is not a success.
        assert!(MergedReport::new(vec![Vec::new()]).is_err());
        assert!(
            MergedReport::new(vec![vec![Json(serde_json::json!({"event": "run_started", "run": "a"}))]])
                .is_err()
        );
    }
}
