//! Turns one SQLite schema into another: with `ALTER TABLE` where that is enough, otherwise by rebuilding the table.

use std::collections::BTreeSet;

use super::super::table;
use super::create_table::{Column, CreateTable, spelled};
use super::{Alteration, Definitions, Purpose, is_same, names};
use crate::schema::{FacetKind, Facets, ObjectKind};
use crate::sql::{Dialect, Token, quote_name, tokens};

/// A statement that creates an object.
pub(super) struct Object {
    pub(super) kind: ObjectKind,
    /// The name in lower case and without quotes.
    pub(super) name: String,
    /// The name for use in statements.
    pub(super) spelled: String,
    /// The table of an index or trigger, in lower case.
    table: String,
    pub(super) sql: String,
    /// The names in it, in lower case.
    names: BTreeSet<String>,
}

impl Object {
    pub(super) fn key(&self) -> (ObjectKind, String) {
        (self.kind, self.name.clone())
    }

    pub(super) fn label(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

pub(super) fn alter(from: &Definitions, to: &Definitions) -> Alteration {
    let (before, after) = (objects(from), objects(to));
    let find = |objects: &'_ [Object], kind: ObjectKind, name: &str| {
        objects.iter().position(|it| it.kind == kind && it.name == name)
    };
    let is_unchanged = |it: &Object| {
        let exists = find(&before, it.kind, &it.name).is_some() && find(&after, it.kind, &it.name).is_some();
        exists && is_same(from, to, it.kind, &it.name)
    };
    let mut alteration = Alteration::default();
    let mut changes = Vec::new();
    // What is recreated since a table that it uses changes.
    let (mut touched, mut rebuilt) = (BTreeSet::new(), BTreeSet::new());
    for old in before.iter().filter(|it| it.kind == ObjectKind::Table && !is_unchanged(it)) {
        let Some(new) = find(&after, ObjectKind::Table, &old.name) else {
            touched.insert(old.name.clone());
            changes.push(vec![format!("DROP TABLE {}", old.spelled)]);
            continue;
        };
        let kept = before.iter().filter(|it| it.kind == ObjectKind::Index && it.table == old.name);
        let kept_indexes: Vec<&Object> = kept.filter(|it| is_unchanged(it)).collect();
        match change_table(old, &after[new], &kept_indexes, &free_name(&old.name, &before, &after)) {
            Ok(change) => {
                if change.is_rebuilt || change.drops_column {
                    touched.insert(old.name.clone());
                }
                if change.is_rebuilt {
                    rebuilt.insert(old.name.clone());
                }
                changes.push(change.statements);
            }
            Err(reason) => alteration.refused.push(reason),
        }
    }
    for old in before.iter().filter(|it| it.kind == ObjectKind::VirtualTable && !is_unchanged(it)) {
        touched.insert(old.name.clone());
        match find(&after, ObjectKind::VirtualTable, &old.name) {
            None => changes.push(vec![format!("DROP TABLE {}", old.spelled)]),
            Some(_) => alteration
                .refused
                .push(format!("virtual table {}: to change it, it has to be filled again", old.spelled)),
        }
    }
    let is_rebuilt = |table: &str| rebuilt.contains(table);
    let is_dropped = |table: &str| touched.contains(table) && !after.iter().any(|it| it.name == table);
    let recreated = recreated_code(&before, &touched, &is_unchanged);
    let is_code = |it: &&Object| matches!(it.kind, ObjectKind::View | ObjectKind::Trigger);
    let goes = |it: &&Object| !is_unchanged(it) || recreated.contains(&(it.kind, it.name.clone()));
    let mut push = |sql: String| alteration.push(Purpose::Main, sql);
    // Triggers are on tables and on views, so they go first.
    for kind in [ObjectKind::Trigger, ObjectKind::View] {
        for it in before.iter().filter(is_code).filter(|it| it.kind == kind).filter(goes) {
            push(format!(
                "DROP {} {}",
                if kind == ObjectKind::View { "VIEW" } else { "TRIGGER" },
                it.spelled
            ));
        }
    }
    for it in before.iter().filter(|it| it.kind == ObjectKind::Index && !is_unchanged(it)) {
        // With the table, its indexes go.
        if !is_rebuilt(&it.table) && !is_dropped(&it.table) {
            push(format!("DROP INDEX {}", it.spelled));
        }
    }
    changes.into_iter().flatten().for_each(&mut push);
    for it in &after {
        let is_new = find(&before, it.kind, &it.name).is_none();
        let is_created = match it.kind {
            ObjectKind::Table | ObjectKind::VirtualTable => is_new,
            ObjectKind::Index => !is_unchanged(it) || is_rebuilt(&it.table),
            _ => false,
        };
        if is_created {
            push(it.sql.clone());
        }
    }
    for kind in [ObjectKind::View, ObjectKind::Trigger] {
        for it in after.iter().filter(|it| it.kind == kind).filter(goes) {
            push(it.sql.clone());
        }
    }
    alteration
}

/// The views and triggers that have to be dropped and created again, since they use a table that changes, or a view that does.
fn recreated_code(
    before: &[Object],
    touched: &BTreeSet<String>,
    is_unchanged: &dyn Fn(&Object) -> bool,
) -> BTreeSet<(ObjectKind, String)> {
    let code: Vec<&Object> =
        before.iter().filter(|it| matches!(it.kind, ObjectKind::View | ObjectKind::Trigger)).collect();
    let mut names = touched.clone();
    names.extend(code.iter().filter(|it| !is_unchanged(it)).map(|it| it.name.clone()));
    let mut recreated = BTreeSet::new();
    loop {
        let found: Vec<&&Object> = code
            .iter()
            .filter(|it| !recreated.contains(&(it.kind, it.name.clone())) && !it.names.is_disjoint(&names))
            .collect();
        if found.is_empty() {
            return recreated;
        }
        for it in found {
            recreated.insert((it.kind, it.name.clone()));
            names.extend((it.kind == ObjectKind::View).then(|| it.name.clone()));
        }
    }
}

/// The statements that change one table.
struct TableAlteration {
    statements: Vec<String>,
    is_rebuilt: bool,
    drops_column: bool,
}

/// A name for a table while it is rebuilt, which no object has.
fn free_name(table: &str, before: &[Object], after: &[Object]) -> String {
    let mut name = format!("new_{table}");
    while before.iter().chain(after).any(|it| it.name == name) {
        name.insert_str(0, "new_");
    }
    quote_name(&name)
}

/// Changes a table. `kept_indexes` stay as they are; `temporary` is its name while it is rebuilt. Fails with the reason if
/// rows could not be kept.
fn change_table(
    old: &Object,
    new: &Object,
    kept_indexes: &[&Object],
    temporary: &str,
) -> Result<TableAlteration, String> {
    let unreadable = || format!("table {}: its definition cannot be parsed", old.spelled);
    let before = CreateTable::parse(&old.sql, Dialect::Sqlite).ok_or_else(unreadable)?;
    let after = CreateTable::parse(&new.sql, Dialect::Sqlite).ok_or_else(unreadable)?;
    let added: Vec<&Column> = after.columns.iter().filter(|it| before.column(&it.key).is_none()).collect();
    let dropped: Vec<&Column> = before.columns.iter().filter(|it| after.column(&it.key).is_none()).collect();
    if let Some(column) = added.iter().find(|column| needs_value(column)) {
        return Err(format!(
            "column {} of {}: it is NOT NULL and has no default, so existing rows have no value for it",
            column.name, old.spelled
        ));
    }
    let mut altered = before.clone();
    altered.columns.retain(|column| after.column(&column.key).is_some());
    altered.columns.extend(added.iter().map(|column| (*column).clone()));
    let can_alter = added.iter().all(|column| can_be_added(column))
        && dropped.iter().all(|column| can_be_dropped(column, &altered, kept_indexes))
        && means_the_same(&altered, &after);
    if can_alter {
        let table = &old.spelled;
        let drop = |column: &&Column| format!("ALTER TABLE {table} DROP COLUMN {}", column.name);
        let add = |column: &&Column| format!("ALTER TABLE {table} ADD COLUMN {}", column.sql);
        let statements = dropped.iter().map(drop).chain(added.iter().map(add)).collect();
        return Ok(TableAlteration { statements, is_rebuilt: false, drops_column: !dropped.is_empty() });
    }
    let kept: Vec<&str> = after
        .columns
        .iter()
        .filter(|column| before.column(&column.key).is_some() && !is_generated(column))
        .map(|column| column.name.as_str())
        .collect();
    let kept: Vec<&str> = hidden_row_id(&before, &after).into_iter().chain(kept).collect();
    let kept = kept.join(", ");
    let mut statements = vec![after.sql_as(temporary)];
    if !kept.is_empty() {
        statements.push(format!("INSERT INTO {temporary} ({kept})\nSELECT {kept} FROM {}", old.spelled));
    }
    statements.push(format!("DROP TABLE {}", old.spelled));
    statements.push(format!("ALTER TABLE {temporary} RENAME TO {}", old.spelled));
    Ok(TableAlteration { statements, is_rebuilt: true, drops_column: false })
}

/// The name by which the row ids of a table can be copied, if no column has them. Others may have stored them, such as an index
/// for full-text search.
fn hidden_row_id(before: &CreateTable, after: &CreateTable) -> Option<&'static str> {
    const NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];
    let has_none = |table: &CreateTable| table.options.to_ascii_uppercase().contains("WITHOUT ROWID");
    let is_key = |column: &Column| has(&words(column), &["INTEGER", "PRIMARY", "KEY"]);
    let of_table = |table: &CreateTable| {
        let is_integer = |name: &str| table.column(name).is_some_and(|column| data_type(column) == "INTEGER");
        // A key of one column that is written at the table.
        let keys = table.constraints.iter().map(|sql| names(sql, Dialect::Sqlite));
        keys.filter(|words| words.contains("primary")).any(|words| {
            let mut columns = table.columns.iter().filter(|column| words.contains(&column.key));
            matches!((columns.next(), columns.next()), (Some(only), None) if is_integer(&only.key))
        })
    };
    let has_key = [before, after].iter().any(|table| table.columns.iter().any(is_key) || of_table(table));
    if has_none(before) || has_none(after) || has_key {
        return None;
    }
    NAMES.into_iter().find(|name| before.column(name).is_none() && after.column(name).is_none())
}

