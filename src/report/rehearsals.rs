//! The totals of a rehearsal, for people.

use std::time::Duration;

use tenantry::ProjectId;
use tenantry::event::{MigrationTime, Rehearsal, RowChange};

use super::human_time;

/// How many of the slowest projects are named.
const SLOWEST: usize = 3;

/// Adds up what the rehearsals of a run measured.
#[derive(Default)]
pub(super) struct Rehearsals {
    count: usize,
    took: Duration,
    grown: i128,
    /// The slowest projects, slowest first.
    slowest: Vec<(Duration, ProjectId)>,
}

impl Rehearsals {
    pub(super) fn add(&mut self, project: &ProjectId, rehearsal: &Rehearsal) {
        self.count += 1;
        self.took += rehearsal.took;
        self.grown += i128::from(rehearsal.bytes_after) - i128::from(rehearsal.bytes_before);
        self.slowest.push((rehearsal.took, project.clone()));
        self.slowest.sort_by(|a, b| b.cmp(a));
        self.slowest.truncate(SLOWEST);
    }

    /// The totals as text. `None` if nothing was rehearsed.
    pub(super) fn totals(&self) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let slowest: Vec<String> =
            self.slowest.iter().map(|(took, id)| format!("{id} ({})", human_time(*took))).collect();
        let kilobytes = self.grown / 1024;
        Some(format!(
            "the upgrades took {} one after another; slowest: {}; they change the size by {kilobytes:+} KiB",
            human_time(self.took),
            slowest.join(", ")
        ))
    }
}

/// What was measured of one project, line by line.
pub(super) fn details(rehearsal: &Rehearsal) -> Vec<String> {
    let time = |it: &MigrationTime| format!("{}: {}", it.version, human_time(it.took));
    let rows = |(table, change): (&String, &RowChange)| {
        format!("rows of {table}: {} before, {} after", change.before, change.after)
    };
    let size = format!(
        "size: {} KiB before, {} KiB after",
        rehearsal.bytes_before / 1024,
        rehearsal.bytes_after / 1024
    );
    rehearsal.migrations.iter().map(time).chain(rehearsal.rows.iter().map(rows)).chain([size]).collect()
}
