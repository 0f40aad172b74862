//! How an upgrade goes through a fleet: in which order, in waves of which sizes, what happens between them, and at how many
//! failures it stops. Does nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::portion::Portion;
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;

/// How an upgrade goes through a fleet. The default is all projects at once, without a limit of failures.
///
/// ```
/// use std::time::Duration;
/// use tenantry::manager::{Rollout, Run};
///
/// let rollout = Rollout::default()
///     .waves("1,5%,25%,100%".split(',').map(str::parse).collect::<Result<_, _>>()?)?
///     .bake(Duration::from_secs(600))
///     .max_failures(3);
/// let run = Run::upgrade_all(3).rollout(rollout);
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    pub(crate) waves: Vec<Portion>,
    pub(crate) canary: Vec<ProjectId>,
    pub(crate) order: Order,
    #[serde(rename = "bake_s", with = "seconds")]
    pub(crate) bake: Duration,
    pub(crate) gate: Option<String>,
    pub(crate) max_failures: Option<usize>,
    pub(crate) max_failure_rate: Option<Portion>,
    pub(crate) all_or_nothing: bool,
}

/// The order in which projects are upgraded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Order {
    /// By id.
    #[default]
    Id,
    /// At random. A seed always gives the same order.
    Random(u64),
}

impl Order {
    /// A random order with a new seed.
    #[must_use]
    pub fn random() -> Self {
        // A seed of six digits is easy to type again, and there are orders enough.
        Self::Random(u64::from(uuid::Uuid::new_v4().as_fields().0) % 1_000_000)
    }

    fn sort(self, projects: &mut [ProjectId]) {
        match self {
            Self::Id => projects.sort(),
            // A project's place depends on nothing but its id and the seed, so that projects which come or go leave the
            // order of the others as it is.
            Self::Random(seed) => projects.sort_by_cached_key(|id| {
                let hash =
                    Sha256::new().chain_update(seed.to_be_bytes()).chain_update(id.as_str()).finalize();
                (<[u8; 32]>::from(hash), id.clone())
            }),
        }
    }
}

impl FromStr for Order {
    type Err = Error;

    /// Parses `id`, `random` or `random:SEED`.
    fn from_str(text: &str) -> Result<Self> {
        let order = match (text, text.strip_prefix("random:")) {
            ("id", _) => Some(Self::Id),
            ("random", _) => Some(Self::random()),
            (_, Some(seed)) => seed.parse().ok().map(Self::Random),
            _ => None,
        };
        order.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not an order"))
                .with_hint("use id, random, or random:SEED with the number that an earlier run showed")
        })
    }
}

