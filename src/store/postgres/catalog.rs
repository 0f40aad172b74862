//! Reads schemas from the server's system catalogs.
//!
//! The queries always run with the same `search_path`, because Postgres discards a query's plan when that changes.

use std::marker::PhantomData;
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Oid, Text};

use super::catalog_rows;
use super::connect::{CATALOG_PATH, Scope, settings};
use super::connection_url::ConnectionUrl;
use super::failure::{convert_error, new_error};
use super::queries::{AccessRow, Queries};
use crate::error::{ErrorKind, Result};
use crate::schema::Schema;
use crate::schema::bookkeeping::{ALEMBIC, DIESEL, HISTORY};
use crate::schema::postgres::{Row, schema};
use crate::sql::{quote_name, quote_text};
use crate::store::cache::SchemaCache;

/// The comment on roles that tenantry created, which identifies them.
pub(super) const OUR_ROLE: &str = "a project of tenantry";
/// How often a schema is read at most if it keeps changing meanwhile.
pub(super) const ATTEMPTS: u32 = 10;

/// A query on one schema with rows of type `T`. The server keeps its plan.
struct SchemaQuery<'a, T> {
    sql: &'a [String; 2],
    schema: &'a str,
    rows: PhantomData<T>,
}

impl<'a, T> SchemaQuery<'a, T> {
    fn new(sql: &'a [String; 2], schema: &'a str) -> Self {
        Self { sql, schema, rows: PhantomData }
    }
}

impl<T> QueryFragment<Pg> for SchemaQuery<'_, T> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let [before, after] = self.sql;
        out.push_sql(before);
        out.push_bind_param::<Text, _>(self.schema)?;
        out.push_sql(after);
        Ok(())
    }
}

impl<T: 'static> QueryId for SchemaQuery<'_, T> {
    type QueryId = SchemaQuery<'static, T>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<T> Query for SchemaQuery<'_, T> {
    type SqlType = T;
}

impl<T> RunQueryDsl<PgConnection> for SchemaQuery<'_, T> {}

/// The query for the states of schemas.
struct StatesQuery<'a> {
    sql: &'a [String; 2],
    schemas: &'a [String],
}

impl QueryFragment<Pg> for StatesQuery<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let [before, after] = self.sql;
        out.push_sql(before);
        out.push_bind_param::<Array<Text>, _>(self.schemas)?;
        out.push_sql(after);
        Ok(())
    }
}

impl QueryId for StatesQuery<'_> {
    type QueryId = StatesQuery<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for StatesQuery<'_> {
    type SqlType = (Text, Text, Bool);
}

impl RunQueryDsl<PgConnection> for StatesQuery<'_> {}

/// A row of facets.sql.
type Facet = (Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>);
/// A row of `catalog_rows.sql`.
type CatalogRow =
    (Nullable<BigInt>, Array<Oid>, Text, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>);

/// The key of a project's advisory lock. `name` is an SQL expression for its schema's name. It does not contain the
/// database, since advisory locks are local to one.
pub(super) fn lock_key(name: &str) -> String {
    format!("hashtextextended('tenantry project ' || {name}, 0)")
}

/// The query that tries to take a project's advisory lock.
struct TryLock<'a> {
    for_session: bool,
    schema: &'a str,
}

impl QueryFragment<Pg> for TryLock<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT CASE WHEN ");
        out.push_bind_param::<Bool, _>(&self.for_session)?;
        out.push_sql(" THEN pg_try_advisory_lock(key) ELSE pg_try_advisory_xact_lock(key) END ");
        out.push_sql(&format!("FROM (SELECT {} AS key FROM (SELECT ", lock_key("name")));
        out.push_bind_param::<Text, _>(self.schema)?;
        out.push_sql("::text AS name) named) keyed");
        Ok(())
    }
}

impl QueryId for TryLock<'_> {
    type QueryId = TryLock<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for TryLock<'_> {
    type SqlType = Bool;
}

impl RunQueryDsl<PgConnection> for TryLock<'_> {}

#[derive(QueryableByName)]
pub(super) struct Exists {
    #[diesel(sql_type = Bool)]
    pub(super) exists: bool,
}

/// The query that looks up a schema and its ledger tables by name. It is a separate statement and reads catalog rows:
/// in the statement that takes the lock, or through a function such as `to_regclass`, it would see the state from
/// before the lock.
struct SchemaInfoQuery<'a> {
    schema: &'a str,
}

