//! Tests of the command and the library on real databases. `world.rs` builds the fleets.
//!
//! A scenario that applies to both kinds of store is written once and listed in `on_each_store!`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests may print counts")]
#![allow(clippy::too_many_lines, reason = "tables of test cases are long")]

/// Generates one test per scenario and kind of store.
macro_rules! on_each_store {
    ($($scenario:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $scenario() { super::$scenario(&mut crate::world::World::sqlite()); })*
        }
        mod postgres {
            $(#[test] fn $scenario() { super::$scenario(&mut crate::world::World::postgres()); })*
        }
    };
}

/// Like `on_each_store!`, for scenarios about files: only SQLite stores have files.
macro_rules! on_files {
    ($($scenario:ident),* $(,)?) => {
        mod files {
            $(#[test] fn $scenario() { super::$scenario(&mut crate::world::World::sqlite()); })*
        }
    };
}

mod adopt;
mod backup;
mod backup_faults;
mod cluster;
mod command;
mod connections;
mod connections_lost;
mod create;
mod cut;
mod discovery;
mod drift;
mod dry_run;
mod expressions;
mod faults;
mod generate;
mod grants;
mod ignore;
mod init;
mod journal;
mod layouts;
mod library;
mod lint;
mod loaded_extensions;
mod long_catalogs;
mod maintenance;
mod own_transactions;
mod postgres;
mod prompt_train;
mod random_schema;
mod real_sets;
mod real_sets_postgres;
mod rehearse;
mod repair;
mod repeatables;
mod reports;
mod restore;
mod resume;
mod rollback;
mod rollout;
mod row_loss;
mod scanner;
mod schema;
mod schema_postgres;
mod set_orchestrator;
mod set_prompt_train;
mod set_schemas;
mod sets;
mod shards;
mod shared_journal;
mod shared_schemas;
mod spares_and_roles;
mod squash;
mod stores;
mod structure;
mod takeover;
mod transfer;
mod traps;
mod troubles;
mod upgrade;
mod world;
