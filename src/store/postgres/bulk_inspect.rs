//! Many projects read at once: a number of round trips that does not depend on how many they are.
//!
//! It must not hold the locks of more than one schema at a time, nor let one that can't be read spoil the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::{ATTEMPTS, Read, SchemaState};
use super::connect::ServerConnection;
use super::failure::{describe, described};
use super::ledger::{StoredLedger, ledger_query, odd_ledger};
use super::{PostgresStore, missing};
use crate::error::{ErrorKind, Result};
use crate::ledger::Ledger;
use crate::plan::{Access, Inspection};
use crate::project::ProjectId;
use crate::sql::quote_text;
use crate::store::ReadSchema;

/// Spares the planner the question what of its plans could be done by several processes.
const ONE_PROCESS: &str = "SELECT set_config('max_parallel_workers_per_gather', '0', true)";

#[derive(QueryableByName)]
struct Loop {
    #[diesel(sql_type = Text)]
    ledgers: String,
}

/// Reads these projects, in their order.
pub(super) fn inspect(
    store: &PostgresStore,
    ids: &[ProjectId],
    read_schema: ReadSchema,
) -> Vec<Result<Inspection>> {
    let is_cut =
        |seen: &Result<BulkResult>| matches!(seen, Err(error) if error.kind() == ErrorKind::Disconnected);
    let read_all = || {
        let mut seen = read(store, ids, read_schema)?;
        match seen.iter().position(is_cut).map(|at| seen.swap_remove(at)) {
            Some(Err(error)) => Err(error),
            _ => Ok(seen),
        }
    };
    let seen = match store.again(read_all) {
        Ok(seen) => seen,
        Err(error) => return ids.iter().map(|_| Err(error.again())).collect(),
    };
    let settled = |(seen, id): (Result<BulkResult>, &ProjectId)| match seen? {
        BulkResult::Whole(inspection) => Ok(inspection),
        BulkResult::Changing => alone(store, id, read_schema),
    };
    seen.into_iter().zip(ids).map(settled).collect()
}

/// A project that was changed between the reading of its ledger and of its schema, read until it holds still.
fn alone(store: &PostgresStore, id: &ProjectId, read_schema: ReadSchema) -> Result<Inspection> {
    for _ in 0..ATTEMPTS {
        let read_one = || read(store, std::slice::from_ref(id), read_schema)?.pop().transpose();
        if let Some(BulkResult::Whole(inspection)) = store.again(read_one)? {
            return Ok(inspection);
        }
    }
    let message = "somebody changes it again and again";
    Err(described("cannot read it", store.target(), ErrorKind::Locked, message))
}

/// What was seen of a project.
enum BulkResult {
    /// Ledger and schema, as they were at one moment.
    Whole(Inspection),
    /// It was changed in between.
    Changing,
}

fn read(
    store: &PostgresStore,
    ids: &[ProjectId],
    read_schema: ReadSchema,
) -> Result<Vec<Result<BulkResult>>> {
    let target = store.target();
    let names: Vec<String> = ids.iter().map(|id| store.name(id)).collect::<Result<_>>()?;
    let list: Vec<_> = names.iter().map(|name| quote_text(name)).collect();
    let list = format!("ARRAY[{}]::text[]", list.join(","));
    let mut pooled = store.connections.get()?;
    let link = pooled.link()?;
    link.schemas += ids.len();
    let failed = |error: &diesel::result::Error| describe("cannot read the ledgers", target, error);
    let begin = link.beginning("ISOLATION LEVEL REPEATABLE READ READ ONLY");
    link.connection
        .batch_execute(&format!("{begin}; {ONE_PROCESS}; {}", loop_over(&list)))
        .map_err(|error| failed(&error))?;
    let Loop { ledgers } = diesel::sql_query("SELECT current_setting('tenantry.ledgers') AS ledgers")
        .get_result(&mut link.connection)
        .map_err(|error| failed(&error))?;
    let found = store.reader(link).states(&names)?;
    link.end("COMMIT").map_err(|error| failed(&error))?;

    let found: HashMap<&str, &SchemaState> = found.iter().map(|it| (it.name.as_str(), it)).collect();
    let mut shared = HashSet::new();
    let one = |(name, line): (&String, &str)| match found.get(name.as_str()) {
        Some(found) => one(store, pooled.link()?, found, line, &mut shared, read_schema),
        None => Err(missing(name)),
    };
    Ok(names.iter().zip(ledgers.split('\u{1c}')).map(one).collect())
}

