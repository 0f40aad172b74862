//! The upgrading commands: rehearse, upgrade and upgrade-all.

use clap::{ArgGroup, Args};
use tenantry::catalog::Version;
use tenantry::config::RolloutSettings;
use tenantry::event::{Event, ExitRules, Outcome};
use tenantry::manager::{
    BackupBefore, IfDrifted, IfNoLedger, LintOptions, Operation, RehearsalPlace, Request, Rollout, Run,
    Selection,
};
use tenantry::{Catalog, Error, ErrorKind, Manager, Result};

use super::fleet::{Filter, dry_run_if, position, run_and_report};
use super::{Settings, parse_ids};
use crate::report::Reporter;

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
    /// Start no further project after N failures; blocked projects do not count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: Option<u32>,
}

/// The options that say how an upgrade goes through the fleet.
#[derive(Args, Debug)]
pub(super) struct RolloutOptions {
    /// Upgrade in waves: sizes that count all projects so far, as numbers or shares, such as 1,5%,25%,100%. Without a limit of
    /// failures, the first failed project stops a run in waves
    #[arg(long, value_name = "SIZES")]
    waves: Option<String>,
    /// Upgrade these projects first, in a wave of their own
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    canary: Option<Vec<String>>,
    /// Order of the projects: id, random, or random:SEED to repeat an order [default: id]
    #[arg(long, value_name = "ORDER")]
    order: Option<String>,
    /// Wait after each wave: a number with s, m, h, d or w, such as 10m
    #[arg(long, value_name = "TIME")]
    bake: Option<String>,
    /// Run this command after each wave, and stop if it fails. It gets TENANTRY_RUN, TENANTRY_WAVE and TENANTRY_WAVES. The journal
    /// has the command's text and the end of its output, so put no secret into them
    #[arg(long, value_name = "COMMAND")]
    gate: Option<String>,
    /// Start no further project after this share of them failed, such as 0.5%
    #[arg(long, value_name = "SHARE")]
    max_failure_rate: Option<String>,
    /// Rehearse first and back up each project; if one fails even so, move all back to where they were
    #[arg(long)]
    all_or_nothing: bool,
}

impl RolloutOptions {
    fn settings(self, max_failures: Option<u32>) -> RolloutSettings {
        RolloutSettings {
            waves: self.waves,
            canary: self.canary,
            order: self.order,
            bake: self.bake,
            gate: self.gate,
            max_failures: max_failures.map(|count| count as usize),
            max_failure_rate: self.max_failure_rate,
            all_or_nothing: self.all_or_nothing.then_some(true),
        }
    }
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
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except", "shard"])]
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
    rollout: RolloutOptions,
    #[command(flatten)]
    filter: Filter,
}

/// Resolves the version of a migration. Unlike for `--to`, 0 is an error.
fn migration(catalog: &Catalog, version: &str) -> Result<Version> {
    match catalog.resolve(version)? {
        0 => Err(Error::new(ErrorKind::Usage, "0 is not a migration")),
        position => Ok(catalog.version_at(position)),
    }
}

pub(super) fn upgrade(settings: &Settings, upgrade: Upgrade) -> Result<u8> {
    if upgrade.all {
        return Err(Error::new(ErrorKind::Usage, "upgrade takes project ids")
            .with_hint("to upgrade all projects: tenantry upgrade-all"));
    }
    let ids = parse_ids(&upgrade.ids)?;
    let max_failures = upgrade.options.max_failures.map(|count| count as usize);
    let rollout = RolloutSettings { max_failures, ..RolloutSettings::default() }.rollout()?;
    let rollout = (rollout, max_failures.is_some());
    run_upgrade(settings, Selection::Ids(ids), upgrade.options, rollout, ExitRules::default())
}

pub(super) fn upgrade_all(settings: &Settings, upgrade: UpgradeAll) -> Result<u8> {
    let exit_rules = upgrade.filter.exit_rules();
    let dry_run = upgrade.options.dry_run;
    let rollout = upgrade.rollout.settings(upgrade.options.max_failures);
    let asks_for_limit = rollout.max_failures.is_some() || rollout.max_failure_rate.is_some();
    let rollout = (rollout.over(settings.config()?.rollout().clone()).rollout()?, asks_for_limit);
    let code = run_upgrade(settings, upgrade.filter.selection()?, upgrade.options, rollout, exit_rules)?;
    if !dry_run {
        super::spares::refill(settings, code);
    }
    Ok(code)
}

fn run_upgrade(
    settings: &Settings,
    selection: Selection,
    options: UpgradeOptions,
    (rollout, asks_for_limit): (Rollout, bool),
    exit_rules: ExitRules,
) -> Result<u8> {
    let manager = settings.manager_rehearsing_on(options.rehearse_on.as_deref())?;
    let backup_before = match options.backup {
        // Without a backup, some projects could not go back.
        None if rollout.is_all_or_nothing() => BackupBefore::Take,
        None => BackupBefore::None,
        Some(BackupMode::Take) => BackupBefore::Take,
        Some(BackupMode::Check) => BackupBefore::Check,
    };
    let rehearsal = match options.rehearse {
        None if rollout.is_all_or_nothing() && !options.dry_run => Some(Place(RehearsalPlace::Copy)),
        rehearsal => rehearsal,
    };
    // A limit in the settings is for upgrades; only one that was asked for now says that a rehearsal may find failures.
    let goes_on = asks_for_limit && !rollout.is_all_or_nothing();
    let run = upgrade_run(settings, &manager, selection, &options.plan)?
        .backup_before(backup_before)
        .rollout(rollout)
        .exit_rules(exit_rules);
    let Some(Place(place)) = rehearsal else {
        return run_and_report(settings, &manager, &dry_run_if(options.dry_run, run));
    };
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