impl QueryFragment<Pg> for SchemaInfoQuery<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for (index, table) in [DIESEL, HISTORY, ALEMBIC].into_iter().enumerate() {
            out.push_sql(if index == 0 { "SELECT" } else { "," });
            out.push_sql(" EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = '");
            out.push_sql(table);
            out.push_sql("')");
        }
        out.push_sql(", has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = ");
        out.push_bind_param::<Text, _>(self.schema)?;
        Ok(())
    }
}

impl QueryId for SchemaInfoQuery<'_> {
    type QueryId = SchemaInfoQuery<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for SchemaInfoQuery<'_> {
    type SqlType = (Bool, Bool, Bool, Bool);
}

impl RunQueryDsl<PgConnection> for SchemaInfoQuery<'_> {}

/// Which ledger tables a project's schema has.
#[derive(Clone, Copy, Debug, Queryable)]
#[expect(clippy::struct_excessive_bools, reason = "a row of a query")]
pub(super) struct SchemaInfo {
    pub(super) diesel: bool,
    pub(super) history: bool,
    pub(super) alembic: bool,
    /// Whether this role may create objects in the schema.
    pub(super) writable: bool,
}

/// The state of a requested schema.
#[derive(Queryable)]
pub(super) struct SchemaState {
    pub(super) name: String,
    /// A checksum of the schema's catalog rows. It stays the same as long as nothing about the schema changes.
    pub(super) state: String,
    pub(super) writable: bool,
}

/// A schema as it was read, and its state at that moment.
#[derive(Clone)]
pub(super) struct SchemaWithState {
    pub(super) schema: Arc<Schema>,
    pub(super) state: String,
}

impl SchemaWithState {
    /// A schema that was just created and has no objects.
    pub(super) fn empty(cache: &SchemaCache) -> Self {
        let ignore = cache.ignore();
        Self { schema: Arc::new(schema(&[], ignore)), state: catalog_rows::state(&[], &ignore.mark()) }
    }
}

/// Reads schemas over one connection.
pub(super) struct Reader<'a> {
    pub(super) connection: &'a mut PgConnection,
    pub(super) target: &'a ConnectionUrl,
    pub(super) queries: Arc<Queries>,
    pub(super) schemas: &'a SchemaCache,
}

