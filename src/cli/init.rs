//! The command init: the settings file and the folder of migrations of a new fleet, or of one that has no migrations yet.

use std::path::Path;

use clap::Args;
use tenantry::config::FILE_NAME;
use tenantry::manager::{Operation, Request, Run, Selection};
use tenantry::{Error, ErrorKind, Result};

use super::fleet::run_and_report;
use super::new_migration::{first_version, write_new};
use super::{Settings, has_password};

#[derive(Args, Debug)]
pub(super) struct Init {
    /// Begin with the schema of a project, a SQLite file, or the schema public of a Postgres database
    #[arg(long, value_name = "ID|FILE|URL")]
    from: Option<String>,
}

const EXAMPLE: &str = r#"# Settings of tenantry. Flags override environment variables (TENANTRY_STORE, TENANTRY_SET,
# TENANTRY_MIGRATIONS, TENANTRY_JOBS), which override this file. Paths are relative to this file's folder.

[store]
# Where the projects are: a folder of SQLite files, or a Postgres database with a schema for each project.
url = "sqlite:data"
# url = "postgres://user@host/database"   (keep the password in ~/.pgpass)
# The names of the files or schemas.
# pattern = "project_{id}.db"
# On Postgres: the number of migrated schemas to keep ready, so that a create runs no migrations.
# spares = 8
# On Postgres: give each project a login that can access only its own schema.
# isolation = "role"
# On Postgres: the schemas that all projects share, such as the one with extensions. They follow a project's own.
# shared = ["public"]
# On Postgres: the schema in which CREATE EXTENSION creates extensions, if it is not the first shared one.
# extensions = "extensions"

[migrations]
# Your own migrations: a folder of <version>_<name>/{up.sql,down.sql,metadata.toml}, or in the layout of another tool.
directory = "migrations"
# The tool, if the files do not show it: sqlx, refinery, flyway, dbmate, goose, golang-migrate, prisma, atlas, wrangler, drizzle.
# layout = "refinery"
# On Postgres: the name by which the migrations call the project's own schema.
# own_schema = "public"
# Or a set that is embedded in the binary.
# set = "project"

[schema]
# Objects that no migration makes and that are not compared. They are still backed up.
# ignore = ["tmp_*", "view:report_*"]

[lint]
# The rules of migration lint that are switched off.
# off = ["rename"]
# Whether its findings are errors.
# strict = true

[sqlite]
# Extensions that the application loads, by name or path. They are foreign code: name only what you trust.
# load = ["vec0"]
# Up to which size a database is rehearsed in memory, in MiB. A larger one is copied into a temporary file.
# rehearsal_memory_mib = 64

[run]
# The number of projects to work on in parallel.
# jobs = 16
# How long to wait for the lock of another process, in seconds.
# lock_timeout = 5
# How long one statement may run on Postgres, in seconds.
# statement_timeout = 0
# How long to retry reads after a lost connection to Postgres, in seconds.
# reconnect_timeout = 10

[rollout]
# How upgrade-all goes through the fleet. Sizes count the projects of all waves so far.
# waves = "1,5%,25%,100%"
# canary = ["42"]
# How long to wait after each wave, and the command that decides whether the run goes on.
# bake = "10m"
# gate = "./healthy.sh"
# After how many failures the run is halted: max_failures = 3, or a share.
# max_failure_rate = "0.5%"

[backup]
# The folder for backups.
# dir = "/srv/backups"

[journal]
# Where every change is recorded: a folder, or the schema tenantry_journal of a Postgres database.
# url = "postgres://user@host/database"
# dir = "/srv/journal"

# tenantry --env production ...
# [env.production.store]
# url = "sqlite:/srv/data"
"#;

pub(super) fn init(settings: &Settings, init: &Init) -> Result<u8> {
    let (file, folder) = (Path::new(FILE_NAME), Path::new("migrations"));
    let Some(source) = &init.from else {
        write_settings(file, EXAMPLE)?;
        let (wrote, next) = if folder.is_dir() {
            ("", "tenantry status")
        } else {
            create_folder(folder)?;
            (" and migrations/", "tenantry migration new NAME")
        };
        crate::report::note(format_args!("wrote {FILE_NAME}{wrote}; next: {next}"));
        return Ok(0);
    };
    if file.exists() {
        return Err(settings_exist());
    }
    let is_empty = !folder.exists() || folder.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        return Err(Error::new(ErrorKind::AlreadyExists, "the folder migrations is not empty")
            .with_hint("run the command in another folder, or move the migrations away"));
    }
    let config = settings.config()?;
    let sql = config.schema_sql(source)?;
    let up = folder.join(format!("{}_baseline", first_version()?)).join("up.sql");
    create_folder(up.parent().unwrap_or(folder))?;
    write_new(
        &up,
        &format!("-- The schema of {} when the fleet began to be managed.\n\n{sql}", described(source)),
    )?;
    write_settings(file, &with_location(EXAMPLE, settings))?;
    crate::report::note(format_args!("wrote {FILE_NAME} and {}", up.display()));
    // Which projects have this schema, and how the others differ.
    let manager = settings.manager()?;
    let request = Request::Stamp { to: None, force: false };
    let run = Run::new(Selection::all(), Operation::Migrate(request)).dry_run();
    let code = run_and_report(settings, &manager, &run)?;
    crate::report::note(format_args!(
        "next: tenantry stamp --all, which records the version of those that fit"
    ));
    Ok(code)
}

/// The example with the store that the options name, so that the next commands need no options.
fn with_location(example: &str, settings: &Settings) -> String {
    let mut text = example.to_string();
    if let Some(store) = settings.store.first().filter(|store| !has_password(store)) {
        text = text.replace("url = \"sqlite:data\"\n", &format!("url = {store:?}\n"));
    }
    if let Some(pattern) = &settings.pattern {
        text = text.replace("# pattern = \"project_{id}.db\"\n", &format!("pattern = {pattern:?}\n"));
    }
    text
}

/// The source for a comment in a file. A URL may contain a password.
fn described(source: &str) -> &str {
    if source.contains("://") { "an existing database" } else { source }
}

fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("create the folder", folder, error))
}

fn write_settings(file: &Path, text: &str) -> Result<()> {
    if file.exists() { Err(settings_exist()) } else { write_new(file, text) }
}

fn settings_exist() -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{FILE_NAME} exists already; nothing was changed"))
        .with_hint("edit it, or run the command in another folder")
}
