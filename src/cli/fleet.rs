//! The commands about versions: status, stamp, adopt, upgrade, upgrade-all and downgrade.

use clap::{ArgGroup, Args};
use tenantry::catalog::Version;
use tenantry::event::{Event, ExitRules, Outcome};
use tenantry::manager::{
    BackupBefore, DowngradeTarget, IdPattern, IfDrifted, IfNoLedger, LintOptions, Operation, RehearsalPlace,
    Request, Run, Selection,
};
use tenantry::{Catalog, Error, ErrorKind, Manager, Result};

use super::{Settings, parse_ids};
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
    /// Exit with 0 instead of 6 if no project is found
    #[arg(long)]
    pub(super) allow_empty: bool,
}

#[derive(Args, Debug)]
pub(super) struct Status {
    /// Projects to show [default: all]
    #[arg(value_name = "ID", conflicts_with_all = ["only", "except"])]
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
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except"])]
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
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except"])]
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

/// The options that say what an upgrade does to a project.
#[derive(Args, Debug)]
pub(super) struct PlanOptions {
    /// Version to upgrade to [default: the newest]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Do not record the version of databases without a ledger; report them as blocked
    #[arg(long)]
    no_stamp: bool,
    /// Upgrade projects whose schema differs from their version, and keep the difference
    #[arg(long)]
    allow_drift: bool,
    /// Refuse if lint warns of a migration that would run
    #[arg(long)]
    strict: bool,
    /// Let this migration delete rows that it does not declare; can be repeated
    #[arg(long, value_name = "VERSION")]
    allow_row_loss: Vec<String>,
}

/// The options of an upgrade.
#[derive(Args, Debug)]
pub(super) struct UpgradeOptions {
    #[command(flatten)]
    plan: PlanOptions,
    /// Only show what would be done; changes nothing
    #[arg(long, conflicts_with = "rehearse")]
    dry_run: bool,
    /// First upgrade a private copy of each project, and change nothing unless all succeed; with --max-failures, go on with
    /// those that do, however many do not. On Postgres, =in-place uses a transaction that is rolled back
    #[arg(long, value_name = "in-place", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    rehearse: Option<Place>,
    /// On Postgres, rehearse on another server
    #[arg(long, value_name = "URL", requires = "rehearse")]
    rehearse_on: Option<String>,
    /// Back up each project before changing it; =check also verifies the backup by restoring it
    #[arg(long, value_name = "check", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    backup: Option<BackupMode>,
    /// Start no further project after N failures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: Option<u32>,
}

/// The values of `--rehearse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(RehearsalPlace);

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "" => Ok(Self(RehearsalPlace::Copy)),
            "in-place" => Ok(Self(RehearsalPlace::InPlace)),
            _ => Err("use --rehearse or --rehearse=in-place".into()),
        }
    }
}

/// The values of `--backup`.
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
            _ => Err("use --backup or --backup=check".into()),
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct Upgrade {
    /// Refused: `upgrade-all` upgrades all projects
    #[arg(long, hide = true)]
    all: bool,
    /// Projects to upgrade
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    #[command(flatten)]
    options: UpgradeOptions,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true).args(["ids", "all"])))]
pub(super) struct Rehearse {
    /// Projects to rehearse
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except"])]
    ids: Vec<String>,
    /// Rehearse all projects
    #[arg(long)]
    all: bool,
    /// On Postgres, use a transaction in the project itself that is rolled back, instead of a private copy
    #[arg(long)]
    in_place: bool,
    /// On Postgres, upgrade the copies on another server
    #[arg(long = "rehearse-on", value_name = "URL", conflicts_with = "in_place")]
    server: Option<String>,
    /// Rehearse only N projects, or P% of those that would be upgraded: every version, the largest and the oldest are among
    /// them
    #[arg(long, value_name = "N|P%")]
    sample: Option<String>,
    #[command(flatten)]
    plan: PlanOptions,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct UpgradeAll {
    #[command(flatten)]
    options: UpgradeOptions,
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
        Ok(Selection::All { only: patterns(&self.only)?, except: patterns(&self.except)? })
    }

    pub(super) fn exit_rules(&self) -> ExitRules {
        let rules = ExitRules::default();
        if self.allow_empty { rules.allow_empty() } else { rules }
    }
}

fn patterns(texts: &[String]) -> Result<Vec<IdPattern>> {
    texts.iter().map(|text| text.parse()).collect()
}

fn position(catalog: &Catalog, version: Option<&String>) -> Result<Option<usize>> {
    version.map(|version| catalog.resolve(version)).transpose()
}

