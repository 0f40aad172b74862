//! Which files of a folder are projects.
//!
//! It must not open one: a FIFO would hang, a link would lead elsewhere, and opening is not needed to tell.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::file::{COMPANIONS, companion, oddity};
use crate::error::{Error, ErrorKind, Result};
use crate::project::{NamePattern, ProjectId};
use crate::store::{Discovery, LeftOut};

/// Everything in the folder whose name is of the pattern.
pub(super) fn discover(directory: &Path, pattern: &NamePattern) -> Result<Discovery> {
    let mut found = Discovery::default();
    if !directory.exists() {
        return Ok(found);
    }
    if !directory.is_dir() {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("the store {} is no folder", directory.display()),
        )
        .hint("a store is a folder of SQLite files, such as sqlite:data"));
    }
    let mut inodes: HashMap<(u64, u64), Vec<ProjectId>> = HashMap::new();
    for name in names(directory, pattern)? {
        match classify(directory, pattern, &name) {
            Ok(None) => {}
            Ok(Some((id, None))) => found.projects.push(id),
            Ok(Some((id, Some(inode)))) => inodes.entry(inode).or_default().push(id),
            Err(reason) => found.left_out.push(LeftOut { name, reason }),
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
        found.left_out.extend(all.into_iter().map(|name| LeftOut { name, reason: reason.clone() }));
    }
    found.projects.sort();
    found.left_out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The names that the pattern fits, and those of companions.
fn names(directory: &Path, pattern: &NamePattern) -> Result<Vec<String>> {
    let Some(folder) = directory.to_str() else {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("the path {} is not UTF-8", directory.display()),
        ));
    };
    let pattern = format!("{}/{}*", glob::Pattern::escape(folder), pattern.glob());
    let paths = glob::glob(&pattern).map_err(|error| {
        Error::new(ErrorKind::Configuration, "the file pattern is no glob").caused_by(error)
    })?;
    let mut names = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let path = error.path().to_path_buf();
            Error::io("list", &path, error.into())
        })?;
        names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
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
