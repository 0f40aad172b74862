//! A migration set as loaded: strictly parsed, ordered and checksummed.
//!
//! Does not read files after loading, so the migrations cannot change during a run.

mod diesel;
pub(crate) mod embedded;
mod layout;
mod metadata;
mod new_migration;
mod order;
mod read;
mod script;
mod template;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::sql::Dialect;

pub use layout::NamedLayout;
pub use metadata::{Metadata, Transaction};
pub use new_migration::NewMigration;
pub(crate) use new_migration::script_text;
pub(crate) use order::number;
pub use read::FolderOptions;
pub(crate) use script::with_line_endings;
pub use script::{Checksum, ChecksumMatch, Script};

/// A migration's version. As in diesel, it is the folder's name up to the first `_`, without dashes.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Version(Arc<str>);

impl Version {
    /// Creates a version from a ledger's text. The catalog need not have it, see [`Catalog::position`].
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One migration.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Its version, unique in its catalog.
    pub version: Version,
    /// Its name: the part of the folder's name after the version.
    pub name: String,
    /// The script that applies it.
    pub up: Script,
    /// The script that reverts it, if there is one that can be run.
    pub down: Option<Script>,
    /// Why its down.sql cannot be run, if so. This does not prevent an upgrade.
    pub down_error: Option<String>,
    /// The settings in its `metadata.toml`.
    pub metadata: Metadata,
    /// Whether it is one of Flyway's repeatable migrations, see [`Catalog::repeatables`]. Its version is the beginning of
    /// its file's name, such as `R__views`.
    pub is_repeatable: bool,
}

impl Migration {
    /// Returns the version and the name, as messages show them.
    #[must_use]
    pub fn label(&self) -> String {
        if self.name.is_empty() {
            self.version.to_string()
        } else {
            format!("{}_{}", self.version, self.name)
        }
    }

    /// Whether it is in the place of earlier migrations, the last of which had its version.
    pub(crate) fn is_squashed(&self) -> bool {
        self.metadata.replaces.iter().any(|it| it == self.version.as_str())
    }

    /// Whether it shares a transaction with the project's other pending migrations.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.up.is_transactional()
    }
}

/// A migration set of one dialect, in order.
///
/// A *position* in a catalog is the number of its migrations that are applied. Position 0 is an empty database; at
/// `catalog.head()`, all migrations are applied.
#[derive(Clone, Debug)]
pub struct Catalog {
    name: String,
    dialect: Dialect,
    migrations: Vec<Migration>,
    repeatables: Vec<Migration>,
    /// SQL files beside the migrations' folders, which are not migrations.
    ignored_files: Vec<PathBuf>,
    /// The folder that it was loaded from, if it was.
    folder: Option<PathBuf>,
    hash: [u8; 32],
}

impl Catalog {
    /// Loads a set that is built into the binary. [`Catalog::embedded_names`] lists them.
    pub fn embedded(name: &str, dialect: Dialect) -> Result<Self> {
        let files = embedded::files(name, dialect)?;
        Self::load(
            name,
            dialect,
            read::migrations(files, script::ParseOptions::new(dialect))?,
            order::Rule::Numbers,
        )
    }

