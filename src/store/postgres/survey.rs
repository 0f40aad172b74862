//! Many projects read at once: a number of round trips that does not depend on how many they are.
//!
//! It must not hold the locks of more than one schema at a time, nor let one that can't be read spoil the others.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::{Found, Known, NEUTRAL, Reader, ledger, odd_ledger, parse_ledger};
use super::failure::{describe, described};
use super::{PostgresStore, missing};
use crate::error::{ErrorKind, Result};
use crate::ledger::Ledger;
use crate::plan::{Access, Inspection};
use crate::project::ProjectId;
use crate::sql::{quote_name, quote_text};

#[derive(QueryableByName)]
struct Loop {
    #[diesel(sql_type = Text)]
    lines: String,
    #[diesel(sql_type = Text)]
    ledgers: String,
}

/// Reads these projects, in their order.
pub(super) fn inspect(store: &PostgresStore, ids: &[ProjectId]) -> Vec<Result<Inspection>> {
    match read(store, ids) {
        Ok(inspections) => inspections,
        // One error for all of them, which each has to be told.
        Err(error) => {
            let message = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let again = || described(error.message(), store.target(), error.kind(), &message);
            ids.iter().map(|_| Err(again())).collect()
        }
    }
}

fn read(store: &PostgresStore, ids: &[ProjectId]) -> Result<Vec<Result<Inspection>>> {
    let target = store.target();
    let names: Vec<String> = ids.iter().map(|id| store.name(id)).collect::<Result<_>>()?;
    let list: Vec<_> = names.iter().map(|name| quote_text(name)).collect();
    let list = format!("ARRAY[{}]::text[]", list.join(","));
    let mut kept = store.links.get()?;
    let link = kept.link()?;
    let failed = |error: &diesel::result::Error| describe("cannot read the ledgers", target, error);
    link.begin(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}; {}",
        store.settings(link.server, NEUTRAL),
        loop_over(&list)
    ))
    .map_err(|error| failed(&error))?;
    let Loop { lines, ledgers } = diesel::sql_query(
        "SELECT current_setting('tenantry.lines') AS lines, current_setting('tenantry.ledgers') AS ledgers",
    )
    .get_result(&mut link.connection)
    .map_err(|error| failed(&error))?;
    let parts = store.parts(link.server);
    let mut reader =
        Reader { connection: &mut link.connection, target, parts: &parts, schemas: &store.schemas };
    let found = reader.states(&list)?;
    link.end("COMMIT").map_err(|error| failed(&error))?;

    let found: HashMap<&str, &Found> = found.iter().map(|it| (it.name.as_str(), it)).collect();
    let ledgers: Vec<Result<Arc<Ledger>>> =
        ledgers.split('\u{1d}').map(|text| parse_ledger(text).map(Arc::new)).collect();
    let mut inspections = Vec::with_capacity(ids.len());
    for (name, line) in names.iter().zip(lines.split('\u{1d}')) {
        let inspection = match found.get(name.as_str()) {
            Some(found) => one(store, &mut kept, found, line, &ledgers),
            None => Err(missing(name)),
        };
        inspections.push(inspection);
    }
    Ok(inspections)
}

/// The statement that reads all ledgers.
fn loop_over(names: &str) -> String {
    let text = |part: &str| quote_text(part);
    include_str!("ledgers.sql")
        .replace("{names}", names)
        .replace("{applied}", &text(ledger::APPLIED))
        .replace("{history}", &text(ledger::HISTORY))
        .replace("{revisions}", &text(ledger::REVISIONS))
        .replace("{recorded}", &text(ledger::RECORDED))
        .replace("{section}", &text(ledger::SECTION))
}

/// One project by what the loop found of it.
fn one(
    store: &PostgresStore,
    kept: &mut super::connect::Kept<'_>,
    found: &Found,
    read: &str,
    ledgers: &[Result<Arc<Ledger>>],
) -> Result<Inspection> {
    if let Some(message) = read.strip_prefix("? ") {
        return Err(odd_ledger(message));
    }
    if let Some(message) = read.strip_prefix("! ") {
        let has = |text: &str| message.contains(text);
        let kind = match () {
            () if has("permission denied") => ErrorKind::ReadOnly,
            () if has("lock timeout") => ErrorKind::Locked,
            () => ErrorKind::Database,
        };
        return Err(described("cannot read its ledger", store.target(), kind, message));
    }
    let (number, recorded) = read.split_once(' ').unwrap_or((read, ""));
    let position = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let ledger = match position.and_then(|position| ledgers.get(position)) {
        Some(Ok(ledger)) => Arc::clone(ledger),
        Some(Err(error)) => {
            return Err(odd_ledger(
                &std::error::Error::source(error).map(ToString::to_string).unwrap_or_default(),
            ));
        }
        None => return Err(missing(&found.name)),
    };
    let known = Known::parse(recorded).filter(|known| known.state == found.state);
    let known = known.and_then(|known| store.schemas.with_fingerprint(known.fingerprint));
    let schema = if let Some(schema) = known {
        schema
    } else {
        let link = kept.link()?;
        let failed =
            |error: &diesel::result::Error| describe("cannot read its schema", store.target(), error);
        link.begin(&format!("BEGIN READ ONLY; {}", store.settings(link.server, NEUTRAL)))
            .map_err(|error| failed(&error))?;
        let parts = store.parts(link.server);
        let mut reader = Reader {
            connection: &mut link.connection,
            target: store.target(),
            parts: &parts,
            schemas: &store.schemas,
        };
        let whole = reader.schema(found.oid, &quote_name(&found.name));
        link.end("ROLLBACK").map_err(|error| failed(&error))?;
        whole?.schema
    };
    let access = if found.writable { Access::ReadWrite } else { Access::ReadOnly };
    Ok(Inspection { ledger, schema, access })
}
