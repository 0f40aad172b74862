//! The queries on the system catalogs, adapted to the server's version.

use std::fmt::Write as _;

use diesel::prelude::*;
use diesel::sql_types::Text;

use crate::schema::postgres::Row;

/// The queries on the system catalogs for one server version, each as the text before and after its one parameter.
pub(super) struct Queries {
    /// The catalog rows of one schema and its objects. The parameter is the schema's name, as in all but `states`.
    pub(super) catalog_rows: [String; 2],
    /// The state of one schema: a count and a sum of the hashes of its catalog rows.
    pub(super) state: [String; 2],
    /// The states of many schemas. The parameter is an array of their names.
    pub(super) states: [String; 2],
    /// The facets of one schema, as text.
    pub(super) facets: [String; 2],
    /// The owners of one schema's objects and the privileges on them.
    pub(super) access: [String; 2],
}

impl Queries {
    /// `mark` differs between lists of ignored objects. It is part of a state, so that a schema is read again when the list
    /// changes.
    pub(super) fn new(version: i32, mark: &str) -> Self {
        // A function's `search_path` setting may contain the name of its own schema, with or without quotes. That name
        // is replaced, because it differs between equal schemas.
        const SETTING: &str = r#"CASE WHEN c LIKE 'search\_path=%' THEN 'search_path=' || (
            SELECT string_agg(CASE WHEN trim('"' FROM trim(e)) = trim('"' FROM p.pronamespace::regnamespace::text)
                THEN 'its own' ELSE trim(e) END, ', ' ORDER BY number)
            FROM unnest(string_to_array(substr(c, 13), ',')) WITH ORDINALITY AS part (e, number)) ELSE c END"#;
        let state = format!("SELECT concat_ws('.', count(hash), sum(hash), nullif('{mark}', '')) AS state");
        let since = |first: i32, expression: &'static str, otherwise: &'static str| {
            if version >= first { expression } else { otherwise }
        };
        let adapt = |sql: &str| {
            sql.replace("{nulls_not_distinct}", since(150_000, "i.indnullsnotdistinct", "false"))
                .replace("{delete_columns}", since(150_000, "c.confdelsetcols", "NULL::int[]"))
                .replace("{not_enforced}", since(180_000, "NOT c.conenforced", "false"))
                .replace("{function_body}", since(140_000, "pg_get_function_sqlbody(p.oid)", "NULL::text"))
                .replace("{function_tree}", since(140_000, "p.prosqlbody", "NULL::text"))
                .replace(
                    "{publications}",
                    since(150_000, "'pg_publication_namespace'::regclass", "'pg_default_acl'::regclass"),
                )
                .replace("{setting}", SETTING)
        };
        let catalog_rows = adapt(&with_access(&with_hashes(include_str!("catalog_rows.sql"))));
        let hashes = hashes_only(&catalog_rows);
        let split_at_name = |sql: &str| {
            let sql = sql.replace("{schema}", &schema_oid("{name}"));
            let (before, after) = sql.split_once("{name}").unwrap_or((&sql, ""));
            [before.to_string(), after.to_string()]
        };
        Self {
            catalog_rows: split_at_name(
                &catalog_rows
                    .replace("{select}", "SELECT hash, objects, what, name, body, tree, access")
                    .replace("{{", "")
                    .replace("}}", ""),
            ),
            state: split_at_name(&hashes.replace("{select}", &state)),
            states: [
                format!(
                    "SELECT n.nspname::text, ({}), \
                     has_schema_privilege(n.oid, 'CREATE') AND NOT pg_is_in_recovery() \
                     FROM (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY (",
                    hashes.replace("{select}", &state).replace("{schema}", "n.oid")
                ),
                // In the order of their creation, so that neighboring rows of the system catalogs are read together.
                ") ORDER BY oid) n".into(),
            ],
            facets: split_at_name(&adapt(include_str!("facets.sql"))),
            access: split_at_name(&access_query("{schema}")),
        }
    }
}

/// Replaces each `{hash XMIN of NUMBER}` by the expression for a row's hash.
///
/// The expression computes a transaction's number as the age of transaction 3 minus the transaction's age, in 32 bits.
/// Converting an `xid` to text and then to a number takes the server longer.
fn with_hashes(catalog_rows: &str) -> String {
    let mut parts = catalog_rows.split("{hash ");
    let mut sql = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (what, rest) = part.split_once('}').unwrap_or((part, ""));
        let (xmin, number) = what.split_once(" of ").unwrap_or((what, what));
        sql += "hashint8extended((age('3'::xid)::bigint - age(";
        sql += xmin;
        sql += ")) & 4294967295, ";
        sql += number;
        sql += "::bigint)";
        sql += rest;
    }
    sql
}

/// Replaces each `{access OWNER ACL of TABLE}` by the expression for a row's privileges, and its owner if that is not
/// the schema's.
fn with_access(catalog_rows: &str) -> String {
    let mut parts = catalog_rows.split("{access ");
    let mut sql = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (what, rest) = part.split_once('}').unwrap_or((part, ""));
        if let [owner, acl, "of", table] = what.split(' ').collect::<Vec<_>>()[..] {
            let _ = write!(
                sql,
                "concat_ws(E'\\n', CASE WHEN {table}.{owner} <> (SELECT nspowner FROM place) \
                 THEN concat('owner ', {table}.{owner}) END, array_to_string({table}.{acl}, E'\\n'))"
            );
        }
        sql += rest;
    }
    sql
}

/// Reduces the query of catalog rows to its hashes, by removing the parts in double braces.
fn hashes_only(catalog_rows: &str) -> String {
    let parts = catalog_rows.split("{{").map(|part| part.split_once("}}").map_or(part, |(_, after)| after));
    parts.collect()
}

/// Returns an SQL expression for a schema's OID, given an expression for its name.
pub(super) fn schema_oid(name: &str) -> String {
    format!("(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {name})")
}

/// Returns the query for the owners and privileges in one schema, given an expression for its OID. The result is
/// relative to the schema's owner and leaves out the role with the schema's name.
pub(super) fn access_query(schema: &str) -> String {
    complete_access_query(schema, "n.nspowner", "false")
}

/// Returns the same query relative to this session's role, including the role with the schema's name.
pub(super) fn full_access_query(schema: &str) -> String {
    complete_access_query(schema, "(SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)", "true")
}

fn complete_access_query(schema: &str, base_owner: &str, with_own_role: &str) -> String {
    include_str!("access.sql")
        .replace("{schema}", schema)
        .replace("{base_owner}", base_owner)
        .replace("{with_own_role}", with_own_role)
}

/// An owner or privilege that creating the object alone does not give.
#[derive(QueryableByName)]
pub(super) struct AccessRow {
    #[diesel(sql_type = Text)]
    pub(super) kind: String,
    #[diesel(sql_type = Text)]
    pub(super) object: String,
    #[diesel(sql_type = Text)]
    pub(super) key: String,
    #[diesel(sql_type = Text)]
    pub(super) description: String,
    #[diesel(sql_type = Text)]
    pub(super) statement: String,
}

impl AccessRow {
    /// Converts the row to a facet of its object.
    pub(super) fn facet(self) -> Row {
        let Self { kind, object, key, description, .. } = self;
        Row { kind, object, facet: "access".into(), key, value: description }
    }
}
