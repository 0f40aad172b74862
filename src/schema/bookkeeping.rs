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

/// Which columns make a table a tool's.
enum Columns {
    /// These are there, and maybe more.
    Among(&'static [&'static str]),
    /// No other than these, since the name is one that an application may well use; the first has to be there.
    Only(&'static [&'static str]),
}

use Columns::{Among, Only};

/// The tables by name and columns, all in lower case.
const TABLES: [(&str, Columns); 32] = [
    (DIESEL, Among(&["version", "run_on"])),
    (HISTORY, Among(&["version", "checksum", "action"])),
    (ALEMBIC, Among(&["version_num"])),
    ("_sqlx_migrations", Among(&["version", "description", "checksum"])),
    ("refinery_schema_history", Among(&["version", "name", "applied_on", "checksum"])),
    // dbmate's and Rails', golang-migrate's, Ecto's.
    ("schema_migrations", Only(&["version", "dirty", "inserted_at"])),
    ("ar_internal_metadata", Among(&["key", "value"])),
    ("d1_migrations", Among(&["id", "name", "applied_at"])),
    ("_cf_metadata", Among(&["key", "value"])),
    ("_cf_kv", Among(&["key", "value"])),
    ("goose_db_version", Among(&["version_id", "is_applied"])),
    ("flyway_schema_history", Among(&["installed_rank", "version", "checksum"])),
    ("_prisma_migrations", Among(&["checksum", "migration_name"])),
    ("atlas_schema_revisions", Among(&["version", "description"])),
    ("databasechangelog", Among(&["id", "author", "filename"])),
    ("databasechangeloglock", Among(&["id", "locked"])),
    ("__drizzle_migrations", Among(&["hash", "created_at"])),
    ("seaql_migrations", Among(&["version", "applied_at"])),
    ("knex_migrations", Among(&["name", "batch"])),
    ("knex_migrations_lock", Among(&["is_locked"])),
    ("django_migrations", Among(&["app", "name", "applied"])),
    ("migrations", Only(&["timestamp", "id", "name"])),
    ("typeorm_metadata", Among(&["type", "name", "value"])),
    ("sequelizemeta", Only(&["name"])),
    ("__efmigrationshistory", Among(&["migrationid", "productversion"])),
    ("__efmigrationslock", Among(&["id", "timestamp"])),
    ("_yoyo_migration", Among(&["migration_hash", "migration_id"])),
    ("_yoyo_log", Among(&["migration_hash", "operation"])),
    ("_yoyo_version", Among(&["version"])),
    ("yoyo_lock", Among(&["locked", "pid"])),
    ("_litestream_seq", Among(&["id", "seq"])),
    ("_litestream_lock", Among(&["id"])),
];

/// Whether a table with these columns is a known tool's. Names are compared in lower case.
#[must_use]
pub fn is_bookkeeping(table: &str, columns: &[String]) -> bool {
    let has = |wanted: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(wanted));
    let Some((_, needed)) = TABLES.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)) else {
        return false;
    };
    match needed {
        Among(needed) => needed.iter().all(|column| has(column)),
        Only(theirs) => {
            let is_theirs = |column: &String| theirs.iter().any(|it| it.eq_ignore_ascii_case(column));
            theirs.first().is_some_and(|first| has(first)) && columns.iter().all(is_theirs)
        }
    }
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
        for (table, theirs, an_applications) in [
            ("migrations", &["id", "timestamp", "name"][..], &["id", "timestamp", "name", "bird"][..]),
            ("SequelizeMeta", &["name"], &["name", "value"]),
            ("schema_migrations", &["version", "inserted_at"], &["inserted_at"]),
            ("seaql_migrations", &["version", "applied_at"], &["version"]),
            ("knex_migrations_lock", &["index", "is_locked"], &["index"]),
            ("django_migrations", &["id", "app", "name", "applied"], &["id", "name"]),
            ("__EFMigrationsHistory", &["MigrationId", "ProductVersion"], &["MigrationId"]),
            ("_litestream_seq", &["id", "seq"], &["seq"]),
            ("_yoyo_migration", &["migration_hash", "migration_id", "applied_at_utc"], &["applied_at_utc"]),
        ] {
            assert!(is_bookkeeping(table, &columns(theirs)), "{table}");
            assert!(!is_bookkeeping(table, &columns(an_applications)), "{table}");
        }
    }
}
