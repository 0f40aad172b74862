//! Reads the ledgers of other migration tools.

use crate::error::Result;
use crate::ledger::other::{OtherLedger, OtherRow, RowState};
use crate::plan::Inspection;
use crate::schema::Schema;
use crate::schema::bookkeeping::Tool;
use crate::sql::{Dialect, quote_name};
use crate::store::Rows;

/// A row as read: the texts of the expressions that [`expressions`] lists for the tool.
type Texts = Vec<Option<String>>;

/// Adds the ledgers that other tools keep in a project to its inspection: that of one tool, or all. Of a project that has
/// a ledger of tenantry's, only the tables are looked up.
pub(crate) fn read(
    rows: &mut dyn Rows,
    dialect: Dialect,
    inspection: &mut Inspection,
    from: Option<Tool>,
) -> Result<()> {
    inspection.other_ledgers = match &inspection.schema {
        _ if !inspection.ledger.is_empty() => tables(rows, from)?,
        Some(schema) => ledgers(rows, dialect, schema, from)?,
        None => Vec::new(),
    };
    Ok(())
}

/// The tables of other tools, without their rows.
fn tables(rows: &mut dyn Rows, from: Option<Tool>) -> Result<Vec<OtherLedger>> {
    let mut found = Vec::new();
    for table in Tool::tables() {
        let tool = Tool::of_table(table, &rows.columns(table)?);
        found.extend(tool.filter(|tool| from.is_none_or(|wanted| wanted == *tool)).map(|tool| OtherLedger {
            tool,
            table: Some(table.into()),
            rows: Vec::new(),
        }));
    }
    Ok(found)
}

fn ledgers(
    rows: &mut dyn Rows,
    dialect: Dialect,
    schema: &Schema,
    from: Option<Tool>,
) -> Result<Vec<OtherLedger>> {
    let mut ledgers = Vec::new();
    for (tool, table) in schema.other_ledgers() {
        if from.is_none_or(|wanted| wanted == *tool) {
            ledgers.push(read_ledger(rows, dialect, *tool, Some(table))?);
        }
    }
    // Applications use this number, too, so it is only read if the tool is named.
    if from == Some(Tool::RusqliteMigration) && dialect == Dialect::Sqlite {
        ledgers.push(read_ledger(rows, dialect, Tool::RusqliteMigration, None)?);
    }
    Ok(ledgers)
}

/// Reads a tool's ledger from its table. Without one, it is the database's `user_version`.
fn read_ledger(
    rows: &mut dyn Rows,
    dialect: Dialect,
    tool: Tool,
    table: Option<&str>,
) -> Result<OtherLedger> {
    let (expressions, order) = expressions(tool, dialect);
    let from = table.map_or("pragma_user_version".into(), quote_name);
    let mut found: Vec<OtherRow> = Vec::new();
    rows.for_each_row(&expressions, &format!("{from} ORDER BY {order}"), &mut |texts| {
        if let Some(row) = parse(tool, texts) {
            add(tool, &mut found, row);
        }
        Ok(true)
    })?;
    Ok(OtherLedger { tool, table: table.map(Into::into), rows: found })
}

/// Adds a row. Where a tool writes one row for each attempt, the last one counts.
fn add(tool: Tool, found: &mut Vec<OtherRow>, row: OtherRow) {
    let has_attempts = matches!(tool, Tool::Goose | Tool::Flyway | Tool::Prisma);
    match found.iter_mut().find(|it| has_attempts && it.migration == row.migration) {
        Some(earlier) => *earlier = row,
        None => found.push(row),
    }
}

/// What to read of a tool's rows, and in which order.
fn expressions(tool: Tool, dialect: Dialect) -> (Vec<String>, &'static str) {
    let hexadecimal = dialect.hexadecimal("checksum");
    let (columns, order): (&[&str], _) = match tool {
        Tool::Alembic => (&["version_num"], "version_num"),
        Tool::Atlas => (&["version", "hash", "applied", "total", "error", "type"], "version"),
        Tool::Dbmate | Tool::Rails => (&["version"], "version"),
        Tool::GolangMigrate => (&["version", "dirty"], "version"),
        Tool::Drizzle => (&["hash"], "created_at"),
        Tool::Flyway => (&["version", "checksum", "type", "success", "script"], "installed_rank"),
        Tool::Goose => (&["version_id", "is_applied"], "id"),
        Tool::Liquibase => (&["id", "exectype", "author", "filename"], "orderexecuted"),
        Tool::Prisma => (&["migration_name", "checksum", "finished_at", "rolled_back_at"], "started_at"),
        Tool::Refinery => (&["version", "checksum"], "version"),
        Tool::RusqliteMigration => (&["user_version"], "user_version"),
        Tool::Sqlx => (&["version", &hexadecimal, "success"], "version"),
        Tool::Wrangler => (&["name"], "id"),
    };
    (columns.iter().map(ToString::to_string).collect(), order)
}

