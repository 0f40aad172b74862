//! Runs one fleet command: the same steps for one project and for all, for a dry run and for the run itself.
//!
//! All projects are planned before the first is written to. Memory for a project is freed once it is reported.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::Manager;
use super::command::{MaintenanceTask, Operation, Run, new_run_id};
use super::context::RunContext;
use super::reporting::lock;
use super::sink::EventSink;
use super::survey::{Planned, Prefetched};
use super::waves::divide;
use crate::apply::Executor;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Note, Outcome, ProjectReport, RunStarted, StoreFailed, Summary, Tally};
use crate::plan::Request;
use crate::project::ProjectId;
use crate::store::{Discovery, ReadSchema, Skipped, Unreachable};
use crate::workers::StopCondition;

impl Manager {
    /// Runs a fleet command. `observer` is called on this thread, once for each event, in order.
    ///
    /// The outcome of each project is in the events, and the summary counts them; a failed project is not an error.
    /// Fails if the run cannot be started, before any project is touched, or if it cannot be completed, for example
    /// because the journal cannot be written.
    ///
    /// A run that is [all or nothing](super::Rollout::all_or_nothing) and fails is followed by a second run, which rolls it
    /// back. The summary is that of the first.
    pub fn run(&self, run: &Run, mut observer: impl FnMut(Event)) -> Result<Summary> {
        let (id, summary) = self.run_once(run, &mut observer)?;
        let failed = summary.exit == 3 || summary.exit == 4;
        if run.rollout.all_or_nothing && failed && !run.dry_run {
            self.roll_back_run(&id, &mut observer)?;
        }
        Ok(summary)
    }

    /// Rolls a run back, in a run of its own.
    fn roll_back_run(&self, run_id: &str, observer: &mut impl FnMut(Event)) -> Result<()> {
        let rollback = self.read_changes(run_id)?;
        if rollback.moved.is_empty() && rollback.unreadable.is_empty() {
            return Ok(());
        }
        let (id, summary) = self.run_once(&Run::roll_back(rollback), observer)?;
        if summary.exit == 0 {
            return Ok(());
        }
        let message = "not every project is back where it was";
        Err(Error::new(ErrorKind::CheckFailed, message).with_hint(format!(
            "see which, and why: tenantry runs show {id}; then: tenantry runs rollback {run_id}"
        )))
    }

    /// Runs a command. Returns the id of the run and its summary.
    fn run_once(&self, run: &Run, mut observer: impl FnMut(Event)) -> Result<(String, Summary)> {
        let started = Instant::now();
        let Discovery { mut projects, skipped, unreachable } = self.select(run)?;
        if run.rollout.all_or_nothing && !run.dry_run {
            self.require_way_back(&unreachable)?;
        }
        // Of a store that cannot be reached, a run that is resumed knows the projects. They fail by their names.
        if let Some(resumed) = &run.resumed {
            let is_unreachable =
                |id: &&ProjectId| unreachable.iter().any(|it| Some(it.store.as_str()) == id.store());
            projects.extend(resumed.waves.iter().flatten().filter(is_unreachable).cloned());
        }
        let prefetched = self.prepare(run, &projects)?;
        let id = run.resumed.as_ref().map_or_else(new_run_id, |resumed| resumed.run.clone());
        let (recording, after) = self.start_recording(run, &id, &projects, &mut observer)?;
        let halted = AtomicBool::new(false);
        let mut sink =
            EventSink { tally: Tally::default(), observer, recording, halted: &halted, is_incomplete: false };
        sink.emit(Event::RunStarted(self.run_started(run, &id, projects.len(), after)));
        self.report_surroundings(run, skipped, unreachable, projects.is_empty(), &mut sink);
        let result = self.run_operation(run, &id, started, &projects, prefetched, &mut sink);
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let EventSink { tally, mut observer, recording, is_incomplete, .. } = sink;
        let summary = Summary {
            predicted: run.predicted,
            ..Summary::new(tally, started.elapsed(), [interrupted, is_incomplete], run.exit_rules)
        };
        let finished = Event::RunFinished(summary.clone());
        // The record is closed even if the operation failed, since projects may have been changed.
        let recorded = match recording {
            Some(mut recording) => {
                recording.event(&finished);
                recording.finish(&summary)
            }
            None => Ok(()),
        };
        result?;
        observer(finished);
        recorded.map(|()| (id, summary))
    }

