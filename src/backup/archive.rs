//! The backups of a fleet: how one is packed, listed, unpacked and removed.
//!
//! It must not show a backup before all of it is durable: its manifest comes last, and goes first.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::destination::{Destination, write_private};
use super::manifest::{DataFile, Manifest, Reason};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::ledger::Ledger;
use crate::project::ProjectId;
use crate::store::{Snapshot, Store};
use crate::time::Moment;

/// The ends of a backup's names.
const DATA: &str = ".zst";
const MANIFEST: &str = ".json";
const VERIFIED: &str = ".verified";

/// The largest manifest that is read: one of 100,000 tables has less.
const MAX_MANIFEST: u64 = 64 << 20;

/// The backups of one fleet, in one place.
#[derive(Clone)]
pub struct Archive {
    destination: Arc<dyn Destination>,
    /// Whose backups they are; anybody's where nobody was named.
    owner: Option<Arc<dyn Store>>,
}

/// A backup, by its manifest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backup {
    /// Its name: `42/20261121T201700.123Z-1a2b3c4d`.
    pub name: String,
    /// What is known of it.
    pub manifest: Manifest,
    /// How far it was checked last, and when.
    pub verified: Option<LastCheck>,
    /// When it was last checked, where it failed then.
    pub failed: Option<Moment>,
}

/// That a backup was checked, and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastCheck {
    /// The level, 1 to 4.
    pub level: u8,
    /// When.
    pub at: Moment,
}

/// What a backup is taken for.
#[derive(Clone, Debug)]
pub struct BackupRequest<'a> {
    /// What whoever asked for it calls it.
    pub label: Option<&'a str>,
    /// What it is taken for.
    pub reason: Reason,
    /// The run that takes it.
    pub run: &'a str,
    /// The store that it is taken from, without a password.
    pub store: String,
}

impl Archive {
    /// The backups in a place.
    pub fn new(destination: impl Destination + 'static) -> Self {
        Self { destination: Arc::new(destination), owner: None }
    }

    /// Only those that were taken of a store's projects: several fleets may share a place.
    #[must_use]
    pub(crate) fn of_store(self, store: Arc<dyn Store>) -> Self {
        Self { owner: Some(store), ..self }
    }

