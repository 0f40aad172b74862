//! A migration's script: its text, statements and checksum.
//!
//! Parsing fails on a statement that would break the surrounding transaction or change something outside the project.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::metadata::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::copy;
use crate::sql::effect::Effect;
use crate::sql::extension::{self, Extension, ExtensionStatement};
use crate::sql::pragma::{FileSettings, Pragma};
use crate::sql::statement::{Control, Statement, split};
use crate::sql::{Dialect, Unclosed, own_schema, tokens};

/// The SHA-256 of a script's bytes, as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Checksum(String);

impl Checksum {
    fn of(text: &str) -> Self {
        Self(crate::hash::hexadecimal(&Sha256::digest(text)))
    }

    /// Returns the checksum as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a recorded checksum compares with a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChecksumMatch {
    /// It is the script's checksum.
    Same,
    /// It is the checksum of the script with other line endings: a checkout on another system, not an edit.
    LineEndings,
    /// The script has been edited since.
    Edited,
}

/// Which way a script leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// How a script is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ParseOptions<'a> {
    pub(super) dialect: Dialect,
    pub(super) transaction: Transaction,
    pub(super) direction: Direction,
    /// The name by which the script calls the project's own schema, such as `public`.
    pub(super) own_schema: Option<&'a str>,
}

impl ParseOptions<'_> {
    /// For an up.sql that runs in a transaction.
    pub(super) const fn new(dialect: Dialect) -> Self {
        Self { dialect, transaction: Transaction::Shared, direction: Direction::Up, own_schema: None }
    }
}

/// A script. A script that only reserves a version has comments and no statements.
#[derive(Clone, Debug)]
pub struct Script {
    path: PathBuf,
    text: String,
    statements: Vec<Statement>,
    checksum: Checksum,
    /// The checksums of the same script with LF and with CRLF line endings.
    variants: [Checksum; 2],
    /// Whether it had its own `BEGIN` and `COMMIT` around all statements, which are not among `statements`.
    has_own_transaction: bool,
    /// Whether `statements` are not those of the text: the rows of a `COPY` are `INSERT`s, a schema's name is removed.
    is_rewritten: bool,
    transaction: Transaction,
    /// The extensions that it creates. Their statements are not among `statements`.
    extensions: Vec<Extension>,
    /// The statements about extensions that are left out: those that drop one or comment on one.
    left_out: Vec<String>,
}

impl Script {
    /// Parses a script. Fails on a NUL character, an unclosed quote or comment, and a statement that is not allowed.
    pub(super) fn parse(path: PathBuf, text: String, options: ParseOptions<'_>) -> Result<Self> {
        let ParseOptions { dialect, transaction, direction, own_schema } = options;
        if let Some(at) = text.find('\0') {
            let line = text[..at].matches('\n').count() + 1;
            return Err(Error::new(ErrorKind::Catalog, "the file contains a NUL character")
                .at(&path, u32::try_from(line).unwrap_or(u32::MAX))
                .with_hint("remove it: for a database, the text ends there"));
        }
        let expanded = match dialect {
            Dialect::Sqlite => None,
            Dialect::Postgres => copy::expand(&text).map_err(|fault| {
                Error::new(ErrorKind::Catalog, fault.message)
                    .at(&path, fault.line)
                    .with_hint("a migration may contain SQL, and COPY ... FROM stdin with its rows")
            })?,
        };
        let unclosed = |unclosed: Unclosed| {
            Error::new(ErrorKind::Catalog, format!("a {} is never closed", unclosed.what))
                .at(&path, unclosed.line)
                .with_hint("close it: until then, it extends to the end of the file")
        };
        let has_rows = expanded.is_some();
        let mut sql = expanded.unwrap_or_else(|| text.clone());
        let own_schema = own_schema.filter(|_| dialect == Dialect::Postgres);
        if let Some(schema) = own_schema {
            sql = own_schema::remove(&sql, schema).map_err(unclosed)?;
        }
        let mut statements = split(&sql, dialect).map_err(unclosed)?;
        if let Some(schema) = own_schema {
            statements.retain(|statement| !own_schema::is_preamble(&statement.sql, schema));
        }
        let has_own_transaction =
            transaction == Transaction::Shared && take_own_transaction(&mut statements, dialect);
        let (extensions, left_out) = match dialect {
            Dialect::Sqlite => Default::default(),
            Dialect::Postgres => take_extensions(&mut statements, direction, own_schema),
        };
        for statement in &statements {
            check_allowed(statement, &path, transaction)?;
        }
        let variants = ["\n", "\r\n"].map(|it| Checksum::of(&with_line_endings(&text, it)));
        Ok(Self {
            checksum: Checksum::of(&text),
            path,
            text,
            statements,
            variants,
            has_own_transaction,
            is_rewritten: has_rows || own_schema.is_some(),
            transaction,
            extensions,
            left_out,
        })
    }

