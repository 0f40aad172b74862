//! The ledger's tables, read.
//!
//! It must not write them: `books` does.

pub(super) mod write;

use diesel::prelude::*;
use diesel::sql_types::{Array, Nullable, Text};

use super::catalog::LedgerTables;
use super::failure::marked;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Ledger, Recorded};
use crate::schema::Fingerprint;
use crate::sql::{quote_name, quote_text};

/// What the ledger says the catalogs' state was when the schema was last read, and what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordedSchema {
    pub(super) state: String,
    pub(super) fingerprint: Fingerprint,
    /// Whether that is what the ledger's versions lead to.
    pub(super) is_proven: bool,
}

/// A ledger as it was read.
pub(super) struct StoredLedger {
    pub(super) ledger: Ledger,
    /// The sequence of its last row; 0 where there is none.
    pub(super) sequence: i64,
    /// What that row records of the schema.
    pub(super) known: Option<RecordedSchema>,
}

#[derive(QueryableByName)]
struct LedgerColumns {
    #[diesel(sql_type = Nullable<Array<Nullable<Text>>>)]
    applied: Option<Vec<Option<String>>>,
    #[diesel(sql_type = Nullable<Array<Nullable<Text>>>)]
    history: Option<Vec<Option<String>>>,
    #[diesel(sql_type = Nullable<Array<Nullable<Text>>>)]
    revisions: Option<Vec<Option<String>>>,
}

/// Reads one schema's ledger.
pub(super) fn read(
    connection: &mut PgConnection,
    schema: &str,
    has: LedgerTables,
) -> QueryResult<Result<StoredLedger>> {
    let sql = ledger_query(has.diesel, has.history, has.alembic).replace("%1$I", &quote_name(schema));
    let LedgerColumns { applied, history, revisions } = diesel::sql_query(sql).get_result(connection)?;
    let lists = [&applied, &history, &revisions];
    Ok(StoredLedger::parse(lists.map(|list| list.iter().flatten().flatten().map(String::as_str))))
}

/// The query for one ledger by what tables there are: diesel's, the history, alembic's; `%1$I` stands for the schema. It
/// gives one row of three lists of texts, each NULL where there is no such table: [`StoredLedger::parse`] reads them.
///
/// No order, no join, and few functions: on a fleet most of the time goes into reading and planning it.
pub(super) fn ledger_query(diesel: bool, history: bool, alembic: bool) -> String {
    let rows = |there: bool, row: &str, table: &str| {
        if there { format!("ARRAY(SELECT {row} FROM %1$I.{table})") } else { "NULL::text[]".into() }
    };
    let applied = rows(diesel, "version", "__diesel_schema_migrations");
    let row =
        r"concat_ws(E'\x1f', sequence, version, checksum, action, forced, schema_state, schema_fingerprint)";
    let history = rows(history, row, "tenantry_history");
    let revisions = rows(alembic, "version_num", "alembic_version");
    format!("SELECT {applied} AS applied, {history} AS history, {revisions} AS revisions")
}

impl StoredLedger {
    /// Reads the rows that the query gives: applied versions, the history's rows, revisions.
    pub(super) fn parse<'a, List: IntoIterator<Item = &'a str>>(
        [applied, history, revisions]: [List; 3],
    ) -> Result<Self> {
        let applied = applied.into_iter().map(Version::new).collect();
        let mut told: Vec<(i64, Recorded, Option<RecordedSchema>)> =
            history.into_iter().map(parse_row).collect::<Result<_>>()?;
        told.sort_by_key(|(sequence, ..)| *sequence);
        let (sequence, mut known) =
            told.last().map(|(sequence, _, known)| (*sequence, known.clone())).unwrap_or_default();
        let history = told.into_iter().map(|(_, recorded, _)| recorded).collect();
        let ledger = Ledger { applied, history, revisions: revisions.into_iter().map(Into::into).collect() };
        if let Some(known) = &mut known {
            // What somebody else put among the applied versions, or took away, was not proven.
            known.is_proven &= ledger.is_accounted_for();
        }
        Ok(Self { ledger, sequence, known })
    }
}

fn parse_row(row: &str) -> Result<(i64, Recorded, Option<RecordedSchema>)> {
    let fields: Vec<&str> = row.split('\u{1f}').collect();
    let [sequence, version, checksum, action, forced, rest @ ..] = fields.as_slice() else {
        return Err(odd_ledger(row));
    };
    let action = Action::parse(action).ok_or_else(|| odd_ledger(row))?;
    let sequence = sequence.parse().map_err(|_| odd_ledger(row))?;
    let known = match rest {
        [state, fingerprint] => Fingerprint::parse(fingerprint).map(|fingerprint| RecordedSchema {
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
        .with_hint(
            "look at __diesel_schema_migrations and tenantry_history: somebody else made or changed them",
        )
}

#[cfg(test)]
mod tests {
    use super::StoredLedger;
    use crate::error::{ErrorKind, Result};
    use crate::ledger::Action;

    const FINGERPRINT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn told(applied: &[&str], history: &[&[&str]]) -> Result<StoredLedger> {
        let history: Vec<String> = history.iter().map(|row| row.join("\u{1f}")).collect();
        let history: Vec<&str> = history.iter().map(String::as_str).collect();
        StoredLedger::parse([applied.to_vec(), history, vec!["r1", "r2"]])
    }

    #[test]
    fn rows_come_in_any_order_and_the_last_says_what_is_known() {
        let last = ["10", "2", "b", "apply", "f", "3.77", FINGERPRINT];
        let first = ["9", "1", "a", "stamp", "t", "3.55", FINGERPRINT];
        for (applied, is_proven) in
            [(&["2", "1"][..], true), (&["1"], false), (&["1", "2", "3"], false), (&[], false)]
        {
            let told = told(applied, &[&first, &last]).unwrap();
            assert_eq!(told.known.unwrap().is_proven, is_proven, "{applied:?}");
        }
        let told = told(&["2", "1"], &[&last, &first]).unwrap();
        assert_eq!((told.ledger.applied.len(), told.sequence), (2, 10));
        assert_eq!(told.ledger.revisions, ["r1", "r2"]);
        let actions: Vec<_> = told.ledger.history.iter().map(|row| row.action).collect();
        assert_eq!(actions, [Action::Stamp, Action::Apply]);
        let known = told.known.unwrap();
        assert_eq!((known.state.as_str(), known.is_proven), ("3.77", true));
        assert_eq!(known.fingerprint.to_string(), FINGERPRINT);
    }

    #[test]
    fn what_was_passed_over_proves_nothing_and_what_is_not_said_is_not_known() {
        let known = |row: &[&str]| told(&["1"], &[row]).unwrap().known;
        assert!(!known(&["1", "1", "a", "apply", "t", "3.77", FINGERPRINT]).unwrap().is_proven);
        assert_eq!(known(&["1", "1", "a", "start", "f"]), None);
        assert_eq!(known(&["1", "1", "a", "apply", "f", "3.77", "no fingerprint"]), None);
        let empty = told(&[], &[]).unwrap();
        assert_eq!((empty.sequence, empty.known), (0, None));
    }

    #[test]
    fn a_row_that_nobody_writes_is_refused() {
        for row in [&["x", "1", "a", "apply", "f"][..], &["1", "1", "a", "burn", "f"], &["1", "1"]] {
            let error = told(&[], &[row]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{row:?}");
        }
    }
}
