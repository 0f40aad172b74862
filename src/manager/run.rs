//! One fleet command: the same straight line for one project and for all, for a dry run and for the run.
//!
//! It must plan for every project before it writes to the first, and keep nothing of a project that is reported.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Manager;
use super::backup::{ABANDONED, BackupTask};
use super::command::{FinalBackup, Operation, Run, Safety, Selection};
use super::maintenance::MaintenanceTask;
use super::recording::Recording;
use super::survey::Prefetched;
use crate::apply::{Durability, Executor, PlanResult, Preflight, Progress, RowOwner};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Note, Outcome, ProjectReport, RunStarted, Summary, Tally};
use crate::fleet::StopCondition;
use crate::plan::{Inspection, Plan, Problem, Request};
use crate::project::ProjectId;
use crate::sql::pragma::FileSettings;
use crate::store::{
    Discovery, ForeignKeys, Mode, ReadSchema, SchemaSource, Session, Skipped, Spares, Template,
};

/// A new run's id.
pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The one place that counts and tells.
struct EventSink<'a, F> {
    tally: Tally,
    observer: F,
    recording: Option<Recording<'a>>,
    /// Set where an event could not be recorded: then nothing new begins.
    halted: &'a AtomicBool,
}

impl<F: FnMut(Event)> EventSink<'_, F> {
    /// What is told is recorded first.
    fn emit(&mut self, event: Event) {
        if let Some(recording) = &mut self.recording
            && !recording.event(&event)
        {
            self.halted.store(true, Ordering::Relaxed);
        }
        (self.observer)(event);
    }

    fn project_finished(&mut self, report: ProjectReport) {
        self.tally.add(&report.outcome);
        self.emit(Event::ProjectFinished(report));
    }
}

impl Manager {
    /// Carries out a fleet command. `observer` is called on this thread, once an event, in order.
    ///
    /// Errors only when the run can't be made: nothing is touched then.
    pub fn run(&self, run: &Run, observer: impl FnMut(Event)) -> Result<Summary> {
        let started = Instant::now();
        let Discovery { projects, skipped } = self.select(run)?;
        let prefetched = self.prepare(run, &projects)?;
        let id = new_id();
        let mut observer = observer;
        let (recording, after) = self.start_recording(run, &id, projects.len(), &mut observer)?;
        let halted = AtomicBool::new(false);
        let mut sink = EventSink { tally: Tally::default(), observer, recording, halted: &halted };
        sink.emit(Event::RunStarted(RunStarted {
            run: id.clone(),
            command: run.name(),
            looks: matches!(run.operation, Operation::Status),
            store: self.store.location(),
            pattern: self.store.pattern(),
            projects: projects.len(),
            dry_run: run.dry_run,
            after,
        }));
        let strays = self.catalog.strays().iter().map(|path| Skipped {
            name: path.display().to_string(),
            reason: "no migration: a file beside their folders".into(),
        });
        for it in skipped.into_iter().chain(strays) {
            sink.emit(Event::Skipped(it));
        }
        let carried_out = self.carry_out(run, &id, &projects, prefetched, &mut sink);
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let EventSink { tally, mut observer, recording, .. } = sink;
        let summary = Summary::new(tally, started.elapsed(), interrupted, run.exit_rules);
        let finished = Event::RunFinished(summary.clone());
        // However it ended, it has ended, and what was done is told.
        let recorded = match recording {
            Some(mut recording) => {
                recording.event(&finished);
                recording.finish(&summary)
            }
            None => Ok(()),
        };
        carried_out?;
        observer(finished);
        recorded.map(|()| summary)
    }

