//! Reads folders of migrations: `<version>_<name>/{up.sql,down.sql,metadata.toml}` as diesel has them, or another tool's
//! layout.
//!
//! Fails on an unexpected file in a migration's folder: silently ignoring it could mean that a migration never runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::layout::{Layout, NamedLayout, SqlFile, check_journal};
use super::metadata::Metadata;
use super::order::Rule;
use super::script::{Direction, ParseOptions, Script};
use super::template::is_template;
use super::{Migration, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::Dialect;

/// Files with their paths and bytes.
pub(super) type Files = Vec<(PathBuf, Vec<u8>)>;

/// How to read a folder of migrations. By default the layout is recognized by the files.
///
/// ```
/// use tenantry::catalog::FolderOptions;
///
/// let options = FolderOptions::default().layout("refinery".parse()?).own_schema("public");
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct FolderOptions {
    layout: Option<NamedLayout>,
    own_schema: Option<String>,
}

impl FolderOptions {
    /// Names the tool whose layout the folder has.
    #[must_use]
    pub fn layout(self, layout: NamedLayout) -> Self {
        Self { layout: Some(layout), ..self }
    }

    /// Sets the name by which scripts for Postgres call the schema that they are for, such as `public`. In a project it
    /// means the project's own schema.
    #[must_use]
    pub fn own_schema(self, name: impl Into<String>) -> Self {
        Self { own_schema: Some(name.into()), ..self }
    }

    pub(super) fn parse_options(&self, dialect: Dialect) -> ParseOptions<'_> {
        ParseOptions { own_schema: self.own_schema.as_deref(), ..ParseOptions::new(dialect) }
    }
}

/// A folder's migrations.
pub(super) struct Folder {
    /// The folder itself, or its subfolder for the dialect.
    pub(super) path: PathBuf,
    pub(super) rule: Rule,
    /// The migrations, unordered.
    pub(super) migrations: Vec<Migration>,
    /// The SQL files beside the migrations' folders.
    pub(super) ignored_files: Vec<PathBuf>,
}

/// Returns the possible names of the subfolder for a dialect.
const fn names(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Sqlite => &["sqlite", "sqlite3"],
        Dialect::Postgres => &["postgres", "postgresql", "pg"],
    }
}

/// Returns the subfolder for a dialect. `None` if there is none. Fails if there are two.
pub(super) fn dialect_folder(directory: &Path, dialect: Dialect) -> Result<Option<PathBuf>> {
    let mut found: Vec<_> =
        names(dialect).iter().map(|name| directory.join(name)).filter(|it| it.is_dir()).collect();
    let first = found.pop();
    match found.pop() {
        None => Ok(first),
        Some(other) => {
            let message = format!("there are two folders for {}", dialect.name());
            Err(Error::new(ErrorKind::Catalog, message).at(other, None).with_hint("keep only one of them"))
        }
    }
}

/// Reads the migrations of a folder. If the folder has a subfolder for the dialect, reads that instead.
pub(super) fn directory(directory: &Path, dialect: Dialect, options: &FolderOptions) -> Result<Folder> {
    let (path, rule) = choose_folder(directory, dialect)?;
    let listing = Listing::of(&path)?;
    if let Some(empty) = listing.empty_folder {
        return Err(Error::new(ErrorKind::Catalog, "the folder has no up.sql").at(empty, None));
    }
    if listing.files.is_empty() {
        let (rule, migrations) = listing.in_other_layout(&path, rule, dialect, options)?;
        return Ok(Folder { path, rule, migrations, ignored_files: Vec::new() });
    }
    // Ignoring a migration in another layout would mean that it never runs.
    let other = listing.sql_files.iter().find(|it| Layout::is_migration(it));
    if let Some(file) = other.or(listing.journal.as_ref()) {
        return Err(Error::new(ErrorKind::Catalog, "the folder has migrations in two layouts")
            .at(file, None)
            .with_hint("keep one layout: folders with up.sql, or the files of one other tool"));
    }
    if let Some(layout) = options.layout {
        layout.confirm_folders(&path)?;
    }
    let migrations = migrations(listing.files, options.parse_options(dialect))?;
    Ok(Folder { path, rule, migrations, ignored_files: listing.sql_files })
}

