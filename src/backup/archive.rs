//! Takes, lists, unpacks and removes the backups of a fleet.
//!
//! A backup is listed only while it is complete: its manifest is written last and removed first.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::destination::{Destination, write_private};
use super::manifest::{DataFile, Manifest, Reason};
use super::packing::{HashingStream, decompress, pack};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::ledger::Ledger;
use crate::project::ProjectId;
use crate::store::{Snapshot, Store};
use crate::time::Timestamp;

/// The extensions of a backup's files.
const DATA: &str = ".zst";
const MANIFEST: &str = ".json";
const VERIFIED: &str = ".verified";

/// The largest manifest that is read, in bytes. A manifest of 100,000 tables is smaller.
const MAX_MANIFEST: u64 = 64 << 20;

/// The backups of a fleet in one destination.
#[derive(Clone)]
pub struct Archive {
    destination: Arc<dyn Destination>,
    /// The store whose backups these are; `None` for the backups of any store.
    owner: Option<Arc<dyn Store>>,
}

/// A backup and its manifest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backup {
    /// The name, such as `42/20261121T201700.123Z-1a2b3c4d`.
    pub name: String,
    /// The manifest.
    pub manifest: Manifest,
    /// The last successful verification; `None` if the backup was never verified or its last verification failed.
    pub verified: Option<LastCheck>,
    /// The time of the last verification, if it failed.
    pub failed: Option<Timestamp>,
}

/// A verification of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastCheck {
    /// The level, 1 to 4; 0 in the record of a failed verification.
    pub level: u8,
    /// The time.
    pub at: Timestamp,
}

/// What a new backup is labelled with.
#[derive(Clone, Debug)]
pub struct BackupRequest<'a> {
    /// The label given by the user.
    pub label: Option<&'a str>,
    /// Why it is taken.
    pub reason: Reason,
    /// The run that takes it.
    pub run_id: &'a str,
    /// The URL of the store that it is taken from, without a password.
    pub store: String,
}

impl Archive {
    /// Creates an archive of all backups in a destination.
    pub fn new(destination: impl Destination + 'static) -> Self {
        Self { destination: Arc::new(destination), owner: None }
    }

    /// Restricts the archive to the backups of one store, since several fleets may share a destination.
    #[must_use]
    pub(crate) fn of_store(self, store: Arc<dyn Store>) -> Self {
        Self { owner: Some(store), ..self }
    }

    /// Whether a backup is one of this project of this fleet.
    #[must_use]
    pub(crate) fn owns(&self, project: &ProjectId, manifest: &Manifest) -> bool {
        let Manifest { store: taken_of, place, .. } = manifest;
        self.owner.as_ref().is_none_or(|store| store.owns(taken_of, place, project, &self.location()))
    }

