//! Recognizes the tables of migration tools, of Litestream and of Cloudflare D1, which are not part of a project's schema.
//!
//! A table is recognized by its name *and* columns, since an application may have its own `schema_migrations`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};
use crate::sql::Token;

/// diesel's table, which is also the first table of tenantry's ledger.
pub(crate) const DIESEL: &str = "__diesel_schema_migrations";
/// tenantry's table, the second of its ledger.
pub(crate) const HISTORY: &str = "tenantry_history";
/// alembic's table.
pub(crate) const ALEMBIC: &str = "alembic_version";

/// A migration tool whose ledger tenantry can take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the name of a tool")]
pub enum Tool {
    Alembic,
    Atlas,
    Dbmate,
    Drizzle,
    Flyway,
    GolangMigrate,
    Goose,
    Liquibase,
    Prisma,
    Rails,
    Refinery,
    RusqliteMigration,
    Sqlx,
    Wrangler,
}

impl Tool {
    /// All tools, in the order of their names.
    pub const ALL: [Self; 14] = [
        Self::Alembic,
        Self::Atlas,
        Self::Dbmate,
        Self::Drizzle,
        Self::Flyway,
        Self::GolangMigrate,
        Self::Goose,
        Self::Liquibase,
        Self::Prisma,
        Self::Rails,
        Self::Refinery,
        Self::RusqliteMigration,
        Self::Sqlx,
        Self::Wrangler,
    ];

