//! The queries on the catalogs, as a server's version has them.
//!
//! It must not ask a server: `catalog` does.

use std::fmt::Write as _;

use super::access::access_query;

/// The queries on the catalogs, as this server's version has them.
pub(super) struct Queries {
    /// The members of one schema: before and after its name.
    pub(super) members: [String; 2],
    /// What the members of one schema come to, likewise.
    pub(super) state: [String; 2],
    /// Those of many schemas: before and after the list of their names.
    pub(super) states: [String; 2],
    /// One schema in words, likewise.
    pub(super) facets: [String; 2],
    /// Who owns its objects and what is granted on them, likewise.
    pub(super) access: [String; 2],
}

impl Queries {
    pub(super) fn new(version: i32) -> Self {
        // A function that looks for names in its own schema has that schema's name in its settings, with or without quotes.
        const SETTING: &str = r#"CASE WHEN c LIKE 'search\_path=%' THEN 'search_path=' || (
            SELECT string_agg(CASE WHEN trim('"' FROM trim(e)) = trim('"' FROM p.pronamespace::regnamespace::text)
                THEN 'its own' ELSE trim(e) END, ', ' ORDER BY number)
            FROM unnest(string_to_array(substr(c, 13), ',')) WITH ORDINALITY AS part (e, number)) ELSE c END"#;
        const STATE: &str = "SELECT concat_ws('.', count(hash), sum(hash)) AS state";
        let since = |first: i32, expression: &'static str, otherwise: &'static str| {
            if version >= first { expression } else { otherwise }
        };
        let fit = |sql: &str| {
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
        let members = fit(&with_access(&with_hashes(include_str!("catalog_rows.sql"))));
        let hashes = hashes(&members);
        let of_one = |sql: &str| {
            let sql = sql.replace("{schema}", &number_of("{name}"));
            let (before, after) = sql.split_once("{name}").unwrap_or((&sql, ""));
            [before.to_string(), after.to_string()]
        };
        Self {
            members: of_one(
                &members
                    .replace("{select}", "SELECT hash, objects, what, name, body, tree, access")
                    .replace("{{", "")
                    .replace("}}", ""),
            ),
            state: of_one(&hashes.replace("{select}", STATE)),
            states: [
                format!(
                    "SELECT n.nspname::text, ({}), \
                     has_schema_privilege(n.oid, 'CREATE') AND NOT pg_is_in_recovery() \
                     FROM (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY (",
                    hashes.replace("{select}", STATE).replace("{schema}", "n.oid")
                ),
                // As they were made, so that what is near in the catalogs is read together.
                ") ORDER BY oid) n".into(),
            ],
            facets: of_one(&fit(include_str!("facets.sql"))),
            access: of_one(&access_query("{schema}")),
        }
    }
}

/// The query with what `{hash XMIN of NUMBER}` stands for.
///
/// A transaction's number as a number is how long ago it was, from how long ago another one was: to make text of it takes the
/// server longer. Both are reckoned in 32 bits.
fn with_hashes(members: &str) -> String {
    let mut parts = members.split("{hash ");
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

/// The query with what `{access OWNER ACL of TABLE}` stands for.
fn with_access(members: &str) -> String {
    let mut parts = members.split("{access ");
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

/// The query for the members, of which only the hashes are wanted.
fn hashes(members: &str) -> String {
    let parts = members.split("{{").map(|part| part.split_once("}}").map_or(part, |(_, after)| after));
    parts.collect()
}

/// A schema's number in the catalogs, by an expression for its name.
pub(super) fn number_of(name: &str) -> String {
    format!("(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {name})")
}
