//! The command line: its types, and the way from a command to the function that carries it out.
//!
//! It must not speak SQL or look into databases: that is the library's business.
#![expect(clippy::doc_markdown, reason = "these comments are the help text")]

mod backup;
mod catalog;
mod fleet;
mod generate;
mod journal;
mod maintenance;
mod naming;
mod project;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tenantry::config::{Config, FILE_NAME, Layer, Migrations};
use tenantry::{Error, ErrorKind, Manager, ProjectId, Result};

/// Manages fleets of per-project databases.
///
/// Creates each project's database already migrated, takes over databases that exist, upgrades all of them in
/// parallel, and says beforehand exactly what would happen.
#[derive(Debug, Parser)]
#[command(name = "tenantry", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 unexpected, 2 usage or configuration, 3 some project failed, \
                          4 some project blocked and none failed, 5 pending (--check), 6 no project found, 130 interrupted";

/// What every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Settings {
    /// Where the projects are: sqlite:DIR, or postgres://user@host/database [env: TENANTRY_STORE] [default: sqlite:data]
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// A migration set of the binary [env: TENANTRY_SET] [default: project]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "migrations")]
    set: Option<String>,
    /// Your own migrations: a folder of VERSION_NAME/up.sql, as diesel has it [env: TENANTRY_MIGRATIONS]
    #[arg(long, global = true, value_name = "DIR")]
    migrations: Option<PathBuf>,
    /// The section [env.NAME] of tenantry.toml, such as dev, staging, production [env: TENANTRY_ENV]
    #[arg(long, global = true, value_name = "NAME")]
    env: Option<String>,
    /// The settings file [env: TENANTRY_CONFIG] [default: tenantry.toml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the databases are named [default: project_{id}.db, on Postgres project_{id}]
    #[arg(long, global = true, value_name = "PATTERN")]
    pattern: Option<String>,
    /// How many projects are worked on at once [env: TENANTRY_JOBS] [default: 16, on Postgres 4]
    #[arg(long, short, global = true, value_name = "N")]
    jobs: Option<usize>,
    /// Where backups are kept [env: TENANTRY_BACKUP_DIR] [default: backups beside the projects, for Postgres ./backups/DATABASE]
    #[arg(long, global = true, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// How long to wait for another process's lock [default: 5, on Postgres 2 and then again]
    #[arg(long, global = true, value_name = "SECONDS")]
    lock_timeout: Option<f64>,
    /// How long one statement may run, on Postgres [default: 0, no limit]
    #[arg(long, global = true, value_name = "SECONDS")]
    statement_timeout: Option<f64>,
    /// How long reading is tried again that lost its connection to Postgres [default: 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    reconnect_timeout: Option<f64>,
    /// How to report
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Report failures only
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// A line for each project
    #[arg(long, short, global = true)]
    verbose: bool,
}

/// How to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Groups and totals
    Human,
    /// One JSON object a line
    Json,
}

/// How much to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Failures.
    Quiet,
    /// Groups.
    Normal,
    /// Every project.
    Verbose,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented tenantry.toml and an empty migrations folder
    Init,
    /// Make databases, each at the newest version
    Create(project::Create),
    /// List the projects there are
    List(project::List),
    /// Say where projects stand: version, pending, problems
    Status(fleet::Status),
    /// Record the version that existing databases already have, once it is checked
    Stamp(fleet::Stamp),
    /// Upgrade the projects named
    Upgrade(fleet::Upgrade),
    /// Upgrade every project, taking over those without a ledger
    UpgradeAll(fleet::UpgradeAll),
    /// Go back to an older version by down.sql
    Downgrade(fleet::Downgrade),
    /// Delete databases, each after a last backup
    Drop(project::Drop),
    /// Delete rows that the set keeps no longer
    Retain(maintenance::Retain),
    /// Check databases: by their own means and by what the set says must hold
    Check(maintenance::Check),
    /// Gather anew what the databases' planners go by
    Analyze(maintenance::MaintenanceArgs),
    /// Have databases give back the room of rows that are gone
    Vacuum(maintenance::MaintenanceArgs),
    /// Take, list, check, restore and remove backups
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Write a project as plain SQL
    Export(transfer::Export),
    /// Make a project of plain SQL, and record its version once it is checked
    Import(transfer::Import),
    /// Show and verify the journal of what was changed
    #[command(subcommand)]
    Audit(journal::Audit),
    /// List, show and undo runs
    #[command(subcommand)]
    Runs(journal::Runs),
    /// Make schemas ready to become projects, as many as [store] spares says
    Spares,
    /// Make and list migrations
    #[command(subcommand)]
    Migration(catalog::Migration),
    /// Look at versions, compile options, the store and its permissions
    Doctor {
        /// Remove what killed processes left, first; touches nothing that anybody uses
        #[arg(long)]
        clean: bool,
    },
    /// Print completions for a shell
    Completions(generate::Completions),
    /// Print the manual page, or write one for every command into a folder
    Man(generate::ManPages),
}

