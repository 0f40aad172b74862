//! Manages fleets of per-project databases: one SQLite file or one Postgres schema for each project of an application.
//!
//! A [`Manager`] connects a store (where the projects are) with a [`Catalog`] (their migrations). Applications do three
//! things with it.
//!
//! **Create a project's database at sign-up.** It is created with all migrations applied, completely or not at all:
//!
//! ```
//! use tenantry::store::{SqliteOptions, SqliteStore};
//! use tenantry::{Catalog, Dialect, Manager, ProjectId};
//!
//! # fn main() -> tenantry::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("tenantry-doc-create-{}", std::process::id()));
//! let migrations = [("1_notes/up.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);")];
//! let catalog = Catalog::from_files("notes", Dialect::Sqlite, migrations)?;
//! let manager = Manager::new(SqliteStore::new(&folder, SqliteOptions::default()), catalog)?;
//!
//! let id: ProjectId = "acme".parse()?;
//! manager.create(&id)?;
//! assert!(folder.join("project_acme.db").exists());
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok(())
//! # }
//! ```
//!
//! **Get a connection for a request.** It comes from a pool that is limited over all projects, and only if the project
//! has the version that the code was written for:
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
//! # let migrations = [("1_notes/up.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);")];
//! # let catalog = Catalog::from_files("notes", Dialect::Sqlite, migrations)?;
//! // For an application's tests: the real migrations, without files.
//! let manager = Manager::in_memory(catalog)?;
//! # let id: ProjectId = "acme".parse()?;
//! manager.create(&id)?;
//! let mut connection = manager.connection(&id)?;
//! diesel::insert_into(notes::table).values(notes::text.eq("call back")).execute(&mut *connection)?;
//! assert_eq!(notes::table.count().get_result::<i64>(&mut *connection)?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Upgrade all projects** when a new release starts. They are upgraded in parallel, each in one transaction; one that
//! fails keeps its version and does not stop the others:
//!
//! ```
//! use tenantry::event::Event;
//! # use tenantry::{Catalog, Dialect, Manager, ProjectId};
//!
//! # fn main() -> tenantry::Result<()> {
//! # let catalog = Catalog::from_files("notes", Dialect::Sqlite, [("1_notes/up.sql", "CREATE TABLE notes (id INTEGER);")])?;
//! # let manager = Manager::in_memory(catalog)?;
//! # manager.create(&"acme".parse::<ProjectId>()?)?;
//! let summary = manager.upgrade_all(|event| {
//!     if let Event::ProjectFinished(report) = event {
//!         println!("{}: {}", report.project, report.outcome.code());
//!     }
//! })?;
//! assert_eq!(summary.exit, 0);
//! # Ok(())
//! # }
//! ```
//!
//! Everything that the command `tenantry` does is a method of [`Manager`]: [`Manager::run`] takes any [`manager::Run`].
//! [`config::Config`] sets a manager up from `tenantry.toml` and the environment as the command does. The library never
//! prints or exits.

mod apply;
mod backoff;
pub mod backup;
pub mod catalog;
pub mod config;
mod disk;
mod error;
pub mod event;
mod hash;
mod hint;
pub mod journal;
mod ledger;
#[cfg(feature = "lint")]
pub mod lint;
pub mod manager;
mod plan;
mod project;
pub mod rules;
mod schema;
mod sql;
pub mod store;
pub mod time;
mod workers;

pub use catalog::Catalog;
pub use error::{Error, ErrorKind, Result};
pub use manager::Manager;
pub use project::ProjectId;
pub use rules::Rules;
pub use sql::Dialect;
pub use store::connection::ProjectConnection;

/// For tenantry's own tests. Not part of the interface: it changes without notice.
#[doc(hidden)]
pub mod internals {
    pub use crate::schema::{Schema, sqlite};
    pub use crate::sql::{statement::split, tokens};
    pub use crate::store::Store;
    pub use crate::store::create::SpareStore;
    pub use crate::store::inspect::{Inspect, ReadSchema};
    pub use crate::store::session::{DeferredCommits, Mode, SchemaSource, Session, Step};
}
