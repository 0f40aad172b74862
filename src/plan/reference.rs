//! The schemas that a catalog's migrations produce, and the comparison of a live schema with them.
//!
//! `apply::reference` creates them by running the migrations.

use std::sync::Arc;

use crate::catalog::{Catalog, Migration};
use crate::schema::{Difference, LazySchema, Schema, notes};

/// The schemas that a catalog's migrations produce on an empty database, one for each position.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    schemas: Vec<Arc<LazySchema>>,
    /// The first position whose schema depends on the data.
    data_dependent: usize,
    /// The result of each migration's down.sql. Empty if they were not run.
    downs: Vec<DownScriptOutcome>,
    /// Whether the database reported that each migration's up.sql may delete rows. Empty if this is not known.
    deletes: Vec<bool>,
    /// Whether a new project has rows that differ each time it is created.
    has_volatile_rows: bool,
}

/// The result of a down.sql on an empty database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownScriptOutcome {
    /// It restores the previous schema.
    Reverts,
    /// Unknown, because there is none or it cannot run in a transaction.
    Untested,
    /// It leads to a schema with these differences from the previous one.
    Differs(Vec<Difference>),
    /// It fails with this error.
    Fails(String),
}

impl Reference {
    /// Creates a reference without schemas: for a role that cannot create a schema, or if nothing has to be compared.
    #[must_use]
    pub(crate) const fn unknown() -> Self {
        Self {
            schemas: Vec::new(),
            data_dependent: 0,
            downs: Vec::new(),
            deletes: Vec::new(),
            has_volatile_rows: true,
        }
    }

    /// Whether there are schemas to compare with.
    #[must_use]
    pub(crate) fn is_known(&self) -> bool {
        !self.schemas.is_empty()
    }

    /// Creates a reference from the schemas of all positions, from 0 to the catalog's head.
    #[must_use]
    pub(crate) fn new(catalog: &Catalog, schemas: Vec<Arc<LazySchema>>) -> Self {
        let depends = |migration: &Migration| migration.metadata.schema_depends_on_data;
        let data_dependent =
            catalog.migrations().iter().position(depends).map_or(usize::MAX, |index| index + 1);
        Self { schemas, data_dependent, downs: Vec::new(), deletes: Vec::new(), has_volatile_rows: false }
    }

    /// Sets the result of each migration's down.sql.
    #[must_use]
    pub(crate) fn with_down_results(self, downs: Vec<DownScriptOutcome>) -> Self {
        Self { downs, ..self }
    }

    /// Returns the result of the down.sql of the migration at an index of the catalog. `None` if they were not run.
    #[must_use]
    pub(crate) fn down_script_outcome(&self, index: usize) -> Option<&DownScriptOutcome> {
        self.downs.get(index)
    }

    /// Sets whether each migration's up.sql may delete rows, as reported by the database.
    pub(crate) fn with_deletes(self, deletes: Vec<bool>) -> Self {
        Self { deletes, ..self }
    }

    /// Whether the database reported that the up.sql of the migration at an index of the catalog may delete rows.
    pub(crate) fn up_may_delete(&self, index: usize) -> bool {
        self.deletes.get(index).copied().unwrap_or_default()
    }

    /// Sets whether a new project has rows that differ each time it is created.
    pub(crate) fn with_volatile_rows(self, has_volatile_rows: bool) -> Self {
        Self { has_volatile_rows, ..self }
    }

    /// Whether new projects can be copies of one template: they have no rows that must differ between projects.
    pub(crate) fn allows_template(&self) -> bool {
        !self.has_volatile_rows
    }

    /// Returns the expected schema at a position. `None` if a migration declares that it depends on the data,
    /// or if there is no reference.
    #[must_use]
    pub(crate) fn expected(&self, position: usize) -> Option<&Schema> {
        if position >= self.data_dependent {
            None
        } else {
            self.schemas.get(position).map(|schema| &***schema.as_ref())
        }
    }

    /// Returns the differences between a schema and the expected one at a position, without those that are only a
    /// [note](Difference::is_note).
    #[must_use]
    pub(crate) fn differences(&self, schema: &Schema, position: usize) -> Vec<Difference> {
        self.all_differences(schema, position).into_iter().filter(|it| !it.is_note()).collect()
    }

    /// Returns notes on how a schema differs from the expected one at a position: tables with another order of columns,
    /// and additional grants. Another order is common in a database that was upgraded and reverted, or created by
    /// another tool.
    #[must_use]
    pub(crate) fn notes(&self, schema: &Schema, position: usize) -> Vec<String> {
        notes(self.all_differences(schema, position))
    }

    fn all_differences(&self, schema: &Schema, position: usize) -> Vec<Difference> {
        match self.expected(position) {
            Some(expected) if expected.fingerprint() != schema.fingerprint() => schema.differences(expected),
            _ => Vec::new(),
        }
    }

    /// Returns all positions with exactly this schema. If there are none, returns those that differ only in notes.
    pub(super) fn matching(&self, schema: &Schema) -> Vec<usize> {
        let positions = || (0..self.schemas.len()).filter(|position| self.expected(*position).is_some());
        let is_same = |position: &usize| {
            self.expected(*position).is_some_and(|expected| expected.fingerprint() == schema.fingerprint())
        };
        let same: Vec<usize> = positions().filter(is_same).collect();
        if !same.is_empty() {
            return same;
        }
        positions().filter(|position| self.differences(schema, *position).is_empty()).collect()
    }

    /// Returns the position with the fewest differences, and the differences. Among equals, the last position wins.
    pub(super) fn nearest(&self, schema: &Schema) -> (usize, Vec<Difference>) {
        (0..self.schemas.len())
            .filter_map(|position| Some((position, schema.differences(self.expected(position)?))))
            .rev()
            .min_by_key(|(_, differences)| differences.len())
            .unwrap_or_default()
    }
}
