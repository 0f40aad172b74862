//! The commands about what was done: audit and runs.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tenantry::event::ExitRules;
use tenantry::journal::{Anchor, Entry, Json};
use tenantry::manager::{Operation, Run, Selection};
use tenantry::rules::parse_age;
use tenantry::{Error, ErrorKind, Result};

use super::fleet::carry_out;
use super::{Format, Settings};
use crate::report::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Show the journal's entries
    Show,
    /// Follow the chain of hashes from its first entry to its last
    Verify(Verify),
    /// Print how many entries there are and the last one's hash, to be kept elsewhere
    Anchor,
    /// Remove old entries, leaving a checkpoint that the rest goes on from
    Prune(Prune),
}

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// What audit anchor printed: finds entries cut off or rewritten since
    #[arg(long, value_name = "ANCHOR")]
    anchor: Option<String>,
    /// Nothing may have been appended since the anchor
    #[arg(long, requires = "anchor")]
    exact: bool,
}

#[derive(Args, Debug)]
pub(super) struct Prune {
    /// How old: a number with s, m, h, d or w
    #[arg(long, value_name = "AGE")]
    older_than: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Runs {
    /// List runs, oldest first
    List,
    /// Show what a run did to each project
    Show(Show),
    /// Undo a run: the projects that it moved go back
    Rollback(Rollback),
}

#[derive(Args, Debug)]
pub(super) struct Show {
    /// The run's id
    #[arg(value_name = "RUN")]
    run: String,
}

#[derive(Args, Debug)]
pub(super) struct Rollback {
    /// The run's id
    #[arg(value_name = "RUN")]
    run: String,
    /// Only say what would be done, and how
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn audit(settings: &Settings, command: Audit) -> Result<u8> {
    let journal = settings.config()?.journal();
    let mut output = Output::new();
    match command {
        Audit::Show => {
            journal.each(|entry| show_entry(&mut output, settings.format, &entry))?;
        }
        Audit::Verify(verify) => {
            let anchor: Option<Anchor> = verify.anchor.as_deref().map(str::parse).transpose()?;
            let verified = journal.verify(anchor.as_ref())?;
            let Some(verified) = verified else {
                return Ok(nothing_yet(&journal.location().display().to_string()));
            };
            if let Some(more) = verified.since_anchor.filter(|more| verify.exact && *more > 0) {
                return Err(Error::new(
                    ErrorKind::CheckFailed,
                    format!("{more} entries were appended since the anchor"),
                )
                .with_hint("see which: tenantry audit show"));
            }
            match settings.format {
                Format::Human => {
                    let since = verified
                        .since_anchor
                        .map_or_else(String::new, |more| format!(", {more} since the anchor"));
                    output.line(format_args!(
                        "entries {} to {} hold{since}; the last has {}",
                        verified.first, verified.anchor.count, verified.anchor.head
                    ));
                }
                Format::Json => output.json(&json!({"v": 1, "event": "journal", "verified": verified})),
            }
        }
        Audit::Anchor => {
            let Some(verified) = journal.verify(None)? else {
                return Ok(nothing_yet(&journal.location().display().to_string()));
            };
            match settings.format {
                Format::Human => output.line(format_args!("{}", verified.anchor)),
                Format::Json => {
                    output.json(&json!({"v": 1, "event": "anchor", "anchor": verified.anchor.to_string()}));
                }
            }
        }
        Audit::Prune(prune) => {
            let gone = journal.prune(parse_age(&prune.older_than)?)?;
            match settings.format {
                Format::Human => output.line(format_args!("{gone} entries removed")),
                Format::Json => output.json(&json!({"v": 1, "event": "pruned", "entries": gone})),
            }
        }
    }
    output.finish()?;
    Ok(0)
}

fn nothing_yet(location: &str) -> u8 {
    crate::report::note(format_args!("nothing was changed yet: no journal in {location}"));
    0
}

/// How many projects had which outcome, as far as that is known.
fn outcomes(counts: &Value) -> String {
    let spelled = |(name, count): (&String, &Value)| format!("{count} {}", name.replace('_', " "));
    counts.as_object().into_iter().flatten().map(spelled).collect::<Vec<_>>().join(", ")
}

fn show_entry(output: &mut Output, format: Format, entry: &Entry) {
    match format {
        Format::Json => output.json(&json!({"v": 1, "event": "entry", "entry": entry})),
        Format::Human => {
            let Entry { seq, at, actor, kind, command, .. } = entry;
            let project = entry.project.as_ref().map(|project| format!(" {project}")).unwrap_or_default();
            let outcomes = outcomes(&value_of(&entry.payload)["outcomes"]);
            let run = entry.run.as_deref().unwrap_or_default();
            output.line(format_args!("{seq:>5}  {at}  {actor}  {kind} {command}{project} {outcomes}  {run}"));
        }
    }
}

pub(super) fn runs(settings: &Settings, command: Runs) -> Result<u8> {
    match command {
        Runs::List => list(settings),
        Runs::Show(show) => self::show(settings, &show.run),
        Runs::Rollback(rollback) => {
            let manager = settings.manager()?;
            let undo = manager.rollback_of(&rollback.run)?;
            let run = Run {
                dry_run: rollback.dry_run,
                exit_rules: ExitRules { allow_empty: true, check: false },
                ..Run::new(Selection::Ids(undo.moved.keys().cloned().collect()), Operation::RollBack(undo))
            };
            carry_out(settings, &manager, &run)
        }
    }
}

fn list(settings: &Settings) -> Result<u8> {
    let journal = settings.config()?.journal();
    let mut runs: Vec<(Entry, Option<Entry>)> = Vec::new();
    journal.each(|entry| match (entry.kind.as_str(), &entry.run) {
        ("run_started", Some(_)) => runs.push((entry, None)),
        ("run_finished" | "run_completed", Some(run)) => {
            if let Some(found) = runs.iter_mut().find(|(begun, _)| begun.run.as_ref() == Some(run)) {
                found.1 = Some(entry);
            }
        }
        _ => {}
    })?;
    let mut output = Output::new();
    for (begun, end) in runs {
        let run = begun.run.clone().unwrap_or_default();
        let state = match &end {
            Some(end) if end.kind == "run_finished" => "finished",
            Some(_) => "killed",
            None => "open",
        };
        let outcomes = end.as_ref().map(|end| value_of(&end.payload)["outcomes"].clone()).unwrap_or_default();
        let after = value_of(&begun.payload)["after"].clone();
        match settings.format {
            Format::Human => {
                let outcomes = self::outcomes(&outcomes);
                let after = after.as_str().map(|after| format!("  after {after}")).unwrap_or_default();
                output.line(format_args!("{run}  {}  {}  {}  {state} {outcomes}{after}", begun.at, begun.actor, begun.command));
            }
            Format::Json => output.json(&json!({
                "v": 1, "event": "run", "run": run, "at": begun.at, "actor": begun.actor, "command": begun.command,
                "state": state, "outcomes": outcomes, "after": after, "options": begun.payload,
            })),
        }
    }
    output.finish()?;
    Ok(0)
}

fn show(settings: &Settings, run: &str) -> Result<u8> {
    let journal = settings.config()?.journal();
    let events = journal.events(run)?;
    let mut output = Output::new();
    for event in &events {
        match settings.format {
            Format::Json => output.json(event),
            Format::Human => show_event(&mut output, &value_of(event)),
        }
    }
    if journal.is_open(run) {
        crate::report::note(format_args!(
            "it has not ended; if it was killed, the next command completes this"
        ));
    }
    output.finish()?;
    Ok(0)
}

/// A document as this program looks into it.
fn value_of(document: &Json) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

fn show_event(output: &mut Output, event: &Value) {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_string();
    match event["event"].as_str().unwrap_or_default() {
        "run" => {
            let catalog = event["options"]["catalog"].as_str().unwrap_or_default();
            output.line(format_args!("{} {} on the catalog {catalog:.12}", text("command"), text("run")));
            if let Some(after) = event["after"].as_str() {
                output.line(format_args!("after the killed run {after}"));
            }
        }
        "project_finished" => {
            let moved = match (event["from"].as_str(), event["to"].as_str()) {
                (from, Some(to)) => format!(" {} -> {to}", from.unwrap_or("no ledger")),
                _ => String::new(),
            };
            let error =
                event["error"]["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
            let time = event["elapsed_us"].as_u64().unwrap_or_default();
            let (project, outcome) = (text("project"), text("outcome"));
            output.line(format_args!("{project}: {outcome}{moved}{error} ({time} µs)"));
            for note in event["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                output.line(format_args!("    {note}"));
            }
        }
        "run_completed" => {
            output.line(format_args!("killed; from the projects' ledgers:"));
            for (project, found) in event["moved"].as_object().into_iter().flatten() {
                let from = found["from"].as_str().unwrap_or("no ledger");
                output.line(format_args!(
                    "{project}: moved from {from} to {}",
                    found["to"].as_str().unwrap_or_default()
                ));
            }
            for project in event["gone"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                output.line(format_args!("{project}: dropped"));
            }
        }
        "run_finished" => output.line(format_args!("ended: {}", event["outcomes"])),
        _ => {}
    }
}
