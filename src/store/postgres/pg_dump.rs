//! Runs PostgreSQL's client programs, `pg_dump` and `pg_restore`.
//!
//! Passwords go through the environment or a private file: other users of the machine can read a command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::connect::Server;
use super::connection_url::ConnectionUrl;
use super::failure::{HIDDEN_ROWS, MORE_LOCKS};
use crate::disk::{PrivateFolder, private_folder};
use crate::error::{Error, ErrorKind, Result};

/// What the programs print after a connection was lost: their own, or that of the session whose snapshot they read.
const CONNECTION_LOST: [&str; 5] = [
    "server closed the connection",
    "terminating connection",
    "connection to server",
    "no connection to the server",
    "invalid snapshot identifier",
];
/// Where packages install the programs, besides the `PATH`.
const INSTALL_FOLDERS: [&str; 3] = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"];

/// Finds the folder of the oldest programs that are at least as new as the server. Fails with `Configuration` if there
/// are none.
pub(super) fn find(server: Server) -> Result<PathBuf> {
    let wanted = server.version / 10_000;
    let mut candidates: Vec<PathBuf> =
        std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    for folder in INSTALL_FOLDERS {
        let versions = std::fs::read_dir(folder).into_iter().flatten().flatten();
        candidates.extend(versions.map(|version| version.path().join("bin")));
    }
    let found = candidates.into_iter().filter_map(|folder| Some((version(&folder)?, folder)));
    let fitting = found.filter(|(version, _)| *version >= wanted).min_by_key(|(version, _)| *version);
    fitting.map(|(_, folder)| folder).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, format!("cannot find pg_dump of version {wanted} or later"))
            .with_hint(format!("install the PostgreSQL client programs (Debian: postgresql-client-{wanted}), or add them to the PATH"))
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

const SERVICE_FILE: &str = "pg_service.conf";

/// Writes a private service file with the password of the client's key, for which libpq has no environment variable.
fn write_service_file(target: &ConnectionUrl, secret: &str) -> Result<PrivateFolder> {
    let refused = |what: &str| {
        Error::new(
            ErrorKind::Configuration,
            format!("cannot pass the sslpassword to pg_dump and pg_restore: {what}"),
        )
        .with_hint("use a key without a password: sslkey=...")
    };
    if target.has_service() {
        return Err(refused("the connection also uses a service"));
    }
    if secret.contains(['\n', '\r']) || secret.trim() != secret {
        return Err(refused("it begins or ends with white space, or has more than one line"));
    }
    let folder = private_folder()?;
    let path = folder.path().join(SERVICE_FILE);
    std::fs::write(&path, format!("[tenantry]\nsslpassword={secret}\n"))
        .map_err(|error| Error::io("write", &path, error))?;
    Ok(folder)
}

/// Runs one of the programs on a database. The first error line that it prints is the cause of the error.
pub(super) fn run(folder: &Path, program: &str, target: &ConnectionUrl, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(folder.join(program));
    let service = target.key_password().map(|secret| write_service_file(target, secret)).transpose()?;
    let mut conninfo = target.public_conninfo();
    if let Some(folder) = &service {
        conninfo.push_str(" service='tenantry'");
        command.env("PGSERVICEFILE", folder.path().join(SERVICE_FILE));
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
    let stderr = target.redact(&String::from_utf8_lossy(&output.stderr));
    let first_error =
        stderr.lines().find(|line| line.contains("error:")).or(stderr.lines().next()).unwrap_or("no output");
    let kind = if stderr.contains("No space left") {
        ErrorKind::DiskFull
    } else if CONNECTION_LOST.iter().any(|text| stderr.contains(text)) {
        ErrorKind::Disconnected
    } else if stderr.contains("out of shared memory") {
        ErrorKind::LocksExhausted
    } else if stderr.contains("lock timeout") {
        ErrorKind::Locked
    } else {
        ErrorKind::Database
    };
    let error = Error::new(kind, format!("{program} failed")).caused_by(first_error.to_string());
    Err(match kind {
        ErrorKind::LocksExhausted => error.with_hint(MORE_LOCKS),
        _ if stderr.contains("row-level security") => error.with_hint(HIDDEN_ROWS),
        _ => error,
    })
}
