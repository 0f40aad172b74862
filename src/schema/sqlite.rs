//! SQLite's `sqlite_schema` as a canonical schema.
//!
//! It must work on the stored texts alone: no database is asked, so equal texts need to be understood only once.

use std::collections::{BTreeMap, HashMap};

use super::expression::{bracket_length, expression, name, split_commas};
use super::table::{self, Table, indexed_column};
use super::{FacetKind, Facets, ObjectKind, Objects, Schema, bookkeeping};
use crate::sql::statement::deletes_or_replaces;
use crate::sql::{Dialect, Token, tokens};

/// One row of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The table it belongs to.
    pub table: String,
    /// Its text; SQLite has none for an index that a constraint made.
    pub sql: Option<String>,
}

/// The tables that SQLite's own virtual tables keep their data in, by the ends of their names.
const SHADOWS: [&str; 13] = [
    "_content",
    "_data",
    "_idx",
    "_docsize",
    "_config",
    "_segments",
    "_segdir",
    "_stat",
    "_node",
    "_rowid",
    "_parent",
    "_instance",
    "_row",
];

/// The canonical schema of these rows, without the tables of SQLite and of migration tools.
#[must_use]
pub fn schema(rows: &[Row]) -> Schema {
    let virtual_tables: Vec<_> =
        rows.iter().filter(|row| is_virtual(row)).map(|row| row.name.to_lowercase()).collect();
    let mut tables = BTreeMap::new();
    let mut objects = Objects::new();
    let mut columns: HashMap<String, Vec<String>> = HashMap::new();
    for row in rows.iter().filter(|row| row.kind == "table" && !is_internal(row, &virtual_tables)) {
        if let Some(table) = parsed(row) {
            columns.insert(row.name.to_lowercase(), table.columns.clone());
            tables.insert(row.name.to_lowercase(), table);
        } else {
            let kind = if is_virtual(row) { ObjectKind::VirtualTable } else { ObjectKind::Table };
            objects.insert((kind, row.name.to_lowercase()), definition(row));
        }
    }
    let is_books = |name: &String, table: &Table| bookkeeping::is_bookkeeping(name, &table.columns);
    let books: Vec<String> =
        tables.iter().filter(|(name, table)| is_books(name, table)).map(|(name, _)| name.clone()).collect();
    objects.extend(resolve(tables).into_iter().filter(|((_, name), _)| !books.contains(name)));
    let is_mine = |row: &&Row| row.kind != "table" && !books.contains(&row.table.to_lowercase());
    for row in rows.iter().filter(is_mine) {
        let (kind, facets) = match row.kind.as_str() {
            // Without a text it belongs to a constraint, which is a facet of its table.
            "index" if row.sql.is_none() => continue,
            "index" => {
                (ObjectKind::Index, index(row, columns.get(&row.table.to_lowercase()).map(Vec::as_slice)))
            }
            "view" => (ObjectKind::View, definition(row)),
            _ => (ObjectKind::Trigger, definition(row)),
        };
        objects.insert((kind, row.name.to_lowercase()), facets);
    }
    let arms =
        |row: &Row| matches!(row.kind.as_str(), "trigger" | "table") && deletes_or_replaces(&row_tokens(row));
    Schema::new(objects, rows.iter().any(arms))
}

fn resolve(tables: BTreeMap<String, Table>) -> Objects {
    let keys: HashMap<String, Vec<String>> =
        tables.iter().map(|(name, table)| (name.clone(), table.primary_key.clone())).collect();
    let mut objects = Objects::new();
    for (name, mut table) in tables {
        for key in &table.foreign_keys {
            let parent_key = keys.get(&key.parent).filter(|key| !key.is_empty()).map(Vec::as_slice);
            let (facet, value) = key.facet(parent_key);
            table.facets.insert(facet, value);
        }
        objects.insert((ObjectKind::Table, name), table.facets);
    }
    objects
}

fn row_tokens(row: &Row) -> Vec<Token<'_>> {
    row.sql.as_deref().and_then(|sql| tokens(sql, Dialect::Sqlite).ok()).unwrap_or_default()
}

fn is_virtual(row: &Row) -> bool {
    row_tokens(row).get(1).is_some_and(|token| token.is("VIRTUAL"))
}

fn is_internal(row: &Row, virtual_tables: &[String]) -> bool {
    let name = row.name.to_lowercase();
    let is_shadow =
        |owner: &String| name.strip_prefix(owner.as_str()).is_some_and(|rest| SHADOWS.contains(&rest));
    name.starts_with("sqlite_") || virtual_tables.iter().any(is_shadow)
}

fn parsed(row: &Row) -> Option<Table> {
    let tokens = row_tokens(row);
    let open = tokens.iter().position(|token| token.is_symbol("("))?;
    if is_virtual(row) { None } else { table::parse(&tokens[open..]) }
}

/// The tokens after the object's name, which may have its schema's name before it.
fn body<'a, 'b>(tokens: &'a [Token<'b>], row: &Row) -> &'a [Token<'b>] {
    let is_name = |token: &Token<'_>| token.name().is_some_and(|name| name.eq_ignore_ascii_case(&row.name));
    match tokens.iter().skip(2).position(is_name) {
        Some(index) => &tokens[index + 3..],
        None => tokens,
    }
}

/// An object that is compared as a whole: its text after its name, in canonical spelling.
fn definition(row: &Row) -> Facets {
    let tokens = row_tokens(row);
    Facets::from([((FacetKind::Definition, String::new()), expression(body(&tokens, row), None))])
}

fn index(row: &Row, columns: Option<&[String]>) -> Facets {
    let tokens = row_tokens(row);
    let after_name = body(&tokens, row);
    let facets = after_name.iter().position(|token| token.is_symbol("(")).and_then(|open| {
        let table = name(after_name.get(1)?);
        let length = bracket_length(&after_name[open..])?;
        let inside = &after_name[open + 1..open + length - 1];
        let keys: Vec<_> = split_commas(inside).into_iter().map(|key| indexed_column(key, columns)).collect();
        let unique = if tokens.get(1)?.is("UNIQUE") { "UNIQUE " } else { "" };
        let filter = match after_name.get(open + length + 1..) {
            Some(filter) if !filter.is_empty() => format!(" WHERE {}", expression(filter, columns)),
            _ => String::new(),
        };
        let text = format!("{unique}on {table}({}){filter}", keys.join(", "));
        Some(Facets::from([((FacetKind::Definition, String::new()), text)]))
    });
    facets.unwrap_or_else(|| definition(row))
}
