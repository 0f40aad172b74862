//! The command and the library on real databases, through one builder: see `world.rs`.
//!
//! A scenario that a store of either kind can play is written once and listed in `on_each_store!`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test may say what it counted")]
#![allow(clippy::too_many_lines, reason = "a table of cases is as long as there are cases")]

/// Makes a test of each scenario for each kind of store.
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

/// The same for scenarios about files, which only SQLite's stores have.
macro_rules! on_files {
    ($($scenario:ident),* $(,)?) => {
        mod files {
            $(#[test] fn $scenario() { super::$scenario(&mut crate::world::World::sqlite()); })*
        }
    };
}

mod backup;
mod backup_faults;
mod cluster;
mod command;
mod connections;
mod connections_lost;
mod create;
mod cut;
mod discovery;
mod dry_run;
mod expressions;
mod faults;
mod grants;
mod journal;
mod library;
mod maintenance;
mod postgres;
mod prompt_train;
mod real_sets;
mod real_sets_postgres;
mod reports;
mod restore;
mod rollback;
mod row_loss;
mod scanner;
mod schema;
mod schema_postgres;
mod set_orchestrator;
mod set_prompt_train;
mod set_schemas;
mod sets;
mod spares_and_roles;
mod takeover;
mod transfer;
mod traps;
mod upgrade;
mod world;
