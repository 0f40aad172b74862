//! The ledgers of other migration tools, and the checksums that they keep of their files.
//!
//! A row says which migration is applied. Each tool names it in its own way: by a version, by the name of a file or of a
//! folder, or by a revision that a migration of the catalog replaces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha384};
use siphasher::sip::SipHasher13;
use std::borrow::Cow;
use std::hash::{Hash as _, Hasher as _};

use crate::catalog::{Catalog, ChecksumMatch, Migration, number, with_line_endings};
use crate::hash::hexadecimal;
use crate::schema::bookkeeping::Tool;

/// The ledger of another tool, as read from a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherLedger {
    /// The tool.
    pub tool: Tool,
    /// Its table. `None` if the tool keeps a number in the database's file.
    pub table: Option<String>,
    /// Its rows, one for each migration: the last attempt.
    pub rows: Vec<OtherRow>,
}

/// One row of another tool's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherRow {
    /// How the tool names the migration.
    pub migration: String,
    /// The tool's checksum of the migration's file.
    pub checksum: Option<String>,
    /// What became of it.
    pub state: RowState,
}

/// What became of a migration that another tool ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowState {
    /// It is applied.
    Applied,
    /// It and all older ones count as applied, although the tool did not run them.
    Baseline,
    /// It is not applied: undone, rolled back or skipped.
    NotApplied,
    /// It is repeatable and was run last with the text that the checksum is of.
    Repeatable,
    /// It cannot be taken over. The text says why.
    Broken(String),
}

impl OtherLedger {
    /// Returns the position in a catalog directly after a row's migration. `None` if the catalog does not have it.
    pub(crate) fn position(&self, row: &OtherRow, catalog: &Catalog) -> Option<usize> {
        let is_meant: &dyn Fn(&Migration) -> bool = match self.tool {
            Tool::Alembic | Tool::Liquibase => return catalog.replacing(&row.migration),
            // The number of applied migrations.
            Tool::RusqliteMigration => {
                return row.migration.parse().ok().filter(|count| *count <= catalog.head());
            }
            Tool::Wrangler => &|migration| file_name(migration) == row.migration,
            Tool::Prisma => &|migration| folder_name(migration) == row.migration,
            Tool::Drizzle => {
                let is_meant = |position: &usize| {
                    self.compare(row, catalog, position - 1) != Some(ChecksumMatch::Edited)
                };
                // Of files with the same text, the one whose turn it was.
                let turn = self.rows.iter().position(|it| std::ptr::eq(it, row)).map(|index| index + 1);
                let turn = turn.filter(|position| *position <= catalog.head()).filter(is_meant);
                return turn.or_else(|| (1..=catalog.head()).find(is_meant));
            }
            _ => &|migration| is_same_version(migration.version.as_str(), &row.migration),
        };
        catalog.migrations().iter().position(is_meant).map(|index| index + 1)
    }

    /// Returns the position directly after the last migration that is not newer than a baseline.
    pub(crate) fn position_of_baseline(row: &OtherRow, catalog: &Catalog) -> usize {
        if !is_number(&row.migration) {
            return 0;
        }
        let is_older = |migration: &&Migration| {
            let version = migration.version.as_str();
            is_number(version) && number(version) <= number(&row.migration)
        };
        catalog.migrations().iter().take_while(is_older).count()
    }

    /// Whether the tool records only the newest version, so that all older ones are applied as well.
    pub(crate) fn records_newest_only(&self) -> bool {
        matches!(self.tool, Tool::Alembic | Tool::GolangMigrate | Tool::RusqliteMigration)
    }

    /// Returns the index of the repeatable migration that a row of Flyway's records, and how its checksum compares with the file.
    pub(crate) fn repeatable(row: &OtherRow, catalog: &Catalog) -> Option<(usize, ChecksumMatch)> {
        let is_meant = |migration: &Migration| file_name(migration) == row.migration;
        let index = catalog.repeatables().iter().position(is_meant)?;
        // Flyway's sum does not depend on the line endings.
        let sum = flyway(catalog.repeatables()[index].up.text()).to_string();
        let is_same = row.checksum.as_deref() == Some(sum.as_str());
        Some((index, if is_same { ChecksumMatch::Same } else { ChecksumMatch::Edited }))
    }

    /// Compares a row's checksum with the file of the migration at an index of a catalog. `None` if the tool keeps no
    /// checksum of it.
    pub(crate) fn compare(&self, row: &OtherRow, catalog: &Catalog, index: usize) -> Option<ChecksumMatch> {
        let recorded = row.checksum.as_ref()?;
        let is_checksum_with = |line_ending: Option<&str>| {
            let checksums = checksums(self.tool, catalog, index, line_ending);
            checksums.iter().any(|it| it.eq_ignore_ascii_case(recorded))
        };
        Some(if is_checksum_with(None) {
            ChecksumMatch::Same
        } else if is_checksum_with(Some("\n")) || is_checksum_with(Some("\r\n")) {
            ChecksumMatch::LineEndings
        } else {
            ChecksumMatch::Edited
        })
    }
}

/// Returns how a tool computes its checksums, for messages.
pub(crate) const fn algorithm(tool: Tool) -> &'static str {
    match tool {
        Tool::Sqlx => "SHA-384",
        Tool::Refinery => "SipHash-1-3",
        Tool::Flyway => "CRC-32",
        _ => "SHA-256",
    }
}

