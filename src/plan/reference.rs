//! The schemas that a catalog's migrations produce, and the comparison of a live schema with them.
//!
//! `apply::reference` creates them by running the migrations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::catalog::{Catalog, Migration};
use crate::error::Result;
use crate::schema::{Difference, LazySchema, Schema, notes};

/// What was run on a database: the schema that it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    /// The number of migrations.
    pub(crate) position: usize,
    /// Whether these are all migrations, and each repeatable one was run with its present text.
    pub(crate) is_complete: bool,
}

/// Schemas by their positions. Directly after the catalog's head comes that with all repeatable migrations, if there are
/// any.
pub(crate) type Schemas = BTreeMap<usize, Arc<LazySchema>>;

/// Reads the schemas of these positions, by running the migrations once more.
pub(crate) type ReadSchemas = Box<dyn Fn(&BTreeSet<usize>) -> Result<Schemas> + Send + Sync>;

/// The schemas that a catalog's migrations produce on an empty database, one for each position.
///
/// Where reading a schema takes long, those of a long catalog are read when they are needed.
pub(crate) struct Reference {
    /// The schemas that were read so far, by position.
    schemas: Vec<OnceLock<Arc<LazySchema>>>,
    /// Reads the others. Locked meanwhile, so that each is read only once.
    read: Option<Mutex<ReadSchemas>>,
    /// The first position whose schema depends on the data.
    data_dependent: usize,
    /// The position of the schema with all repeatable migrations. `None` if there are none.
    complete: Option<usize>,
    /// The labels of the objects that repeatable migrations make, read when they are needed.
    repeated_objects: OnceLock<BTreeSet<String>>,
    /// The result of each migration's down.sql.
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
            read: None,
            data_dependent: 0,
            complete: None,
            repeated_objects: OnceLock::new(),
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

    /// Creates a reference from the schemas of some positions from 0 to the catalog's head, and a function that reads the
    /// others.
    #[must_use]
    pub(crate) fn new(catalog: &Catalog, schemas: Schemas, read: ReadSchemas) -> Self {
        let depends = |migration: &Migration| migration.metadata.schema_depends_on_data;
        let data_dependent =
            catalog.migrations().iter().position(depends).map_or(usize::MAX, |index| index + 1);
        let complete = (!catalog.repeatables().is_empty()).then_some(catalog.head() + 1);
        let reference = Self {
            schemas: (0..=complete.unwrap_or(catalog.head())).map(|_| OnceLock::new()).collect(),
            read: Some(Mutex::new(read)),
            data_dependent,
            complete,
            repeated_objects: OnceLock::new(),
            downs: Vec::new(),
            deletes: Vec::new(),
            has_volatile_rows: false,
        };
        reference.keep(schemas);
        reference
    }

    fn keep(&self, schemas: Schemas) {
        for (position, schema) in schemas {
            if let Some(cell) = self.schemas.get(position) {
                // If it was read before, both are the same.
                let _ = cell.set(schema);
            }
        }
    }

    /// Reads the schemas of these positions, if they were not read yet. All at once takes as long as the last one alone.
    pub(crate) fn read(&self, positions: impl IntoIterator<Item = usize>) -> Result<()> {
        let is_missing = |position: &usize| {
            *position < self.data_dependent
                && self.schemas.get(*position).is_some_and(|it| it.get().is_none())
        };
        let missing: BTreeSet<usize> = positions.into_iter().filter(is_missing).collect();
        let Some(read) = self.read.as_ref().filter(|_| !missing.is_empty()) else { return Ok(()) };
        let read = read.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read them while this one waited.
        let missing: BTreeSet<usize> = missing.into_iter().filter(is_missing).collect();
        if !missing.is_empty() {
            self.keep(read(&missing)?);
        }
        Ok(())
    }

    /// Sets the result of each migration's down.sql.
    #[must_use]
    pub(crate) fn with_down_results(self, downs: Vec<DownScriptOutcome>) -> Self {
        Self { downs, ..self }
    }

    /// Returns the result of the down.sql of the migration at an index of the catalog. `None` if there is no reference.
    #[must_use]
    pub(crate) fn down_script_outcome(&self, index: usize) -> Option<&DownScriptOutcome> {
        self.downs.get(index)
    }

    /// Sets whether each migration's up.sql may delete rows, as reported by the database.
    pub(crate) fn with_deletes(self, deletes: Vec<bool>) -> Self {
        Self { deletes, ..self }
    }

    /// Whether the database reported that the up.sql of the migration at an index may delete rows, see
    /// [`Catalog::index_of`].
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

    /// Returns the schema at a position. `None` if a migration declares that it depends on the data, or if there is no
    /// reference. Fails if the schema has to be read and cannot be.
    fn schema(&self, position: usize) -> Result<Option<&Schema>> {
        if position >= self.data_dependent {
            return Ok(None);
        }
        self.read([position])?;
        Ok(self.schemas.get(position).and_then(OnceLock::get).map(|schema| &***schema.as_ref()))
    }