    /// Whatever can be wrong with the command itself shows here, before anything is touched.
    fn prepare(&self, run: &Run, projects: &[ProjectId]) -> Result<Prefetched> {
        if run.safety != Safety::None {
            self.archive()?;
        }
        let needs_reference = match &run.operation {
            Operation::Status => return self.prefetch(projects, ReadSchema::IfUnverified),
            Operation::Migrate(Request::Downgrade { .. }) => {
                if !projects.is_empty() {
                    self.reference_with_downs()?;
                }
                return Ok(Prefetched::default());
            }
            Operation::Migrate(_) => return self.prefetch(projects, ReadSchema::Always),
            Operation::Drop(FinalBackup::Skip) => false,
            Operation::Drop(FinalBackup::Take) => {
                self.archive()?;
                false
            }
            Operation::Create | Operation::Import(_) => true,
            Operation::RollBack(_) => {
                self.archive()?;
                true
            }
            Operation::Maintain(task) => {
                self.require_rules(*task)?;
                matches!(task, MaintenanceTask::Retain { .. })
            }
            Operation::Backups(task) => {
                self.archive()?;
                task.needs_reference()
            }
        };
        if needs_reference && !projects.is_empty() {
            self.reference()?;
        }
        Ok(Prefetched::default())
    }

    fn select(&self, run: &Run) -> Result<Discovery> {
        match &run.selection {
            _ if matches!(run.operation, Operation::Backups(_)) => self.select_with_backups(run),
            Selection::Ids(_) => self.select_ids(&run.selection),
            Selection::All { .. } => {
                let mut found = self.store.discover()?;
                found.projects.retain(|id| run.selection.contains(id));
                Ok(found)
            }
        }
    }

    /// The ids that are named, each once, none of which could not be a project's.
    pub(super) fn select_ids(&self, selection: &Selection) -> Result<Discovery> {
        let Selection::Ids(ids) = selection else { return Ok(Discovery::default()) };
        let mut projects: Vec<ProjectId> = Vec::new();
        for id in ids {
            if !projects.contains(id) {
                self.store.validate_id(id)?;
                projects.push(id.clone());
            }
        }
        Ok(Discovery { projects, skipped: Vec::new() })
    }

    fn carry_out<F: FnMut(Event)>(
        &self,
        run: &Run,
        id: &str,
        projects: &[ProjectId],
        prefetched: Prefetched,
        sink: &mut EventSink<'_, F>,
    ) -> Result<()> {
        if matches!(run.operation, Operation::Create) && !self.reference()?.is_template() {
            sink.emit(Event::Note(self.made_one_by_one()));
        }
        if projects.is_empty() {
            return Ok(());
        }
        let stop = StopCondition::new(&self.interrupted, sink.halted, run.max_failures);
        let workers = self.workers()?;
        let prefetched = Mutex::new(prefetched);
        let request = match &run.operation {
            Operation::Migrate(request) => *request,
            Operation::Status => {
                let part = self.store.inspect_batch_size(projects.len()).max(1);
                let look = |projects: &[ProjectId]| self.status_reports(projects, &prefetched);
                workers.for_each_batch(projects, part, &stop, look, |report| sink.project_finished(report));
                return Ok(());
            }
            other => {
                let one = |project: &ProjectId| match other {
                    Operation::Drop(copy) => self.drop_project(project, *copy, id),
                    Operation::Maintain(task) => self.maintain_project(project, *task, run.dry_run),
                    Operation::Backups(task) => self.backup_task(project, task, run.dry_run, id),
                    Operation::Import(text) => self.import_project(project, text, id),
                    Operation::RollBack(undo) => self.roll_back_project(project, undo, run.dry_run, id),
                    Operation::Create => self.create_project(project, id),
                    Operation::Status | Operation::Migrate(_) => {
                        failed(project, Error::new(ErrorKind::Internal, "it goes another way"))
                    }
                };
                workers.for_each_project(
                    projects,
                    1,
                    &stop,
                    one,
                    |_| (),
                    |report| sink.project_finished(report),
                );
                return match other {
                    Operation::Backups(task) => self.after_backups(run, task, projects, sink),
                    _ => Ok(()),
                };
            }
        };
        let mut executor = Executor { allow_row_loss: &run.allow_row_loss, ..self.executor(request, id)? };
        let planned = Mutex::new(Vec::new());
        let survey = |projects: &[ProjectId]| {
            let each = projects.iter().zip(self.take_prefetched(projects, &prefetched, ReadSchema::Always));
            let plan = |(project, inspection)| {
                self.plan_project(&executor, project, inspection, run.dry_run, &planned)
            };
            each.filter_map(plan).collect()
        };
        let part = self.store.inspect_batch_size(projects.len()).max(1);
        workers.for_each_batch(projects, part, &stop, survey, |report| sink.project_finished(report));

        let mut planned = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        planned.sort_by(|(a, _), (b, _): &(ProjectId, Preflight)| a.cmp(b));
        let (ids, preflights): (Vec<_>, Vec<_>) = planned.into_iter().unzip();
        // With a backup taken of each there is more to wait for than commits; and few projects had rather be told of early.
        let batch_size = if run.safety == Safety::None { self.store.commit_batch_size() } else { 1 };
        let batch_size = batch_size.min(ids.len() / (self.jobs * 4)).max(1);
        if batch_size > 1 {
            executor.durability = Durability::Deferred;
        }
        let executor = executor;
        let perform = |project: &ProjectId| {
            let preflight = ids.binary_search(project).ok().and_then(|index| preflights.get(index));
            self.execute_with_backup(
                &executor,
                project,
                preflight.unwrap_or(&Preflight::UNPLANNED),
                run.safety,
            )
        };
        let flush = |reports: &mut [ProjectReport]| {
            if executor.durability == Durability::Deferred {
                self.flush_commits(reports, id);
            }
        };
        workers.for_each_project(&ids, batch_size, &stop, perform, flush, |report| {
            sink.project_finished(report);
        });
        Ok(())
    }

