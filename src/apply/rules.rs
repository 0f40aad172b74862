//! Applies a set's rules to one project: deletes old rows, and runs checks.
//!
//! Rows are deleted in batches, so that others do not wait long. Names in rules are looked up in the live schema first.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::plan::Inspection;
use crate::rules::{Chain, Check, Retention, Unit};
use crate::sql::{Dialect, quote_name};
use crate::store::{Mode, Rows, Session};

/// The number of rows of the rule's table that one transaction deletes. Their dependents go with them.
const BATCH: u64 = 1_000;

/// Numbers of rows by table.
pub(crate) type Counts = BTreeMap<String, u64>;

/// A retention rule and the time that ages are counted from.
pub(crate) struct RetentionCutoff<'a> {
    pub(crate) rule: &'a Retention,
    pub(crate) dialect: Dialect,
    pub(crate) now: SystemTime,
    /// An age that replaces the rule's own.
    pub(crate) older_than: Option<Duration>,
}

impl RetentionCutoff<'_> {
    /// Counts the rows that would be deleted.
    pub(crate) fn count(&self, rows: &mut dyn Rows, counts: &mut Counts) -> Result<()> {
        self.require_columns(rows)?;
        let expired = format!("{} WHERE {}", quote_name(&self.rule.table), self.expired());
        for dependent in &self.rule.dependents {
            let from = format!(
                "{} WHERE {} IN (SELECT {} FROM {expired})",
                quote_name(&dependent.table),
                quote_name(&dependent.column),
                quote_name(&dependent.references)
            );
            add(counts, &dependent.table, count(rows, "*", &from)?);
        }
        // Counting row ids fails for a table without them, from which `delete` cannot delete either.
        add(counts, &self.rule.table, count(rows, self.dialect.row_id(), &expired)?);
        Ok(())
    }

    /// Deletes the rows, one batch per transaction. Under the lock, `permit` fails if the project must not be changed.
    /// Adds the numbers of deleted rows to `counts`.
    pub(crate) fn delete(
        &self,
        session: &mut dyn Session,
        permit: &dyn Fn(&Inspection) -> Result<()>,
        counts: &mut Counts,
    ) -> Result<()> {
        const MODE: Mode = Mode::PLAIN;
        let table = quote_name(&self.rule.table);
        let order = quote_name(self.rule.in_order_of.as_ref().unwrap_or(&self.rule.time));
        loop {
            session.begin(MODE)?;
            permit(&session.inspect()?)?;
            self.require_columns(session)?;
            let batch = |column: &str| {
                format!(
                    "SELECT {column} FROM {table} WHERE {} ORDER BY {order}, {column} LIMIT {BATCH}",
                    self.expired()
                )
            };
            // Row ids alone may also match other rows: those of another partition, or if a column has that name.
            let in_batch =
                format!("{} AND ({})", self.dialect.rows_in(&batch(self.dialect.row_id())), self.expired());
            // Without the lock, the statements could select different rows.
            if let Some(lock) = self.dialect.lock_table(&table) {
                session.change(&lock)?;
            }
            let mut deleted_rows = Counts::new();
            for dependent in &self.rule.dependents {
                let sql = format!(
                    "DELETE FROM {} WHERE {} IN (SELECT {} FROM {table} WHERE {in_batch})",
                    quote_name(&dependent.table),
                    quote_name(&dependent.column),
                    quote_name(&dependent.references),
                );
                add(&mut deleted_rows, &dependent.table, session.change(&sql)?);
            }
            let deleted = session.change(&format!("DELETE FROM {table} WHERE {in_batch}"))?;
            add(&mut deleted_rows, &self.rule.table, deleted);
            session.commit()?;
            for (table, rows) in deleted_rows {
                add(counts, &table, rows);
            }
            if deleted < BATCH {
                return Ok(());
            }
        }
    }

    /// The SQL condition for a row to be deleted. With `in_order_of`, a row is kept if a row before it is kept, and the
    /// last row is always kept.
    fn expired(&self) -> String {
        let is_old = format!("({})", self.is_old());
        let Some(order) = &self.rule.in_order_of else { return is_old };
        let (order, table) = (quote_name(order), quote_name(&self.rule.table));
        format!(
            "{order} < (SELECT max({order}) FROM {table}) AND \
             {order} < coalesce((SELECT min({order}) FROM {table} WHERE NOT coalesce({is_old}, false)), \
             (SELECT max({order}) FROM {table}))"
        )
    }

    fn is_old(&self) -> String {
        let age = self.older_than.unwrap_or(self.rule.age);
        let limit =
            self.now.checked_sub(age).and_then(|limit| limit.duration_since(SystemTime::UNIX_EPOCH).ok());
        let limit = limit.unwrap_or_default();
        let column = quote_name(&self.rule.time);
        let is_old = match self.rule.unit {
            Unit::Seconds => format!("{column} < {}", limit.as_secs()),
            Unit::Milliseconds => format!("{column} < {}", limit.as_millis()),
            Unit::Timestamp => self.dialect.is_before(&column, limit.as_secs()),
        };
        match &self.rule.condition {
            Some(condition) => format!("{is_old} AND ({condition}\n)"),
            None => is_old,
        }
    }

    fn require_columns(&self, rows: &mut dyn Rows) -> Result<()> {
        let rule = self.rule;
        let mut needed = vec![(&rule.table, &rule.time)];
        needed.extend(rule.in_order_of.iter().map(|order| (&rule.table, order)));
        for dependent in &rule.dependents {
            needed.push((&dependent.table, &dependent.column));
            needed.push((&rule.table, &dependent.references));
        }
        needed.into_iter().try_for_each(|(table, column)| require_column(rows, table, column))
    }
}