    /// Returns the path that it was read from, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns SQL that a parser of the database reads, with each statement at its line: the text, or without the rows of a
    /// `COPY`.
    #[cfg(all(feature = "lint", feature = "postgres"))]
    pub(crate) fn parseable(&self) -> std::borrow::Cow<'_, str> {
        if !self.is_rewritten {
            return (&*self.text).into();
        }
        let mut sql = String::new();
        let mut line = 1;
        for statement in &self.statements {
            while line < statement.line {
                sql.push('\n');
                line += 1;
            }
            sql.push_str(&statement.sql);
            sql.push(';');
            line += u32::try_from(statement.sql.matches('\n').count()).unwrap_or(0);
        }
        sql.into()
    }

    /// Returns the whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it had its own `BEGIN` and `COMMIT` around all statements. They are left out: all pending migrations of a
    /// project run in one transaction.
    #[must_use]
    pub fn has_own_transaction(&self) -> bool {
        self.has_own_transaction
    }

    /// Returns the extensions that it creates. They are created once for the database, before the script runs.
    #[cfg(feature = "postgres")]
    pub(crate) fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// Returns the statements that are left out, since they would change an extension that other projects use.
    pub(crate) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Returns the text for another tool that runs it in a transaction: without its own `BEGIN` and `COMMIT`, and
    /// with `INSERT`s instead of the rows of a `COPY`.
    pub(crate) fn text_in_transaction(&self) -> String {
        if !self.has_own_transaction && !self.is_rewritten {
            return self.text.clone();
        }
        let extensions = self.extensions.iter().map(|it| it.create_sql(it.schema.as_deref()));
        let statements: Vec<String> =
            extensions.chain(self.statements.iter().map(|it| it.sql.clone())).collect();
        statements.join(";\n")
    }

    /// Returns its statements, in order.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Returns the SHA-256 of its bytes.
    #[must_use]
    pub fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    /// Compares a checksum from a ledger with the script.
    #[must_use]
    pub fn recognize(&self, recorded: &str) -> ChecksumMatch {
        if recorded == self.checksum.0 {
            ChecksumMatch::Same
        } else if self.variants.iter().any(|variant| variant.0 == recorded) {
            ChecksumMatch::LineEndings
        } else {
            ChecksumMatch::Edited
        }
    }

    /// Returns the most dangerous effect on rows among its statements.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.statements.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Defines)
    }

    /// Whether a statement sets the sequence of a table itself: it has a word for that, and names the table.
    pub(crate) fn sets_sequence_of(&self, table: &str, dialect: Dialect) -> bool {
        const WORDS: [&str; 3] = ["SQLITE_SEQUENCE", "SETVAL", "RESTART"];
        let table = table.to_lowercase();
        let sets = |statement: &Statement| {
            let tokens = tokens(&statement.sql, dialect).unwrap_or_default();
            tokens.iter().any(|token| WORDS.iter().any(|word| token.is(word)))
                && statement.sql.to_lowercase().contains(&table)
        };
        self.statements.iter().any(sets)
    }

    /// Whether it shares a transaction with the scripts of the project's other pending migrations.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.transaction == Transaction::Shared
    }

    /// Returns the settings of a database file that it changes. SQLite takes them only before a transaction.
    #[must_use]
    pub fn file_settings(&self) -> FileSettings {
        let settings = self.statements.iter().map(|statement| match &statement.control {
            Control::Pragma(Pragma::Before(settings)) => *settings,
            _ => FileSettings::default(),
        });
        settings.fold(FileSettings::default(), FileSettings::then)
    }

    /// Whether it adds a value to an enum. A statement that uses the value may have to wait for the commit.
    #[must_use]
    pub fn adds_enum_value(&self) -> bool {
        self.statements.iter().any(|statement| statement.adds_enum_value)
    }

    /// Whether it validates a constraint. That reads all rows, so no earlier statement should hold a lock meanwhile.
    pub(crate) fn validates_constraint(&self) -> bool {
        self.statements.iter().any(Statement::validates_constraint)
    }

    /// Whether running it may delete rows. `writes_may_delete` says whether a plain write may delete rows, for instance because of
    /// a trigger that was created before. The call updates it for the scripts that run next.
    #[must_use]
    pub fn may_delete(&self, writes_may_delete: &mut bool) -> bool {
        let mut deletes = false;
        for statement in &self.statements {
            deletes |= statement.effect >= Effect::Deletes
                || (statement.effect == Effect::Writes && *writes_may_delete);
            *writes_may_delete |= statement.enables_deletes;
        }
        deletes
    }
}

