//! What a rehearsal of one project measured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use crate::catalog::Version;

/// What a rehearsal of one project measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rehearsal {
    /// How long the plan took, with its verification. Locks would be held about as long.
    #[serde(rename = "took_us", serialize_with = "microseconds")]
    pub took: Duration,
    /// The longest time for which locks were held, from taking them to the commit.
    #[serde(rename = "longest_lock_us", serialize_with = "microseconds")]
    pub longest_lock: Duration,
    /// How long each migration took.
    pub migrations: Vec<MigrationTime>,
    /// The number of rows of each table that has another number afterwards.
    pub rows: BTreeMap<String, RowChange>,
    /// The size in bytes before.
    pub bytes_before: u64,
    /// The size in bytes afterwards.
    pub bytes_after: u64,
    /// The most bytes of disk that the upgrade can need while it runs: what the project grows by, and SQLite's journal or the
    /// server's log of all that it writes.
    pub bytes_needed: u64,
}

impl Rehearsal {
    /// The bytes that the project grows by.
    pub(crate) fn growth(&self) -> u64 {
        self.bytes_after.saturating_sub(self.bytes_before)
    }
}

/// How long an upgrade will take, according to copies that were upgraded in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Prediction {
    /// The number of projects that will be upgraded.
    pub projects: usize,
    /// The number of copies that were upgraded to measure it. 0 if it was measured in place.
    pub copies: usize,
    /// The duration, without backups.
    #[serde(rename = "predicted_us", serialize_with = "microseconds")]
    pub duration: Duration,
}

/// How long a migration took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MigrationTime {
    /// The migration's version.
    pub version: Version,
    /// The duration.
    #[serde(rename = "took_us", serialize_with = "microseconds")]
    pub took: Duration,
}

/// The number of rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RowChange {
    /// The number before.
    pub before: u64,
    /// The number afterwards.
    pub after: u64,
}

#[expect(clippy::ref_option, reason = "serde passes it so")]
pub(super) fn optional_microseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_some(&duration.map(|duration| duration.as_micros()))
}

fn microseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_micros())
}