/// Runs a check. Returns a description of the first row that fails it.
pub(crate) fn check(rows: &mut dyn Rows, check: &Check) -> Result<Option<String>> {
    let in_check = |error: Error| {
        if error.kind() != ErrorKind::Database {
            return error;
        }
        Error::new(error.kind(), format!("the check {:?} cannot be run: {}", check.name, error.summary()))
            .with_hint("fix it in set.toml, next to the migrations")
    };
    let found = match (&check.query, &check.chain) {
        (Some(query), _) => rows.first(query).map_err(in_check)?,
        (None, Some(chain)) => broken_link(rows, chain)?,
        (None, None) => None,
    };
    Ok(found.map(|found| format!("{}: {found}", check.name)))
}

/// Returns the first error in a chain. The row before its first row may have been deleted, so it is not required.
fn broken_link(rows: &mut dyn Rows, chain: &Chain) -> Result<Option<String>> {
    let names: Vec<&String> =
        [&chain.order, &chain.previous, &chain.hash].into_iter().chain(&chain.data).collect();
    names.iter().try_for_each(|column| require_column(rows, &chain.table, column))?;
    let columns: Vec<_> = names.iter().map(|column| quote_name(column)).collect();
    let from = format!("{} ORDER BY {}", quote_name(&chain.table), quote_name(&chain.order));
    let mut last: Option<String> = None;
    let mut broken = None;
    rows.for_each_row(&columns, &from, &mut |row| {
        let null_column = row.iter().position(Option::is_none).and_then(|index| names.get(index));
        let mut texts = row.into_iter().map(Option::unwrap_or_default);
        let [at, previous, hash] = std::array::from_fn(|_| texts.next().unwrap_or_default());
        let data = texts.collect::<Vec<_>>().join(&chain.separator);
        broken = if let Some(column) = null_column {
            Some(format!("{} {at}: {column} is NULL", chain.order))
        } else if hash != hexadecimal(&Sha256::digest(data)) {
            Some(format!("{} {at}: the hash does not match the data", chain.order))
        } else if last.as_ref().is_some_and(|last| *last != previous) {
            Some(format!("{} {at}: the previous hash is not that of the row before", chain.order))
        } else {
            None
        };
        last = Some(hash);
        Ok(broken.is_none())
    })?;
    Ok(broken)
}

/// Fails if a column does not exist.
fn require_column(rows: &mut dyn Rows, table: &str, column: &str) -> Result<()> {
    let columns = rows.columns(table)?;
    let missing = if columns.is_empty() {
        format!("it has no table {table:?}")
    } else if columns.iter().any(|it| it == column) {
        return Ok(());
    } else {
        format!("its table {table:?} has no column {column:?}")
    };
    Err(Error::new(ErrorKind::SchemaMismatch, format!("{missing}, which a rule of the set uses"))
        .with_hint("show its status: tenantry status ID; upgrade it first, or fix set.toml"))
}

/// Counts the rows in which a column is not NULL.
fn count(rows: &mut dyn Rows, column: &str, from: &str) -> Result<u64> {
    let mut count = None;
    rows.for_each_row(&[format!("count({column})")], from, &mut |row| {
        count = row.into_iter().flatten().next().and_then(|text| text.parse().ok());
        Ok(true)
    })?;
    count.ok_or_else(|| Error::new(ErrorKind::Internal, "a count returned no number"))
}

fn add(counts: &mut Counts, table: &str, rows: u64) {
    *counts.entry(table.to_string()).or_default() += rows;
}