    /// Whether a backup is of this fleet's project.
    #[must_use]
    pub(crate) fn owns(&self, manifest: &Manifest) -> bool {
        self.owner.as_ref().is_none_or(|store| {
            let Manifest { store: taken_of, place, project, .. } = manifest;
            store.owns(taken_of, place, project, &self.location())
        })
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> String {
        self.destination.location()
    }

    /// The projects that have backups, sorted.
    pub fn projects(&self) -> Result<Vec<ProjectId>> {
        let mut projects: Vec<ProjectId> =
            self.destination.folders()?.iter().filter_map(|folder| folder.parse().ok()).collect();
        projects.sort();
        let mut owned = Vec::with_capacity(projects.len());
        for project in projects {
            // One that can't be read is told where it is asked for.
            let mut names = self.names(&project)?.into_iter().rev();
            if names.any(|name| self.get(&name).map_or(true, |backup| self.owns(&backup.manifest))) {
                owned.push(project);
            }
        }
        Ok(owned)
    }

    /// The names of a project's backups, oldest first: of those that were finished.
    pub fn names(&self, project: &ProjectId) -> Result<Vec<String>> {
        let files = self.destination.list(project.as_str())?;
        let manifests = files.iter().filter_map(|file| file.strip_suffix(MANIFEST));
        Ok(manifests.map(|stem| format!("{project}/{stem}")).collect())
    }

    /// What is known of a backup. Errors with [`ErrorKind::CheckFailed`] where its manifest is not as it was written.
    pub fn get(&self, name: &str) -> Result<Backup> {
        let mut document = Vec::new();
        self.destination
            .open(&format!("{name}{MANIFEST}"))?
            .take(MAX_MANIFEST)
            .read_to_end(&mut document)
            .map_err(|error| Error::new(ErrorKind::Io, "cannot read its manifest").caused_by(error))?;
        let manifest = Manifest::open(&document).map_err(|error| error.at(name, None))?;
        let belongs = name.starts_with(&format!("{}/{}-", manifest.project, manifest.taken_at.in_names()));
        if !belongs {
            return Err(
                Error::new(ErrorKind::CheckFailed, "its manifest is that of another backup").at(name, None)
            );
        }
        let checked = self.checked(name, &document);
        let failed = checked.filter(|it| it.level == 0).map(|it| it.at);
        Ok(Backup { name: name.into(), verified: checked.filter(|it| it.level > 0), failed, manifest })
    }

    /// A project's backups, oldest first, and those that can't be read.
    pub fn all(&self, project: &ProjectId) -> Result<(Vec<Backup>, Vec<Error>)> {
        let (mut backups, mut broken) = (Vec::new(), Vec::new());
        for name in self.names(project)? {
            match self.get(&name) {
                Ok(backup) if self.owns(&backup.manifest) => backups.push(backup),
                Ok(_) => {}
                Err(error) => broken.push(error.in_project(project)),
            }
        }
        Ok((backups, broken))
    }

    /// A project's newest backup that was taken by then. One that can't be read is an error, not passed over.
    pub fn newest(&self, project: &ProjectId, by: Option<Moment>) -> Result<Option<Backup>> {
        let end = by.map(|by| format!("{project}/{}~", by.in_names()));
        let names = self.names(project)?;
        for name in names.iter().rev().filter(|name| end.as_ref().is_none_or(|end| *name <= end)) {
            let backup = self.get(name)?;
            if self.owns(&backup.manifest) {
                return Ok(Some(backup));
            }
        }
        Ok(None)
    }

    /// Takes a backup. `copy` copies the project to a file that is not there yet, and says what is in it.
    pub fn take(
        &self,
        project: &ProjectId,
        note: &BackupRequest<'_>,
        copy: impl FnOnce(&Path) -> Result<Snapshot>,
    ) -> Result<Backup> {
        let workspace = self.destination.workspace()?;
        let (raw, packed) = (workspace.path().join("copy"), workspace.path().join("packed"));
        let taken_at = Moment::now();
        let snapshot = copy(&raw)?;
        let file = pack(&raw, &packed)?;
        let manifest = Manifest {
            format: Manifest::format(),
            tenantry: env!("CARGO_PKG_VERSION").into(),
            database: snapshot.database,
            store: note.store.clone(),
            project: project.clone(),
            place: snapshot.place,
            taken_at,
            label: note.label.map(Into::into),
            reason: note.reason,
            run: note.run.into(),
            file,
            ledger: applied(&snapshot.inspection.ledger),
            schema: snapshot.inspection.fingerprint()?.to_string(),
            tables: snapshot.contents.tables,
            properties: snapshot.contents.properties,
            needs: snapshot.needs,
            access: snapshot.access,
        };
        let random = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let name = format!("{project}/{}-{random}", taken_at.in_names());
        self.destination.put(&format!("{name}{DATA}"), &packed)?;
        let document = workspace.path().join("manifest");
        write_private(&document, &manifest.seal()?)?;
        self.destination.put(&format!("{name}{MANIFEST}"), &document)?;
        Ok(Backup { name, manifest, verified: None, failed: None })
    }

    /// Looks at the size and the hash of a backup's file, and unpacks it into a file that is not there yet.
    pub fn unpack(&self, backup: &Backup, into: &Path) -> Result<()> {
        let DataFile { size, sha256, unpacked } = &backup.manifest.file;
        let broken = |message: String| {
            Error::new(ErrorKind::CheckFailed, message)
                .at(&backup.name, None)
                .with_hint("trust another backup of this project; keep this one for whoever looks into it")
        };
        let file = self
            .destination
            .open(&format!("{}{DATA}", backup.name))
            .map_err(|error| error.at(&backup.name, None))?;
        let mut source = HashingStream::new(file.take(size.saturating_add(1)));
        let result = decompress(&mut source, *unpacked, into);
        // What comes after what was unpacked counts as well.
        io::copy(&mut source, &mut io::sink())
            .map_err(|error| broken(format!("its file can't be read: {error}")))?;
        let (found, hash) = source.finish();
        if found != *size {
            let more = if found > *size { "more than " } else { "" };
            return Err(broken(format!("its file has {more}{} byte(s), and had {size}", found.min(*size))));
        }
        if hash != *sha256 {
            return Err(broken("its file has not the SHA-256 that it had".into()));
        }
        match result {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(Error::io("write", into, error)),
            Err(error) => Err(broken(format!("its file can't be unpacked: {error}"))),
            Ok(length) if length != *unpacked => {
                Err(broken(format!("it unpacks to {length} byte(s), and was made of {unpacked}")))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Remembers the level at which a backup was checked, and held; 0 where it did not, whatever it did before.
    pub fn record_check(&self, backup: &Backup, level: u8) -> Result<()> {
        // A lower level takes nothing back from a higher one.
        if level > 0 && backup.verified.is_some_and(|it| it.level > level) {
            return Ok(());
        }
        let record = VerificationRecord {
            verified: LastCheck { level, at: Moment::now() },
            manifest: hexadecimal(&Sha256::digest(backup.manifest.seal()?)),
        };
        let text = serde_json::to_string(&record).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write that it was verified").caused_by(error)
        })?;
        self.destination.note(&format!("{}{VERIFIED}", backup.name), &text)
    }

    /// Removes a backup: first what shows it.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.remove_file(&format!("{name}{MANIFEST}"))?;
        self.remove_file(&format!("{name}{DATA}"))?;
        self.remove_file(&format!("{name}{VERIFIED}"))
    }

    /// Removes what killed processes were still making, where nobody went on with it for this long.
    pub fn sweep_unfinished(&self, idle: Duration) -> Result<()> {
        self.destination.sweep(idle)
    }

    /// Removes what a project's killed backups left, older than this; gives how many files.
    pub fn sweep(&self, project: &ProjectId, older_than: Duration) -> Result<usize> {
        let files = self.destination.list(project.as_str())?;
        let finished: Vec<&str> = files.iter().filter_map(|file| file.strip_suffix(MANIFEST)).collect();
        let mut swept = 0;
        for file in &files {
            let is_of = |stem: &&str| file.starts_with(stem);
            let taken = file.split('-').next().and_then(moment_in_name);
            if taken.is_some_and(|taken| taken.age() > older_than) && !finished.iter().any(is_of) {
                self.remove_file(&format!("{project}/{file}"))?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Another process that removes the same is no error.
    fn remove_file(&self, name: &str) -> Result<()> {
        match self.destination.remove(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// How its last check ended. A record that is of another manifest, or can't be read, is none.
    fn checked(&self, name: &str, document: &[u8]) -> Option<LastCheck> {
        let mut text = String::new();
        self.destination
            .open(&format!("{name}{VERIFIED}"))
            .ok()?
            .take(4096)
            .read_to_string(&mut text)
            .ok()?;
        let record: VerificationRecord = serde_json::from_str(&text).ok()?;
        (record.manifest == hexadecimal(&Sha256::digest(document))).then_some(record.verified)
    }
}

/// That a backup was verified, as it is written.
#[derive(Serialize, Deserialize)]
struct VerificationRecord {
    verified: LastCheck,
    /// The SHA-256 of the manifest's document.
    manifest: String,
}

fn moment_in_name(text: &str) -> Option<Moment> {
    let (date, clock) = text.split_once('T')?;
    let part = |text: &str, range: std::ops::Range<usize>| text.get(range).map(ToString::to_string);
    let date = format!("{}-{}-{}", part(date, 0..4)?, part(date, 4..6)?, part(date, 6..8)?);
    let time = format!("{}:{}:{}", part(clock, 0..2)?, part(clock, 2..4)?, clock.get(4..)?);
    Moment::parse(&format!("{date}T{time}")).ok()
}

fn applied(ledger: &Ledger) -> std::collections::BTreeMap<String, Option<String>> {
    let latest = ledger.latest();
    let checksum = |version| latest.get(version).map(|row| row.checksum.clone());
    ledger.applied.iter().map(|version| (version.as_str().to_string(), checksum(version))).collect()
}

/// Packs a file into one that is not there yet.
fn pack(from: &Path, to: &Path) -> Result<DataFile> {
    let run = || -> io::Result<DataFile> {
        let source = File::open(from)?;
        let unpacked = source.metadata()?.len();
        let target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
        let mut encoder = zstd::Encoder::new(HashingStream::new(target), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        encoder.set_pledged_src_size(Some(unpacked))?;
        encoder.include_checksum(true)?;
        io::copy(&mut BufReader::with_capacity(1 << 17, source), &mut encoder)?;
        let (size, sha256) = encoder.finish()?.finish();
        Ok(DataFile { size, sha256, unpacked })
    };
    run().map_err(|error| Error::io("pack", to, error))
}

/// Unpacks at most so many bytes and one; gives how many came.
fn decompress(source: impl Read, expected: u64, into: &Path) -> io::Result<u64> {
    let target = File::options().write(true).create_new(true).mode(0o600).open(into)?;
    let decoder = zstd::Decoder::new(source)?.single_frame();
    let mut target = BufWriter::with_capacity(1 << 17, target);
    let length = io::copy(&mut decoder.take(expected.saturating_add(1)), &mut target)?;
    target.flush()?;
    Ok(length)
}

/// Counts and hashes what goes through.
struct HashingStream<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T> HashingStream<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn finish(self) -> (u64, String) {
        (self.size, hexadecimal(&self.hasher.finalize()))
    }
}

impl<R: Read> Read for HashingStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.add(&buffer[..length]);
        Ok(length)
    }
}

impl<W: Write> Write for HashingStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.add(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
