//! Folders of migrations in the layouts of other tools. The layout is recognized by the files, or named.
//!
//! Versions, order and the marks that run a script outside a transaction are those of each tool. A feature that tenantry
//! does not support is an error with its line.

mod files;
mod journal;
mod sections;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::metadata::{Metadata, Transaction};
use super::order::Rule;
use super::script::{Direction, ParseOptions, Script};
use super::template::{is_template, new_scripts};
use super::{Migration, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::statement::Control;

pub(super) use journal::check_journal;
use sections::{annotation, dbmate_line, goose_line, sections};

/// A file with its path and text.
pub(super) type SqlFile = (PathBuf, String);

/// How a tool keeps migrations in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `<version>_<name>.up.sql` and `.down.sql`: sqlx's reversible migrations, golang-migrate.
    UpDown,
    /// `<version>_<name>.sql`: sqlx, wrangler D1, drizzle, Atlas.
    Numbered,
    /// `V<version>__<name>.sql`: refinery, Flyway.
    Versioned,
    /// `V<version>__<name>.sql` with `U<version>__<name>.sql` to undo it: Flyway.
    Flyway,
    /// `V<version>__<name>.sql` and `U<version>__<name>.sql`, which are both migrations: refinery.
    Refinery,
    /// `<version>_<name>.sql` with the sections `-- migrate:up` and `-- migrate:down`: dbmate.
    Dbmate,
    /// `<version>_<name>.sql` with the sections `-- +goose Up` and `-- +goose Down`: goose.
    Goose,
    /// `<version>_<name>/migration.sql`: Prisma.
    Prisma,
}

/// How the files of Flyway's repeatable migrations begin.
const REPEATABLE: &str = "R__";

/// The names of the tools, each with its layout. sqlx has two. Those with none have folders with an up.sql, as [`super::read`]
/// reads them.
const NAMES: [(&str, &[Layout]); 12] = [
    ("atlas", &[Layout::Numbered]),
    ("dbmate", &[Layout::Dbmate]),
    ("diesel", &[]),
    ("drizzle", &[Layout::Numbered]),
    ("flyway", &[Layout::Flyway]),
    ("golang-migrate", &[Layout::UpDown]),
    ("goose", &[Layout::Goose]),
    ("prisma", &[Layout::Prisma]),
    ("refinery", &[Layout::Refinery]),
    ("sqlx", &[Layout::UpDown, Layout::Numbered]),
    ("tenantry", &[]),
    ("wrangler", &[Layout::Numbered]),
];

/// The layout that a folder is said to have, by the name of its tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedLayout {
    name: &'static str,
    layouts: &'static [Layout],
}

impl FromStr for NamedLayout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(name, layouts)| Self { name, layouts }).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            Error::new(ErrorKind::Configuration, format!("unknown layout {text:?}"))
                .with_hint(format!("the layouts are {}", names.join(", ")))
        })
    }
}

impl NamedLayout {
    /// Returns the layout that was meant by the one that the files show. Fails if they show another one.
    pub(super) fn confirm(self, shown: Layout, folder: &Path) -> Result<Layout> {
        let is_meant = |layout: &&Layout| {
            **layout == shown
                || (shown == Layout::Versioned && matches!(layout, Layout::Flyway | Layout::Refinery))
        };
        self.layouts.iter().find(is_meant).copied().ok_or_else(|| self.not_shown(folder))
    }

    /// Fails unless folders with an up.sql were meant.
    pub(super) fn confirm_folders(self, folder: &Path) -> Result<()> {
        if self.layouts.is_empty() { Ok(()) } else { Err(self.not_shown(folder)) }
    }

    fn not_shown(self, folder: &Path) -> Error {
        Error::new(ErrorKind::Catalog, format!("the folder does not have the layout of {}", self.name))
            .at(folder, None)
            .with_hint("leave out --layout and [migrations] layout: the layout is recognized by the files")
    }
}

