//! Reads folders of migrations in the layouts of other tools, as they are.
//!
//! The layout is recognized by the files. What a layout can say and tenantry cannot do is an error with its line.

use std::path::{Path, PathBuf};

use super::metadata::{Metadata, Transaction};
use super::order::Rule;
use super::script::Script;
use super::template::{is_template, new_scripts};
use super::{Migration, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{Dialect, line_number};

/// A file with its text.
pub(super) type SqlFile = (PathBuf, String);

/// How a tool lays out its migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `<version>_<name>.up.sql` and `.down.sql`: sqlx's reversible migrations, golang-migrate.
    UpDown,
    /// `<version>_<name>.sql`: sqlx, wrangler D1, drizzle, Rails.
    Numbered,
    /// `V<version>__<name>.sql`: refinery, Flyway.
    Versioned,
    /// `<version>_<name>.sql` with the sections `-- migrate:up` and `-- migrate:down`: dbmate.
    Dbmate,
    /// `<version>_<name>.sql` with the sections `-- +goose Up` and `-- +goose Down`: goose.
    Goose,
    /// `<version>_<name>/migration.sql`: Prisma.
    Prisma,
}

impl Layout {
    /// How the tool orders versions.
    pub(super) fn rule(self) -> Rule {
        match self {
            Self::Dbmate | Self::Prisma => Rule::PlainText,
            Self::UpDown | Self::Numbered | Self::Versioned | Self::Goose => Rule::Integers,
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
        Ok(if name == "migration.sql" {
            Self::Prisma
        } else if has("migrate:") {
            Self::Dbmate
        } else if has("+goose") {
            Self::Goose
        } else if name.ends_with(".up.sql") || name.ends_with(".down.sql") {
            Self::UpDown
        } else if name.starts_with(['V', 'U', 'R']) && name.contains("__") {
            Self::Versioned
        } else if is_numbered(&name) {
            Self::Numbered
        } else {
            return Err(Error::new(ErrorKind::Catalog, "the file's name does not start with a version")
                .at(path, None)
                .with_hint("rename it to <version>_<name>.sql, or move it out of the folder"));
        })
    }

    /// Whether a file that is not SQL belongs to a migration: a script in another language, or settings of a script.
    pub(super) fn is_other_part(path: &Path) -> bool {
        let name = file_name(path);
        is_numbered(&name) || name.ends_with(".sql.conf")
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

    /// Returns the files of a new migration, each with its name and text.
    pub(super) fn new_files(self, version: &str, name: &str, what: &str) -> Vec<(String, String)> {
        let (up, down) = new_scripts(what);
        let stem = format!("{version}_{name}");
        match self {
            Self::Numbered => vec![(format!("{stem}.sql"), up)],
            Self::UpDown => vec![(format!("{stem}.up.sql"), up), (format!("{stem}.down.sql"), down)],
            Self::Versioned => vec![(format!("V{version}__{name}.sql"), up)],
            Self::Dbmate => {
                vec![(format!("{stem}.sql"), format!("-- migrate:up\n{up}\n-- migrate:down\n{down}"))]
            }
            Self::Goose => {
                vec![(format!("{stem}.sql"), format!("-- +goose Up\n{up}\n-- +goose Down\n{down}"))]
            }
            Self::Prisma => vec![(format!("{stem}/migration.sql"), up)],
        }
    }

    /// Parses the files into migrations, unordered.
    pub(super) fn migrations(self, files: Vec<SqlFile>, dialect: Dialect) -> Result<Vec<Migration>> {
        let sources = match self {
            Self::UpDown => up_down(files)?,
            Self::Versioned => versioned(files)?,
            Self::Numbered | Self::Prisma => files.into_iter().map(plain).collect::<Result<_>>()?,
            Self::Dbmate => {
                files.into_iter().map(|file| sections(file, dbmate_line)).collect::<Result<_>>()?
            }
            Self::Goose => files.into_iter().map(|file| sections(file, goose_line)).collect::<Result<_>>()?,
        };
        sources.into_iter().map(|source| source.migration(dialect)).collect()
    }
}

/// A migration before its scripts are parsed.
struct Source {
    version: String,
    name: String,
    up: SqlFile,
    down: Option<SqlFile>,
    transaction: Transaction,
}

impl Source {
    fn migration(self, dialect: Dialect) -> Result<Migration> {
        let metadata = Metadata { transaction: self.transaction, ..Metadata::default() };
        let parse = |(path, text): SqlFile| Script::parse(path, text, dialect, self.transaction);
        let up = parse(self.up)?;
        if is_template(&up) {
            return Err(Error::new(ErrorKind::Catalog, "the migration is still the template")
                .at(up.path(), None)
                .with_hint("write it, or delete the file"));
        }
        let (down, down_error) = match self.down.map(parse) {
            None => (None, None),
            Some(Ok(down)) if is_template(&down) => (None, None),
            Some(Ok(down)) => (Some(down), None),
            Some(Err(error)) => (None, Some(error.summary())),
        };
        Ok(Migration { version: Version::new(self.version), name: self.name, up, down, down_error, metadata })
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

/// Whether a name begins with a number and `_`.
fn is_numbered(name: &str) -> bool {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && name[digits..].starts_with('_')
}

/// What follows a tag in a comment, such as `up` in `-- migrate:up`. Tools allow white space before the tag.
fn annotation<'a>(line: &'a str, tag: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix("--")?.trim_start().strip_prefix(tag)
}

/// Fails on a comment that begins a section for undoing the migration, as tools have it whose layout is not known here.
/// The section would run together with the migration.
fn refuse_unknown_sections((path, text): &SqlFile) -> Result<()> {
    let is_section = |line: &str| {
        let comment = line.trim_start().trim_start_matches(['-', '#', '/', ' ', '\t']);
        let is_marked = comment.len() < line.len() && comment.starts_with(['+', '!', '@']);
        let words = comment.to_ascii_lowercase();
        is_marked && ["down", "undo"].iter().any(|word| words.contains(word))
    };
    match text.lines().position(is_section) {
        None => Ok(()),
        Some(index) => Err(Error::new(ErrorKind::Catalog, "the section belongs to a tool that is not known")
            .at(path, line_number(index + 1))
            .with_hint("put the statements that undo the migration into a file of their own: <version>_<name>.down.sql")),
    }
}

/// sqlx runs a script that begins with this comment without a transaction.
fn transaction_of(text: &str) -> Transaction {
    if text.starts_with("-- no-transaction") { Transaction::None } else { Transaction::Shared }
}

/// One file is one migration. Prisma's version is in the name of its folder.
fn plain(file: SqlFile) -> Result<Source> {
    refuse_unknown_sections(&file)?;
    let (path, text) = file;
    let file = file_name(&path);
    let stem = match path.parent() {
        Some(folder) if file == "migration.sql" => file_name(folder),
        _ => file.trim_end_matches(".sql").to_string(),
    };
    let (version, name) = version_and_name(&stem, "_", &path)?;
    Ok(Source { version, name, transaction: transaction_of(&text), up: (path, text), down: None })
}

fn up_down(files: Vec<SqlFile>) -> Result<Vec<Source>> {
    let (ups, mut downs): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(path, _)| file_name(path).ends_with(".up.sql"));
    let mut sources = Vec::new();
    for (path, text) in ups {
        let file = file_name(&path);
        let stem = file.trim_end_matches(".up.sql").to_string();
        let (version, name) = version_and_name(&stem, "_", &path)?;
        let down = downs.iter().position(|(it, _)| file_name(it) == format!("{stem}.down.sql"));
        let down = down.map(|index| downs.swap_remove(index));
        let is_outside = down
            .iter()
            .map(|(_, text)| text)
            .chain([&text])
            .any(|it| transaction_of(it) == Transaction::None);
        let transaction = if is_outside { Transaction::None } else { Transaction::Shared };
        sources.push(Source { version, name, up: (path, text), down, transaction });
    }
    match downs.into_iter().next() {
        None => Ok(sources),
        Some((path, _)) => {
            Err(Error::new(ErrorKind::Catalog, "there is no .up.sql of the same name").at(path, None))
        }
    }
}

/// `U<version>__` is Flyway's undo script if there is a `V` of the same version; else it is one of refinery's migrations.
fn versioned(files: Vec<SqlFile>) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    let mut undo = Vec::new();
    for (path, text) in files {
        let file = file_name(&path);
        let stem = file.trim_end_matches(".sql");
        if stem.starts_with("R__") {
            return Err(Error::new(ErrorKind::Catalog, "a repeatable migration cannot be run")
                .at(path, None)
                .with_hint("make it a migration with a version; write a new one when its text changes"));
        }
        if let Some(index) = text.lines().position(|line| line.contains("${")) {
            return Err(Error::new(ErrorKind::Catalog, "Flyway's placeholders are not replaced")
                .at(path, line_number(index + 1))
                .with_hint("write the value itself"));
        }
        let (version, name) = version_and_name(&stem[1..], "__", &path)?;
        let is_undo = stem.starts_with('U');
        let source = Source { version, name, up: (path, text), down: None, transaction: Transaction::Shared };
        if is_undo { &mut undo } else { &mut sources }.push(source);
    }
    for source in undo {
        match sources.iter_mut().find(|it| it.version == source.version && it.down.is_none()) {
            Some(migration) => migration.down = Some(source.up),
            None => sources.push(source),
        }
    }
    Ok(sources)
}

/// What a line with a tool's annotation says.
enum Annotation {
    Up,
    Down,
    NoTransaction,
    Nothing,
}

type ReadLine = fn(&str) -> std::result::Result<Vec<Annotation>, String>;

fn dbmate_line(line: &str) -> std::result::Result<Vec<Annotation>, String> {
    let Some(rest) = annotation(line, "migrate:") else { return Ok(Vec::new()) };
    let mut words = rest.split_whitespace();
    let mut found = match words.next() {
        Some("up") => vec![Annotation::Up],
        Some("down") => vec![Annotation::Down],
        other => return Err(format!("unknown section {:?}", other.unwrap_or_default())),
    };
    for option in words {
        match option {
            "transaction:true" => {}
            "transaction:false" => found.push(Annotation::NoTransaction),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(found)
}

fn goose_line(line: &str) -> std::result::Result<Vec<Annotation>, String> {
    let Some(rest) = annotation(line, "+goose") else { return Ok(Vec::new()) };
    Ok(vec![match rest.trim().to_ascii_lowercase().as_str() {
        "up" => Annotation::Up,
        "down" => Annotation::Down,
        "no transaction" => Annotation::NoTransaction,
        // Statements are told apart by their tokens.
        "statementbegin" | "statementend" | "envsub off" => Annotation::Nothing,
        other => return Err(format!("unknown annotation {other:?}")),
    }])
}

/// Splits a file with sections into its scripts. Each keeps the lines that it has in the file.
fn sections((path, text): SqlFile, read_line: ReadLine) -> Result<Source> {
    let stem = file_name(&path).trim_end_matches(".sql").to_string();
    let (version, name) = version_and_name(&stem, "_", &path)?;
    let mut sections = Sections { up: None, down: None, is_up: true };
    let mut transaction = Transaction::Shared;
    for (index, line) in text.lines().enumerate() {
        let fault =
            |message: String| Error::new(ErrorKind::Catalog, message).at(&path, line_number(index + 1));
        let annotations = read_line(line).map_err(fault)?;
        for annotation in &annotations {
            match annotation {
                Annotation::Up => sections.begin(true, index).map_err(fault)?,
                Annotation::Down => sections.begin(false, index).map_err(fault)?,
                Annotation::NoTransaction => transaction = Transaction::None,
                Annotation::Nothing => {}
            }
        }
        sections.push(if annotations.is_empty() { line } else { "" }).map_err(fault)?;
    }
    let Sections { up, down, .. } = sections;
    let up =
        up.ok_or_else(|| Error::new(ErrorKind::Catalog, "the file has no section for up").at(&path, None))?;
    Ok(Source { version, name, transaction, down: down.map(|text| (path.clone(), text)), up: (path, up) })
}

/// The scripts of a file with sections, as far as it was read.
struct Sections {
    up: Option<String>,
    down: Option<String>,
    /// Which section is being read.
    is_up: bool,
}

impl Sections {
    fn current(&mut self) -> &mut Option<String> {
        if self.is_up { &mut self.up } else { &mut self.down }
    }

    /// Begins a section on a line, counted from 0. The lines before it are empty.
    fn begin(&mut self, is_up: bool, line: usize) -> std::result::Result<(), String> {
        self.is_up = is_up;
        match self.current().replace("\n".repeat(line)) {
            None => Ok(()),
            Some(_) => Err("the section occurs twice".into()),
        }
    }

    /// Adds a line to the section. Before the first section only comments are allowed.
    fn push(&mut self, line: &str) -> std::result::Result<(), String> {
        match self.current() {
            Some(script) => {
                script.extend([line, "\n"]);
                Ok(())
            }
            None if line.trim().is_empty() || line.trim_start().starts_with("--") => Ok(()),
            None => Err("the statement is in no section".into()),
        }
    }
}
