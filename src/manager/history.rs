//! Reads from a project's ledger what each run changed. Needed if a run failed or was killed before it recorded that
//! itself, and for rollbacks.

use std::sync::Mutex;

use super::Manager;
use super::reporting::lock;
use crate::error::Result;
use crate::event::VersionChange;
use crate::ledger::Action;
use crate::project::ProjectId;
use crate::schema::bookkeeping::HISTORY;

/// A row of a project's history table.
pub(super) struct RunHistoryRow {
    pub(super) version: String,
    pub(super) action: Action,
    pub(super) run: String,
}

/// The newest version after all these rows.
fn newest_version(history: &[RunHistoryRow]) -> Option<&str> {
    let mut applied: Vec<&str> = Vec::new();
    for RunHistoryRow { version, action, .. } in history {
        applied.retain(|known| known != version);
        if !matches!(action, Action::Revert | Action::Repeat) {
            applied.push(version);
        }
    }
    applied.last().copied()
}

impl Manager {
    /// Reads a project's history, oldest first. Empty without a history table.
    pub(super) fn history(&self, project: &ProjectId) -> Result<Vec<RunHistoryRow>> {
        let history = Mutex::new(Vec::new());
        self.store.read(project, &|rows| {
            let mut found = Vec::new();
            if !rows.columns(HISTORY)?.is_empty() {
                let columns = ["version", "action", "run"].map(String::from);
                rows.for_each_row(&columns, &format!("{HISTORY} ORDER BY sequence"), &mut |row| {
                    if let [Some(version), Some(action), Some(run)] = row.as_slice()
                        && let Some(action) = Action::parse(action)
                    {
                        found.push(RunHistoryRow { version: version.clone(), action, run: run.clone() });
                    }
                    Ok(true)
                })?;
            }
            *lock(&history) = found;
            Ok(())
        })?;
        Ok(std::mem::take(&mut *lock(&history)))
    }

    /// How a run changed a project's version, according to the project's ledger; `None` if it did not.
    pub(super) fn version_change_in_run(
        &self,
        project: &ProjectId,
        run_id: &str,
    ) -> Result<Option<VersionChange>> {
        let mut history = self.history(project)?;
        history.retain(|row| row.action != Action::Start);
        let Some(first) = history.iter().position(|row| row.run == run_id) else { return Ok(None) };
        let last = history.iter().rposition(|row| row.run == run_id).unwrap_or(first);
        let from = match (newest_version(&history[..first]), &history[first]) {
            (Some(version), _) => Some(version.to_string()),
            (None, RunHistoryRow { action: Action::Revert, version, .. }) => Some(version.clone()),
            // Diesel writes no history. The project was at the version before this migration.
            (None, RunHistoryRow { action: Action::Apply, version, .. }) => {
                let position = self.catalog.position(version).unwrap_or_default().saturating_sub(1);
                (position > 0).then(|| self.catalog.version_at(position).as_str().to_string())
            }
            (None, _) => None,
        };
        let empty_database = || self.catalog.version_at(0).as_str().to_string();
        let to = newest_version(&history[..=last]).map_or_else(empty_database, ToString::to_string);
        Ok(Some(VersionChange { from, to }))
    }
}
