//! Reads the ledger's tables.

pub(super) mod write;

use diesel::prelude::*;
use diesel::sql_types::{Array, Nullable, Text};

use super::catalog::SchemaInfo;
use super::failure::marked;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, HistoryRow, Ledger};
use crate::schema::Fingerprint;
use crate::sql::{quote_name, quote_text};

/// The schema that a ledger's last row records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordedSchema {
    /// The state of the system catalogs when the schema was read.
    pub(super) state: String,
    pub(super) fingerprint: Fingerprint,
    /// Whether the schema was verified to be the one that the ledger's versions lead to.
    pub(super) is_verified: bool,
}

/// A ledger as read from its tables.
pub(super) struct StoredLedger {
    pub(super) ledger: Ledger,
    /// The sequence number of the last history row; 0 if there is none.
    pub(super) sequence: i64,
    /// The schema that this row records.
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

/// Reads one schema's ledger. The outer error means that the query failed, the inner one that a row is malformed.
pub(super) fn read(
    connection: &mut PgConnection,
    schema: &str,
    tables: SchemaInfo,
) -> QueryResult<Result<StoredLedger>> {
    let sql =
        ledger_query(tables.diesel, tables.history, tables.alembic).replace("%1$I", &quote_name(schema));
    let LedgerColumns { applied, history, revisions } = diesel::sql_query(sql).get_result(connection)?;
    let lists = [&applied, &history, &revisions];
    Ok(StoredLedger::parse(lists.map(|list| list.iter().flatten().flatten().map(String::as_str))))
}

/// Returns the query for one ledger. The arguments say which tables exist: diesel's, the history, alembic's. `%1$I`
/// stands for the schema. The query returns one row of three text arrays, each NULL if its table does not exist;
/// [`StoredLedger::parse`] reads them.
///
/// The query has no ORDER BY, no join and few functions: on a fleet, most of its time goes into parsing and planning
/// it.
pub(super) fn ledger_query(diesel: bool, history: bool, alembic: bool) -> String {
    let rows = |exists: bool, row: &str, table: &str| {
        if exists { format!("ARRAY(SELECT {row} FROM %1$I.{table})") } else { "NULL::text[]".into() }
    };
    let applied = rows(diesel, "version", "__diesel_schema_migrations");
    let row =
        r"concat_ws(E'\x1f', sequence, version, checksum, action, forced, schema_state, schema_fingerprint)";
    let history = rows(history, row, "tenantry_history");
    let revisions = rows(alembic, "version_num", "alembic_version");
    format!("SELECT {applied} AS applied, {history} AS history, {revisions} AS revisions")
}

impl StoredLedger {
    /// Parses the lists that the query returns: applied versions, history rows, revisions.
    pub(super) fn parse<'a, List: IntoIterator<Item = &'a str>>(
        [applied, history, revisions]: [List; 3],
    ) -> Result<Self> {
        let applied = applied.into_iter().map(Version::new).collect();
        let mut rows: Vec<(i64, HistoryRow, Option<RecordedSchema>)> =
            history.into_iter().map(parse_row).collect::<Result<_>>()?;
        rows.sort_by_key(|(sequence, ..)| *sequence);
        let (sequence, mut known) =
            rows.last().map(|(sequence, _, known)| (*sequence, known.clone())).unwrap_or_default();
        let history = rows.into_iter().map(|(_, recorded, _)| recorded).collect();
        let ledger = Ledger { applied, history, revisions: revisions.into_iter().map(Into::into).collect() };
        if let Some(known) = &mut known {
            // Versions that the history does not account for were added or removed by another program, without a check.
            known.is_verified &= ledger.is_accounted_for();
        }
        Ok(Self { ledger, sequence, known })
    }
}

fn parse_row(row: &str) -> Result<(i64, HistoryRow, Option<RecordedSchema>)> {
    let fields: Vec<&str> = row.split('\u{1f}').collect();
    let [sequence, version, checksum, action, forced, recorded_schema @ ..] = fields.as_slice() else {
        return Err(invalid_ledger(row));
    };
    let action = Action::parse(action).ok_or_else(|| invalid_ledger(row))?;
    let sequence = sequence.parse().map_err(|_| invalid_ledger(row))?;
    let known = match recorded_schema {
        [state, fingerprint] => Fingerprint::parse(fingerprint).map(|fingerprint| RecordedSchema {
            state: (*state).into(),
            fingerprint,
            is_verified: *forced == "f",
        }),
        _ => None,
    };
    Ok((
        sequence,
        HistoryRow { version: Version::new(*version), checksum: (*checksum).into(), action },
        known,
    ))
}

/// Returns a statement that fails with a mark if the stored ledger differs from `ledger`. Returns `None` if one of its
/// two tables has no rows, or if it has another tool's revisions.
///
/// The statement may also fail for an equal ledger, because it compares rows in the order in which the server returns
/// them. The caller then reads the ledger.
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

/// The error for a ledger that another program created or changed.
pub(super) fn invalid_ledger(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "its ledger tables differ from those that diesel and tenantry create")
        .caused_by(what.replace(['\u{1e}', '\u{1f}'], " "))
        .with_hint(
            "check __diesel_schema_migrations and tenantry_history: another program created or changed them",
        )
}