/// The words of a column's definition that are outside parentheses.
fn words(column: &Column) -> Vec<String> {
    let mut depth = 0_i32;
    let outside = |token: &Token<'_>| {
        let was_outside = depth == 0;
        depth += i32::from(token.is_symbol("(")) - i32::from(token.is_symbol(")"));
        was_outside.then(|| token.text.to_ascii_uppercase())
    };
    tokens(&column.sql, Dialect::Sqlite).unwrap_or_default().iter().skip(1).filter_map(outside).collect()
}

fn has(words: &[String], wanted: &[&str]) -> bool {
    words.windows(wanted.len()).any(|found| found.iter().zip(wanted).all(|(found, wanted)| found == wanted))
}

/// What stands behind DEFAULT, and whether it is NULL or missing.
fn default(words: &[String]) -> Option<&str> {
    let at = words.iter().position(|word| word == "DEFAULT")?;
    words.get(at + 1).map(String::as_str).filter(|value| *value != "NULL")
}

/// The type of a column without its size, which changes no value.
pub(super) fn data_type(column: &Column) -> String {
    let words = words(column);
    words.into_iter().take_while(|word| !table::ENDS.contains(&word.as_str())).collect::<Vec<_>>().join(" ")
}

pub(super) fn is_generated(column: &Column) -> bool {
    let words = words(column);
    has(&words, &["AS", "("])
}