/// Returns the folder itself or its subfolder for the dialect, and the order of its versions.
fn choose_folder(directory: &Path, dialect: Dialect) -> Result<(PathBuf, Rule)> {
    if let Some(subfolder) = dialect_folder(directory, dialect)? {
        return Ok((subfolder, Rule::Numbers));
    }
    let other = match dialect {
        Dialect::Sqlite => Dialect::Postgres,
        Dialect::Postgres => Dialect::Sqlite,
    };
    if dialect_folder(directory, other)?.is_some() {
        let message = format!("these migrations are for {} only", other.name());
        return Err(Error::new(ErrorKind::Catalog, message).at(directory, None).with_hint(format!(
            "put the migrations for {} into a subfolder {}",
            dialect.name(),
            dialect.name()
        )));
    }
    Ok((directory.to_path_buf(), Rule::Text))
}

/// What a folder of migrations contains.
#[derive(Default)]
struct Listing {
    /// The files in the folders of migrations.
    files: Files,
    /// The SQL files beside them, and Prisma's migrations.
    sql_files: Vec<PathBuf>,
    /// Files that are not SQL and belong to migrations of another tool.
    other_parts: Vec<PathBuf>,
    /// drizzle's list of migrations.
    journal: Option<PathBuf>,
    /// The last folder without files.
    empty_folder: Option<PathBuf>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self> {
        let mut listing = Self::default();
        for entry in entries(folder)? {
            if entry.is_dir() {
                listing.add_folder(entry)?;
            } else if entry.extension().is_some_and(|extension| extension == "sql") {
                listing.sql_files.push(entry);
            } else if Layout::is_other_part(&entry) {
                listing.other_parts.push(entry);
            }
        }
        Ok(listing)
    }

    fn add_folder(&mut self, folder: PathBuf) -> Result<()> {
        let scripts = entries(&folder)?;
        let has = |name: &str| scripts.iter().any(|it| it.ends_with(name));
        if scripts.is_empty() {
            self.empty_folder = Some(folder);
        } else if has("_journal.json") {
            self.journal = Some(folder.join("_journal.json"));
        } else if has("migration.sql") && !has("up.sql") {
            let is_unexpected = |it: &&PathBuf| !it.ends_with("migration.sql") && !it.ends_with("down.sql");
            if let Some(file) = scripts.iter().find(is_unexpected) {
                return Err(Error::new(ErrorKind::Catalog, "unexpected file in a migration's folder")
                    .at(file, None)
                    .with_hint("only migration.sql and down.sql are allowed"));
            }
            self.sql_files.extend(scripts);
        } else if let Some(inner) = scripts.iter().find(|it| it.is_dir()) {
            // A folder of sets, or of one set's migrations one level up.
            return Err(Error::new(
                ErrorKind::Catalog,
                "the folder contains folders, so it is not a migration",
            )
            .at(inner, None)
            .with_hint(format!(
                "if its folders are migrations, name it: --migrations {}",
                folder.display()
            )));
        } else {
            for file in scripts {
                let bytes = std::fs::read(&file).map_err(|error| Error::io("read", &file, error))?;
                self.files.push((file, bytes));
            }
        }
        Ok(())
    }

    /// Parses the migrations of a folder in another tool's layout. `rule` is for a folder without migrations.
    fn in_other_layout(
        self,
        folder: &Path,
        rule: Rule,
        dialect: Dialect,
        options: &FolderOptions,
    ) -> Result<(Rule, Vec<Migration>)> {
        if let (Some(part), false) = (self.other_parts.first(), self.sql_files.is_empty()) {
            return Err(Error::new(ErrorKind::Catalog, "only SQL files can be run")
                .at(part, None)
                .with_hint("write the migration as SQL, or move the file out of the folder"));
        }
        if let Some(file) = self.sql_files.iter().find(|it| it.ends_with("up.sql")) {
            let parent = folder.parent().unwrap_or(folder).display();
            return Err(Error::new(ErrorKind::Catalog, "this is the folder of one migration")
                .at(file, None)
                .with_hint(format!("name the folder that it is in: --migrations {parent}")));
        }
        let files = self.sql_files.into_iter().map(read_text).collect::<Result<Vec<_>>>()?;
        if let Some(journal) = self.journal {
            check_journal(&journal, &files)?;
        }
        let Some(shown) = Layout::of_all(&files)? else { return Ok((rule, Vec::new())) };
        let layout = options.layout.map_or(Ok(shown), |named| named.confirm(shown, folder))?;
        Ok((layout.rule(), layout.migrations(files, options.parse_options(dialect))?))
    }
}

