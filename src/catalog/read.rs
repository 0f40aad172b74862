//! Folders of migrations: `<version>_<name>/{up.sql,down.sql,metadata.toml}`, tenantry's and diesel's layout.
//!
//! It must refuse what it does not understand: a file that is silently passed over is a migration that never runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::metadata::{Metadata, Transaction};
use super::order::Rule;
use super::script::Script;
use super::{Migration, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::Dialect;

/// Files with their paths and bytes.
pub(super) type Files = Vec<(PathBuf, Vec<u8>)>;

/// Reads all files of a folder's migrations, or of its subfolder for the dialect where it has one.
pub(super) fn directory(directory: &Path, dialect: Dialect) -> Result<(PathBuf, Rule, Files)> {
    let own = directory.join(dialect.name());
    let (folder, rule) =
        if own.is_dir() { (own, Rule::Numbers) } else { (directory.to_path_buf(), Rule::Text) };
    let other = match dialect {
        Dialect::Sqlite => Dialect::Postgres,
        Dialect::Postgres => Dialect::Sqlite,
    };
    if rule == Rule::Text && folder.join(other.name()).is_dir() {
        return Err(Error::new(
            ErrorKind::Catalog,
            format!("these migrations are for {} only", other.name()),
        )
        .at(folder, None)
        .hint(format!("put those for {} into a subfolder {}", dialect.name(), dialect.name())));
    }
    let mut files = Vec::new();
    for entry in entries(&folder)? {
        if entry.is_dir() {
            let scripts = entries(&entry)?;
            if scripts.is_empty() {
                return Err(Error::new(ErrorKind::Catalog, "the folder has no up.sql").at(entry, None));
            }
            for file in scripts {
                let bytes = std::fs::read(&file).map_err(|error| Error::io("read", &file, error))?;
                files.push((file, bytes));
            }
        } else if entry.extension().is_some_and(|extension| extension == "sql") {
            return Err(Error::new(
                ErrorKind::Catalog,
                "a migration is a folder with an up.sql in it, not a file",
            )
            .at(entry, None)
            .hint("make it <version>_<name>/up.sql"));
        }
    }
    Ok((folder, rule, files))
}

/// What is in a folder, sorted, without names that start with a dot.
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
pub(super) fn migrations(files: Files, dialect: Dialect) -> Result<Vec<Migration>> {
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, (PathBuf, String)>> = BTreeMap::new();
    for (path, bytes) in files {
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::new(ErrorKind::Catalog, "the file is not UTF-8").at(&path, None))?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let name = name.to_string_lossy().into_owned();
        folders.entry(folder.to_path_buf()).or_default().insert(name, (path, text));
    }
    folders.into_iter().map(|(folder, files)| migration(&folder, files, dialect)).collect()
}

fn migration(
    folder: &Path,
    mut files: BTreeMap<String, (PathBuf, String)>,
    dialect: Dialect,
) -> Result<Migration> {
    let (version, name) = version_and_name(folder)?;
    let metadata = match files.remove("metadata.toml") {
        Some((path, text)) => Metadata::parse(&path, &text)?,
        None => Metadata::default(),
    };
    let mut script = |file: &str, transaction: Transaction| match files.remove(file) {
        Some((path, text)) => Script::parse(path, text, dialect, transaction),
        None => Ok(None),
    };
    let (up, down) = (script("up.sql", metadata.transaction)?, script("down.sql", metadata.transaction)?);
    let up = up.ok_or_else(|| {
        Error::new(ErrorKind::Catalog, "there is no statement to run")
            .at(folder.join("up.sql"), None)
            .hint("write the migration, or delete its folder; one that is to do nothing says SELECT 1;")
    })?;
    if let Some((path, _)) = files.into_values().next() {
        return Err(Error::new(ErrorKind::Catalog, "a migration has no such file")
            .at(path, None)
            .hint("it has up.sql, down.sql and metadata.toml"));
    }
    Ok(Migration { version, name, up, down, metadata })
}

/// What diesel makes of a folder's name: `2025-06-01-120000_notes` is version `20250601120000`, name `notes`.
fn version_and_name(folder: &Path) -> Result<(Version, String)> {
    let folder_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (version, name) = folder_name.split_once('_').unwrap_or((&folder_name, ""));
    let version = version.replace('-', "");
    let sound = (1..=50).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !sound {
        return Err(Error::new(ErrorKind::Catalog, "the folder's name does not start with a version")
            .at(folder, None)
            .hint("name it <version>_<name>, for instance 20260112093000_add_notes"));
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
    fn what_is_not_understood_is_refused() {
        for files in [
            &[("1_a/up.sql", "-- nothing")][..],
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
