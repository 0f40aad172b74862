//! The command line: its arguments, and the dispatch of each command to its function.
#![expect(clippy::doc_markdown, reason = "these comments are the help text")]

mod backup;
mod catalog;
mod fleet;
mod generate;
mod init;
mod journal;
mod lint;
mod maintenance;
mod naming;
mod new_migration;
mod project;
mod runs;
mod schema;
mod spares;
mod squash;
mod transfer;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tenantry::config::{Config, FILE_NAME, Layer, Migrations};
use tenantry::{Error, ErrorKind, Manager, ProjectId, Result};

use crate::report::{Format, Verbosity};

/// Manage fleets of per-project databases.
///
/// Creates each project's database fully migrated, records the version of existing databases, upgrades all of them in parallel, and
/// shows beforehand exactly what would happen.
#[derive(Debug, Parser)]
#[command(name = "tenantry", version, arg_required_else_help = true)]
#[command(after_help = EXIT_CODES, after_long_help = LONG_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 unexpected error, 2 usage or configuration error, \
                          3 a project failed or the run was halted, 4 a project is blocked or drifted and none failed, 5 changes are pending (--check), \
                          6 no project found, 130 interrupted";

const LONG_HELP: &str = "Exit codes:
  0    success
  1    unexpected error, or findings (doctor, migration lint --strict)
  2    usage or configuration error; nothing was changed
  3    a project failed, or the run was halted
  4    a project is blocked or drifted and none failed
  5    changes are pending (status --check)
  6    no project found (--allow-empty makes it 0)
  130  interrupted

Examples:
  tenantry init
  tenantry create 1 2 3
  tenantry status
  tenantry upgrade-all --dry-run
  tenantry upgrade-all";

