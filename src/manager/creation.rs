//! Creates projects and spares. The code that upgrades a project also fills new ones.

use super::Manager;
use super::command::new_run_id;
use super::reporting::failed;
use crate::apply::{Executor, Preflight, Progress, RowOwner};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Note, Outcome, ProjectReport};
use crate::plan::Problem;
use crate::project::ProjectId;
use crate::sql::pragma::FileSettings;
use crate::store::{ForeignKeys, Mode, Session, Spares, Template};

impl Manager {
    pub(super) fn create_project(&self, project: &ProjectId, run_id: &str) -> ProjectReport {
        match self.retry(|| self.create_in_run(project, run_id)) {
            Ok(()) => ProjectReport {
                to: Some(self.catalog.version_at(self.catalog.head())),
                ..ProjectReport::new(project.clone(), Outcome::Created)
            },
            Err(error) => failed(project, error),
        }
    }

    /// The note that says why new projects are not copied from one template.
    pub(super) fn note_on_separate_creation(&self) -> Note {
        let place = self
            .catalog
            .first_volatile_value()
            .map_or(String::new(), |(path, line)| format!(" ({}:{line})", path.display()));
        Note {
            message: format!(
                "each project is created separately: a migration generates values that projects may not share{place}"
            ),
            hint: "if they may share them: same_for_all_projects = true in its metadata.toml".into(),
        }
    }

    /// The notes that say which statements of migrations are left out.
    pub(super) fn notes_on_left_out(&self) -> Vec<Note> {
        let list = |labels: &[String]| {
            let first = labels.first()?;
            let others =
                if labels.len() > 1 { format!(" and {} other(s)", labels.len() - 1) } else { String::new() };
            Some(format!("{first}{others}"))
        };
        let transactions = list(&self.catalog.with_own_transactions()).map(|labels| Note {
            message: format!("the BEGIN and COMMIT around {labels} are left out"),
            hint: "nothing to do: all pending migrations of a project run in one transaction".into(),
        });
        let extensions = list(&self.catalog.left_out()).map(|statements| Note {
            message: format!("left out: {statements}"),
            hint: "nothing to do: an extension belongs to all projects of the database".into(),
        });
        transactions.into_iter().chain(extensions).collect()
    }

    pub(super) fn create_in_run(&self, id: &ProjectId, run_id: &str) -> Result<()> {
        self.with_template(run_id, |template| self.store.create(id, template))
    }

    /// Creates spares until as many are ready as the store is configured to keep, and removes spares of other catalogs.
    /// Does nothing if the store keeps none. An application calls this in the background, so that creating a project
    /// does not wait for migrations.
    pub fn top_up_spares(&self) -> Result<Spares> {
        let Some(store) = self.store.spares() else { return Ok(Spares::default()) };
        let spares = self.with_template(&new_run_id(), |template| store.top_up(template))?;
        if spares.made + spares.removed > 0 {
            self.append_to_journal("spares", serde_json::json!(spares))?;
        }
        Ok(spares)
    }

    fn with_template<T>(&self, run_id: &str, create: impl FnOnce(Template<'_>) -> Result<T>) -> Result<T> {
        // Builds the reference before anything is created on the server.
        let is_reusable = self.reference()?.allows_template();
        let fill = |session: &mut dyn Session, max_migrations: usize| {
            let executor =
                Executor { rows: RowOwner::Migrations, ..self.executor_for(self.upgrade_request(), run_id)? };
            // SQLite accepts some settings of a file only before anything is written to it.
            let scripts = self.catalog.migrations().iter().map(|migration| migration.up.file_settings());
            let file = scripts.fold(FileSettings::NONE, FileSettings::then);
            let mode = Mode { foreign_keys: ForeignKeys::Compared, file, ..Mode::PLAIN };
            let mut progress = Progress { max_migrations, ..Progress::new(executor.request) };
            match executor.execute(session, &Preflight { mode, inspection: None }, &mut progress)? {
                Ok(_) => Ok(()),
                Err(problems) => {
                    let messages: Vec<_> = problems.iter().map(Problem::message).collect();
                    Err(Error::new(
                        ErrorKind::Internal,
                        format!("a new project is blocked: {}", messages.join("; ")),
                    ))
                }
            }
        };
        create(Template {
            catalog_hash: self.catalog.hash(),
            is_reusable,
            adds_enum_values: self.catalog.adds_enum_values(),
            run_id,
            fill: &fill,
        })
    }
}
