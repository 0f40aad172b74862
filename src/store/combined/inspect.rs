//! Finds and reads the projects of several stores, all stores at the same time.

use super::CombinedStore;
use crate::error::Result;
use crate::plan::Inspection;
use crate::project::ProjectId;
use crate::store::{Discovery, Footprint, Inspect, ReadSchema, Rows, Skipped, Unreachable};

impl Inspect for CombinedStore {
    fn discover(&self) -> Result<Discovery> {
        let mut all = Discovery::default();
        let found: Vec<Result<Discovery>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.parts.iter().map(|part| scope.spawn(|| part.store.discover())).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        });
        for (part, found) in self.parts.iter().zip(found) {
            match found {
                Ok(found) => {
                    for id in &found.projects {
                        all.projects.push(id.of_store(&part.name)?);
                    }
                    let in_part = |it: Skipped| Skipped { name: format!("{}/{}", part.name, it.name), ..it };
                    all.skipped.extend(found.skipped.into_iter().map(in_part));
                    all.unreachable.extend(found.unreachable);
                }
                Err(error) => all.unreachable.push(Unreachable { store: part.name.clone(), error }),
            }
        }
        if all.unreachable.len() == self.parts.len()
            && let Some(Unreachable { store, error }) = all.unreachable.pop()
        {
            return Err(error.in_store(&store));
        }
        all.projects.sort();
        Ok(all)
    }

    fn inspect(&self, ids: &[ProjectId], read_schema: ReadSchema) -> Vec<Result<Inspection>> {
        let results = self.by_store(ids, |part, ids| part.store.inspect(ids, read_schema));
        self.in_order(ids, results)
    }

    fn inspect_batch_size(&self, projects: usize) -> usize {
        // A batch has projects of one store, or of few: ids are sorted by store.
        self.first().inspect_batch_size(projects.div_ceil(self.parts.len()))
    }

    fn ledger_verifies_schemas(&self) -> bool {
        self.first().ledger_verifies_schemas()
    }

    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()> {
        self.at(id, |store, id| store.read(id, work))
    }

    fn footprints(&self, ids: &[ProjectId]) -> Result<Vec<Footprint>> {
        let results = self.by_store(ids, |part, ids| match part.store.footprints(ids) {
            Ok(footprints) => footprints.into_iter().map(Ok).collect(),
            Err(error) => ids.iter().map(|_| Err(error.duplicate())).collect(),
        });
        self.in_order(ids, results).into_iter().collect()
    }

    fn definitions(&self, id: &ProjectId) -> Result<Vec<String>> {
        self.at(id, Inspect::definitions)
    }
}