/// Whether rows that exist would have no value for a new column.
pub(super) fn needs_value(column: &Column) -> bool {
    let words = words(column);
    let is_row_id = has(&words, &["INTEGER", "PRIMARY", "KEY"]);
    let is_required = has(&words, &["NOT", "NULL"]) || has(&words, &["PRIMARY", "KEY"]);
    is_required && !is_row_id && default(&words).is_none() && !is_generated(column)
}

/// Whether `ALTER TABLE ADD COLUMN` accepts a column, whatever rows there are.
fn can_be_added(column: &Column) -> bool {
    let words = words(column);
    let is_constant = |value: &str| value != "(" && !value.starts_with("CURRENT_");
    let refused: [&[&str]; 3] = [&["PRIMARY", "KEY"], &["UNIQUE"], &["STORED"]];
    if refused.iter().any(|words_of_it| has(&words, words_of_it)) {
        return false;
    }
    match default(&words) {
        Some(value) => is_constant(value) && !has(&words, &["REFERENCES"]),
        None => true,
    }
}

/// Whether `ALTER TABLE DROP COLUMN` accepts a column.
fn can_be_dropped(column: &Column, remaining: &CreateTable, kept_indexes: &[&Object]) -> bool {
    let words = words(column);
    let is_used = |sql: &str| names(sql, Dialect::Sqlite).contains(&column.key);
    let mut items = remaining.columns.iter().map(|it| &it.sql).chain(&remaining.constraints);
    !["PRIMARY", "UNIQUE", "REFERENCES"].iter().any(|word| has(&words, &[word]))
        && !items.any(|item| is_used(item))
        && !kept_indexes.iter().any(|index| index.names.contains(&column.key))
}

