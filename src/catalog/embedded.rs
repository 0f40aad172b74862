//! The migration sets in the binary, put there by `build.rs` from the folder `migrations/`.
//!
//! It must not know any set: a set is data.

use super::read::Files;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::Dialect;

// `FILES: &[(&str, &[u8])]`: every file under migrations/, its path from there with `/`, sorted.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The files of one set and dialect.
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
            "the sets are {}; or give your own with --migrations DIR",
            names(dialect).join(", ")
        )));
    }
    Ok(files)
}

/// A file that lies beside a set's dialects: its path and text.
pub(crate) fn beside(set: &str, name: &str) -> Option<(String, String)> {
    let path = format!("{set}/{name}");
    let (_, bytes) = FILES.iter().find(|(it, _)| *it == path)?;
    Some((format!("migrations/{path}"), String::from_utf8_lossy(bytes).into_owned()))
}

/// The names of the sets that have the dialect, sorted.
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