/// The options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Settings {
    /// Where the projects are: sqlite:DIR or postgres://user@host/database; or the name of one of several stores in
    /// tenantry.toml, can be repeated [env: TENANTRY_STORE] [default: sqlite:data]
    #[arg(long, global = true, value_name = "URL|NAME")]
    store: Vec<String>,
    /// Use a migration set embedded in the binary [env: TENANTRY_SET] [default: project]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "migrations")]
    set: Option<String>,
    /// Use your own migrations: a folder in the layout of diesel or of another tool [env: TENANTRY_MIGRATIONS]
    #[arg(long, global = true, value_name = "DIR")]
    migrations: Option<PathBuf>,
    /// The tool whose layout the folder has, such as sqlx or refinery [default: recognized by the files]
    #[arg(long, global = true, value_name = "TOOL")]
    layout: Option<String>,
    /// On Postgres, the name by which migrations call the project's own schema, such as public
    #[arg(long, global = true, value_name = "NAME")]
    own_schema: Option<String>,
    /// Use the section [env.NAME] of tenantry.toml, such as staging or production [env: TENANTRY_ENV]
    #[arg(long, global = true, value_name = "NAME")]
    env: Option<String>,
    /// Settings file [env: TENANTRY_CONFIG] [default: tenantry.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names of the projects' files or schemas [default: project_{id}.db, on Postgres project_{id}]
    #[arg(long, global = true, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Number of projects to work on in parallel [env: TENANTRY_JOBS] [default: 16, on Postgres 4]
    #[arg(long, short, global = true, value_name = "N")]
    jobs: Option<usize>,
    /// Folder for backups [env: TENANTRY_BACKUP_DIR] [default: backups in the store's folder, on Postgres ./backups]
    #[arg(long, global = true, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// How long to wait for the lock of another process [default: 5, on Postgres 2 with three retries]
    #[arg(long, global = true, value_name = "SECONDS")]
    lock_timeout: Option<f64>,
    /// How long one statement may run on Postgres [default: 0, no limit]
    #[arg(long, global = true, value_name = "SECONDS")]
    statement_timeout: Option<f64>,
    /// How long to retry reads after a lost connection to Postgres [default: 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    reconnect_timeout: Option<f64>,
    /// Output format
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Report only failures
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Report every project on its own line
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented tenantry.toml and a migrations folder, empty or with the schema of an existing database
    #[command(after_long_help = "Examples:\n  tenantry init\n  tenantry migration new create_notes\n  \
                           tenantry init --from 42\n  \
                           tenantry init --from customers/acme.db --pattern '{id}.db' --store sqlite:customers")]
    Init(init::Init),
    /// Create projects at the newest version
    #[command(after_long_help = "Examples:\n  tenantry create 1 2 3\n  \
                           tenantry create acme --store postgres://app@localhost/fleet")]
    Create(project::Create),
    /// List the projects
    #[command(after_long_help = "Examples:\n  tenantry list\n  tenantry list --only 'acme*'")]
    List(project::List),
    /// Show the version, the pending migrations and the problems of projects
    #[command(after_long_help = "Examples:\n  tenantry status\n  \
                           tenantry status 42\n  \
                           tenantry status --check")]
    Status(fleet::Status),
    /// Record the version that existing databases already have, after verifying their schema
    #[command(after_long_help = "Examples:\n  tenantry stamp --all --dry-run\n  \
                           tenantry stamp 42 --to 20260112000000")]
    Stamp(fleet::Stamp),
    /// Take over existing databases from another migration tool, after verifying its checksums and the schema
    #[command(after_long_help = "Examples:\n  tenantry adopt --all --dry-run\n  \
                           tenantry adopt 42 --from sqlx --retire\n\n\
                           Tools: alembic, atlas, dbmate, drizzle, flyway, golang-migrate, goose, liquibase, prisma, rails,\n\
                           refinery, rusqlite_migration, sqlx, wrangler. diesel's ledger needs no takeover.")]
    Adopt(fleet::Adopt),
    /// Upgrade private copies of projects, and report for each whether its upgrade would succeed, or why not
    #[command(after_long_help = "Examples:\n  tenantry rehearse --all\n  \
                           tenantry rehearse 42 --to 20260112000000 --format json")]
    Rehearse(upgrade::Rehearse),
    /// Upgrade the given projects
    #[command(after_long_help = "Examples:\n  tenantry upgrade 42 --dry-run\n  \
                           tenantry upgrade 42 43 --backup=check")]
    Upgrade(upgrade::Upgrade),
    /// Upgrade every project; first records the version of databases that have no ledger
    #[command(after_long_help = "Examples:\n  tenantry upgrade-all --dry-run\n  \
                           tenantry upgrade-all --backup --max-failures 3\n  \
                           tenantry upgrade-all --waves 1,5%,25%,100% --bake 10m --gate ./healthy.sh\n  \
                           tenantry upgrade-all --except 'demo*'")]
    UpgradeAll(upgrade::UpgradeAll),
    /// Revert projects to an older version with down.sql
    #[command(after_long_help = "Examples:\n  tenantry downgrade 42 --steps 1\n  \
                           tenantry downgrade 42 --to 20260112000000 --dry-run")]
    Downgrade(fleet::Downgrade),
    /// Delete projects, after a final backup of each
    #[command(after_long_help = "Examples:\n  tenantry drop 42 --yes")]
    Drop(project::Drop),
    /// Delete rows older than the migration set's retention period
    #[command(after_long_help = "Examples:\n  tenantry retain --all --dry-run\n  \
                           tenantry retain 42 --older-than 90d")]
    Retain(maintenance::Retain),
    /// Run the integrity checks of the database and the checks of the migration set
    #[command(after_long_help = "Examples:\n  tenantry check --all\n  tenantry check 42 --format json")]
    Check(maintenance::Check),
    /// Update the statistics of the query planner (ANALYZE)
    #[command(after_long_help = "Examples:\n  tenantry analyze --all\n  tenantry analyze 42")]
    Analyze(maintenance::MaintenanceArgs),
    /// Reclaim the disk space of deleted rows (VACUUM)
    #[command(after_long_help = "Examples:\n  tenantry vacuum --all --dry-run\n  tenantry vacuum 42")]
    Vacuum(maintenance::MaintenanceArgs),
    /// Create, list, check, restore and prune backups
    #[command(
        subcommand,
        after_long_help = "Examples:\n  tenantry backup create --all\n  \
                           tenantry backup check --all\n  \
                           tenantry backup restore 42"
    )]
    Backup(backup::Backup),
    /// Write a project as plain SQL
    #[command(after_long_help = "Examples:\n  tenantry export 42 --output 42.sql\n  \
                           tenantry export 42 | sqlite3 copy.db")]
    Export(transfer::Export),
    /// Create a project from plain SQL, and record its version after verifying its schema
    #[command(after_long_help = "Examples:\n  tenantry import 43 42.sql")]
    Import(transfer::Import),
    /// Show and verify the journal of all changes
    #[command(subcommand, after_long_help = "Examples:\n  tenantry audit show\n  tenantry audit verify")]
    Audit(journal::Audit),
    /// List, show, resume and roll back runs
    #[command(
        subcommand,
        after_long_help = "Examples:\n  tenantry runs list\n  \
                           tenantry runs rollback RUN --dry-run"
    )]
    Runs(runs::Runs),
    /// Show and compare schemas, and report which projects differ from their version
    #[command(
        subcommand,
        after_long_help = "Examples:\n  tenantry schema drift --all\n  \
                           tenantry schema diff 42 @head"
    )]
    Schema(schema::Schema),
    /// Prepare schemas for new projects on Postgres, as many as [store] spares sets
    #[command(after_long_help = "Examples:\n  tenantry spares")]
    Spares,
    /// Create, list and lint migrations
    #[command(
        subcommand,
        after_long_help = "Examples:\n  tenantry migration new add_notes\n  \
                           tenantry migration list"
    )]
    Migration(catalog::Migration),
    /// Check versions, compile options, the store and its permissions
    #[command(after_long_help = "Examples:\n  tenantry doctor\n  tenantry doctor --clean")]
    Doctor {
        /// First remove leftovers of killed processes
        #[arg(long)]
        clean: bool,
    },
    /// Print shell completions
    #[command(after_long_help = "Examples:\n  tenantry completions bash > /etc/bash_completion.d/tenantry")]
    Completions(generate::Completions),
    /// Print the manual page, or write a page for every command to a folder
    #[command(after_long_help = "Examples:\n  tenantry man | man -l -\n  \
                           tenantry man /usr/local/share/man/man1")]
    Man(generate::ManPages),
}

