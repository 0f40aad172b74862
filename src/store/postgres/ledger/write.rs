//! Writes the ledger's tables.

use std::fmt::Write as _;
use std::time::SystemTime;

use crate::ledger::{Action, NewHistoryRow};
use crate::sql::{quote_name, quote_text};
use crate::store::postgres::catalog::SchemaWithState;

/// How many characters of a migration's name the history stores. The table has no key, no sequence and no unbounded
/// text: these would add four relations, each a file, to every project. Its rows are short and few, so it does not need
/// them.
const NAME_LENGTH: usize = 150;

/// Which of the ledger's tables exist.
#[derive(Clone, Copy)]
pub(in crate::store::postgres) struct Tables {
    pub(in crate::store::postgres) diesel: bool,
    pub(in crate::store::postgres) history: bool,
}

/// Returns the statements that write rows into a schema's ledger and create its tables if they do not exist.
///
/// `sequence` is the number of the last existing row. The last new row stores the fingerprint and the state of
/// the system catalogs in `read`. The schema is read again only after that state changes.
pub(in crate::store::postgres) fn record(
    schema: &str,
    has: Tables,
    sequence: i64,
    entries: &[NewHistoryRow],
    run_id: &str,
    read: Option<&SchemaWithState>,
) -> String {
    let quoted = quote_name(schema);
    let mut sql = String::new();
    if !has.diesel {
        // Word for word as diesel creates it, so that the table is the same whichever tool creates it.
        add(
            &mut sql,
            format_args!(
                "CREATE TABLE IF NOT EXISTS {quoted}.__diesel_schema_migrations (\n       version VARCHAR(50) PRIMARY KEY NOT NULL,\n       \
             run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP\n); "
            ),
        );
    }
    if !has.history {
        add(
            &mut sql,
            format_args!(
                "CREATE TABLE IF NOT EXISTS {quoted}.tenantry_history (\
             sequence bigint NOT NULL, version varchar(50) NOT NULL, name varchar({NAME_LENGTH}) NOT NULL, \
             checksum varchar(64) NOT NULL, action varchar(6) NOT NULL CHECK (action IN ('apply', 'stamp', 'adopt', 'revert', 'start', 'repeat', 'repair')), \
             forced boolean NOT NULL, run varchar(36) NOT NULL, started_at timestamptz NOT NULL, duration_us bigint NOT NULL, \
             tool_version varchar(20) NOT NULL, schema_state varchar(50), schema_fingerprint varchar(64)); "
            ),
        );
    }
    let is_applied = |action| matches!(action, Action::Apply | Action::Stamp | Action::Adopt);
    let versions = |wanted: &dyn Fn(Action) -> bool, open: &str, close: &str| {
        let texts = entries.iter().filter(|it| wanted(it.action)).map(|it| quote_text(it.version.as_str()));
        texts.map(|text| format!("{open}{text}{close}")).collect::<Vec<_>>().join(", ")
    };
    let applied = versions(&is_applied, "(", ")");
    if !applied.is_empty() {
        add(
            &mut sql,
            format_args!(
                "INSERT INTO {quoted}.__diesel_schema_migrations (version) VALUES {applied} ON CONFLICT DO NOTHING; "
            ),
        );
    }
    let reverted = versions(&|action| action == Action::Revert, "", "");
    if !reverted.is_empty() {
        add(
            &mut sql,
            format_args!("DELETE FROM {quoted}.__diesel_schema_migrations WHERE version IN ({reverted}); "),
        );
    }
    let rows: Vec<_> = (sequence + 1..)
        .zip(entries)
        .enumerate()
        .map(|(index, (sequence, entry))| {
            row(sequence, entry, run_id, read.filter(|_| index + 1 == entries.len()))
        })
        .collect();
    if !rows.is_empty() {
        add(
            &mut sql,
            format_args!(
                "INSERT INTO {quoted}.tenantry_history (sequence, version, name, checksum, action, forced, run, started_at, duration_us, \
             tool_version, schema_state, schema_fingerprint) VALUES {}; ",
                rows.join(", ")
            ),
        );
    }
    sql
}

fn row(sequence: i64, entry: &NewHistoryRow, run_id: &str, read: Option<&SchemaWithState>) -> String {
    let started = entry.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (state, fingerprint) = match read {
        Some(read) => (quote_text(&read.state), quote_text(&read.schema.fingerprint().to_string())),
        None => ("NULL".into(), "NULL".into()),
    };
    format!(
        "({sequence}, {}, {}, {}, {}, {}, {}, to_timestamp({}.{:06}), {}, {}, {state}, {fingerprint})",
        quote_text(entry.version.as_str()),
        quote_text(&entry.name.chars().take(NAME_LENGTH).collect::<String>()),
        quote_text(&entry.checksum),
        quote_text(entry.action.as_str()),
        entry.forced,
        quote_text(run_id),
        started.as_secs(),
        started.subsec_micros(),
        entry.duration.as_micros(),
        quote_text(env!("CARGO_PKG_VERSION")),
    )
}

fn add(sql: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = sql.write_fmt(text);
}
