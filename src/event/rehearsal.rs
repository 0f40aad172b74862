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
    /// How long each migration took.
    pub migrations: Vec<MigrationTime>,
    /// The number of rows of each table that has another number afterwards.
    pub rows: BTreeMap<String, RowChange>,
    /// The size in bytes before.
    pub bytes_before: u64,
    /// The size in bytes afterwards.
    pub bytes_after: u64,
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

fn microseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_micros())
}
