//! Compares two Postgres schemas statement by statement, and finds what has to be dropped and created again.

use std::collections::{BTreeMap, BTreeSet};

use super::create_table::CreateTable;
use super::postgres_statement::{Kind, Statement, one, statements};
use super::postgres_table::TableChange;
use super::{Definitions, facets, is_same};
use crate::schema::{FacetKind, ObjectKind};
use crate::sql::{Dialect, Token, TokenKind, tokens};

/// What becomes of a statement of the former schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// What it creates is dropped, and created again if the new schema has it.
    Goes,
    /// What it creates is changed in place.
    Changes,
}

/// What differs between two schemas.
pub(super) struct Comparison {
    pub(super) before: Vec<Statement>,
    pub(super) after: Vec<Statement>,
    /// What becomes of each statement of the former schema.
    pub(super) fates: Vec<Fate>,
    /// The changes of tables, by name.
    pub(super) tables: BTreeMap<String, TableChange>,
    /// The types, in lower case, that are created anew.
    pub(super) rebuilt_types: BTreeSet<String>,
    /// What cannot be changed, each as a sentence.
    pub(super) refused: Vec<String>,
}

impl Comparison {
    pub(super) fn new(from: &Definitions, to: &Definitions) -> Self {
        let (before, after) = (split_constraints(statements(from)), split_constraints(statements(to)));
        let mut comparison = Self {
            fates: vec![Fate::Stays; before.len()],
            before,
            after,
            tables: BTreeMap::new(),
            rebuilt_types: BTreeSet::new(),
            refused: Vec::new(),
        };
        comparison.find_changes(from, to);
        comparison.find_dependents();
        comparison
    }

    pub(super) fn counterpart(&self, old: &Statement) -> Option<&Statement> {
        let same = self.after.iter().find(|new| new.is(old));
        same.or_else(|| self.after.iter().find(|new| new.is_same_unnamed(old)))
    }

    /// The index of the former statement that a new one corresponds to.
    pub(super) fn former(&self, new: &Statement) -> Option<usize> {
        let same = self.before.iter().position(|old| old.is(new));
        same.or_else(|| self.before.iter().position(|old| old.is_same_unnamed(new)))
    }

    fn has_table(&self, name: &str) -> bool {
        self.after.iter().any(|it| it.kind == Kind::Table && it.name == name)
    }

    /// Whether a table is in both schemas.
    pub(super) fn is_kept(&self, table: &str) -> bool {
        self.has_table(table) && self.before.iter().any(|it| it.kind == Kind::Table && it.name == table)
    }

    /// Decides what becomes of each statement of the former schema, regardless of what uses it.
    fn find_changes(&mut self, from: &Definitions, to: &Definitions) {
        for index in 0..self.before.len() {
            let old = &self.before[index];
            let Some(new) = self.counterpart(old) else {
                self.fates[index] = Fate::Goes;
                continue;
            };
            let means_the_same = old.object().is_some_and(|(kind, name)| is_same(from, to, kind, &name));
            let is_equal = old.sql == new.sql
                || means_the_same
                || old.is_same_unnamed(new)
                || is_same_constraint(from, to, old);
            self.fates[index] = match old.kind {
                Kind::Table => {
                    if let Some(change) = TableChange::new(old, new) {
                        self.tables.insert(old.name.clone(), change);
                    } else if !is_equal {
                        self.refused.push(format!("table {}: its definition cannot be parsed", old.name));
                    }
                    Fate::Changes
                }
                _ if is_equal => Fate::Stays,
                Kind::Type if added_values(old, new).is_some() => Fate::Changes,
                Kind::Type | Kind::Domain => {
                    self.rebuilt_types.insert(old.name.to_lowercase());
                    Fate::Changes
                }
                Kind::Function if header(&old.sql) == header(&new.sql) => Fate::Changes,
                Kind::Sequence | Kind::SequenceOwner | Kind::Default | Kind::Setting => Fate::Changes,
                Kind::Extension => Fate::Stays,
                Kind::Other => {
                    self.refused.push(format!("{}: it cannot be changed", old.label()));
                    Fate::Stays
                }
                _ => Fate::Goes,
            };
        }
    }

