//! Projects as plain SQL: written out, and made of what somebody wrote.
//!
//! It must not record a version that the schema has not got, whatever the text says of itself.

use std::io::Write;
use std::path::Path;

use super::Manager;
use crate::apply::Preflight;
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::plan::{Plan, Problem, Request};
use crate::project::ProjectId;
use crate::store::{LoadedSql, SnapshotFile};

impl Manager {
    /// Writes a project as SQL text, as it is at this moment: `sqlite3` or `psql` make the same of it.
    pub fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        self.store.validate_id(id)?;
        self.store.export(id, out)
    }

    pub(super) fn import_project(&self, project: &ProjectId, text: &Path, run: &str) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Created);
        if let Err(error) = self.import(project, text, run, &mut report) {
            report.outcome = Outcome::Failed(error.in_project(project));
        }
        report
    }

    fn import(&self, project: &ProjectId, text: &Path, run: &str, report: &mut ProjectReport) -> Result<()> {
        const HINT: &str = "it was imported, without a version: tenantry stamp ID";
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        let LoadedSql { place, access, notes } = self.store.load_sql(text, &file)?;
        report.notes.extend(notes);
        let copy = SnapshotFile { file: &file, place: &place, needs: &[], access: &access };
        let (mut found, mut unchecked) = (None, Vec::new());
        let request = self.to_head();
        let executor = self.executor(request, run)?;
        self.store.restore_scratch(copy, &mut |session| {
            session.begin(Preflight::UNPLANNED.mode)?;
            unchecked = self.require_sound(session)?;
            found = Some(executor.plan(&session.inspect()?));
            session.rollback()
        })?;
        report.notes.extend(unchecked);
        let stamp = match found {
            Some(Ok(plan)) => self.plan_import(&plan, report),
            // It says nothing of its version, and is of none that is known: it can be taken in, not stamped.
            Some(Err(problems)) if problems.iter().all(|it| matches!(it, Problem::NeedsBaseline { .. })) => {
                report
                    .notes
                    .extend(problems.iter().map(|it| format!("no version was recorded: {}", it.message())));
                None
            }
            Some(Err(problems)) => {
                let said: Vec<_> = problems.iter().map(Problem::message).collect();
                return Err(Error::new(
                    ErrorKind::Blocked,
                    format!("what it says of its version is not so: {}", said.join("; ")),
                )
                .with_hint(
                    "export it anew; or take the ledger's tables out of the file, and stamp it afterwards",
                ));
            }
            None => return Err(Error::new(ErrorKind::Internal, "the copy was not looked at")),
        };
        report.notes.extend(self.store.restore_as(project, copy)?);
        let Some(position) = stamp else { return Ok(()) };
        let request = Request::Stamp { to: Some(position), force: false };
        let executor = self.executor(request, run)?;
        match self.execute_plan(&executor, project, &Preflight::UNPLANNED).outcome {
            Outcome::Failed(error) => Err(error.with_hint(HINT)),
            Outcome::Blocked(problems) => Err(super::blocked(project, &problems).with_hint(HINT)),
            _ => Ok(()),
        }
    }

    /// Says what a text's project is; gives the position to be recorded, where it has no ledger.
    fn plan_import(&self, plan: &Plan, report: &mut ProjectReport) -> Option<usize> {
        let stamp = plan.stamp.map(|stamp| stamp.position);
        let position = stamp.or(plan.recorded).unwrap_or_default();
        report.to = Some(self.catalog.version_at(position));
        report.stamped = stamp.map(|position| self.catalog.version_at(position));
        if plan.to > position {
            report.notes.push(format!("it lacks {} migration(s): tenantry upgrade ID", plan.to - position));
        }
        stamp
    }
}
