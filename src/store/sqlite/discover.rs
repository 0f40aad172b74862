//! Finds the files of a folder that are projects.
//!
//! Opens none of them: opening a FIFO would hang, and opening a symbolic link would open a file elsewhere.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::file::{COMPANIONS, companion, non_database_kind};
use crate::error::{Error, ErrorKind, Result};
use crate::project::{NamePattern, ProjectId};
use crate::store::{Discovery, Skipped};

/// Returns the projects of the folder, and the files that match the pattern but are skipped.
pub(super) fn discover(directory: &Path, pattern: &NamePattern) -> Result<Discovery> {
    scan(directory, pattern).map(|(found, _)| found)
}

/// Returns the file names of projects that are hard links to the same file, and why they cannot be used.
pub(super) fn aliases(directory: &Path, pattern: &NamePattern) -> Result<HashMap<String, String>> {
    scan(directory, pattern).map(|(_, aliases)| aliases)
}

fn scan(directory: &Path, pattern: &NamePattern) -> Result<(Discovery, HashMap<String, String>)> {
    let (mut found, mut aliases) = (Discovery::default(), HashMap::new());
    if !directory.exists() {
        return Ok((found, aliases));
    }
    if !directory.is_dir() {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("the store {} is not a folder", directory.display()),
        )
        .with_hint("a store is a folder of SQLite files, such as sqlite:data"));
    }
    let mut inodes: HashMap<(u64, u64), Vec<ProjectId>> = HashMap::new();
    for name in names(directory, pattern)? {
        let name = match name.into_string() {
            Ok(name) => name,
            Err(name) => {
                let (name, reason) = (name.to_string_lossy().into_owned(), "a name that is not UTF-8".into());
                found.skipped.push(Skipped { name, reason });
                continue;
            }
        };
        match classify(directory, pattern, &name) {
            Ok(None) => {}
            Ok(Some((id, None))) => found.projects.push(id),
            Ok(Some((id, Some(inode)))) => inodes.entry(inode).or_default().push(id),
            Err(reason) => found.skipped.push(Skipped { name, reason }),
        }
    }
    for mut ids in inodes.into_values() {
        if let [only] = ids.as_slice() {
            found.projects.push(only.clone());
            continue;
        }
        // It is unknown which name the application uses, and SQLite names a journal after its database.
        ids.sort();
        let all: Vec<_> = ids.iter().map(|id| pattern.name(id)).collect();
        let reason = format!("a hard link: one file under the names {}", all.join(", "));
        aliases.extend(all.into_iter().map(|name| (name, reason.clone())));
        // They are returned as projects, so that each of them is reported as blocked.
        found.projects.extend(ids);
    }
    found.projects.sort();
    found.skipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((found, aliases))
}

/// Returns the file names that match the pattern, and those of companions.
fn names(directory: &Path, pattern: &NamePattern) -> Result<Vec<OsString>> {
    let pattern = glob::Pattern::new(&format!("{}*", pattern.glob())).map_err(|error| {
        Error::new(ErrorKind::Configuration, "the file pattern is not a valid glob").caused_by(error)
    })?;
    let unreadable = |error| Error::io("list", directory, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if pattern.matches(&name.to_string_lossy()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A project, and its device and inode if the file has several names.
type FoundProject = (ProjectId, Option<(u64, u64)>);

/// Returns the project that a file name stands for, or `None` if the name is not a project's. Returns the reason as an
/// error if the file is skipped.
fn classify(directory: &Path, pattern: &NamePattern, name: &str) -> Result<Option<FoundProject>, String> {
    let path = directory.join(name);
    let Some(id) = pattern.id(name) else {
        return match COMPANIONS.iter().find_map(|suffix| name.strip_suffix(suffix)) {
            Some(owner) if pattern.id(owner).is_some() && !directory.join(owner).exists() => {
                Err(format!("left over from {owner}, which does not exist"))
            }
            _ => Ok(None),
        };
    };
    let metadata = path.symlink_metadata().map_err(|error| format!("inaccessible: {error}"))?;
    if let Some(kind) = non_database_kind(&metadata) {
        return Err(kind.to_string());
    }
    let id = id.map_err(|error| error.message().to_string())?;
    Ok(Some((id, (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())))))
}

/// Returns a companion file beside the path of a missing database. SQLite would use it as part of a new database.
pub(super) fn orphan(path: &Path) -> Option<std::path::PathBuf> {
    COMPANIONS.iter().map(|suffix| companion(path, suffix)).find(|path| path.symlink_metadata().is_ok())
}
