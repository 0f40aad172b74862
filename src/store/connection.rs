//! The connection that applications get: one type for both kinds of database.
//!
//! Only stores open it. Its own `establish` would hide the real error and create missing files.
#![allow(clippy::disallowed_methods, reason = "the derived code has an `establish`; nothing here calls it")]
#![allow(missing_docs, reason = "the derived code has items without documentation")]

#[cfg(feature = "postgres")]
use diesel::PgConnection;
use diesel::SqliteConnection;

use crate::error::Result;

/// A diesel connection to a project's database, of either kind.
#[derive(diesel::MultiConnection)]
pub enum ProjectConnection {
    /// A SQLite file.
    Sqlite(SqliteConnection),
    /// A Postgres schema, to which the `search_path` is set.
    #[cfg(feature = "postgres")]
    Postgres(PgConnection),
}

/// A function that opens a new connection to one project at each call.
pub(crate) type Connector = Box<dyn Fn() -> Result<ProjectConnection> + Send + Sync>;
