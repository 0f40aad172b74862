//! The connection that applications get: one type over both kinds of database.
//!
//! It must not be established by itself: that would hide the real error and make missing files. Stores open it.
#![allow(clippy::disallowed_methods, reason = "the derived code has an `establish`; nothing here calls it")]
#![allow(missing_docs, reason = "the derived code has items without documentation")]

#[cfg(feature = "postgres")]
use diesel::PgConnection;
use diesel::SqliteConnection;

use crate::error::Result;

/// A diesel connection to a project's database, whichever kind that is.
#[derive(diesel::MultiConnection)]
pub enum ProjectConnection {
    /// A SQLite file.
    Sqlite(SqliteConnection),
    /// A Postgres schema, which is its `search_path`.
    #[cfg(feature = "postgres")]
    Postgres(PgConnection),
}

/// Opens connections to one project, as often as it is asked.
pub type Connector = Box<dyn Fn() -> Result<ProjectConnection> + Send + Sync>;
