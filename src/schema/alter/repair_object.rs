//! What repairing one object needs and returns, and the reasons why something is left as it is.

use super::Definitions;
use super::create_table::{Column, CreateTable};
use crate::schema::ObjectKind;

/// What happens to indexes, views, triggers and constraints that no migration makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraCode {
    /// They stay.
    Keep,
    /// They are dropped.
    Drop,
}

/// A schema with one object repaired.
pub(super) struct Repaired {
    pub(super) object: String,
    pub(super) statements: Vec<String>,
    /// The object of the schema that is as expected now.
    pub(super) key: (ObjectKind, String),
}

/// What a repair works on.
pub(super) struct Surroundings<'a> {
    /// The schema before all repairs.
    pub(super) found: &'a Definitions,
    /// The schema after the repairs so far.
    pub(super) now: &'a Definitions,
    pub(super) expected: &'a Definitions,
    pub(super) extra: ExtraCode,
    /// What is left as it is, each with the reason.
    pub(super) refused: &'a mut Vec<String>,
}

/// The reason why something stays that no migration makes and that holds no rows.
pub(super) fn extra_code(object: &str) -> String {
    format!("{object} stays: no migration makes it; --drop-extra drops it")
}

/// The reason why something stays that no migration makes and that may hold rows.
pub(super) fn extra_rows(object: &str) -> String {
    format!("{object} stays: no migration makes it, and its data would be lost")
}

/// The reason why a column keeps its type.
fn other_type(column: &str, table: &str) -> String {
    format!("column {column} of {table} keeps its type: its values would be converted")
}

/// The reason why a column is not added.
fn no_value(column: &str, table: &str) -> String {
    format!(
        "column {column} of {table} is not added: it is NOT NULL and has no default, so rows have no value for it"
    )
}

/// Lets a wanted table keep what a repair does not change: additional columns, and columns with another type. A column that
/// rows have no value for is left out. Adds the reasons.
pub(super) fn keep_columns(
    before: &CreateTable,
    wanted: &mut CreateTable,
    needs_value: impl Fn(&Column) -> bool,
    data_type: impl Fn(&Column) -> String,
    refused: &mut Vec<String>,
) {
    let table = wanted.name.clone();
    wanted.columns.retain(|column| {
        let is_missing = before.column(&column.key).is_none() && needs_value(column);
        if is_missing {
            refused.push(no_value(&column.name, &table));
        }
        !is_missing
    });
    for column in &mut wanted.columns {
        match before.column(&column.key) {
            Some(old) if data_type(old) != data_type(column) => {
                refused.push(other_type(&column.name, &table));
                *column = old.clone();
            }
            _ => {}
        }
    }
    let is_extra = |column: &&Column| wanted.column(&column.key).is_none();
    let extra: Vec<Column> = before.columns.iter().filter(is_extra).cloned().collect();
    for column in extra {
        refused.push(extra_rows(&format!("column {} of {table}", column.name)));
        wanted.columns.push(column);
    }
}
