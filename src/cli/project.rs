//! The commands create, list, drop and doctor.

use clap::Args;
use serde_json::json;
use tenantry::manager::{FinalBackup, Operation};
use tenantry::store::Finding;
use tenantry::{Error, ErrorKind, Result};

use super::fleet::{Filter, run_on_ids};
use super::{Format, Settings, parse_ids, spares};
use crate::report::Output;

#[derive(Args, Debug)]
pub(super) struct Create {
    /// Ids of the projects: 1 to 100 of A-Z a-z 0-9 _ -, starting with a letter or digit
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// In a fleet of several stores, the one to create them in [default: [create] place in tenantry.toml]
    #[arg(long = "in", value_name = "STORE")]
    place: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args, Debug)]
pub(super) struct Drop {
    /// Projects to delete
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Confirm the deletion
    #[arg(long)]
    yes: bool,
    /// Do not take a final backup
    #[arg(long)]
    no_backup: bool,
}

pub(super) fn create(settings: &Settings, create: Create) -> Result<u8> {
    let ids = match &create.place {
        Some(store) => {
            let ids = parse_ids(&create.ids)?;
            ids.iter().map(|id| Ok(id.of_store(store)?.to_string())).collect::<Result<_>>()?
        }
        None => create.ids,
    };
    let code = run_on_ids(settings, &ids, Operation::Create)?;
    spares::refill(settings, code);
    Ok(code)
}

pub(super) fn drop(settings: &Settings, drop: Drop) -> Result<u8> {
    if !drop.yes {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("this deletes {} project(s): {}", drop.ids.len(), drop.ids.join(", ")),
        )
        .with_hint("to confirm: --yes"));
    }
    let final_backup = if drop.no_backup { FinalBackup::Skip } else { FinalBackup::Take };
    run_on_ids(settings, &drop.ids, Operation::Drop(final_backup))
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
    for it in &found.unreachable {
        match settings.format {
            Format::Human => crate::report::note(format_args!("store {}: {}", it.store, it.error)),
            Format::Json => output.json(
                &json!({"v": 1, "event": "store_failed", "store": it.store, "message": it.error.summary()}),
            ),
        }
    }
    for it in &found.skipped {
        match settings.format {
            Format::Human => crate::report::note(format_args!("skipped {}: {}", it.name, it.reason)),
            Format::Json => {
                output.json(&json!({"v": 1, "event": "left_out", "name": it.name, "reason": it.reason}));
            }
        }
    }
    if count == 0 {
        crate::report::note(format_args!("no projects in {}", store.location()));
    }
    output.finish()?;
    Ok(match count {
        _ if !found.unreachable.is_empty() => 3,
        0 if !list.filter.allow_empty => 6,
        _ => 0,
    })
}

pub(super) fn doctor(settings: &Settings, clean: bool) -> Result<u8> {
    let config = settings.config()?;
    let mut findings = vec![Finding::passed("tenantry", env!("CARGO_PKG_VERSION"))];
    if clean {
        let removed = config.manager()?.sweep()?;
        let detail = if removed.is_empty() { "nothing".into() } else { removed.join(", ") };
        findings.push(Finding::passed("removed", detail));
    }
    findings.extend(config.store()?.diagnose());
    findings.push(
        match config.manager().and_then(|manager| manager.verify_migrations().map(|()| describe(&manager))) {
            Ok(detail) => Finding::passed("migrations", detail),
            Err(error) => Finding::failed("migrations", error.to_string()),
        },
    );
    let mut output = Output::new();
    for finding in &findings {
        let mark = if finding.ok { "ok  " } else { "FAIL" };
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
    format!(
        "{}: {} migration(s), newest {head}; all run on an empty database",
        catalog.name(),
        catalog.head()
    )
}