/// The statement that reads all ledgers.
fn loop_over(names: &str) -> String {
    // For each set of tables that there can be, in the order that the loop counts them in.
    let queries: Vec<_> = (0..8_u8)
        .map(|tables| quote_text(&ledger_query(tables & 1 != 0, tables & 2 != 0, tables & 4 != 0)))
        .collect();
    include_str!("ledgers.sql").replace("{names}", names).replace("{queries}", &queries.join(", "))
}

/// One project by what the loop found of it: its ledger, or why there is none, after a sign. A fleet mostly shares a handful
/// of ledgers.
fn one(
    store: &PostgresStore,
    link: &mut ServerConnection,
    found: &SchemaState,
    said: &str,
    shared: &mut HashSet<Arc<Ledger>>,
    read_schema: ReadSchema,
) -> Result<BulkResult> {
    if let Some(message) = said.strip_prefix("? ") {
        return Err(odd_ledger(message));
    }
    if let Some((state, message)) = said.strip_prefix("! ").and_then(|rest| rest.split_once(' ')) {
        let kind = match state {
            // There was a table a moment ago.
            "42P01" => return Ok(BulkResult::Changing),
            "42501" => ErrorKind::ReadOnly,
            "55P03" => ErrorKind::Locked,
            _ => ErrorKind::Database,
        };
        return Err(described("cannot read its ledger", store.target(), kind, message));
    }
    let Some(texts) = said.strip_prefix("= ") else { return Err(missing(&found.name)) };
    let texts: Vec<&str> = texts.split('\u{1d}').collect();
    let lists: [&str; 3] = texts.try_into().map_err(|_| odd_ledger(said))?;
    let lists = lists.map(|list| list.split('\u{1e}').filter(|row| !row.is_empty()));
    let StoredLedger { ledger, known, .. } = StoredLedger::parse(lists)?;
    let ledger = shared.get(&ledger).cloned().unwrap_or_else(|| {
        let ledger = Arc::new(ledger);
        shared.insert(Arc::clone(&ledger));
        ledger
    });
    let recorded = known.as_ref().map(|known| known.fingerprint);
    let known = known.filter(|known| known.state == found.state);
    let is_wanted = read_schema == ReadSchema::Always || !known.as_ref().is_some_and(|known| known.is_proven);
    let schema = match known.and_then(|known| store.schemas.with_fingerprint(known.fingerprint)) {
        _ if !is_wanted => None,
        Some(schema) => Some(schema),
        None => match whole(store, link, found)? {
            read if read.state == found.state => Some(read.schema),
            _ => return Ok(BulkResult::Changing),
        },
    };
    let access = if found.writable { Access::ReadWrite } else { Access::ReadOnly };
    Ok(BulkResult::Whole(Inspection { ledger, schema, recorded, access }))
}

/// A schema, read in a transaction of its own: it takes a lock on each of its tables.
fn whole(store: &PostgresStore, link: &mut ServerConnection, found: &SchemaState) -> Result<Read> {
    let failed = |error: &diesel::result::Error| describe("cannot read its schema", store.target(), error);
    link.begin("READ ONLY").map_err(|error| failed(&error))?;
    let read = store.reader(link).schema(&found.name);
    link.end("ROLLBACK").map_err(|error| failed(&error))?;
    read
}
