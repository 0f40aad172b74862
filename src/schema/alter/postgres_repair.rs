//! Repairs what one statement of a Postgres schema creates.

use super::create_table::{Column, CreateTable};
use super::is_same;
use super::postgres_compare::{added_values, is_same_constraint, split_constraints};
use super::postgres_statement::{Kind, Statement, one, statements};
use super::postgres_table::{full_type, needs_value};
use super::repair_object::{ExtraCode, Repaired, Surroundings, extra_code, extra_rows, keep_columns};
use crate::schema::ObjectKind;
use crate::sql::Dialect;

/// Makes what a migration makes. `None` if it is so already, or stays different for a reason that is added.
pub(super) fn add(sql: &str, surroundings: Surroundings<'_>) -> Option<Repaired> {
    let Surroundings { found, now, expected, extra, refused } = surroundings;
    let wanted = one(sql);
    let existing = statements(now);
    let at = existing.iter().position(|it| it.is(&wanted) || it.is_same_unnamed(&wanted));
    let mut repaired = now.statements.clone();
    if let Some(at) = at {
        let is_object = wanted.object().is_some_and(|(kind, name)| is_same(found, expected, kind, &name));
        if existing[at].sql == sql || is_object || is_same_constraint(found, expected, &wanted) {
            return None;
        }
        repaired[at] = match wanted.kind {
            Kind::Table => {
                let supplied = supplies(&wanted, now, &expected.statements);
                merged_table(&existing[at], &wanted, &supplied, extra, refused)?
            }
            Kind::Type if added_values(&existing[at], &wanted).is_some() => sql.to_string(),
            Kind::Type | Kind::Domain => {
                refused.push(format!("{} stays: values would be converted", wanted.label()));
                return None;
            }
            Kind::Setting => return None,
            _ => sql.to_string(),
        };
    } else {
        match wanted.kind {
            // The same constraint or index has another name.
            _ if is_same_constraint(found, expected, &wanted) => return None,
            Kind::Setting => return None,
            Kind::Extension => {
                refused.push(format!("extension {} is not created: CREATE EXTENSION does that", wanted.name));
                return None;
            }
            _ => repaired.push(sql.to_string()),
        }
    }
    if wanted.kind == Kind::Table {
        let supplied = supplies(&wanted, now, &expected.statements);
        repaired.extend(supplied.into_iter().map(|it| it.sql));
    }
    Some(Repaired { object: wanted.label(), statements: repaired, key: key(&wanted) })
}

/// Drops what no migration makes. `None` if one makes it, or if it stays for a reason that is added.
pub(super) fn remove(sql: &str, surroundings: Surroundings<'_>) -> Option<Repaired> {
    const CODE: [Kind; 12] = [
        Kind::Index,
        Kind::View,
        Kind::MaterializedView,
        Kind::Trigger,
        Kind::Rule,
        Kind::Policy,
        Kind::Function,
        Kind::Aggregate,
        Kind::Unique,
        Kind::Check,
        Kind::ForeignKey,
        Kind::Exclusion,
    ];
    let Surroundings { found: before, now, expected, extra, refused } = surroundings;
    let found = one(sql);
    let makes = |it: &Statement| it.is(&found) || it.is_same_unnamed(&found);
    let wanted = split_constraints(statements(expected));
    let has_table = |name: &str| wanted.iter().any(|it| it.kind == Kind::Table && it.name == name);
    // What belongs to a table that stays, stays with it.
    let is_of_extra_table = !found.table.is_empty() && !has_table(&found.table);
    let is_compared = match found.kind {
        Kind::Table => now.schema.objects.contains_key(&key(&found)),
        Kind::Sequence => now.schema.objects.contains_key(&(ObjectKind::Sequence, found.name.clone())),
        Kind::Type | Kind::Domain | Kind::TriggerState => true,
        kind => CODE.contains(&kind),
    };
    if wanted.iter().any(makes)
        || is_of_extra_table
        || !is_compared
        || is_same_constraint(before, expected, &found)
    {
        return None;
    }
    if found.kind == Kind::TriggerState {
        let statements = now.statements.iter().filter(|it| *it != sql).cloned().collect();
        return Some(Repaired { object: found.label(), statements, key: key(&found) });
    }
    if !CODE.contains(&found.kind) {
        refused.push(extra_rows(&found.label()));
        return None;
    }
    if extra == ExtraCode::Keep {
        refused.push(extra_code(&found.label()));
        return None;
    }
    let statements = now.statements.iter().filter(|it| *it != sql).cloned().collect();
    Some(Repaired { object: found.label(), statements, key: key(&found) })
}

/// The object of the schema that a statement is a part of.
fn key(statement: &Statement) -> (ObjectKind, String) {
    let of_table = if statement.table.is_empty() { &statement.name } else { &statement.table };
    statement.object().unwrap_or_else(|| (ObjectKind::Table, of_table.clone()))
}

/// The statements that give the new columns of a table their values: defaults, identities and sequences.
fn supplies(wanted: &Statement, now: &super::Definitions, expected: &[String]) -> Vec<Statement> {
    let is_new = |sql: &&String| !now.statements.contains(sql);
    let is_supply = |it: &Statement| {
        matches!(it.kind, Kind::Default | Kind::Identity | Kind::SequenceOwner) && it.table == wanted.name
    };
    let supplied: Vec<Statement> =
        expected.iter().filter(is_new).map(|sql| one(sql)).filter(is_supply).collect();
    let is_used = |it: &Statement| {
        it.kind == Kind::Sequence
            && supplied.iter().any(|owner| owner.kind == Kind::SequenceOwner && owner.name == it.name)
    };
    let sequences = expected.iter().filter(is_new).map(|sql| one(sql)).filter(is_used);
    sequences.chain(supplied.iter().cloned()).collect()
}

/// The expected definition of a table, but with the columns and constraints that stay as they are.
fn merged_table(
    found: &Statement,
    wanted: &Statement,
    supplied: &[Statement],
    extra: ExtraCode,
    refused: &mut Vec<String>,
) -> Option<String> {
    let table = &wanted.spelled;
    let before = CreateTable::parse(&found.sql, Dialect::Postgres)?;
    let mut merged = CreateTable::parse(&wanted.sql, Dialect::Postgres)?;
    let is_supplied = |column: &Column| supplied.iter().any(|it| it.name.to_lowercase() == column.key);
    let lacks_value = |column: &Column| needs_value(column) && !is_supplied(column);
    keep_columns(&before, &mut merged, lacks_value, full_type, refused);
    for constraint in &before.constraints {
        if !merged.constraints.contains(constraint) && extra == ExtraCode::Keep {
            refused.push(extra_code(&format!("table {table}: {constraint}")));
            merged.constraints.push(constraint.clone());
        }
    }
    Some(merged.sql_as(&merged.name))
}
