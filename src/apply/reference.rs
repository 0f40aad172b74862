//! The schemas that a catalog leads to, made by running it on a private empty database.
//!
//! Leaves nothing behind: the database is the caller's, and gone afterwards.

use crate::catalog::{Catalog, Migration};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{DownScriptOutcome, Reference};
use crate::store::{ForeignKeys, Mode, Session, Step};

/// Whether the down.sql of each migration is run as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownScripts {
    Tested,
    Untested,
}

/// Runs a catalog's migrations on a private empty database, and keeps the schema after each.
pub(crate) fn build_reference(
    session: &mut dyn Session,
    catalog: &Catalog,
    downs: DownScripts,
) -> Result<Reference> {
    let mode = Mode { foreign_keys: ForeignKeys::Compared, ..Mode::PLAIN };
    session.begin(mode)?;
    session.make_ledger()?;
    let (mut schemas, mut ways_back, mut deletes) = (vec![session.schema()?], Vec::new(), Vec::new());
    session.commit()?;
    for migration in catalog.migrations() {
        let step = Step { migration, script: &migration.up };
        let mut run = || {
            let ran = if migration.is_transactional() {
                session.begin(mode)?;
                session.execute(&[step])?
            } else {
                let ran = session.execute(&[step])?;
                session.begin(mode)?;
                ran
            };
            deletes.push(ran.iter().any(|ran| ran.deletes));
            let schema = session.schema()?;
            let tried = match &migration.down {
                Some(script) if downs == DownScripts::Tested && migration.is_transactional() => {
                    Some(session.try_script(Step { migration, script }))
                }
                _ => None,
            };
            session.commit()?;
            Ok((schema, tried))
        };
        let (schema, tried) = run().map_err(|error| broken(migration, error))?;
        ways_back.push(match (tried, schemas.last()) {
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
    // Where a script makes up nothing, or leaves no row behind, all new projects are alike.
    let computed =
        catalog.computed_at().is_some() && session.count_rows()?.rows.values().any(|count| *count > 0);
    session.rollback()?;
    let reference = Reference::new(catalog, schemas).with_computed_rows(computed).with_deletes(deletes);
    Ok(if downs == DownScripts::Tested { reference.with_downs(ways_back) } else { reference })
}

fn broken(migration: &Migration, error: Error) -> Error {
    // The server's trouble is not the migration's.
    const ELSEWHERE: [ErrorKind; 6] = [
        ErrorKind::Disconnected,
        ErrorKind::Locked,
        ErrorKind::Timeout,
        ErrorKind::PoolExhausted,
        ErrorKind::LocksExhausted,
        ErrorKind::DiskFull,
    ];
    if ELSEWHERE.contains(&error.kind()) {
        return error;
    }
    let causes =
        std::error::Error::source(&error).map_or_else(|| error.message().to_string(), ToString::to_string);
    Error::new(ErrorKind::Catalog, format!("it fails on an empty database: {causes}"))
        .in_migration(migration.label())
        .at(error.file().unwrap_or(migration.up.path()), error.line())
        .with_hint("mend the migration; no project was touched")
}
