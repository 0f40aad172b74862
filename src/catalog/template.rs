//! The scripts of a migration to fill in, and how to recognize that they are still unchanged.

use super::script::Script;

pub(super) const UP: &str = "\
-- Write SQL statements, each with a semicolon at its end. They run in one transaction with the project's other pending
-- migrations, so do not write BEGIN or COMMIT. A metadata.toml beside this file declares exceptions: it always says
-- run_in_transaction = true or false, and may add deletes_rows_from = [\"table\"] if rows are meant to be deleted.
";
const PLAIN: &str = "\
-- Write SQL statements, each with a semicolon at its end.
";
pub(super) const DOWN: &str = "\
-- Write SQL statements that restore the previous schema. Delete this file if that is not possible.
";
/// The part of `DOWN` that all layouts have.
const DOWN_START: &str = "-- Write SQL statements that restore the previous schema.";

/// Returns the text of a new migration's script for another tool's layout, which has no `metadata.toml`.
pub(super) fn new_scripts(what: &str) -> (String, String) {
    (format!("-- {what}: what it changes, and why.\n{PLAIN}"), DOWN.to_string())
}

/// Whether a script is still the unchanged template.
pub(super) fn is_template(script: &Script) -> bool {
    script.statements().is_empty() && [UP, PLAIN, DOWN_START].iter().any(|text| script.text().contains(text))
}
