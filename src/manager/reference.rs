//! The manager's reference: built on first use by running the migrations on a private empty database.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::Manager;
use crate::apply::{ScratchRun, TestDownScripts, run_migrations};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Inspection, Reference};
use crate::store::Store;

/// Of a catalog with at most this many migrations, the schemas of all positions are read at once.
const READ_AT_ONCE: usize = 32;

impl Manager {
    /// Returns the reference, built by running the migrations on a private empty database on the first call. It is
    /// [`Reference::unknown`] if there is no permission to create such a database.
    pub(super) fn reference(&self) -> Result<&Reference> {
        let cell = if self.reference_with_down_results.get().is_some() {
            &self.reference_with_down_results
        } else {
            &self.reference
        };
        self.init_reference(cell, TestDownScripts::No)
    }

    /// Like [`Manager::reference`], with the result of each migration's `down.sql`.
    pub(super) fn reference_with_down_results(&self) -> Result<&Reference> {
        self.init_reference(&self.reference_with_down_results, TestDownScripts::Yes)
    }

    /// Like [`Manager::reference`], with the schemas that these projects are compared with.
    pub(super) fn reference_for<'a>(
        &self,
        inspections: impl Iterator<Item = &'a Inspection>,
    ) -> Result<&Reference> {
        let reference = self.reference()?;
        reference.read(inspections.filter_map(Inspection::compared_position))?;
        Ok(reference)
    }

    fn init_reference<'a>(
        &'a self,
        cell: &'a OnceLock<Reference>,
        test_down_scripts: TestDownScripts,
    ) -> Result<&'a Reference> {
        if let Some(reference) = cell.get() {
            return Ok(reference);
        }
        let head = self.catalog.head();
        let first = if head > READ_AT_ONCE { head } else { 0 };
        // The last one is that with all repeatable migrations, if there are any.
        let positions = (first..=head + 1).collect();
        let reference = match run_on_scratch(&*self.store, &self.catalog, &positions, test_down_scripts)? {
            Some(built) => {
                let (store, catalog) = (Arc::clone(&self.store), Arc::clone(&self.catalog));
                let read = move |positions: &BTreeSet<usize>| {
                    let built = run_on_scratch(&*store, &catalog, positions, TestDownScripts::No)?;
                    let forbidden =
                        || Error::new(ErrorKind::ReadOnly, "a private database can no longer be created");
                    Ok(built.ok_or_else(forbidden)?.schemas)
                };
                built.into_reference(&self.catalog, Box::new(read))
            }
            // Then projects cannot be changed either. Reading needs only the ledgers.
            None => Reference::unknown(),
        };
        Ok(cell.get_or_init(|| reference))
    }
}

/// Runs the migrations on a private empty database. `None` without permission to create one.
fn run_on_scratch(
    store: &dyn Store,
    catalog: &Catalog,
    positions: &BTreeSet<usize>,
    test_down_scripts: TestDownScripts,
) -> Result<Option<ScratchRun>> {
    let mut built = None;
    let scratch_result = store.scratch(catalog, &mut |scratch| {
        match run_migrations(scratch, catalog, positions, test_down_scripts) {
            // Returned to the store, which may retry with another scratch database.
            Err(error) if matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::LocksExhausted) => {
                Err(error)
            }
            // Retrying does not help with other errors, such as a failing migration.
            other => {
                built = Some(other);
                Ok(())
            }
        }
    });
    match (scratch_result, built) {
        (_, Some(built)) => built.map(Some).map_err(|error| match store.explain_failure(error.message()) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }),
        (Err(error), None) if error.kind() == ErrorKind::ReadOnly => Ok(None),
        (scratch_result, None) => scratch_result.map(|()| None),
    }
}
