//! The rows that a schema is created with: where they are read from, and where their statements stand.

use super::create_table::CreateTable;
#[cfg(feature = "postgres")]
use super::postgres_statement::one;
use super::sqlite::{is_generated, object};
use crate::schema::ObjectKind;
use crate::sql::Dialect;

/// A table whose rows are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowSource {
    /// The name without quotes.
    pub(crate) table: String,
    /// The columns that can be inserted, for use in statements.
    pub(crate) columns: Vec<String>,
    /// What stands behind the columns, so that values of identities are accepted.
    pub(crate) overriding: &'static str,
}

/// The tables of a schema, in the order in which they are created.
pub(crate) fn row_sources(dialect: Dialect, statements: &[String]) -> Vec<RowSource> {
    let source = |sql: &String| {
        let table = CreateTable::parse(sql, dialect)?;
        match dialect {
            Dialect::Sqlite => {
                let object = object(sql).filter(|it| it.kind == ObjectKind::Table)?;
                let columns = table.columns.iter().filter(|it| !is_generated(it));
                let columns = columns.map(|it| it.name.clone()).collect();
                Some(RowSource { table: object.name, columns, overriding: "" })
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                let statement = one(sql).table_name()?;
                let columns = table.columns.iter().filter(|it| !it.sql.contains(" GENERATED ALWAYS AS ("));
                let columns = columns.map(|it| it.name.clone()).collect();
                let is_identity = |it: &String| one(it).is_identity_of(&statement);
                let overriding =
                    if statements.iter().any(is_identity) { " OVERRIDING SYSTEM VALUE" } else { "" };
                Some(RowSource { table: statement, columns, overriding })
            }
            #[cfg(not(feature = "postgres"))]
            Dialect::Postgres => None,
        }
    };
    statements.iter().filter_map(source).collect()
}

/// Puts the statements that insert rows behind those that create tables, and before indexes, constraints and triggers.
pub(crate) fn with_rows(dialect: Dialect, statements: &[String], rows: &[String]) -> Vec<String> {
    let comes_after = |sql: &String| match dialect {
        Dialect::Sqlite => object(sql)
            .is_some_and(|it| matches!(it.kind, ObjectKind::Index | ObjectKind::View | ObjectKind::Trigger)),
        #[cfg(feature = "postgres")]
        Dialect::Postgres => one(sql).comes_after_rows(),
        #[cfg(not(feature = "postgres"))]
        Dialect::Postgres => false,
    };
    let at = statements.iter().position(comes_after).unwrap_or(statements.len());
    let mut all = statements.to_vec();
    all.splice(at..at, rows.iter().cloned());
    all
}
