//! The `init` and `migration` commands.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use tenantry::catalog::new_files;
use tenantry::config::Migrations;
use tenantry::manager::DownScriptOutcome;
use tenantry::{Catalog, Error, ErrorKind, Result};

use super::{Format, Settings, lint, naming};
use crate::report::Output;

/// Create and list migrations.
#[derive(Debug, Subcommand)]
pub(super) enum Migration {
    /// Create an empty migration to fill in
    #[command(after_long_help = "Examples:\n  tenantry migration new add_notes")]
    New(New),
    /// Find what is dangerous in migrations: what fails only on rows, loses data or blocks applications
    #[command(
        after_long_help = "A comment before a statement allows a finding: -- lint: allow RULE: REASON\n\n\
                           Examples:\n  tenantry migration lint\n  tenantry migration lint --since 20260112000000 --strict --github"
    )]
    Lint(lint::Lint),
    /// List the migrations in order
    #[command(after_long_help = "Examples:\n  tenantry migration list")]
    List,
}

#[derive(Args, Debug)]
pub(super) struct New {
    /// Name of the migration, such as add_notes
    name: String,
}

pub(super) fn migration(settings: &Settings, command: Migration) -> Result<u8> {
    match command {
        Migration::New(new) => create(settings, &new.name),
        Migration::Lint(it) => lint::lint(settings, &it),
        Migration::List => list(settings),
    }
}

fn create(settings: &Settings, name: &str) -> Result<u8> {
    let config = settings.config()?;
    let dialect = config.dialect();
    let directory = match config.migrations {
        Migrations::Directory(directory) => directory,
        // A set of the binary can only be extended in tenantry's source tree.
        Migrations::Set(name) => Some(Path::new("migrations").join(name))
            .filter(|path| path.join(dialect.name()).is_dir())
            .ok_or_else(|| {
                Error::new(ErrorKind::Usage, "cannot add to a set that is embedded in the binary")
                    .with_hint("use a folder of your own: --migrations DIR, or create one: tenantry init")
            })?,
    };
    let words: Vec<_> =
        name.split(|it: char| !it.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("{name:?} has no letter or digit"))
            .with_hint("use a name such as add_notes"));
    }
    let subfolder = if directory.is_dir() { Catalog::subfolder(&directory, dialect)? } else { None };
    let is_flat = subfolder.is_none();
    let parent = subfolder.unwrap_or(directory);
    let (file_name, description) = (words.join("_").to_lowercase(), words.join(" "));
    if parent.is_dir()
        && let Some(files) = Catalog::new_files_in_layout(&parent, &file_name, &description, version_after)?
    {
        for (file, text) in &files {
            let path = parent.join(file);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::io("create the folder", folder, error))?;
            }
            write_new(&path, text)?;
        }
        return print_created(settings, &parent.join(&files[0].0));
    }
    let (version, folders) = next_version(&parent)?;
    if let Some(shorter) = folders.iter().find(|folder| is_flat && naming::is_wider(&version, folder)) {
        let message =
            format!("{version} would sort before {shorter}: versions in this folder are sorted as text");
        return Err(Error::new(ErrorKind::Catalog, message).at(&parent, None).with_hint(
            "move the migrations to its subfolder sqlite/ or postgres/, where plain numbers are sorted as numbers",
        ));
    }
    let folder = parent.join(format!("{version}_{file_name}"));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("create the folder", &folder, error))?;
    for (file, text) in new_files(&description) {
        write_new(&folder.join(file), &text)?;
    }
    print_created(settings, &folder)
}

fn print_created(settings: &Settings, path: &Path) -> Result<u8> {
    let mut output = Output::new();
    match settings.format {
        Format::Human => output.line(format_args!("{}", path.display())),
        Format::Json => {
            output.json(&json!({"v": 1, "event": "migration_made", "folder": path.display().to_string()}));
        }
    }
    output.finish()?;
    Ok(0)
}

/// Returns a version after the existing ones, in their style.
fn version_after(names: &[String]) -> Result<String> {
    naming::next_version(names, time::OffsetDateTime::now_utc())
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot name the migration").caused_by(error))
}

/// Returns a version for the first migration of a folder.
pub(super) fn first_version() -> Result<String> {
    version_after(&[])
}

/// Returns the next version for a folder, in the style of the existing ones, and the names of the existing folders.
fn next_version(parent: &Path) -> Result<(String, Vec<String>)> {
    let folders: Vec<String> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().filter(|it| it.path().is_dir())?.file_name().into_string().ok())
        .collect();
    Ok((version_after(&folders)?, folders))
}

pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let write = || std::fs::File::create_new(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io("write", path, error).with_hint("nothing was overwritten"))
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
