//! The commands that move no project: retain, check, analyze, vacuum.

use clap::Args;
use tenantry::Result;
use tenantry::event::ExitRules;
use tenantry::manager::{MaintenanceTask, Operation, Run, Selection};
use tenantry::rules::parse_age;

use super::fleet::{Filter, carry_out};
use super::{Settings, parse_ids};

/// Which projects: those named, or all.
#[derive(Args, Debug)]
pub(super) struct Projects {
    /// The projects
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "only", "except"])]
    ids: Vec<String>,
    /// All projects
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
    /// Only count the rows; changes not one byte
    #[arg(long)]
    dry_run: bool,
    /// An age over those of the set: a number with s, m, h, d or w
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
    /// Only say which projects it would be
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn retain(settings: &Settings, retain: Retain) -> Result<u8> {
    let older_than = retain.older_than.as_deref().map(parse_age).transpose()?;
    tend(settings, &retain.projects, MaintenanceTask::Retain { older_than }, retain.dry_run)
}

pub(super) fn check(settings: &Settings, check: Check) -> Result<u8> {
    tend(settings, &check.projects, MaintenanceTask::Check, true)
}

pub(super) fn maintain(
    settings: &Settings,
    maintenance: tenantry::store::Maintenance,
    wanted: MaintenanceArgs,
) -> Result<u8> {
    tend(settings, &wanted.projects, MaintenanceTask::Maintain(maintenance), wanted.dry_run)
}

fn tend(settings: &Settings, projects: &Projects, task: MaintenanceTask, dry_run: bool) -> Result<u8> {
    let (selection, exit_rules) = projects.selection()?;
    let manager = settings.manager()?;
    let operation = Operation::Maintain(task);
    carry_out(settings, &manager, &Run { dry_run, exit_rules, ..Run::new(selection, operation) })
}