impl Reader<'_> {
    /// Reads the states of these schemas in one query. Schemas that do not exist are left out.
    pub(super) fn states(&mut self, schemas: &[String]) -> Result<Vec<SchemaState>> {
        StatesQuery { sql: &self.queries.states, schemas }
            .load(self.connection)
            .map_err(|error| convert_error("cannot read the schemas", self.target, &error))
    }

    /// Tries to take a schema's lock. Returns `false` if another session holds it.
    pub(super) fn try_lock(&mut self, schema: &str, for_session: bool) -> Result<bool> {
        TryLock { for_session, schema }
            .get_result(self.connection)
            .map_err(|error| convert_error("cannot lock it", self.target, &error))
    }

    /// Looks up a schema by its name. Returns `None` if it does not exist.
    pub(super) fn schema_info(&mut self, schema: &str) -> Result<Option<SchemaInfo>> {
        SchemaInfoQuery { schema }
            .get_result(self.connection)
            .optional()
            .map_err(|error| convert_error("cannot look up its schema", self.target, &error))
    }

    /// Reads one schema's state.
    pub(super) fn state(&mut self, name: &str) -> Result<String> {
        SchemaQuery::<Text>::new(&self.queries.state, name)
            .get_result(self.connection)
            .map_err(|error| convert_error("cannot read its schema", self.target, &error))
    }

    /// Whether a schema's state is the one that its ledger recorded last.
    pub(super) fn is_as_recorded(&mut self, name: &str) -> Result<bool> {
        let [before, after] = &self.queries.state;
        let (text, quoted) = (quote_text(name), quote_name(name));
        let sql = format!(
            "SELECT coalesce(({before}{text}{after}) = \
             (SELECT schema_state FROM {quoted}.tenantry_history ORDER BY sequence DESC LIMIT 1), false) AS exists"
        );
        let found = diesel::sql_query(sql).get_result(self.connection);
        let Exists { exists } =
            found.map_err(|error| convert_error("cannot read its schema", self.target, &error))?;
        Ok(exists)
    }

    /// Reads one schema completely. Fails with `Locked` if it keeps changing.
    pub(super) fn schema(&mut self, name: &str) -> Result<SchemaWithState> {
        let quoted = &quote_name(name);
        for _ in 0..ATTEMPTS {
            let rows: Vec<catalog_rows::Row> =
                SchemaQuery::<CatalogRow>::new(&self.queries.catalog_rows, name)
                    .load(self.connection)
                    .map_err(|error| convert_error("cannot read its schema", self.target, &error))?;
            let state = catalog_rows::state(&rows, &self.schemas.ignore().mark());
            let text = catalog_rows::text(&rows, name);
            if let Some(schema) = text.as_ref().and_then(|text| self.schemas.get(text)) {
                return Ok(SchemaWithState { schema, state });
            }
            let rows = self.read_facets(name)?;
            // Another session may have changed it between the two queries.
            if self.state(name)? == state {
                // The server qualifies a name with the schema's name if the bare name means something else. The result
                // is not shared then: another schema with the same text has another name.
                let has_own_name = rows.iter().any(|row| has_name(row, quoted));
                let rows: Vec<Row> = rows.into_iter().map(|row| without_name(row, name)).collect();
                let schema = schema(&rows, self.schemas.ignore());
                let schema = self.schemas.insert(text.filter(|_| !has_own_name), schema);
                return Ok(SchemaWithState { schema, state });
            }
        }
        let message = "another session keeps changing it";
        Err(new_error("cannot read its schema", self.target, ErrorKind::Locked, message))
    }

    fn read_facets(&mut self, name: &str) -> Result<Vec<Row>> {
        type Texts = (Option<String>, Option<String>, Option<String>, Option<String>, Option<String>);
        let Queries { facets, access, .. } = self.queries.as_ref();
        let mut read = || -> QueryResult<(Vec<Texts>, Vec<AccessRow>)> {
            self.connection.batch_execute(&search_path(&quote_name(name)))?;
            let facets = SchemaQuery::<Facet>::new(facets, name).load(self.connection)?;
            let [before, after] = access;
            let access =
                diesel::sql_query(format!("{before}{}{after}", quote_text(name))).load(self.connection)?;
            self.connection.batch_execute(&search_path(CATALOG_PATH))?;
            Ok((facets, access))
        };
        let (facets, access) =
            read().map_err(|error| convert_error("cannot read its schema", self.target, &error))?;
        let row = |(kind, object, facet, key, value): Texts| {
            let [kind, object, facet, key, value] =
                [kind, object, facet, key, value].map(Option::unwrap_or_default);
            Row { kind, object, facet, key, value }
        };
        let mut rows: Vec<Row> = facets.into_iter().map(row).collect();
        rows.extend(access.into_iter().map(AccessRow::facet));
        rows.sort_unstable();
        Ok(rows)
    }
}

/// The query that sets `search_path` until the transaction ends.
pub(super) fn search_path(path: &str) -> String {
    settings(Scope::Transaction, [("search_path", path.to_string())])
}

/// A facet in which "its own" replaces the schema's name before other names. The qualifier is not dropped, since the
/// server writes it where the bare name means something else.
fn without_name(row: Row, name: &str) -> Row {
    const OWN_NAME: &str = "its own.";
    let Row { value, .. } = &row;
    let is_part = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-' | '$' | '"');
    let mut text = value.clone();
    for qualifier in [format!("{}.", quote_name(name)), format!("{name}.")] {
        let mut at = 0;
        while let Some(found) = text[at..].find(&qualifier) {
            let start = at + found;
            if text[..start].ends_with(is_part) {
                at = start + qualifier.len();
            } else {
                text.replace_range(start..start + qualifier.len(), OWN_NAME);
                at = start + OWN_NAME.len();
            }
        }
    }
    Row { value: text, ..row }
}

/// Whether a facet may contain the schema's name before another name.
fn has_name(row: &Row, quoted: &str) -> bool {
    let (with_quotes, without) = (format!("{quoted}."), format!("{}.", quoted.trim_matches('"')));
    [&row.object, &row.key, &row.value]
        .iter()
        .any(|text| text.contains(&with_quotes) || text.contains(&without))
}
