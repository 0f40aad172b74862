//! Turns one Postgres schema into another.
//!
//! What uses a table, type or function that changes is dropped first, in the reverse of the order in which it was created, and
//! created again in that order.

use std::collections::BTreeSet;

use super::postgres_compare::{Comparison, Fate, added_values};
use super::postgres_statement::{Kind, Statement};
use super::{Alteration, Blocking, Definitions, Purpose};
use crate::sql::{Dialect, quote_name, tokens};

pub(super) fn alter(from: &Definitions, to: &Definitions, blocking: Blocking) -> Alteration {
    let comparison = Comparison::new(from, to);
    let alteration = Alteration { refused: comparison.refused.clone(), ..Alteration::default() };
    let mut writer = Writer { comparison: &comparison, blocking, written: BTreeSet::new(), alteration };
    writer.write_drops();
    writer.write_creations();
    writer.write_late_drops();
    writer.alteration
}

struct Writer<'a> {
    comparison: &'a Comparison,
    blocking: Blocking,
    /// The statements of the new schema that were written with another one, by their indices.
    written: BTreeSet<usize>,
    alteration: Alteration,
}

impl Writer<'_> {
    fn push(&mut self, sql: impl Into<String>) {
        self.alteration.push(Purpose::Main, sql);
    }

    /// Drops what goes, except types, functions and sequences that columns may still use.
    fn write_drops(&mut self) {
        for index in (0..self.comparison.before.len()).rev() {
            let old = &self.comparison.before[index];
            let is_replaced = self.comparison.counterpart(old).is_some();
            let is_in_the_way = self.becomes_identity(old);
            if self.comparison.fates[index] == Fate::Goes && (!is_late(old) || is_replaced || is_in_the_way) {
                self.write_drop(old);
            }
        }
    }

    fn write_late_drops(&mut self) {
        for old in self.comparison.before.iter().filter(|it| matches!(it.kind, Kind::Type | Kind::Domain)) {
            if self.comparison.rebuilt_types.contains(&old.name.to_lowercase()) {
                let kind = if old.kind == Kind::Domain { "DOMAIN" } else { "TYPE" };
                self.push(format!("DROP {kind} {}", former(old)));
            }
        }
        for index in (0..self.comparison.before.len()).rev() {
            let old = &self.comparison.before[index];
            if self.comparison.fates[index] == Fate::Goes
                && is_late(old)
                && !self.becomes_identity(old)
                && self.comparison.counterpart(old).is_none()
            {
                self.write_drop(old);
            }
        }
    }

    /// Whether an identity gets the name of a sequence that goes.
    fn becomes_identity(&self, old: &Statement) -> bool {
        let is_named =
            |it: &Statement| it.kind == Kind::Identity && it.names.contains(&old.name.to_lowercase());
        old.kind == Kind::Sequence && self.comparison.after.iter().any(is_named)
    }

    fn write_drop(&mut self, old: &Statement) {
        let (name, table) = (&old.spelled, &old.spelled_table);
        // What belongs to a table goes with it, and so does what belongs to a column.
        let is_column_kept =
            || self.comparison.tables.get(&old.table).is_some_and(|change| change.keeps(&old.name));
        let has_table =
            old.table.is_empty() || self.comparison.is_kept(&old.table) || self.is_view(&old.table);
        let sql = match old.kind {
            Kind::Table => format!("DROP TABLE {name}"),
            Kind::View => format!("DROP VIEW {name}"),
            Kind::MaterializedView => format!("DROP MATERIALIZED VIEW {name}"),
            Kind::Type => format!("DROP TYPE {name}"),
            Kind::Domain => format!("DROP DOMAIN {name}"),
            Kind::Function if old.sql.starts_with("CREATE PROCEDURE") => format!("DROP PROCEDURE {name}"),
            Kind::Function => format!("DROP FUNCTION {name}"),
            Kind::Aggregate => format!("DROP AGGREGATE {name}"),
            Kind::Sequence if self.owner_goes(old) => return,
            Kind::Sequence => format!("DROP SEQUENCE {name}"),
            Kind::Statistics => format!("DROP STATISTICS {name}"),
            // Tables that reference each other cannot be dropped one after the other.
            Kind::ForeignKey => format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
            _ if !has_table => return,
            Kind::Index => format!("DROP INDEX {name}"),
            Kind::Trigger => format!("DROP TRIGGER {name} ON {table}"),
            Kind::Rule => format!("DROP RULE {name} ON {table}"),
            Kind::Policy => format!("DROP POLICY {name} ON {table}"),
            Kind::PrimaryKey | Kind::Unique | Kind::Check | Kind::Exclusion => {
                format!("ALTER TABLE {table} DROP CONSTRAINT {name}")
            }
            Kind::Default if is_column_kept() => {
                format!("ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT")
            }
            Kind::Identity if is_column_kept() => {
                format!("ALTER TABLE {table} ALTER COLUMN {name} DROP IDENTITY")
            }
            Kind::RowSecurity => format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
            Kind::ForcedRowSecurity => format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"),
            Kind::ReplicaIdentity => format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT"),
            Kind::Partition if self.comparison.is_kept(&old.name) => {
                format!("ALTER TABLE {table} DETACH PARTITION {name}")
            }
            Kind::TriggerState if self.keeps_trigger(old) => {
                format!("ALTER TABLE {table} ENABLE TRIGGER {name}")
            }
            Kind::Other => {
                self.alteration.refused.push(format!("{}: it cannot be dropped", old.label()));
                return;
            }
            _ => return,
        };
        self.push(sql);
    }

    fn is_view(&self, name: &str) -> bool {
        self.comparison
            .before
            .iter()
            .any(|it| matches!(it.kind, Kind::View | Kind::MaterializedView) && it.name == name)
    }

    fn keeps_trigger(&self, state: &Statement) -> bool {
        let is_trigger =
            |it: &Statement| it.kind == Kind::Trigger && it.name == state.name && it.table == state.table;
        self.comparison
            .before
            .iter()
            .zip(&self.comparison.fates)
            .any(|(it, fate)| is_trigger(it) && *fate == Fate::Stays)
    }

    /// Whether the column that a sequence belongs to goes, and the sequence with it.
    fn owner_goes(&self, sequence: &Statement) -> bool {
        let owner = self
            .comparison
            .before
            .iter()
            .find(|it| it.kind == Kind::SequenceOwner && it.name == sequence.name);
        let Some((table, column)) = owner.and_then(|it| owned_by(&it.sql)) else { return false };
        self.comparison.tables.get(&table).is_none_or(|change| !change.keeps(&column))
    }

    /// Creates what is new or was dropped, and changes what is changed in place, in the order of the new schema.
    fn write_creations(&mut self) {
        if self.creates_sql_function() {
            // As in a dump: the body may use what is created later.
            self.push("SET LOCAL check_function_bodies = off");
        }
        for index in 0..self.comparison.after.len() {
            if self.written.contains(&index) {
                continue;
            }
            let new = &self.comparison.after[index];
            let old = self.comparison.former(new);
            match old.map(|old| (self.comparison.fates[old], &self.comparison.before[old])) {
                None | Some((Fate::Goes, _)) => self.write_creation(new),
                Some((Fate::Changes, old)) => self.write_change(old, new),
                Some((Fate::Stays, _)) => {}
            }
        }
    }

    fn creates_sql_function(&self) -> bool {
        let is_new = |new: &&Statement| {
            let old = self.comparison.former(new);
            old.is_none_or(|old| self.comparison.fates[old] != Fate::Stays)
        };
        let is_sql =
            |it: &Statement| it.kind == Kind::Function && it.sql.to_lowercase().contains("language sql");
        self.comparison.after.iter().filter(is_new).any(is_sql)
    }

    fn write_creation(&mut self, new: &Statement) {
        if matches!(new.kind, Kind::Check) && !self.comparison.is_kept(&new.table) && self.is_inline(new) {
            return;
        }
        let is_never = self.blocking == Blocking::Never && self.comparison.is_kept(&new.table);
        match new.kind {
            Kind::Default | Kind::Identity
                if self.comparison.tables.get(&new.table).is_some_and(|it| it.adds(&new.name)) => {}
            Kind::ForeignKey | Kind::Check if is_never && !new.names.contains("valid") => {
                self.push(format!("{} NOT VALID", new.sql));
                let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", new.spelled_table, new.spelled);
                self.alteration.push(Purpose::Validate, sql);
            }
            Kind::Unique if is_never && self.can_use_index(new) => {
                let columns = new.sql.split_once(" UNIQUE ").map_or("", |(_, columns)| columns);
                let (table, name) = (&new.spelled_table, &new.spelled);
                let sql = format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} {columns}");
                self.alteration.push(Purpose::Index, sql);
                let sql = format!("ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {name}");
                self.alteration.push(Purpose::Validate, sql);
            }
            Kind::Index if is_never && !self.is_partitioned(&new.table) => {
                let sql = new.sql.replacen(" INDEX ", " INDEX CONCURRENTLY ", 1);
                self.alteration.push(Purpose::Index, sql);
            }
            Kind::Identity | Kind::Default if self.comparison.is_kept(&new.table) => {
                self.push(new.sql.clone());
                let had_numbers = self.comparison.before.iter().any(|it| {
                    matches!(it.kind, Kind::Default | Kind::Identity)
                        && it.table == new.table
                        && it.name == new.name
                });
                if !had_numbers && (new.kind == Kind::Identity || new.sql.contains("nextval(")) {
                    self.push(format!(
                        "SELECT setval(pg_get_serial_sequence('{}', '{}'), coalesce(max({}), 0) + 1, false) FROM {}",
                        new.spelled_table.replace('\'', "''"),
                        new.name.replace('\'', "''"),
                        new.spelled,
                        new.spelled_table
                    ));
                }
            }
            _ => self.push(new.sql.clone()),
        }
    }

    /// Whether a UNIQUE constraint can be made of an index that is built before: nothing that is written before needs it.
    fn can_use_index(&self, unique: &Statement) -> bool {
        let is_plain = unique.sql.split_once(" UNIQUE ").is_some_and(|(_, columns)| {
            columns.starts_with('(') && columns.ends_with(')') && columns.matches('(').count() == 1
        });
        let references =
            |it: &Statement| it.kind == Kind::ForeignKey && it.names.contains(&unique.table.to_lowercase());
        let is_needed =
            self.comparison.after.iter().any(|it| references(it) && self.comparison.former(it).is_none());
        is_plain && !is_needed && !self.is_partitioned(&unique.table)
    }

    /// Whether a constraint stands in its table's definition.
    fn is_inline(&self, constraint: &Statement) -> bool {
        let table =
            self.comparison.after.iter().find(|it| it.kind == Kind::Table && it.name == constraint.table);
        let Some((_, text)) = constraint.sql.split_once(" ADD ") else { return false };
        table.is_some_and(|table| table.sql.contains(text))
    }

    fn is_partitioned(&self, table: &str) -> bool {
        let table = self.comparison.after.iter().find(|it| it.kind == Kind::Table && it.name == table);
        table.is_some_and(|it| it.sql.contains(")\nPARTITION BY "))
    }

    fn write_change(&mut self, old: &Statement, new: &Statement) {
        match old.kind {
            Kind::Table => self.write_table_change(new),
            Kind::Type | Kind::Domain if self.comparison.rebuilt_types.contains(&old.name.to_lowercase()) => {
                let kind = if old.kind == Kind::Domain { "DOMAIN" } else { "TYPE" };
                self.push(format!("ALTER {kind} {} RENAME TO {}", old.spelled, former(old)));
                self.push(new.sql.clone());
            }
            Kind::Type => {
                for sql in added_values(old, new).unwrap_or_default() {
                    self.alteration.push(Purpose::EnumValues, sql);
                }
            }
            Kind::Function => self.push(new.sql.replacen("CREATE ", "CREATE OR REPLACE ", 1)),
            Kind::Sequence => {
                let cycle = if new.names.contains("cycle") { "" } else { "\n    NO CYCLE" };
                // Whether it is logged follows its table.
                let options = new.sql.split_once("SEQUENCE ").map_or("", |(_, options)| options);
                let data_type = if options.contains(" AS ") { "" } else { "\n    AS bigint" };
                self.push(format!("ALTER SEQUENCE {options}{data_type}{cycle}"));
            }
            _ => self.push(new.sql.clone()),
        }
    }

    fn write_table_change(&mut self, new: &Statement) {
        let Some(change) = self.comparison.tables.get(&new.name) else { return };
        let mut supplied = Vec::new();
        for (index, it) in self.comparison.after.iter().enumerate() {
            if matches!(it.kind, Kind::Default | Kind::Identity)
                && it.table == new.name
                && change.adds(&it.name)
            {
                supplied.push(it);
                self.written.insert(index);
                // The sequence that the default takes its values from.
                let is_used = |sequence: &Statement| {
                    it.kind == Kind::Default && it.sql.contains(&format!("'{}'", sequence.spelled))
                };
                for (index, sequence) in self.comparison.after.iter().enumerate() {
                    let is_new = self.comparison.former(sequence).is_none();
                    if sequence.kind == Kind::Sequence && is_used(sequence) && is_new {
                        self.alteration.push(Purpose::Main, sequence.sql.clone());
                        self.written.insert(index);
                    }
                }
            }
        }
        change.write(&supplied, &self.comparison.rebuilt_types, self.blocking, &mut self.alteration);
    }
}

/// Whether columns may still use it until they are changed.
fn is_late(old: &Statement) -> bool {
    matches!(old.kind, Kind::Type | Kind::Domain | Kind::Function | Kind::Aggregate | Kind::Sequence)
}

/// The name of a type while it is replaced.
fn former(old: &Statement) -> String {
    quote_name(&format!("former_{}", old.name))
}

/// The table and column of `ALTER SEQUENCE s OWNED BY t.c`.
fn owned_by(sql: &str) -> Option<(String, String)> {
    let found = tokens(sql, Dialect::Postgres).ok()?;
    let [.., table, dot, column] = found.as_slice() else { return None };
    dot.is_symbol(".").then(|| Some((table.name()?, column.name()?)))?
}
