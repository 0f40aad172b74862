//! The commands that make, list and delete projects, and look at the store.

use clap::Args;
use serde_json::json;
use tenantry::manager::{FinalBackup, Operation};
use tenantry::store::{Finding, Spares};
use tenantry::{Error, ErrorKind, Result};

use super::fleet::{Filter, operate};
use super::{Format, Settings};
use crate::report::Output;

#[derive(Args, Debug)]
pub(super) struct Create {
    /// The ids: 1 to 100 of A-Z a-z 0-9 _ -, starting with a letter or a digit
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Drop {
    /// The projects
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Yes, delete them
    #[arg(long)]
    yes: bool,
    /// Take no last backup
    #[arg(long)]
    no_backup: bool,
}

pub(super) fn create(settings: &Settings, create: Create) -> Result<u8> {
    let code = operate(settings, &create.ids, Operation::Create)?;
    top_up(settings, code);
    Ok(code)
}

/// Replaces the spares that were used or are of an older catalog, once everybody who waited has what they waited for.
/// What is done is done: that this fails is told, and changes no exit code; and who interrupts a command wants no more of it.
pub(super) fn top_up(settings: &Settings, code: u8) {
    const INTERRUPTED: u8 = 130;
    let top_up = || {
        let manager = settings.manager()?;
        if manager.store().spare_count() > 0 { manager.top_up_spares().map(|_| ()) } else { Ok(()) }
    };
    if code != INTERRUPTED
        && let Err(error) = top_up()
    {
        crate::report::note(format_args!("no spares were made: {}", error.summary()));
    }
}

pub(super) fn spares(settings: &Settings) -> Result<u8> {
    let manager = settings.manager()?;
    if manager.store().spare_count() == 0 {
        return Err(Error::new(ErrorKind::Configuration, "no spares are wanted")
            .with_hint("say how many: [store] spares = 8 in tenantry.toml, for a store on Postgres"));
    }
    let Spares { ready, made, removed, .. } = manager.top_up_spares()?;
    let mut output = Output::new();
    match settings.format {
        Format::Human => output.line(format_args!("{ready} ready, {made} made, {removed} removed")),
        Format::Json => {
            output
                .json(&json!({"v": 1, "event": "spares", "ready": ready, "made": made, "removed": removed}));
        }
    }
    output.finish()?;
    Ok(0)
}

pub(super) fn drop(settings: &Settings, drop: Drop) -> Result<u8> {
    if !drop.yes {
        return Err(Error::new(ErrorKind::Usage, format!("this deletes {}", drop.ids.join(", ")))
            .with_hint("if that is meant, say so: --yes"));
    }
    let copy = if drop.no_backup { FinalBackup::Skip } else { FinalBackup::Take };
    operate(settings, &drop.ids, Operation::Drop(copy))
}

pub(super) fn list(settings: &Settings, list: &List) -> Result<u8> {
    let selection = list.filter.selection()?;
    let store = settings.config()?.store()?;
    let found = store.discover()?;
    let mut output = Output::new();
    let mut count = 0;
    for id in found.projects.into_iter().filter(|id| selection.contains(id)) {
        count += 1;
        match settings.format {
            Format::Human => output.line(format_args!("{id}\t{}", store.place(&id))),
            Format::Json => {
                output.json(&json!({"v": 1, "event": "project", "project": id, "place": store.place(&id)}));
            }
        }
    }
    for it in &found.skipped {
        match settings.format {
            Format::Human => crate::report::note(format_args!("left alone: {} is {}", it.name, it.reason)),
            Format::Json => {
                output.json(&json!({"v": 1, "event": "left_out", "name": it.name, "reason": it.reason}));
            }
        }
    }
    if count == 0 {
        crate::report::note(format_args!("no project in {}", store.location()));
    }
    output.finish()?;
    Ok(if count == 0 && !list.filter.allow_empty { 6 } else { 0 })
}

pub(super) fn doctor(settings: &Settings, clean: bool) -> Result<u8> {
    let config = settings.config()?;
    let mut findings = vec![Finding { name: "tenantry", ok: true, detail: env!("CARGO_PKG_VERSION").into() }];
    if clean {
        let gone = config.manager()?.sweep()?;
        let detail = if gone.is_empty() { "nothing".into() } else { gone.join(", ") };
        findings.push(Finding { name: "removed", ok: true, detail });
    }
    findings.extend(config.store()?.diagnose());
    findings.push(
        match config.manager().and_then(|manager| manager.reference().map(|_| describe(&manager))) {
            Ok(detail) => Finding { name: "migrations", ok: true, detail },
            Err(error) => Finding { name: "migrations", ok: false, detail: error.to_string() },
        },
    );
    let mut output = Output::new();
    for finding in &findings {
        let mark = if finding.ok { "ok  " } else { "LOOK" };
        match settings.format {
            Format::Human => output.line(format_args!("{mark}  {:<10}  {}", finding.name, finding.detail)),
            Format::Json => output.json(
                &json!({"v": 1, "event": "finding", "name": finding.name, "ok": finding.ok, "detail": finding.detail}),
            ),
        }
    }
    output.finish()?;
    Ok(u8::from(findings.iter().any(|finding| !finding.ok)))
}

fn describe(manager: &tenantry::Manager) -> String {
    let catalog = manager.catalog();
    let head = catalog.migrations().last().map(tenantry::catalog::Migration::label).unwrap_or_default();
    format!("{}: {} version(s), newest {head}, all run on an empty database", catalog.name(), catalog.head())
}