    /// Returns the location of the destination, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        self.destination.location()
    }

    /// Returns the projects that have backups, sorted.
    pub fn projects(&self) -> Result<Vec<ProjectId>> {
        let mut projects: Vec<ProjectId> = self
            .destination
            .folders()?
            .iter()
            .filter_map(|folder| ProjectId::of_folder(folder).ok())
            .collect();
        projects.sort();
        let mut owned = Vec::with_capacity(projects.len());
        for project in projects {
            // A project with an unreadable backup is included; reading the backup reports the error.
            let mut names = self.names(&project)?.into_iter().rev();
            if names.any(|name| self.get(&name).map_or(true, |backup| self.owns(&project, &backup.manifest)))
            {
                owned.push(project);
            }
        }
        Ok(owned)
    }

    /// Returns the names of a project's complete backups, oldest first. Some may be those of a project of another store.
    pub fn names(&self, project: &ProjectId) -> Result<Vec<String>> {
        let mut folders = vec![project.folder(), project.in_its_store().folder()];
        folders.dedup();
        let mut names = Vec::new();
        for folder in folders {
            let files = self.destination.list(&folder)?;
            let manifests = files.iter().filter_map(|file| file.strip_suffix(MANIFEST));
            names.extend(manifests.map(|stem| format!("{folder}/{stem}")));
        }
        names.sort_by(|a, b| stem(a).cmp(stem(b)));
        Ok(names)
    }

    /// Reads a backup's manifest and last verification. Returns [`ErrorKind::CheckFailed`] if the manifest is damaged.
    pub fn get(&self, name: &str) -> Result<Backup> {
        let mut document = Vec::new();
        self.destination
            .open(&format!("{name}{MANIFEST}"))?
            .take(MAX_MANIFEST)
            .read_to_end(&mut document)
            .map_err(|error| Error::new(ErrorKind::Io, "cannot read its manifest").caused_by(error))?;
        let manifest = Manifest::open(&document).map_err(|error| error.at(name, None))?;
        let belongs = name.starts_with(&format!(
            "{}/{}-",
            manifest.project.folder(),
            manifest.taken_at.for_file_name()
        ));
        if !belongs {
            return Err(
                Error::new(ErrorKind::CheckFailed, "its manifest belongs to another backup").at(name, None)
            );
        }
        let last = self.last_check(name, &document);
        let failed = last.filter(|it| it.level == 0).map(|it| it.at);
        Ok(Backup { name: name.into(), verified: last.filter(|it| it.level > 0), failed, manifest })
    }

    /// Returns a project's backups, oldest first, and an error for each that cannot be read.
    pub fn all(&self, project: &ProjectId) -> Result<(Vec<Backup>, Vec<Error>)> {
        let (mut backups, mut broken) = (Vec::new(), Vec::new());
        for name in self.names(project)? {
            match self.get(&name) {
                Ok(backup) if self.owns(project, &backup.manifest) => backups.push(backup),
                Ok(_) => {}
                Err(error) => broken.push(error.in_project(project)),
            }
        }
        Ok((backups, broken))
    }

    /// Returns a project's newest backup, or the newest that was taken at or before `by`. An unreadable backup is an error; it
    /// is not skipped.
    pub fn newest(&self, project: &ProjectId, by: Option<Timestamp>) -> Result<Option<Backup>> {
        let end = by.map(|by| format!("{}~", by.for_file_name()));
        let names = self.names(project)?;
        for name in
            names.iter().rev().filter(|name| end.as_ref().is_none_or(|end| stem(name) <= end.as_str()))
        {
            let backup = self.get(name)?;
            if self.owns(project, &backup.manifest) {
                return Ok(Some(backup));
            }
        }
        Ok(None)
    }

    /// Takes a backup. `take_snapshot` gets the path of a file that does not exist, writes the snapshot to it and
    /// returns its description.
    pub fn create(
        &self,
        project: &ProjectId,
        request: &BackupRequest<'_>,
        take_snapshot: impl FnOnce(&Path) -> Result<Snapshot>,
    ) -> Result<Backup> {
        let workspace = self.destination.workspace()?;
        let (raw, packed) = (workspace.path().join("copy"), workspace.path().join("packed"));
        let taken_at = Timestamp::now();
        let snapshot = take_snapshot(&raw)?;
        let file = pack(&raw, &packed)?;
        let manifest = Manifest {
            format: Manifest::format(),
            tenantry: env!("CARGO_PKG_VERSION").into(),
            database: snapshot.database,
            store: request.store.clone(),
            project: project.clone(),
            place: snapshot.place,
            taken_at,
            label: request.label.map(Into::into),
            reason: request.reason,
            run: request.run_id.into(),
            file,
            ledger: applied_versions(&snapshot.inspection.ledger),
            schema: snapshot.inspection.fingerprint()?.to_string(),
            tables: snapshot.contents.tables,
            properties: snapshot.contents.properties,
            needs: snapshot.needs,
            access: snapshot.access,
        };
        let random = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let name = format!("{}/{}-{random}", project.folder(), taken_at.for_file_name());
        self.destination.put(&format!("{name}{DATA}"), &packed)?;
        let document = workspace.path().join("manifest");
        write_private(&document, &manifest.seal()?)?;
        self.destination.put(&format!("{name}{MANIFEST}"), &document)?;
        Ok(Backup { name, manifest, verified: None, failed: None })
    }

    /// Verifies the size and hash of a backup's data, and decompresses it into a file that must not exist.
    ///
    /// Returns [`ErrorKind::CheckFailed`] if the data does not match the manifest.
    pub fn unpack(&self, backup: &Backup, into: &Path) -> Result<()> {
        let DataFile { size, sha256, unpacked } = &backup.manifest.file;
        let broken = |message: String| {
            Error::new(ErrorKind::CheckFailed, message)
                .at(&backup.name, None)
                .with_hint("use another backup of this project; keep this one to find out what damaged it")
        };
        let file = self
            .destination
            .open(&format!("{}{DATA}", backup.name))
            .map_err(|error| error.at(&backup.name, None))?;
        let mut source = HashingStream::new(file.take(size.saturating_add(1)));
        let result = decompress(&mut source, *unpacked, into);
        // Reads to the end, so that the size and hash also cover what follows the compressed data.
        io::copy(&mut source, &mut io::sink())
            .map_err(|error| broken(format!("its file cannot be read: {error}")))?;
        let (found, hash) = source.finish();
        if found != *size {
            let more = if found > *size { "more than " } else { "" };
            return Err(broken(format!("its file has {more}{} byte(s), expected {size}", found.min(*size))));
        }
        if hash != *sha256 {
            return Err(broken("the SHA-256 of its file does not match the manifest".into()));
        }
        match result {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(Error::io("write", into, error)),
            Err(error) => Err(broken(format!("its file cannot be decompressed: {error}"))),
            Ok(length) if length != *unpacked => {
                Err(broken(format!("its file decompresses to {length} byte(s), expected {unpacked}")))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Records the verification of a backup at a level, or its failure as level 0. A success at a lower level does not
    /// replace one at a higher level; a failure replaces any success.
    pub fn record_check(&self, backup: &Backup, level: u8) -> Result<()> {
        if level > 0 && backup.verified.is_some_and(|it| it.level > level) {
            return Ok(());
        }
        let record = VerificationRecord {
            verified: LastCheck { level, at: Timestamp::now() },
            manifest: hexadecimal(&Sha256::digest(backup.manifest.seal()?)),
        };
        let text = serde_json::to_string(&record).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot serialize the verification").caused_by(error)
        })?;
        self.destination.note(&format!("{}{VERIFIED}", backup.name), &text)
    }

    /// Removes a backup, its manifest first.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.remove_file(&format!("{name}{MANIFEST}"))?;
        self.remove_file(&format!("{name}{DATA}"))?;
        self.remove_file(&format!("{name}{VERIFIED}"))
    }

    /// Removes the temporary files of killed processes that were not written to for `idle`.
    pub fn sweep_unfinished(&self, idle: Duration) -> Result<()> {
        self.destination.sweep(idle)
    }

    /// Removes files of a project's backups that have no manifest and are older than `older_than`, as killed processes
    /// leave them. Returns the number of removed files.
    pub fn sweep(&self, project: &ProjectId, older_than: Duration) -> Result<usize> {
        let folder = project.folder();
        let files = self.destination.list(&folder)?;
        let finished: Vec<&str> = files.iter().filter_map(|file| file.strip_suffix(MANIFEST)).collect();
        let mut swept = 0;
        for file in &files {
            let is_of = |stem: &&str| file.starts_with(stem);
            let taken = file.split('-').next().and_then(moment_in_name);
            if taken.is_some_and(|taken| taken.age() > older_than) && !finished.iter().any(is_of) {
                self.remove_file(&format!("{folder}/{file}"))?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Removes a file. It is not an error if it does not exist, since another process may remove the same backup.
    fn remove_file(&self, name: &str) -> Result<()> {
        match self.destination.remove(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Returns the last verification of a backup; `None` if its record cannot be read or belongs to another manifest.
    fn last_check(&self, name: &str, document: &[u8]) -> Option<LastCheck> {
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

/// The part of a backup's name after its folder, which begins with the time.
fn stem(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, stem)| stem)
}

/// The contents of a `.verified` file.
#[derive(Serialize, Deserialize)]
struct VerificationRecord {
    verified: LastCheck,
    /// The SHA-256 of the manifest file.
    manifest: String,
}

/// Parses the timestamp in a file name.
fn moment_in_name(text: &str) -> Option<Timestamp> {
    let (date, clock) = text.split_once('T')?;
    let part = |text: &str, range: std::ops::Range<usize>| text.get(range).map(ToString::to_string);
    let date = format!("{}-{}-{}", part(date, 0..4)?, part(date, 4..6)?, part(date, 6..8)?);
    let time = format!("{}:{}:{}", part(clock, 0..2)?, part(clock, 2..4)?, clock.get(4..)?);
    Timestamp::parse(&format!("{date}T{time}")).ok()
}

/// Returns the applied versions with the checksum that the ledger has of each.
fn applied_versions(ledger: &Ledger) -> std::collections::BTreeMap<String, Option<String>> {
    let latest = ledger.latest();
    let checksum = |version| latest.get(version).map(|row| row.checksum.clone());
    ledger.applied.iter().map(|version| (version.as_str().to_string(), checksum(version))).collect()
}
