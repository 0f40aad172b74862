//! Builds a canonical schema from SQLite's `sqlite_schema`.
//!
//! Works on the stored texts alone, without a connection, so equal texts need to be parsed only once.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::expression::{bracket_length, canonical_name, expression, name, split_commas};
use super::ignore::IgnoreList;
use super::table::{self, Table, indexed_column};
use super::{FacetKind, Facets, ObjectKind, Objects, Schema, bookkeeping, take_ignored};
use crate::sql::effect::deletes_or_replaces;
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
    /// The object's definition. `None` for an index that a constraint created.
    pub sql: Option<String>,
}

/// Returns the name suffixes of the shadow tables of a virtual table module that is part of SQLite.
fn shadows(module: &str) -> &'static [&'static str] {
    match module {
        "fts3" | "fts4" => &["_content", "_segments", "_segdir", "_docsize", "_stat"],
        "fts5" => &["_data", "_idx", "_content", "_docsize", "_config"],
        "rtree" | "rtree_i32" | "geopoly" => &["_node", "_rowid", "_parent"],
        _ => &[],
    }
}

/// Builds the canonical schema from these rows, without the tables of SQLite and of migration tools, and without what
/// `ignore` names.
#[must_use]
pub fn schema<R: Borrow<Row>>(rows: &[R], ignore: &IgnoreList) -> Schema {
    let rows: Vec<&Row> = rows.iter().map(Borrow::borrow).collect();
    let shadows: HashSet<String> = rows.iter().copied().flat_map(shadow_tables).collect();
    let mut tables = BTreeMap::new();
    let mut objects = Objects::new();
    let mut columns: HashMap<String, Vec<String>> = HashMap::new();
    for row in rows.iter().copied().filter(|row| row.kind == "table" && !is_internal(row, &shadows)) {
        if let Some(table) = parse_table(row) {
            columns.insert(row.name.to_ascii_lowercase(), table.columns.clone());
            tables.insert(row.name.to_ascii_lowercase(), table);
        } else {
            let kind = if is_virtual(row) { ObjectKind::VirtualTable } else { ObjectKind::Table };
            objects.insert((kind, row.name.to_ascii_lowercase()), definition(row));
        }
    }
    let is_bookkeeping = |name: &String, table: &Table| bookkeeping::is_bookkeeping(name, &table.columns);
    let bookkeeping_tables: Vec<String> = tables
        .iter()
        .filter(|(name, table)| is_bookkeeping(name, table))
        .map(|(name, _)| name.clone())
        .collect();
    let other_ledgers: Vec<(String, Vec<String>)> =
        bookkeeping_tables.iter().map(|name| (name.clone(), tables[name].columns.clone())).collect();
    objects.extend(resolve(tables).into_iter().filter(|((_, name), _)| !bookkeeping_tables.contains(name)));
    // In a view or a trigger, a double-quoted word that names nothing is a string.
    let names = rows.iter().map(|row| canonical_name(&row.name));
    let known_names: Vec<String> =
        columns.values().flatten().cloned().chain(names).chain(PSEUDO_TABLES.map(String::from)).collect();
    // A trigger on a ledger is part of the schema, because it acts on the project.
    let belongs_to_bookkeeping =
        |row: &Row| row.kind != "trigger" && bookkeeping_tables.contains(&row.table.to_ascii_lowercase());
    let is_included = |row: &&Row| row.kind != "table" && !belongs_to_bookkeeping(row);
    let mut ignored = take_ignored(&mut objects, ignore);
    for row in rows.iter().copied().filter(is_included) {
        let (kind, facets) = match row.kind.as_str() {
            // An index without a definition belongs to a constraint, which is a facet of the table.
            "index" if row.sql.is_none() => continue,
            "index" => (
                ObjectKind::Index,
                index(row, columns.get(&row.table.to_ascii_lowercase()).map(Vec::as_slice)),
            ),
            "view" => (ObjectKind::View, definition_with_names(row, Some(&known_names))),
            _ => (ObjectKind::Trigger, definition_with_names(row, Some(&known_names))),
        };
        let name = row.name.to_ascii_lowercase();
        let is_ignored = ignore.matches(kind, &name) || ignore.matches(ObjectKind::Table, &row.table);
        if is_ignored { &mut ignored } else { &mut objects }.insert((kind, name), facets);
    }
    let may_delete =
        |row: &Row| matches!(row.kind.as_str(), "trigger" | "table") && deletes_or_replaces(&row_tokens(row));
    Schema::new(objects, ignored, rows.iter().copied().any(may_delete))
        .with_other_ledgers(other_ledgers.iter().map(|(name, columns)| (name.as_str(), columns.as_slice())))
}

