//! The command `migration squash`: one migration in the place of many.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tenantry::{Catalog, Error, Result};

use super::new_migration::{Folder, write_new};
use super::{Format, Settings};
use crate::report::{Output, note};

pub(super) const HELP: &str = "\
The new migration creates the schema of VERSION with the rows that the migrations up to it insert, and has its version. New \
projects run it instead of the others; existing ones count it as applied, since its metadata.toml says what it replaces. It is \
refused if a project of the fleet is not at VERSION or later, or if the schema or the rows would differ. The replaced \
migrations are moved to the subfolder .squashed, which is not read: delete it once the change is committed.

Examples:
  tenantry migration squash --to 20260112000000";

#[derive(Args, Debug)]
pub(super) struct Squash {
    /// The last version to replace; all projects must have it
    #[arg(long, value_name = "VERSION")]
    to: String,
}

pub(super) fn squash(settings: &Settings, squash: &Squash) -> Result<u8> {
    let config = settings.config()?;
    let folder = Folder::of(&config)?;
    let squashed = settings.manager()?.squash(&squash.to)?;
    let path = folder.path();
    let version = squashed.version.clone();
    let files = Catalog::files_of_migration(path, &squashed.migration, |_| Ok(version))?;
    let made = replace(path, &files, &squashed.replaced)?;
    let mut output = Output::new();
    match settings.format {
        Format::Human => output.line(format_args!("{}", made.display())),
        Format::Json => output.json(&json!({
            "v": 1, "event": "migration_made", "folder": made.display().to_string(),
            "replaces": squashed.migration.replaces,
        })),
    }
    output.finish()?;
    note(format_args!(
        "it is in the place of {} migrations, which are in {} now; all {} projects have them",
        squashed.replaced.len(),
        path.join(ASIDE).display(),
        squashed.projects
    ));
    Ok(0)
}

/// Where the replaced migrations are moved. Names with a point are not read.
const ASIDE: &str = ".squashed";

/// Writes the files completely, moves the replaced folders away, and puts the new one in their place.
fn replace(folder: &Path, files: &[(String, String)], replaced: &[PathBuf]) -> Result<PathBuf> {
    let name = files.first().and_then(|(file, _)| file.split('/').next()).unwrap_or_default();
    let (staged, made, aside) = (folder.join(format!(".{name}")), folder.join(name), folder.join(ASIDE));
    let create = |path: &Path| {
        std::fs::create_dir_all(path).map_err(|error| Error::io("create the folder", path, error))
    };
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to).map_err(|error| Error::io("move the folder to", to, error))
    };
    create(&staged)?;
    create(&aside)?;
    for (file, text) in files {
        let file = file.split('/').next_back().unwrap_or_default();
        write_new(&staged.join(file), text)?;
    }
    for old in replaced {
        rename(old, &aside.join(old.file_name().unwrap_or_default()))?;
    }
    rename(&staged, &made)?;
    Ok(made)
}
