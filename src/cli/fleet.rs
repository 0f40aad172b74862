//! The commands that move projects between versions, or say where they stand: one path with other requests.

use clap::Args;
use tenantry::catalog::Version;
use tenantry::event::ExitRules;
use tenantry::manager::{IdPattern, Operation, Run, Safety, Selection};
use tenantry::plan::{Baseline, DowngradeTo, Drift, Request};
use tenantry::{Catalog, Error, ErrorKind, Manager, Result};

use super::{Settings, parse_ids};
use crate::report::Reporter;

/// Which of all projects.
#[derive(Args, Debug)]
pub(super) struct Filter {
    /// Only projects whose id this glob fits; may be given more than once
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// No project whose id this glob fits; may be given more than once
    #[arg(long, value_name = "GLOB")]
    except: Vec<String>,
    /// No project at all is fine: exit 0, not 6
    #[arg(long)]
    pub(super) allow_empty: bool,
}

#[derive(Args, Debug)]
pub(super) struct Status {
    /// The projects; all where none is named
    #[arg(value_name = "ID", conflicts_with_all = ["only", "except"])]
    ids: Vec<String>,
    /// Exit 5 when anything is pending
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Stamp {
    /// The projects
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "only", "except"])]
    ids: Vec<String>,
    /// All projects
    #[arg(long)]
    all: bool,
    /// The version to record [default: the one whose schema it is]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Only say what would be recorded
    #[arg(long)]
    dry_run: bool,
    /// Record it in spite of a difference; the ledger says so
    #[arg(long, requires = "to")]
    force: bool,
    #[command(flatten)]
    filter: Filter,
}

/// How to go up.
#[derive(Args, Debug)]
pub(super) struct UpgradeOptions {
    /// The version to go to [default: the newest]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Only say what would be done; changes not one byte
    #[arg(long)]
    dry_run: bool,
    /// Leave projects without a ledger alone
    #[arg(long)]
    no_stamp: bool,
    /// Upgrade projects whose schema is not what their version says, keeping the difference
    #[arg(long)]
    allow_drift: bool,
    /// Let this migration delete rows that it has not declared; may be given several times
    #[arg(long, value_name = "VERSION")]
    allow_row_loss: Vec<String>,
    /// Take a backup of each project before it is touched; with =check restore and compare it first
    #[arg(long, value_name = "check", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    backup: Option<BackupMode>,
    /// Begin no further project after so many failures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: Option<u32>,
}

/// What `--backup` does besides taking one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackupMode {
    Take,
    Check,
}

impl std::str::FromStr for BackupMode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "" => Ok(Self::Take),
            "check" => Ok(Self::Check),
            _ => Err("it is --backup or --backup=check".into()),
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct Upgrade {
    /// The projects
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    up: UpgradeOptions,
}

#[derive(Args, Debug)]
pub(super) struct UpgradeAll {
    #[command(flatten)]
    up: UpgradeOptions,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Downgrade {
    /// The projects
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// How many migrations to revert
    #[arg(long, value_name = "N", required_unless_present = "to", conflicts_with = "to",
          value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// The version to go back to; 0 is an empty database
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Go down also where a down.sql does not lead back to the schema from before; the ledger says so
    #[arg(long)]
    allow_drift: bool,
    /// Only say what would be done; changes not one byte
    #[arg(long)]
    dry_run: bool,
}

impl Filter {
    pub(super) fn selection(&self) -> Result<Selection> {
        Ok(Selection::All { only: patterns(&self.only)?, except: patterns(&self.except)? })
    }