/// Returns a text with a line ending in place of its own.
pub(crate) fn with_line_endings(text: &str, line_ending: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', line_ending)
}

/// Removes a `BEGIN` and a `COMMIT` around all statements, as scripts for other tools have them. On SQLite, pragmas may
/// stand before and after them. Returns whether it did; a script with any other transaction control is left as it is.
fn take_own_transaction(statements: &mut Vec<Statement>, dialect: Dialect) -> bool {
    let is_control = |it: &Statement| matches!(it.control, Control::ControlsTransaction(_));
    let words = |it: &Statement| {
        let tokens = tokens(&it.sql, dialect).unwrap_or_default();
        tokens.iter().map(|token| token.text.to_ascii_uppercase()).collect::<Vec<_>>().join(" ")
    };
    let controls: Vec<usize> =
        (0..statements.len()).filter(|index| is_control(&statements[*index])).collect();
    let [first, last] = controls[..] else { return false };
    let begins = match dialect {
        Dialect::Sqlite => matches!(
            words(&statements[first]).trim_end_matches(" TRANSACTION"),
            "BEGIN" | "BEGIN DEFERRED" | "BEGIN IMMEDIATE" | "BEGIN EXCLUSIVE"
        ),
        // Without options: an isolation level, for instance, would be lost.
        Dialect::Postgres => matches!(
            words(&statements[first]).as_str(),
            "BEGIN" | "BEGIN TRANSACTION" | "BEGIN WORK" | "START TRANSACTION"
        ),
    };
    let commits = matches!(
        words(&statements[last]).as_str(),
        "COMMIT" | "COMMIT TRANSACTION" | "COMMIT WORK" | "END" | "END TRANSACTION" | "END WORK"
    );
    let is_outside = |it: &Statement| dialect == Dialect::Sqlite && words(it).starts_with("PRAGMA ");
    if !begins || !commits || !statements[..first].iter().chain(&statements[last + 1..]).all(is_outside) {
        return false;
    }
    statements.remove(last);
    statements.remove(first);
    true
}

/// Removes the statements that create, drop or comment on extensions. Returns the extensions that are created, and the
/// other statements.
fn take_extensions(
    statements: &mut Vec<Statement>,
    direction: Direction,
    own_schema: Option<&str>,
) -> (Vec<Extension>, Vec<String>) {
    let (mut extensions, mut left_out) = (Vec::new(), Vec::new());
    statements.retain(|statement| match extension::parse(&statement.sql) {
        None => true,
        // The projects that are not migrated yet may still use it.
        Some(ExtensionStatement::Drop) if direction == Direction::Up => true,
        Some(ExtensionStatement::Create(mut extension)) => {
            // An extension belongs to all projects, so it is not in the schema of one.
            extension.schema = extension.schema.filter(|schema| Some(schema.as_str()) != own_schema);
            extensions.push(extension);
            false
        }
        Some(ExtensionStatement::Drop | ExtensionStatement::Comment) => {
            left_out.push(statement.sql.split_whitespace().collect::<Vec<_>>().join(" "));
            false
        }
    });
    (extensions, left_out)
}

