//! Exports projects as SQL, and creates projects from SQL.
//!
//! An import records a version only if the schema is that of the version, whatever the ledger in the SQL says.

use std::io::Write;
use std::path::Path;

use super::Manager;
use super::reporting::blocked;
use crate::apply::Preflight;
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Outcome, ProjectReport};
use crate::plan::{Plan, Problem, Request};
use crate::project::ProjectId;
use crate::store::{LoadedSql, SnapshotFile};

impl Manager {
    /// Writes a project, as it is at one moment, as SQL that `sqlite3` or `psql` can load.
    ///
    /// Fails with [`ErrorKind::NotFound`] if the project does not exist.
    pub fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        let id = self.resolve(id)?;
        self.store.export(&id, out)
    }

    pub(super) fn import_project(&self, project: &ProjectId, text: &Path, run_id: &str) -> ProjectReport {
        let mut report = ProjectReport::new(project.clone(), Outcome::Created);
        if let Err(error) = self.import(project, text, run_id, &mut report) {
            report.outcome = Outcome::Failed(error.in_project(project));
        }
        report
    }

    fn import(
        &self,
        project: &ProjectId,
        text: &Path,
        run_id: &str,
        report: &mut ProjectReport,
    ) -> Result<()> {
        const HINT: &str = "it was imported without a version; record one: tenantry stamp ID";
        let scratch = private_folder()?;
        let file = scratch.path().join("copy");
        let LoadedSql { place, access, notes } = self.store.load_sql(text, &file)?;
        report.notes.extend(notes);
        let snapshot = SnapshotFile { file: &file, place: &place, needs: &[], access: &access };
        let (mut planned, mut unchecked) = (None, Vec::new());
        let request = self.upgrade_request();
        let executor = self.executor_for(request, run_id)?;
        self.store.restore_scratch(snapshot, &mut |session| {
            session.begin(Preflight::UNPLANNED.mode)?;
            unchecked = self.require_healthy(session)?;
            planned = Some(executor.plan(&session.inspect()?));
            session.rollback()
        })?;
        report.notes.extend(unchecked);
        let stamp = match planned {
            Some(Ok(plan)) => self.report_version(&plan, report),
            // It has no ledger, and its schema is that of no known version. It can be imported, but not stamped.
            Some(Err(problems)) if problems.iter().all(|it| matches!(it, Problem::NeedsBaseline { .. })) => {
                report
                    .notes
                    .extend(problems.iter().map(|it| format!("no version was recorded: {}", it.message())));
                None
            }
            Some(Err(problems)) => {
                let messages: Vec<_> = problems.iter().map(Problem::message).collect();
                return Err(Error::new(
                    ErrorKind::Blocked,
                    format!("its ledger is not valid: {}", messages.join("; ")),
                )
                .with_hint(
                    "export it again; or remove the ledger's tables from the file, and stamp it after the import",
                ));
            }
            None => return Err(Error::new(ErrorKind::Internal, "the imported copy was not inspected")),
        };
        report.notes.extend(self.store.restore_as(project, snapshot)?);
        let Some(position) = stamp else { return Ok(()) };
        let request = Request::Stamp { to: Some(position), force: false };
        let executor = self.executor_for(request, run_id)?;
        match self.execute(&executor, project, &Preflight::UNPLANNED).outcome {
            Outcome::Failed(error) => Err(error.with_hint(HINT)),
            Outcome::Blocked(problems) => Err(blocked(project, &problems).with_hint(HINT)),
            _ => Ok(()),
        }
    }

    /// Reports the version of an imported project. Returns the position to record, if the project has no ledger.
    fn report_version(&self, plan: &Plan, report: &mut ProjectReport) -> Option<usize> {
        let stamp = plan.stamp.as_ref().map(|stamp| stamp.position);
        let position = stamp.or(plan.recorded_position).unwrap_or_default();
        report.to = Some(self.catalog.version_at(position));
        report.stamped = stamp.map(|position| self.catalog.version_at(position));
        if plan.to > position {
            report
                .notes
                .push(format!("{} migration(s) are pending: tenantry upgrade ID", plan.to - position));
        }
        stamp
    }
}
