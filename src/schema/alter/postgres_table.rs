//! Changes the columns of a Postgres table.

use std::collections::BTreeSet;

use super::create_table::{Column, CreateTable};
use super::postgres_statement::{Kind, Statement};
use super::{Alteration, Blocking, Purpose, names};
use crate::sql::{Dialect, Token, quote_name, tokens};

/// A column's definition in its parts.
#[derive(Default, PartialEq, Eq)]
struct ColumnParts {
    data_type: String,
    collation: String,
    default: String,
    generated: String,
    not_null: bool,
}

impl ColumnParts {
    fn of(column: &Column) -> Self {
        let found = tokens(&column.sql, Dialect::Postgres).unwrap_or_default();
        let mut parts = Self::default();
        for clause in clauses(&found) {
            let text = |from: usize| match (clause.get(from), clause.last()) {
                (Some(first), Some(last)) => {
                    column.sql[first.start..last.start + last.text.len()].to_string()
                }
                _ => String::new(),
            };
            match clause.first() {
                Some(word) if word.is("COLLATE") => parts.collation = text(0),
                Some(word) if word.is("DEFAULT") => parts.default = text(1),
                Some(word) if word.is("GENERATED") => parts.generated = text(0),
                Some(word) if word.is("NOT") => parts.not_null = true,
                Some(word) if word.is("CONSTRAINT") => {}
                _ => parts.data_type = text(0),
            }
        }
        parts
    }

    fn full_type(&self) -> String {
        if self.collation.is_empty() {
            self.data_type.clone()
        } else {
            format!("{} {}", self.data_type, self.collation)
        }
    }
}

/// Whether values of a type become those of another one only by a cast that is written.
fn needs_cast(from: &str, to: &str) -> bool {
    const FAMILIES: [&[&str]; 4] = [
        &["character", "text", "varchar", "char", "name", "citext"],
        &["smallint", "integer", "bigint", "numeric", "real", "double", "decimal"],
        &["timestamp", "date"],
        &["bit"],
    ];
    let family = |data_type: &str| {
        let is_of = |family: &&[&str]| family.iter().any(|name| data_type.starts_with(name));
        FAMILIES.iter().position(is_of)
    };
    let (from, to) = (family(from), family(to));
    // Every value has a text.
    to.is_none() || (to != Some(0) && from != to)
}

/// The type and collation of a column.
pub(super) fn full_type(column: &Column) -> String {
    ColumnParts::of(column).full_type()
}

/// Whether rows that exist would have no value for a new column.
pub(super) fn needs_value(column: &Column) -> bool {
    let parts = ColumnParts::of(column);
    parts.not_null && parts.default.is_empty() && parts.generated.is_empty()
}

/// The type of a column, and the clauses behind it. The column's name is left out.
fn clauses<'a, 'b>(found: &'a [Token<'b>]) -> Vec<&'a [Token<'b>]> {
    const STARTS: [&str; 5] = ["COLLATE", "DEFAULT", "GENERATED", "NOT", "CONSTRAINT"];
    let (mut depth, mut starts) = (0_i32, vec![1]);
    for (index, token) in found.iter().enumerate().skip(2) {
        let opens = token.is_symbol("(") || token.is_symbol("[");
        let closes = token.is_symbol(")") || token.is_symbol("]");
        if depth == 0 && STARTS.iter().any(|word| token.is(word)) {
            starts.push(index);
        }
        depth += i32::from(opens) - i32::from(closes);
    }
    starts.push(found.len());
    starts.windows(2).filter_map(|pair| found.get(pair[0]..pair[1])).collect()
}

/// What changes in a table, apart from what has a statement of its own.
pub(super) struct TableChange {
    /// The table's name for use in statements.
    table: String,
    before: CreateTable,
    after: CreateTable,
}

impl TableChange {
    pub(super) fn new(old: &Statement, new: &Statement) -> Option<Self> {
        let parse = |sql: &str| CreateTable::parse(sql, Dialect::Postgres);
        Some(Self { table: new.spelled.clone(), before: parse(&old.sql)?, after: parse(&new.sql)? })
    }

