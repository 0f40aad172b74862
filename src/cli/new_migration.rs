//! The command `migration new`: an empty migration to fill in, or one that leads to a wanted schema.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tenantry::catalog::NewMigration;
use tenantry::config::{Config, Migrations};
use tenantry::manager::Rename;
use tenantry::{Catalog, Error, ErrorKind, Result};

use super::{Format, Settings, naming};
use crate::report::{Output, note};

pub(super) const HELP: &str = "\
With --diff, the migration leads from the newest version to the schema of TARGET: a project's id, a version as @VERSION, a SQL \
file, a SQLite file, or the URL of a Postgres database, of which the schema public is taken. It is tried out on a private \
database before it is written, and so is its down.sql. Tables and columns that TARGET does not have are dropped. On Postgres, \
what would keep applications waiting, such as building an index, gets a migration of its own.

Examples:
  tenantry migration new add_notes
  tenantry migration new add_tags --diff wanted.sql
  tenantry migration new rename_text --diff model.db --rename notes.text=body";

#[derive(Args, Debug)]
pub(super) struct New {
    /// Name of the migration, such as add_notes
    name: String,
    /// Write the migration that leads to the schema of a project, a version, a SQL file or another database
    #[arg(long, value_name = "TARGET")]
    diff: Option<String>,
    /// Rename a table or column instead of dropping and creating it
    #[arg(long, value_name = "TABLE[.COLUMN]=NAME", requires = "diff")]
    rename: Vec<Rename>,
}

pub(super) fn create(settings: &Settings, new: &New) -> Result<u8> {
    let config = settings.config()?;
    let words: Vec<_> =
        new.name.split(|it: char| !it.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("{:?} has no letter or digit", new.name))
            .with_hint("use a name such as add_notes"));
    }
    let name = words.join("_").to_lowercase();
    let folder = Folder::of(&config)?;
    let Some(target) = &new.diff else {
        let made = folder.write(&[NewMigration::blank(&name)])?;
        return print_made(settings, &made);
    };
    let manager = config.manager_for_new_migrations()?;
    let generated = manager.generate(&config.definitions(&manager, target)?, &new.rename, &name)?;
    for line in &generated.notes {
        note(format_args!("{line}"));
    }
    if generated.migrations.is_empty() {
        note(format_args!("the newest version has this schema already; nothing was written"));
    }
    print_made(settings, &folder.write(&generated.migrations)?)
}

/// The folder that new migrations are written into.
pub(super) struct Folder {
    path: PathBuf,
    /// Whether it is not a subfolder for the dialect.
    is_flat: bool,
}

impl Folder {
    pub(super) fn of(config: &Config) -> Result<Self> {
        let dialect = config.dialect();
        let directory = match &config.migrations {
            Migrations::Directory(directory) => directory.clone(),
            // A set of the binary can only be extended in tenantry's source tree.
            Migrations::Set(name) => Some(Path::new("migrations").join(name))
                .filter(|path| path.join(dialect.name()).is_dir())
                .ok_or_else(|| {
                    Error::new(ErrorKind::Usage, "cannot add to a set that is embedded in the binary")
                        .with_hint("use a folder of your own: --migrations DIR, or create one: tenantry init")
                })?,
        };
        let subfolder = if directory.is_dir() { Catalog::subfolder(&directory, dialect)? } else { None };
        Ok(Self { is_flat: subfolder.is_none(), path: subfolder.unwrap_or(directory) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes migrations after the existing ones. Returns the folder or file of each.
    pub(super) fn write(&self, migrations: &[NewMigration]) -> Result<Vec<PathBuf>> {
        migrations.iter().map(|migration| self.write_one(migration)).collect()
    }

    fn write_one(&self, migration: &NewMigration) -> Result<PathBuf> {
        let mut wider = None;
        let files = Catalog::files_of_migration(&self.path, migration, |names| {
            let version = version_after(names)?;
            let is_wider = |name: &&String| naming::is_wider(&version, name);
            wider = names.iter().find(is_wider).map(|name| (version.clone(), name.clone()));
            Ok(version)
        })?;
        let has_folder = files.iter().any(|(file, _)| file.ends_with("/up.sql"));
        if let Some((version, shorter)) = wider.filter(|_| has_folder && self.is_flat) {
            let message =
                format!("{version} would sort before {shorter}: versions in this folder are sorted as text");
            return Err(Error::new(ErrorKind::Catalog, message).at(&self.path, None).with_hint(
                "move the migrations to its subfolder sqlite/ or postgres/, where plain numbers are sorted as numbers",
            ));
        }
        for (file, text) in &files {
            let path = self.path.join(file);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::io("create the folder", folder, error))?;
            }
            write_new(&path, text)?;
        }
        let first = files.first().map_or(Path::new(""), |(file, _)| Path::new(file));
        let made = if has_folder { first.parent().unwrap_or(first) } else { first };
        Ok(self.path.join(made))
    }
}

fn print_made(settings: &Settings, made: &[PathBuf]) -> Result<u8> {
    let mut output = Output::new();
    for path in made {
        match settings.format {
            Format::Human => output.line(format_args!("{}", path.display())),
            Format::Json => {
                output
                    .json(&json!({"v": 1, "event": "migration_made", "folder": path.display().to_string()}));
            }
        }
    }
    output.finish()?;
    Ok(0)
}

/// Returns a version after the existing ones, in their style.
fn version_after(names: &[String]) -> Result<String> {
    naming::next_version(names, time::OffsetDateTime::now_utc())
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot name the migration").caused_by(error))
}

/// Returns a version for the first migration of a folder.
pub(super) fn first_version() -> Result<String> {
    version_after(&[])
}

pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let write = || std::fs::File::create_new(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io("write", path, error).with_hint("nothing was overwritten"))
}
