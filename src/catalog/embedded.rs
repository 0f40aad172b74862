//! The migration sets that are built into the binary. `build.rs` embeds the folder `migrations/`.

use super::read::Files;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::Dialect;

// Defines `FILES: &[(&str, &[u8])]`: the path and content of each file in migrations/, sorted by path. The paths are
// relative to that folder and use `/` as separator.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Returns the files of a set for a dialect. Fails if there is no such set.
pub(super) fn files(set: &str, dialect: Dialect) -> Result<Files> {
    let folder = format!("{set}/{}/", dialect.name());
    let files: Files = FILES
        .iter()
        .filter(|(path, _)| path.strip_prefix(&folder).is_some_and(|rest| rest.contains('/')))
        .map(|(path, bytes)| (format!("migrations/{path}").into(), bytes.to_vec()))
        .collect();
    if files.is_empty() {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("there is no migration set {set:?} for {}", dialect.name()),
        )
        .with_hint(format!(
            "the sets are {}; or use your own with --migrations DIR",
            names(dialect).join(", ")
        )));
    }
    Ok(files)
}

/// Returns the path and text of a file beside a set's dialect folders. `None` if there is no such file.
pub(crate) fn set_file(set: &str, name: &str) -> Option<(String, String)> {
    let path = format!("{set}/{name}");
    let (_, bytes) = FILES.iter().find(|(it, _)| *it == path)?;
    Some((format!("migrations/{path}"), String::from_utf8_lossy(bytes).into_owned()))
}

/// Returns the names of the sets that have migrations for the dialect, sorted.
pub(super) fn names(dialect: Dialect) -> Vec<&'static str> {
    let mut names: Vec<_> = FILES
        .iter()
        .filter_map(|(path, _)| {
            let mut parts = path.split('/');
            let set = parts.next()?;
            (parts.next()? == dialect.name()).then_some(set)
        })
        .collect();
    names.dedup();
    names
}
