//! Deleting a database, after a last copy of it.
//!
//! It must not delete before the copy is durable, and the copy is taken under the lock: no commit can fall between.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::create::{rename_new, sync_directory};
use super::failure::describe;
use super::file::{COMPANIONS, companion};
use crate::error::{Error, ErrorKind, Result};
use crate::store::FinalCopy;

/// The folder in the store's folder that last copies go to.
const DROPPED: &str = "dropped";
/// How many pages are copied between two looks.
const PAGES: i32 = 4_096;

pub(super) fn remove(connection: Connection, path: &Path, copy: FinalCopy) -> Result<Option<PathBuf>> {
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")
        .map_err(|error| describe("cannot lock it", error))?;
    let kept = match copy {
        FinalCopy::Keep => Some(keep(&connection, path)?),
        FinalCopy::None => None,
    };
    std::fs::remove_file(path).map_err(|error| Error::io("delete", path, error))?;
    drop(connection);
    for suffix in COMPANIONS {
        let companion = companion(path, suffix);
        match std::fs::remove_file(&companion) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("delete", &companion, error));
            }
            _ => {}
        }
    }
    sync_directory(path.parent().unwrap_or(Path::new(".")))?;
    Ok(kept)
}

/// Copies the database to `dropped/<name>.<UTC time>`, durably.
fn keep(connection: &Connection, path: &Path) -> Result<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(".")).join(DROPPED);
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("make the folder", &folder, error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let time = time::OffsetDateTime::now_utc();
    let stamp = time
        .format(time::macros::format_description!(
            "[year][month][day]T[hour][minute][second].[subsecond digits:3]Z"
        ))
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot name the copy").caused_by(error))?;
    let kept = folder.join(format!("{name}.{stamp}"));
    let temporary = folder.join(format!(".{name}.{stamp}.new"));
    let result = copy(connection, &temporary).and_then(|()| rename_new(&temporary, &kept));
    if result.is_err() {
        // The error that counts is the copy's.
        let _ = std::fs::remove_file(&temporary);
    }
    result?;
    sync_directory(&folder)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))?;
    Ok(kept)
}

fn copy(connection: &Connection, to: &Path) -> Result<()> {
    let run = || {
        let mut target = Connection::open(to)?;
        let backup = Backup::new(connection, &mut target)?;
        while backup.step(PAGES)? == StepResult::More {}
        Ok(())
    };
    run().map_err(|error| describe("cannot copy it", error))?;
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", to, error))
}
