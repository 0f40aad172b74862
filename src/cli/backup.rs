//! The `backup` commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use tenantry::backup::{Archive, Directory, RetentionPolicy};
use tenantry::event::ExitRules;
use tenantry::manager::{BackupTask, Operation, Restore as Restoring, Run, Selection, Shard, Source};
use tenantry::rules::parse_age;
use tenantry::store::IfInUse;
use tenantry::time::Timestamp;
use tenantry::{Error, ErrorKind, Manager, ProjectId, Result};

use super::fleet::{Filter, dry_run_if, run_and_report};
use super::maintenance::Projects;
use super::{Format, Settings, parse_ids};
use crate::report::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Backup {
    /// Back up projects consistently, while applications keep running
    #[command(after_long_help = "Examples:\n  tenantry backup create --all\n  \
                           tenantry backup create 42 --label \"before the import\"")]
    Create(Create),
    /// List backups, with the last verification of each
    #[command(after_long_help = "Examples:\n  tenantry backup list\n  \
                           tenantry backup list 42")]
    List(List),
    /// Verify backups by restoring and comparing them
    #[command(after_long_help = "Examples:\n  tenantry backup check 42 --level 4\n  \
                           tenantry backup check --all --sample 1/7")]
    Check(Check),
    /// Restore a project from a backup, after backing up its current state
    #[command(after_long_help = "Examples:\n  tenantry backup restore 42\n  \
                           tenantry backup restore 42 --at 2026-11-21T20:17 --dry-run\n  \
                           tenantry backup restore 42 --as 43")]
    Restore(Restore),
    /// Remove all backups except those that the options keep
    #[command(
        after_long_help = "Examples:\n  tenantry backup prune --all --keep-daily 7 --keep-weekly 5 --dry-run"
    )]
    Prune(Prune),
}

