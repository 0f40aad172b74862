//! An entry of the journal: its fields, its text as one line of JSON, and the hash that chains it to the entry before.
//!
//! Does not read or write files.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::time::Timestamp;

/// Hashed before an entry's text, so that an entry's hash differs from any other hash of the same text.
const DOMAIN: &str = "tenantry journal 1\0";
/// The `previous` hash of the first entry.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The text between an entry's other fields and its hash.
const BEFORE_HASH: &str = ",\"hash\":\"";
/// The kind of the entry that replaces pruned entries.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// An entry of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Entry {
    /// The entry's number, counted from 1 without gaps.
    pub seq: u64,
    /// The time when it was written.
    pub at: Timestamp,
    /// The user that ran the command.
    pub actor: String,
    /// The kind: `run_started`, `run_resumed`, `run_finished`, `killed_run`, `spares`, `checkpoint`, `torn`.
    pub kind: String,
    /// The command.
    pub command: String,
    /// The project, if the entry is about exactly one.
    pub project: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// Further fields, which depend on the kind.
    pub payload: Json,
    /// The hash of the entry before.
    pub previous: String,
    /// The hash of this entry.
    pub hash: String,
}

/// A JSON value. `Display` writes it as JSON text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(pub(crate) Value);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The fields of an entry that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry<'a> {
    /// The kind.
    pub(crate) kind: &'a str,
    /// The command.
    pub(crate) command: &'a str,
    /// The project, if the entry is about exactly one.
    pub(crate) project: Option<&'a str>,
    /// The run.
    pub(crate) run: Option<&'a str>,
    /// Further fields, which depend on the kind.
    pub(crate) payload: Value,
}

/// An entry without its hash.
#[derive(Serialize)]
pub(super) struct UnsealedEntry<'a> {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) actor: &'a str,
    pub(super) kind: &'a str,
    pub(super) command: &'a str,
    pub(super) project: Option<&'a str>,
    pub(super) run: Option<&'a str>,
    pub(super) payload: &'a Value,
    pub(super) previous: &'a str,
}

/// The number of entries and the hash of the last one. Kept where the writers of the journal have no access, it detects
/// a journal that was cut off or rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The last entry's number.
    pub count: u64,
    /// The last entry's hash.
    pub head: String,
}

impl Entry {
    /// Returns the hash that the next entry has as `previous`. For a checkpoint, that is the hash of the last pruned
    /// entry.
    pub(super) fn chain_hash(&self) -> &str {
        match self.payload.0["hash"].as_str() {
            Some(hash) if self.kind == CHECKPOINT => hash,
            _ => &self.hash,
        }
    }
}

impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.count, self.head)
    }
}

impl std::str::FromStr for Anchor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (count, head) = text.trim().split_once(':')?;
            let is_hash = head.len() == 64 && head.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hash.then_some(Self { count: count.parse().ok()?, head: head.into() })
        };
        parse().ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not an anchor"))
                .with_hint("give what this printed: tenantry audit anchor")
        })
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "cannot serialize an entry").caused_by(error)
}

/// Returns an entry as a line with its hash, without a line end.
pub(super) fn seal(entry: &UnsealedEntry<'_>) -> Result<String> {
    let text = serde_json::to_string(entry).map_err(unwritable)?;
    let text = text.strip_suffix('}').unwrap_or(&text);
    Ok(format!("{text}{BEFORE_HASH}{}\"}}", hash(text)))
}

fn hash(text: &str) -> String {
    hexadecimal(&Sha256::new().chain_update(DOMAIN).chain_update(text).finalize())
}

/// Parses a line. Returns `CheckFailed` if it is not an entry or its hash does not match its text.
pub(super) fn parse(line: &str) -> Result<Entry> {
    let invalid = |what: &str| Error::new(ErrorKind::CheckFailed, what.to_string());
    let (text, _) = line.rsplit_once(BEFORE_HASH).ok_or_else(|| invalid("it has no hash"))?;
    let entry: Entry =
        serde_json::from_str(line).map_err(|error| invalid("it cannot be parsed").caused_by(error))?;
    if entry.hash != hash(text) || !line.ends_with(&format!("{BEFORE_HASH}{}\"}}", entry.hash)) {
        return Err(invalid(&format!("the hash of entry {} does not match its text", entry.seq)));
    }
    Ok(entry)
}
