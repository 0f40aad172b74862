//! The scripts that a new migration begins with, and what tells them from written ones.

use super::script::Script;

const UP: &str = "\
-- Statements, each ended by a semicolon. They run in one transaction with the project's other pending migrations, so no
-- BEGIN and no COMMIT. A metadata.toml beside this file says what is unusual: run_in_transaction = false, or
-- deletes_rows_from = [\"table\"] where rows are meant to go.
";
const DOWN: &str = "\
-- Statements that give back the schema from before. Delete this file if that can't be done.
";

/// The files of a new migration, each with its name and text; `what` says in words what the migration does.
#[must_use]
pub fn new_files(what: &str) -> [(&'static str, String); 2] {
    [
        ("up.sql", format!("-- {what}: what it changes, and why.\n\n{UP}")),
        ("down.sql", format!("-- Undoes {what}.\n\n{DOWN}")),
    ]
}

/// Whether nobody has written anything into a new migration's script yet.
pub(super) fn is_unwritten(script: &Script) -> bool {
    script.statements().is_empty() && [UP, DOWN].iter().any(|text| script.text().contains(text))
}
