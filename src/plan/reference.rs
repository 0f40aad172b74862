//! The schemas that a catalog leads to, and how a live schema compares with them.
//!
//! It must not make them: whoever has a private database does.

use std::sync::Arc;

use crate::catalog::{Catalog, Migration};
use crate::schema::{Difference, Schema, notes};

/// The schemas that a catalog leads to, one for each position.
#[derive(Clone, Debug)]
pub struct Reference {
    schemas: Vec<Arc<Schema>>,
    /// The first position whose schema depends on the data.
    data_dependent: usize,
    /// What each migration's down.sql comes to; none where they were not run.
    downs: Vec<DownScriptOutcome>,
    /// Whether each migration's up.sql was seen to delete rows; none where the database can't tell.
    deletes: Vec<bool>,
    /// Whether a new project has rows that come out differently each time it is made.
    computed_rows: bool,
}

/// What a down.sql comes to on an empty database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownScriptOutcome {
    /// The schema from before.
    Reverts,
    /// Nobody knows: there is none, or it can't run in a transaction.
    Untested,
    /// Another schema, which differs so from the one from before.
    Differs(Vec<Difference>),
    /// An error.
    Fails(String),
}

impl Reference {
    /// No schemas: for whoever may not make any to look at.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            schemas: Vec::new(),
            data_dependent: 0,
            downs: Vec::new(),
            deletes: Vec::new(),
            computed_rows: true,
        }
    }

    /// Whether there are schemas to compare with.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.schemas.is_empty()
    }

    /// The schemas for the positions from 0 to the catalog's head.
    #[must_use]
    pub fn new(catalog: &Catalog, schemas: Vec<Arc<Schema>>) -> Self {
        let depends = |migration: &Migration| migration.metadata.schema_depends_on_data;
        let data_dependent =
            catalog.migrations().iter().position(depends).map_or(usize::MAX, |index| index + 1);
        Self { schemas, data_dependent, downs: Vec::new(), deletes: Vec::new(), computed_rows: false }
    }

    /// The same with what each down.sql came to, as far as that was found out.
    #[must_use]
    pub fn with_downs(self, downs: Vec<DownScriptOutcome>) -> Self {
        Self { downs, ..self }
    }

    /// What the down.sql of a migration comes to, by its place in the catalog; `None` where they were not run.
    #[must_use]
    pub fn down_script_outcome(&self, index: usize) -> Option<&DownScriptOutcome> {
        self.downs.get(index)
    }

    /// The same with what the database saw of each up.sql: whether it may delete rows.
    pub(crate) fn with_deletes(self, deletes: Vec<bool>) -> Self {
        Self { deletes, ..self }
    }

    /// Whether the up.sql of a migration, by its place in the catalog, was seen to delete rows.
    pub(crate) fn deletes(&self, index: usize) -> bool {
        self.deletes.get(index).copied().unwrap_or_default()
    }

    /// The same for migrations that leave rows which come out differently each time.
    pub(crate) fn with_computed_rows(self, computed_rows: bool) -> Self {
        Self { computed_rows, ..self }
    }

    /// Whether new projects can be copies of one: none has rows of its own that another may not have.
    pub(crate) fn is_template(&self) -> bool {
        !self.computed_rows
    }

    /// The schema expected at a position; `None` where a migration says that it depends on the data.
    #[must_use]
    pub fn expected(&self, position: usize) -> Option<&Schema> {
        if position >= self.data_dependent { None } else { self.schemas.get(position).map(Arc::as_ref) }
    }

    /// How a schema differs from the one expected at a position, but for what is [worth a note](Difference::is_note).
    #[must_use]
    pub fn differences(&self, schema: &Schema, position: usize) -> Vec<Difference> {
        self.all_differences(schema, position).into_iter().filter(|it| !it.is_note()).collect()
    }

    /// What is worth a note: tables whose columns have another order than at a position, as they often have in a database that
    /// was upgraded and taken back, or made by other means; and what was granted besides.
    #[must_use]
    pub fn notes(&self, schema: &Schema, position: usize) -> Vec<String> {
        notes(self.all_differences(schema, position))
    }

    fn all_differences(&self, schema: &Schema, position: usize) -> Vec<Difference> {
        match self.expected(position) {
            Some(expected) if expected.fingerprint() != schema.fingerprint() => schema.differences(expected),
            _ => Vec::new(),
        }
    }

    /// All positions with this schema; where there are none, those with the same but for what is worth a note.
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

    /// The position with the fewest differences, the later one of equals, and the differences.
    pub(super) fn nearest(&self, schema: &Schema) -> (usize, Vec<Difference>) {
        (0..self.schemas.len())
            .filter_map(|position| Some((position, schema.differences(self.expected(position)?))))
            .rev()
            .min_by_key(|(_, differences)| differences.len())
            .unwrap_or_default()
    }
}
