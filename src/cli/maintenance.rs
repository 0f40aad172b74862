//! The maintenance commands: retain, check, analyze and vacuum.

use clap::{ArgGroup, Args};
use tenantry::Result;
use tenantry::event::ExitRules;
use tenantry::manager::{MaintenanceTask, Operation, Run, Selection};
use tenantry::rules::parse_age;

use super::fleet::{Filter, dry_run_if, run_and_report};
use super::{Settings, parse_ids};

/// Arguments that select projects: ids, or all.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true).args(["ids", "all"])))]
pub(super) struct Projects {
    /// Projects to work on
    #[arg(value_name = "ID", conflicts_with_all = ["all", "only", "except", "shard"])]
    ids: Vec<String>,
    /// Work on all projects
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

impl Projects {
    pub(super) fn selection(&self) -> Result<(Selection, ExitRules)> {
        let ids = parse_ids(&self.ids)?;
        Ok(if self.all {
            (self.filter.selection()?, self.filter.exit_rules())
        } else {
            (Selection::Ids(ids), ExitRules::default())
        })
    }
}

#[derive(Args, Debug)]
pub(super) struct Retain {
    #[command(flatten)]
    projects: Projects,
    /// Only count the rows; changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Age that overrides those of the migration set: a number with s, m, h, d or w, such as 90d
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    projects: Projects,
}

#[derive(Args, Debug)]
pub(super) struct MaintenanceArgs {
    #[command(flatten)]
    projects: Projects,
    /// Only show the projects that would be processed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn retain(settings: &Settings, retain: Retain) -> Result<u8> {
    let older_than = retain.older_than.as_deref().map(parse_age).transpose()?;
    run_task(settings, &retain.projects, MaintenanceTask::Retain { older_than }, retain.dry_run)
}

pub(super) fn check(settings: &Settings, check: Check) -> Result<u8> {
    run_task(settings, &check.projects, MaintenanceTask::Check, true)
}

pub(super) fn maintain(
    settings: &Settings,
    maintenance: tenantry::store::DatabaseMaintenance,
    arguments: MaintenanceArgs,
) -> Result<u8> {
    run_task(settings, &arguments.projects, MaintenanceTask::Database(maintenance), arguments.dry_run)
}

fn run_task(settings: &Settings, projects: &Projects, task: MaintenanceTask, dry_run: bool) -> Result<u8> {
    let (selection, exit_rules) = projects.selection()?;
    let manager = settings.manager()?;
    let operation = Operation::Maintain(task);
    run_and_report(
        settings,
        &manager,
        &dry_run_if(dry_run, Run::new(selection, operation).exit_rules(exit_rules)),
    )
}
