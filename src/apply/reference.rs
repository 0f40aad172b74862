//! Builds the reference: runs a catalog's migrations on a scratch database, and reads the schemas on the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::{Catalog, Migration, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{DownScriptOutcome, ReadSchemas, Reference, Schemas};
use crate::schema::LazySchema;
use crate::store::{ForeignKeys, Mode, Session, Step};

/// The mode of all transactions.
const MODE: Mode = Mode { foreign_keys: ForeignKeys::Compared, ..Mode::PLAIN };

/// Whether to run the down.sql of each migration as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestDownScripts {
    Yes,
    No,
}

/// What running the migrations on an empty database shows.
pub(crate) struct ScratchRun {
    /// The schemas of the positions that were to be read. If reading them costs little, those of all positions.
    pub(crate) schemas: Schemas,
    /// The result of each migration's down.sql. [`DownScriptOutcome::Untested`] if it was not to be run.
    downs: Vec<DownScriptOutcome>,
    /// Whether the database reported that each migration's up.sql may delete rows; the repeatable ones come last.
    deletes: Vec<bool>,
    /// Whether the migrations leave rows that differ each time they are run.
    has_volatile_rows: bool,
}

impl ScratchRun {
    /// The reference, with a function that reads the schemas of more positions.
    pub(crate) fn into_reference(self, catalog: &Catalog, read: ReadSchemas) -> Reference {
        Reference::new(catalog, self.schemas, read)
            .with_volatile_rows(self.has_volatile_rows)
            .with_deletes(self.deletes)
            .with_down_results(self.downs)
    }
}

/// Runs all migrations in an empty scratch database, and reads the schemas of these positions.
///
/// Fails with [`ErrorKind::Catalog`] if a migration fails.
pub(crate) fn run_migrations(
    session: &mut dyn Session,
    catalog: &Catalog,
    positions: &BTreeSet<usize>,
    test_down_scripts: TestDownScripts,
) -> Result<ScratchRun> {
    session.begin(MODE)?;
    session.create_ledger()?;
    let mut schemas = Schemas::new();
    let tests_down = |migration: &Migration| {
        test_down_scripts == TestDownScripts::Yes
            && migration.down.as_ref().is_some_and(Script::is_transactional)
    };
    let mut read_schema = |session: &mut dyn Session, position: usize| {
        let is_compared = catalog.migrations().get(position).is_some_and(tests_down);
        if is_compared || positions.contains(&position) || session.defers_schemas() {
            schemas.insert(position, Arc::new(session.lazy_schema()?));
        }
        Ok(schemas.get(&position).cloned())
    };
    let mut before = read_schema(session, 0)?;
    let (mut downs, mut deletes) = (Vec::new(), Vec::new());
    session.commit()?;
    for (index, migration) in catalog.migrations().iter().enumerate() {
        let mut run = || {
            deletes.push(run_up(session, migration)?);
            let schema = read_schema(session, index + 1)?;
            downs.push(match (&migration.down, &before) {
                (Some(script), Some(before)) if tests_down(migration) => {
                    try_down(session, Step { migration, script }, before)?
                }
                _ => DownScriptOutcome::Untested,
            });
            session.commit()?;
            Ok(schema)
        };
        before = run().map_err(|error| migration_failed(migration, error))?;
    }
    for migration in catalog.repeatables() {
        let mut run = || {
            deletes.push(run_up(session, migration)?);
            session.commit()
        };
        run().map_err(|error| migration_failed(migration, error))?;
    }
    session.begin(MODE)?;
    if !catalog.repeatables().is_empty() {
        read_schema(session, catalog.head() + 1)?;
    }
    session.require_confined()?;
    // If no script generates values, or the migrations leave no rows, all new projects are equal.
    let has_volatile_rows = catalog.first_volatile_value().is_some()
        && session.count_rows()?.rows.values().any(|count| *count > 0);
    session.rollback()?;
    Ok(ScratchRun { schemas, downs, deletes, has_volatile_rows })
}

/// Runs a migration, and leaves a transaction open. Returns whether it may delete rows.
fn run_up(session: &mut dyn Session, migration: &Migration) -> Result<bool> {
    let step = Step { migration, script: &migration.up };
    let runs = if migration.is_transactional() {
        session.begin(MODE)?;
        session.execute(&[step])?
    } else {
        let runs = session.execute(&[step])?;
        session.begin(MODE)?;
        runs
    };
    Ok(runs.iter().any(|run| run.deletes))
}

/// Runs a down.sql, compares the schema with that before the migration, and undoes it.
fn try_down(session: &mut dyn Session, step: Step<'_>, before: &LazySchema) -> Result<DownScriptOutcome> {
    Ok(match session.try_script(step) {
        Err(error) if error.kind() == ErrorKind::Disconnected => return Err(error),
        Err(error) => DownScriptOutcome::Fails(error.summary()),
        Ok(found) => {
            let differences = found.differences(before);
            let differences: Vec<_> = differences.into_iter().filter(|it| !it.is_note()).collect();
            if differences.is_empty() {
                DownScriptOutcome::Reverts
            } else {
                DownScriptOutcome::Differs(differences)
            }
        }
    })
}

fn migration_failed(migration: &Migration, error: Error) -> Error {
    if error.is_of_environment() {
        return error;
    }
    let causes =
        std::error::Error::source(&error).map_or_else(|| error.message().to_string(), ToString::to_string);
    Error::new(ErrorKind::Catalog, format!("it fails on an empty database: {causes}"))
        .in_migration(migration.label())
        .at(error.file().unwrap_or(migration.up.path()), error.line())
        .with_hint("fix the migration; no project was changed")
}