    /// Returns the tool's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alembic => "alembic",
            Self::Atlas => "atlas",
            Self::Dbmate => "dbmate",
            Self::Drizzle => "drizzle",
            Self::Flyway => "flyway",
            Self::GolangMigrate => "golang-migrate",
            Self::Goose => "goose",
            Self::Liquibase => "liquibase",
            Self::Prisma => "prisma",
            Self::Rails => "rails",
            Self::Refinery => "refinery",
            Self::RusqliteMigration => "rusqlite_migration",
            Self::Sqlx => "sqlx",
            Self::Wrangler => "wrangler",
        }
    }

    /// Returns the tool that keeps its ledger in a table with this name and these columns.
    pub(crate) fn of_table(table: &str, columns: &[String]) -> Option<Self> {
        known_table(table, columns)?.2
    }

    /// The tables in which tools keep their ledgers.
    pub(crate) fn tables() -> Vec<&'static str> {
        let mut tables: Vec<_> = TABLES.iter().filter(|it| it.2.is_some()).map(|it| it.0).collect();
        tables.dedup();
        tables
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|tool| tool.name() == text).ok_or_else(|| {
            if text == "diesel" {
                return Error::new(ErrorKind::Usage, "diesel's ledger does not have to be taken over")
                    .with_hint("its table is part of tenantry's ledger: run tenantry upgrade-all");
            }
            Error::new(ErrorKind::Usage, format!("{text:?} is no tool whose ledger can be taken over"))
                .with_hint(format!("the tools are {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// The suffix that `adopt --retire` adds to the name of a tool's table.
pub(crate) const RETIRED: &str = "_retired";

/// The columns by which a tool's table is recognized.
enum Columns {
    /// All of these, and possibly others.
    AtLeast(&'static [&'static str]),
    /// These and no others. For names that an application may also use.
    Exactly(&'static [&'static str]),
}

use Columns::{AtLeast, Exactly};

/// The known tables by name and columns, all in lower case, with the tool if its ledger can be taken over.
const TABLES: [(&str, Columns, Option<Tool>); 34] = [
    (DIESEL, AtLeast(&["version", "run_on"]), None),
    (HISTORY, AtLeast(&["version", "checksum", "action"]), None),
    (ALEMBIC, AtLeast(&["version_num"]), Some(Tool::Alembic)),
    ("_sqlx_migrations", AtLeast(&["version", "description", "checksum"]), Some(Tool::Sqlx)),
    (
        "refinery_schema_history",
        AtLeast(&["version", "name", "applied_on", "checksum"]),
        Some(Tool::Refinery),
    ),
    // dbmate's and Rails', golang-migrate's, Ecto's.
    ("schema_migrations", Exactly(&["version"]), Some(Tool::Dbmate)),
    ("schema_migrations", Exactly(&["version", "dirty"]), Some(Tool::GolangMigrate)),
    ("schema_migrations", Exactly(&["version", "inserted_at"]), None),
    ("ar_internal_metadata", AtLeast(&["key", "value"]), None),
    ("d1_migrations", AtLeast(&["id", "name", "applied_at"]), Some(Tool::Wrangler)),
    ("_cf_metadata", AtLeast(&["key", "value"]), None),
    ("_cf_kv", AtLeast(&["key", "value"]), None),
    ("goose_db_version", AtLeast(&["version_id", "is_applied"]), Some(Tool::Goose)),
    ("flyway_schema_history", AtLeast(&["installed_rank", "version", "checksum"]), Some(Tool::Flyway)),
    ("_prisma_migrations", AtLeast(&["checksum", "migration_name"]), Some(Tool::Prisma)),
    ("atlas_schema_revisions", AtLeast(&["version", "description"]), Some(Tool::Atlas)),
    ("databasechangelog", AtLeast(&["id", "author", "filename"]), Some(Tool::Liquibase)),
    ("databasechangeloglock", AtLeast(&["id", "locked"]), None),
    ("__drizzle_migrations", AtLeast(&["hash", "created_at"]), Some(Tool::Drizzle)),
    ("seaql_migrations", AtLeast(&["version", "applied_at"]), None),
    ("knex_migrations", AtLeast(&["name", "batch"]), None),
    ("knex_migrations_lock", AtLeast(&["is_locked"]), None),
    ("django_migrations", AtLeast(&["app", "name", "applied"]), None),
    ("migrations", Exactly(&["timestamp", "id", "name"]), None),
    ("typeorm_metadata", AtLeast(&["type", "name", "value"]), None),
    ("sequelizemeta", Exactly(&["name"]), None),
    ("__efmigrationshistory", AtLeast(&["migrationid", "productversion"]), None),
    ("__efmigrationslock", AtLeast(&["id", "timestamp"]), None),
    ("_yoyo_migration", AtLeast(&["migration_hash", "migration_id"]), None),
    ("_yoyo_log", AtLeast(&["migration_hash", "operation"]), None),
    ("_yoyo_version", AtLeast(&["version"]), None),
    ("yoyo_lock", AtLeast(&["locked", "pid"]), None),
    ("_litestream_seq", AtLeast(&["id", "seq"]), None),
    ("_litestream_lock", AtLeast(&["id"]), None),
];

/// Whether a table with these columns belongs to a known migration tool, or did so before tenantry renamed it. Names are
/// compared case-insensitively.
#[must_use]
pub(crate) fn is_bookkeeping(table: &str, columns: &[String]) -> bool {
    known_table(table.strip_suffix(RETIRED).unwrap_or(table), columns).is_some()
}

fn known_table(table: &str, columns: &[String]) -> Option<&'static (&'static str, Columns, Option<Tool>)> {
    let has = |name: &&str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    TABLES.iter().find(|(name, needed, _)| {
        name.eq_ignore_ascii_case(table)
            && match needed {
                AtLeast(needed) => needed.iter().all(&has),
                Exactly(needed) => needed.len() == columns.len() && needed.iter().all(&has),
            }
    })
}

/// Whether a statement creates a trigger or rule on a ledger. An import refuses it, because it would run whenever tenantry
/// writes the ledger.
pub(crate) fn is_ledger_trigger(tokens: &[Token<'_>]) -> bool {
    let is_action = tokens.iter().take(8).any(|token| token.is("TRIGGER") || token.is("RULE"));
    let is_ledger = |token: &Token<'_>| {
        let name = token.text.trim_matches(['"', '`', '[', ']', '\'']);
        [DIESEL, HISTORY].iter().any(|ledger| name.eq_ignore_ascii_case(ledger))
    };
    is_action && tokens.first().is_some_and(|first| first.is("CREATE")) && tokens.iter().any(is_ledger)
}

#[cfg(test)]
mod tests {
    use super::{Tool, is_bookkeeping};

    #[test]
    fn a_table_is_recognized_by_its_columns_too() {
        let columns = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(is_bookkeeping("schema_migrations", &columns(&["version", "dirty"])));
        assert!(!is_bookkeeping("schema_migrations", &columns(&["version", "author", "text"])));
        assert!(!is_bookkeeping("notes", &columns(&["version"])));
        assert!(is_bookkeeping("schema_migrations_retired", &columns(&["version"])));
        assert!(!is_bookkeeping("notes_retired", &columns(&["version"])));
        let tool = |names: &[&str]| Tool::of_table("schema_migrations", &columns(names));
        assert_eq!(tool(&["version"]), Some(Tool::Dbmate));
        assert_eq!(tool(&["version", "dirty"]), Some(Tool::GolangMigrate));
        assert_eq!(tool(&["version", "inserted_at"]), None);
        assert_eq!(tool(&["version", "author"]), None);
        assert_eq!(Tool::of_table("schema_migrations_retired", &columns(&["version"])), None);
        for (table, tool_columns, application_columns) in [
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
            assert!(is_bookkeeping(table, &columns(tool_columns)), "{table}");
            assert!(!is_bookkeeping(table, &columns(application_columns)), "{table}");
        }
    }
}