    /// The columns, in lower case, that views and others may not use while the table is changed: those that are dropped or
    /// get another type.
    pub(super) fn blocking_columns(&self, rebuilt_types: &BTreeSet<String>) -> BTreeSet<String> {
        let is_changed = |column: &&Column| match self.after.column(&column.key) {
            None => true,
            Some(after) => {
                let (old, new) = (ColumnParts::of(column), ColumnParts::of(after));
                old.full_type() != new.full_type()
                    || old.generated != new.generated
                    || !names(&column.sql, Dialect::Postgres).is_disjoint(rebuilt_types)
            }
        };
        self.before.columns.iter().filter(is_changed).map(|column| column.key.clone()).collect()
    }

    /// Whether a column exists before and afterwards.
    pub(super) fn keeps(&self, column: &str) -> bool {
        let key = column.to_lowercase();
        self.before.column(&key).is_some() && self.after.column(&key).is_some()
    }

    /// Whether a column is new.
    pub(super) fn adds(&self, column: &str) -> bool {
        let key = column.to_lowercase();
        self.before.column(&key).is_none() && self.after.column(&key).is_some()
    }

    /// Adds the statements that change the columns and options. `supplied` are the statements that give a new column its
    /// values: its default and identity.
    pub(super) fn write(
        &self,
        supplied: &[&Statement],
        rebuilt_types: &BTreeSet<String>,
        blocking: Blocking,
        alteration: &mut Alteration,
    ) {
        let table = &self.table;
        self.write_options(alteration);
        // A column that is computed from another one is in the way of a change of that one's type.
        let computed = self.computed_anew(rebuilt_types);
        for column in &computed {
            alteration.push(Purpose::Main, format!("ALTER TABLE {table} DROP COLUMN {}", column.name));
        }
        for column in self.before.columns.iter().filter(|it| self.after.column(&it.key).is_none()) {
            alteration.push(Purpose::Main, format!("ALTER TABLE {table} DROP COLUMN {}", column.name));
        }
        for column in self.after.columns.iter().filter(|it| !computed.contains(it)) {
            match self.before.column(&column.key) {
                Some(before) => self.write_change(before, column, rebuilt_types, blocking, alteration),
                None => self.write_addition(column, supplied, alteration),
            }
        }
        for column in computed {
            alteration.push(Purpose::Main, format!("ALTER TABLE {table} ADD COLUMN {}", column.sql));
        }
    }

    /// The columns that are computed in another way than before, or from a column that gets another type.
    fn computed_anew(&self, rebuilt_types: &BTreeSet<String>) -> Vec<&Column> {
        let blocking = self.blocking_columns(rebuilt_types);
        let is_computed_anew = |column: &&Column| {
            let new = ColumnParts::of(column);
            let uses = names(&new.generated, Dialect::Postgres);
            let changes = blocking.contains(&column.key) || !uses.is_disjoint(&blocking);
            !new.generated.is_empty() && self.before.column(&column.key).is_some() && changes
        };
        self.after.columns.iter().filter(is_computed_anew).collect()
    }

    fn write_addition(&self, column: &Column, supplied: &[&Statement], alteration: &mut Alteration) {
        let table = &self.table;
        let of =
            |kind: Kind| supplied.iter().find(|it| it.kind == kind && it.name.to_lowercase() == column.key);
        let behind = |statement: &Statement, word: &str| {
            statement.sql.split_once(word).map(|(_, rest)| rest.to_string()).unwrap_or_default()
        };
        let mut sql = column.sql.clone();
        if let Some(default) = of(Kind::Default) {
            sql = format!("{sql} DEFAULT {}", behind(default, " SET DEFAULT "));
        } else if let Some(identity) = of(Kind::Identity) {
            sql = format!("{sql} GENERATED {}", behind(identity, " ADD GENERATED "));
        } else if needs_value(column) {
            alteration.refused.push(format!(
                "column {} of {table}: it is NOT NULL and has no default, so existing rows have no value for it",
                column.name
            ));
        }
        alteration.push(Purpose::Main, format!("ALTER TABLE {table} ADD COLUMN {sql}"));
    }

