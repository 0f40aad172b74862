//! Where projects stand: read in parts, and the first of them while the reference is made.
//!
//! It must not write, and must not make a reference that nothing is compared with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Manager;
use super::run::{failed, lock};
use crate::apply::Executor;
use crate::error::Result;
use crate::event::{Outcome, ProjectReport};
use crate::plan::{Inspection, Reference};
use crate::project::ProjectId;
use crate::store::ReadSchema;

/// What was read before it was known what to compare it with, by the first project of each part.
pub(super) type Prefetched = HashMap<ProjectId, Vec<Result<Inspection>>>;

/// How many parts are read before that, and how many at once.
const AHEAD: usize = 8;
const READERS: usize = 2;

impl Manager {
    /// Where projects stand: the reference is made only for schemas to be compared with it.
    pub(super) fn status_executor<'a>(&'a self, seen: &[Result<Inspection>]) -> Result<Executor<'a>> {
        static NONE: Reference = Reference::unknown();
        let is_to_compare = |it: &Result<Inspection>| it.as_ref().is_ok_and(|it| it.schema.is_some());
        let reference = if seen.iter().any(is_to_compare) { self.reference()? } else { &NONE };
        Ok(self.executor_with(reference, self.to_head(), ""))
    }

    /// Reads the first projects, and makes the reference meanwhile, which their plans are made with: a server has more than
    /// one processor. It may be that none is needed.
    pub(super) fn prefetch(&self, projects: &[ProjectId], read_schema: ReadSchema) -> Result<Prefetched> {
        if projects.is_empty() {
            return Ok(Prefetched::new());
        }
        let part = self.store.inspect_batch_size(projects.len()).max(1);
        let parts: Vec<&[ProjectId]> = projects.chunks(part).take(AHEAD).collect();
        let (next, prefetched) = (AtomicUsize::new(0), Mutex::new(Prefetched::new()));
        std::thread::scope(|scope| {
            let read = || {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let seen = self.store.inspect(part, read_schema);
                    lock(&prefetched).insert(part[0].clone(), seen);
                }
            };
            let readers: Vec<_> = (0..READERS.min(parts.len())).map(|_| scope.spawn(read)).collect();
            if (read_schema == ReadSchema::Always || !self.store.ledger_verifies_schemas())
                && let Err(error) = self.reference()
            {
                next.store(AHEAD, Ordering::Relaxed);
                return Err(error);
            }
            // What a reader that panicked has not read is read again, where that is caught.
            for reader in readers {
                drop(reader.join());
            }
            Ok(())
        })?;
        let prefetched = prefetched.into_inner().unwrap_or_else(PoisonError::into_inner);
        for seen in prefetched.values() {
            self.status_executor(seen)?;
        }
        Ok(prefetched)
    }

    /// These projects as they were read ahead, or read now.
    pub(super) fn take_prefetched(
        &self,
        projects: &[ProjectId],
        prefetched: &Mutex<Prefetched>,
        read_schema: ReadSchema,
    ) -> Vec<Result<Inspection>> {
        let read = projects.first().and_then(|first| lock(prefetched).remove(first));
        read.unwrap_or_else(|| self.store.inspect(projects, read_schema))
    }

    /// Says where projects stand.
    pub(super) fn status_reports(
        &self,
        projects: &[ProjectId],
        prefetched: &Mutex<Prefetched>,
    ) -> Vec<ProjectReport> {
        let seen = self.take_prefetched(projects, prefetched, ReadSchema::IfUnverified);
        let executor = self.status_executor(&seen);
        let one = |(project, seen): (&ProjectId, Result<Inspection>)| match (seen, &executor) {
            (Ok(seen), Ok(executor)) => self.report(project, executor.plan(&seen), Outcome::Planned),
            (Ok(_), Err(error)) => failed(project, error.again()),
            (Err(error), _) => failed(project, error),
        };
        projects.iter().zip(seen).map(one).collect()
    }
}