#[cfg(test)]
mod tests {
    use super::StoredLedger;
    use crate::error::{ErrorKind, Result};
    use crate::ledger::Action;

    const FINGERPRINT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn parse(applied: &[&str], history: &[&[&str]]) -> Result<StoredLedger> {
        let history: Vec<String> = history.iter().map(|row| row.join("\u{1f}")).collect();
        let history: Vec<&str> = history.iter().map(String::as_str).collect();
        StoredLedger::parse([applied.to_vec(), history, vec!["r1", "r2"]])
    }

    #[test]
    fn rows_come_in_any_order_and_the_last_says_what_is_known() {
        let last = ["10", "2", "b", "apply", "f", "3.77", FINGERPRINT];
        let first = ["9", "1", "a", "stamp", "t", "3.55", FINGERPRINT];
        for (applied, is_verified) in
            [(&["2", "1"][..], true), (&["1"], false), (&["1", "2", "3"], false), (&[], false)]
        {
            let parsed = parse(applied, &[&first, &last]).unwrap();
            assert_eq!(parsed.known.unwrap().is_verified, is_verified, "{applied:?}");
        }
        let parsed = parse(&["2", "1"], &[&last, &first]).unwrap();
        assert_eq!((parsed.ledger.applied.len(), parsed.sequence), (2, 10));
        assert_eq!(parsed.ledger.revisions, ["r1", "r2"]);
        let actions: Vec<_> = parsed.ledger.history.iter().map(|row| row.action).collect();
        assert_eq!(actions, [Action::Stamp, Action::Apply]);
        let known = parsed.known.unwrap();
        assert_eq!((known.state.as_str(), known.is_verified), ("3.77", true));
        assert_eq!(known.fingerprint.to_string(), FINGERPRINT);
    }

    #[test]
    fn what_was_passed_over_proves_nothing_and_what_is_not_said_is_not_known() {
        let known = |row: &[&str]| parse(&["1"], &[row]).unwrap().known;
        assert!(!known(&["1", "1", "a", "apply", "t", "3.77", FINGERPRINT]).unwrap().is_verified);
        assert_eq!(known(&["1", "1", "a", "start", "f"]), None);
        assert_eq!(known(&["1", "1", "a", "apply", "f", "3.77", "no fingerprint"]), None);
        let empty = parse(&[], &[]).unwrap();
        assert_eq!((empty.sequence, empty.known), (0, None));
    }

    #[test]
    fn a_row_that_nobody_writes_is_refused() {
        for row in [&["x", "1", "a", "apply", "f"][..], &["1", "1", "a", "burn", "f"], &["1", "1"]] {
            let error = parse(&[], &[row]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{row:?}");
        }
    }
}