/// Resolves the version of a migration. Unlike for `--to`, 0 is an error.
fn migration(catalog: &Catalog, version: &str) -> Result<Version> {
    match catalog.resolve(version)? {
        0 => Err(Error::new(ErrorKind::Usage, "0 is not a migration")),
        position => Ok(catalog.version_at(position)),
    }
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

pub(super) fn upgrade(settings: &Settings, upgrade: Upgrade) -> Result<u8> {
    if upgrade.all {
        return Err(Error::new(ErrorKind::Usage, "upgrade takes project ids")
            .with_hint("to upgrade all projects: tenantry upgrade-all"));
    }
    let ids = parse_ids(&upgrade.ids)?;
    run_upgrade(settings, Selection::Ids(ids), upgrade.options, ExitRules::default())
}

pub(super) fn upgrade_all(settings: &Settings, upgrade: UpgradeAll) -> Result<u8> {
    let exit_rules = upgrade.filter.exit_rules();
    let dry_run = upgrade.options.dry_run;
    let code = run_upgrade(settings, upgrade.filter.selection()?, upgrade.options, exit_rules)?;
    if !dry_run {
        super::spares::refill(settings, code);
    }
    Ok(code)
}

fn run_upgrade(
    settings: &Settings,
    selection: Selection,
    options: UpgradeOptions,
    exit_rules: ExitRules,
) -> Result<u8> {
    let manager = settings.manager_rehearsing_on(options.rehearse_on.as_deref())?;
    let backup_before = match options.backup {
        None => BackupBefore::None,
        Some(BackupMode::Take) => BackupBefore::Take,
        Some(BackupMode::Check) => BackupBefore::Check,
    };
    let mut run = upgrade_run(settings, &manager, selection, &options.plan)?
        .backup_before(backup_before)
        .exit_rules(exit_rules);
    if let Some(count) = options.max_failures {
        run = run.max_failures(count as usize);
    }
    let Some(Place(place)) = options.rehearse else {
        return run_and_report(settings, &manager, &dry_run_if(options.dry_run, run));
    };
    let goes_on = options.max_failures.is_some();
    let (code, passed) = rehearse_first(settings, &manager, &run, place, goes_on)?;
    let Some(passed) = passed else { return Ok(code) };
    // Projects that did not pass are not upgraded, so the command has not done all.
    match run_and_report(settings, &manager, &passed)? {
        0 => Ok(code),
        worse => Ok(worse),
    }
}

fn lint_options(settings: &Settings, options: &PlanOptions) -> Result<LintOptions> {
    let config = settings.config()?;
    Ok(LintOptions {
        off: config.lint_off().iter().cloned().collect(),
        strict: options.strict || config.lint_strict(),
    })
}

fn upgrade_run(
    settings: &Settings,
    manager: &Manager,
    selection: Selection,
    options: &PlanOptions,
) -> Result<Run> {
    let to = position(manager.catalog(), options.to.as_ref())?.unwrap_or(manager.catalog().head());
    let allow_row_loss = options.allow_row_loss.iter().map(|version| migration(manager.catalog(), version));
    let allow_row_loss: Vec<Version> = allow_row_loss.collect::<Result<_>>()?;
    let baseline = if options.no_stamp { IfNoLedger::Refuse } else { IfNoLedger::Stamp };
    let drift = if options.allow_drift { IfDrifted::Keep } else { IfDrifted::Refuse };
    let request = Request::Upgrade { to, baseline, drift };
    let run = Run::new(selection, Operation::Migrate(request)).allow_row_loss(allow_row_loss);
    Ok(run.lint(lint_options(settings, options)?))
}

pub(super) fn rehearse(settings: &Settings, rehearse: Rehearse) -> Result<u8> {
    let ids = parse_ids(&rehearse.ids)?;
    let selection = if rehearse.all { rehearse.filter.selection()? } else { Selection::Ids(ids) };
    let manager = settings.manager_rehearsing_on(rehearse.server.as_deref())?;
    let place = if rehearse.in_place { RehearsalPlace::InPlace } else { RehearsalPlace::Copy };
    let run =
        upgrade_run(settings, &manager, selection, &rehearse.plan)?.exit_rules(rehearse.filter.exit_rules());
    let run = run.rehearse(place);
    let run = match rehearse.sample.as_deref().map(str::parse).transpose()? {
        Some(size) => run.sample(size),
        None => run,
    };
    run_and_report(settings, &manager, &run)
}

/// Rehearses a run on all projects. Returns the exit code, and the run without the projects that did not pass, if it may be
/// made.
fn rehearse_first(
    settings: &Settings,
    manager: &Manager,
    run: &Run,
    place: RehearsalPlace,
    goes_on: bool,
) -> Result<(u8, Option<Run>)> {
    let (mut failed, mut predicted) = (Vec::new(), None);
    let mut reporter = Reporter::new(settings.format, settings.verbosity(), manager.catalog());
    let summary = manager.run(&run.clone().rehearse(place), |event| {
        if let Event::ProjectFinished(report) = &event
            && matches!(report.outcome, Outcome::Failed(_) | Outcome::Blocked(_) | Outcome::NotStarted)
        {
            failed.push(report.project.clone());
        }
        if let Event::Prediction(prediction) = &event {
            predicted = Some(prediction.duration);
        }
        reporter.event(event);
    })?;
    reporter.finish()?;
    let may_go_on = failed.is_empty() || (goes_on && failed.len() < summary.outcomes.total());
    let all = summary.outcomes.total();
    let stopped_by = match failed.len() {
        _ if summary.interrupted => Some("the rehearsal was interrupted".to_string()),
        count if !may_go_on => Some(format!("{count} of {all} projects did not pass the rehearsal")),
        _ => None,
    };
    if let Some(reason) = stopped_by {
        crate::report::note(format_args!("\nnothing was changed: {reason}"));
        return Ok((summary.exit, None));
    }
    if !failed.is_empty() {
        crate::report::note(format_args!(
            "\n{} projects did not pass the rehearsal and are left out",
            failed.len()
        ));
    }
    let run = run.clone().without(&failed);
    Ok((summary.exit, Some(predicted.map_or(run.clone(), |duration| run.predicted(duration)))))
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
