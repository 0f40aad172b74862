//! Predicts how long an upgrade takes, by upgrading copies of some projects as the upgrade itself would: on the same disk or
//! server, with as many at once, each commit on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Manager;
use super::command::{Run, Selection};
use super::rehearsal::RehearsalPlace;
use super::rollout::Rollout;
use crate::error::Result;
use crate::event::{Event, Outcome, Prediction, ProjectReport};
use crate::project::ProjectId;
use crate::sql::Dialect;

/// How many projects are copied at most. On SQLite a copy takes milliseconds, on Postgres about a second.
const COPIES: [(Dialect, usize); 2] = [(Dialect::Sqlite, 64), (Dialect::Postgres, 12)];
/// The most bytes that the copies may have together, unless the first one has more.
const MAX_BYTES: u64 = 256 << 20;

impl Manager {
    /// Predicts the duration of a run on these projects, of which all passed the rehearsal. `None` if the store has no place to
    /// try it out, or if this was interrupted. `planned` is how long the planning of all projects took, `rehearsed` the rehearsal after it.
    pub(super) fn predict(
        &self,
        run: &Run,
        place: RehearsalPlace,
        passed: &[ProjectId],
        projects: usize,
        [planned, rehearsed]: [Duration; 2],
    ) -> Result<Option<Prediction>> {
        if passed.is_empty() {
            return Ok(None);
        }
        // What is rolled back took as long as what is committed, but for the commit.
        if place == RehearsalPlace::InPlace {
            let duration = planned + scaled(rehearsed, passed.len(), projects);
            return Ok(Some(Prediction { projects, copies: 0, duration }));
        }
        let ids = self.choose_copies(passed)?;
        let mut found = None;
        self.store.with_copies(&ids, &mut |store| {
            let mut copies = Self::with_shared_store(store, (*self.catalog).clone())?
                .with_interruption(Arc::clone(&self.interrupted));
            copies.jobs = self.jobs;
            let run = Run {
                selection: Selection::Ids(ids.clone()),
                rehearsal: None,
                dry_run: false,
                predicted: None,
                rollout: Rollout::default(),
                resumed: None,
                #[cfg(feature = "lint")]
                lint: None,
                ..run.clone()
            };
            copies.reference()?;
            // What a run takes besides its upgrades does not grow with the fleet.
            let started = Instant::now();
            copies.run(&run.clone().dry_run(), |_| ())?;
            let without = started.elapsed();
            let started = Instant::now();
            let mut failure = None;
            let summary = copies.run(&run, |event| {
                if let Event::ProjectFinished(ProjectReport { outcome: Outcome::Failed(error), .. }) = event {
                    failure = Some(error);
                }
            })?;
            let upgrades = started.elapsed().saturating_sub(without);
            if summary.interrupted {
                return Ok(());
            }
            if let Some(error) = failure {
                return Err(error);
            }
            let duration = planned + scaled(upgrades, ids.len(), projects);
            found = Some(Prediction { projects, copies: ids.len(), duration });
            Ok(())
        })?;
        Ok(found)
    }

    /// Chooses projects that are spread over the fleet.
    fn choose_copies(&self, passed: &[ProjectId]) -> Result<Vec<ProjectId>> {
        let count = COPIES.iter().find(|(dialect, _)| *dialect == self.store.dialect()).map_or(1, |it| it.1);
        let mut ids: Vec<&ProjectId> = passed.iter().collect();
        ids.sort_by_key(|id| (id.hash(), (*id).clone()));
        let ids: Vec<ProjectId> = ids.into_iter().take(count).cloned().collect();
        let mut bytes = 0;
        let footprints = self.store.footprints(&ids)?;
        let fits = |(index, footprint): &(usize, crate::store::Footprint)| {
            bytes += footprint.bytes;
            *index == 0 || bytes <= MAX_BYTES
        };
        let count = footprints.into_iter().enumerate().take_while(fits).count();
        let mut ids: Vec<ProjectId> = ids.into_iter().take(count).collect();
        ids.sort();
        Ok(ids)
    }
}

/// The time for `all` projects, if it is this for some of them.
fn scaled(duration: Duration, some: usize, all: usize) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a prediction needs few digits")]
    duration.mul_f64(all as f64 / some.max(1) as f64)
}
