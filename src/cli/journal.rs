//! The `audit` commands.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tenantry::journal::{Anchor, Entry, Journal, Json, current_actor};
use tenantry::rules::parse_age;
use tenantry::{Error, ErrorKind, Result};

use super::{Format, Settings};
use crate::report::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Show the entries of the journal
    #[command(after_long_help = "Examples:\n  tenantry audit show\n  \
                           tenantry audit show --format json")]
    Show,
    /// Verify the hash chain from the first entry to the last
    #[command(after_long_help = "Examples:\n  tenantry audit verify\n  \
                           tenantry audit verify --anchor \"$(cat anchor.txt)\"")]
    Verify(Verify),
    /// Print the number of entries and the last hash, to be kept elsewhere
    #[command(after_long_help = "Examples:\n  tenantry audit anchor > anchor.txt")]
    Anchor,
    /// Copy the journal of a folder into this one, which must be empty; the chain stays as it is
    #[command(after_long_help = "Examples:\n  tenantry audit import journal/fleet@db.example.com")]
    Import(Import),
    /// Remove old entries, and leave a checkpoint that continues the chain
    #[command(after_long_help = "Examples:\n  tenantry audit prune --older-than 365d")]
    Prune(Prune),
}

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// Anchor printed by audit anchor, to detect entries cut off or rewritten since
    #[arg(long, value_name = "ANCHOR")]
    anchor: Option<String>,
    /// Fail if entries were appended since the anchor
    #[arg(long, requires = "anchor")]
    exact: bool,
}

#[derive(Args, Debug)]
pub(super) struct Import {
    /// Folder of the journal to copy
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct Prune {
    /// Minimum age of the entries: a number with s, m, h, d or w, such as 90d
    #[arg(long, value_name = "AGE")]
    older_than: String,
}

pub(super) fn audit(settings: &Settings, command: Audit) -> Result<u8> {
    let journal = settings.config()?.journal()?;
    let mut output = Output::new();
    match command {
        Audit::Show => {
            journal.for_each_entry(|entry| show_entry(&mut output, settings.format, &entry))?;
        }
        Audit::Verify(verify) => {
            let anchor: Option<Anchor> = verify.anchor.as_deref().map(str::parse).transpose()?;
            let verified = journal.verify(anchor.as_ref())?;
            let Some(verified) = verified else {
                return Ok(no_journal_yet(&journal.location()));
            };
            if let Some(more) = verified.since_anchor.filter(|more| verify.exact && *more > 0) {
                return Err(Error::new(
                    ErrorKind::CheckFailed,
                    format!("{more} entries were appended since the anchor"),
                )
                .with_hint("to see them: tenantry audit show"));
            }
            match settings.format {
                Format::Human => {
                    let since = verified
                        .since_anchor
                        .map_or_else(String::new, |more| format!(", {more} since the anchor"));
                    output.line(format_args!(
                        "entries {} to {} are intact{since}; last hash {}",
                        verified.first, verified.anchor.count, verified.anchor.head
                    ));
                }
                Format::Json => output.json(&json!({"v": 1, "event": "journal", "verified": verified})),
            }
        }
        Audit::Anchor => {
            let Some(verified) = journal.verify(None)? else {
                return Ok(no_journal_yet(&journal.location()));
            };
            match settings.format {
                Format::Human => output.line(format_args!("{}", verified.anchor)),
                Format::Json => {
                    output.json(&json!({"v": 1, "event": "anchor", "anchor": verified.anchor.to_string()}));
                }
            }
        }
        Audit::Import(import) => {
            let copied = journal.import(&Journal::new(&import.directory, current_actor()))?;
            match settings.format {
                Format::Human => output.line(format_args!("{copied} entries copied and verified")),
                Format::Json => output.json(&json!({"v": 1, "event": "imported", "entries": copied})),
            }
        }
        Audit::Prune(prune) => {
            let removed = journal.prune(parse_age(&prune.older_than)?)?;
            match settings.format {
                Format::Human => output.line(format_args!("{removed} entries removed")),
                Format::Json => output.json(&json!({"v": 1, "event": "pruned", "entries": removed})),
            }
        }
    }
    output.finish()?;
    Ok(0)
}

fn no_journal_yet(location: &str) -> u8 {
    crate::report::note(format_args!("no journal in {location}: nothing was changed yet"));
    0
}

/// Formats the numbers of projects by outcome; empty if they are not known.
pub(super) fn outcomes(counts: &Value) -> String {
    let format_count = |(name, count): (&String, &Value)| format!("{count} {}", name.replace('_', " "));
    counts.as_object().into_iter().flatten().map(format_count).collect::<Vec<_>>().join(", ")
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

/// Converts a document to a JSON value.
pub(super) fn value_of(document: &Json) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}