/// Parses the command line. For an unknown command such as `restore`, the error suggests `backup restore`.
pub(crate) fn parse() -> std::result::Result<Cli, clap::Error> {
    Cli::try_parse().map_err(|mut error| {
        let suggestions = match error.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(name)) => nested_commands(name),
            _ => Vec::new(),
        };
        if !suggestions.is_empty() {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(suggestions));
        }
        error
    })
}

/// The full names of commands that are part of others, such as `backup restore` for `restore`.
fn nested_commands(name: &str) -> Vec<String> {
    let command = Cli::command();
    let parents = command.get_subcommands().filter(|parent| parent.find_subcommand(name).is_some());
    parents.map(|parent| format!("{} {name}", parent.get_name())).collect()
}

/// Runs a command and returns the exit code.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    let settings = &cli.settings;
    let commands = Cli::command().get_subcommands().map(|command| command.get_name().to_string()).collect();
    crate::report::repeat_options(commands, settings.given_options());
    match cli.command {
        Command::Init(it) => init::init(settings, &it),
        Command::Create(it) => project::create(settings, it),
        Command::List(it) => project::list(settings, &it),
        Command::Status(it) => fleet::status(settings, it),
        Command::Stamp(it) => fleet::stamp(settings, it),
        Command::Adopt(it) => fleet::adopt(settings, it),
        Command::Rehearse(it) => upgrade::rehearse(settings, it),
        Command::Upgrade(it) => upgrade::upgrade(settings, it),
        Command::UpgradeAll(it) => upgrade::upgrade_all(settings, it),
        Command::Downgrade(it) => fleet::downgrade(settings, it),
        Command::Drop(it) => project::drop(settings, it),
        Command::Retain(it) => maintenance::retain(settings, it),
        Command::Check(it) => maintenance::check(settings, it),
        Command::Analyze(it) => {
            maintenance::maintain(settings, tenantry::store::DatabaseMaintenance::Analyze, it)
        }
        Command::Vacuum(it) => {
            maintenance::maintain(settings, tenantry::store::DatabaseMaintenance::Vacuum, it)
        }
        Command::Backup(it) => backup::run(settings, it),
        Command::Export(it) => transfer::export(settings, &it),
        Command::Import(it) => transfer::import(settings, it),
        Command::Audit(it) => journal::audit(settings, it),
        Command::Runs(it) => runs::runs(settings, it),
        Command::Schema(it) => schema::schema(settings, it),
        Command::Spares => spares::fill(settings),
        Command::Migration(it) => catalog::migration(settings, it),
        Command::Doctor { clean } => project::doctor(settings, clean),
        Command::Completions(it) => generate::completions(&it),
        Command::Man(it) => generate::man(it),
    }
}

