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
    /// Whether that is what the ledger's versions lead to.
    pub(super) is_proven: bool,
}

/// A ledger as it was read.
pub(super) struct Told {
    pub(super) ledger: Ledger,
    /// The sequence of its last row; 0 where there is none.
    pub(super) sequence: i64,
    /// What that row records of the schema.
    pub(super) known: Option<Known>,
}

/// The query for one ledger by what tables there are: diesel's, the history, alembic's; `%1$I` stands for the schema. It
/// gives one row of three texts, each NULL where there is nothing: [`Told::parse`] reads them.
///
/// No order, no union, and few functions: on a fleet most of the time goes into reading and planning it.
pub(super) fn ledger_query(diesel: bool, history: bool, alembic: bool) -> String {
    let column = |there: bool, column: &str, table: &str| {
        // Without the table in front, a column that is missing would be the history's of that name.
        let rows = format!(r"(SELECT string_agg(it.{column}, E'\x1e') FROM %1$I.{table} it)");
        if there { rows } else { "NULL".into() }
    };
    let applied = column(diesel, "version", "__diesel_schema_migrations");
    let revisions = column(alembic, "version_num", "alembic_version");
    let rows = r"string_agg(concat_ws(E'\x1f', sequence, version, checksum, action, forced, schema_state, schema_fingerprint), E'\x1e')";
    if history {
        format!(
            "SELECT {applied} AS applied, {rows} AS history, {revisions} AS revisions FROM %1$I.tenantry_history"
        )
    } else {
        format!("SELECT {applied} AS applied, NULL AS history, {revisions} AS revisions")
    }
}

impl Told {
    /// Reads the texts that the query gives.
    pub(super) fn parse(applied: &str, history: &str, revisions: &str) -> Result<Self> {
        let rows = |text: &str| -> Vec<String> {
            text.split('\u{1e}').filter(|row| !row.is_empty()).map(Into::into).collect()
        };
        let applied = rows(applied).into_iter().map(Version::new).collect();
        let mut told: Vec<(i64, Recorded, Option<Known>)> =
            history.split('\u{1e}').filter(|row| !row.is_empty()).map(parse_row).collect::<Result<_>>()?;
        told.sort_by_key(|(sequence, ..)| *sequence);
        let (sequence, known) =
            told.last().map(|(sequence, _, known)| (*sequence, known.clone())).unwrap_or_default();
        let history = told.into_iter().map(|(_, recorded, _)| recorded).collect();
        Ok(Self { ledger: Ledger { applied, history, revisions: rows(revisions) }, sequence, known })
    }
}

fn parse_row(row: &str) -> Result<(i64, Recorded, Option<Known>)> {
    let fields: Vec<&str> = row.split('\u{1f}').collect();
    let [sequence, version, checksum, action, forced, rest @ ..] = fields.as_slice() else {
        return Err(odd_ledger(row));
    };
    let action = Action::parse(action).ok_or_else(|| odd_ledger(row))?;
    let sequence = sequence.parse().map_err(|_| odd_ledger(row))?;
    let known = match rest {
        [state, fingerprint] => Fingerprint::parse(fingerprint).map(|fingerprint| Known {
            state: (*state).into(),
            fingerprint,
            is_proven: *forced == "f",
        }),
        _ => None,
    };
    Ok((sequence, Recorded { version: Version::new(*version), checksum: (*checksum).into(), action }, known))
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

/// A ledger that somebody else made or changed.
pub(super) fn odd_ledger(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "its ledger is not as diesel and tenantry make it")
        .caused_by(what.replace(['\u{1e}', '\u{1f}'], " "))
        .hint("look at __diesel_schema_migrations and tenantry_history: somebody else made or changed them")
}