/// Reads one row. `None` if it records no migration.
fn parse(tool: Tool, texts: Texts) -> Option<OtherRow> {
    let mut texts = texts.into_iter();
    let migration = texts.next().flatten();
    let mut next = || texts.next().flatten();
    let row = |migration: String, checksum: Option<String>, state: RowState| {
        Some(OtherRow { migration, checksum, state })
    };
    match tool {
        Tool::Sqlx => {
            let (checksum, success) = (next(), next());
            let state = if is_true(success.as_deref()) {
                RowState::Applied
            } else {
                RowState::Broken("success is false".into())
            };
            row(migration?, checksum, state)
        }
        Tool::Refinery => row(migration?, next(), RowState::Applied),
        // The hash of the file is all that drizzle records of it.
        Tool::Drizzle => row(migration.clone()?, migration, RowState::Applied),
        Tool::GolangMigrate => {
            let state = if is_true(next().as_deref()) {
                RowState::Broken("dirty is true".into())
            } else {
                RowState::Applied
            };
            row(migration?, None, state)
        }
        // goose writes a row of version 0 when it creates its table, and 0 is SQLite's user_version from the beginning.
        Tool::Goose | Tool::RusqliteMigration if migration.as_deref() == Some("0") => None,
        Tool::Goose => {
            let state = if is_true(next().as_deref()) { RowState::Applied } else { RowState::NotApplied };
            row(migration?, None, state)
        }
        Tool::Flyway => flyway(migration, [next(), next(), next(), next()]),
        Tool::Prisma => {
            let (checksum, finished, rolled_back) = (next(), next(), next());
            let state = match (finished, rolled_back) {
                // With `migrate resolve --rolled-back` somebody declared that it is not applied.
                (_, Some(_)) => RowState::NotApplied,
                (None, None) => RowState::Broken("it was not finished".into()),
                (Some(_), None) => RowState::Applied,
            };
            row(migration?, checksum, state)
        }
        // Atlas keeps facts about itself in rows whose version begins with a dot.
        Tool::Atlas if migration.as_deref().is_some_and(|version| version.starts_with('.')) => None,
        Tool::Atlas => Some(atlas(migration?, [next(), next(), next(), next(), next()])),
        Tool::Liquibase => {
            let state = match next().as_deref() {
                Some("FAILED") => RowState::Broken("it failed".into()),
                Some("SKIPPED") => RowState::NotApplied,
                _ => RowState::Applied,
            };
            // A changeset is identified by its file, its author and its id.
            let (author, file) = (next().unwrap_or_default(), next().unwrap_or_default());
            row(format!("{file}::{}::{author}", migration?), None, state)
        }
        Tool::Alembic | Tool::Dbmate | Tool::Rails | Tool::Wrangler | Tool::RusqliteMigration => {
            row(migration?, None, RowState::Applied)
        }
    }
}

/// Atlas records statement by statement. A version that was set by hand counts as applied, whatever happened before.
fn atlas(migration: String, texts: [Option<String>; 5]) -> OtherRow {
    const BASELINE: u32 = 1;
    const RESOLVED: u32 = 4;
    let [hash, applied, total, error, kind] = texts;
    let kind: u32 = kind.and_then(|kind| kind.parse().ok()).unwrap_or_default();
    let state = match error.filter(|error| !error.is_empty()) {
        _ if kind & BASELINE != 0 => RowState::Baseline,
        _ if kind & RESOLVED != 0 => RowState::Applied,
        Some(error) => RowState::Broken(format!("it failed: {error}")),
        None if applied != total => RowState::Broken(format!(
            "{} of {} statements are applied",
            applied.unwrap_or_default(),
            total.unwrap_or_default()
        )),
        None => RowState::Applied,
    };
    OtherRow { migration, checksum: hash.filter(|hash| !hash.is_empty()), state }
}

/// Flyway also records the creation of its schema and migrations without a version. It undoes a migration with another
/// row of its version.
fn flyway(version: Option<String>, texts: [Option<String>; 4]) -> Option<OtherRow> {
    let [checksum, kind, success, script] = texts;
    let kind = kind.unwrap_or_default();
    let script = script.unwrap_or_default();
    if version.is_none() && kind == "SCHEMA" {
        return None;
    }
    let state = if !is_true(success.as_deref()) {
        RowState::Broken("success is false".into())
    } else if kind.starts_with("UNDO") || kind == "DELETE" {
        RowState::NotApplied
    } else if version.is_none() && kind == "SQL" {
        RowState::Repeatable
    } else if kind.ends_with("BASELINE") {
        RowState::Baseline
    } else if kind == "SQL" {
        RowState::Applied
    } else {
        RowState::Broken(format!("{script} is of the type {kind}, and tenantry runs only SQL"))
    };
    Some(OtherRow { migration: version.unwrap_or(script), checksum, state })
}

