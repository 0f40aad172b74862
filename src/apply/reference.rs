//! Builds the reference: runs a catalog's migrations on a scratch database, and keeps the schema of each position.

use std::sync::Arc;

use crate::catalog::{Catalog, Migration};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{DownScriptOutcome, Reference};
use crate::store::{ForeignKeys, Mode, Session, Step};

/// Whether to run the down.sql of each migration as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestDownScripts {
    Yes,
    No,
}

/// Builds the reference in an empty scratch database. Fails with [`ErrorKind::Catalog`] if a migration fails.
pub(crate) fn build_reference(
    session: &mut dyn Session,
    catalog: &Catalog,
    test_down_scripts: TestDownScripts,
) -> Result<Reference> {
    let mode = Mode { foreign_keys: ForeignKeys::Compared, ..Mode::PLAIN };
    session.begin(mode)?;
    session.create_ledger()?;
    let mut schemas = vec![Arc::new(session.lazy_schema()?)];
    let (mut down_outcomes, mut deletes) = (Vec::new(), Vec::new());
    session.commit()?;
    for migration in catalog.migrations() {
        let step = Step { migration, script: &migration.up };
        let mut run = || {
            let runs = if migration.is_transactional() {
                session.begin(mode)?;
                session.execute(&[step])?
            } else {
                let runs = session.execute(&[step])?;
                session.begin(mode)?;
                runs
            };
            deletes.push(runs.iter().any(|run| run.deletes));
            let schema = Arc::new(session.lazy_schema()?);
            let down_result = match &migration.down {
                Some(script) if test_down_scripts == TestDownScripts::Yes && script.is_transactional() => {
                    Some(session.try_script(Step { migration, script }))
                }
                _ => None,
            };
            session.commit()?;
            Ok((schema, down_result))
        };
        let (schema, down_result) = run().map_err(|error| migration_failed(migration, error))?;
        down_outcomes.push(match (down_result, schemas.last()) {
            (Some(Err(error)), _) if error.kind() == ErrorKind::Disconnected => return Err(error),
            (Some(Err(error)), _) => DownScriptOutcome::Fails(error.summary()),
            (Some(Ok(found)), Some(before)) => {
                let differences = found.differences(before);
                let differences: Vec<_> = differences.into_iter().filter(|it| !it.is_note()).collect();
                if differences.is_empty() {
                    DownScriptOutcome::Reverts
                } else {
                    DownScriptOutcome::Differs(differences)
                }
            }
            _ => DownScriptOutcome::Untested,
        });
        schemas.push(schema);
    }
    session.begin(mode)?;
    session.require_confined()?;
    // If no script generates values, or the migrations leave no rows, all new projects are equal.
    let has_volatile_rows = catalog.first_volatile_value().is_some()
        && session.count_rows()?.rows.values().any(|count| *count > 0);
    session.rollback()?;
    let reference =
        Reference::new(catalog, schemas).with_volatile_rows(has_volatile_rows).with_deletes(deletes);
    Ok(if test_down_scripts == TestDownScripts::Yes {
        reference.with_down_results(down_outcomes)
    } else {
        reference
    })
}

fn migration_failed(migration: &Migration, error: Error) -> Error {
    // These are the server's failures, not the migration's.
    const SERVER_ERRORS: [ErrorKind; 6] = [
        ErrorKind::Disconnected,
        ErrorKind::Locked,
        ErrorKind::Timeout,
        ErrorKind::PoolExhausted,
        ErrorKind::LocksExhausted,
        ErrorKind::DiskFull,
    ];
    if SERVER_ERRORS.contains(&error.kind()) {
        return error;
    }
    let causes =
        std::error::Error::source(&error).map_or_else(|| error.message().to_string(), ToString::to_string);
    Error::new(ErrorKind::Catalog, format!("it fails on an empty database: {causes}"))
        .in_migration(migration.label())
        .at(error.file().unwrap_or(migration.up.path()), error.line())
        .with_hint("fix the migration; no project was changed")
}