impl TryFrom<String> for Order {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Order> for String {
    fn from(order: Order) -> Self {
        order.to_string()
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("id"),
            Self::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

impl Rollout {
    /// Upgrades the projects in waves. Each size counts the projects of all waves up to this one, canaries included; what
    /// is left after the last forms one more wave. No wave begins before the one before it has ended.
    ///
    /// Without [`Rollout::max_failures`] or [`Rollout::max_failure_rate`], the first failed project stops a run in waves.
    ///
    /// Fails with [`ErrorKind::Usage`] if the sizes do not grow.
    pub fn waves(self, waves: Vec<Portion>) -> Result<Self> {
        let grows = |pair: &[Portion]| match (pair[0], pair[1]) {
            (Portion::Count(a), Portion::Count(b)) => a < b,
            (Portion::Percent(a), Portion::Percent(b)) => a < b,
            // Which one is larger depends on the fleet.
            _ => true,
        };
        if !waves.windows(2).all(grows) {
            return Err(Error::new(ErrorKind::Usage, "the sizes of the waves do not grow")
                .with_hint("each size counts the projects of all waves so far, as in 1,5%,25%,100%"));
        }
        Ok(Self { waves, ..self })
    }

    /// Upgrades these projects in a wave of their own, before all others.
    #[must_use]
    pub fn canary(self, projects: Vec<ProjectId>) -> Self {
        Self { canary: projects, ..self }
    }

    /// Sets the order of the projects; default by id.
    #[must_use]
    pub fn order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// Sets how long to wait after each wave before the gate and the next wave; default not at all.
    #[must_use]
    pub fn bake(self, duration: Duration) -> Self {
        Self { bake: duration, ..self }
    }

    /// Sets a command that runs in `sh` after each wave. The environment variables `TENANTRY_RUN`, `TENANTRY_WAVE` and
    /// `TENANTRY_WAVES` have the id of the run, the number of the wave and how many waves there are. If the command fails,
    /// the run stops.
    #[must_use]
    pub fn gate(self, command: impl Into<String>) -> Self {
        Self { gate: Some(command.into()), ..self }
    }

    /// Sets the number of failed projects after which no other is started; default no limit. Blocked projects do not count.
    #[must_use]
    pub fn max_failures(self, count: usize) -> Self {
        Self { max_failures: Some(count), ..self }
    }

    /// Sets the share of the projects to upgrade after whose failure no other is started; default no limit.
    #[must_use]
    pub fn max_failure_rate(self, rate: Portion) -> Self {
        Self { max_failure_rate: Some(rate), ..self }
    }

    /// Moves every project back to where it was if one of them fails. The first failure stops the run, and a second run then
    /// rolls back what it did.
    ///
    /// Set [`Run::backup_before`](super::Run::backup_before) too: without backups, only projects whose `down.sql` loses
    /// nothing can go back.
    #[must_use]
    pub fn all_or_nothing(self) -> Self {
        Self { all_or_nothing: true, ..self }
    }

    /// Whether the projects are upgraded in more than one wave, or something happens after the only one.
    pub(crate) fn has_waves(&self) -> bool {
        !self.waves.is_empty() || !self.canary.is_empty() || self.gate.is_some()
    }

    /// Whether every project goes back if one of them fails.
    #[must_use]
    pub fn is_all_or_nothing(&self) -> bool {
        self.all_or_nothing
    }

    /// The number of failures at which a run stops that is to change so many projects; `None` for no limit.
    pub(crate) fn budget(&self, projects: usize) -> Option<usize> {
        let rate = self.max_failure_rate.map(|rate| rate.of(projects).max(1));
        let set = [self.max_failures, rate].into_iter().flatten().min();
        let default = (self.has_waves() || self.all_or_nothing).then_some(1);
        if self.all_or_nothing { default } else { set.or(default) }
    }

    /// Divides projects into waves, none of them empty.
    pub(crate) fn divide(&self, mut projects: Vec<ProjectId>) -> Vec<Vec<ProjectId>> {
        self.order.sort(&mut projects);
        let all = projects.len();
        let is_first = |id: &ProjectId| self.canary.iter().any(|canary| id.answers_to(canary));
        let (first, others): (Vec<_>, Vec<_>) = projects.into_iter().partition(is_first);
        let mut started = first.len();
        let mut waves = vec![first];
        let mut others = others.into_iter();
        for size in self.waves.iter().map(|size| size.of(all)).chain([all]) {
            waves.push(others.by_ref().take(size.saturating_sub(started)).collect());
            started = started.max(size);
        }
        waves.retain(|wave| !wave.is_empty());
        waves
    }
}

/// Where a run stood that is resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// The id of the run.
    pub(crate) run: String,
    /// The waves into which it had divided its projects; empty if it had not come so far.
    pub(crate) waves: Vec<Vec<ProjectId>>,
    /// How many of the waves are complete: their gates passed.
    pub(crate) complete: usize,
    /// The projects that it has upgraded.
    pub(crate) upgraded: BTreeSet<ProjectId>,
}

impl Resumed {
    /// Divides the projects that are left into the waves that are left, which may be empty. Projects of complete waves,
    /// which failed there, belong to the first of them; projects that were in no wave to the last. A wave of which a project
    /// has gone back since is not complete. Returns the number of complete waves as well.
    pub(crate) fn divide(&self, mut projects: Vec<ProjectId>) -> (usize, Vec<Vec<ProjectId>>) {
        let waves = self.waves.iter().enumerate();
        let in_order = waves.flat_map(|(wave, ids)| ids.iter().map(move |id| (wave, id))).enumerate();
        let place_of: BTreeMap<&ProjectId, (usize, usize)> =
            in_order.map(|(place, (wave, id))| (id, (wave, place))).collect();
        let went_back = projects.iter().filter(|id| self.upgraded.contains(*id));
        let went_back = went_back.filter_map(|id| place_of.get(id)).map(|(wave, _)| *wave).min();
        let complete = went_back.map_or(self.complete, |wave| wave.min(self.complete));
        if projects.is_empty() && complete == self.waves.len() {
            return (complete, Vec::new());
        }
        let last = self.waves.len().saturating_sub(1).max(complete);
        let place = |id: &ProjectId| place_of.get(id).copied().unwrap_or((last, usize::MAX));
        projects.sort_by_key(place);
        let mut left = vec![Vec::new(); last + 1 - complete];
        for id in projects {
            let (wave, _) = place(&id);
            left[wave.saturating_sub(complete)].push(id);
        }
        (complete, left)
    }
}

/// Seconds in JSON.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<ProjectId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn fleet(size: usize) -> Vec<ProjectId> {
        (1..=size).map(|number| number.to_string().parse().unwrap()).collect()
    }