    /// What is said, or done, of all backups together.
    fn after_backups<F: FnMut(Event)>(
        &self,
        run: &Run,
        task: &BackupTask,
        projects: &[ProjectId],
        sink: &mut EventSink<'_, F>,
    ) -> Result<()> {
        match task {
            BackupTask::Check { .. } if matches!(run.selection, Selection::All { .. }) => {
                sink.emit(Event::Backups(self.coverage(projects)?));
            }
            BackupTask::Prune(_) if !run.dry_run => self.archive()?.sweep_unfinished(ABANDONED)?,
            _ => {}
        }
        Ok(())
    }

    /// Plans by what was read. Gives a report where that is all there is to do, and else notes how to go on.
    fn plan_project(
        &self,
        executor: &Executor<'_>,
        project: &ProjectId,
        inspection: Result<Inspection>,
        dry_run: bool,
        planned: &Mutex<Vec<(ProjectId, Preflight)>>,
    ) -> Option<ProjectReport> {
        let inspection = match inspection {
            Ok(inspection) => inspection,
            Err(error) => return Some(failed(project, error)),
        };
        let done = executor.plan(&inspection);
        let preflight = match &done {
            Ok(plan) if !plan.is_empty() => {
                let mode = executor.mode(plan);
                // Only what is of use: this is kept of the whole fleet.
                let keep = self.store.supports_begin_if_unchanged() && mode.schema == SchemaSource::Ledger;
                Some(Preflight { mode, seen: keep.then_some(inspection) })
            }
            // Another run may be in the middle of it this moment: only under its lock is it known to be dead.
            Err(problems) if problems.iter().any(|it| matches!(it, Problem::Dirty { .. })) => {
                Some(Preflight::UNPLANNED)
            }
            Ok(_) | Err(_) => None,
        };
        match preflight.filter(|_| !dry_run) {
            Some(preflight) => {
                lock(planned).push((project.clone(), preflight));
                None
            }
            None => Some(self.report(project, done, Outcome::Planned)),
        }
    }

