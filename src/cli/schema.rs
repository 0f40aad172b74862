//! The `schema` commands: show and compare schemas, and report how projects differ from their versions.

use anstyle::{AnsiColor, Style};
use clap::{Args, Subcommand};
use serde_json::json;
use similar::TextDiff;
use tenantry::Result;
use tenantry::manager::{ExtraCode, Operation, Run};

use super::fleet::{dry_run_if, run_and_report};
use super::maintenance::Projects;
use super::{Format, Settings};
use crate::report::Output;

/// Show and compare schemas.
#[derive(Debug, Subcommand)]
pub(super) enum Schema {
    /// Report which projects differ from the version that their ledger records, in groups of the same difference
    #[command(after_long_help = "Exits with 4 if a project differs, or if its version is not known.\n\n\
                           Examples:\n  tenantry schema drift --all\n  tenantry schema drift 42 43")]
    Drift(Drift),
    /// Bring drifted schemas to what their version says, where that loses nothing, after a backup
    #[command(after_long_help = REPAIR_HELP)]
    Repair(Repair),
    /// Print a schema: each object with its parts
    #[command(after_long_help = help("", &["show 42", "show @head"]))]
    Show(Show),
    /// Print a schema's fingerprint, which is equal exactly for schemas that mean the same
    #[command(after_long_help = help("", &["fingerprint 42"]))]
    Fingerprint(Show),
    /// Compare two schemas
    #[command(after_long_help = help(" Exits with 4 if they differ.", &["diff 42 43", "diff 42 @head", "diff @head wanted.sql"]))]
    Diff(Diff),
}

/// The help of a command that reads schemas.
fn help(exit_code: &str, examples: &[&str]) -> String {
    let sources = "A source is a project's id, a version as @VERSION or @head, a SQL file, a SQLite file, or the URL of a \
                   Postgres database, of which the schema public is taken.";
    let examples: Vec<String> = examples.iter().map(|it| format!("  tenantry schema {it}")).collect();
    format!("{sources}{exit_code}\n\nExamples:\n{}", examples.join("\n"))
}

#[derive(Args, Debug)]
pub(super) struct Drift {
    #[command(flatten)]
    projects: Projects,
}

const REPAIR_HELP: &str = "\
Adds what is missing (tables, columns, indexes, views, triggers, constraints that the rows satisfy) and restores changed \
definitions. What would lose or convert data stays as it is and is named. Each project is backed up first; runs rollback \
undoes it. --dry-run repairs a private copy and shows the SQL.

Examples:
  tenantry schema repair 42 --dry-run
  tenantry schema repair --all --drop-extra";

#[derive(Args, Debug)]
pub(super) struct Repair {
    #[command(flatten)]
    projects: Projects,
    /// Only show what would be done, tried out on a private copy; changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Also drop indexes, views, triggers and constraints that no migration makes; never tables or columns
    #[arg(long)]
    drop_extra: bool,
}

#[derive(Args, Debug)]
pub(super) struct Show {
    /// What to read: a project, @VERSION, a SQL file or another database
    #[arg(value_name = "SOURCE")]
    source: String,
}

#[derive(Args, Debug)]
pub(super) struct Diff {
    /// The first schema: a project, @VERSION, a SQL file or another database
    #[arg(value_name = "A")]
    before: String,
    /// The second schema
    #[arg(value_name = "B")]
    after: String,
}

pub(super) fn schema(settings: &Settings, command: Schema) -> Result<u8> {
    match command {
        Schema::Drift(it) => drift(settings, &it),
        Schema::Repair(it) => repair(settings, &it),
        Schema::Show(it) => show(settings, &it.source),
        Schema::Fingerprint(it) => fingerprint(settings, &it.source),
        Schema::Diff(it) => diff(settings, &it),
    }
}

fn drift(settings: &Settings, drift: &Drift) -> Result<u8> {
    let (selection, exit_rules) = drift.projects.selection()?;
    let manager = settings.manager()?;
    let run = Run::new(selection, Operation::Drift).dry_run().exit_rules(exit_rules);
    run_and_report(settings, &manager, &run)
}

fn repair(settings: &Settings, repair: &Repair) -> Result<u8> {
    let (selection, exit_rules) = repair.projects.selection()?;
    let manager = settings.manager()?;
    let extra = if repair.drop_extra { ExtraCode::Drop } else { ExtraCode::Keep };
    let run = Run::new(selection, Operation::Repair(extra)).exit_rules(exit_rules);
    run_and_report(settings, &manager, &dry_run_if(repair.dry_run, run))
}

fn show(settings: &Settings, source: &str) -> Result<u8> {
    let schema = settings.config()?.schema(&settings.manager()?, source)?;
    let mut output = Output::new();
    match settings.format {
        Format::Human => schema.text().lines().for_each(|line| output.line(format_args!("{line}"))),
        Format::Json => {
            output.json(&json!({"v": 1, "event": "schema", "source": shown(source), "schema": &*schema}));
        }
    }
    output.finish()?;
    Ok(0)
}

fn fingerprint(settings: &Settings, source: &str) -> Result<u8> {
    let schema = settings.config()?.schema(&settings.manager()?, source)?;
    let fingerprint = schema.fingerprint().to_string();
    let mut output = Output::new();
    match settings.format {
        Format::Human => output.line(format_args!("{fingerprint}")),
        Format::Json => output.json(
            &json!({"v": 1, "event": "fingerprint", "source": shown(source), "fingerprint": fingerprint}),
        ),
    }
    output.finish()?;
    Ok(0)
}

fn diff(settings: &Settings, diff: &Diff) -> Result<u8> {
    let (config, manager) = (settings.config()?, settings.manager()?);
    let (before, after) = (config.schema(&manager, &diff.before)?, config.schema(&manager, &diff.after)?);
    let (from, to) = (shown(&diff.before), shown(&diff.after));
    let differences = after.differences(&before);
    let mut output = Output::new();
    match settings.format {
        Format::Human => {
            let (old, new) = (before.text(), after.text());
            let diff = TextDiff::from_lines(&old, &new);
            for line in diff.unified_diff().context_radius(3).header(from, to).to_string().lines() {
                let style = style_of(line);
                output.line(format_args!("{style}{line}{style:#}"));
            }
        }
        Format::Json => output.json(&json!({
            "v": 1, "event": "schema_diff", "from": from, "to": to,
            "differences": differences.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })),
    }
    output.finish()?;
    Ok(if differences.is_empty() { 0 } else { 4 })
}

/// A source for a report. A URL may contain a password.
fn shown(source: &str) -> &str {
    if source.contains("://") { "the database" } else { source }
}

fn style_of(line: &str) -> Style {
    match line.bytes().next() {
        Some(b'+') => AnsiColor::Green.on_default(),
        Some(b'-') => AnsiColor::Red.on_default(),
        Some(b'@') => AnsiColor::Cyan.on_default(),
        _ => Style::new(),
    }
}