fn read_text(path: PathBuf) -> Result<SqlFile> {
    let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let text = text(&path, bytes)?;
    Ok((path, text))
}

/// Returns the layout of a folder that has migrations of another tool, with the names of its migrations.
pub(super) fn other_layout(folder: &Path) -> Result<Option<(Layout, Vec<String>)>> {
    let Listing { sql_files, journal, .. } = Listing::of(folder)?;
    if let Some(journal) = journal {
        return Err(Error::new(ErrorKind::Usage, "drizzle's journal lists the migrations of this folder")
            .at(journal, None)
            .with_hint("add the migration with drizzle-kit; tenantry runs it"));
    }
    let files = sql_files.into_iter().filter(|it| Layout::is_migration(it)).map(read_text);
    let files = files.collect::<Result<Vec<_>>>()?;
    let layout = Layout::of_all(&files)?;
    let name = |(path, _): &SqlFile| {
        let path = if layout == Some(Layout::Prisma) { path.parent().unwrap_or(path) } else { path };
        path.file_name().unwrap_or_default().to_string_lossy().trim_start_matches(['V', 'U']).to_string()
    };
    let names = files.iter().map(name).filter(|name| name.starts_with(|it: char| it.is_ascii_digit()));
    Ok(layout.map(|layout| (layout, names.collect())))
}

/// Returns the names of the folders in a folder. None if there is no such folder.
pub(super) fn folder_names(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let folders = entries(folder)?.into_iter().filter(|path| path.is_dir());
    Ok(folders.filter_map(|path| path.file_name()?.to_str().map(ToString::to_string)).collect())
}

/// Returns the paths in a folder, sorted, without names that start with a dot.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| Error::io("read the migrations folder", folder, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Parses files into migrations, unordered.
pub(super) fn migrations(files: Files, options: ParseOptions<'_>) -> Result<Vec<Migration>> {
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, (PathBuf, Vec<u8>)>> = BTreeMap::new();
    for (path, bytes) in files {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let name = name.to_string_lossy().into_owned();
        folders.entry(folder.to_path_buf()).or_default().insert(name, (path, bytes));
    }
    folders.into_iter().map(|(folder, files)| migration(&folder, files, options)).collect()
}

fn migration(
    folder: &Path,
    mut files: BTreeMap<String, (PathBuf, Vec<u8>)>,
    options: ParseOptions<'_>,
) -> Result<Migration> {
    let (version, name) = version_and_name(folder)?;
    let metadata = match files.remove("metadata.toml") {
        Some((path, bytes)) => Metadata::parse(&path, &text(&path, bytes)?)?,
        None => Metadata::default(),
    };
    let script = |(path, bytes): (PathBuf, Vec<u8>), direction: Direction| {
        let text = text(&path, bytes)?;
        let transaction = metadata.transaction;
        Script::parse(path, text, ParseOptions { transaction, direction, ..options })
    };
    let (up, down) = (files.remove("up.sql"), files.remove("down.sql"));
    let empty = || {
        Error::new(ErrorKind::Catalog, "up.sql is missing, empty or still the template")
            .at(folder.join("up.sql"), None)
            .with_hint(
                "write the migration or delete its folder; if it should do nothing, write only a comment",
            )
    };
    let up = up.filter(|(_, bytes)| !bytes.trim_ascii().is_empty()).ok_or_else(empty)?;
    let up = script(up, Direction::Up)?;
    if is_template(&up) {
        return Err(empty());
    }
    let (down, down_error) = match down.map(|down| script(down, Direction::Down)) {
        None => (None, None),
        Some(Ok(down)) if is_template(&down) => (None, None),
        Some(Ok(down)) => (Some(down), None),
        Some(Err(error)) => (None, Some(error.summary())),
    };
    if let Some((path, _)) = files.into_values().next() {
        return Err(Error::new(ErrorKind::Catalog, "unexpected file in a migration's folder")
            .at(path, None)
            .with_hint("only up.sql, down.sql and metadata.toml are allowed"));
    }
    Ok(Migration { version, name, up, down, down_error, metadata, is_repeatable: false })
}