/// Carries out a command; gives the exit code.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    let settings = &cli.settings;
    match cli.command {
        Command::Init => catalog::init(),
        Command::Create(it) => project::create(settings, it),
        Command::List(it) => project::list(settings, &it),
        Command::Status(it) => fleet::status(settings, it),
        Command::Stamp(it) => fleet::stamp(settings, it),
        Command::Upgrade(it) => fleet::upgrade(settings, it),
        Command::UpgradeAll(it) => fleet::upgrade_all(settings, it),
        Command::Downgrade(it) => fleet::downgrade(settings, it),
        Command::Drop(it) => project::drop(settings, it),
        Command::Retain(it) => maintenance::retain(settings, it),
        Command::Check(it) => maintenance::check(settings, it),
        Command::Analyze(it) => maintenance::maintain(settings, tenantry::store::Maintenance::Analyze, it),
        Command::Vacuum(it) => maintenance::maintain(settings, tenantry::store::Maintenance::Vacuum, it),
        Command::Backup(it) => backup::run(settings, it),
        Command::Export(it) => transfer::export(settings, &it),
        Command::Import(it) => transfer::import(settings, it),
        Command::Audit(it) => journal::audit(settings, it),
        Command::Runs(it) => journal::runs(settings, it),
        Command::Spares => project::spares(settings),
        Command::Migration(it) => catalog::migration(settings, it),
        Command::Doctor { clean } => project::doctor(settings, clean),
        Command::Completions(it) => generate::completions(&it),
        Command::Man(it) => generate::man(it),
    }
}

impl Settings {
    /// Flags over environment over file over defaults.
    fn config(&self) -> Result<Config> {
        let environment = self.env.clone().or_else(|| variable("TENANTRY_ENV"));
        let named = self.config.clone().or_else(|| variable("TENANTRY_CONFIG").map(PathBuf::from));
        let file = match named.or_else(|| Some(PathBuf::from(FILE_NAME)).filter(|path| path.is_file())) {
            Some(path) => Layer::from_file(&path, environment.as_deref())?,
            None if environment.is_some() => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    "an environment is named, and there is no tenantry.toml",
                )
                .with_hint("write one: tenantry init"));
            }
            None => Layer::default(),
        };
        let set = self.set.clone().map(Migrations::Set);
        let flags = Layer {
            store: self.store.clone(),
            pattern: self.pattern.clone(),
            migrations: set.or_else(|| self.migrations.clone().map(Migrations::Directory)),
            jobs: self.jobs,
            lock_timeout: self.lock_timeout,
            statement_timeout: self.statement_timeout,
            reconnect_timeout: self.reconnect_timeout,
            backups: self.backup_dir.clone(),
            ..Layer::default()
        };
        Config::new(flags.over(Layer::from_environment(variable)?).over(file))
    }

    /// A manager that an interruption stops gently, and a second one at once.
    fn manager(&self) -> Result<Manager> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
                .map_err(|error| {
                    Error::new(ErrorKind::Internal, "cannot listen for signals").caused_by(error)
                })?;
        }
        Ok(self.config()?.manager()?.with_interruption(interrupted))
    }

    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// An environment variable; one that is empty is none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Parses ids, all of them before anything is done.
fn parse_ids(texts: &[String]) -> Result<Vec<ProjectId>> {
    texts.iter().map(|text| text.parse()).collect()
}
