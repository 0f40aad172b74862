//! Compares drizzle's journal, `meta/_journal.json`, with the files of the folder.

use std::path::Path;

use super::{SqlFile, file_name};
use crate::error::{Error, ErrorKind, Result};

/// Fails unless drizzle's journal lists exactly these files, in the order of their versions.
pub(in crate::catalog) fn check_journal(journal: &Path, files: &[SqlFile]) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Journal {
        entries: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        tag: String,
    }
    let text = std::fs::read_to_string(journal).map_err(|error| Error::io("read", journal, error))?;
    let listed: Journal = serde_json::from_str(&text).map_err(|error| {
        Error::new(ErrorKind::Catalog, "drizzle's journal cannot be parsed")
            .at(journal, None)
            .caused_by(error)
    })?;
    let listed: Vec<String> = listed.entries.into_iter().map(|entry| format!("{}.sql", entry.tag)).collect();
    let found: Vec<String> = files.iter().map(|(path, _)| file_name(path)).collect();
    if listed == found {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Catalog,
        "drizzle's journal lists other files than the folder has, or in another order",
    )
    .at(journal, None)
    .with_hint(format!("the journal has {}; the folder has {}", listed.join(", "), found.join(", "))))
}
