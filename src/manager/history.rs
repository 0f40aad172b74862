//! What a project's own ledger says was ever done to it, and by which run.
//!
//! It must not ask anything but the ledger: that is the truth where a run could not say what it did.

use std::sync::Mutex;

use super::Manager;
use super::run::lock;
use crate::error::Result;
use crate::event::VersionChange;
use crate::ledger::Action;
use crate::project::ProjectId;
use crate::schema::bookkeeping::HISTORY;

/// A row of a project's history.
pub(super) struct HistoryRow {
    pub(super) version: String,
    pub(super) action: Action,
    pub(super) run: String,
}

/// The version that rows of a history lead to.
fn newest(history: &[HistoryRow]) -> Option<&str> {
    let mut applied: Vec<&str> = Vec::new();
    for HistoryRow { version, action, .. } in history {
        applied.retain(|known| known != version);
        if *action != Action::Revert {
            applied.push(version);
        }
    }
    applied.last().copied()
}

impl Manager {
    /// What was ever done to a project, as its own ledger has it.
    pub(super) fn history(&self, project: &ProjectId) -> Result<Vec<HistoryRow>> {
        let found = Mutex::new(Vec::new());
        self.store.read(project, &|rows| {
            let mut read = Vec::new();
            if !rows.columns(HISTORY)?.is_empty() {
                let columns = ["version", "action", "run"].map(String::from);
                rows.each(&columns, &format!("{HISTORY} ORDER BY sequence"), &mut |row| {
                    if let [Some(version), Some(action), Some(run)] = row.as_slice()
                        && let Some(action) = Action::parse(action)
                    {
                        read.push(HistoryRow { version: version.clone(), action, run: run.clone() });
                    }
                    Ok(true)
                })?;
            }
            *lock(&found) = read;
            Ok(())
        })?;
        Ok(std::mem::take(&mut *lock(&found)))
    }

    /// Where a run moved a project, as its own ledger has it; none where it did not.
    pub(super) fn moved_in_run(&self, project: &ProjectId, run: &str) -> Result<Option<VersionChange>> {
        let mut history = self.history(project)?;
        history.retain(|done| done.action != Action::Start);
        let Some(first) = history.iter().position(|done| done.run == run) else { return Ok(None) };
        let last = history.iter().rposition(|done| done.run == run).unwrap_or(first);
        let from = match (newest(&history[..first]), &history[first]) {
            (Some(version), _) => Some(version.to_string()),
            (None, HistoryRow { action: Action::Revert, version, .. }) => Some(version.clone()),
            // What diesel did left no history: it was where this migration follows.
            (None, HistoryRow { action: Action::Apply, version, .. }) => {
                let position = self.catalog.position(version).unwrap_or_default().saturating_sub(1);
                (position > 0).then(|| self.catalog.version_at(position).as_str().to_string())
            }
            (None, _) => None,
        };
        let nothing = || self.catalog.version_at(0).as_str().to_string();
        let to = newest(&history[..=last]).map_or_else(nothing, ToString::to_string);
        Ok(Some(VersionChange { from, to }))
    }
}