fn is_true(text: Option<&str>) -> bool {
    matches!(text, Some("1" | "t" | "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(tool: Tool, texts: &[&str]) -> Option<(String, RowState)> {
        let texts = texts.iter().map(|text| (*text != "NULL").then(|| (*text).to_string())).collect();
        parse(tool, texts).map(|row| (row.migration, row.state))
    }

    fn is_broken(tool: Tool, texts: &[&str]) -> bool {
        matches!(state(tool, texts), Some((_, RowState::Broken(_))))
    }

    #[test]
    fn only_what_was_completed_is_applied() {
        let applied = |tool, texts: &[&str]| state(tool, texts).is_some_and(|it| it.1 == RowState::Applied);
        assert!(applied(Tool::Sqlx, &["1", "ab", "1"]) && is_broken(Tool::Sqlx, &["1", "ab", "0"]));
        assert!(applied(Tool::Sqlx, &["1", "ab", "true"]) && is_broken(Tool::Sqlx, &["1", "ab", "NULL"]));
        assert!(applied(Tool::GolangMigrate, &["7", "f"]) && is_broken(Tool::GolangMigrate, &["7", "t"]));
        assert!(applied(Tool::Prisma, &["1_a", "x", "2025", "NULL"]));
        assert!(is_broken(Tool::Prisma, &["1_a", "x", "NULL", "NULL"]));
        assert_eq!(
            state(Tool::Prisma, &["1_a", "x", "NULL", "2025"]).map(|it| it.1),
            Some(RowState::NotApplied)
        );
        assert!(applied(Tool::Atlas, &["1", "h", "3", "3", "NULL", "2"]));
        assert!(is_broken(Tool::Atlas, &["1", "h", "2", "3", "NULL", "2"]));
        assert!(is_broken(Tool::Atlas, &["1", "h", "3", "3", "no such table", "2"]));
        assert!(applied(Tool::Atlas, &["1", "h", "2", "3", "no such table", "6"]));
        let baseline = state(Tool::Atlas, &["3", "h", "0", "0", "NULL", "1"]);
        assert_eq!(baseline, Some(("3".into(), RowState::Baseline)));
        assert_eq!(state(Tool::Atlas, &[".atlas_cloud_identifier", "h", "0", "0", "NULL", "2"]), None);
        assert_eq!(state(Tool::Goose, &["0", "t"]), None);
        assert!(is_broken(Tool::Liquibase, &["1", "FAILED", "ann", "a.xml"]));
        let ran = state(Tool::Liquibase, &["1", "MARK_RAN", "ann", "a.xml"]);
        assert_eq!(ran, Some(("a.xml::1::ann".into(), RowState::Applied)));
    }

    #[test]
    fn flyways_rows_are_of_several_kinds() {
        let flyway = |texts: &[&str]| state(Tool::Flyway, texts);
        assert_eq!(flyway(&["1", "5", "SQL", "t", "V1__a.sql"]), Some(("1".into(), RowState::Applied)));
        assert_eq!(
            flyway(&["1", "5", "UNDO_SQL", "t", "U1__a.sql"]),
            Some(("1".into(), RowState::NotApplied))
        );
        assert_eq!(
            flyway(&["1", "NULL", "BASELINE", "t", "<< Flyway Baseline >>"]),
            Some(("1".into(), RowState::Baseline))
        );
        assert_eq!(flyway(&["NULL", "NULL", "SCHEMA", "t", "\"notes\""]), None);
        assert_eq!(
            flyway(&["NULL", "5", "SQL", "t", "R__views.sql"]),
            Some(("R__views.sql".into(), RowState::Repeatable))
        );
        assert!(is_broken(Tool::Flyway, &["NULL", "5", "JDBC", "t", "R__views"]));
        assert!(is_broken(Tool::Flyway, &["1", "5", "JDBC", "t", "V1__a"]));
        assert!(is_broken(Tool::Flyway, &["1", "5", "SQL", "f", "V1__a.sql"]));
    }

    #[test]
    fn the_last_attempt_counts() {
        let mut found = Vec::new();
        for state in [RowState::Broken("it was rolled back".into()), RowState::Applied] {
            add(Tool::Prisma, &mut found, OtherRow { migration: "1_a".into(), checksum: None, state });
        }
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].state, RowState::Applied);
    }
}
