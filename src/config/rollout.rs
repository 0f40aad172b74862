//! The settings of a rollout: `[rollout]` in `tenantry.toml`, and the flags of `upgrade-all`.

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::manager::{Portion, Rollout};
use crate::rules::parse_age;

/// How `upgrade-all` goes through the fleet. `None` leaves a setting to a source of lower precedence.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSettings {
    /// The sizes of the waves, such as `1,5%,25%,100%`.
    pub waves: Option<String>,
    /// The ids of the projects that are upgraded first.
    pub canary: Option<Vec<String>>,
    /// The order: `id`, `random` or `random:SEED`.
    pub order: Option<String>,
    /// How long to wait after each wave, such as `10m`.
    pub bake: Option<String>,
    /// The command that decides after each wave whether the run goes on. An empty one is none.
    pub gate: Option<String>,
    /// The number of failed projects at which the run stops.
    pub max_failures: Option<usize>,
    /// The share of failed projects at which the run stops, such as `0.5%`.
    pub max_failure_rate: Option<String>,
    /// Whether all projects go back if one fails.
    pub all_or_nothing: Option<bool>,
}

impl RolloutSettings {
    /// Returns these settings, with unset ones taken from `weaker`.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        // The two limits are one setting: a limit that is given replaces both.
        let has_limit = self.max_failures.is_some() || self.max_failure_rate.is_some();
        let (failures, rate) =
            if has_limit { (None, None) } else { (weaker.max_failures, weaker.max_failure_rate) };
        Self {
            waves: self.waves.or(weaker.waves),
            canary: self.canary.or(weaker.canary),
            order: self.order.or(weaker.order),
            bake: self.bake.or(weaker.bake),
            gate: self.gate.or(weaker.gate),
            max_failures: self.max_failures.or(failures),
            max_failure_rate: self.max_failure_rate.or(rate),
            all_or_nothing: self.all_or_nothing.or(weaker.all_or_nothing),
        }
    }

    /// Returns the rollout that these settings describe.
    ///
    /// Fails with [`ErrorKind::Usage`](crate::ErrorKind::Usage) if one of them is invalid.
    pub fn rollout(&self) -> Result<Rollout> {
        let mut rollout = Rollout::default();
        if let Some(waves) = &self.waves {
            let sizes: Result<Vec<Portion>> = waves.split(',').map(|size| size.trim().parse()).collect();
            rollout = rollout.waves(sizes?)?;
        }
        if let Some(canary) = &self.canary {
            rollout = rollout.canary(canary.iter().map(|id| id.parse()).collect::<Result<_>>()?);
        }
        if let Some(order) = &self.order {
            rollout = rollout.order(order.parse()?);
        }
        if let Some(bake) = &self.bake {
            rollout = rollout.bake(parse_age(bake)?);
        }
        if let Some(gate) = self.gate.as_deref().filter(|gate| !gate.trim().is_empty()) {
            rollout = rollout.gate(gate);
        }
        if let Some(count) = self.max_failures {
            rollout = rollout.max_failures(count.max(1));
        }
        if let Some(rate) = &self.max_failure_rate {
            rollout = match rate.parse()? {
                rate @ Portion::Percent(_) => rollout.max_failure_rate(rate),
                Portion::Count(_) => {
                    return Err(Error::new(
                        ErrorKind::Usage,
                        format!("the failure rate {rate:?} is not a share"),
                    )
                    .with_hint("give a share such as 0.5%, or a number with --max-failures"));
                }
            };
        }
        if self.bake.is_some() && !rollout.has_waves() {
            return Err(Error::new(ErrorKind::Usage, "there is no wave after which to wait")
                .with_hint("bake needs waves, a canary or a gate"));
        }
        Ok(if self.all_or_nothing == Some(true) { rollout.all_or_nothing() } else { rollout })
    }
}
