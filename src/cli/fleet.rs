//! The commands about versions: status, stamp, adopt and downgrade.

use clap::{ArgGroup, Args};
use tenantry::event::ExitRules;
use tenantry::manager::{
    DowngradeTarget, IdPattern, IfDrifted, JobShard, Operation, Request, Run, Selection,
};
use tenantry::{Catalog, Error, ErrorKind, Manager, Result};

use super::{Settings, parse_ids, variable};
use crate::report::Reporter;

/// Options that select among all projects.
#[derive(Args, Debug)]
pub(super) struct Filter {
    /// Include only projects whose id matches this glob; can be repeated
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// Exclude projects whose id matches this glob; can be repeated
    #[arg(long, value_name = "GLOB")]
    except: Vec<String>,
    /// Include only a shard of all projects, such as 2/8, as a task of a job; auto reads it from Slurm, Kubernetes, AWS Batch or
    /// Cloud Run [env: TENANTRY_SHARD]
    #[arg(long, value_name = "N/T|auto")]
    shard: Option<String>,
    /// Name that the runs of all shards have in common [env: TENANTRY_GROUP] [default: the id of the scheduler's job]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Exit with 0 instead of 6 if no project is found
    #[arg(long)]
    pub(super) allow_empty: bool,
}

#[derive(Args, Debug)]
pub(super) struct Status {
    /// Projects to show [default: all]
    #[arg(value_name = "ID", conflicts_with_all = ["only", "except", "shard"])]
    ids: Vec<String>,
    /// Exit with 5 if changes are pending
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true).args(["ids", "all"])))]
pub(super) struct Stamp {
    /// Projects to stamp
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except", "shard"])]
    ids: Vec<String>,
    /// Stamp all projects
    #[arg(long)]
    all: bool,
    /// Version to record [default: the version that the schema matches]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Only show what would be recorded
    #[arg(long)]
    dry_run: bool,
    /// Record the version even if the schema differs; the ledger notes it
    #[arg(long, requires = "to")]
    force: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true).args(["ids", "all"])))]
pub(super) struct Adopt {
    /// Projects to take over
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except", "shard"])]
    ids: Vec<String>,
    /// Take over all projects
    #[arg(long)]
    all: bool,
    /// Tool whose ledger to take over [default: the only one that has a ledger in the project]
    #[arg(long, value_name = "TOOL")]
    from: Option<String>,
    /// Only show what would be taken over
    #[arg(long)]
    dry_run: bool,
    /// Rename the tool's table, so that nobody takes it for current; run again, the tool would begin at its first migration
    #[arg(long)]
    retire: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Downgrade {
    /// Projects to downgrade
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Number of migrations to revert
    #[arg(long, value_name = "N", required_unless_present = "to", conflicts_with = "to",
          value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Version to go back to; 0 is an empty database
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Run a down.sql even if it does not restore the previous schema; the ledger notes it
    #[arg(long)]
    allow_drift: bool,
    /// Only show what would be done; changes nothing
    #[arg(long)]
    dry_run: bool,
}

impl Filter {
    pub(super) fn selection(&self) -> Result<Selection> {
        Ok(Selection::All {
            only: patterns(&self.only)?,
            except: patterns(&self.except)?,
            shard: self.shard()?,
        })
    }

    /// The shard that is meant, if it is not all of the fleet.
    fn shard(&self) -> Result<Option<JobShard>> {
        let Some(text) = self.shard.clone().or_else(|| variable("TENANTRY_SHARD")) else {
            if self.group.is_some() {
                return Err(Error::new(ErrorKind::Usage, "--group has no effect without --shard")
                    .with_hint("say which shard of the group this run takes: --shard N/T"));
            }
            return Ok(None);
        };
        let of_scheduler = JobShard::of_scheduler(variable);
        let group = self.group.clone().or_else(|| variable("TENANTRY_GROUP"));
        let group = group.or_else(|| of_scheduler.as_ref().ok().and_then(|it| it.group.clone()));
        let shard = if text == "auto" { of_scheduler?.shard } else { text.parse()? };
        Ok(Some(JobShard { shard, group }))
    }

