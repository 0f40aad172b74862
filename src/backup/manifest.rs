//! The manifest of a backup: a JSON document next to its data, with a hash of its own text.
//!
//! Does not read or write files.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::project::ProjectId;
use crate::store::TableSummary;
use crate::time::Timestamp;

/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The description of a backup. A restored copy is compared with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// The format of the manifest and the data.
    pub format: u32,
    /// The version of tenantry that took it.
    pub tenantry: String,
    /// The database's name and version, such as `SQLite 3.50.4`.
    pub database: String,
    /// The URL of the store that it was taken from, without a password.
    pub store: String,
    /// The project.
    pub project: ProjectId,
    /// The name of the project's file or schema.
    pub place: String,
    /// The time before the snapshot started. Everything committed until then is in the backup.
    pub taken_at: Timestamp,
    /// The label given by the user.
    pub label: Option<String>,
    /// Why it was taken.
    pub reason: Reason,
    /// The run that took it.
    pub run: String,
    /// The file with the data.
    pub file: DataFile,
    /// The applied versions, with the checksum of each in the ledger.
    pub ledger: BTreeMap<String, Option<String>>,
    /// The schema's fingerprint.
    pub schema: String,
    /// The tables, with the number of rows and a hash of all rows of each.
    pub tables: BTreeMap<String, TableSummary>,
    /// Numbers in the header of the database file: `application_id` and `user_version` on SQLite.
    pub properties: BTreeMap<String, i64>,
    /// Statements that create what the project needs from outside of it, such as extensions.
    pub needs: Vec<String>,
    /// Statements that restore owners and grants. `%1$I` stands for the schema.
    #[serde(default)]
    pub access: Vec<String>,
}

/// The file with a backup's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256 in hexadecimal.
    pub sha256: String,
    /// The size of the decompressed data in bytes.
    pub unpacked: u64,
}

/// Why a backup was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A user requested it.
    Asked,
    /// Before an upgrade.
    BeforeUpgrade,
    /// Before the project was replaced by a restored backup.
    BeforeRestore,
    /// Before a repair of the schema.
    BeforeRepair,
    /// Before the rollback of a run.
    BeforeRollback,
    /// Before the project was deleted.
    BeforeDrop,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "on request",
            Self::BeforeUpgrade => "before an upgrade",
            Self::BeforeRestore => "before a restore",
            Self::BeforeRepair => "before a repair",
            Self::BeforeRollback => "before a rollback",
            Self::BeforeDrop => "before it was dropped",
        })
    }
}

const BEFORE_SEAL: &str = "{\"sha256\":\"";
const AFTER_SEAL: &str = "\",\"manifest\":";
const END: &str = "}\n";

/// The field that a manifest of any format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Manifest {
    /// Returns the format that this version writes.
    pub(super) const fn format() -> u32 {
        FORMAT
    }

    /// Returns the document: the manifest with the SHA-256 of its text, so that any change is detected.
    pub fn seal(&self) -> Result<String> {
        let text = serde_json::to_string(self).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot serialize the manifest").caused_by(error)
        })?;
        Ok(format!("{BEFORE_SEAL}{}{AFTER_SEAL}{text}{END}", hexadecimal(&Sha256::digest(&text))))
    }

    /// Parses a document. Returns [`ErrorKind::CheckFailed`] if any byte of it was changed.
    pub fn open(document: &[u8]) -> Result<Self> {
        let broken = |what: &str| {
            Error::new(ErrorKind::CheckFailed, format!("its manifest {what}"))
                .with_hint("use another backup of this project; keep this one for the investigation")
        };
        let parts = || {
            let sealed = std::str::from_utf8(document).ok()?.strip_prefix(BEFORE_SEAL)?;
            let (seal, text) = sealed.split_at_checked(64)?;
            Some((seal, text.strip_prefix(AFTER_SEAL)?.strip_suffix(END)?))
        };
        let (seal, text) = parts().ok_or_else(|| broken("is incomplete"))?;
        if hexadecimal(&Sha256::digest(text)) != seal {
            return Err(broken("does not match its SHA-256"));
        }
        let unreadable = |error| broken("cannot be parsed").caused_by(error);
        let Format { format } = serde_json::from_str(text).map_err(unreadable)?;
        if format > FORMAT {
            return Err(broken(&format!("has format {format}, which needs a newer version of tenantry")));
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
            taken_at: Timestamp::parse("2026-11-21T20:17:00.123Z").unwrap(),
            label: Some("a \"label\"\n".into()),
            reason: Reason::Asked,
            run: "r".into(),
            file: DataFile { size: 1, sha256: "00".into(), unpacked: 2 },
            ledger: BTreeMap::from([("1".into(), Some("c".into())), ("2".into(), None)]),
            schema: "f".into(),
            tables: BTreeMap::from([("t".into(), TableSummary { rows: 3, hash: "h".into() })]),
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