    pub(super) fn exit_rules(&self) -> ExitRules {
        ExitRules { allow_empty: self.allow_empty, check: false }
    }
}

fn patterns(texts: &[String]) -> Result<Vec<IdPattern>> {
    texts.iter().map(|text| text.parse()).collect()
}

fn position(catalog: &Catalog, version: Option<&String>) -> Result<Option<usize>> {
    version.map(|version| catalog.resolve(version)).transpose()
}

/// The version of a migration that is named.
fn migration(catalog: &Catalog, version: &str) -> Result<Version> {
    match catalog.resolve(version)? {
        0 => Err(Error::new(ErrorKind::Usage, "0 is no migration")),
        position => Ok(catalog.version_at(position)),
    }
}

pub(super) fn carry_out(settings: &Settings, manager: &Manager, run: &Run) -> Result<u8> {
    let mut reporter = Reporter::new(settings.format, settings.verbosity(), manager.catalog());
    let summary = manager.run(run, |event| reporter.event(event))?;
    reporter.finish()?;
    Ok(summary.exit)
}

pub(super) fn status(settings: &Settings, status: Status) -> Result<u8> {
    let ids = parse_ids(&status.ids)?;
    let selection = if ids.is_empty() { status.filter.selection()? } else { Selection::Ids(ids) };
    let manager = settings.manager()?;
    let exit_rules = ExitRules { check: status.check, ..status.filter.exit_rules() };
    let run = Run { dry_run: true, exit_rules, ..Run::new(selection, Operation::Status) };
    carry_out(settings, &manager, &run)
}

pub(super) fn stamp(settings: &Settings, stamp: Stamp) -> Result<u8> {
    let ids = parse_ids(&stamp.ids)?;
    let selection = if stamp.all { stamp.filter.selection()? } else { Selection::Ids(ids) };
    let manager = settings.manager()?;
    let request = Request::Stamp { to: position(manager.catalog(), stamp.to.as_ref())?, force: stamp.force };
    let exit_rules = stamp.filter.exit_rules();
    carry_out(
        settings,
        &manager,
        &Run { dry_run: stamp.dry_run, exit_rules, ..Run::new(selection, Operation::Migrate(request)) },
    )
}

pub(super) fn upgrade(settings: &Settings, upgrade: Upgrade) -> Result<u8> {
    let ids = parse_ids(&upgrade.ids)?;
    go_up(settings, Selection::Ids(ids), upgrade.up, ExitRules::default())
}

pub(super) fn upgrade_all(settings: &Settings, upgrade: UpgradeAll) -> Result<u8> {
    let exit_rules = upgrade.filter.exit_rules();
    let dry_run = upgrade.up.dry_run;
    let code = go_up(settings, upgrade.filter.selection()?, upgrade.up, exit_rules)?;
    if !dry_run {
        super::project::top_up(settings, code);
    }
    Ok(code)
}

fn go_up(settings: &Settings, selection: Selection, up: UpgradeOptions, exit_rules: ExitRules) -> Result<u8> {
    let manager = settings.manager()?;
    let to = position(manager.catalog(), up.to.as_ref())?.unwrap_or(manager.catalog().head());
    let allow_row_loss = up.allow_row_loss.iter().map(|version| migration(manager.catalog(), version));
    let allow_row_loss = allow_row_loss.collect::<Result<_>>()?;
    let baseline = if up.no_stamp { Baseline::Refuse } else { Baseline::Stamp };
    let drift = if up.allow_drift { Drift::Keep } else { Drift::Refuse };
    let safety = match up.backup {
        None => Safety::None,
        Some(BackupMode::Take) => Safety::Backup,
        Some(BackupMode::Check) => Safety::CheckedBackup,
    };
    let run = Run {
        dry_run: up.dry_run,
        safety,
        allow_row_loss,
        max_failures: up.max_failures.map(|count| count as usize),
        exit_rules,
        ..Run::new(selection, Operation::Migrate(Request::Upgrade { to, baseline, drift }))
    };
    carry_out(settings, &manager, &run)
}

pub(super) fn downgrade(settings: &Settings, downgrade: Downgrade) -> Result<u8> {
    let ids = parse_ids(&downgrade.ids)?;
    let manager = settings.manager()?;
    let down = match position(manager.catalog(), downgrade.to.as_ref())? {
        Some(to) => DowngradeTo::Position(to),
        None => DowngradeTo::Steps(downgrade.steps.unwrap_or(1) as usize),
    };
    let drift = if downgrade.allow_drift { Drift::Keep } else { Drift::Refuse };
    let operation = Operation::Migrate(Request::Downgrade { down, drift });
    let run = Run::new(Selection::Ids(ids), operation);
    carry_out(settings, &manager, &Run { dry_run: downgrade.dry_run, ..run })
}

/// Carries out a run that is no request for a version.
pub(super) fn operate(settings: &Settings, ids: &[String], operation: Operation) -> Result<u8> {
    let selection = Selection::Ids(parse_ids(ids)?);
    let manager = settings.manager()?;
    let run = Run::new(selection, operation);
    carry_out(settings, &manager, &run)
}
