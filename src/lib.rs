//! Manages fleets of per-project databases: creates each project's database already migrated, takes over databases that
//! exist, upgrades all of them in parallel, says beforehand exactly what would happen, and proves afterwards that it
//! did.
//!
//! A [`Manager`] is a store (where projects live) with a [`Catalog`] (the migrations they follow):
//!
//! ```
//! use diesel::prelude::*;
//! use tenantry::{Catalog, Dialect, Manager, ProjectId};
//!
//! diesel::table! {
//!     notes (id) { id -> Integer, text -> Text }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let migrations = [("1_notes/up.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);")];
//! let catalog = Catalog::from_files("notes", Dialect::Sqlite, migrations)?;
//!
//! // In an application's tests: the real migrations, no files. On disk it is
//! // `Manager::new(SqliteStore::new("data", SqliteOptions::default()), catalog)`.
//! let manager = Manager::in_memory(catalog)?;
//!
//! let id: ProjectId = "acme".parse()?;
//! manager.create(&id)?;
//! let mut connection = manager.connection(&id)?;
//! diesel::insert_into(notes::table).values(notes::text.eq("call back")).execute(&mut *connection)?;
//! assert_eq!(notes::table.count().get_result::<i64>(&mut *connection)?, 1);
//!
//! let summary = manager.upgrade_all(|_event| {})?;
//! assert_eq!(summary.outcomes.count("up_to_date"), 1);
//! # Ok(())
//! # }
//! ```
//!
//! What is where, along the way of an upgrade: [`config`] says what is wanted, [`store`] finds and opens projects,
//! [`ledger`] and [`schema`] understand what was read, [`plan`] decides, `apply` does it under the lock, `fleet` does it
//! for many, and [`event`] tells. [`Manager`] puts them together. The library never prints or exits.

mod apply;
mod backoff;
pub mod backup;
pub mod catalog;
pub mod config;
mod disk;
pub mod error;
pub mod event;
mod fleet;
mod hash;
mod hint;
pub mod journal;
pub mod ledger;
mod maintenance;
pub mod manager;
pub mod plan;
pub mod project;
pub mod rules;
pub mod schema;
pub mod sql;
pub mod store;
pub mod time;

pub use catalog::Catalog;
pub use error::{Error, ErrorKind, Result};
pub use manager::Manager;
pub use project::ProjectId;
pub use rules::Rules;
pub use sql::Dialect;
pub use store::connection::ProjectConnection;
