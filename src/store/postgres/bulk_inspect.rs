//! Inspects many projects in a number of round trips that does not depend on how many there are.
//!
//! Holds the locks of one schema at a time. A project that cannot be read does not affect the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::{ATTEMPTS, SchemaState, SchemaWithState};
use super::connect::ServerConnection;
use super::failure::{convert_error, new_error};
use super::ledger::{StoredLedger, invalid_ledger, ledger_query};
use super::{PostgresStore, missing};
use crate::error::{ErrorKind, Result};
use crate::ledger::Ledger;
use crate::plan::{Access, Inspection};
use crate::project::ProjectId;
use crate::sql::quote_text;
use crate::store::ReadSchema;

/// Disables parallel plans, so that the planner does not spend time on considering them.
const ONE_PROCESS: &str = "SELECT set_config('max_parallel_workers_per_gather', '0', true)";

#[derive(QueryableByName)]
struct LedgerLines {
    #[diesel(sql_type = Text)]
    ledgers: String,
}

/// Inspects these projects. The results are in the order of `ids`.
pub(super) fn inspect(
    store: &PostgresStore,
    ids: &[ProjectId],
    read_schema: ReadSchema,
) -> Vec<Result<Inspection>> {
    let is_disconnected =
        |result: &Result<BulkResult>| matches!(result, Err(error) if error.kind() == ErrorKind::Disconnected);
    let read_all = || {
        let mut results = read(store, ids, read_schema)?;
        match results.iter().position(is_disconnected).map(|index| results.swap_remove(index)) {
            Some(Err(error)) => Err(error),
            _ => Ok(results),
        }
    };
    let results = match store.retry_read(read_all) {
        Ok(results) => results,
        Err(error) => return ids.iter().map(|_| Err(error.duplicate())).collect(),
    };
    let complete = |(result, id): (Result<BulkResult>, &ProjectId)| match result? {
        BulkResult::Complete(inspection) => Ok(inspection),
        BulkResult::Changed => inspect_one(store, id, read_schema),
    };
    results.into_iter().zip(ids).map(complete).collect()
}

/// Inspects a project again that changed between reading its ledger and its schema. Fails with `Locked` if it keeps
/// changing.
fn inspect_one(store: &PostgresStore, id: &ProjectId, read_schema: ReadSchema) -> Result<Inspection> {
    for _ in 0..ATTEMPTS {
        let read_one = || read(store, std::slice::from_ref(id), read_schema)?.pop().transpose();
        if let Some(BulkResult::Complete(inspection)) = store.retry_read(read_one)? {
            return Ok(inspection);
        }
    }
    let message = "another session keeps changing it";
    Err(new_error("cannot read it", store.target(), ErrorKind::Locked, message))
}

/// The result of one read of a project.
enum BulkResult {
    /// Ledger and schema, as of one moment.
    Complete(Inspection),
    /// The project changed between the two reads.
    Changed,
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
    let link = pooled.connection()?;
    link.schemas += ids.len();
    let failed = |error: &diesel::result::Error| convert_error("cannot read the ledgers", target, error);
    let begin = link.begin_sql("ISOLATION LEVEL REPEATABLE READ READ ONLY");
    link.connection
        .batch_execute(&format!("{begin}; {ONE_PROCESS}; {}", ledgers_sql(&list)))
        .map_err(|error| failed(&error))?;
    let LedgerLines { ledgers } = diesel::sql_query("SELECT current_setting('tenantry.ledgers') AS ledgers")
        .get_result(&mut link.connection)
        .map_err(|error| failed(&error))?;
    let found = store.reader(link).states(&names)?;
    link.end("COMMIT").map_err(|error| failed(&error))?;

    let found: HashMap<&str, &SchemaState> = found.iter().map(|it| (it.name.as_str(), it)).collect();
    let mut shared = HashSet::new();
    let result = |(name, text): (&String, &str)| match found.get(name.as_str()) {
        Some(found) => parse_line(store, pooled.connection()?, found, text, &mut shared, read_schema),
        None => Err(missing(name)),
    };
    Ok(names.iter().zip(ledgers.split('\u{1c}')).map(result).collect())
}

/// The statement that reads the ledgers of all these schemas.
fn ledgers_sql(names: &str) -> String {
    // One query for each combination of ledger tables, in the order in which the loop numbers them.
    let queries: Vec<_> = (0..8_u8)
        .map(|tables| quote_text(&ledger_query(tables & 1 != 0, tables & 2 != 0, tables & 4 != 0)))
        .collect();
    include_str!("ledgers.sql").replace("{names}", names).replace("{queries}", &queries.join(", "))
}

/// Inspects one project from its text of the loop's result: a sign, then the ledger or the reason why it cannot be
/// read. `shared` holds the ledgers of the projects before it, since most fleets have only a handful of distinct ones.
fn parse_line(
    store: &PostgresStore,
    link: &mut ServerConnection,
    found: &SchemaState,
    text: &str,
    shared: &mut HashSet<Arc<Ledger>>,
    read_schema: ReadSchema,
) -> Result<BulkResult> {
    if let Some(message) = text.strip_prefix("? ") {
        return Err(invalid_ledger(message));
    }
    if let Some((state, message)) = text.strip_prefix("! ").and_then(|rest| rest.split_once(' ')) {
        let kind = match state {
            // The table existed when the loop looked it up.
            "42P01" => return Ok(BulkResult::Changed),
            "42501" => ErrorKind::ReadOnly,
            "55P03" => ErrorKind::Locked,
            _ => ErrorKind::Database,
        };
        return Err(new_error("cannot read its ledger", store.target(), kind, message));
    }
    let Some(texts) = text.strip_prefix("= ") else { return Err(missing(&found.name)) };
    let texts: Vec<&str> = texts.split('\u{1d}').collect();
    let lists: [&str; 3] = texts.try_into().map_err(|_| invalid_ledger(text))?;
    let lists = lists.map(|list| list.split('\u{1e}').filter(|row| !row.is_empty()));
    let StoredLedger { ledger, known, .. } = StoredLedger::parse(lists)?;
    let ledger = shared.get(&ledger).cloned().unwrap_or_else(|| {
        let ledger = Arc::new(ledger);
        shared.insert(Arc::clone(&ledger));
        ledger
    });
    let recorded = known.as_ref().map(|known| known.fingerprint);
    let known = known.filter(|known| known.state == found.state);
    let needs_schema =
        read_schema == ReadSchema::Always || !known.as_ref().is_some_and(|known| known.is_verified);
    let schema = match known.and_then(|known| store.schemas.with_fingerprint(known.fingerprint)) {
        _ if !needs_schema => None,
        Some(schema) => Some(schema),
        None => match load_schema(store, link, found)? {
            read if read.state == found.state => Some(read.schema),
            _ => return Ok(BulkResult::Changed),
        },
    };
    let access = if found.writable { Access::ReadWrite } else { Access::ReadOnly };
    Ok(BulkResult::Complete(Inspection {
        ledger,
        schema,
        recorded_fingerprint: recorded,
        access,
        other_ledgers: Vec::new(),
    }))
}

/// Reads a schema in a separate transaction, because reading takes a lock on each of its tables.
fn load_schema(
    store: &PostgresStore,
    link: &mut ServerConnection,
    found: &SchemaState,
) -> Result<SchemaWithState> {
    let failed =
        |error: &diesel::result::Error| convert_error("cannot read its schema", store.target(), error);
    link.begin("READ ONLY").map_err(|error| failed(&error))?;
    let read = store.reader(link).schema(&found.name);
    link.end("ROLLBACK").map_err(|error| failed(&error))?;
    read
}
