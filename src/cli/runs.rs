//! The `runs` commands: what each run did, going on with one, and undoing one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tenantry::journal::{Entry, Json, MergedReport};
use tenantry::manager::Run;
use tenantry::{Error, ErrorKind, Result};

use super::fleet::{dry_run_if, run_and_report};
use super::journal::{outcomes, value_of};
use super::{Format, Settings};
use crate::report::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Runs {
    /// List runs, oldest first
    #[command(after_long_help = "Examples:\n  tenantry runs list")]
    List,
    /// Show what a run did to each project
    #[command(after_long_help = "Examples:\n  tenantry runs show 019a7c3e-5b1f-7d42-9a06-3c1e8f5d2b70\n  \
                           tenantry runs show --group 4711")]
    Show(Show),
    /// Show the runs of all shards of a job as one report, from the files with their JSON output
    #[command(after_long_help = "Examples:\n  tenantry runs merge shard-*.jsonl")]
    Merge(Merge),
    /// Go on with an upgrade that was halted, interrupted or killed: the same projects, target and waves
    #[command(
        after_long_help = "Examples:\n  tenantry runs resume 019a7c3e-5b1f-7d42-9a06-3c1e8f5d2b70 --dry-run"
    )]
    Resume(Resume),
    /// Undo a run: return the projects that it changed to their previous version
    #[command(
        after_long_help = "Examples:\n  tenantry runs rollback 019a7c3e-5b1f-7d42-9a06-3c1e8f5d2b70 --dry-run"
    )]
    Rollback(Rollback),
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["run", "group"])))]
pub(super) struct Show {
    /// Id of the run, as shown by runs list
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Show the runs of all shards of a job as one report, and the shards that never reported; exit as one run would
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Merge {
    /// Files with the output of upgrade-all --shard N/T --format json
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Resume {
    /// Id of the run, as shown by runs list
    #[arg(value_name = "RUN")]
    run: String,
    /// Only show what is left to do
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub(super) struct Rollback {
    /// Id of the run, as shown by runs list
    #[arg(value_name = "RUN")]
    run: String,
    /// Only show what would be done, and how
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn runs(settings: &Settings, command: Runs) -> Result<u8> {
    match command {
        Runs::List => list(settings),
        Runs::Show(Show { group: Some(group), .. }) => {
            show_merged(settings, &settings.config()?.journal()?.group(&group)?)
        }
        Runs::Show(show) => self::show(settings, &show.run.unwrap_or_default()),
        Runs::Merge(merge) => {
            let runs = merge.files.iter().map(|file| read_events(file)).collect::<Result<_>>()?;
            show_merged(settings, &MergedReport::new(runs)?)
        }
        Runs::Resume(resume) => {
            let manager = settings.manager()?;
            let run = dry_run_if(resume.dry_run, manager.resume(&resume.run)?);
            run_and_report(settings, &manager, &run)
        }
        Runs::Rollback(rollback) => {
            let manager = settings.manager()?;
            let run = Run::roll_back(manager.changes_of_run(&rollback.run)?);
            let run = dry_run_if(rollback.dry_run, run);
            run_and_report(settings, &manager, &run)
        }
    }
}

fn list(settings: &Settings) -> Result<u8> {
    let journal = settings.config()?.journal()?;
    let mut runs: Vec<(Entry, Option<Entry>)> = Vec::new();
    let mut index_of: HashMap<String, usize> = HashMap::new();
    journal.for_each_entry(|entry| match (entry.kind.as_str(), &entry.run) {
        ("run_started", Some(run)) => {
            index_of.insert(run.clone(), runs.len());
            runs.push((entry, None));
        }
        ("run_resumed" | "run_finished" | "killed_run", Some(run)) => {
            if let Some(found) = index_of.get(run).and_then(|index| runs.get_mut(*index)) {
                found.1 = Some(entry).filter(|entry| entry.kind != "run_resumed");
            }
        }
        _ => {}
    })?;
    let mut output = Output::new();
    for (start, end) in runs {
        let run = start.run.clone().unwrap_or_default();
        let state = match &end {
            Some(end) if end.kind == "run_finished" => "finished",
            Some(_) => "killed",
            None => "open",
        };
        let outcomes = end.as_ref().map(|end| value_of(&end.payload)["outcomes"].clone()).unwrap_or_default();
        let after = value_of(&start.payload)["after"].clone();
        let part = value_of(&start.payload)["selection"].clone();
        match settings.format {
            Format::Human => {
                let outcomes = super::journal::outcomes(&outcomes);
                let after = after.as_str().map(|after| format!("  after {after}")).unwrap_or_default();
                let group = part["group"].as_str().map(|group| format!(" of group {group}")).unwrap_or_default();
                let part = part["shard"].as_str().map(|shard| format!("  shard {shard}{group}")).unwrap_or_default();
                output.line(format_args!(
                    "{run}  {}  {}  {}  {state} {outcomes}{part}{after}",
                    start.at, start.actor, start.command
                ));
            }
            Format::Json => output.json(&json!({
                "v": 1, "event": "run", "run": run, "at": start.at, "actor": start.actor, "command": start.command,
                "state": state, "outcomes": outcomes, "after": after, "options": start.payload,
            })),
        }
    }
    output.finish()?;
    Ok(0)
}

fn show(settings: &Settings, run_id: &str) -> Result<u8> {
    let journal = settings.config()?.journal()?;
    let events = journal.events(run_id)?;
    let mut output = Output::new();
    for event in &events {
        match settings.format {
            Format::Json => output.json(event),
            Format::Human => show_event(&mut output, &value_of(event)),
        }
    }
    if journal.is_open(run_id)? {
        crate::report::note(format_args!(
            "the run has not ended; if it was killed, the next command that changes something completes its record"
        ));
    }
    output.finish()?;
    Ok(0)
}

/// Reads the JSON output of a command. Skips a last line that is incomplete.
fn read_events(file: &Path) -> Result<Vec<Json>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::new(ErrorKind::Usage, format!("cannot read {}", file.display())).caused_by(error)
    })?;
    let (lines, last) = text.rsplit_once('\n').unwrap_or(("", &text));
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            Error::new(ErrorKind::Usage, "it is not the JSON output of a command")
                .at(file, u32::try_from(number + 1).ok())
                .caused_by(error)
                .with_hint("write it with --format json")
        })
    };
    let events = lines.lines().enumerate().map(parse).collect::<Result<Vec<Json>>>()?;
    Ok(events.into_iter().chain(serde_json::from_str(last)).collect())
}

