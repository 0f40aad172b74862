//! A migration's script: its text, its statements and its checksum.
//!
//! It must refuse what would defeat the transaction around it, before anything is run.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::metadata::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::effect::Effect;
use crate::sql::pragma::{FileSettings, Pragma};
use crate::sql::statement::{Control, Statement, split};
use crate::sql::{Dialect, TokenKind, tokens};

/// The SHA-256 of a script's bytes, as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Checksum(String);

impl Checksum {
    fn of(text: &str) -> Self {
        Self(crate::hash::hexadecimal(&Sha256::digest(text)))
    }

    /// The checksum as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a recorded checksum relates to a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recognition {
    /// It is the script's.
    Same,
    /// It is the script's with other line ends: a checkout on another system, not an edit.
    LineEnds,
    /// The script is another one now.
    Edited,
}

/// A script. One that only reserves a number has comments and no statement.
#[derive(Clone, Debug)]
pub struct Script {
    path: PathBuf,
    text: String,
    statements: Vec<Statement>,
    checksum: Checksum,
    /// The checksums of the same script with LF and with CRLF.
    variants: [Checksum; 2],
}

impl Script {
    /// Parses a script. One of comments alone has no statements.
    pub(super) fn parse(
        path: PathBuf,
        text: String,
        dialect: Dialect,
        transaction: Transaction,
    ) -> Result<Self> {
        if let Some(at) = text.find('\0') {
            let line = text[..at].matches('\n').count() + 1;
            return Err(Error::new(ErrorKind::Catalog, "there is a NUL character in it")
                .at(&path, u32::try_from(line).unwrap_or(u32::MAX))
                .with_hint("remove it: to a database the text ends there"));
        }
        let statements = split(&text, dialect).map_err(|unclosed| {
            Error::new(ErrorKind::Catalog, format!("a {} is never closed", unclosed.what))
                .at(&path, unclosed.line)
                .with_hint("close it: as it stands, the rest of the file is part of it")
        })?;
        for statement in &statements {
            refuse(statement, &path, transaction)?;
        }
        let unix = text.replace("\r\n", "\n");
        let variants = [Checksum::of(&unix), Checksum::of(&unix.replace('\n', "\r\n"))];
        Ok(Self { checksum: Checksum::of(&text), path, text, statements, variants })
    }

    /// Where it was read from, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its statements, in order.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// The SHA-256 of its bytes.
    #[must_use]
    pub fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    /// How a checksum from a ledger relates to it.
    #[must_use]
    pub fn recognize(&self, recorded: &str) -> Recognition {
        if recorded == self.checksum.0 {
            Recognition::Same
        } else if self.variants.iter().any(|variant| variant.0 == recorded) {
            Recognition::LineEnds
        } else {
            Recognition::Edited
        }
    }

    /// The most dangerous thing that any of its statements may do to rows.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.statements.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Defines)
    }

    /// Its words outside of strings and comments, in upper case.
    pub(crate) fn words(&self, dialect: Dialect) -> Vec<String> {
        let all = tokens(&self.text, dialect).unwrap_or_default();
        all.iter().filter(|it| it.kind == TokenKind::Word).map(|it| it.text.to_ascii_uppercase()).collect()
    }

    /// The settings of a database file that it makes, which SQLite takes only before a transaction.
    #[must_use]
    pub fn file_settings(&self) -> FileSettings {
        let settings = self.statements.iter().map(|statement| match &statement.control {
            Control::Pragma(Pragma::Before(settings)) => *settings,
            _ => FileSettings::default(),
        });
        settings.fold(FileSettings::default(), FileSettings::then)
    }

    /// Whether it adds a value to an enum: what uses the value may have to wait for the commit.
    #[must_use]
    pub fn adds_enum_value(&self) -> bool {
        self.statements.iter().any(|statement| statement.adds_enum_value)
    }

    /// Whether running it may delete rows, where `armed` says that a plain write may; afterwards `armed` says so again.
    #[must_use]
    pub fn may_delete(&self, armed: &mut bool) -> bool {
        let mut deletes = false;
        for statement in &self.statements {
            deletes |= statement.effect >= Effect::Deletes || (statement.effect == Effect::Writes && *armed);
            *armed |= statement.arms;
        }
        deletes
    }
}

fn refuse(statement: &Statement, path: &Path, transaction: Transaction) -> Result<()> {
    let (message, hint) = match (&statement.control, transaction) {
        (Control::None | Control::Pragma(Pragma::Run | Pragma::Before(_) | Pragma::Skip), _)
        | (Control::Breaks(_) | Control::Outside(_), Transaction::None) => return Ok(()),
        (Control::Breaks(word), Transaction::Shared) => (
            format!("{word} would break the transaction that keeps a project at its old or its new version"),
            "remove it: tenantry puts all pending migrations of a project into one transaction".into(),
        ),
        (Control::Outside(word), Transaction::Shared) => (
            format!("{word} cannot run in a transaction"),
            "give it a migration of its own whose metadata.toml says run_in_transaction = false".into(),
        ),
        (Control::Pragma(Pragma::Refuse(name)), _) => (
            format!("PRAGMA {name} changes the database past SQLite's own checks"),
            "remove it: tables are changed by ALTER TABLE, or by a new table that takes the old one's rows and name".into(),
        ),
        // A dry run proves the migrations on a private database: this would write somewhere else even then.
        (Control::OutsideSchema(elsewhere), _) => elsewhere.explain(),
    };
    Err(Error::new(ErrorKind::Catalog, message).at(path, statement.line).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, transaction: Transaction) -> Result<Script> {
        Script::parse("up.sql".into(), text.into(), Dialect::Sqlite, transaction)
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
    fn line_ends_are_told_from_edits() {
        let script = parse("CREATE TABLE a (b);\nSELECT 1;\n", Transaction::Shared).unwrap();
        let windows = parse("CREATE TABLE a (b);\r\nSELECT 1;\r\n", Transaction::Shared).unwrap();
        let edited = parse("CREATE TABLE a (c);\nSELECT 1;\n", Transaction::Shared).unwrap();
        assert_eq!(script.recognize(script.checksum().as_str()), Recognition::Same);
        assert_eq!(script.recognize(windows.checksum().as_str()), Recognition::LineEnds);
        assert_eq!(windows.recognize(script.checksum().as_str()), Recognition::LineEnds);
        assert_eq!(script.recognize(edited.checksum().as_str()), Recognition::Edited);
    }
}
