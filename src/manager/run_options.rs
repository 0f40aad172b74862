//! The options of a run as its record has them: written when it starts, and read when it is resumed.

use serde_json::{Value, json};

use super::command::{BackupBefore, BackupTask, FinalBackup, MaintenanceTask, Operation, Run, Selection};
use super::pattern::IdPattern;
use super::shard::JobShard;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::plan::{DowngradeTarget, IfDrifted, IfNoLedger, Request};
use crate::project::Shard;
use crate::schema::alter::ExtraCode;
use crate::schema::bookkeeping::Tool;

/// A run's options as recorded in the journal: everything that determines what the run does.
pub(super) fn options(run: &Run, catalog: [u8; 32]) -> Value {
    let selection = match &run.selection {
        Selection::Ids(ids) => json!({ "ids": ids }),
        Selection::All { only, except, shard } => {
            let strings = |patterns: &[IdPattern]| {
                patterns.iter().map(|it| it.as_str().to_string()).collect::<Vec<_>>()
            };
            json!({
                "all": true,
                "only": strings(only),
                "except": strings(except),
                "shard": shard.as_ref().map(|it| it.shard.to_string()),
                "group": shard.as_ref().map(|it| &it.group),
            })
        }
    };
    json!({
        "selection": selection,
        "operation": operation(run),
        "safety": match run.backup_before {
            BackupBefore::None => "none",
            BackupBefore::Take => "backup",
            BackupBefore::Check => "checked_backup",
        },
        "may_lose_rows": run.allow_row_loss,
        "rollout": run.rollout,
        "catalog": hexadecimal(&catalog),
    })
}

/// A run's operation as recorded in the journal. The format is stable.
fn operation(run: &Run) -> Value {
    let drift_name = |drift: IfDrifted| if drift == IfDrifted::Keep { "keep" } else { "refuse" };
    let details = match &run.operation {
        Operation::Migrate(Request::Upgrade { to, baseline, drift }) => json!({
            "to": to,
            "baseline": if *baseline == IfNoLedger::Stamp { "stamp" } else { "refuse" },
            "drift": drift_name(*drift),
        }),
        Operation::Migrate(Request::Stamp { to, force }) => json!({ "to": to, "force": force }),
        Operation::Migrate(Request::Adopt { from, retire }) => {
            json!({ "from": from.map(Tool::name), "retire": retire })
        }
        Operation::Migrate(Request::Downgrade { target: DowngradeTarget::Position(to), drift }) => {
            json!({ "to": to, "drift": drift_name(*drift) })
        }
        Operation::Migrate(Request::Downgrade { target: DowngradeTarget::Steps(steps), drift }) => {
            json!({ "steps": steps, "drift": drift_name(*drift) })
        }
        Operation::Import(file) => json!({ "file": file.display().to_string() }),
        Operation::Drop(backup) => json!({ "backup": *backup == FinalBackup::Take }),
        Operation::Repair(extra) => json!({ "drop_extra": *extra == ExtraCode::Drop }),
        Operation::RollBack(rollback) => json!({ "run": rollback.run }),
        Operation::Backups(BackupTask::Take { label }) => json!({ "label": label }),
        Operation::Backups(BackupTask::Check { level, .. }) => json!({ "level": level }),
        Operation::Backups(BackupTask::Restore(restore)) => json!({ "as": restore.target }),
        Operation::Maintain(MaintenanceTask::Retain { older_than }) => {
            json!({ "older_than_s": older_than.map(|age| age.as_secs()) })
        }
        Operation::Create
        | Operation::Status
        | Operation::Drift
        | Operation::Maintain(_)
        | Operation::Backups(BackupTask::Prune(_)) => {
            json!({})
        }
    };
    json!({ "do": run.name(), "with": details })
}

/// Reads the options of an upgrade back. Fails if they are those of another command.
pub(super) fn parse(options: &Value) -> Result<Run> {
    let invalid = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("the record of the run has no valid {what}"))
            .with_hint("start a new run: tenantry upgrade-all")
    };
    let command = options["operation"]["do"].as_str().unwrap_or_default();
    if !matches!(command, "upgrade" | "upgrade-all") {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the run is a {command}; only upgrades can be resumed"),
        )
        .with_hint("run its command again: what is done already is left as it is"));
    }
    let selection = &options["selection"];
    let selection = if selection["ids"].is_array() {
        Selection::Ids(read(&selection["ids"]).ok_or_else(|| invalid("selection"))?)
    } else {
        let patterns = |name: &str| -> Result<Vec<IdPattern>> {
            let texts: Vec<String> = read(&selection[name]).ok_or_else(|| invalid("selection"))?;
            texts.iter().map(|text| text.parse()).collect()
        };
        let group = selection["group"].as_str().map(String::from);
        let shard = selection["shard"].as_str().map(str::parse::<Shard>).transpose()?;
        let shard = shard.map(|shard| JobShard { shard, group });
        Selection::All { only: patterns("only")?, except: patterns("except")?, shard }
    };
    let with = &options["operation"]["with"];
    let request = Request::Upgrade {
        to: read(&with["to"]).ok_or_else(|| invalid("target"))?,
        baseline: if with["baseline"] == "stamp" { IfNoLedger::Stamp } else { IfNoLedger::Refuse },
        drift: if with["drift"] == "keep" { IfDrifted::Keep } else { IfDrifted::Refuse },
    };
    let row_loss: Vec<String> = read(&options["may_lose_rows"]).ok_or_else(|| invalid("options"))?;
    Ok(Run::new(selection, Operation::Migrate(request))
        .backup_before(match options["safety"].as_str() {
            Some("backup") => BackupBefore::Take,
            Some("checked_backup") => BackupBefore::Check,
            _ => BackupBefore::None,
        })
        .allow_row_loss(row_loss.into_iter().map(Version::new))
        .rollout(read(&options["rollout"]).ok_or_else(|| invalid("rollout"))?))
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}