#[derive(Args, Debug)]
pub(super) struct Create {
    #[command(flatten)]
    projects: Projects,
    /// Label of the backups, which restore --from accepts
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct List {
    /// Projects to list [default: all that have backups]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true).args(["targets", "all"])))]
pub(super) struct Check {
    /// Projects, to check the newest backup of each, or backups by name or file
    #[arg(value_name = "ID|FILE", conflicts_with_all = ["all", "only", "except", "shard"])]
    targets: Vec<String>,
    /// Check the newest backup of every project
    #[arg(long)]
    all: bool,
    /// How thorough: 1 checks the file, 2 restores it, 3 compares schema and rows, 4 also upgrades the copy
    #[arg(long, value_name = "1-4", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    level: u8,
    /// Check only part N of T of all projects, the same ones each time
    #[arg(long, value_name = "N/T", requires = "all")]
    sample: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Restore {
    /// Project to restore
    #[arg(value_name = "ID")]
    id: String,
    /// Name or label of the backup [default: the newest, except those taken before a restore or rollback]
    #[arg(long, value_name = "BACKUP", conflicts_with = "at")]
    from: Option<String>,
    /// Use the last backup at or before this time in UTC, such as 2026-11-21T20:17
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Restore as a new project, and leave this one unchanged
    #[arg(long = "as", value_name = "NEWID")]
    target: Option<String>,
    /// Only show what would be done, and check the backup's file
    #[arg(long)]
    dry_run: bool,
    /// Restore even if others have the project open or it cannot be read
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Prune {
    #[command(flatten)]
    projects: Projects,
    /// Keep the newest N backups
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: usize,
    /// Keep the newest backup of each of the last N days with backups
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: usize,
    /// Keep the newest backup of each of the last N weeks with backups
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: usize,
    /// Keep the newest backup of each of the last N months with backups
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: usize,
    /// Keep all backups younger than this age, such as 30d (units: s, m, h, d, w)
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Only show which backups would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(settings: &Settings, command: Backup) -> Result<u8> {
    match command {
        Backup::Create(create) => {
            let (selection, exit_rules) = create.projects.selection()?;
            let task = BackupTask::Take { label: create.label };
            run_task(settings, settings.manager()?, selection, task, false, exit_rules)
        }
        Backup::List(list) => self::list(settings, &list),
        Backup::Check(check) => self::check(settings, &check),
        Backup::Restore(restore) => self::restore(settings, restore),
        Backup::Prune(prune) => self::prune(settings, &prune),
    }
}

fn run_task(
    settings: &Settings,
    manager: Manager,
    selection: Selection,
    task: BackupTask,
    dry_run: bool,
    exit_rules: ExitRules,
) -> Result<u8> {
    let operation = Operation::Backups(task);
    let run = dry_run_if(dry_run, Run::new(selection, operation).exit_rules(exit_rules));
    run_and_report(settings, &manager, &run)
}

fn check(settings: &Settings, check: &Check) -> Result<u8> {
    let mut manager = settings.manager()?;
    let (mut ids, mut names, mut folders) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for target in &check.targets {
        // The name of a backup has a dot, which no id has.
        let id = target.parse::<ProjectId>();
        if id.is_ok() || !target.contains('/') {
            ids.push(id?);
            folders.insert(None);
            continue;
        }
        let (folder, project, name) = parse_backup(target)?;
        if let Some(folder) = &folder {
            manager = manager.with_archive(Archive::new(Directory::new(folder)));
        }
        folders.insert(folder);
        ids.push(project.clone());
        if names.insert(project, name).is_some() {
            return Err(Error::new(ErrorKind::Usage, "two backups of one project are given")
                .with_hint("check each in a separate command"));
        }
    }
    if folders.len() > 1 {
        return Err(Error::new(ErrorKind::Usage, "backups in several folders are given")
            .with_hint("check one folder at a time"));
    }
    let selection = if check.all { check.filter.selection()? } else { Selection::Ids(ids) };
    let sample = check.sample.as_deref().map(str::parse::<Shard>).transpose()?;
    // A sample of a small fleet may contain no project.
    let exit_rules =
        if sample.is_some() { ExitRules::default().allow_empty() } else { check.filter.exit_rules() };
    let task = BackupTask::Check { level: check.level, names, sample };
    run_task(settings, manager, selection, task, false, exit_rules)
}

/// Parses a backup given by its name or by the path of one of its files. Returns the archive's folder, if it was given
/// by path, the project and the backup's name.
fn parse_backup(target: &str) -> Result<(Option<PathBuf>, ProjectId, String)> {
    let stem = [".json", ".zst"].iter().find_map(|end| target.strip_suffix(end));
    let path = Path::new(stem.unwrap_or(target));
    let part =
        |path: Option<&Path>| path.and_then(Path::file_name).and_then(|name| name.to_str()).map(String::from);
    let (Some(folder), Some(file)) = (part(path.parent()), part(Some(path))) else {
        return Err(Error::new(ErrorKind::Usage, format!("{target:?} is not a backup")).with_hint(
            "give the path of a file in the project's folder, or a name from: tenantry backup list",
        ));
    };
    let archive_folder = stem.map(|_| {
        let parent = path.parent().and_then(Path::parent).filter(|it| !it.as_os_str().is_empty());
        parent.map_or_else(|| PathBuf::from("."), PathBuf::from)
    });
    Ok((archive_folder, ProjectId::of_folder(&folder)?, format!("{folder}/{file}")))
}

fn restore(settings: &Settings, restore: Restore) -> Result<u8> {
    let id: ProjectId = restore.id.parse()?;
    let source = match (restore.from, restore.at) {
        (Some(name), _) => Source::Named(name),
        (None, Some(at)) => Source::At(Timestamp::parse(&at)?),
        (None, None) => Source::Newest,
    };
    let mut task = Restoring::new(source);
    if let Some(target) = restore.target {
        task = task.target(target.parse()?);
    }
    if restore.force {
        task = task.if_in_use(IfInUse::Force);
    }
    let task = BackupTask::Restore(task);
    let selection = Selection::Ids(vec![id]);
    let manager = settings.manager()?;
    run_task(settings, manager, selection, task, restore.dry_run, ExitRules::default())
}

fn prune(settings: &Settings, prune: &Prune) -> Result<u8> {
    let mut keep = RetentionPolicy::default()
        .last(prune.keep_last)
        .daily(prune.keep_daily)
        .weekly(prune.keep_weekly)
        .monthly(prune.keep_monthly);
    if let Some(age) = &prune.keep_within {
        keep = keep.within(parse_age(age)?);
    }
    if keep.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "no option sets which backups to keep")
            .with_hint("for example --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12"));
    }
    let (selection, exit_rules) = prune.projects.selection()?;
    let manager = settings.manager()?;
    run_task(settings, manager, selection, BackupTask::Prune(keep), prune.dry_run, exit_rules)
}

fn list(settings: &Settings, list: &List) -> Result<u8> {
    let config = settings.config()?;
    let archive = config.archive()?;
    // The catalog defines which version is newest. If it cannot be read, the last version by name is shown.
    let catalog = config.catalog().ok();
    let position = |version: &&String| catalog.as_ref().and_then(|catalog| catalog.position(version));
    let ids = parse_ids(&list.ids)?;
    let projects = if ids.is_empty() { archive.projects()? } else { config.store()?.resolve(&ids)? };
    let mut output = Output::new();
    let (mut count, mut is_broken) = (0, false);
    for project in projects {
        let (backups, broken) = archive.all(&project)?;
        count += backups.len() + broken.len();
        for backup in backups {
            let (manifest, verified) = (&backup.manifest, backup.verified);
            match settings.format {
                Format::Human => {
                    let version =
                        manifest.ledger.keys().max_by_key(position).map_or("no ledger", String::as_str);
                    let verified = match (verified, backup.failed) {
                        (Some(it), _) => format!("verified at level {} on {}", it.level, it.at),
                        (None, Some(at)) => format!("FAILED its check on {at}"),
                        (None, None) => "never verified".to_string(),
                    };
                    let label =
                        manifest.label.as_ref().map(|label| format!("  {label:?}")).unwrap_or_default();
                    output.line(format_args!(
                        "{}  {} bytes  {version}  {}  {verified}{label}",
                        backup.name, manifest.file.size, manifest.reason
                    ));
                }
                Format::Json => output.json(&json!({
                    "v": 1, "event": "backup", "name": backup.name, "verified": verified,
                    "failed": backup.failed, "manifest": manifest,
                })),
            }
        }
        for error in broken {
            is_broken = true;
            crate::report::fatal(&error, settings.format);
        }
    }
    if count == 0 && !list.ids.is_empty() {
        let message = format!("no backups of {} in {}", list.ids.join(", "), archive.location());
        return Err(Error::new(ErrorKind::NotFound, message).with_hint("list all: tenantry backup list"));
    }
    if count == 0 {
        crate::report::note(format_args!("no backups in {}", archive.location()));
    }
    output.finish()?;
    Ok(if is_broken { 3 } else { 0 })
}