fn check_allowed(statement: &Statement, path: &Path, transaction: Transaction) -> Result<()> {
    let (message, hint) = match (&statement.control, transaction) {
        (Control::None | Control::Pragma(Pragma::Run | Pragma::Before(_) | Pragma::Skip), _)
        | (Control::ControlsTransaction(_) | Control::OutsideTransaction(_), Transaction::None) => {
            return Ok(());
        }
        (Control::ControlsTransaction(word), Transaction::Shared) => (
            format!(
                "{word} would break the transaction that keeps a project at either its old or its new version"
            ),
            "remove it: all pending migrations of a project run in one transaction".into(),
        ),
        (Control::OutsideTransaction(word), Transaction::Shared) => (
            format!("{word} cannot run in a transaction"),
            "move it to a separate migration whose metadata.toml sets run_in_transaction = false".into(),
        ),
        (Control::Pragma(Pragma::Refuse(name)), _) => (
            format!("PRAGMA {name} is not allowed in a migration"),
            match *name {
                "schema_version" => {
                    "remove it: it bypasses SQLite's own checks; change a table with ALTER TABLE, or create \
                                     a new table, copy the rows and rename it"
                }
                _ => {
                    "remove it: it would affect the rest of the migration or other databases of this process"
                }
            }
            .into(),
        ),
        // A dry run tests the migrations on a scratch database. Even then this statement would change something else.
        (Control::OutsideSchema(outside), _) => outside.explain(),
    };
    Err(Error::new(ErrorKind::Catalog, message).at(path, statement.line).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, transaction: Transaction) -> Result<Script> {
        Script::parse(
            "up.sql".into(),
            text.into(),
            ParseOptions { transaction, ..ParseOptions::new(Dialect::Sqlite) },
        )
    }

    #[test]
    fn trap_8_what_breaks_a_transaction_is_refused_with_its_line() {
        for word in ["COMMIT", "ROLLBACK", "BEGIN", "END", "VACUUM"] {
            let text = format!("CREATE TABLE a (b);\n{word};");
            let error = parse(&text, Transaction::Shared).unwrap_err();
            assert_eq!((error.kind(), error.line()), (ErrorKind::Catalog, Some(2)), "{word}");
            assert!(parse(&text, Transaction::None).is_ok(), "{word} refused outside a transaction");
        }
    }

    #[test]
    fn what_reaches_for_another_file_is_refused_always() {
        for word in ["ATTACH 'x' AS y", "DETACH y", "VACUUM INTO 'x'", "vacuum main into 'x'"] {
            for transaction in [Transaction::Shared, Transaction::None] {
                assert_eq!(parse(word, transaction).unwrap_err().kind(), ErrorKind::Catalog, "{word}");
            }
        }
    }

    #[test]
    fn line_endings_are_told_from_edits() {
        let script = parse("CREATE TABLE a (b);\nSELECT 1;\n", Transaction::Shared).unwrap();
        let windows = parse("CREATE TABLE a (b);\r\nSELECT 1;\r\n", Transaction::Shared).unwrap();
        let edited = parse("CREATE TABLE a (c);\nSELECT 1;\n", Transaction::Shared).unwrap();
        assert_eq!(script.recognize(script.checksum().as_str()), ChecksumMatch::Same);
        assert_eq!(script.recognize(windows.checksum().as_str()), ChecksumMatch::LineEndings);
        assert_eq!(windows.recognize(script.checksum().as_str()), ChecksumMatch::LineEndings);
        assert_eq!(script.recognize(edited.checksum().as_str()), ChecksumMatch::Edited);
    }
}