    /// Returns the names of the built-in sets that have migrations for the dialect.
    #[must_use]
    pub fn embedded_names(dialect: Dialect) -> Vec<&'static str> {
        embedded::names(dialect)
    }

    /// Loads the migrations of a folder: each as `<version>_<name>/{up.sql,down.sql,metadata.toml}`, which is diesel's
    /// layout, or in the layout of sqlx, refinery, dbmate, goose, golang-migrate, Flyway, Prisma, wrangler or drizzle, which
    /// is recognized by the files unless `options` names it. They are either in the folder itself or in its subfolder `sqlite` or `postgres`.
    pub fn from_directory(directory: &Path, dialect: Dialect, options: &FolderOptions) -> Result<Self> {
        let read::Folder { path, rule, migrations, ignored_files } =
            read::directory(directory, dialect, options)?;
        let catalog = Self::load(&path.display().to_string(), dialect, migrations, rule)?;
        Ok(Self { ignored_files, folder: Some(path), ..catalog })
    }

    /// Returns the files of a migration in a folder's layout, each with its path in the folder and its text. `version` chooses
    /// a version, given the names of the existing migrations.
    pub fn files_of_migration(
        directory: &Path,
        migration: &NewMigration,
        version: impl FnOnce(&[String]) -> Result<String>,
    ) -> Result<Vec<(String, String)>> {
        let other = if directory.is_dir() { read::other_layout(directory)? } else { None };
        let (layout, names) = other.unzip();
        let names = match names {
            Some(names) => names,
            None => read::folder_names(directory)?,
        };
        Ok(migration.files_in(layout, &version(&names)?))
    }

    /// Returns the subfolder for a dialect in a folder of migrations. `None` if there is none. Fails if there are two.
    pub fn subfolder(directory: &Path, dialect: Dialect) -> Result<Option<PathBuf>> {
        read::dialect_folder(directory, dialect)
    }

    /// Loads migrations that are compiled into a program. Each file is given by its path and text, for instance
    /// `("1_notes/up.sql", include_str!("../migrations/1_notes/up.sql"))`.
    pub fn from_files<P, T>(
        name: &str,
        dialect: Dialect,
        files: impl IntoIterator<Item = (P, T)>,
    ) -> Result<Self>
    where
        P: Into<std::path::PathBuf>,
        T: Into<Vec<u8>>,
    {
        let files = files.into_iter().map(|(path, text)| (path.into(), text.into())).collect();
        Self::load(
            name,
            dialect,
            read::migrations(files, script::ParseOptions::new(dialect))?,
            order::Rule::Numbers,
        )
    }

    /// A catalog without migrations.
    pub(crate) fn empty(dialect: Dialect) -> Self {
        Self {
            name: "no migrations".into(),
            dialect,
            migrations: Vec::new(),
            repeatables: Vec::new(),
            ignored_files: Vec::new(),
            folder: None,
            hash: hash(dialect, std::iter::empty()),
        }
    }

    /// The migrations up to a position, without the repeatable ones.
    pub(crate) fn up_to(&self, position: usize) -> Self {
        let migrations: Vec<Migration> = self.migrations.iter().take(position).cloned().collect();
        let hash = hash(self.dialect, migrations.iter());
        Self { migrations, repeatables: Vec::new(), hash, ..self.clone() }
    }

    /// These migrations, and more after them that have not been written into files yet.
    pub(crate) fn with(&self, added: &[NewMigration]) -> Result<Self> {
        let mut catalog = self.clone();
        for migration in added {
            let version = format!("new{}", catalog.migrations.len() + 1);
            let files = migration.files(&version).into_iter().map(|(path, text)| (path.into(), text.into()));
            catalog
                .migrations
                .extend(read::migrations(files.collect(), script::ParseOptions::new(self.dialect))?);
        }
        catalog.hash = hash(self.dialect, catalog.all());
        Ok(catalog)
    }

    /// The migrations up to the position `last`, with one in the place of the first `count`.
    pub(crate) fn squashed(&self, count: usize, last: usize, migration: &NewMigration) -> Result<Self> {
        let mut catalog = Self::empty(self.dialect).with(std::slice::from_ref(migration))?;
        catalog.migrations.extend(self.migrations.iter().take(last).skip(count).cloned());
        catalog.hash = hash(self.dialect, catalog.all());
        Ok(catalog)
    }

    /// Loads one script as a catalog of a single migration.
    pub(crate) fn of_script(path: &Path, dialect: Dialect, options: &FolderOptions) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, error))?;
        let migration = read::script_as_migration(path, bytes, options.parse_options(dialect))?;
        Self::load(&path.display().to_string(), dialect, vec![migration], order::Rule::Text)
    }

    fn load(name: &str, dialect: Dialect, mut migrations: Vec<Migration>, rule: order::Rule) -> Result<Self> {
        if migrations.is_empty() {
            return Err(Error::new(
                ErrorKind::Catalog,
                format!("{name} has no migration for {}", dialect.name()),
            )
            .with_hint("create one: tenantry --migrations DIR migration new NAME"));
        }
        let mut repeatables: Vec<_> = migrations.extract_if(.., |it| it.is_repeatable).collect();
        repeatables.sort_by(|a, b| a.version.as_str().cmp(b.version.as_str()));
        order::sort(&mut migrations, rule)?;
        require_replaced_absent(&migrations)?;
        let hash = hash(dialect, migrations.iter().chain(&repeatables));
        Ok(Self {
            name: name.to_string(),
            dialect,
            migrations,
            repeatables,
            ignored_files: Vec::new(),
            folder: None,
            hash,
        })
    }

    /// Returns the folder that it was loaded from. `None` for a set of the binary or of a program.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Returns the set's name, or the path of the folder that it was loaded from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the dialect of its scripts.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Returns all migrations, in order.
    #[must_use]
    pub fn migrations(&self) -> &[Migration] {
        &self.migrations
    }

    /// Returns Flyway's repeatable migrations, in order. They run after the others in each project that reaches the head,
    /// and again whenever their text has changed. They have no position.
    #[must_use]
    pub fn repeatables(&self) -> &[Migration] {
        &self.repeatables
    }

    /// Returns the index of a migration among all, with the repeatable ones after the others.
    pub(crate) fn index_of(&self, migration: &Migration) -> Option<usize> {
        self.all().position(|it| it.version == migration.version)
    }

    fn all(&self) -> impl Iterator<Item = &Migration> {
        self.migrations.iter().chain(&self.repeatables)
    }

    /// Returns the SQL files beside the migrations' folders. They are ignored, since they are not migrations.
    #[must_use]
    pub fn ignored_files(&self) -> &[PathBuf] {
        &self.ignored_files
    }

    /// Returns the migrations between two positions.
    #[must_use]
    pub fn between(&self, positions: Range<usize>) -> &[Migration] {
        &self.migrations[positions]
    }

    /// Returns the last position, which is the number of migrations.
    #[must_use]
    pub fn head(&self) -> usize {
        self.migrations.len()
    }

    /// Returns the version at a position. At position 0 it is `0`.
    #[must_use]
    pub fn version_at(&self, position: usize) -> Version {
        let last = position.checked_sub(1).and_then(|index| self.migrations.get(index));
        last.map_or_else(|| Version::new("0"), |migration| migration.version.clone())
    }

    /// Returns the position directly after a version is applied. `None` if the catalog does not have the version.
    #[must_use]
    pub fn position(&self, version: &str) -> Option<usize> {
        self.migrations
            .iter()
            .position(|migration| migration.version.as_str() == version)
            .map(|index| index + 1)
    }

    /// Returns the position that a user's text names: a version as written in a ledger or in a folder's name, a whole
    /// label, or `0` for an empty database. Fails if the catalog does not have the version.
    pub fn resolve(&self, text: &str) -> Result<usize> {
        // In Flyway's names, `_` separates the numbers of a version, too.
        if self.migrations.iter().any(|migration| migration.version.as_str().contains('.')) {
            let version =
                text.strip_prefix('V').unwrap_or(text).split("__").next().unwrap_or(text).replace('_', ".");
            let same = |migration: &Migration| number(migration.version.as_str()) == number(&version);
            if let Some(index) = self.migrations.iter().position(same) {
                return Ok(index + 1);
            }
        } else if let Some(position) = self.position(&text.split('_').next().unwrap_or(text).replace('-', ""))
        {
            return Ok(position);
        }
        if text == "0" {
            return Ok(0);
        }
        let known: Vec<_> = self.migrations.iter().map(|migration| migration.version.as_str()).collect();
        Err(Error::new(ErrorKind::Usage, format!("{} has no version {text:?}", self.name))
            .with_hint(format!("its versions are {} (0 is an empty database)", known.join(", "))))
    }

    /// Returns the position of the migration that lists another tool's revision as `replaces` in its `metadata.toml`.
    #[must_use]
    pub fn replacing(&self, revision: &str) -> Option<usize> {
        let replaces = |migration: &Migration| migration.metadata.replaces.iter().any(|old| old == revision);
        self.migrations.iter().position(replaces).map(|index| index + 1)
    }

    /// Returns the file and line of the first value that differs each time it runs. Skips migrations with
    /// `same_for_all_projects`.
    pub(crate) fn first_volatile_value(&self) -> Option<(&Path, u32)> {
        let scripts = self.all().filter(|it| !it.metadata.same_for_all_projects).map(|it| &it.up);
        let computed =
            |script: &'_ Script| script.statements().iter().find(|it| it.is_volatile).map(|it| it.line);
        scripts.into_iter().find_map(|script| Some((script.path(), computed(script)?)))
    }

    /// Returns the labels of the migrations whose up.sql has its own `BEGIN` and `COMMIT`, which are left out.
    pub(crate) fn with_own_transactions(&self) -> Vec<String> {
        self.all().filter(|it| it.up.has_own_transaction()).map(Migration::label).collect()
    }

    /// Returns the statements about extensions that are left out, each with its migration.
    pub(crate) fn left_out(&self) -> Vec<String> {
        let scripts = |migration: &'_ Migration| {
            let label = migration.label();
            let scripts = [Some(&migration.up), migration.down.as_ref()].into_iter().flatten();
            scripts.flat_map(Script::left_out).map(|sql| format!("{label}: {sql}")).collect::<Vec<_>>()
        };
        self.all().flat_map(scripts).collect()
    }

    /// Whether any migration but the last adds an enum value, which a later migration may use.
    pub(crate) fn adds_enum_values(&self) -> bool {
        let earlier = match self.migrations.split_last() {
            Some((_, earlier)) if self.repeatables.is_empty() => earlier,
            _ => &self.migrations,
        };
        earlier.iter().any(|migration| migration.up.adds_enum_value())
    }

    /// Returns a hash of everything that determines a new database. Catalogs with equal hashes create equal databases.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

/// Fails if a migration is in the folder together with one that replaces it.
fn require_replaced_absent(migrations: &[Migration]) -> Result<()> {
    for migration in migrations {
        let is_replaced = |other: &&Migration| {
            let replaces = &migration.metadata.replaces;
            other.version != migration.version && replaces.iter().any(|it| it == other.version.as_str())
        };
        if migration.is_squashed()
            && let Some(other) = migrations.iter().find(is_replaced)
        {
            let message = format!("{} replaces {}, and both are there", migration.label(), other.label());
            return Err(Error::new(ErrorKind::Catalog, message)
                .at(other.up.path(), None)
                .with_hint("remove one of them"));
        }
    }
    Ok(())
}

fn hash<'a>(dialect: Dialect, migrations: impl Iterator<Item = &'a Migration>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"tenantry catalog 1\0");
    hasher.update(dialect.name());
    for migration in migrations {
        for part in [migration.version.as_str(), &migration.name, migration.up.checksum().as_str()] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update([u8::from(migration.is_transactional())]);
    }
    hasher.finalize().into()
}
