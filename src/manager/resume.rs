//! Resumes an upgrade that was halted, interrupted or killed.

use super::Manager;
use super::command::Run;
use super::rollout::Resumed;
use super::run_options;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::journal::Json;

impl Manager {
    /// Reads from the journal how to go on with an upgrade that was halted, interrupted or killed: with the same projects,
    /// target and waves. Pass the result to [`Manager::run`]; the run keeps its id. Which projects are done is read from
    /// their ledgers.
    ///
    /// Fails with [`ErrorKind::NotFound`] if the run does not exist, and with [`ErrorKind::Usage`] if it is no upgrade,
    /// belongs to another fleet, or began with other migrations.
    pub fn resume(&self, run_id: &str) -> Result<Run> {
        let events = self.required_journal()?.events(run_id)?;
        self.require_this_fleet(run_id, &events)?;
        let started = events.iter().find(|event| event.0["event"] == "run_started");
        let store = started.and_then(|event| event.0["store"].as_str());
        if store.is_some_and(|store| !self.store.is_all_of(store)) {
            let message = format!("the run {run_id} was one of other stores of this fleet");
            return Err(Error::new(ErrorKind::Usage, message)
                .with_hint("name the same stores: --store NAME for each of them"));
        }
        let Some(Json(header)) = events.first().filter(|event| event.0["event"] == "run") else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the record of run {run_id} has no beginning"),
            )
            .with_hint("start a new run: tenantry upgrade-all"));
        };
        let run = run_options::parse(&header["options"])?;
        if header["options"]["catalog"] != hexadecimal(&self.catalog.hash()) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the migrations were changed since run {run_id} began"),
            )
            .with_hint("start a new run, which upgrades what is left: tenantry upgrade-all"));
        }
        let waves = events.iter().find(|event| event.0["event"] == "waves");
        let waves = waves.and_then(|event| serde_json::from_value(event.0["waves"].clone()).ok());
        // A wave is recorded as finished once its gate has passed.
        let complete = events.iter().filter(|event| event.0["event"] == "wave_finished");
        let complete = complete.filter_map(|event| event.0["wave"].as_u64()).max().unwrap_or_default();
        let complete = usize::try_from(complete).unwrap_or(usize::MAX);
        let waves: Vec<Vec<_>> = waves.unwrap_or_default();
        let reports = events.iter().filter(|event| event.0["outcome"] == "upgraded");
        let upgraded = reports.filter_map(|event| event.0["project"].as_str()?.parse().ok()).collect();
        let complete = complete.min(waves.len());
        Ok(Run { resumed: Some(Resumed { run: run_id.into(), waves, complete, upgraded }), ..run })
    }
}
