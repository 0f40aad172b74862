//! An entry of the journal: what it says, as the line that it is, with the hash that chains it to the one before.
//!
//! It must not read or write a file.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::time::Moment;

/// What is hashed before an entry's text, so that its hash is no other thing's.
const DOMAIN: &str = "tenantry journal 1\0";
/// The hash before the first entry.
pub(super) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What comes between an entry's text and its hash.
const BEFORE_HASH: &str = ",\"hash\":\"";
/// What entries that were pruned are summed up by.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// One entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Entry {
    /// Its number, counted from 1 without a gap.
    pub seq: u64,
    /// When it was written.
    pub at: Moment,
    /// Who ran the command.
    pub actor: String,
    /// What it is about: `run_started`, `run_finished`, `run_completed`, `spares`, `checkpoint`, `torn`.
    pub kind: String,
    /// The command.
    pub command: String,
    /// The project, where it is about one alone.
    pub project: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// Whatever else belongs to it.
    pub payload: Json,
    /// The hash of the entry before it.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
}

/// A JSON document of which not all fields have a name here: its text is what it displays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(pub(crate) Value);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an entry is to say.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry<'a> {
    /// What it is about.
    pub(crate) kind: &'a str,
    /// The command.
    pub(crate) command: &'a str,
    /// The project, where it is about one alone.
    pub(crate) project: Option<&'a str>,
    /// The run.
    pub(crate) run: Option<&'a str>,
    /// Whatever else belongs to it.
    pub(crate) payload: Value,
}

/// An entry without its hash.
#[derive(Serialize)]
pub(super) struct Text<'a> {
    pub(super) seq: u64,
    pub(super) at: Moment,
    pub(super) actor: &'a str,
    pub(super) kind: &'a str,
    pub(super) command: &'a str,
    pub(super) project: Option<&'a str>,
    pub(super) run: Option<&'a str>,
    pub(super) payload: &'a Value,
    pub(super) previous: &'a str,
}

/// How many entries there are, and the hash of the last: to be kept where whoever writes the journal can't.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The last entry's number.
    pub count: u64,
    /// The last entry's hash.
    pub head: String,
}

impl Entry {
    /// The hash that the next entry goes on from.
    pub(super) fn link(&self) -> &str {
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
            Error::new(ErrorKind::Usage, format!("{text:?} is no anchor"))
                .with_hint("it is what tenantry audit anchor printed")
        })
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "cannot write an entry").caused_by(error)
}

/// An entry's line.
pub(super) fn seal(text: &Text<'_>) -> Result<String> {
    let text = serde_json::to_string(text).map_err(unwritable)?;
    let text = text.strip_suffix('}').unwrap_or(&text);
    Ok(format!("{text}{BEFORE_HASH}{}\"}}\n", hash(text)))
}

fn hash(text: &str) -> String {
    hexadecimal(&Sha256::new().chain_update(DOMAIN).chain_update(text).finalize())
}

/// Reads a line, and sees that its hash is that of its text.
pub(super) fn parse(line: &str) -> Result<Entry> {
    let wrong = |what: &str| Error::new(ErrorKind::CheckFailed, what.to_string());
    let (text, _) = line.rsplit_once(BEFORE_HASH).ok_or_else(|| wrong("it has no hash"))?;
    let entry: Entry =
        serde_json::from_str(line).map_err(|error| wrong("it can't be read").caused_by(error))?;
    if entry.hash != hash(text) || !line.ends_with(&format!("{BEFORE_HASH}{}\"}}", entry.hash)) {
        return Err(wrong(&format!("entry {} has not the hash of what it says", entry.seq)));
    }
    Ok(entry)
}
