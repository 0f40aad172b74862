//! The commands about migrations: starting a project's folder, making one, listing them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use tenantry::catalog::new_files;
use tenantry::config::{FILE_NAME, Migrations};
use tenantry::plan::DownScriptOutcome;
use tenantry::{Catalog, Error, ErrorKind, Result};

use super::{Format, Settings, naming};
use crate::report::Output;

/// Make and list migrations.
#[derive(Debug, Subcommand)]
pub(super) enum Migration {
    /// Make a migration, to be filled in
    New(New),
    /// List the migrations, in order
    List,
}

#[derive(Args, Debug)]
pub(super) struct New {
    /// What it does, in a few words
    name: String,
}

const EXAMPLE: &str = r#"# Settings of tenantry. Flags are over environment variables (TENANTRY_STORE, TENANTRY_SET,
# TENANTRY_MIGRATIONS, TENANTRY_JOBS), those over this file. Paths are relative to this file's folder.

[store]
# Where the projects are: a folder of SQLite files, or a Postgres database with a schema for each.
url = "sqlite:data"
# url = "postgres://user@host/database"   (a password is better off in ~/.pgpass)
# How the files or schemas are named.
# pattern = "project_{id}.db"
# On Postgres: schemas that are kept ready, so that a create needs no migration to run.
# spares = 8
# On Postgres: a login for each project that reaches its schema alone.
# isolation = "role"

[migrations]
# Your own: a folder of <version>_<name>/{up.sql,down.sql,metadata.toml}.
directory = "migrations"
# Or a set of the binary.
# set = "project"

[run]
# How many projects are worked on at once.
# jobs = 16
# How long to wait for another process's lock, in seconds.
# lock_timeout = 5
# How long one statement may run on Postgres, in seconds.
# statement_timeout = 0
# How long reading is tried again that lost its connection to Postgres, in seconds.
# reconnect_timeout = 10

[backup]
# Where backups are kept.
# dir = "/srv/backups"

[journal]
# Where it is recorded what was changed.
# dir = "/srv/journal"

# tenantry --env production ...
# [env.production.store]
# url = "sqlite:/srv/data"
"#;

pub(super) fn init() -> Result<u8> {
    let file = Path::new(FILE_NAME);
    write_new(file, EXAMPLE)?;
    let folder = Path::new("migrations");
    std::fs::create_dir_all(folder).map_err(|error| Error::io("make the folder", folder, error))?;
    crate::report::note(format_args!("wrote {FILE_NAME} and migrations/; next: tenantry migration new NAME"));
    Ok(0)
}

pub(super) fn migration(settings: &Settings, command: Migration) -> Result<u8> {
    match command {
        Migration::New(new) => make(settings, &new.name),
        Migration::List => list(settings),
    }
}

fn make(settings: &Settings, name: &str) -> Result<u8> {
    let config = settings.config()?;
    let dialect = config.dialect();
    let directory = match config.migrations {
        Migrations::Directory(directory) => directory,
        // Where the sets of the binary are made: in tenantry's own sources.
        Migrations::Set(name) => Some(Path::new("migrations").join(name))
            .filter(|path| path.join(dialect.name()).is_dir())
            .ok_or_else(|| {
                Error::new(ErrorKind::Usage, "the sets of the binary can't be added to from here")
                    .with_hint("name a folder of your own: --migrations DIR, or start one with tenantry init")
            })?,
    };
    let words: Vec<_> =
        name.split(|it: char| !it.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("{name:?} has no letter or digit"))
            .with_hint("such as add_notes"));
    }
    let own = if directory.is_dir() { Catalog::subfolder(&directory, dialect)? } else { None };
    let is_flat = own.is_none();
    let parent = own.unwrap_or(directory);
    let (version, folders) = next_version(&parent)?;
    if let Some(shorter) = folders.iter().find(|folder| is_flat && naming::is_wider(&version, folder)) {
        let message = format!("{version} would come before {shorter}: such a folder is ordered as text");
        return Err(Error::new(ErrorKind::Catalog, message).at(&parent, None).with_hint(
            "move them into a folder sqlite/ or postgres/ in it: there plain numbers are ordered as numbers",
        ));
    }
    let folder = parent.join(format!("{version}_{}", words.join("_").to_lowercase()));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("make the folder", &folder, error))?;
    let what = words.join(" ");
    for (file, text) in new_files(&what) {
        write_new(&folder.join(file), &text)?;
    }
    let mut output = Output::new();
    match settings.format {
        Format::Human => output.line(format_args!("{}", folder.display())),
        Format::Json => {
            output.json(&json!({"v": 1, "event": "migration_made", "folder": folder.display().to_string()}));
        }
    }
    output.finish()?;
    Ok(0)
}

/// The version after those in a folder, in their style, and the folders that are there.
fn next_version(parent: &Path) -> Result<(String, Vec<String>)> {
    let folders: Vec<String> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().filter(|it| it.path().is_dir())?.file_name().into_string().ok())
        .collect();
    let next = naming::next_version(&folders, time::OffsetDateTime::now_utc())
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot name the migration").caused_by(error))?;
    Ok((next, folders))
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let write = || std::fs::File::create_new(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io("write", path, error).with_hint("nothing was overwritten"))
}

fn list(settings: &Settings) -> Result<u8> {
    let catalog = settings.config()?.catalog()?;
    // Where there is no server to run them on, the scripts are listed all the same.
    let manager = settings.manager().ok();
    let reference = manager.as_ref().and_then(|manager| manager.reference_with_downs().ok());
    let mut output = Output::new();
    for (index, migration) in catalog.migrations().iter().enumerate() {
        let (transaction, down) = (migration.is_transactional(), migration.down.is_some());
        let path: PathBuf = migration.up.path().into();
        let wrong = reference.and_then(|it| wrong_result(it.down_script_outcome(index)?));
        match settings.format {
            Format::Human => {
                let mut remarks = Vec::new();
                if !transaction {
                    remarks.push("runs outside a transaction".to_string());
                }
                match &migration.down_fault {
                    Some(fault) => remarks.push(format!("its down.sql can't be run: {fault}")),
                    None if !down => remarks.push("no down.sql".into()),
                    None => {}
                }
                remarks.extend(wrong.map(|where_to| format!("its down.sql does not lead back: {where_to}")));
                let remarks =
                    if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join(", ")) };
                output.line(format_args!("{}  {}{remarks}", migration.version, migration.name));
            }
            Format::Json => output.json(&json!({
                "v": 1, "event": "migration", "version": migration.version, "name": migration.name,
                "run_in_transaction": transaction, "reversible": down, "leads_elsewhere": wrong,
                "checksum": migration.up.checksum(), "path": path.display().to_string(),
            })),
        }
    }
    output.finish()?;
    Ok(0)
}

/// Where a down.sql leads, if not back.
fn wrong_result(down_script_outcome: &DownScriptOutcome) -> Option<String> {
    match down_script_outcome {
        DownScriptOutcome::Reverts | DownScriptOutcome::Untested => None,
        DownScriptOutcome::Differs(differences) => {
            Some(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        DownScriptOutcome::Fails(error) => Some(error.clone()),
    }
}