/// Whether two definitions mean the same, regardless of the order of their columns.
fn means_the_same(one: &CreateTable, other: &CreateTable) -> bool {
    let facets = |table: &CreateTable| -> Option<Facets> {
        let sql = table.sql_as("t");
        let tokens = tokens(&sql, Dialect::Sqlite).ok()?;
        let open = tokens.iter().position(|token| token.is_symbol("("))?;
        let parsed = table::parse(&tokens[open..])?;
        let mut facets = parsed.facets;
        facets.retain(|(kind, _), _| *kind != FacetKind::ColumnOrder);
        facets.extend(parsed.foreign_keys.iter().map(|key| key.facet(None)));
        Some(facets)
    };
    let (one, other) = (facets(one), facets(other));
    one.is_some() && one == other
}

/// The objects of a schema.
fn objects(definitions: &Definitions) -> Vec<Object> {
    definitions.statements.iter().filter_map(|sql| object(sql)).collect()
}

/// The statements of what is compared.
pub(super) fn compared(definitions: &Definitions) -> Vec<String> {
    let is_compared = |it: &Object| definitions.schema.objects.contains_key(&it.key());
    objects(definitions).into_iter().filter(is_compared).map(|it| it.sql).collect()
}

/// Reads a statement. `None` if it creates no object.
pub(super) fn object(sql: &str) -> Option<Object> {
    let found = tokens(sql, Dialect::Sqlite).ok()?;
    let kinds = [
        ("TABLE", ObjectKind::Table),
        ("INDEX", ObjectKind::Index),
        ("VIEW", ObjectKind::View),
        ("TRIGGER", ObjectKind::Trigger),
    ];
    let kind_of = |token: &Token<'_>| kinds.iter().find(|(word, _)| token.is(word)).map(|(_, kind)| *kind);
    let at = found.iter().take(4).position(|token| kind_of(token).is_some())?;
    let is_virtual = found.iter().take(at).any(|token| token.is("VIRTUAL"));
    let kind = if is_virtual { ObjectKind::VirtualTable } else { kind_of(&found[at])? };
    let name = found.get(at + 1)?;
    let on = found.iter().position(|token| token.is("ON")).and_then(|at| found.get(at + 1)?.name());
    Some(Object {
        kind,
        name: name.name()?.to_ascii_lowercase(),
        spelled: spelled(name),
        table: on.unwrap_or_default().to_ascii_lowercase(),
        sql: sql.to_string(),
        names: names(sql, Dialect::Sqlite),
    })
}
