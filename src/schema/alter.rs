//! Writes the SQL that turns one schema into another.
//!
//! Works on the statements that create the two schemas, as the database itself writes them. Whoever uses the result runs it
//! on a private database first and compares the schema: what cannot be expressed shows there.

mod create_table;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_compare;
#[cfg(feature = "postgres")]
mod postgres_repair;
#[cfg(feature = "postgres")]
mod postgres_statement;
#[cfg(feature = "postgres")]
mod postgres_table;
mod repair;
mod repair_object;
mod rows;
mod sqlite;
mod sqlite_repair;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FacetKind, Facets, ObjectKind, Schema};
use crate::sql::{Dialect, Token, TokenKind, tokens};

pub(crate) use repair::{RepairStep, Repairs, repairs};
pub use repair_object::ExtraCode;
pub(crate) use rows::{RowSource, row_sources, with_rows};

/// A schema with the statements that create it, in an order in which they can run.
#[derive(Clone, Debug)]
pub(crate) struct Definitions {
    pub(crate) schema: Arc<Schema>,
    pub(crate) statements: Vec<String>,
}

impl Definitions {
    /// The statements of what is compared, so without what `[schema] ignore` names.
    fn compared(&self, dialect: Dialect) -> Self {
        let statements = match dialect {
            Dialect::Sqlite => sqlite::compared(self),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => postgres_statement::compared(self),
            #[cfg(not(feature = "postgres"))]
            Dialect::Postgres => Vec::new(),
        };
        Self { schema: Arc::clone(&self.schema), statements }
    }
}

/// How others may be kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// Everything in one transaction.
    OneTransaction,
    /// On Postgres, in several migrations, so that no application waits while a table is scanned or an index is built.
    Never,
}

/// The SQL that turns a schema into another one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alteration {
    /// The scripts, in order.
    pub(crate) parts: Vec<Part>,
    /// What has no SQL, each as a sentence.
    pub(crate) refused: Vec<String>,
}

/// One script of an alteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) purpose: Purpose,
    pub(crate) statements: Vec<String>,
}

/// Why a script is one by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "some exist only on Postgres"))]
pub(crate) enum Purpose {
    /// Adds values to enums, which can be used only after a commit.
    EnumValues,
    /// Everything that blocks others only for a moment.
    Main,
    /// Builds one index while others go on writing. Cannot run in a transaction.
    Index,
    /// Checks constraints on the rows that exist, while others go on writing.
    Validate,
}

impl Alteration {
    /// Adds a statement to the script with this purpose. Each index has a script of its own.
    fn push(&mut self, purpose: Purpose, sql: impl Into<String>) {
        let existing =
            self.parts.iter_mut().find(|part| part.purpose == purpose && purpose != Purpose::Index);
        match existing {
            Some(part) => part.statements.push(sql.into()),
            None => self.parts.push(Part { purpose, statements: vec![sql.into()] }),
        }
        self.parts.sort_by_key(|part| part.purpose);
    }

    /// All statements, in order.
    pub(crate) fn statements(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| &part.statements).map(String::as_str)
    }
}

/// Writes the SQL that turns one schema into another. Rows are kept, except those of tables and columns that the other schema
/// does not have. What is ignored in one of them is in neither.
pub(crate) fn alter(
    dialect: Dialect,
    from: &Definitions,
    to: &Definitions,
    blocking: Blocking,
) -> Alteration {
    let (from, to) = (&from.compared(dialect), &to.compared(dialect));
    match dialect {
        Dialect::Sqlite => sqlite::alter(from, to),
        #[cfg(feature = "postgres")]
        Dialect::Postgres => postgres::alter(from, to, blocking),
        #[cfg(not(feature = "postgres"))]
        Dialect::Postgres => {
            Alteration { refused: vec![format!("{blocking:?} needs Postgres")], ..Alteration::default() }
        }
    }
}

/// The facets of an object, without the order of its columns.
fn facets<'a>(
    schema: &'a Schema,
    kind: ObjectKind,
    name: &str,
) -> Option<Vec<(&'a (FacetKind, String), &'a String)>> {
    let facets: &Facets = schema.objects.get(&(kind, name.to_string()))?;
    Some(facets.iter().filter(|((facet, _), _)| *facet != FacetKind::ColumnOrder).collect())
}

/// Whether an object means the same in both schemas, regardless of the order of its columns. `false` if one of them does not
/// have it.
fn is_same(from: &Definitions, to: &Definitions, kind: ObjectKind, name: &str) -> bool {
    let (before, after) = (facets(&from.schema, kind, name), facets(&to.schema, kind, name));
    before.is_some() && before == after
}

/// The names in a statement, in lower case and without quotes.
fn names(sql: &str, dialect: Dialect) -> BTreeSet<String> {
    let is_name = |kind: TokenKind| matches!(kind, TokenKind::Word | TokenKind::Quoted);
    let tokens = tokens(sql, dialect).unwrap_or_default();
    let named = tokens.iter().filter(|token| is_name(token.kind));
    named.filter_map(Token::name).map(|name| name.to_lowercase()).collect()
}
