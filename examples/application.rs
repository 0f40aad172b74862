//! An application with one database per project. It creates a project at sign-up, works with its database, and upgrades
//! all projects when it starts.
//!
//!     cargo run --example application
#![allow(missing_docs, reason = "diesel's macro generates items without documentation")]

use diesel::prelude::*;
use tenantry::event::Event;
use tenantry::store::{SqliteOptions, SqliteStore};
use tenantry::{Catalog, Dialect, ErrorKind, Manager, ProjectId};

diesel::table! {
    notes (id) {
        id -> Integer,
        text -> Text,
        pinned -> Bool,
    }
}

/// The application's migrations, embedded in its binary.
const MIGRATIONS: [(&str, &str); 2] = [
    ("1_notes/up.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"),
    ("2_pins/up.sql", "ALTER TABLE notes ADD COLUMN pinned BOOLEAN NOT NULL DEFAULT FALSE;"),
];

fn manager(folder: &std::path::Path, migrations: &[(&str, &str)]) -> tenantry::Result<Manager> {
    let catalog = Catalog::from_files("notes", Dialect::Sqlite, migrations.iter().copied())?;
    Manager::new(SqliteStore::new(folder, SqliteOptions::default()), catalog)
}

#[expect(clippy::print_stdout, reason = "the example prints what it does")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;

    // The first release: a project is created at sign-up, already migrated.
    let first = manager(folder.path(), &MIGRATIONS[..1])?;
    let id: ProjectId = "acme".parse()?;
    first.create(&id)?;

    // The second release has one more migration. A project without it cannot be opened by mistake.
    let second = manager(folder.path(), &MIGRATIONS)?;
    match second.connection(&id) {
        Err(error) if error.kind() == ErrorKind::VersionMismatch => println!("{error}"),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("a project that lacks a migration was opened".into()),
    }

    // The application upgrades all projects when it starts, and gets an event for each.
    let summary = second.upgrade_all(|event| {
        if let Event::ProjectFinished(report) = event {
            println!("project {}: {}", report.project, report.outcome.code());
        }
    })?;
    println!("exit code {}", summary.exit);

    // A connection is a diesel connection. The number of open ones is limited over all projects.
    let mut connection = second.connection(&id)?;
    diesel::insert_into(notes::table)
        .values((notes::text.eq("call back"), notes::pinned.eq(true)))
        .execute(&mut *connection)?;
    let pinned: Vec<String> =
        notes::table.filter(notes::pinned).select(notes::text).load(&mut *connection)?;
    println!("pinned: {}", pinned.join(", "));
    Ok(())
}
