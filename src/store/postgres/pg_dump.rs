//! The server's own programs: `pg_dump` and `pg_restore`.
//!
//! It must not put a password where other users of the machine can read it: it goes by the environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::connect::Server;
use super::connection_url::ConnectionUrl;
use super::failure::{HIDDEN_ROWS, MORE_LOCKS};
use crate::disk::{PrivateFolder, private_folder};
use crate::error::{Error, ErrorKind, Result};

/// What they say where a connection was lost: theirs, or the one whose snapshot they read.
const LOST: [&str; 5] = [
    "server closed the connection",
    "terminating connection",
    "connection to server",
    "no connection to the server",
    "invalid snapshot identifier",
];
/// Where packages put these programs, beside the `PATH`.
const FOLDERS: [&str; 3] = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"];

/// The folder of the programs that fit a server: not older than it, and no newer than need be.
pub(super) fn find(server: Server) -> Result<PathBuf> {
    let wanted = server.version / 10_000;
    let mut candidates: Vec<PathBuf> =
        std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    for folder in FOLDERS {
        let versions = std::fs::read_dir(folder).into_iter().flatten().flatten();
        candidates.extend(versions.map(|version| version.path().join("bin")));
    }
    let found = candidates.into_iter().filter_map(|folder| Some((version(&folder)?, folder)));
    let fitting = found.filter(|(version, _)| *version >= wanted).min_by_key(|(version, _)| *version);
    fitting.map(|(_, folder)| folder).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, format!("there is no pg_dump of version {wanted} or later here"))
            .with_hint(format!("install the client's programs (Debian: postgresql-client-{wanted}), or put them into the PATH"))
    })
}

fn version(folder: &Path) -> Option<i32> {
    let program = folder.join("pg_dump");
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

const SERVICES: &str = "pg_service.conf";

/// A private file with the password of the client's own key, for which libpq has no variable.
fn service_of(target: &ConnectionUrl, secret: &str) -> Result<PrivateFolder> {
    let refused = |what: &str| {
        Error::new(
            ErrorKind::Configuration,
            format!("cannot hand the sslpassword to the server's own programs: {what}"),
        )
        .with_hint("name a key without a password: sslkey=...")
    };
    if target.has_service() {
        return Err(refused("a service is used as well"));
    }
    if secret.contains(['\n', '\r']) || secret.trim() != secret {
        return Err(refused("it has white space at an end, or more than one line"));
    }
    let folder = private_folder()?;
    let path = folder.path().join(SERVICES);
    std::fs::write(&path, format!("[tenantry]\nsslpassword={secret}\n"))
        .map_err(|error| Error::io("write", &path, error))?;
    Ok(folder)
}

/// Runs one of them on a database, and gives what it says where it fails.
pub(super) fn run(folder: &Path, program: &str, target: &ConnectionUrl, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(folder.join(program));
    let service = target.key_password().map(|secret| service_of(target, secret)).transpose()?;
    let mut conninfo = target.public_conninfo();
    if let Some(folder) = &service {
        conninfo.push_str(" service='tenantry'");
        command.env("PGSERVICEFILE", folder.path().join(SERVICES));
    }
    command.args(arguments).arg("--dbname").arg(conninfo).stdin(Stdio::null());
    command.stdout(Stdio::null()).env("LC_ALL", "C");
    if let Some(password) = target.password() {
        command.env("PGPASSWORD", password);
    }
    let output = command
        .output()
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot run {program}")).caused_by(error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = target.redact(&String::from_utf8_lossy(&output.stderr));
    let first = said
        .lines()
        .find(|line| line.contains("error:"))
        .or(said.lines().next())
        .unwrap_or("it said nothing");
    let kind = if said.contains("No space left") {
        ErrorKind::DiskFull
    } else if LOST.iter().any(|text| said.contains(text)) {
        ErrorKind::Disconnected
    } else if said.contains("out of shared memory") {
        ErrorKind::LocksExhausted
    } else if said.contains("lock timeout") {
        ErrorKind::Locked
    } else {
        ErrorKind::Database
    };
    let error = Error::new(kind, format!("{program} failed")).caused_by(first.to_string());
    Err(match kind {
        ErrorKind::LocksExhausted => error.with_hint(MORE_LOCKS),
        _ if said.contains("row-level security") => error.with_hint(HIDDEN_ROWS),
        _ => error,
    })
}
