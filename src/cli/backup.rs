//! The commands about backups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use tenantry::backup::{Archive, Directory, RetentionPolicy};
use tenantry::event::ExitRules;
use tenantry::manager::{BackupTask, Operation, Restore as Restoring, Run, Sample, Selection, Source};
use tenantry::rules::parse_age;
use tenantry::store::IfInUse;
use tenantry::time::Moment;
use tenantry::{Error, ErrorKind, Manager, ProjectId, Result};

use super::fleet::{Filter, carry_out};
use super::maintenance::Projects;
use super::{Format, Settings, parse_ids};
use crate::report::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Backup {
    /// Take backups: consistent copies, while applications go on
    Create(Create),
    /// List backups
    List(List),
    /// Prove backups by restoring and comparing them
    Check(Check),
    /// Put a backup in a project's place, after a backup of what is there
    Restore(Restore),
    /// Remove backups that are not kept
    Prune(Prune),
}

#[derive(Args, Debug)]
pub(super) struct Create {
    #[command(flatten)]
    projects: Projects,
    /// A name for this moment, which restore --from finds again
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct List {
    /// The projects; all that have backups where none is named
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct Check {
    /// Projects, of which the newest backup is checked; or backups, by name or by file
    #[arg(value_name = "ID|FILE", required_unless_present = "all", conflicts_with_all = ["all", "only", "except"])]
    targets: Vec<String>,
    /// The newest backup of every project
    #[arg(long)]
    all: bool,
    /// How far: 1 its file, 2 restored and sound, 3 schema and rows compared, 4 upgraded to the newest version
    #[arg(long, value_name = "1-4", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    level: u8,
    /// Only part N of T of all projects, always the same ones
    #[arg(long, value_name = "N/T", requires = "all")]
    sample: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Restore {
    /// The project
    #[arg(value_name = "ID")]
    id: String,
    /// A backup's name or label [default: the newest]
    #[arg(long, value_name = "BACKUP", conflicts_with = "at")]
    from: Option<String>,
    /// The last backup from before this moment in UTC, such as 2026-11-21T20:17
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Make another project of it, and leave this one
    #[arg(long = "as", value_name = "NEWID")]
    target: Option<String>,
    /// Only say what would be done, and look at the backup's file
    #[arg(long)]
    dry_run: bool,
    /// Though others have it open, or it can't be read any more
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Prune {
    #[command(flatten)]
    projects: Projects,
    /// Keep the last N
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: usize,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: usize,
    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: usize,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: usize,
    /// Keep all that are younger: a number with s, m, h, d or w
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Only say which would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(settings: &Settings, command: Backup) -> Result<u8> {
    match command {
        Backup::Create(create) => {
            let (selection, exit_rules) = create.projects.selection()?;
            let task = BackupTask::Take { label: create.label };
            carry(settings, settings.manager()?, selection, task, false, exit_rules)
        }
        Backup::List(list) => self::list(settings, &list),
        Backup::Check(check) => self::check(settings, &check),
        Backup::Restore(restore) => self::restore(settings, restore),
        Backup::Prune(prune) => self::prune(settings, &prune),
    }
}

fn carry(
    settings: &Settings,
    manager: Manager,
    selection: Selection,
    task: BackupTask,
    dry_run: bool,
    exit_rules: ExitRules,
) -> Result<u8> {
    let operation = Operation::Backups(task);
    let run = Run { dry_run, exit_rules, ..Run::new(selection, operation) };
    carry_out(settings, &manager, &run)
}

fn check(settings: &Settings, check: &Check) -> Result<u8> {
    let mut manager = settings.manager()?;
    let (mut ids, mut names, mut folders) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for target in &check.targets {
        if !target.contains('/') {
            ids.push(target.parse()?);
            folders.insert(None);
            continue;
        }
        let (folder, project, name) = named(target)?;
        if let Some(folder) = &folder {
            manager = manager.with_archive(Archive::new(Directory::new(folder)));
        }
        folders.insert(folder);
        ids.push(project.clone());
        if names.insert(project, name).is_some() {
            return Err(Error::new(ErrorKind::Usage, "two backups of one project are named")
                .with_hint("check them one after the other"));
        }
    }
    if folders.len() > 1 {
        return Err(Error::new(ErrorKind::Usage, "backups of several folders are named")
            .with_hint("check those of one folder at a time"));
    }
    let selection = if check.all { check.filter.selection()? } else { Selection::Ids(ids) };
    let sample = check.sample.as_deref().map(sample).transpose()?;
    // A part of a small fleet may well have none.
    let exit_rules = if sample.is_some() {
        ExitRules { allow_empty: true, check: false }
    } else {
        check.filter.exit_rules()
    };
    let task = BackupTask::Check { level: check.level, names, sample };
    carry(settings, manager, selection, task, false, exit_rules)
}

/// A backup by its name in the archive, or by one of its files, wherever that is.
fn named(target: &str) -> Result<(Option<PathBuf>, ProjectId, String)> {
    let stem = [".json", ".zst"].iter().find_map(|end| target.strip_suffix(end));
    let path = Path::new(stem.unwrap_or(target));
    let part =
        |path: Option<&Path>| path.and_then(Path::file_name).and_then(|name| name.to_str()).map(String::from);
    let (Some(folder), Some(file)) = (part(path.parent()), part(Some(path))) else {
        return Err(Error::new(ErrorKind::Usage, format!("{target:?} is no backup")).with_hint(
            "name one as tenantry backup list does, or one of its files in the folder of its project",
        ));
    };
    let place = stem.map(|_| {
        let parent = path.parent().and_then(Path::parent).filter(|it| !it.as_os_str().is_empty());
        parent.map_or_else(|| PathBuf::from("."), PathBuf::from)
    });
    Ok((place, folder.parse()?, format!("{folder}/{file}")))
}

fn sample(text: &str) -> Result<Sample> {
    let parse = || {
        let (part, of) = text.split_once('/')?;
        let sample = Sample { part: part.parse().ok()?, of: of.parse().ok()? };
        (sample.part >= 1 && sample.part <= sample.of).then_some(sample)
    };
    parse().ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{text:?} is no part of a whole"))
            .with_hint("such as 1/7, and 2/7 the next day")
    })
}

fn restore(settings: &Settings, restore: Restore) -> Result<u8> {
    let id: ProjectId = restore.id.parse()?;
    let source = match (restore.from, restore.at) {
        (Some(name), _) => Source::Named(name),
        (None, Some(at)) => Source::At(Moment::parse(&at)?),
        (None, None) => Source::Newest,
    };
    let task = BackupTask::Restore(Restoring {
        source,
        target: restore.target.map(|id| id.parse()).transpose()?,
        if_in_use: if restore.force { IfInUse::Force } else { IfInUse::Fail },
    });
    let selection = Selection::Ids(vec![id]);
    let manager = settings.manager()?;
    carry(settings, manager, selection, task, restore.dry_run, ExitRules::default())
}

fn prune(settings: &Settings, prune: &Prune) -> Result<u8> {
    let keep = RetentionPolicy {
        last: prune.keep_last,
        daily: prune.keep_daily,
        weekly: prune.keep_weekly,
        monthly: prune.keep_monthly,
        within: prune.keep_within.as_deref().map(parse_age).transpose()?,
    };
    if keep.is_nothing() {
        return Err(Error::new(ErrorKind::Usage, "nothing says which backups are kept")
            .with_hint("such as --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12"));
    }
    let (selection, exit_rules) = prune.projects.selection()?;
    let manager = settings.manager()?;
    carry(settings, manager, selection, BackupTask::Prune(keep), prune.dry_run, exit_rules)
}

fn list(settings: &Settings, list: &List) -> Result<u8> {
    let config = settings.config()?;
    let archive = config.archive()?;
    // Which version is the newest the migrations say; where they can't be read, their names as they sort have to do.
    let catalog = config.catalog().ok();
    let position = |version: &&String| catalog.as_ref().and_then(|catalog| catalog.position(version));
    let ids = parse_ids(&list.ids)?;
    let projects = if ids.is_empty() { archive.projects()? } else { ids };
    let mut output = Output::new();
    let (mut count, mut is_broken) = (0, false);
    for project in projects {
        let (backups, broken) = archive.all(&project)?;
        count += backups.len() + broken.len();
        for backup in backups {
            let (manifest, verified) = (&backup.manifest, backup.verified);
            match settings.format {
                Format::Human => {
                    let version = manifest.ledger.keys().max_by_key(position).map_or("no ledger", String::as_str);
                    let verified = match (verified, backup.failed) {
                        (Some(it), _) => format!("verified at level {} on {}", it.level, it.at),
                        (None, Some(at)) => format!("FAILED its check on {at}"),
                        (None, None) => "never verified".to_string(),
                    };
                    let label = manifest.label.as_ref().map(|label| format!("  {label:?}")).unwrap_or_default();
                    output.line(format_args!(
                        "{}  {} bytes  {version}  {}  {verified}{label}",
                        backup.name, manifest.file.size, manifest.reason
                    ));
                }
                Format::Json => output.json(&json!({
                    "v": 1, "event": "backup", "name": backup.name, "verified": verified, "failed": backup.failed, "manifest": manifest,
                })),
            }
        }
        for error in broken {
            is_broken = true;
            crate::report::fatal(&error, settings.format);
        }
    }
    if count == 0 {
        crate::report::note(format_args!("no backup in {}", archive.location()));
    }
    output.finish()?;
    Ok(if is_broken { 3 } else { 0 })
}
