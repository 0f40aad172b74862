//! Works on many projects in parallel, on a pool of threads. Workers send their reports over one channel to the calling
//! thread.
//!
//! A failed project does not stop the others. A panic affects only the report of its project; while a batch is planned, those
//! of the whole batch.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::project::ProjectId;
use crate::store::Store;

/// The capacity of the channel. Workers block when it is full.
const QUEUE_LENGTH: usize = 256;

/// The conditions that stop a run early: an interruption, a journal that cannot be written, too many failures.
#[derive(Debug)]
pub(crate) struct StopCondition<'a> {
    interrupted: &'a AtomicBool,
    /// Set if the run's record can no longer be written. Then no further project is started.
    halted: &'a AtomicBool,
    failures: AtomicUsize,
    /// The number of failures at which no further project is started; `usize::MAX` for no limit.
    limit: AtomicUsize,
}

impl<'a> StopCondition<'a> {
    pub(crate) fn new(
        interrupted: &'a AtomicBool,
        halted: &'a AtomicBool,
        max_failures: Option<usize>,
    ) -> Self {
        let limit = AtomicUsize::new(max_failures.unwrap_or(usize::MAX));
        Self { interrupted, halted, failures: AtomicUsize::new(0), limit }
    }

    /// Sets the number of failures, counted from the start of the run, at which no further project is started.
    pub(crate) fn set_limit(&self, failures: Option<usize>) {
        self.limit.store(failures.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// The number of projects that failed.
    pub(crate) fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// The number of failures at which no further project is started, if so many failed.
    pub(crate) fn spent(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| self.failures() >= *limit)
    }

    fn count(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failed(_)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether no further project is started.
    pub(crate) fn is_met(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
            || self.halted.load(Ordering::Relaxed)
            || self.spent().is_some()
    }
}

/// Pools of worker threads: one for each lane of the store, so that no part of it gets more work at once than its limit.
pub(crate) struct Workers {
    lanes: Vec<ThreadPool>,
    store: Arc<dyn Store>,
}

impl Workers {
    /// Starts the threads. `jobs` is their number in each lane; `None` for the store's default.
    pub(crate) fn new(store: Arc<dyn Store>, jobs: Option<usize>) -> Result<Self> {
        let start = |(lane, threads): (usize, usize)| {
            ThreadPoolBuilder::new()
                .num_threads(jobs.unwrap_or(threads).max(1))
                .thread_name(move |index| format!("tenantry-{lane}-{index}"))
                .build()
                .map_err(|error| {
                    Error::new(ErrorKind::Internal, "cannot start worker threads").caused_by(error)
                })
        };
        let lanes = store.lanes().into_iter().enumerate().map(start).collect::<Result<_>>()?;
        Ok(Self { lanes, store })
    }

    /// How many projects are worked on at once.
    pub(crate) fn count(&self) -> usize {
        self.lanes.iter().map(ThreadPool::current_num_threads).sum()
    }

    /// Calls `work` for each project, and `receive` with each report on the calling thread. The reports of `batch_size`
    /// projects at a time pass through `flush` first.
    ///
    /// Projects that are not started when `stop` is met are reported as such.
    pub(crate) fn for_each_project(
        &self,
        projects: &[ProjectId],
        batch_size: usize,
        stop: &StopCondition<'_>,
        work: impl Fn(&ProjectId) -> ProjectReport + Sync,
        flush: impl Fn(&mut [ProjectReport]) + Sync,
        receive: impl FnMut(ProjectReport),
    ) {
        let work_on_project = |project: &ProjectId| {
            if stop.is_met() {
                return ProjectReport::new(project.clone(), Outcome::NotStarted);
            }
            let started = Instant::now();
            let report =
                catch_unwind(AssertUnwindSafe(|| work(project))).unwrap_or_else(|_| panicked(project));
            stop.count(&report.outcome);
            ProjectReport { elapsed: started.elapsed(), ..report }
        };
        let work_on_batch = |projects: &[ProjectId]| {
            let mut reports: Vec<ProjectReport> = projects.iter().map(work_on_project).collect();
            let is_failed = |it: &ProjectReport| matches!(it.outcome, Outcome::Failed(_));
            let failed: Vec<bool> = reports.iter().map(is_failed).collect();
            flush(&mut reports);
            // Failures that only the flush found.
            for (report, _) in reports.iter().zip(failed).filter(|(_, failed)| !failed) {
                stop.count(&report.outcome);
            }
            reports
        };
        self.distribute(projects, batch_size, work_on_batch, receive);
    }

    /// Calls `work` for batches of `size` projects, and `receive` with each report on the calling thread. `work`
    /// returns no report for a project that a later stage handles.
    pub(crate) fn for_each_batch(
        &self,
        projects: &[ProjectId],
        size: usize,
        stop: &StopCondition<'_>,
        work: impl Fn(&[ProjectId]) -> Vec<ProjectReport> + Sync,
        receive: impl FnMut(ProjectReport),
    ) {
        let work_on_batch = |batch: &[ProjectId]| -> Vec<ProjectReport> {
            if stop.is_met() {
                let not_started =
                    |project: &ProjectId| ProjectReport::new(project.clone(), Outcome::NotStarted);
                return batch.iter().map(not_started).collect();
            }
            let started = Instant::now();
            let mut reports = catch_unwind(AssertUnwindSafe(|| work(batch)))
                .unwrap_or_else(|_| batch.iter().map(panicked).collect());
            // Each project is reported with an equal share of the batch's time.
            let elapsed = started.elapsed() / u32::try_from(batch.len()).unwrap_or(u32::MAX).max(1);
            for report in &mut reports {
                report.elapsed = elapsed;
                stop.count(&report.outcome);
            }
            reports
        };
        self.distribute(projects, size, work_on_batch, receive);
    }

    /// Distributes batches of `size` projects over the workers, and passes each report to `receive`. A batch has projects of
    /// one lane.
    fn distribute(
        &self,
        projects: &[ProjectId],
        size: usize,
        work_on_batch: impl Fn(&[ProjectId]) -> Vec<ProjectReport> + Sync,
        mut receive: impl FnMut(ProjectReport),
    ) {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        let work_on_batch = &work_on_batch;
        std::thread::scope(|scope| {
            for (lane, projects) in self.by_lane(projects) {
                let sender = sender.clone();
                scope.spawn(move || {
                    lane.install(|| {
                        projects.par_chunks(size.max(1)).with_max_len(1).for_each_with(
                            sender,
                            |sender, projects| {
                                for report in work_on_batch(projects) {
                                    // Sending fails only if the receiving thread panicked.
                                    let _ = sender.send(report);
                                }
                            },
                        );
                    });
                });
            }
            drop(sender);
            for report in receiver {
                receive(report);
            }
        });
    }

    /// Divides projects by their lanes.
    fn by_lane<'a>(&'a self, projects: &'a [ProjectId]) -> Vec<(&'a ThreadPool, Cow<'a, [ProjectId]>)> {
        if let [lane] = self.lanes.as_slice() {
            return vec![(lane, Cow::Borrowed(projects))];
        }
        let mut of_lanes = vec![Vec::new(); self.lanes.len()];
        for project in projects {
            let lane = self.store.lane(project).min(of_lanes.len() - 1);
            of_lanes[lane].push(project.clone());
        }
        let lanes = self.lanes.iter().zip(of_lanes).filter(|(_, projects)| !projects.is_empty());
        lanes.map(|(lane, projects)| (lane, Cow::Owned(projects))).collect()
    }
}

/// The report of a project whose work panicked.
fn panicked(project: &ProjectId) -> ProjectReport {
    let error = Error::new(ErrorKind::Internal, "tenantry panicked; what was not committed is rolled back")
        .in_project(project)
        .with_hint("please report this as a bug in tenantry");
    ProjectReport::new(project.clone(), Outcome::Failed(error))
}
