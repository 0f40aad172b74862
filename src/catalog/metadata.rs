//! Parses a migration's `metadata.toml`.
//!
//! The parser is strict: `run_in_transaction` is required, and an unknown key is an error. diesel takes a missing or
//! misspelt `run_in_transaction` for `false`, and a file that it cannot parse for `true`.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// Whether a migration runs in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// It runs in a transaction that it shares with the project's other pending migrations.
    Shared,
    /// It runs alone and without a transaction. Its start is recorded before it runs.
    None,
}

/// The settings of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// `run_in_transaction`: whether it runs in a transaction. `Shared` if there is no `metadata.toml`.
    pub transaction: Transaction,
    /// `replaces`: the revisions of another tool, such as alembic, that correspond to this version; or the versions of the
    /// earlier migrations that it is in the place of, its own among them.
    pub replaces: Vec<String>,
    /// `deletes_rows_from`: the tables that may have fewer rows afterwards.
    pub deletes_rows_from: Vec<String>,
    /// `schema_depends_on_data`: whether the schema afterwards can differ between projects. If so, it is not verified.
    pub schema_depends_on_data: bool,
    /// `same_for_all_projects`: whether projects may share the random numbers and times that its script generates.
    pub same_for_all_projects: bool,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            transaction: Transaction::Shared,
            replaces: Vec::new(),
            deletes_rows_from: Vec::new(),
            schema_depends_on_data: false,
            same_for_all_projects: false,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    run_in_transaction: bool,
    #[serde(default)]
    replaces: Vec<String>,
    #[serde(default)]
    deletes_rows_from: Vec<String>,
    #[serde(default)]
    schema_depends_on_data: bool,
    #[serde(default)]
    same_for_all_projects: bool,
}

impl Metadata {
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| {
            Error::in_toml(ErrorKind::Catalog, path, text, &error).with_hint(
                "set run_in_transaction to true or false, and optionally replaces, deletes_rows_from, \
                 schema_depends_on_data and same_for_all_projects; or delete the file",
            )
        })?;
        Ok(Self {
            transaction: if file.run_in_transaction { Transaction::Shared } else { Transaction::None },
            replaces: file.replaces,
            deletes_rows_from: file.deletes_rows_from,
            schema_depends_on_data: file.schema_depends_on_data,
            same_for_all_projects: file.same_for_all_projects,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_5_metadata_that_diesel_would_misread_is_refused() {
        for text in [
            "",
            "run_in_transacton = false",
            "run_in_transaction = ",
            "replaces = []",
            "run_in_transaction = 1",
        ] {
            let error = Metadata::parse(Path::new("metadata.toml"), text).unwrap_err();
            assert_eq!((error.kind(), error.line()), (ErrorKind::Catalog, Some(1)), "{text:?}");
        }
        let text = "run_in_transaction = false\nreplaces = [\"e6\"]\n";
        let metadata = Metadata::parse(Path::new("metadata.toml"), text).unwrap();
        assert_eq!((metadata.transaction, metadata.replaces), (Transaction::None, vec!["e6".to_string()]));
    }
}
