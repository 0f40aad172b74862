//! The tables in which migration tools keep their books: no part of a project's schema.
//!
//! A table is told by its name *and* its columns, since an application may well have a `schema_migrations` of its own.

use crate::sql::Token;

/// diesel's table, which is also the first half of tenantry's ledger.
pub const DIESEL: &str = "__diesel_schema_migrations";
/// tenantry's table, the second half of its ledger.
pub const HISTORY: &str = "tenantry_history";
/// alembic's table.
pub const ALEMBIC: &str = "alembic_version";

/// Name and columns that must be there, all in lower case.
const TABLES: [(&str, &[&str]); 18] = [
    (DIESEL, &["version", "run_on"]),
    (HISTORY, &["version", "checksum", "action"]),
    (ALEMBIC, &["version_num"]),
    ("_sqlx_migrations", &["version", "description", "checksum"]),
    ("refinery_schema_history", &["version", "name", "applied_on", "checksum"]),
    ("schema_migrations", &["version"]),
    ("ar_internal_metadata", &["key", "value"]),
    ("d1_migrations", &["id", "name", "applied_at"]),
    ("_cf_metadata", &["key", "value"]),
    ("_cf_kv", &["key", "value"]),
    ("goose_db_version", &["version_id", "is_applied"]),
    ("flyway_schema_history", &["installed_rank", "version", "checksum"]),
    ("_prisma_migrations", &["checksum", "migration_name"]),
    ("atlas_schema_revisions", &["version", "description"]),
    ("databasechangelog", &["id", "author", "filename"]),
    ("databasechangeloglock", &["id", "locked"]),
    ("__drizzle_migrations", &["hash", "created_at"]),
    ("knex_migrations", &["name", "batch"]),
];

/// The columns that `schema_migrations` may have in the three tools that share the name; more make it the
/// application's.
const SCHEMA_MIGRATIONS: [&str; 2] = ["version", "dirty"];

/// Whether a table with these columns is a known tool's. Names are compared in lower case.
#[must_use]
pub fn is_bookkeeping(table: &str, columns: &[String]) -> bool {
    let has = |wanted: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(wanted));
    let Some((name, needed)) = TABLES.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)) else {
        return false;
    };
    let only_theirs = *name != "schema_migrations"
        || columns.iter().all(|column| SCHEMA_MIGRATIONS.contains(&column.as_str()));
    only_theirs && needed.iter().all(|column| has(column))
}

/// Whether a statement has something done whenever a ledger is written, which is no part of any schema's meaning.
pub(crate) fn acts_on_a_ledger(tokens: &[Token<'_>]) -> bool {
    let is_action = tokens.iter().take(8).any(|token| token.is("TRIGGER") || token.is("RULE"));
    let is_ledger = |token: &Token<'_>| {
        let name = token.text.trim_matches(['"', '`', '[', ']', '\'']);
        [DIESEL, HISTORY].iter().any(|ledger| name.eq_ignore_ascii_case(ledger))
    };
    is_action && tokens.first().is_some_and(|first| first.is("CREATE")) && tokens.iter().any(is_ledger)
}

#[cfg(test)]
mod tests {
    use super::is_bookkeeping;

    #[test]
    fn a_table_is_told_by_its_columns_too() {
        let columns = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(is_bookkeeping("schema_migrations", &columns(&["version", "dirty"])));
        assert!(!is_bookkeeping("schema_migrations", &columns(&["version", "author", "text"])));
        assert!(!is_bookkeeping("notes", &columns(&["version"])));
    }
}
