//! The `migration` commands.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use tenantry::Result;
use tenantry::manager::DownScriptOutcome;

use super::{Format, Settings, lint, new_migration, squash};
use crate::report::Output;

/// Create and list migrations.
#[derive(Debug, Subcommand)]
pub(super) enum Migration {
    /// Create a migration: one to fill in, or with --diff one that leads to a schema
    #[command(after_long_help = new_migration::HELP)]
    New(new_migration::New),
    /// Find what is dangerous in migrations: what fails only on rows, loses data or blocks applications
    #[command(
        after_long_help = "A comment before a statement allows a finding: -- lint: allow RULE: REASON\n\n\
                           Examples:\n  tenantry migration lint\n  tenantry migration lint --since 20260112000000 --strict --github"
    )]
    Lint(lint::Lint),
    /// Put one migration in the place of those up to a version
    #[command(after_long_help = squash::HELP)]
    Squash(squash::Squash),
    /// List the migrations in order
    #[command(after_long_help = "Examples:\n  tenantry migration list")]
    List,
}

pub(super) fn migration(settings: &Settings, command: Migration) -> Result<u8> {
    match command {
        Migration::New(new) => new_migration::create(settings, &new),
        Migration::Lint(it) => lint::lint(settings, &it),
        Migration::Squash(it) => squash::squash(settings, &it),
        Migration::List => list(settings),
    }
}

fn list(settings: &Settings) -> Result<u8> {
    let catalog = settings.config()?.catalog()?;
    // Without a server to test the scripts on, the migrations are listed without the results.
    let manager = settings.manager().ok();
    let outcomes = manager.and_then(|manager| manager.down_script_outcomes().ok()).unwrap_or_default();
    let mut output = Output::new();
    for (index, migration) in catalog.migrations().iter().chain(catalog.repeatables()).enumerate() {
        let (transaction, down) = (migration.is_transactional(), migration.down.is_some());
        let path: PathBuf = migration.up.path().into();
        let down_error = outcomes.get(index).and_then(down_script_fault);
        match settings.format {
            Format::Human => {
                let mut remarks = Vec::new();
                if !transaction {
                    remarks.push("runs outside a transaction".to_string());
                }
                match &migration.down_error {
                    Some(fault) => remarks.push(format!("its down.sql cannot be run: {fault}")),
                    None if migration.is_repeatable => {
                        remarks.push("repeatable: runs after the others when its text changes".into());
                    }
                    None if !down => remarks.push("no down.sql".into()),
                    None => {}
                }
                remarks.extend(down_error.map(|fault| format!("its down.sql does not revert it: {fault}")));
                let remarks =
                    if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join(", ")) };
                output.line(format_args!("{}  {}{remarks}", migration.version, migration.name));
            }
            Format::Json => output.json(&json!({
                "v": 1, "event": "migration", "version": migration.version, "name": migration.name,
                "run_in_transaction": transaction, "repeatable": migration.is_repeatable, "reversible": down, "leads_elsewhere": down_error,
                "checksum": migration.up.checksum(), "path": path.display().to_string(),
            })),
        }
    }
    output.finish()?;
    Ok(0)
}

/// Returns how the schema differs after a down.sql, or why it failed; `None` if it reverts the migration or was not
/// tested.
fn down_script_fault(outcome: &DownScriptOutcome) -> Option<String> {
    match outcome {
        DownScriptOutcome::Reverts | DownScriptOutcome::Untested => None,
        DownScriptOutcome::Differs(differences) => {
            Some(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        DownScriptOutcome::Fails(error) => Some(error.clone()),
    }
}
