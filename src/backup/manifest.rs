//! What is known of a backup: a JSON document beside its data, sealed by a hash of its own.
//!
//! It must not touch a disk or a database: here it is made, spelled and read.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::project::ProjectId;
use crate::store::Table;
use crate::time::Moment;

/// The format that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Everything that is known of a backup, and that its restored copy has to agree with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// The format of manifest and data.
    pub format: u32,
    /// The version of tenantry that took it.
    pub tenantry: String,
    /// The database's name and version, such as `SQLite 3.50.4`.
    pub database: String,
    /// The store that it was taken from, without a password.
    pub store: String,
    /// The project.
    pub project: ProjectId,
    /// What the project's file or schema was called.
    pub place: String,
    /// The moment before the copy was begun: what was committed by then is in it.
    pub taken_at: Moment,
    /// What whoever asked for it called it.
    pub label: Option<String>,
    /// What it was taken for.
    pub reason: Reason,
    /// The run that took it.
    pub run: String,
    /// The file with the data.
    pub file: DataFile,
    /// The applied versions with the checksum that the ledger has of each.
    pub ledger: BTreeMap<String, Option<String>>,
    /// The schema's fingerprint.
    pub schema: String,
    /// Every table, with how many rows it has and a hash of them all.
    pub tables: BTreeMap<String, Table>,
    /// What else the database's file says of itself: `application_id` and `user_version` on SQLite.
    pub properties: BTreeMap<String, i64>,
    /// Statements that make what the project needs and does not have itself, such as extensions.
    pub needs: Vec<String>,
    /// Statements that give a restored copy to whom it belongs and is granted, in which `%1$I` is its schema.
    #[serde(default)]
    pub access: Vec<String>,
}

/// The file with a backup's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// The size of what is packed in it, in bytes.
    pub unpacked: u64,
}

/// What a backup was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Somebody asked for it.
    Asked,
    /// An upgrade was about to begin.
    BeforeUpgrade,
    /// Another backup was about to take the project's place.
    BeforeRestore,
    /// A run was about to be rolled back.
    BeforeRollback,
    /// The project was about to be deleted.
    BeforeDrop,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for",
            Self::BeforeUpgrade => "before an upgrade",
            Self::BeforeRestore => "before a restore",
            Self::BeforeRollback => "before a rollback",
            Self::BeforeDrop => "before it was dropped",
        })
    }
}

const BEFORE_SEAL: &str = "{\"sha256\":\"";
const AFTER_SEAL: &str = "\",\"manifest\":";
const END: &str = "}\n";

/// What every format of a manifest has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Manifest {
    /// The format of what this code writes.
    pub(super) const fn format() -> u32 {
        FORMAT
    }

    /// The document: the manifest with the SHA-256 of its own text, so that no bit of it can change unseen.
    pub fn seal(&self) -> Result<String> {
        let text = serde_json::to_string(self)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot write the manifest").caused_by(error))?;
        Ok(format!("{BEFORE_SEAL}{}{AFTER_SEAL}{text}{END}", hexadecimal(&Sha256::digest(&text))))
    }

    /// Reads a document. Errors where any of it is not as it was written.
    pub fn open(document: &[u8]) -> Result<Self> {
        let broken = |what: &str| {
            Error::new(ErrorKind::CheckFailed, format!("its manifest {what}"))
                .with_hint("trust another backup of this project; keep this one for whoever looks into it")
        };
        let parts = || {
            let rest = std::str::from_utf8(document).ok()?.strip_prefix(BEFORE_SEAL)?;
            let (seal, rest) = rest.split_at_checked(64)?;
            Some((seal, rest.strip_prefix(AFTER_SEAL)?.strip_suffix(END)?))
        };
        let (seal, text) = parts().ok_or_else(|| broken("is not whole"))?;
        if hexadecimal(&Sha256::digest(text)) != seal {
            return Err(broken("has not the SHA-256 that it says"));
        }
        let unreadable = |error| broken("can't be read").caused_by(error);
        let Format { format } = serde_json::from_str(text).map_err(unreadable)?;
        if format > FORMAT {
            return Err(broken(&format!("is of format {format}, newer than this tenantry")));
        }
        serde_json::from_str(text).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            tenantry: "0.1.0".into(),
            database: "SQLite 3".into(),
            store: "sqlite:data".into(),
            project: "42".parse().unwrap(),
            place: "project_42.db".into(),
            taken_at: Moment::parse("2026-11-21T20:17:00.123Z").unwrap(),
            label: Some("a \"label\"\n".into()),
            reason: Reason::Asked,
            run: "r".into(),
            file: DataFile { size: 1, sha256: "00".into(), unpacked: 2 },
            ledger: BTreeMap::from([("1".into(), Some("c".into())), ("2".into(), None)]),
            schema: "f".into(),
            tables: BTreeMap::from([("t".into(), Table { rows: 3, hash: "h".into() })]),
            properties: BTreeMap::from([("user_version".into(), -1)]),
            needs: vec!["CREATE EXTENSION x".into()],
            access: vec!["GRANT SELECT ON TABLE %1$I.t TO readers".into()],
        }
    }

    #[test]
    fn what_was_sealed_opens_and_no_bit_of_it_can_change() {
        let document = manifest().seal().unwrap().into_bytes();
        assert_eq!(Manifest::open(&document).unwrap(), manifest());
        for index in 0..document.len() {
            for bit in 0..8 {
                let mut flipped = document.clone();
                flipped[index] ^= 1 << bit;
                assert!(Manifest::open(&flipped).is_err(), "byte {index} bit {bit}");
            }
            assert!(Manifest::open(&document[..index]).is_err(), "cut at {index}");
        }
    }
}