/// Returns a migration of which only the script is known.
pub(super) fn script_as_migration(
    path: &Path,
    bytes: Vec<u8>,
    options: ParseOptions<'_>,
) -> Result<Migration> {
    let text = text(path, bytes)?;
    let up = Script::parse(path.to_path_buf(), text, ParseOptions { direction: Direction::Up, ..options })?;
    Ok(Migration {
        version: Version::new("1"),
        name: String::new(),
        up,
        down: None,
        down_error: None,
        metadata: Metadata::default(),
        is_repeatable: false,
    })
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::Catalog, "the file is not UTF-8").at(path, None))
}

/// Splits a folder's name as diesel does: `2025-06-01-120000_notes` is version `20250601120000` with name `notes`.
fn version_and_name(folder: &Path) -> Result<(Version, String)> {
    let folder_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (version, name) = folder_name.split_once('_').unwrap_or((&folder_name, ""));
    let version = version.replace('-', "");
    let is_valid =
        (1..=50).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_valid {
        return Err(Error::new(ErrorKind::Catalog, "the folder's name does not start with a version")
            .at(folder, None)
            .with_hint("rename it to <version>_<name>, for instance 20260112093000_add_notes"));
    }
    Ok((Version::new(version), name.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::catalog::Catalog;
    use crate::error::ErrorKind;
    use crate::sql::Dialect;

    fn load(files: &[(&str, &str)]) -> crate::Result<Catalog> {
        Catalog::from_files("test", Dialect::Sqlite, files.iter().map(|(path, text)| (*path, *text)))
    }

    #[test]
    fn a_version_is_what_diesel_makes_of_the_folder() {
        let catalog = load(&[("2025-06-01-120000_create_notes/up.sql", "SELECT 1")]).unwrap();
        let migration = &catalog.migrations()[0];
        assert_eq!((migration.version.as_str(), migration.name.as_str()), ("20250601120000", "create_notes"));
        for text in ["20250601120000", "2025-06-01-120000", "20250601120000_create_notes"] {
            assert_eq!(catalog.resolve(text).unwrap(), 1, "{text}");
        }
        assert_eq!(catalog.resolve("7").unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_script_of_comments_reserves_a_number_and_a_fault_in_a_down_script_hinders_no_upgrade() {
        let catalog = load(&[
            ("1_a/up.sql", "-- reserved"),
            ("1_a/down.sql", ""),
            ("2_b/up.sql", "SELECT 1"),
            ("2_b/down.sql", "SELECT 1;\nCOMMIT;"),
        ])
        .unwrap();
        let [first, second] = catalog.migrations() else { panic!("two migrations") };
        assert!(first.up.statements().is_empty() && first.down.is_some());
        assert!(second.down.is_none());
        assert!(second.down_error.as_ref().unwrap().contains("down.sql:2"), "{:?}", second.down_error);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for files in [
            &[("1_a/up.sql", " \n")][..],
            &[("1_a/down.sql", "SELECT 1")],
            &[("1_a/up.sql", "SELECT 1"), ("1_a/up.SQL", "SELECT 1")],
            &[("_a/up.sql", "SELECT 1")],
            &[("1_a/up.sql", "SELECT 'x")],
            &[],
        ] {
            assert_eq!(load(files).unwrap_err().kind(), ErrorKind::Catalog, "{files:?}");
        }
    }
}
