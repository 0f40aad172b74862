//! Creates databases. The migrations build a template once, and every new database is a copy of it.
//!
//! A database gets its name only when it is complete, even if the process is killed, and never overwrites a file.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, MAIN_DB};
use rustix::fs::{FlockOperation, flock};

use super::discover::orphan;
use super::environment::Environment;
use super::failure::describe;
use super::ledger::set_run;
use super::session::SqliteSession;
use crate::disk::{already_exists, claim, rename_new, sync_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Template;

/// The file header's format versions: 1 for a rollback journal, 2 for WAL.
const FORMAT_VERSIONS: std::ops::Range<usize> = 18..20;
/// The maximum age of the times in a new project's ledger.
const MAX_LEDGER_AGE: Duration = Duration::from_millis(500);

/// The most recent template, as the bytes of its database file.
#[derive(Default)]
pub(super) struct TemplateCache(Mutex<Option<CachedTemplate>>);

struct CachedTemplate {
    catalog_hash: [u8; 32],
    run: String,
    /// When the times in the image's ledger were set.
    updated: Instant,
    image: Arc<Vec<u8>>,
}

impl TemplateCache {
    /// Returns the bytes of a new database whose ledger has the template's run and current times.
    pub(super) fn image(&self, template: Template<'_>, environment: &Environment) -> Result<Arc<Vec<u8>>> {
        if !template.is_reusable {
            return build(template, environment).map(Arc::new);
        }
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let image = match cached.as_ref().filter(|cached| cached.catalog_hash == template.catalog_hash) {
            Some(cached) if cached.run == template.run_id && cached.updated.elapsed() < MAX_LEDGER_AGE => {
                return Ok(Arc::clone(&cached.image));
            }
            Some(cached) => with_run(&cached.image, template.run_id)?,
            None => build(template, environment)?,
        };
        let image = Arc::new(image);
        let (run, updated) = (template.run_id.to_string(), Instant::now());
        *cached = Some(CachedTemplate {
            catalog_hash: template.catalog_hash,
            run,
            updated,
            image: Arc::clone(&image),
        });
        Ok(image)
    }
}

/// Runs the migrations on a file rather than in memory, because only a file keeps settings such as the journal mode.
fn build(template: Template<'_>, environment: &Environment) -> Result<Vec<u8>> {
    let failed = |error| Error::new(ErrorKind::Io, "cannot create the template database").caused_by(error);
    let scratch = tempfile::tempdir().map_err(failed)?;
    let path = scratch.path().join("template.db");
    let open = || {
        let connection = Connection::open(&path)?;
        connection.execute_batch("PRAGMA synchronous = OFF")?;
        Ok(connection)
    };
    let connection = open().map_err(|error| describe("cannot create the template database", error))?;
    let connection = environment.prepare(connection)?;
    (template.fill)(&mut SqliteSession::new(connection, environment), usize::MAX)?;
    std::fs::read(&path).map_err(failed)
}

/// Returns a copy of a template whose ledger has this run and the current time.
fn with_run(image: &[u8], run_id: &str) -> Result<Vec<u8>> {
    let update = || {
        let connection = in_memory(image)?;
        set_run(&connection, run_id)?;
        Ok(connection.serialize(MAIN_DB)?.to_vec())
    };
    let mut updated: Vec<u8> =
        update().map_err(|error| describe("cannot update the ledger of the template database", error))?;
    updated[FORMAT_VERSIONS].copy_from_slice(&image[FORMAT_VERSIONS]);
    Ok(updated)
}

/// Opens a database's bytes in memory. SQLite cannot open a WAL database there, so the copy is marked as one with a
/// rollback journal.
pub(super) fn in_memory(image: &[u8]) -> rusqlite::Result<Connection> {
    let mut copy = image.to_vec();
    copy[FORMAT_VERSIONS].fill(1);
    let mut connection = Connection::open_in_memory()?;
    connection.deserialize_read_exact(MAIN_DB, copy.as_slice(), copy.len(), false)?;
    Ok(connection)
}

/// Creates a database file: writes and syncs it under a temporary name, renames it without overwriting, and syncs the
/// folder. Returns `AlreadyExists` if the name is in use.
pub(super) fn create_file(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    let path = directory.join(name);
    ensure_directory(directory)?;
    require_free(&path)?;
    sweep_once(directory);
    let temporary = temporary_name(directory, name);
    let write_and_rename = || {
        // Stays open, and so locked, until the rename: `sweep` would remove an unlocked file.
        let locked = write_file(&temporary, 0o666, write)?;
        rename_new(&temporary, &path)?;
        drop(locked);
        sync_directory(directory).map_err(|error| {
            error.with_hint("the database is complete, but a power failure may lose it: check the disk")
        })
    };
    let result = write_and_rename();
    if result.is_err() {
        // The file may be renamed already or not exist. The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Returns `AlreadyExists` if the database exists, or if a companion file of a deleted database does.
pub(super) fn require_free(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(already_exists());
    }
    match orphan(path) {
        None => Ok(()),
        Some(orphan) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{} is left over from a database that no longer exists", orphan.display()),
        )
        .with_hint("SQLite would use it as part of the new database: move it away first")),
    }
}