/// Returns the checksums that a tool may have of a migration's file, with the line ending `line_ending` if that is given.
/// Empty if the tool keeps none.
fn checksums(tool: Tool, catalog: &Catalog, index: usize, line_ending: Option<&str>) -> Vec<String> {
    let Some(migration) = catalog.migrations().get(index) else { return Vec::new() };
    let text = text_of(migration, line_ending);
    match tool {
        Tool::Sqlx => vec![hexadecimal(&Sha384::digest(text.as_bytes()))],
        Tool::Drizzle | Tool::Prisma => vec![hexadecimal(&Sha256::digest(text.as_bytes()))],
        Tool::Refinery => refinery(migration, &text),
        Tool::Flyway => vec![flyway(&text).to_string()],
        Tool::Atlas => vec![atlas(&catalog.migrations()[..=index], line_ending)],
        _ => Vec::new(),
    }
}

/// refinery hashes the name, the version and the text with Rust's `Hash`. Newer versions can have 64-bit versions.
fn refinery(migration: &Migration, text: &str) -> Vec<String> {
    let start = || {
        let mut hasher = SipHasher13::new();
        migration.name.hash(&mut hasher);
        hasher
    };
    let end = |mut hasher: SipHasher13| {
        text.hash(&mut hasher);
        hasher.finish().to_string()
    };
    let version = migration.version.as_str();
    let mut checksums = Vec::new();
    if let Ok(version) = version.parse::<i32>() {
        let mut hasher = start();
        version.hash(&mut hasher);
        checksums.push(end(hasher));
    }
    if let Ok(version) = version.parse::<i64>() {
        let mut hasher = start();
        version.hash(&mut hasher);
        checksums.push(end(hasher));
    }
    checksums
}

/// Flyway hashes the lines without their line endings, and shows the sum as a signed number.
fn flyway(text: &str) -> i32 {
    let mut hasher = crc32fast::Hasher::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for part in text.split(['\n', '\r']) {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().cast_signed()
}

/// Atlas hashes the names and texts of all files up to this one.
fn atlas(migrations: &[Migration], line_ending: Option<&str>) -> String {
    let mut hasher = Sha256::new();
    for migration in migrations {
        hasher.update(file_name(migration));
        hasher.update(text_of(migration, line_ending).as_bytes());
    }
    STANDARD.encode(hasher.finalize())
}

fn text_of<'a>(migration: &'a Migration, line_ending: Option<&str>) -> Cow<'a, str> {
    let text = migration.up.text();
    line_ending.map_or(Cow::Borrowed(text), |ending| with_line_endings(text, ending).into())
}

fn file_name(migration: &Migration) -> String {
    migration.up.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn folder_name(migration: &Migration) -> String {
    let folder = migration.up.path().parent().and_then(std::path::Path::file_name);
    folder.unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether two versions are the same text, or the same number.
fn is_same_version(version: &str, recorded: &str) -> bool {
    version == recorded || (is_number(version) && is_number(recorded) && number(version) == number(recorded))
}

/// Whether a version is a number, or Flyway's numbers with points.
fn is_number(version: &str) -> bool {
    version.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Dialect;

    fn catalog(line_ending: &str) -> Catalog {
        let text = ["CREATE TABLE t (id INTEGER);", "-- a comment", ""].join(line_ending);
        let files = [("1_one/up.sql", text.as_str()), ("2_two/up.sql", "SELECT 1;")];
        Catalog::from_files("test", Dialect::Sqlite, files).unwrap()
    }

    fn ledger(tool: Tool, checksum: &str) -> (OtherLedger, OtherRow) {
        let row =
            OtherRow { migration: "1".into(), checksum: Some(checksum.into()), state: RowState::Applied };
        (OtherLedger { tool, table: None, rows: vec![row.clone()] }, row)
    }

    #[test]
    fn line_endings_alone_are_no_edit() {
        for tool in [Tool::Sqlx, Tool::Prisma, Tool::Refinery, Tool::Atlas, Tool::Flyway] {
            let checksum = checksums(tool, &catalog("\n"), 0, None).remove(0);
            let (ledger, row) = ledger(tool, &checksum);
            assert_eq!(ledger.compare(&row, &catalog("\n"), 0), Some(ChecksumMatch::Same), "{tool}");
            let crlf = if tool == Tool::Flyway { ChecksumMatch::Same } else { ChecksumMatch::LineEndings };
            assert_eq!(ledger.compare(&row, &catalog("\r\n"), 0), Some(crlf), "{tool}");
            assert_eq!(ledger.compare(&row, &catalog(" \n"), 0), Some(ChecksumMatch::Edited), "{tool}");
        }
        let (ledger, row) = ledger(Tool::Dbmate, "x");
        let row = OtherRow { checksum: None, ..row };
        assert_eq!(ledger.compare(&row, &catalog("\n"), 0), None);
    }

    #[test]
    fn versions_are_compared_as_numbers_where_they_are_numbers() {
        assert!(is_same_version("0001", "1") && is_same_version("20250101", "20250101"));
        assert!(!is_same_version("1", "10") && !is_same_version("a1", "1"));
        assert!(
            is_same_version("1.01", "1.1.0")
                && !is_same_version("1.1", "1.10")
                && !is_same_version("1.", "1")
        );
    }

    /// Neither line endings nor a byte order mark count.
    #[test]
    fn flyways_sum_is_that_of_the_lines_alone() {
        assert_eq!(flyway("a\nb\r\n"), crc32fast::hash(b"ab").cast_signed());
        assert_eq!(flyway("\u{feff}a"), crc32fast::hash(b"a").cast_signed());
    }
}
