//! Executes the plans of a fleet: in waves, with a pause and a gate after each, until all are done or something stops it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Manager;
use super::command::{BackupBefore, Operation};
use super::context::RunContext;
use super::gate::run_gate;
use super::sink::EventSink;
use crate::apply::{Durability, Executor, Preflight};
use crate::event::{
    Event, GateResult, HaltReason, Halted, ProjectReport, WaveFinished, WavePaused, WaveStarted, Waves,
};
use crate::plan::Request;
use crate::project::ProjectId;
use crate::store::DeferredCommits;

/// How often a pause looks whether the run was interrupted.
const INTERVAL: Duration = Duration::from_millis(50);

/// Plans, sorted by the project's id.
type Plans = [(ProjectId, Preflight)];

/// Divides projects into waves and reports these, if there is more than one or something happens after each.
pub(super) fn divide<F: FnMut(Event)>(
    context: &RunContext<'_>,
    projects: Vec<ProjectId>,
    sink: &mut EventSink<'_, F>,
) -> (usize, Vec<Vec<ProjectId>>) {
    let rollout = &context.run.rollout;
    let (first, waves) = match &context.run.resumed {
        Some(resumed) if !resumed.waves.is_empty() => {
            let (complete, waves) = resumed.divide(projects);
            (complete + 1, waves)
        }
        _ => (1, rollout.divide(projects)),
    };
    if rollout.has_waves() && !waves.is_empty() {
        let order = rollout.order.to_string();
        sink.emit(Event::Waves(Waves { order, first, waves: waves.clone() }));
    }
    (first, waves)
}

impl Manager {
    /// Executes plans, wave by wave.
    pub(super) fn execute_waves<F: FnMut(Event)>(
        &self,
        context: &RunContext<'_>,
        executor: Executor<'_>,
        plans: &Plans,
        sink: &mut EventSink<'_, F>,
    ) {
        let rollout = &context.run.rollout;
        let failed_plans = context.stop.failures();
        context.stop.set_limit(rollout.budget(plans.len() + failed_plans));
        let ids = plans.iter().map(|(id, _)| id.clone()).collect();
        let (first, waves) = divide(context, ids, sink);
        let count = first + waves.len() - 1;
        let mut halted = None;
        let unplanned = ["failed", "blocked"].map(|outcome| sink.tally.count(outcome)).iter().sum();
        if rollout.all_or_nothing && unplanned > 0 && !waves.is_empty() {
            sink.halted.store(true, Ordering::Relaxed);
            halted = Some((first, HaltReason::Unplanned { projects: unplanned }));
        }
        for (wave, projects) in (first..).zip(&waves) {
            if rollout.has_waves() && !context.stop.is_met() {
                sink.emit(Event::WaveStarted(WaveStarted { wave, waves: count, projects: projects.len() }));
            }
            // Once the run has stopped, this reports the projects as not started.
            self.execute_wave(context, executor, projects, plans, sink);
            if halted.is_some() {
                continue;
            }
            halted = match self.stopped(context, sink) {
                Some(reason) => Some((wave, reason)),
                None => self.finish_wave(context, wave, count, sink).map(|reason| (wave, reason)),
            };
            if halted.is_some() {
                sink.halted.store(true, Ordering::Relaxed);
            }
        }
        let is_complete = sink.tally.count("not_started") == 0;
        match halted {
            // All projects were tried, and nothing was to happen after them.
            Some(_) if is_complete && !rollout.has_waves() => {}
            Some((wave, reason)) => {
                let is_upgrade = matches!(context.run.operation, Operation::Migrate(Request::Upgrade { .. }));
                let recorded = sink.recording.is_some() && is_upgrade;
                sink.is_incomplete = true;
                let run = context.id.to_string();
                sink.emit(Event::Halted(Halted { run, wave, waves: count, reason, recorded }));
            }
            None => {}
        }
    }

