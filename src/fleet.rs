//! Many projects at once: the only concurrency there is.
//!
//! It must not let one project's trouble reach another, keep anything of a project once it is reported, or write
//! output: workers send what became of a project over one channel to one owner.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;

/// How many reports may wait for the owner before workers do.
const QUEUE_LENGTH: usize = 256;

/// What stops a run early: an interruption, or too many failures.
#[derive(Debug)]
pub(crate) struct StopCondition<'a> {
    interrupted: &'a AtomicBool,
    /// Whether nothing new is to begin, since it could not be recorded.
    halted: &'a AtomicBool,
    failures: AtomicUsize,
    limit: Option<usize>,
}

impl<'a> StopCondition<'a> {
    pub(crate) fn new(interrupted: &'a AtomicBool, halted: &'a AtomicBool, limit: Option<usize>) -> Self {
        Self { interrupted, halted, failures: AtomicUsize::new(0), limit }
    }

    fn count(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failed(_)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_met(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
            || self.halted.load(Ordering::Relaxed)
            || self.limit.is_some_and(|limit| self.failures.load(Ordering::Relaxed) >= limit)
    }
}

/// Worker threads.
pub(crate) struct Workers(ThreadPool);

impl Workers {
    pub(crate) fn new(jobs: usize) -> Result<Self> {
        ThreadPoolBuilder::new()
            .num_threads(jobs.max(1))
            .thread_name(|index| format!("tenantry-{index}"))
            .build()
            .map(Self)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot start worker threads").caused_by(error))
    }

    /// Does `work` for each project, and hands each result to `owner` on the calling thread. So many at a time go through
    /// `flush` together before anybody is told of them.
    ///
    /// Projects whose turn comes after that is met are reported as not started.
    pub(crate) fn for_each_project(
        &self,
        projects: &[ProjectId],
        batch_size: usize,
        stop: &StopCondition<'_>,
        work: impl Fn(&ProjectId) -> ProjectReport + Sync,
        flush: impl Fn(&mut [ProjectReport]) + Sync,
        receive: impl FnMut(ProjectReport),
    ) {
        let one = |project: &ProjectId| {
            if stop.is_met() {
                return ProjectReport::new(project.clone(), Outcome::NotStarted);
            }
            let started = Instant::now();
            let report =
                catch_unwind(AssertUnwindSafe(|| work(project))).unwrap_or_else(|_| panicked(project));
            stop.count(&report.outcome);
            ProjectReport { elapsed: started.elapsed(), ..report }
        };
        let part = |projects: &[ProjectId]| {
            let mut reports: Vec<ProjectReport> = projects.iter().map(one).collect();
            let is_failed = |it: &ProjectReport| matches!(it.outcome, Outcome::Failed(_));
            let failed: Vec<bool> = reports.iter().map(is_failed).collect();
            flush(&mut reports);
            for (report, _) in reports.iter().zip(failed).filter(|(_, failed)| !failed) {
                stop.count(&report.outcome);
            }
            reports
        };
        self.distribute(projects, batch_size, part, receive);
    }

    /// Does `work` for parts of so many projects, each part at once. A project of which it gives no report goes on to a later
    /// stage.
    pub(crate) fn for_each_batch(
        &self,
        projects: &[ProjectId],
        size: usize,
        stop: &StopCondition<'_>,
        work: impl Fn(&[ProjectId]) -> Vec<ProjectReport> + Sync,
        receive: impl FnMut(ProjectReport),
    ) {
        let part = |part: &[ProjectId]| -> Vec<ProjectReport> {
            if stop.is_met() {
                let not_started =
                    |project: &ProjectId| ProjectReport::new(project.clone(), Outcome::NotStarted);
                return part.iter().map(not_started).collect();
            }
            let started = Instant::now();
            let mut reports = catch_unwind(AssertUnwindSafe(|| work(part)))
                .unwrap_or_else(|_| part.iter().map(panicked).collect());
            // A part's projects share its time evenly.
            let elapsed = started.elapsed() / u32::try_from(part.len()).unwrap_or(u32::MAX).max(1);
            for report in &mut reports {
                report.elapsed = elapsed;
                stop.count(&report.outcome);
            }
            reports
        };
        self.distribute(projects, size, part, receive);
    }

    /// Gives parts of so many projects to the workers, and each report to its owner.
    fn distribute(
        &self,
        projects: &[ProjectId],
        size: usize,
        part: impl Fn(&[ProjectId]) -> Vec<ProjectReport> + Sync,
        mut receive: impl FnMut(ProjectReport),
    ) {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.0.install(|| {
                    projects.par_chunks(size.max(1)).with_max_len(1).for_each_with(
                        sender,
                        |sender, projects| {
                            for report in part(projects) {
                                // The owner is gone only when it panicked, and then nobody is left to tell.
                                let _ = sender.send(report);
                            }
                        },
                    );
                });
            });
            for report in receiver {
                receive(report);
            }
        });
    }
}

/// What is said of a project where tenantry itself panicked.
fn panicked(project: &ProjectId) -> ProjectReport {
    let error = Error::new(ErrorKind::Internal, "tenantry itself failed; the project is as it was")
        .in_project(project)
        .with_hint("please report this as a defect of tenantry");
    ProjectReport::new(project.clone(), Outcome::Failed(error))
}
