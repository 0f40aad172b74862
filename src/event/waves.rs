//! The waves of an upgrade, and what stops it between or in them.

use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use crate::project::ProjectId;

/// The waves into which the projects of an upgrade are divided.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Waves {
    /// The order of the projects: `id`, or `random:SEED`.
    pub order: String,
    /// The number of the first of these waves. It is not 1 if earlier ones were complete before this run was resumed.
    pub first: usize,
    /// The projects of each wave.
    pub waves: Vec<Vec<ProjectId>>,
}

/// A wave begins.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WaveStarted {
    /// Its number, counted from 1.
    pub wave: usize,
    /// The number of waves.
    pub waves: usize,
    /// The number of its projects that are to be upgraded.
    pub projects: usize,
}

/// The projects of a wave are finished, and the run waits.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WavePaused {
    /// Its number, counted from 1.
    pub wave: usize,
    /// How long the run waits.
    #[serde(rename = "for_s", serialize_with = "seconds")]
    pub duration: Duration,
}

/// A wave is finished. The next one begins only after this.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WaveFinished {
    /// Its number, counted from 1.
    pub wave: usize,
    /// The result of its gate, which passed; `None` without a gate.
    pub gate: Option<GateResult>,
}

/// How a gate's command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GateResult {
    /// Its exit code; `None` if a signal ended it or it could not be started.
    pub code: Option<i32>,
    /// The end of what it printed.
    pub output: String,
}

impl GateResult {
    /// Whether the run may go on.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.code == Some(0)
    }
}

/// The run stopped before all projects were started.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Halted {
    /// The run's id.
    pub run: String,
    /// The number of the wave in which it stopped, or after which if the gate failed.
    pub wave: usize,
    /// The number of waves.
    pub waves: usize,
    /// Why.
    #[serde(flatten)]
    pub reason: HaltReason,
    /// Whether the run is recorded, so that it can be resumed and rolled back.
    pub recorded: bool,
}

/// Why a run stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HaltReason {
    /// As many projects failed as were allowed to.
    Failures {
        /// How many failed.
        failures: usize,
        /// How many stop the run.
        limit: usize,
    },
    /// The gate's command failed.
    Gate {
        /// How it ended.
        gate: GateResult,
    },
    /// Projects are blocked or cannot be read, so that not all can be upgraded, as was asked for.
    Unplanned {
        /// How many.
        projects: usize,
    },
    /// It was interrupted.
    Interrupted,
    /// Its record can no longer be written.
    Journal,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