/// Whether a file name has the form that [`temporary_name`] returns.
pub(super) fn is_temporary(name: &str) -> bool {
    let parts = || name.strip_prefix('.')?.strip_suffix(".new")?.rsplit_once('.');
    parts().is_some_and(|(_, id)| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Removes the temporary files of dead processes, once per folder and process.
fn sweep_once(directory: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_first = SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_path_buf());
    if is_first {
        // A leftover file does not prevent a create, and `doctor` lists it.
        drop(sweep(directory));
    }
}

/// Removes the temporary files of dead processes and returns their names. A live process holds a lock on its file.
pub(super) fn sweep(directory: &Path) -> Result<Vec<String>> {
    let unreadable = |error| Error::io("list", directory, error);
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
        if !is_temporary(&name) {
            continue;
        }
        let path = directory.join(&name);
        let is_free = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // The lock is held until the file is removed, so that nobody begins to write it. A file that was renamed in the meantime
        // no longer exists under this name.
        let remove = |file: File| is_free(&file) && std::fs::remove_file(&path).is_ok();
        if File::open(&path).is_ok_and(remove) {
            removed.push(name);
        }
    }
    Ok(removed)
}

/// Returns the name of a file until it is complete.
pub(super) fn temporary_name(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.{}.new", uuid::Uuid::now_v7().simple()))
}

/// Writes and syncs a new file with this mode, limited by the process's umask. Returns it open and locked.
pub(super) fn write_file(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<File> {
    let write = || {
        let mut file = loop {
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            if claim(&file)? {
                break file;
            }
        };
        write(&mut file)?;
        file.sync_all()?;
        Ok(file)
    };
    write().map_err(|error| Error::io("write", path, error))
}

fn ensure_directory(directory: &Path) -> Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    // The parent is synced before anything is created in the new folder.
    let parent = directory.parent().unwrap_or(Path::new("."));
    ensure_directory(parent)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("create the folder", directory, error))
        }
        _ => sync_directory(parent),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{create_file, sweep};

    /// A file that is created while another process sweeps is never removed.
    #[test]
    fn a_file_that_is_being_created_is_never_swept() {
        let folder = tempfile::tempdir().unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_done.load(Ordering::Relaxed) {
                        sweep(folder.path()).unwrap();
                    }
                });
            }
            let failed = (0..2_000)
                .filter(|number| {
                    let write = |file: &mut std::fs::File| file.write_all(b"x");
                    create_file(folder.path(), &format!("{number}.db"), write).is_err()
                })
                .count();
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(failed, 0);
        });
    }
}