    /// Why the run has stopped, if it has.
    fn stopped<F: FnMut(Event)>(
        &self,
        context: &RunContext<'_>,
        sink: &EventSink<'_, F>,
    ) -> Option<HaltReason> {
        if self.interrupted.load(Ordering::Relaxed) {
            Some(HaltReason::Interrupted)
        } else if let Some(limit) = context.stop.spent() {
            Some(HaltReason::Failures { failures: context.stop.failures(), limit })
        } else {
            sink.halted.load(Ordering::Relaxed).then_some(HaltReason::Journal)
        }
    }

    /// Waits after a wave, and runs its gate. Returns why the run stops here, if it does.
    fn finish_wave<F: FnMut(Event)>(
        &self,
        context: &RunContext<'_>,
        wave: usize,
        waves: usize,
        sink: &mut EventSink<'_, F>,
    ) -> Option<HaltReason> {
        let rollout = &context.run.rollout;
        if !rollout.has_waves() {
            return None;
        }
        let is_last = wave == waves;
        if !rollout.bake.is_zero() && (!is_last || rollout.gate.is_some()) {
            sink.emit(Event::WavePaused(WavePaused { wave, duration: rollout.bake }));
            if !self.pause(rollout.bake) {
                return Some(HaltReason::Interrupted);
            }
        }
        let gate = rollout.gate.as_deref().map(|gate| self.run_gate(gate, context.id, wave, waves));
        match gate {
            Some(_) if self.interrupted.load(Ordering::Relaxed) => Some(HaltReason::Interrupted),
            Some(gate) if !gate.passed() => Some(HaltReason::Gate { gate }),
            gate => {
                sink.emit(Event::WaveFinished(WaveFinished { wave, gate }));
                None
            }
        }
    }

    fn run_gate(&self, command: &str, run_id: &str, wave: usize, waves: usize) -> GateResult {
        let variables = [
            ("TENANTRY_RUN", run_id.to_string()),
            ("TENANTRY_WAVE", wave.to_string()),
            ("TENANTRY_WAVES", waves.to_string()),
        ];
        run_gate(command, &variables, &|| self.interrupted.load(Ordering::Relaxed))
    }

    /// Waits. Returns `false` if the run was interrupted meanwhile.
    fn pause(&self, duration: Duration) -> bool {
        let started = Instant::now();
        while let Some(left) = duration.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            if self.interrupted.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(left.min(INTERVAL));
        }
        !self.interrupted.load(Ordering::Relaxed)
    }

    /// Executes the plans of some projects. Commits become durable in batches if the store has deferred commits.
    fn execute_wave<F: FnMut(Event)>(
        &self,
        context: &RunContext<'_>,
        mut executor: Executor<'_>,
        projects: &[ProjectId],
        plans: &Plans,
        sink: &mut EventSink<'_, F>,
    ) {
        // Batching gains little if every project also waits for its backup. In a small fleet it only delays reports.
        let backup_before = context.run.backup_before;
        let deferred = self.store.deferred_commits().filter(|_| backup_before == BackupBefore::None);
        let batch_size = deferred.map_or(1, DeferredCommits::commit_batch_size);
        let batch_size = batch_size.min(projects.len() / (context.workers.count() * 4)).max(1);
        if batch_size > 1 {
            executor.durability = Durability::Deferred;
        }
        let execute = |project: &ProjectId| {
            let index = plans.binary_search_by(|(id, _)| id.cmp(project)).ok();
            let preflight = index.and_then(|index| plans.get(index)).map(|(_, preflight)| preflight);
            self.execute_with_backup(
                &executor,
                project,
                preflight.unwrap_or(&Preflight::UNPLANNED),
                backup_before,
            )
        };
        let flush = |reports: &mut [ProjectReport]| {
            if executor.durability == Durability::Deferred {
                self.flush_commits(reports, context.id);
            }
        };
        context.workers.for_each_project(projects, batch_size, &context.stop, execute, flush, |report| {
            sink.project_finished(report);
        });
    }
}
