//! The totals of a rehearsal, for people.

use std::time::Duration;

use indicatif::BinaryBytes;
use tenantry::ProjectId;
use tenantry::event::{MigrationTime, Prediction, Rehearsal, RowChange};

use super::human_time;

/// How many of the slowest projects are named.
const SLOWEST: usize = 3;

/// Adds up what the rehearsals of a run measured.
#[derive(Default)]
pub(super) struct Rehearsals {
    count: usize,
    took: Duration,
    longest_lock: Duration,
    grown: i128,
    needed: u64,
    /// The slowest projects, slowest first.
    slowest: Vec<(Duration, ProjectId)>,
}

impl Rehearsals {
    pub(super) fn add(&mut self, project: &ProjectId, rehearsal: &Rehearsal) {
        self.count += 1;
        self.took += rehearsal.took;
        self.longest_lock = self.longest_lock.max(rehearsal.longest_lock);
        self.needed = self.needed.max(rehearsal.bytes_needed);
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
        let sign = if self.grown < 0 { "-" } else { "+" };
        let grown = BinaryBytes(u64::try_from(self.grown.unsigned_abs()).unwrap_or(u64::MAX));
        Some(format!(
            "the upgrades took {} one after another; slowest: {}; longest lock: {}\nthey change the size by {sign}{grown}, \
             and one needs up to {} of disk while it runs",
            human_time(self.took),
            slowest.join(", "),
            human_time(self.longest_lock),
            BinaryBytes(self.needed)
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
        "size: {} before, {} after",
        BinaryBytes(rehearsal.bytes_before),
        BinaryBytes(rehearsal.bytes_after)
    );
    let disk = format!("disk: up to {} while it runs", BinaryBytes(rehearsal.bytes_needed));
    let lock = format!("longest lock: {}", human_time(rehearsal.longest_lock));
    let times = rehearsal.migrations.iter().map(time);
    times.chain(rehearsal.rows.iter().map(rows)).chain([size, disk, lock]).collect()
}

/// How long the upgrade will take.
pub(super) fn predicted(prediction: &Prediction) -> String {
    let Prediction { projects, copies, duration, .. } = prediction;
    let how = match copies {
        0 => "as the rehearsal itself took".to_string(),
        1 => "measured on 1 copy".into(),
        _ => format!("measured on {copies} copies"),
    };
    format!("upgrading {projects} will take about {}, {how}", human_time(*duration))
}