    /// Lets everything go that uses what goes, until nothing more does.
    fn find_dependents(&mut self) {
        loop {
            let mut names = BTreeSet::new();
            names.extend(self.rebuilt_types.iter().cloned());
            let mut columns: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (old, fate) in self.before.iter().zip(&self.fates) {
                match (old.kind, fate) {
                    (Kind::Table | Kind::View | Kind::MaterializedView, Fate::Goes) => {
                        names.insert(old.name.to_lowercase());
                    }
                    (Kind::Function | Kind::Aggregate, Fate::Goes) => {
                        names.insert(old.name.split('(').next().unwrap_or_default().to_lowercase());
                    }
                    _ => {}
                }
            }
            for (table, change) in &self.tables {
                let blocking = change.blocking_columns(&self.rebuilt_types);
                if !blocking.is_empty() {
                    columns.insert(table.to_lowercase(), blocking);
                }
            }
            let mut found = false;
            for (old, fate) in self.before.iter().zip(&mut self.fates) {
                let can_go = match old.kind {
                    Kind::View
                    | Kind::MaterializedView
                    | Kind::Rule
                    | Kind::Policy
                    | Kind::Trigger
                    | Kind::TriggerState
                    | Kind::Statistics => true,
                    Kind::Check | Kind::Index | Kind::Exclusion | Kind::Function | Kind::Aggregate => {
                        !old.names.is_disjoint(&names)
                    }
                    _ => false,
                };
                if *fate == Fate::Goes || !can_go {
                    continue;
                }
                let uses_column = columns
                    .iter()
                    .any(|(table, columns)| old.names.contains(table) && !old.names.is_disjoint(columns));
                let is_of_view = old.kind == Kind::Index && names.contains(&old.table.to_lowercase());
                if !old.names.is_disjoint(&names) || uses_column || is_of_view {
                    *fate = Fate::Goes;
                    found = true;
                }
            }
            if !found {
                return;
            }
        }
    }
}

/// Whether both schemas have the same constraints of a kind on a table.
pub(super) fn is_same_constraint(from: &Definitions, to: &Definitions, old: &Statement) -> bool {
    let facet = match old.kind {
        Kind::PrimaryKey => FacetKind::PrimaryKey,
        Kind::Unique => FacetKind::Unique,
        Kind::Check => FacetKind::Check,
        Kind::ForeignKey => FacetKind::ForeignKey,
        Kind::Exclusion => FacetKind::Exclusion,
        _ => return false,
    };
    let of = |definitions: &Definitions| -> Option<Vec<_>> {
        let all = facets(&definitions.schema, ObjectKind::Table, &old.table)?;
        let wanted = all.into_iter().filter(|((kind, _), _)| *kind == facet);
        Some(wanted.map(|(facet, value)| (facet.clone(), value.clone())).collect())
    };
    of(from).is_some_and(|before| Some(before) == of(to))
}

/// Makes statements of the constraints that stand in a table's definition, so that all are compared alike.
pub(super) fn split_constraints(statements: Vec<Statement>) -> Vec<Statement> {
    let mut found = Vec::with_capacity(statements.len());
    let mut inline = Vec::new();
    for statement in statements {
        let parsed = (statement.kind == Kind::Table)
            .then(|| CreateTable::parse(&statement.sql, Dialect::Postgres))
            .flatten();
        if let Some(table) = parsed {
            for constraint in &table.constraints {
                let sql = format!("ALTER TABLE {} ADD {constraint}", statement.spelled);
                inline.push(one(&sql));
            }
        }
        found.push(statement);
    }
    // A check may use a function, but nothing uses a check.
    let at = found.iter().rposition(|it| it.kind == Kind::Table).map_or(found.len(), |index| index + 1);
    found.splice(at..at, inline);
    found
}

/// What a function takes and returns, which cannot be replaced.
fn header(sql: &str) -> String {
    sql.split(" LANGUAGE ").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The labels of an enum, as written. `None` for another type.
fn labels(sql: &str) -> Option<Vec<String>> {
    let found = tokens(sql, Dialect::Postgres).ok()?;
    let is_enum = found.iter().take(6).any(|token| token.is("ENUM"));
    let is_label = |token: &&Token<'_>| token.kind == TokenKind::Text;
    is_enum.then(|| found.iter().filter(is_label).map(|token| token.text.to_string()).collect())
}

/// The statements that add the labels of an enum that are new. `None` if that is not the only change.
pub(super) fn added_values(old: &Statement, new: &Statement) -> Option<Vec<String>> {
    let (before, after) = (labels(&old.sql)?, labels(&new.sql)?);
    let mut remaining = before.iter().peekable();
    for label in &after {
        remaining.next_if_eq(&label);
    }
    if remaining.peek().is_some() || before.is_empty() {
        return None;
    }
    let mut added = Vec::new();
    for (index, label) in after.iter().enumerate().filter(|(_, label)| !before.contains(label)) {
        let place = match index.checked_sub(1).map(|index| &after[index]) {
            Some(previous) => format!("AFTER {previous}"),
            None => format!("BEFORE {}", before[0]),
        };
        added.push(format!("ALTER TYPE {} ADD VALUE {label} {place}", new.spelled));
    }
    Some(added)
}
