//! The connection that applications get: one type over both kinds of database.
//!
//! It must not be established by itself: that would hide the real error and make missing files. Pools build it.
#![allow(clippy::disallowed_methods, reason = "the derived code has an `establish`; nothing here calls it")]
#![allow(missing_docs, reason = "the derived code has items without documentation")]

use diesel::SqliteConnection;

/// A diesel connection to a project's database, whichever kind that is.
#[derive(diesel::MultiConnection)]
pub enum ProjectConnection {
    /// A SQLite file.
    Sqlite(SqliteConnection),
}
