//! How large and how old schemas are.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text};

use super::failure::convert_error;
use super::{PostgresStore, missing};
use crate::error::Result;
use crate::project::ProjectId;
use crate::store::Footprint;

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
    #[diesel(sql_type = BigInt)]
    created: i64,
}

/// The server numbers schemas in the order in which they are created.
const QUERY: &str = "SELECT n.nspname::text AS name, n.oid::bigint AS created, \
    coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes FROM pg_namespace n \
    LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm', 'S') \
    WHERE n.nspname = ANY($1) GROUP BY n.oid, n.nspname";

/// Returns the footprints of projects, in the order of `ids`.
pub(super) fn footprints(store: &PostgresStore, ids: &[ProjectId]) -> Result<Vec<Footprint>> {
    let names: Vec<String> = ids.iter().map(|id| store.name(id)).collect::<Result<_>>()?;
    let mut pooled = store.connections.get()?;
    let query = diesel::sql_query(QUERY).bind::<Array<Text>, _>(&names);
    let rows: Vec<Row> = query
        .load(&mut pooled.connection()?.connection)
        .map_err(|error| convert_error("cannot read the sizes of projects", store.target(), &error))?;
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    let found: HashMap<String, Footprint> = rows
        .into_iter()
        .map(|Row { name, bytes, created }| {
            (name, Footprint { bytes: number(bytes), created: number(created) })
        })
        .collect();
    names.iter().map(|name| found.get(name).copied().ok_or_else(|| missing(name))).collect()
}