impl Layout {
    /// How the tool orders versions.
    pub(super) fn rule(self) -> Rule {
        match self {
            Self::Dbmate | Self::Prisma => Rule::PlainText,
            _ => Rule::Integers,
        }
    }

    /// Whether a file's name is that of a migration in one of these layouts.
    pub(super) fn is_migration(path: &Path) -> bool {
        Self::of(&(path.to_path_buf(), String::new())).is_ok()
    }

    /// Recognizes the layout of a file by its name and text.
    fn of((path, text): &SqlFile) -> Result<Self> {
        let name = file_name(path);
        let has = |tag: &str| text.lines().any(|line| annotation(line, tag).is_some());
        Ok(if name == "migration.sql" || name == "down.sql" {
            Self::Prisma
        } else if has("migrate:") {
            Self::Dbmate
        } else if has("+goose") {
            Self::Goose
        } else if name.ends_with(".up.sql") || name.ends_with(".down.sql") {
            Self::UpDown
        } else if is_versioned(&name) {
            Self::Versioned
        } else if is_numbered(&name) {
            Self::Numbered
        } else {
            return Err(Error::new(ErrorKind::Catalog, "the file's name does not start with a version")
                .at(path, None)
                .with_hint("rename it to <version>_<name>.sql, or move it out of the folder"));
        })
    }

    /// Whether a file whose name does not end with `.sql` belongs to a migration: a script in another language, or settings
    /// of a script.
    pub(super) fn is_other_part(path: &Path) -> bool {
        let name = file_name(path);
        is_numbered(&name) || is_versioned(&name) || name.ends_with(".sql.conf")
    }

    /// Recognizes the layout that all files have.
    pub(super) fn of_all(files: &[SqlFile]) -> Result<Option<Self>> {
        let Some((first, others)) = files.split_first() else { return Ok(None) };
        let layout = Self::of(first)?;
        for file in others {
            if Self::of(file)? != layout {
                return Err(Error::new(
                    ErrorKind::Catalog,
                    format!("it has another layout than {}", file_name(&first.0)),
                )
                .at(&file.0, None)
                .with_hint("keep the migrations of one tool in a folder"));
            }
        }
        Ok(Some(layout))
    }

    /// Returns the files of a new migration that is to be filled in, each with its name and text.
    pub(super) fn new_files(self, version: &str, name: &str, what: &str) -> Vec<(String, String)> {
        let (up, down) = new_scripts(what);
        let section = down.replace("this file", "this section");
        let is_section = matches!(self, Self::Dbmate | Self::Goose);
        self.files(version, name, &up, Some(if is_section { &section } else { &down }))
    }

    /// Returns the files of a migration, each with its name and text. Some layouts have no place for a script that reverts it.
    pub(super) fn files(
        self,
        version: &str,
        name: &str,
        up: &str,
        down: Option<&str>,
    ) -> Vec<(String, String)> {
        let stem = format!("{version}_{name}");
        let sections = |first: &str, second: &str| {
            let down = down.map(|down| format!("\n{second}\n{down}")).unwrap_or_default();
            vec![(format!("{stem}.sql"), format!("{first}\n{up}{down}"))]
        };
        match self {
            Self::Numbered => vec![(format!("{stem}.sql"), up.into())],
            Self::UpDown => {
                let down = down.map(|down| (format!("{stem}.down.sql"), down.to_string()));
                [(format!("{stem}.up.sql"), up.to_string())].into_iter().chain(down).collect()
            }
            Self::Versioned | Self::Flyway | Self::Refinery => {
                vec![(format!("V{version}__{name}.sql"), up.into())]
            }
            Self::Dbmate => sections("-- migrate:up", "-- migrate:down"),
            Self::Goose => sections("-- +goose Up", "-- +goose Down"),
            Self::Prisma => vec![(format!("{stem}/migration.sql"), up.into())],
        }
    }

