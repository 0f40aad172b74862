//! Manages fleets of per-project databases.
pub mod catalog;
pub mod error;
pub mod event;
pub mod ledger;
pub mod manager;
pub mod plan;
pub mod project;
pub mod schema;
pub mod sql;
pub mod store;

mod apply;
mod fleet;

pub use catalog::Catalog;
pub use error::{Error, ErrorKind, Result};
pub use manager::Manager;
pub use project::ProjectId;
pub use sql::Dialect;
pub mod config;
