//! Checks a store's folder for `doctor`, without changing it.
//!
//! Opens no project; `status` does that.

use std::path::Path;

use rusqlite::Connection;
use rustix::fs::{Access, access};

use super::create::is_temporary;
use super::discover::discover;
use crate::project::NamePattern;
use crate::store::Finding;

/// The compile options to report, which affect how SQLite behaves here.
const COMPILE_OPTIONS: [&str; 6] =
    ["THREADSAFE", "DEFAULT_FOREIGN_KEYS", "DEFAULT_MEMSTATUS", "DEFAULT_SYNCHRONOUS", "DQS", "ENABLE_FTS5"];

pub(super) fn diagnose(directory: &Path, pattern: &NamePattern) -> Vec<Finding> {
    let mut findings = vec![engine(), folder(directory)];
    if !directory.is_dir() {
        return findings;
    }
    findings.push(match discover(directory, pattern) {
        Ok(found) => {
            let skipped = found.skipped.first().map_or(String::new(), |first| {
                let more = if found.skipped.len() > 1 { "; tenantry list names all" } else { "" };
                format!(": {} ({}){more}", first.name, first.reason)
            });
            Finding {
                name: "projects",
                ok: found.skipped.is_empty(),
                detail: format!(
                    "{} match {pattern}, {} skipped{skipped}",
                    found.projects.len(),
                    found.skipped.len()
                ),
            }
        }
        Err(error) => Finding { name: "projects", ok: false, detail: error.summary() },
    });
    findings.push(leftovers(directory));
    findings
}

fn engine() -> Finding {
    let options = || -> rusqlite::Result<Vec<String>> {
        let connection = Connection::open_in_memory()?;
        let mut statement = connection.prepare("SELECT compile_options FROM pragma_compile_options")?;
        statement.query_map((), |row| row.get(0))?.collect()
    };
    match options() {
        Ok(options) => {
            let relevant: Vec<_> = options
                .into_iter()
                .filter(|option| COMPILE_OPTIONS.iter().any(|name| option.starts_with(name)))
                .collect();
            Finding {
                name: "sqlite",
                ok: true,
                detail: format!("{} ({})", rusqlite::version(), relevant.join(", ")),
            }
        }
        Err(error) => Finding { name: "sqlite", ok: false, detail: error.to_string() },
    }
}

fn folder(directory: &Path) -> Finding {
    let shown = directory.display();
    let (ok, detail) = if directory.exists() && !directory.is_dir() {
        (false, format!("{shown} is not a folder"))
    } else if !directory.is_dir() {
        (false, format!("{shown} does not exist; the first create command creates it"))
    } else if access(directory, Access::READ_OK | Access::EXEC_OK).is_err() {
        (false, format!("this user cannot list {shown}"))
    } else if access(directory, Access::WRITE_OK).is_err() {
        (false, format!("this user can read {shown}, but not write to it"))
    } else {
        (true, format!("this user can read and write {shown}"))
    };
    Finding { name: "folder", ok, detail }
}

/// Looks for temporary files of killed commands. They are never projects, and can be deleted while no command runs.
fn leftovers(directory: &Path) -> Finding {
    let names: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_temporary(name))
        .collect();
    let detail = match names.first() {
        None => "none".into(),
        Some(first) => format!(
            "{} temporary files of killed or running commands, such as {first}; \
             to remove unused ones: tenantry doctor --clean",
            names.len()
        ),
    };
    Finding { name: "leftovers", ok: names.is_empty(), detail }
}