    /// Parses the files into migrations, unordered.
    pub(super) fn migrations(self, files: Vec<SqlFile>, options: ParseOptions<'_>) -> Result<Vec<Migration>> {
        let each = |parse: &dyn Fn(SqlFile) -> Result<Source>, files: Vec<SqlFile>| {
            files.into_iter().map(parse).collect::<Result<Vec<_>>>()
        };
        let sources = match self {
            Self::UpDown => files::up_down(files)?,
            Self::Versioned | Self::Flyway | Self::Refinery => files::versioned(files, self)?,
            Self::Numbered => each(&files::plain, files)?,
            Self::Prisma => files::prisma(files)?,
            Self::Dbmate => each(&|file| sections(file, dbmate_line), files)?,
            Self::Goose => each(&|file| sections(file, goose_line), files)?,
        };
        sources.into_iter().map(|source| source.migration(options)).collect()
    }
}

/// A migration before its scripts are parsed.
struct Source {
    version: String,
    name: String,
    up: Way,
    down: Option<Way>,
}

/// The script for one direction.
struct Way {
    file: SqlFile,
    transaction: Transaction,
}

impl Way {
    fn plain(file: SqlFile) -> Self {
        Self { file, transaction: Transaction::Shared }
    }

    /// Parses the script. One whose only statement cannot run in a transaction runs outside: the tools send it like that.
    fn parse(self, options: ParseOptions<'_>, direction: Direction) -> Result<Script> {
        let (path, text) = self.file;
        let outside = ParseOptions { transaction: Transaction::None, direction, ..options };
        let is_alone = self.transaction == Transaction::Shared
            && Script::parse(path.clone(), text.clone(), outside).is_ok_and(|script| {
                matches!(script.statements(), [only] if matches!(only.control, Control::OutsideTransaction(_)))
            });
        let transaction = if is_alone { Transaction::None } else { self.transaction };
        Script::parse(path, text, ParseOptions { transaction, direction, ..options })
    }
}

impl Source {
    fn migration(self, options: ParseOptions<'_>) -> Result<Migration> {
        let up = self.up.parse(options, Direction::Up)?;
        if is_template(&up) {
            return Err(Error::new(ErrorKind::Catalog, "the migration is still the template")
                .at(up.path(), None)
                .with_hint("write it, or delete the file"));
        }
        let (down, down_error) = match self.down.map(|down| down.parse(options, Direction::Down)) {
            None => (None, None),
            Some(Ok(down)) if is_template(&down) => (None, None),
            Some(Ok(down)) => (Some(down), None),
            Some(Err(error)) => (None, Some(error.summary())),
        };
        // Only Flyway's repeatable migrations have a version that is no number.
        let is_repeatable = self.version.starts_with(REPEATABLE);
        if is_repeatable && !up.is_transactional() {
            return Err(Error::new(ErrorKind::Catalog, "a repeatable migration has to run in a transaction")
                .at(up.path(), None)
                .with_hint("write what cannot run in a transaction as a migration with a version"));
        }
        Ok(Migration {
            version: Version::new(self.version),
            name: self.name,
            up,
            down,
            down_error,
            metadata: Metadata::default(),
            is_repeatable,
        })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Splits `<digits>_<name>`. `path` is for the error.
fn version_and_name(stem: &str, separator: &str, path: &Path) -> Result<(String, String)> {
    let (version, name) = stem.split_once(separator).unwrap_or((stem, ""));
    let is_number = (1..=19).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(Error::new(ErrorKind::Catalog, format!("{version:?} is not a version"))
            .at(path, None)
            .with_hint(format!("a version is a whole number before the first {separator} of the name")));
    }
    Ok((version.to_string(), name.to_string()))
}

/// Whether a name begins with a number and `_`, or has no more than a number before its extension.
fn is_numbered(name: &str) -> bool {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && (name[digits..].starts_with('_') || name[digits..].eq_ignore_ascii_case(".sql"))
}

/// Whether a name begins as Flyway's and refinery's do: `V1__`, `U1__` or `R__`.
fn is_versioned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(['V', 'U', 'R']) else { return false };
    let version = rest.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.' || it == '_');
    rest.len() > version.len() && rest.contains("__")
}
