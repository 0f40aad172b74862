//! What all steps of a run need.

use std::time::Instant;

use super::command::Run;
use super::sink::EventSink;
use crate::event::{Event, ProjectReport};
use crate::project::ProjectId;
use crate::workers::{StopCondition, Workers};

/// Settings of a run that all its steps need.
pub(super) struct RunContext<'a> {
    pub(super) run: &'a Run,
    pub(super) id: &'a str,
    pub(super) workers: Workers,
    pub(super) stop: StopCondition<'a>,
    pub(super) started: Instant,
}

impl RunContext<'_> {
    /// Does `work` for each project separately.
    pub(super) fn for_each<F: FnMut(Event)>(
        &self,
        projects: &[ProjectId],
        sink: &mut EventSink<'_, F>,
        work: impl Fn(&ProjectId) -> ProjectReport + Sync,
    ) {
        self.workers.for_each_project(
            projects,
            1,
            &self.stop,
            work,
            |_| (),
            |report| {
                sink.project_finished(report);
            },
        );
    }
}
