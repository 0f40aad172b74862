//! The end of a run: its counts and its exit code.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use super::Outcome;

/// The number of projects by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    /// Counts an outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        *self.0.entry(outcome.code()).or_default() += 1;
    }

    /// Returns the number of projects with an outcome, given by its name in JSON.
    #[must_use]
    pub fn count(&self, outcome: &str) -> usize {
        self.0.get(outcome).copied().unwrap_or_default()
    }

    /// Returns all outcomes and their counts, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }

    /// Returns the number of all projects.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The number of projects by outcome.
    pub outcomes: Tally,
    /// The duration.
    pub elapsed: Duration,
    /// How long a rehearsal predicted that it takes.
    pub predicted: Option<Duration>,
    /// Whether the run was interrupted.
    pub interrupted: bool,
    /// The exit code, the first that applies: 130 interrupted, 3 a project failed or the run was halted, 4 a project is blocked or drifted, 5 something is
    /// pending and [`ExitRules::fail_if_pending`], 6 no project found and not [`ExitRules::allow_empty`], else 0.
    pub exit: u8,
}

/// Options that change a run's exit code.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExitRules {
    allow_empty: bool,
    fail_if_pending: bool,
}

impl ExitRules {
    /// Exits with 0 instead of 6 if no project was found.
    #[must_use]
    pub fn allow_empty(self) -> Self {
        Self { allow_empty: true, ..self }
    }

    /// Exits with 5 if something is pending.
    #[must_use]
    pub fn fail_if_pending(self) -> Self {
        Self { fail_if_pending: true, ..self }
    }
}

impl Summary {
    /// Creates a summary and computes its exit code.
    #[must_use]
    pub(crate) fn new(
        outcomes: Tally,
        elapsed: Duration,
        [interrupted, halted]: [bool; 2],
        exit_rules: ExitRules,
    ) -> Self {
        let exit = Self::exit_code(&outcomes, [interrupted, halted], exit_rules);
        Self { outcomes, elapsed, predicted: None, interrupted, exit }
    }

    /// Returns the exit code. The first that applies: 130 interrupted, 3 a project failed or the run was halted, 4 a project is blocked or drifted, 5
    /// something is pending (only with [`ExitRules::fail_if_pending`]), 6 no project found (unless [`ExitRules::allow_empty`]), else 0.
    #[must_use]
    fn exit_code(outcomes: &Tally, [interrupted, halted]: [bool; 2], exit_rules: ExitRules) -> u8 {
        if interrupted {
            130
        } else if outcomes.count("failed") > 0 || halted {
            3
        } else if outcomes.count("blocked") + outcomes.count("drifted") > 0 {
            4
        } else if exit_rules.fail_if_pending && outcomes.count("planned") > 0 {
            5
        } else if outcomes.total() == 0 && !exit_rules.allow_empty {
            6
        } else {
            0
        }
    }
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut object = serializer.serialize_struct("Summary", 4)?;
        object.serialize_field("outcomes", &self.outcomes)?;
        object.serialize_field("elapsed_us", &self.elapsed.as_micros())?;
        match self.predicted {
            Some(predicted) => object.serialize_field("predicted_us", &predicted.as_micros())?,
            None => object.skip_field("predicted_us")?,
        }
        object.serialize_field("exit", &self.exit)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn the_exit_code_says_the_worst() {
        let code = |outcomes: &[Outcome], interrupted, allow_empty, fail_if_pending| {
            let mut tally = Tally::default();
            for outcome in outcomes {
                tally.add(outcome);
            }
            Summary::exit_code(&tally, [interrupted, false], ExitRules { allow_empty, fail_if_pending })
        };
        let failed = || Outcome::Failed(Error::new(crate::ErrorKind::Io, "x"));
        let blocked = || Outcome::Blocked(Vec::new());
        assert_eq!(code(&[], false, false, false), 6);
        assert_eq!(code(&[], false, true, false), 0);
        assert_eq!(code(&[Outcome::Upgraded], false, false, true), 0);
        assert_eq!(code(&[Outcome::Planned], false, false, false), 0);
        assert_eq!(code(&[Outcome::Planned], false, false, true), 5);
        assert_eq!(code(&[Outcome::Planned, blocked()], false, false, true), 4);
        assert_eq!(code(&[Outcome::AsExpected], false, false, true), 0);
        assert_eq!(code(&[Outcome::AsExpected, Outcome::Drifted(Vec::new())], false, false, false), 4);
        assert_eq!(code(&[blocked(), failed(), Outcome::Upgraded], false, false, false), 3);
        assert_eq!(code(&[failed(), Outcome::NotStarted], true, false, false), 130);
        let halted = Summary::exit_code(&Tally::default(), [false, true], ExitRules::default());
        assert_eq!(halted, 3);
    }
}
