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
const WAITING: usize = 256;

/// What stops a run early: an interruption, or too many failures.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    failures: AtomicUsize,
    limit: Option<usize>,
}

impl Brake {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { failures: AtomicUsize::new(0), limit }
    }

    fn count(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failed(_)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_pulled(&self, interrupted: &AtomicBool) -> bool {
        interrupted.load(Ordering::Relaxed)
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

    /// Does `work` for each project, and hands each result to `owner` on the calling thread.
    ///
    /// Projects whose turn comes after the brake is pulled are reported as not started.
    pub(crate) fn each(
        &self,
        projects: &[ProjectId],
        brake: &Brake,
        interrupted: &AtomicBool,
        work: impl Fn(&ProjectId) -> ProjectReport + Sync,
        owner: impl FnMut(ProjectReport),
    ) {
        let work = |projects: &[ProjectId]| projects.iter().map(&work).collect();
        self.parts(projects, 1, brake, interrupted, work, owner);
    }

    /// The same for parts of so many projects, each part at once. A project of which `work` gives no report goes on to a
    /// later stage.
    pub(crate) fn parts(
        &self,
        projects: &[ProjectId],
        size: usize,
        brake: &Brake,
        interrupted: &AtomicBool,
        work: impl Fn(&[ProjectId]) -> Vec<ProjectReport> + Sync,
        mut owner: impl FnMut(ProjectReport),
    ) {
        let (sender, receiver) = sync_channel(WAITING);
        let report_all = |part: &[ProjectId], outcome: &dyn Fn(&ProjectId) -> Outcome| {
            part.iter().map(|project| ProjectReport::new(project.clone(), outcome(project))).collect()
        };
        let one = |part: &[ProjectId]| -> Vec<ProjectReport> {
            if brake.is_pulled(interrupted) {
                return report_all(part, &|_| Outcome::NotStarted);
            }
            let started = Instant::now();
            let mut reports: Vec<ProjectReport> = catch_unwind(AssertUnwindSafe(|| work(part)))
                .unwrap_or_else(|_| {
                    report_all(part, &|project| {
                        let message = "tenantry itself failed; the project is as it was";
                        Outcome::Failed(
                            Error::new(ErrorKind::Internal, message)
                                .in_project(project)
                                .hint("please report this as a defect of tenantry"),
                        )
                    })
                });
            // A part's projects share its time evenly.
            let elapsed = started.elapsed() / u32::try_from(part.len()).unwrap_or(u32::MAX).max(1);
            for report in &mut reports {
                report.elapsed = elapsed;
                brake.count(&report.outcome);
            }
            reports
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.0.install(|| {
                    projects.par_chunks(size).with_max_len(1).for_each_with(sender, |sender, part| {
                        for report in one(part) {
                            // The owner is gone only when it panicked, and then nobody is left to tell.
                            let _ = sender.send(report);
                        }
                    });
                });
            });
            for report in receiver {
                owner(report);
            }
        });
    }
}