/// Returns the objects of the tables. Foreign keys without parent columns get the parent's primary key.
fn resolve(tables: BTreeMap<String, Table>) -> Objects {
    let keys: HashMap<String, Vec<String>> =
        tables.iter().map(|(name, table)| (name.clone(), table.primary_key.clone())).collect();
    let mut objects = Objects::new();
    for (name, mut table) in tables {
        for key in &table.foreign_keys {
            let parent_key = keys.get(&key.parent).filter(|key| !key.is_empty()).map(Vec::as_slice);
            let (facet, actions) = key.facet(parent_key);
            let value = table.facets.entry(facet).or_default();
            // If the same key exists twice, both act.
            let separator = if value.is_empty() || actions.is_empty() { "" } else { " and " };
            *value = format!("{value}{separator}{actions}");
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

/// Returns the names of a virtual table's shadow tables.
fn shadow_tables(row: &Row) -> Vec<String> {
    let tokens = row_tokens(row);
    let using = tokens.iter().position(|token| token.is("USING"));
    match using.and_then(|index| tokens.get(index + 1)) {
        Some(module) if is_virtual(row) => {
            let owner = row.name.to_ascii_lowercase();
            shadows(&name(module)).iter().map(|suffix| format!("{owner}{suffix}")).collect()
        }
        _ => Vec::new(),
    }
}

fn is_internal(row: &Row, shadows: &HashSet<String>) -> bool {
    let name = row.name.to_ascii_lowercase();
    name.starts_with("sqlite_") || shadows.contains(&name)
}

fn parse_table(row: &Row) -> Option<Table> {
    let tokens = row_tokens(row);
    let open = tokens.iter().position(|token| token.is_symbol("("))?;
    if is_virtual(row) { None } else { table::parse(&tokens[open..]) }
}

/// Returns the tokens after the object's name, which may be qualified by the schema's name.
fn body<'a, 'b>(tokens: &'a [Token<'b>], row: &Row) -> &'a [Token<'b>] {
    let is_name = |token: &Token<'_>| token.name().is_some_and(|name| name.eq_ignore_ascii_case(&row.name));
    match tokens.iter().skip(2).position(is_name) {
        Some(index) => &tokens[index + 3..],
        None => tokens,
    }
}

/// The names of the old and the new row in a trigger.
const PSEUDO_TABLES: [&str; 2] = ["old", "new"];

/// Returns the whole definition of an object as one facet: its text after its name, in canonical spelling.
fn definition(row: &Row) -> Facets {
    definition_with_names(row, None)
}

/// The same, with the names that tell a double-quoted name from a string.
fn definition_with_names(row: &Row, names: Option<&[String]>) -> Facets {
    let tokens = row_tokens(row);
    let body = body(&tokens, row);
    // `FOR EACH ROW` is optional, because SQLite has no other kind of trigger.
    let each_row = body.windows(3).position(|it| it[0].is("FOR") && it[1].is("EACH") && it[2].is("ROW"));
    let text = match each_row {
        Some(index) if row.kind == "trigger" => {
            expression(&[&body[..index], &body[index + 3..]].concat(), names)
        }
        _ => expression(body, names),
    };
    Facets::from([((FacetKind::Definition, String::new()), text)])
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
