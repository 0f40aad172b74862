//! Which files of a folder are projects.
//!
//! It must not open one: a FIFO would hang, a link would lead elsewhere, and opening is not needed to tell.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::file::{COMPANIONS, companion, oddity};
use crate::error::{Error, ErrorKind, Result};
use crate::project::{NamePattern, ProjectId};
use crate::store::{Discovery, Skipped};

/// Everything in the folder whose name is of the pattern.
pub(super) fn discover(directory: &Path, pattern: &NamePattern) -> Result<Discovery> {
    look(directory, pattern).map(|(found, _)| found)
}

/// Why files that are projects by their names, and one file under several of them, can't be touched, by those names.
pub(super) fn aliases(directory: &Path, pattern: &NamePattern) -> Result<HashMap<String, String>> {
    look(directory, pattern).map(|(_, aliases)| aliases)
}

fn look(directory: &Path, pattern: &NamePattern) -> Result<(Discovery, HashMap<String, String>)> {
    let (mut found, mut aliases) = (Discovery::default(), HashMap::new());
    if !directory.exists() {
        return Ok((found, aliases));
    }
    if !directory.is_dir() {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("the store {} is no folder", directory.display()),
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
        // Which of the names its application uses can't be known, and SQLite keeps its journals by name.
        ids.sort();
        let all: Vec<_> = ids.iter().map(|id| pattern.name(id)).collect();
        let reason = format!("a hard link: one file under the names {}", all.join(", "));
        aliases.extend(all.into_iter().map(|name| (name, reason.clone())));
        // Somebody may count on them: they are told one by one, as blocked.
        found.projects.extend(ids);
    }
    found.projects.sort();
    found.skipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((found, aliases))
}

/// The names that the pattern fits, and those of companions.
fn names(directory: &Path, pattern: &NamePattern) -> Result<Vec<OsString>> {
    let pattern = glob::Pattern::new(&format!("{}*", pattern.glob())).map_err(|error| {
        Error::new(ErrorKind::Configuration, "the file pattern is no glob").caused_by(error)
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

type Found = (ProjectId, Option<(u64, u64)>);

/// The project that a name stands for, with its inode where it has several names; or why it is none.
fn classify(directory: &Path, pattern: &NamePattern, name: &str) -> Result<Option<Found>, String> {
    let path = directory.join(name);
    let Some(id) = pattern.id(name) else {
        return match COMPANIONS.iter().find_map(|suffix| name.strip_suffix(suffix)) {
            Some(owner) if pattern.id(owner).is_some() && !directory.join(owner).exists() => {
                Err(format!("{owner}, to which it belongs, is gone"))
            }
            _ => Ok(None),
        };
    };
    let metadata = path.symlink_metadata().map_err(|error| format!("cannot be looked at: {error}"))?;
    if let Some(oddity) = oddity(&metadata) {
        return Err(oddity.to_string());
    }
    let id = id.map_err(|error| error.message().to_string())?;
    Ok(Some((id, (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())))))
}

/// What lies beside a database that does not exist, and would be taken for its own.
pub(super) fn orphan(path: &Path) -> Option<std::path::PathBuf> {
    COMPANIONS.iter().map(|suffix| companion(path, suffix)).find(|path| path.symlink_metadata().is_ok())
}