/// Shows the runs of a job as one report. Returns the exit code that one run would have.
fn show_merged(settings: &Settings, merged: &MergedReport) -> Result<u8> {
    let mut output = Output::new();
    match settings.format {
        Format::Json => {
            merged.projects.iter().for_each(|project| output.json(project));
            output.json(&json!({"v": 1, "event": "merged", "merged": merged}));
        }
        Format::Human => {
            for shard in &merged.shards {
                let again =
                    if shard.runs > 1 { format!(", started {} times", shard.runs) } else { String::new() };
                output.line(format_args!("{:>7}  {}{again}  {}", shard.shard, shard.state, shard.run));
            }
            if !merged.missing.is_empty() {
                output.line(format_args!("never reported: {}", merged.missing.join(", ")));
            }
            for project in &merged.projects {
                let project = value_of(project);
                if matches!(project["outcome"].as_str(), Some("failed" | "blocked" | "not_started")) {
                    show_event(&mut output, &project);
                }
            }
            let outcomes = outcomes(&json!(merged.outcomes));
            output.line(format_args!("{} projects: {outcomes}", merged.projects.len()));
        }
    }
    output.finish()?;
    Ok(merged.exit)
}

fn show_event(output: &mut Output, event: &Value) {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_string();
    match event["event"].as_str().unwrap_or_default() {
        "run" => {
            let catalog = event["options"]["catalog"].as_str().unwrap_or_default();
            let resumed = if event["resumed"] == true { "resumed: " } else { "" };
            output.line(format_args!(
                "{resumed}{} {} with catalog {catalog:.12}",
                text("command"),
                text("run")
            ));
            if let Some(after) = event["after"].as_str() {
                output.line(format_args!("after the killed run {after}"));
            }
        }
        "project_finished" => {
            let versions = match (event["from"].as_str(), event["to"].as_str()) {
                (from, Some(to)) => format!(" {} -> {to}", from.unwrap_or("no ledger")),
                _ => String::new(),
            };
            let error =
                event["error"]["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
            let time = event["elapsed_us"].as_u64().unwrap_or_default();
            let (project, outcome) = (text("project"), text("outcome"));
            output.line(format_args!("{project}: {outcome}{versions}{error} ({time} µs)"));
            for problem in event["problems"].as_array().into_iter().flatten() {
                output.line(format_args!("    {}", problem["message"].as_str().unwrap_or_default()));
            }
            for note in event["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                output.line(format_args!("    {note}"));
            }
        }
        "killed_run" => {
            let is_complete = ["moved", "gone", "unread"].iter().all(|key| {
                let list = &event[*key];
                list.as_object().is_none_or(serde_json::Map::is_empty)
                    && list.as_array().is_none_or(Vec::is_empty)
            });
            if is_complete {
                output.line(format_args!("killed; everything that it changed is listed above"));
                return;
            }
            output.line(format_args!("killed; according to the projects' ledgers:"));
            for (project, change) in event["moved"].as_object().into_iter().flatten() {
                let from = change["from"].as_str().unwrap_or("no ledger");
                output.line(format_args!(
                    "{project}: moved from {from} to {}",
                    change["to"].as_str().unwrap_or_default()
                ));
            }
            for project in event["gone"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                output.line(format_args!("{project}: dropped"));
            }
        }
        "wave_started" => output.line(format_args!(
            "wave {} of {}: {} projects",
            event["wave"], event["waves"], event["projects"]
        )),
        "halted" => output.line(format_args!(
            "halted in wave {} of {}: {}",
            event["wave"],
            event["waves"],
            text("reason")
        )),
        "run_finished" => output.line(format_args!("finished: {}", event["outcomes"])),
        _ => {}
    }
}
