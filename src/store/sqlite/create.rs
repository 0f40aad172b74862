//! New databases: a template made once by the migrations, then copied.
//!
//! It must not show a half-made project under its name, whatever kills the process; nor overwrite one.

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
use super::failure::describe;
use super::ledger::redate;
use super::session::SqliteSession;
use crate::disk::{claim, exists, rename_new, sync_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Template;
use crate::store::cache::SchemaCache;

/// Where a database's header says which journal it uses: 1 for a rollback journal, 2 for a WAL.
const JOURNAL_BYTES: std::ops::Range<usize> = 18..20;
/// How old the times in a new project's ledger may be.
const FRESH: Duration = Duration::from_millis(500);

/// The last template made, as the bytes of its file.
#[derive(Default)]
pub(super) struct TemplateCache(Mutex<Option<CachedTemplate>>);

struct CachedTemplate {
    catalog: [u8; 32],
    run: String,
    at: Instant,
    image: Arc<Vec<u8>>,
}

impl TemplateCache {
    /// The bytes of a new database, with a ledger of this run and of about now.
    pub(super) fn image(&self, template: Template<'_>) -> Result<Arc<Vec<u8>>> {
        if !template.is_reusable {
            return build(template).map(Arc::new);
        }
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let image = match made.as_ref().filter(|made| made.catalog == template.catalog) {
            Some(made) if made.run == template.run && made.at.elapsed() < FRESH => {
                return Ok(Arc::clone(&made.image));
            }
            Some(made) => redated(&made.image, template.run)?,
            None => build(template)?,
        };
        let image = Arc::new(image);
        let (run, at) = (template.run.to_string(), Instant::now());
        *made = Some(CachedTemplate { catalog: template.catalog, run, at, image: Arc::clone(&image) });
        Ok(image)
    }
}

/// Runs the migrations on a file, not in memory: only there do journal mode and the like come out as they will be.
fn build(template: Template<'_>) -> Result<Vec<u8>> {
    let failed = |error| Error::new(ErrorKind::Io, "cannot make a template").caused_by(error);
    let scratch = tempfile::tempdir().map_err(failed)?;
    let path = scratch.path().join("template.db");
    let open = || {
        let connection = Connection::open(&path)?;
        connection.execute_batch("PRAGMA synchronous = OFF")?;
        Ok(connection)
    };
    let connection = open().map_err(|error| describe("cannot make a template", error))?;
    let schemas = SchemaCache::default();
    (template.fill)(&mut SqliteSession::new(connection, &schemas), usize::MAX)?;
    std::fs::read(&path).map_err(failed)
}

fn redated(image: &[u8], run: &str) -> Result<Vec<u8>> {
    let redate = || {
        let connection = in_memory(image)?;
        redate(&connection, run)?;
        Ok(connection.serialize(MAIN_DB)?.to_vec())
    };
    let mut redated: Vec<u8> = redate().map_err(|error| describe("cannot date the template", error))?;
    redated[JOURNAL_BYTES].copy_from_slice(&image[JOURNAL_BYTES]);
    Ok(redated)
}

/// A database's bytes as a database in memory, which has no WAL: SQLite refuses an image that says it has one.
pub(super) fn in_memory(image: &[u8]) -> rusqlite::Result<Connection> {
    let mut copy = image.to_vec();
    copy[JOURNAL_BYTES].fill(1);
    let mut connection = Connection::open_in_memory()?;
    connection.deserialize_read_exact(MAIN_DB, copy.as_slice(), copy.len(), false)?;
    Ok(connection)
}

/// Puts a database under its name: written and synced under another one, renamed without overwriting, and the
/// folder synced.
pub(super) fn install(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    let path = directory.join(name);
    ensure_directory(directory)?;
    require_free(&path)?;
    sweep_once(directory);
    let temporary = temporary_name(directory, name);
    let put = || {
        // Kept until it has its name, with its lock: see `sweep`.
        let written = write_file(&temporary, 0o666, write)?;
        rename_new(&temporary, &path)?;
        drop(written);
        sync_directory(directory).map_err(|error| {
            error.with_hint(
                "the database is there and whole, but might not survive a power cut: look at the disk",
            )
        })
    };
    let result = put();
    if result.is_err() {
        // Already renamed or never made: then there is nothing to remove, and the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Errors where there is a database, or what is left of one.
pub(super) fn require_free(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    match orphan(path) {
        None => Ok(()),
        Some(orphan) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{} is left from a database that is gone", orphan.display()),
        )
        .with_hint("SQLite would take it for the new database's own: move it away first")),
    }
}

/// Whether a file's name is one of those.
pub(super) fn is_temporary(name: &str) -> bool {
    let parts = || name.strip_prefix('.')?.strip_suffix(".new")?.rsplit_once('.');
    parts().is_some_and(|(_, id)| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Looks once for what dead processes left in a folder.
fn sweep_once(directory: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_first = SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_path_buf());
    if is_first {
        // What can't be removed now is no reason not to go on: `doctor` names it.
        drop(sweep(directory));
    }
}

/// Removes files that were never given their names, since the process that wrote them is gone: it holds a lock while it writes.
pub(super) fn sweep(directory: &Path) -> Result<Vec<String>> {
    let unreadable = |error| Error::io("list", directory, error);
    let mut gone = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
        if !is_temporary(&name) {
            continue;
        }
        let path = directory.join(&name);
        let is_free = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // One that has its name by now is not there any more.
        if File::open(&path).is_ok_and(|file| is_free(&file)) && std::fs::remove_file(&path).is_ok() {
            gone.push(name);
        }
    }
    Ok(gone)
}

/// What a file is called until it is whole.
pub(super) fn temporary_name(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.{}.new", uuid::Uuid::now_v7().simple()))
}

/// Writes a new file, durably, with this mode as far as the process's mask allows it; gives it, still locked.
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
    // Each new folder's name is durable before anything is put into it.
    let parent = directory.parent().unwrap_or(Path::new("."));
    ensure_directory(parent)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("make the folder", directory, error))
        }
        _ => sync_directory(parent),
    }
}