    /// The first event of a run.
    fn run_started(&self, run: &Run, id: &str, projects: usize, after: Option<String>) -> RunStarted {
        RunStarted {
            run: id.into(),
            command: run.name(),
            read_only: matches!(
                run.operation,
                Operation::Status | Operation::Drift | Operation::Maintain(MaintenanceTask::Check)
            ),
            store: self.store.location(),
            pattern: self.store.pattern(),
            projects,
            dry_run: run.dry_run,
            predicted: run.predicted,
            resumed: run.resumed.is_some(),
            shard: run.job_shard().map(|it| it.shard.to_string()),
            group: run.job_shard().and_then(|it| it.group.clone()),
            after,
        }
    }

    /// Reports what is around the projects: stores that cannot be reached, and what is skipped.
    fn report_surroundings<F: FnMut(Event)>(
        &self,
        run: &Run,
        skipped: Vec<Skipped>,
        unreachable: Vec<Unreachable>,
        is_empty: bool,
        sink: &mut EventSink<'_, F>,
    ) {
        for Unreachable { store, error } in unreachable {
            sink.is_incomplete = true;
            sink.emit(Event::StoreFailed(StoreFailed { store, error }));
        }
        let ignored_files = self.catalog.ignored_files().iter().map(|path| Skipped {
            name: path.display().to_string(),
            reason: "not a migration: a file among the migrations' folders".into(),
        });
        for it in skipped.into_iter().chain(ignored_files) {
            sink.emit(Event::Skipped(it));
        }
        if matches!(run.operation, Operation::Create | Operation::Migrate(_)) {
            for note in self.notes_on_left_out() {
                sink.emit(Event::Note(note));
            }
        }
        if is_empty && !self.store.exists() {
            sink.emit(Event::Note(missing_store(self.store.location())));
        }
    }

    /// Runs the operation on all projects, in parallel. Passes each project's report to `sink`.
    fn run_operation<F: FnMut(Event)>(
        &self,
        run: &Run,
        id: &str,
        started: Instant,
        projects: &[ProjectId],
        prefetched: Prefetched,
        sink: &mut EventSink<'_, F>,
    ) -> Result<()> {
        if projects.is_empty() {
            return Ok(());
        }
        let stop = StopCondition::new(&self.interrupted, sink.halted, run.rollout.max_failures);
        let context = RunContext { run, id, workers: self.workers()?, stop, started };
        let prefetched = Mutex::new(prefetched);
        let dry_run = run.dry_run;
        match &run.operation {
            Operation::Status | Operation::Drift => {
                let batch = self.store.inspect_batch_size(projects.len()).max(1);
                let survey = |projects: &[ProjectId]| {
                    self.survey_reports(projects, &prefetched, &|executor, project, inspection| match run
                        .operation
                    {
                        Operation::Drift => self.report_drift(project, executor.reference, inspection),
                        _ => self.report(project, executor.plan(inspection), Outcome::Planned),
                    })
                };
                context.workers.for_each_batch(projects, batch, &context.stop, survey, |report| {
                    sink.project_finished(report);
                });
            }
            Operation::Migrate(request) => self.migrate(&context, *request, projects, &prefetched, sink)?,
            Operation::Create => {
                if !self.reference()?.allows_template() {
                    sink.emit(Event::Note(self.note_on_separate_creation()));
                }
                context.for_each(projects, sink, |project| self.create_project(project, id));
            }
            Operation::Import(file) => {
                context.for_each(projects, sink, |project| self.import_project(project, file, id));
            }
            Operation::Drop(backup) => {
                context.for_each(projects, sink, |project| self.drop_project(project, *backup, id));
            }
            Operation::Maintain(task) => {
                context.for_each(projects, sink, |project| self.maintain_project(project, *task, dry_run));
            }
            Operation::RollBack(rollback) => {
                context.for_each(projects, sink, |project| {
                    self.roll_back_project(project, rollback, dry_run, id)
                });
            }
            Operation::Repair(extra) => {
                context.for_each(projects, sink, |project| self.repair_project(project, *extra, dry_run, id));
            }
            Operation::Backups(task) => {
                context.for_each(projects, sink, |project| self.run_backup_task(project, task, dry_run, id));
                self.finish_backups(run, task, projects, sink)?;
            }
        }
        Ok(())
    }

