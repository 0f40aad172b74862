//! Decides how a SQLite pragma in a script is handled: run in place, set before the transaction, skipped or refused.
//!
//! Decides by the pragma's text alone, so that a dry run and the run agree.

use super::{Token, TokenKind};

/// Settings of a database file. SQLite changes them only outside a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSettings {
    /// `journal_mode`.
    pub journal: Option<Journal>,
    /// `auto_vacuum`: 0, 1 or 2. SQLite changes it from or to 0 only while the database is empty.
    pub auto_vacuum: Option<u8>,
    /// `page_size`, in bytes. SQLite changes it only while the database is empty.
    pub page_size: Option<u32>,
    /// `encoding`. SQLite changes it only while the database is empty.
    pub encoding: Option<Encoding>,
}

/// A journal mode that the file stores, or that replaces a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// A write-ahead log.
    Wal,
    /// A rollback journal. Each connection decides whether to delete, truncate or keep it.
    Rollback,
}

/// The text encoding of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// UTF-16 in the machine's byte order.
    Utf16,
    /// UTF-16, little-endian.
    Utf16Le,
    /// UTF-16, big-endian.
    Utf16Be,
}

impl Encoding {
    const fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16 => "UTF-16",
            Self::Utf16Le => "UTF-16le",
            Self::Utf16Be => "UTF-16be",
        }
    }
}

impl FileSettings {
    /// No settings: the file is not changed.
    pub const NONE: Self = Self { journal: None, auto_vacuum: None, page_size: None, encoding: None };

    /// Returns these settings, overridden by those that `later` sets.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            journal: later.journal.or(self.journal),
            auto_vacuum: later.auto_vacuum.or(self.auto_vacuum),
            page_size: later.page_size.or(self.page_size),
            encoding: later.encoding.or(self.encoding),
        }
    }

    /// Returns the pragmas that apply the settings. The journal mode comes last: it writes the file's first page, and
    /// SQLite takes the other settings only before that.
    pub(crate) fn statements(self) -> impl Iterator<Item = String> {
        let page_size = self.page_size.map(|size| format!("PRAGMA page_size = {size}"));
        let encoding = self.encoding.map(|encoding| format!("PRAGMA encoding = '{}'", encoding.name()));
        let auto_vacuum = self.auto_vacuum.map(|mode| format!("PRAGMA auto_vacuum = {mode}"));
        let journal = self.journal.map(|journal| match journal {
            Journal::Wal => "PRAGMA journal_mode = WAL".to_string(),
            Journal::Rollback => "PRAGMA journal_mode = DELETE".to_string(),
        });
        [page_size, encoding, auto_vacuum, journal].into_iter().flatten()
    }
}

/// How a pragma in a script is handled if the script runs in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pragma {
    /// It runs at its place in the script.
    Run,
    /// These settings are applied before the transaction begins.
    Before(FileSettings),
    /// It is skipped: SQLite refuses it in a transaction, and it has no lasting effect on the database.
    Skip,
    /// It is refused: it would bypass SQLite's checks, or affect more than the migration. Holds the pragma's name.
    Refuse(&'static str),
}

