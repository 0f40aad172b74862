//! Snapshots and SQL text of projects in several stores.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{CombinedStore, CombinedStoreBuilder, Part, Placement};
use crate::error::Result;
use crate::project::ProjectId;
use crate::store::{
    ExclusiveProject, IfInUse, LoadedSql, Session, Snapshot, SnapshotFile, Snapshots, SqlText, Store,
};

impl Snapshots for CombinedStore {
    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot> {
        self.at(id, |store, id| store.snapshot_to(id, file))
    }

    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        self.at_any(|store| store.restore_scratch(snapshot, work))
    }

    fn with_copy(&self, id: &ProjectId, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        self.at(id, |store, id| store.with_copy(id, work))
    }

    fn with_copies(
        &self,
        ids: &[ProjectId],
        work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
    ) -> Result<()> {
        copy_parts(&self.parts, ids, CombinedStoreBuilder::default(), work)
    }

    fn require_unlocked(&self, id: &ProjectId) -> Result<()> {
        self.at(id, Snapshots::require_unlocked)
    }

    fn free_bytes(&self, id: &ProjectId) -> Option<u64> {
        self.at(id, |store, id| Ok(store.free_bytes(id))).ok().flatten()
    }

    fn with_rollback(
        &self,
        id: &ProjectId,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        self.at(id, |store, id| store.with_rollback(id, work))
    }

    fn can_roll_back(&self) -> bool {
        self.first().can_roll_back()
    }

    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>> {
        self.at(id, |store, id| store.restore_as(id, snapshot))
    }

    fn lock_exclusive(&self, id: &ProjectId, if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>> {
        self.at(id, |store, id| store.lock_exclusive(id, if_in_use))
    }
}

/// Calls `work` with a store of the copies of `ids`: those of the first of these stores, and of each one after it.
fn copy_parts(
    parts: &[Part],
    ids: &[ProjectId],
    copies: CombinedStoreBuilder,
    work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
) -> Result<()> {
    let Some((part, others)) = parts.split_first() else {
        return work(Arc::new(copies.placement(Placement::Named).build()?));
    };
    let own: Vec<ProjectId> =
        ids.iter().filter(|id| id.store() == Some(&part.name)).map(ProjectId::in_its_store).collect();
    if own.is_empty() {
        return copy_parts(others, ids, copies, work);
    }
    let mut copies = Some(copies);
    part.store.with_copies(&own, &mut |store| match copies.take() {
        Some(copies) => copy_parts(others, ids, copies.store(&part.name, store, part.jobs), work),
        None => Ok(()),
    })
}

impl SqlText for CombinedStore {
    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        self.at(id, |store, id| store.export(id, out))
    }

    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql> {
        self.at_any(|store| store.load_sql(text, file))
    }
}