impl Settings {
    /// Merges the settings: flags override environment variables, which override the file, which overrides defaults.
    fn config(&self) -> Result<Config> {
        let environment = self.env.clone().or_else(|| variable("TENANTRY_ENV"));
        let named = self.config.clone().or_else(|| variable("TENANTRY_CONFIG").map(PathBuf::from));
        let file = match named.or_else(|| Some(PathBuf::from(FILE_NAME)).filter(|path| path.is_file())) {
            Some(path) => Layer::from_file(&path, environment.as_deref())?,
            None if environment.is_some() => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    "an environment is selected, but there is no tenantry.toml",
                )
                .with_hint("create one: tenantry init"));
            }
            None => Layer::default(),
        };
        let set = self.set.clone().map(Migrations::Set);
        let environment = Layer::from_environment(variable)?;
        let has_names = file.stores.is_some() && environment.store.is_none();
        let (store, only_stores) = match self.store.as_slice() {
            [] => (None, None),
            stores if has_names && stores.iter().all(|name| !name.contains(':')) => {
                (None, Some(stores.to_vec()))
            }
            [url] => (Some(url.clone()), None),
            _ => {
                return Err(Error::new(ErrorKind::Usage, "--store was given more than once")
                    .with_hint("for several stores, name them in tenantry.toml: [[stores]]"));
            }
        };
        let flags = Layer {
            store,
            only_stores,
            pattern: self.pattern.clone(),
            migrations: set.or_else(|| self.migrations.clone().map(Migrations::Directory)),
            layout: self.layout.clone(),
            own_schema: self.own_schema.clone(),
            jobs: self.jobs,
            lock_timeout: self.lock_timeout,
            statement_timeout: self.statement_timeout,
            reconnect_timeout: self.reconnect_timeout,
            backups: self.backup_dir.clone(),
            ..Layer::default()
        };
        Config::new(flags.over(environment).over(file))
    }

    /// Returns the options that say which fleet is meant, as they were given. A password is left out.
    fn given_options(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let stores = self.store.iter().cloned();
        let stores = stores.map(|store| if has_password(&store) { "URL".into() } else { store });
        let stores = stores.map(|store| ("--store", Some(store)));
        let options = [
            ("--pattern", self.pattern.clone()),
            ("--set", self.set.clone()),
            ("--migrations", path(&self.migrations)),
            ("--layout", self.layout.clone()),
            ("--own-schema", self.own_schema.clone()),
            ("--config", path(&self.config)),
            ("--env", self.env.clone()),
            ("--backup-dir", path(&self.backup_dir)),
        ];
        let given =
            stores.chain(options).filter_map(|(name, value)| Some(format!("{name} {}", quoted(&value?))));
        given.collect::<Vec<_>>().join(" ")
    }

    /// Returns a manager that stops on SIGINT or SIGTERM: the first signal lets started projects finish, the second
    /// exits at once.
    fn manager(&self) -> Result<Manager> {
        self.manager_rehearsing_on(None)
    }

    /// The manager, whose rehearsals use this server if it is given.
    fn manager_rehearsing_on(&self, url: Option<&str>) -> Result<Manager> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
                .map_err(|error| {
                    Error::new(ErrorKind::Internal, "cannot listen for signals").caused_by(error)
                })?;
        }
        let config = self.config()?;
        let config = match url {
            Some(url) => config.rehearse_on(url)?,
            None => config,
        };
        Ok(config.manager()?.with_interruption(interrupted))
    }

    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// Whether a store's URL has a password.
fn has_password(store: &str) -> bool {
    let user = store.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
    store.contains("password=") || user.is_some_and(|user| user.contains(':'))
}

/// A value as a shell reads it.
fn quoted(value: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "_-./:@=?&%+,".contains(it);
    if value.chars().all(is_plain) && !value.is_empty() {
        value.into()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

/// Returns an environment variable; `None` if it is not set or empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Parses all ids, so that an invalid one fails before any work starts.
fn parse_ids(texts: &[String]) -> Result<Vec<ProjectId>> {
    texts.iter().map(|text| text.parse()).collect()
}