    pub(super) fn exit_rules(&self) -> ExitRules {
        let rules = ExitRules::default();
        if self.allow_empty { rules.allow_empty() } else { rules }
    }
}

fn patterns(texts: &[String]) -> Result<Vec<IdPattern>> {
    texts.iter().map(|text| text.parse()).collect()
}

pub(super) fn position(catalog: &Catalog, version: Option<&String>) -> Result<Option<usize>> {
    version.map(|version| catalog.resolve(version)).transpose()
}

/// Runs and reports a command. Returns the exit code.
pub(super) fn run_and_report(settings: &Settings, manager: &Manager, run: &Run) -> Result<u8> {
    let mut reporter = Reporter::new(settings.format, settings.verbosity(), manager.catalog());
    let summary = manager.run(run, |event| reporter.event(event))?;
    reporter.finish()?;
    Ok(summary.exit)
}

pub(super) fn status(settings: &Settings, status: Status) -> Result<u8> {
    let ids = parse_ids(&status.ids)?;
    let selection = if ids.is_empty() { status.filter.selection()? } else { Selection::Ids(ids) };
    let manager = settings.manager()?;
    let exit_rules = status.filter.exit_rules();
    let exit_rules = if status.check { exit_rules.fail_if_pending() } else { exit_rules };
    let run = Run::new(selection, Operation::Status).dry_run().exit_rules(exit_rules);
    run_and_report(settings, &manager, &run)
}

pub(super) fn stamp(settings: &Settings, stamp: Stamp) -> Result<u8> {
    let ids = parse_ids(&stamp.ids)?;
    let selection = if stamp.all { stamp.filter.selection()? } else { Selection::Ids(ids) };
    let manager = settings.manager()?;
    let request = Request::Stamp { to: position(manager.catalog(), stamp.to.as_ref())?, force: stamp.force };
    let exit_rules = stamp.filter.exit_rules();
    let run = Run::new(selection, Operation::Migrate(request)).exit_rules(exit_rules);
    run_and_report(settings, &manager, &dry_run_if(stamp.dry_run, run))
}

pub(super) fn adopt(settings: &Settings, adopt: Adopt) -> Result<u8> {
    let ids = parse_ids(&adopt.ids)?;
    let selection = if adopt.all { adopt.filter.selection()? } else { Selection::Ids(ids) };
    let manager = settings.manager()?;
    let from = adopt.from.as_deref().map(str::parse).transpose()?;
    let request = Request::Adopt { from, retire: adopt.retire };
    let run = Run::new(selection, Operation::Migrate(request)).exit_rules(adopt.filter.exit_rules());
    run_and_report(settings, &manager, &dry_run_if(adopt.dry_run, run))
}

/// Makes a run a dry run if `--dry-run` was given.
pub(super) fn dry_run_if(dry_run: bool, run: Run) -> Run {
    if dry_run { run.dry_run() } else { run }
}

pub(super) fn downgrade(settings: &Settings, downgrade: Downgrade) -> Result<u8> {
    let ids = parse_ids(&downgrade.ids)?;
    let manager = settings.manager()?;
    let target = match position(manager.catalog(), downgrade.to.as_ref())? {
        Some(to) => DowngradeTarget::Position(to),
        None => DowngradeTarget::Steps(downgrade.steps.unwrap_or(1) as usize),
    };
    let drift = if downgrade.allow_drift { IfDrifted::Keep } else { IfDrifted::Refuse };
    let operation = Operation::Migrate(Request::Downgrade { target, drift });
    let run = Run::new(Selection::Ids(ids), operation);
    run_and_report(settings, &manager, &dry_run_if(downgrade.dry_run, run))
}

/// Runs an operation without options on the given projects.
pub(super) fn run_on_ids(settings: &Settings, ids: &[String], operation: Operation) -> Result<u8> {
    let selection = Selection::Ids(parse_ids(ids)?);
    let manager = settings.manager()?;
    let run = Run::new(selection, operation);
    run_and_report(settings, &manager, &run)
}
