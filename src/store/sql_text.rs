//! Projects as plain SQL.

use std::io::Write;
use std::path::Path;

use crate::error::Result;
use crate::project::ProjectId;

/// Exports and imports projects as SQL.
pub trait SqlText {
    /// Writes a project, as it is at one moment, as SQL for the database's own shell.
    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()>;

    /// Turns SQL text into a snapshot, in a file that must not exist. Refuses text that reaches beyond the project.
    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql>;
}

/// What [`SqlText::load_sql`] made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadedSql {
    /// The name of the project's file or schema in the snapshot.
    pub place: String,
    /// Statements that restore owners and grants. `%1$I` stands for the schema.
    pub access: Vec<String>,
    /// Owners and grants of the text that could not be restored.
    pub notes: Vec<String>,
}