/// Returns how a `PRAGMA` statement is handled. `None` for any other statement.
pub(super) fn pragma(tokens: &[Token<'_>]) -> Option<Pragma> {
    /// Settings of a connection and work on the file that SQLite refuses in a transaction, and settings that change the
    /// results of queries.
    const SKIPPED: [&str; 9] = [
        "synchronous",
        "temp_store",
        "temp_store_directory",
        "wal_checkpoint",
        "locking_mode",
        "count_changes",
        "empty_result_callbacks",
        "full_column_names",
        "short_column_names",
    ];
    const REFUSED: [&str; 3] = ["schema_version", "data_store_directory", "query_only"];
    if !tokens.first()?.is("PRAGMA") {
        return None;
    }
    let unqualified = match tokens {
        [_, schema, dot, tokens @ ..] if schema.kind == TokenKind::Word && dot.is_symbol(".") => tokens,
        [_, tokens @ ..] => tokens,
        [] => return None,
    };
    let name = unqualified.first()?;
    let value = match unqualified.get(1..)? {
        [open, value, ..] if open.is_symbol("=") || open.is_symbol("(") => Some(value),
        _ => None,
    };
    let text = value.and_then(|value| {
        if value.kind == TokenKind::Number { Some(value.text.to_string()) } else { value.name() }
    });
    let refused = REFUSED.into_iter().find(|it| name.is(it));
    if let (Some(refused), Some(_)) = (refused, &text) {
        return Some(Pragma::Refuse(refused));
    }
    if SKIPPED.iter().any(|it| name.is(it)) && (text.is_some() || name.is("wal_checkpoint")) {
        return Some(Pragma::Skip);
    }
    let Some(text) = text else { return Some(Pragma::Run) };
    let settings = FileSettings::default();
    let is = |wanted: &str| text.eq_ignore_ascii_case(wanted);
    Some(if name.is("journal_mode") {
        if is("wal") {
            Pragma::Before(FileSettings { journal: Some(Journal::Wal), ..settings })
        } else if is("delete") || is("truncate") || is("persist") {
            Pragma::Before(FileSettings { journal: Some(Journal::Rollback), ..settings })
        } else {
            // Without a journal on disk, a killed process leaves a corrupt file.
            Pragma::Skip
        }
    } else if name.is("auto_vacuum") {
        let mode = match text.to_ascii_lowercase().as_str() {
            "none" | "0" => Some(0),
            "full" | "1" => Some(1),
            "incremental" | "2" => Some(2),
            _ => None,
        };
        mode.map_or(Pragma::Run, |mode| Pragma::Before(FileSettings { auto_vacuum: Some(mode), ..settings }))
    } else if name.is("page_size") {
        let size = text.parse().ok();
        size.map_or(Pragma::Run, |size| Pragma::Before(FileSettings { page_size: Some(size), ..settings }))
    } else if name.is("encoding") {
        let known = [Encoding::Utf8, Encoding::Utf16, Encoding::Utf16Le, Encoding::Utf16Be];
        let encoding = known.into_iter().find(|encoding| is(encoding.name()));
        encoding.map_or(Pragma::Run, |it| Pragma::Before(FileSettings { encoding: Some(it), ..settings }))
    } else {
        Pragma::Run
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Dialect, tokens};

    #[test]
    fn each_pragma_runs_where_sqlite_allows_it() {
        let of = |sql: &str| pragma(&tokens(sql, Dialect::Sqlite).unwrap());
        let before = |settings| Some(Pragma::Before(settings));
        let none = FileSettings::default();
        assert_eq!(of("SELECT 1"), None);
        assert_eq!(of("PRAGMA journal_mode"), Some(Pragma::Run));
        assert_eq!(
            of("pragma main.journal_mode = 'wal'"),
            before(FileSettings { journal: Some(Journal::Wal), ..none })
        );
        assert_eq!(
            of("PRAGMA journal_mode(DELETE)"),
            before(FileSettings { journal: Some(Journal::Rollback), ..none })
        );
        assert_eq!(of("PRAGMA journal_mode = OFF"), Some(Pragma::Skip));
        assert_eq!(of("PRAGMA page_size = 8192"), before(FileSettings { page_size: Some(8192), ..none }));
        assert_eq!(of("PRAGMA auto_vacuum = FULL"), before(FileSettings { auto_vacuum: Some(1), ..none }));
        assert_eq!(
            of("PRAGMA encoding = 'UTF-16le'"),
            before(FileSettings { encoding: Some(Encoding::Utf16Le), ..none })
        );
        assert_eq!(of("PRAGMA synchronous = NORMAL"), Some(Pragma::Skip));
        assert_eq!(of("PRAGMA wal_checkpoint"), Some(Pragma::Skip));
        assert_eq!(of("PRAGMA schema_version = 1"), Some(Pragma::Refuse("schema_version")));
        for sql in [
            "PRAGMA user_version = 5",
            "PRAGMA foreign_keys = OFF",
            "PRAGMA table_info(a)",
            "PRAGMA optimize",
        ] {
            assert_eq!(of(sql), Some(Pragma::Run), "{sql}");
        }
    }
}