    fn write_change(
        &self,
        before: &Column,
        after: &Column,
        rebuilt_types: &BTreeSet<String>,
        blocking: Blocking,
        alteration: &mut Alteration,
    ) {
        let (old, new) = (ColumnParts::of(before), ColumnParts::of(after));
        let prefix = format!("ALTER TABLE {} ALTER COLUMN {}", self.table, after.name);
        let mut push = |sql: String| alteration.push(Purpose::Main, sql);
        if old.generated != new.generated && new.generated.is_empty() {
            push(format!("{prefix} DROP EXPRESSION"));
        }
        let is_rebuilt = !names(&new.data_type, Dialect::Postgres).is_disjoint(rebuilt_types);
        let changes_type = old.full_type() != new.full_type() || is_rebuilt;
        if !old.default.is_empty() && (changes_type || new.default.is_empty()) {
            push(format!("{prefix} DROP DEFAULT"));
        }
        if changes_type {
            let text = if new.data_type.ends_with("[]") { "::text[]" } else { "::text" };
            let text = if is_rebuilt { text } else { "" };
            let (data_type, full_type) = (&new.data_type, new.full_type());
            // A cast that is written cuts what is too long; the one of an assignment refuses it.
            let using = if is_rebuilt || needs_cast(&old.data_type, data_type) {
                format!(" USING {}{text}::{data_type}", after.name)
            } else {
                String::new()
            };
            push(format!("{prefix} TYPE {full_type}{using}"));
        }
        if !new.default.is_empty() && (changes_type || old.default != new.default) {
            push(format!("{prefix} SET DEFAULT {}", new.default));
        }
        if old.not_null && !new.not_null {
            push(format!("{prefix} DROP NOT NULL"));
        } else if !old.not_null && new.not_null {
            self.write_not_null(after, &prefix, blocking, alteration);
        }
    }

    /// `SET NOT NULL` reads all rows while nobody can use the table, unless a validated constraint says the same.
    fn write_not_null(&self, column: &Column, prefix: &str, blocking: Blocking, alteration: &mut Alteration) {
        if blocking == Blocking::OneTransaction {
            alteration.push(Purpose::Main, format!("{prefix} SET NOT NULL"));
            return;
        }
        let table = &self.table;
        let name = quote_name(&format!("{}_{}_is_not_null", self.after.name.trim_matches('"'), column.key));
        let check = format!("CHECK ({} IS NOT NULL) NOT VALID", column.name);
        alteration.push(Purpose::Main, format!("ALTER TABLE {table} ADD CONSTRAINT {name} {check}"));
        for sql in [
            format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}"),
            format!("{prefix} SET NOT NULL"),
            format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
        ] {
            alteration.push(Purpose::Validate, sql);
        }
    }

    fn write_options(&self, alteration: &mut Alteration) {
        let table = &self.table;
        let is_unlogged = |it: &CreateTable| it.head.to_ascii_uppercase().contains("UNLOGGED");
        match (is_unlogged(&self.before), is_unlogged(&self.after)) {
            (true, false) => alteration.push(Purpose::Main, format!("ALTER TABLE {table} SET LOGGED")),
            (false, true) => alteration.push(Purpose::Main, format!("ALTER TABLE {table} SET UNLOGGED")),
            _ => {}
        }
        let (old, new) = (&self.before.options, &self.after.options);
        if old == new {
            return;
        }
        let settings = |options: &str| {
            let inner = options.strip_prefix("WITH (")?.strip_suffix(')')?;
            Some(inner.split(", ").map(ToString::to_string).collect::<Vec<_>>())
        };
        let settings = |options: &str| if options.is_empty() { Some(Vec::new()) } else { settings(options) };
        let (Some(old), Some(new)) = (settings(old), settings(new)) else {
            alteration.refused.push(format!("table {table}: {old:?} cannot become {new:?}"));
            return;
        };
        let name = |setting: &String| setting.split('=').next().unwrap_or_default().to_string();
        let gone: Vec<String> =
            old.iter().map(name).filter(|it| !new.iter().any(|other| name(other) == *it)).collect();
        if !gone.is_empty() {
            alteration.push(Purpose::Main, format!("ALTER TABLE {table} RESET ({})", gone.join(", ")));
        }
        if !new.is_empty() {
            alteration.push(Purpose::Main, format!("ALTER TABLE {table} SET ({})", new.join(", ")));
        }
    }
}
