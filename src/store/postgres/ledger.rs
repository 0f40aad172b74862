//! The ledger's tables, read.
//!
//! It must not write them: `books` does.

use super::failure::marked;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Ledger, Recorded};
use crate::schema::Fingerprint;
use crate::sql::{quote_name, quote_text};

/// What the ledger says the catalogs' state was when the schema was last read, and what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) state: String,
    pub(super) fingerprint: Fingerprint,
}

impl Known {
    /// Reads `sequence state fingerprint`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (state, fingerprint) = text.split_once(' ')?.1.split_once(' ')?;
        Some(Self { state: state.into(), fingerprint: Fingerprint::parse(fingerprint)? })
    }
}

/// The query for one ledger's rows, in any order, and what the last of them records of the schema, by what tables there
/// are: diesel's, the history, alembic's; `%1$I` stands for the schema.
///
/// No order and no union: on a fleet most of the time goes into planning it.
pub(super) fn ledger_query(diesel: bool, history: bool, alembic: bool) -> String {
    // Without the table in front, a column that is missing would be the history's of that name.
    let lines = |there: bool, letter: &str, column: &str, table: &str| {
        let lines = format!(
            r"(SELECT string_agg(concat('{letter}', E'\x1f', it.{column}), E'\x1e') FROM %1$I.{table} it)"
        );
        if there { lines } else { "NULL".into() }
    };
    let applied = lines(diesel, "a", "version", "__diesel_schema_migrations");
    let revisions = lines(alembic, "r", "version_num", "alembic_version");
    let (entries, recorded, from) = if history {
        (
            r"string_agg(concat_ws(E'\x1f', 'h', sequence, version, checksum, action), E'\x1e')",
            r#"max(concat_ws(' ', lpad(sequence::text, 19, '0'), schema_state, schema_fingerprint) COLLATE "C")"#,
            "FROM %1$I.tenantry_history",
        )
    } else {
        ("NULL", "NULL::text", "")
    };
    format!(
        r"SELECT concat_ws(E'\x1e', {applied}, {entries}, {revisions}) AS ledger, {recorded} AS recorded {from}"
    )
}

/// The statement that fails, with a mark, where a ledger is not this one any more; none for one that has not both tables, or
/// another tool's. It tells one apart sooner than not: what it calls another is read.
pub(super) fn assertion(schema: &str, ledger: &Ledger) -> Option<String> {
    if ledger.applied.is_empty() || ledger.history.is_empty() || !ledger.revisions.is_empty() {
        return None;
    }
    let schema = quote_name(schema);
    let applied: Vec<&str> = ledger.applied.iter().map(Version::as_str).collect();
    let history = (1_u64..).zip(&ledger.history).map(|(sequence, row)| {
        format!("{sequence} {} {} {}", row.version, row.checksum, row.action.as_str())
    });
    Some(format!(
        "SELECT CAST({} AS int) FROM (SELECT string_agg(version, ' ') AS applied FROM {schema}.__diesel_schema_migrations) a, \
         (SELECT string_agg(concat_ws(' ', sequence, version, checksum, action), ' ') AS history FROM {schema}.tenantry_history) h \
         WHERE applied IS DISTINCT FROM {} OR history IS DISTINCT FROM {}",
        marked("another ledger"),
        quote_text(&applied.join(" ")),
        quote_text(&history.collect::<Vec<_>>().join(" ")),
    ))
}

/// Reads a ledger as the query gives it.
pub(super) fn parse_ledger(text: &str) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    let mut history = Vec::new();
    for line in text.split('\u{1e}').filter(|line| !line.is_empty()) {
        match line.split('\u{1f}').collect::<Vec<_>>().as_slice() {
            ["a", version] => ledger.applied.push(Version::new(*version)),
            ["r", revision] => ledger.revisions.push((*revision).into()),
            ["h", sequence, version, checksum, action] => {
                let (sequence, action) = sequence
                    .parse::<i64>()
                    .ok()
                    .zip(Action::parse(action))
                    .ok_or_else(|| odd_ledger(line))?;
                history.push((
                    sequence,
                    Recorded { version: Version::new(*version), checksum: (*checksum).into(), action },
                ));
            }
            _ => return Err(odd_ledger(line)),
        }
    }
    history.sort_by_key(|(sequence, _)| *sequence);
    ledger.history = history.into_iter().map(|(_, recorded)| recorded).collect();
    Ok(ledger)
}

/// A ledger that somebody else made or changed.
pub(super) fn odd_ledger(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "its ledger is not as diesel and tenantry make it")
        .caused_by(what.replace(['\u{1e}', '\u{1f}'], " "))
        .hint("look at __diesel_schema_migrations and tenantry_history: somebody else made or changed them")
}