    /// A report of what was found or done; `outcome` is for a plan that is not empty.
    pub(super) fn report(&self, project: &ProjectId, done: PlanResult, outcome: Outcome) -> ProjectReport {
        let plan = match done {
            Ok(plan) => plan,
            Err(problems) => return ProjectReport::new(project.clone(), Outcome::Blocked(problems)),
        };
        let version = |position: usize| self.catalog.version_at(position);
        let outcome = if plan.is_empty() { Outcome::UpToDate } else { outcome };
        let migrations =
            plan.migrations(&self.catalog).into_iter().map(|migration| migration.version.clone()).collect();
        let goes_down = plan.to < plan.from;
        let Plan { recorded, stamp, to, mut notes, .. } = plan;
        if stamp.is_some_and(|stamp| stamp.forced) {
            notes.push("recorded in spite of a difference".into());
        }
        ProjectReport {
            from: recorded.map(version),
            to: Some(version(to)),
            stamped: stamp.map(|stamp| version(stamp.position)),
            goes_down,
            migrations,
            notes,
            ..ProjectReport::new(project.clone(), outcome)
        }
    }

    /// Why new projects are not copied from one template.
    fn made_one_by_one(&self) -> Note {
        let place = self
            .catalog
            .computed_at()
            .map_or(String::new(), |(path, line)| format!(" ({}:{line})", path.display()));
        Note {
            message: format!(
                "each project is made by itself, since a migration makes up values that projects may not share{place}"
            ),
            hint: "where they may: same_for_all_projects = true in its metadata.toml".into(),
        }
    }

    fn create_project(&self, project: &ProjectId, run: &str) -> ProjectReport {
        match self.retry(|| self.create_in_run(project, run)) {
            Ok(()) => ProjectReport {
                to: Some(self.catalog.version_at(self.catalog.head())),
                ..ProjectReport::new(project.clone(), Outcome::Created)
            },
            Err(error) => failed(project, error),
        }
    }

    /// The template is made by the very path that upgrades a project.
    pub(super) fn create_in_run(&self, id: &ProjectId, run: &str) -> Result<()> {
        self.with_template(run, |template| self.store.create(id, template))
    }

    /// Makes databases that are ready to become projects, until there are as many as the store is to keep, and removes
    /// those of another catalog. An application does this beside its sign-ups, which then need not wait for migrations.
    pub fn top_up_spares(&self) -> Result<Spares> {
        let spares = self.with_template(&new_id(), |template| self.store.top_up_spares(template))?;
        if spares.made + spares.removed > 0 {
            self.append_to_journal("spares", serde_json::json!(spares))?;
        }
        Ok(spares)
    }

    fn with_template<T>(&self, run: &str, make: impl FnOnce(Template<'_>) -> Result<T>) -> Result<T> {
        // Before anything is begun on the server.
        let is_reusable = self.reference()?.is_template();
        let fill = |session: &mut dyn Session, at_most: usize| {
            let executor = Executor { rows: RowOwner::Migrations, ..self.executor(self.to_head(), run)? };
            // SQLite takes some of a file's settings only before anything else is done with it.
            let scripts = self.catalog.migrations().iter().map(|migration| migration.up.file_settings());
            let file = scripts.fold(FileSettings::NONE, FileSettings::then);
            let mode = Mode { foreign_keys: ForeignKeys::Compared, file, ..Mode::PLAIN };
            let mut progress = Progress { at_most, ..Progress::new(executor.request) };
            match executor.perform(session, &Preflight { mode, seen: None }, &mut progress)? {
                Ok(_) => Ok(()),
                Err(problems) => {
                    let said: Vec<_> = problems.iter().map(Problem::message).collect();
                    Err(Error::new(
                        ErrorKind::Internal,
                        format!("a new project is blocked: {}", said.join("; ")),
                    ))
                }
            }
        };
        make(Template {
            catalog: self.catalog.hash(),
            is_reusable,
            adds_enum_values: self.catalog.adds_enum_values(),
            run,
            fill: &fill,
        })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn failed(project: &ProjectId, error: Error) -> ProjectReport {
    // Nothing was tried: somebody has to say first which of its names is meant.
    if error.kind() == ErrorKind::SeveralNames {
        let hint = error.hint_for_command().unwrap_or_default().to_string();
        let problem = Problem::SeveralNames { message: error.message().into(), hint };
        return ProjectReport::new(project.clone(), Outcome::Blocked(vec![problem]));
    }
    ProjectReport::new(project.clone(), Outcome::Failed(error.in_project(project)))
}