    fn sizes(waves: &str, canary: &[&str], projects: usize) -> Vec<usize> {
        let waves = waves.split(',').filter(|it| !it.is_empty()).map(|it| it.parse().unwrap()).collect();
        let rollout = Rollout::default().waves(waves).unwrap().canary(ids(canary));
        rollout.divide(fleet(projects)).iter().map(Vec::len).collect()
    }

    #[test]
    fn sizes_count_all_waves_so_far() {
        assert_eq!(sizes("1,5%,25%,100%", &[], 300), [1, 14, 60, 225]);
        assert_eq!(sizes("1,5%", &[], 300), [1, 14, 285]);
        assert_eq!(sizes("", &[], 300), [300]);
        assert_eq!(sizes("10,5%", &[], 100), [10, 90]);
        assert_eq!(sizes("5%,100%", &["7", "9", "none"], 20), [2, 18]);
        assert_eq!(sizes("25%,100%", &["7", "9"], 20), [2, 3, 15]);
        assert_eq!(sizes("", &["7"], 3), [3]);
        assert_eq!(sizes("1,5%", &[], 0), Vec::<usize>::new());
        assert_eq!(Rollout::default().canary(ids(&["2"])).divide(fleet(3)), [ids(&["2"]), ids(&["1", "3"])]);
        for waves in ["5,5", "5%,1%", "100%,100%"] {
            let waves = waves.split(',').map(|it| it.parse().unwrap()).collect();
            assert!(Rollout::default().waves(waves).is_err());
        }
    }

    #[test]
    fn a_seed_gives_one_order_and_another_seed_another() {
        let order = |seed: u64, size: usize| {
            let rollout = Rollout::default().order(Order::Random(seed));
            rollout.divide(fleet(size)).concat()
        };
        assert_eq!(order(1, 100), order(1, 100));
        assert_ne!(order(1, 100), order(2, 100));
        assert_ne!(order(1, 100), fleet(100));
        // A project that is gone leaves the order of the others as it is.
        let mut without = order(1, 100);
        without.retain(|id| id.as_str() != "100");
        assert_eq!(without, order(1, 99));
        assert_eq!("random:17".parse::<Order>().unwrap(), Order::Random(17));
        assert!("sorted".parse::<Order>().is_err());
    }

    #[test]
    fn the_smaller_limit_counts() {
        let rate = |rate: &str| Rollout::default().max_failure_rate(rate.parse().unwrap());
        assert_eq!(Rollout::default().budget(300), None);
        assert_eq!(rate("0.5%").budget(300), Some(2));
        assert_eq!(rate("0.5%").budget(10), Some(1));
        assert_eq!(rate("0.5%").max_failures(1).budget(300), Some(1));
        assert_eq!(Rollout::default().canary(ids(&["1"])).budget(300), Some(1));
        assert_eq!(Rollout::default().max_failures(9).all_or_nothing().budget(300), Some(1));
    }

    #[test]
    fn what_is_left_keeps_its_waves() {
        let waves = vec![ids(&["1"]), ids(&["2", "3"]), ids(&["4", "5"])];
        let resumed = |complete| Resumed { waves: waves.clone(), complete, ..Resumed::default() };
        // Project 1 failed in a complete wave, and 9 was in none.
        let left = resumed(1).divide(ids(&["1", "3", "5", "9"]));
        assert_eq!(left, (1, vec![ids(&["1", "3"]), ids(&["5", "9"])]));
        assert_eq!(resumed(0).divide(ids(&["5"])), (0, vec![vec![], vec![], ids(&["5"])]));
        // All waves are complete, and one project is left, or none.
        assert_eq!(resumed(3).divide(ids(&["2"])), (3, vec![ids(&["2"])]));
        assert_eq!(resumed(3).divide(Vec::new()), (3, Vec::new()));
        assert_eq!(Resumed::default().divide(ids(&["2"])), (0, vec![ids(&["2"])]));
        // Project 2 was upgraded and has gone back: its wave begins again.
        let back = Resumed { upgraded: ids(&["2"]).into_iter().collect(), ..resumed(3) };
        assert_eq!(back.divide(ids(&["2", "3"])), (1, vec![ids(&["2", "3"]), vec![]]));
    }

    #[test]
    fn a_rollout_can_be_read_back_from_a_record() {
        let rollout = Rollout::default()
            .waves(vec![Portion::Count(1), Portion::Percent(2.5)])
            .unwrap()
            .canary(ids(&["7"]))
            .order(Order::Random(3))
            .bake(Duration::from_millis(1_500))
            .gate("true")
            .max_failure_rate(Portion::Percent(0.5));
        let text = serde_json::to_string(&rollout).unwrap();
        assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    }
}
