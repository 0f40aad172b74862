//! Counts outcomes and passes each event on: first to the run's record, then to the caller.

use std::sync::atomic::{AtomicBool, Ordering};

use super::recording::Recording;
use crate::event::{Event, ProjectReport, Tally};

/// The only receiver of a run's events.
pub(super) struct EventSink<'a, F> {
    pub(super) tally: Tally,
    pub(super) observer: F,
    pub(super) recording: Option<Recording<'a>>,
    /// Set once no further project may be started, for example because an event could not be recorded.
    pub(super) halted: &'a AtomicBool,
    /// Whether the run was halted, or could not see all of the fleet.
    pub(super) is_incomplete: bool,
}

impl<F: FnMut(Event)> EventSink<'_, F> {
    /// Records an event, then passes it to the caller.
    pub(super) fn emit(&mut self, event: Event) {
        if let Some(recording) = &mut self.recording
            && !recording.event(&event)
        {
            self.halted.store(true, Ordering::Relaxed);
        }
        (self.observer)(event);
    }

    pub(super) fn project_finished(&mut self, report: ProjectReport) {
        self.tally.add(&report.outcome);
        self.emit(Event::ProjectFinished(report));
    }
}
