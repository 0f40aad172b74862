//! Layouts in which a file is one script: the names of the files say which migration and which direction it is.

use std::path::Path;

use super::sections::{atlas_transaction, refuse_unknown_sections};
use super::{Layout, REPEATABLE, Source, SqlFile, Way, file_name, version_and_name};
use crate::catalog::metadata::Transaction;
use crate::catalog::number;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::line_number;

/// sqlx runs a script that begins with this comment without a transaction.
fn transaction_of(text: &str) -> Transaction {
    if text.starts_with("-- no-transaction") { Transaction::None } else { Transaction::Shared }
}

/// One file is one migration.
pub(super) fn plain(file: SqlFile) -> Result<Source> {
    refuse_unknown_sections(&file)?;
    let transaction = atlas_transaction(&file)?.unwrap_or_else(|| transaction_of(&file.1));
    let stem = file_name(&file.0).trim_end_matches(".sql").to_string();
    let (version, name) = version_and_name(&stem, "_", &file.0)?;
    Ok(Source { version, name, up: Way { file, transaction }, down: None })
}

/// One folder is one migration. Prisma's users keep the script that reverts it in `down.sql`.
pub(super) fn prisma(files: Vec<SqlFile>) -> Result<Vec<Source>> {
    let (ups, mut downs): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(path, _)| path.ends_with("migration.sql"));
    let source = |file: SqlFile| {
        let folder = file.0.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        let (version, name) = version_and_name(&file_name(&folder), "_", &folder)?;
        let down = downs.iter().position(|(path, _)| path.parent() == Some(&folder));
        let down = down.map(|index| Way::plain(downs.swap_remove(index)));
        Ok(Source { version, name, up: Way::plain(file), down })
    };
    let sources = ups.into_iter().map(source).collect::<Result<_>>()?;
    match downs.into_iter().next() {
        None => Ok(sources),
        Some((path, _)) => {
            Err(Error::new(ErrorKind::Catalog, "there is no migration.sql beside it").at(path, None))
        }
    }
}

/// `<version>_<name>.up.sql` and `.down.sql`. The names of the two may differ; golang-migrate compares versions alone.
pub(super) fn up_down(files: Vec<SqlFile>) -> Result<Vec<Source>> {
    let (ups, downs): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(path, _)| file_name(path).ends_with(".up.sql"));
    let parse = |file: &SqlFile, suffix: &str| {
        version_and_name(file_name(&file.0).trim_end_matches(suffix), "_", &file.0)
    };
    let way = |file: SqlFile| {
        let transaction = transaction_of(&file.1);
        Way { file, transaction }
    };
    let mut sources = Vec::new();
    for file in ups {
        let (version, name) = parse(&file, ".up.sql")?;
        sources.push(Source { version, name, up: way(file), down: None });
    }
    for file in downs {
        let (version, _) = parse(&file, ".down.sql")?;
        let path = file.0.clone();
        let source = sources.iter_mut().find(|it| it.version == version && it.down.is_none());
        let source = source.ok_or_else(|| {
            Error::new(ErrorKind::Catalog, "there is no .up.sql of the same version").at(&path, None)
        })?;
        source.down = Some(way(file));
    }
    Ok(sources)
}

/// Splits `<version>__<name>`. A version of Flyway's may have several numbers, separated by `.` or `_`.
fn dotted_version_and_name(stem: &str, layout: Layout, path: &Path) -> Result<(String, String)> {
    let (version, name) = stem.split_once("__").unwrap_or((stem, ""));
    let is_part = |part: &str| (1..=19).contains(&part.len()) && part.bytes().all(|it| it.is_ascii_digit());
    let parts: Vec<&str> = version.split(['.', '_']).collect();
    if layout == Layout::Refinery || parts.len() == 1 || !parts.iter().all(|part| is_part(part)) {
        return version_and_name(stem, "__", path);
    }
    Ok((parts.join("."), name.to_string()))
}

/// `V<version>__<name>.sql`, `U<version>__`: Flyway's undo scripts, or more of refinery's migrations, and `R__<name>.sql`:
/// Flyway's repeatable migrations.
pub(super) fn versioned(files: Vec<SqlFile>, layout: Layout) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    let mut others = Vec::new();
    for (path, text) in files {
        let file = file_name(&path);
        let stem = file.trim_end_matches(".sql");
        let is_repeatable = stem.starts_with(REPEATABLE);
        if stem.starts_with('R') && !is_repeatable {
            return Err(Error::new(ErrorKind::Catalog, "a repeatable migration has no version")
                .at(path, None)
                .with_hint("rename it to R__<name>.sql, or to V<version>__<name>.sql if it is to run once"));
        }
        if is_repeatable && layout == Layout::Refinery {
            return Err(Error::new(ErrorKind::Catalog, "refinery has no repeatable migrations")
                .at(path, None)
                .with_hint(
                    "if this is Flyway's folder, leave out --layout; else move the file out of the folder",
                ));
        }
        // The ledger keeps so many characters of a version.
        if is_repeatable && stem.len() > 50 {
            return Err(Error::new(ErrorKind::Catalog, "the name of a repeatable migration is too long")
                .at(path, None)
                .with_hint("shorten it to 50 characters with R__ and without .sql"));
        }
        let placeholder = text.lines().position(|line| line.contains("${"));
        if let (Some(index), true) = (placeholder, layout != Layout::Refinery) {
            return Err(Error::new(ErrorKind::Catalog, "Flyway's placeholders are not replaced")
                .at(path, line_number(index + 1))
                .with_hint(
                    "write the value itself; if this is refinery's folder, say so: --layout refinery",
                ));
        }
        let (version, name) = if is_repeatable {
            (stem.to_string(), String::new())
        } else {
            dotted_version_and_name(&stem[1..], layout, &path)?
        };
        let is_other = stem.starts_with('U');
        let source = Source { version, name, up: Way::plain((path, text)), down: None };
        if is_other { &mut others } else { &mut sources }.push(source);
    }
    if layout == Layout::Refinery {
        sources.append(&mut others);
    }
    for Source { version, up, .. } in others {
        let is_undone = |it: &&mut Source| number(&it.version) == number(&version) && it.down.is_none();
        match sources.iter_mut().find(is_undone) {
            Some(migration) => migration.down = Some(up),
            // Running it as a migration could drop what it was written to undo.
            None => {
                return Err(Error::new(ErrorKind::Catalog, "there is no V file of the same version that it undoes")
                    .at(up.file.0, None)
                    .with_hint("remove it; if this is refinery's folder, where it is a migration, say so: --layout refinery"));
            }
        }
    }
    Ok(sources)
}
