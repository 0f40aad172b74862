//! Repairs one object of a SQLite schema.

use super::create_table::CreateTable;
use super::is_same;
use super::repair_object::{ExtraCode, Repaired, Surroundings, extra_code, extra_rows, keep_columns};
use super::sqlite::{Object, data_type, needs_value, object};
use crate::schema::{FacetKind, Facets, ObjectKind};
use crate::sql::Dialect;

/// Makes an object as a migration makes it. `None` if it is so already, or stays different for a reason that is added.
pub(super) fn add(sql: &str, surroundings: Surroundings<'_>) -> Option<Repaired> {
    let Surroundings { found, now, expected, extra, refused } = surroundings;
    let wanted = object(sql)?;
    if is_same(found, expected, wanted.kind, &wanted.name) {
        return None;
    }
    let at = now.statements.iter().position(|it| object(it).is_some_and(|it| it.key() == wanted.key()));
    let mut statements = now.statements.clone();
    match (wanted.kind, at) {
        (ObjectKind::VirtualTable, Some(_)) => {
            refused.push(format!("virtual table {} stays: it would have to be filled again", wanted.name));
            return None;
        }
        (ObjectKind::Table, Some(at)) => {
            let facets = [now, expected].map(|it| it.schema.objects.get(&wanted.key()));
            let [Some(found), Some(facets)] = facets else { return None };
            if let Some(extra) = extra_constraint(found, facets).filter(|_| extra == ExtraCode::Keep) {
                refused.push(extra_code(&format!("table {}: {extra}", wanted.name)));
                return None;
            }
            statements[at] = merged_table(&now.statements[at], &wanted, refused)?;
        }
        (_, Some(at)) => statements[at] = sql.to_string(),
        (_, None) => statements.push(sql.to_string()),
    }
    Some(Repaired { object: wanted.label(), statements, key: wanted.key() })
}

/// Drops an object that no migration makes. `None` if one makes it, or if it stays for a reason that is added.
pub(super) fn remove(sql: &str, surroundings: Surroundings<'_>) -> Option<Repaired> {
    let Surroundings { now, expected, extra, refused, .. } = surroundings;
    let found = object(sql)?;
    if expected.schema.objects.contains_key(&found.key()) {
        return None;
    }
    let holds_rows = matches!(found.kind, ObjectKind::Table | ObjectKind::VirtualTable);
    if holds_rows || extra == ExtraCode::Keep {
        let label = found.label();
        refused.push(if holds_rows { extra_rows(&label) } else { extra_code(&label) });
        return None;
    }
    let statements = now.statements.iter().filter(|it| *it != sql).cloned().collect();
    Some(Repaired { object: found.label(), statements, key: found.key() })
}

/// A constraint that no migration makes.
fn extra_constraint(found: &Facets, expected: &Facets) -> Option<String> {
    let is_constraint =
        |kind: FacetKind| matches!(kind, FacetKind::Unique | FacetKind::Check | FacetKind::ForeignKey);
    let mut extra = found.keys().filter(|facet| is_constraint(facet.0) && !expected.contains_key(*facet));
    extra.next().map(|(kind, key)| format!("{kind} {key}"))
}

/// The expected definition of a table, but with the columns that stay as they are.
fn merged_table(found: &str, wanted: &Object, refused: &mut Vec<String>) -> Option<String> {
    let before = CreateTable::parse(found, Dialect::Sqlite)?;
    let mut merged = CreateTable::parse(&wanted.sql, Dialect::Sqlite)?;
    keep_columns(&before, &mut merged, needs_value, data_type, refused);
    Some(merged.sql_as(&merged.name))
}
