//! A migration that is not written yet, and its files.

use super::layout::Layout;
use super::metadata::Transaction;
use super::template::{DOWN, UP};

/// A migration to write into a folder of migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMigration {
    /// Its name, such as `add_notes`.
    pub name: String,
    /// The script that applies it.
    pub up: String,
    /// The script that reverts it. `None` if that is not possible.
    pub down: Option<String>,
    /// Whether it runs in a transaction.
    pub transaction: Transaction,
    /// The versions that it replaces.
    pub replaces: Vec<String>,
    /// Whether its scripts are the templates.
    pub(crate) is_blank: bool,
}

/// The text of a script: a comment and the statements, one below the other.
pub(crate) fn script_text(comment: &str, statements: &[String]) -> String {
    let statements: Vec<String> = statements.iter().map(|sql| format!("\n{sql};\n")).collect();
    format!("-- {comment}\n{}", statements.concat())
}

impl NewMigration {
    /// A migration with these scripts, which runs in a transaction.
    #[must_use]
    pub fn new(name: impl Into<String>, up: impl Into<String>, down: Option<String>) -> Self {
        Self {
            name: name.into(),
            up: up.into(),
            down,
            transaction: Transaction::Shared,
            replaces: Vec::new(),
            is_blank: false,
        }
    }

    /// A migration to fill in.
    #[must_use]
    pub fn blank(name: &str) -> Self {
        let what = name.replace('_', " ");
        let up = format!("-- {what}: what it changes, and why.\n\n{UP}");
        let down = format!("-- Undoes {what}.\n\n{DOWN}");
        Self { is_blank: true, ..Self::new(name, up, Some(down)) }
    }

    /// Its files in tenantry's own layout, each with its path and text.
    pub(super) fn files(&self, version: &str) -> Vec<(String, String)> {
        let folder = format!("{version}_{}", self.name);
        let mut files = vec![(format!("{folder}/up.sql"), self.up.clone())];
        files.extend(self.down.clone().map(|down| (format!("{folder}/down.sql"), down)));
        let runs_in_transaction = self.transaction == Transaction::Shared;
        let mut metadata = format!("run_in_transaction = {runs_in_transaction}\n");
        if !self.replaces.is_empty() {
            let names: Vec<String> = self.replaces.iter().map(|it| format!("    {it:?},\n")).collect();
            metadata = format!("{metadata}replaces = [\n{}]\n", names.concat());
        }
        if !runs_in_transaction || !self.replaces.is_empty() {
            files.push((format!("{folder}/metadata.toml"), metadata));
        }
        files
    }

    /// Its files in a layout, or in tenantry's own.
    pub(super) fn files_in(&self, layout: Option<Layout>, version: &str) -> Vec<(String, String)> {
        match layout {
            Some(layout) if self.is_blank => {
                layout.new_files(version, &self.name, &self.name.replace('_', " "))
            }
            Some(layout) => layout.files(version, &self.name, &self.up, self.down.as_deref()),
            None => self.files(version),
        }
    }
}