    /// Returns the expected schema. `None` if a migration declares that it depends on the data, or if there is no
    /// reference. Fails if the schema has to be read and cannot be.
    pub(crate) fn expected(&self, state: State) -> Result<Option<&Schema>> {
        self.schema(self.complete.filter(|_| state.is_complete).unwrap_or(state.position))
    }

    /// Returns the differences between a schema and the expected one, without those that are only a
    /// [note](Difference::is_note).
    pub(crate) fn differences(&self, schema: &Schema, state: State) -> Result<Vec<Difference>> {
        Ok(self.all_differences(schema, state)?.into_iter().filter(|it| !it.is_note()).collect())
    }

    /// Returns notes on how a schema differs from the expected one: tables with another order of columns, and additional
    /// grants. Another order is common in a database that was upgraded and reverted, or created by another tool. Also what is
    /// not compared while a repeatable migration is pending.
    pub(crate) fn notes(&self, schema: &Schema, state: State) -> Result<Vec<String>> {
        let mut found = notes(self.all_differences(schema, state)?);
        if let (Some(expected), true) = (self.expected(state)?, self.complete.is_some() && !state.is_complete)
        {
            let repeated = self.repeated_objects()?;
            let differences = schema.differences(expected);
            let uncompared =
                differences.iter().filter(|it| it.is_extra_code() && !repeated.contains(it.object()));
            let uncompared: Vec<String> = uncompared.map(ToString::to_string).collect();
            if !uncompared.is_empty() {
                found.push(format!(
                    "not compared until the repeatable migrations are run: {}",
                    uncompared.join(", ")
                ));
            }
        }
        Ok(found)
    }

    fn all_differences(&self, schema: &Schema, state: State) -> Result<Vec<Difference>> {
        let Some(expected) = self.expected(state)? else { return Ok(Vec::new()) };
        if expected.fingerprint() == schema.fingerprint() {
            return Ok(Vec::new());
        }
        let mut differences = schema.differences(expected);
        if self.complete.is_some() && !state.is_complete {
            // Which texts of the repeatable migrations were run is not known, so what they make is not compared.
            let repeated = self.repeated_objects()?;
            differences.retain(|it| !repeated.contains(it.object()) && !it.is_extra_code());
        }
        Ok(differences)
    }

    fn repeated_objects(&self) -> Result<&BTreeSet<String>> {
        if let (None, Some(complete)) = (self.repeated_objects.get(), self.complete) {
            self.read([complete - 1, complete])?;
            let objects = match (self.schema(complete)?, self.schema(complete - 1)?) {
                (Some(with), Some(without)) => with.differences(without),
                _ => Vec::new(),
            };
            let objects = objects.iter().map(|it| it.object().to_string()).collect();
            return Ok(self.repeated_objects.get_or_init(|| objects));
        }
        Ok(self.repeated_objects.get_or_init(BTreeSet::new))
    }

    /// Returns every state whose schema is known.
    fn states(&self) -> Result<Vec<State>> {
        self.read(0..self.schemas.len())?;
        let positions = 0..self.schemas.len().min(self.data_dependent);
        let state = |position| match self.complete {
            Some(complete) if position == complete => State { position: complete - 1, is_complete: true },
            complete => State { position, is_complete: complete.is_none() },
        };
        Ok(positions.map(state).collect())
    }

    /// Returns all states with exactly this schema. If there are none, returns those that differ only in notes. Of two
    /// states at one position, only the complete one counts.
    pub(super) fn matching(&self, schema: &Schema) -> Result<Vec<State>> {
        let (mut same, mut similar) = (Vec::new(), Vec::new());
        for state in self.states()? {
            let expected = self.expected(state)?;
            if expected.is_some_and(|it| it.fingerprint() == schema.fingerprint()) {
                same.push(state);
            } else if self.differences(schema, state)?.is_empty() {
                similar.push(state);
            }
        }
        let mut matching = if same.is_empty() { similar } else { same };
        // The complete state comes last.
        matching.reverse();
        matching.dedup_by_key(|state| state.position);
        matching.reverse();
        Ok(matching)
    }

    /// Returns the state with the fewest differences, and the differences. Among equals, the last one wins.
    pub(super) fn nearest(&self, schema: &Schema) -> Result<(usize, Vec<Difference>)> {
        let mut nearest: Option<(usize, Vec<Difference>)> = None;
        for state in self.states()? {
            let differences = self.all_differences(schema, state)?;
            if nearest.as_ref().is_none_or(|(_, fewest)| differences.len() <= fewest.len()) {
                nearest = Some((state.position, differences));
            }
        }
        Ok(nearest.unwrap_or_default())
    }
}