    /// Moves projects between versions: plans all of them, then executes the plans. A dry run ends after planning.
    fn migrate<F: FnMut(Event)>(
        &self,
        context: &RunContext<'_>,
        request: Request,
        projects: &[ProjectId],
        prefetched: &Mutex<Prefetched>,
        sink: &mut EventSink<'_, F>,
    ) -> Result<()> {
        let executor = Executor {
            allow_row_loss: &context.run.allow_row_loss,
            ..self.executor_for(request, context.id)?
        };
        let Some(rehearsal) = context.run.rehearsal else {
            let planned = self.plan_all(context, &executor, projects, prefetched, &mut |report| {
                sink.project_finished(report);
            });
            #[cfg(feature = "lint")]
            self.lint_pending(context, request, planned.lowest, sink)?;
            if context.run.dry_run {
                divide(context, planned.would_run, sink);
                return Ok(());
            }
            self.execute_waves(context, executor, &planned.projects, sink);
            return Ok(());
        };
        let mut planned = Vec::new();
        let Planned { lowest, .. } =
            self.plan_all(context, &executor, projects, prefetched, &mut |report| match report.outcome {
                Outcome::Planned => planned.push(report),
                _ => sink.project_finished(report),
            });
        #[cfg(feature = "lint")]
        self.lint_pending(context, request, lowest, sink)?;
        #[cfg(not(feature = "lint"))]
        let _ = lowest;
        let projects_planned = planned.len();
        let (sample, others) = self.choose_sample(planned, rehearsal.sample)?;
        for report in others {
            sink.project_finished(report);
        }
        let planning = context.started.elapsed();
        let started = Instant::now();
        let passed = Mutex::new(Vec::new());
        let unrehearsed = projects_planned.saturating_sub(sample.len());
        context.for_each(&sample, sink, |project| {
            let report = self.rehearse_project(&executor, project, rehearsal.place);
            if matches!(report.outcome, Outcome::Rehearsed) {
                lock(&passed).push(project.clone());
            }
            report
        });
        let passed = passed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let all = passed.len() + unrehearsed;
        let place = rehearsal.place;
        if context.stop.is_met() {
            return Ok(());
        }
        match self.predict(context.run, place, &passed, all, [planning, started.elapsed()]) {
            Ok(Some(prediction)) => sink.emit(Event::Prediction(prediction)),
            Ok(None) => {}
            // What the rehearsal found counts without it.
            Err(error) => sink.emit(Event::Note(Note {
                message: format!("the duration of the upgrade could not be predicted: {}", error.summary()),
                hint: "the rehearsal is complete; mend this and rehearse again for a prediction".into(),
            })),
        }
        Ok(())
    }

    /// Reports what lint finds in the migrations that an upgrade will run.
    #[cfg(feature = "lint")]
    fn lint_pending<F: FnMut(Event)>(
        &self,
        context: &RunContext<'_>,
        request: Request,
        lowest: Option<usize>,
        sink: &mut EventSink<'_, F>,
    ) -> Result<()> {
        let (Request::Upgrade { to, .. }, Some(lowest)) = (request, lowest) else { return Ok(()) };
        let Some(options) = &context.run.lint else { return Ok(()) };
        // Warnings of what runs now come too late.
        if context.run.dry_run || options.strict {
            self.lint_plan(options, lowest..to, &mut |note| sink.emit(Event::Note(note)))?;
        }
        Ok(())
    }

    /// Inspects and plans projects. Those that need nothing more are reported, in a dry run all; the others are returned,
    /// sorted.
    fn plan_all(
        &self,
        context: &RunContext<'_>,
        executor: &Executor<'_>,
        projects: &[ProjectId],
        prefetched: &Mutex<Prefetched>,
        finished: &mut dyn FnMut(ProjectReport),
    ) -> Planned {
        let planned = Mutex::new(Planned::default());
        let plan_batch = |projects: &[ProjectId]| {
            let inspections = self.take_prefetched_or_inspect(projects, prefetched, ReadSchema::Always);
            // If this fails, each project that needs one of the schemas reports it.
            let _ = self.reference_for(inspections.iter().flatten());
            let plan = |(project, inspection)| {
                self.plan_project(executor, project, inspection, context.run.dry_run, &planned)
            };
            projects.iter().zip(inspections).filter_map(plan).collect()
        };
        let batch = self.store.inspect_batch_size(projects.len()).max(1);
        context.workers.for_each_batch(projects, batch, &context.stop, plan_batch, finished);
        let mut planned = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        planned.projects.sort_by(|(a, _), (b, _)| a.cmp(b));
        planned
    }
}

fn missing_store(location: String) -> Note {
    Note {
        message: format!("{location} does not exist"),
        hint: "if the projects are elsewhere, give their folder: --store sqlite:FOLDER; the first create makes it".into(),
    }
}
