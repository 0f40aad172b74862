//! A migration set as loaded: strictly parsed, ordered, checksummed, frozen for the run.
//!
//! It must not touch a database and, once loaded, no disk: what a run does can't change under it.

mod diesel;
pub(crate) mod embedded;
mod metadata;
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

pub use metadata::{Metadata, Transaction};
pub use script::{Checksum, Recognition, Script};
pub use template::new_files;

/// A migration's version: as diesel counts it, the folder's name up to the first `_` without its dashes.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Version(Arc<str>);

impl Version {
    /// A version as a ledger has it; whether the catalog knows it is [`Catalog::position`]'s to say.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The version as text.
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
    /// Its name: the folder's, after the version.
    pub name: String,
    /// The script that applies it.
    pub up: Script,
    /// The script that reverts it, where there is one that can be run.
    pub down: Option<Script>,
    /// Why its down.sql can't be run, where there is one that can't: it hinders no upgrade.
    pub down_fault: Option<String>,
    /// What its `metadata.toml` says.
    pub metadata: Metadata,
}

impl Migration {
    /// Version and name, as messages show it.
    #[must_use]
    pub fn label(&self) -> String {
        if self.name.is_empty() {
            self.version.to_string()
        } else {
            format!("{}_{}", self.version, self.name)
        }
    }

    /// Whether it shares a transaction with its neighbours.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.metadata.transaction == Transaction::Shared
    }
}

/// A migration set of one dialect, in order.
///
/// A *position* in a catalog is how many of its migrations are applied: 0 is an empty database,
/// `catalog.head()` is all of them.
#[derive(Clone, Debug)]
pub struct Catalog {
    name: String,
    dialect: Dialect,
    migrations: Vec<Migration>,
    /// Files beside the migrations that are none.
    strays: Vec<PathBuf>,
    hash: [u8; 32],
}

impl Catalog {
    /// A set of the binary: see [`Catalog::embedded_names`].
    pub fn embedded(name: &str, dialect: Dialect) -> Result<Self> {
        let files = embedded::files(name, dialect)?;
        Self::load(name, dialect, files, order::Rule::Numbers)
    }

    /// The names of the sets in the binary that have the dialect.
    #[must_use]
    pub fn embedded_names(dialect: Dialect) -> Vec<&'static str> {
        embedded::names(dialect)
    }

    /// The migrations of a folder: `<version>_<name>/{up.sql,down.sql,metadata.toml}`, as diesel has it, either in
    /// the folder itself or in its subfolder `sqlite` or `postgres`.
    pub fn from_directory(directory: &Path, dialect: Dialect) -> Result<Self> {
        let read::Folder { path, rule, files, strays } = read::directory(directory, dialect)?;
        Ok(Self { strays, ..Self::load(&path.display().to_string(), dialect, files, rule)? })
    }

    /// The subfolder of a folder of migrations that is a dialect's own, where there is one. Errors where there are two.
    pub fn subfolder(directory: &Path, dialect: Dialect) -> Result<Option<PathBuf>> {
        read::own_folder(directory, dialect)
    }

    /// Migrations that a program carries in itself, each file with its path and text, for instance
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
        Self::load(name, dialect, files, order::Rule::Numbers)
    }

    fn load(name: &str, dialect: Dialect, files: read::Files, rule: order::Rule) -> Result<Self> {
        let mut migrations = read::migrations(files, dialect)?;
        if migrations.is_empty() {
            return Err(Error::new(
                ErrorKind::Catalog,
                format!("{name} has no migration for {}", dialect.name()),
            )
            .with_hint("write one: tenantry --migrations DIR migration new NAME"));
        }
        order::sort(&mut migrations, rule)?;
        let hash = hash(dialect, &migrations);
        Ok(Self { name: name.to_string(), dialect, migrations, strays: Vec::new(), hash })
    }

    /// The set's name, or the folder it came from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dialect of its scripts.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// All migrations, in order.
    #[must_use]
    pub fn migrations(&self) -> &[Migration] {
        &self.migrations
    }

    /// Files of SQL beside the migrations' folders, which are passed over.
    #[must_use]
    pub fn strays(&self) -> &[PathBuf] {
        &self.strays
    }

    /// The migrations that lead from one position to another.
    #[must_use]
    pub fn between(&self, positions: Range<usize>) -> &[Migration] {
        &self.migrations[positions]
    }

    /// The last position: how many migrations there are.
    #[must_use]
    pub fn head(&self) -> usize {
        self.migrations.len()
    }

    /// The version at a position; `0` where nothing is applied.
    #[must_use]
    pub fn version_at(&self, position: usize) -> Version {
        let last = position.checked_sub(1).and_then(|index| self.migrations.get(index));
        last.map_or_else(|| Version::new("0"), |migration| migration.version.clone())
    }

    /// The position right after a version is applied.
    #[must_use]
    pub fn position(&self, version: &str) -> Option<usize> {
        self.migrations
            .iter()
            .position(|migration| migration.version.as_str() == version)
            .map(|index| index + 1)
    }

    /// The position that a user's text names: a version as written in a ledger or in a folder's name, the whole
    /// label, or `0` for an empty database.
    pub fn resolve(&self, text: &str) -> Result<usize> {
        let wanted = text.split('_').next().unwrap_or(text).replace('-', "");
        if let Some(position) = self.position(&wanted) {
            return Ok(position);
        }
        if text == "0" {
            return Ok(0);
        }
        let known: Vec<_> = self.migrations.iter().map(|migration| migration.version.as_str()).collect();
        Err(Error::new(ErrorKind::Usage, format!("{} has no version {text:?}", self.name))
            .with_hint(format!("its versions are {} (0 is an empty database)", known.join(", "))))
    }

    /// The position that another tool's revision stands for, by `replaces` in a migration's `metadata.toml`.
    #[must_use]
    pub fn replacing(&self, revision: &str) -> Option<usize> {
        let replaces = |migration: &Migration| migration.metadata.replaces.iter().any(|old| old == revision);
        self.migrations.iter().position(replaces).map(|index| index + 1)
    }

    /// Where its scripts first say something that comes out differently each time, unless projects may share that.
    pub(crate) fn computed_at(&self) -> Option<(&Path, u32)> {
        let scripts = self.migrations.iter().filter(|it| !it.metadata.same_for_all_projects).map(|it| &it.up);
        let computed =
            |script: &'_ Script| script.statements().iter().find(|it| it.computes).map(|it| it.line);
        scripts.into_iter().find_map(|script| Some((script.path(), computed(script)?)))
    }

    /// Whether any migration but the last adds a value to an enum, which a later one may use.
    #[must_use]
    pub(crate) fn adds_enum_values(&self) -> bool {
        let earlier = self.migrations.split_last().map_or(&[][..], |(_, earlier)| earlier);
        earlier.iter().any(|migration| migration.up.adds_enum_value())
    }

    /// A hash of everything that decides what a new database looks like; equal hashes, equal databases.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

fn hash(dialect: Dialect, migrations: &[Migration]) -> [u8; 32] {
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
