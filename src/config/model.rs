//! The schema of one database as a first migration, for fleets that have no migrations yet.

use std::path::Path;
use std::sync::Arc;

use super::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::{Manager, Schema, WantedSchema};
use crate::project::{NamePattern, ProjectId};
use crate::schema::alter::Definitions;
use crate::sql::Dialect;
#[cfg(feature = "postgres")]
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{ReadSchema, Store};

impl Config {
    /// Returns the SQL that creates the objects of a database: of a project of this store, of a SQLite file, or of the
    /// schema `public` of a Postgres database, given by its URL. The tables of migration tools are left out.
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such database, and with [`ErrorKind::Usage`] if it is of another
    /// kind than the store or has no objects.
    pub fn schema_sql(&self, source: &str) -> Result<String> {
        let (store, id) = self.model(source)?;
        let statements = store.definitions(&id)?;
        if statements.is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{source} has no tables, so there is nothing to begin with"),
            )
            .with_hint("name a database that has the tables of your application"));
        }
        Ok(statements.iter().map(|sql| format!("{sql};\n\n")).collect::<Vec<_>>().concat())
    }

    /// Returns the schema of a source, as [`Config::schema`] does, with the statements that create it.
    ///
    /// Fails as [`Config::schema`] does.
    pub fn definitions(&self, manager: &Manager, source: &str) -> Result<WantedSchema> {
        let path = Path::new(source);
        if let Some(version) = source.strip_prefix('@') {
            return manager.definitions_at_version(version);
        }
        if path.extension().is_some_and(|extension| extension == "sql") {
            return manager.definitions_of_script(path, &self.folder);
        }
        let schema = self.schema(manager, source)?;
        let (store, id) = self.model(source)?;
        Ok(WantedSchema(Definitions { schema, statements: store.definitions(&id)? }))
    }

    /// Returns the schema of a source: of a project of this store, of a version written as `@VERSION` or `@head`, of what a
    /// SQL file produces, of a SQLite file, or of the schema `public` of a Postgres database, given by its URL.
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such database, with [`ErrorKind::Usage`] if there is no such
    /// version or the source is of another kind than the store, and with [`ErrorKind::Catalog`] if the SQL file fails.
    pub fn schema(&self, manager: &Manager, source: &str) -> Result<Arc<Schema>> {
        let path = Path::new(source);
        if let Some(version) = source.strip_prefix('@') {
            return manager.schema_at_version(version).map(Arc::new);
        }
        if path.extension().is_some_and(|extension| extension == "sql") {
            return manager.schema_of_script(path, &self.folder).map(Arc::new);
        }
        let (store, id) = self.model(source)?;
        let mut inspections = store.inspect(&[id], ReadSchema::Always);
        let unread = || Error::new(ErrorKind::Internal, "the schema was not read");
        inspections.pop().ok_or_else(unread)??.schema.ok_or_else(unread)
    }

    /// The store that a source is in, and its id there.
    fn model(&self, source: &str) -> Result<(Arc<dyn Store>, ProjectId)> {
        let path = Path::new(source);
        if source.starts_with("postgres://") || source.starts_with("postgresql://") {
            self.require(Dialect::Postgres, source)?;
            #[cfg(feature = "postgres")]
            return Ok((Arc::new(self.public_schema(source)?), "c".parse()?));
        }
        if source.contains("://") {
            return Err(Error::new(ErrorKind::Usage, "the URL is not one of a Postgres database")
                .with_hint("begin it with postgres://, or give the path of a SQLite file"));
        }
        // A project is named by its id, also where a file is called like it.
        let id: Result<ProjectId> = source.parse();
        match id {
            Ok(id) => Ok((self.store()?, id)),
            Err(_) if path.is_file() => {
                self.require(Dialect::Sqlite, source)?;
                self.file(path)
            }
            Err(_) => {
                Err(Error::new(ErrorKind::NotFound, format!("{source} is neither a project nor a file"))
                    .with_hint("to list the projects: tenantry list"))
            }
        }
    }

    /// A store whose only project is the file: some letters or digits of its name are the id, the rest is the pattern.
    fn file(&self, path: &Path) -> Result<(Arc<dyn Store>, ProjectId)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unusable =
            || Error::new(ErrorKind::Usage, format!("the name of {} has no letter or digit", path.display()));
        let start = name.find(|it: char| it.is_ascii_alphanumeric()).ok_or_else(unusable)?;
        let end = start + 1;
        let id: ProjectId = name[start..end].parse()?;
        let pattern: NamePattern = format!("{}{{id}}{}", &name[..start], &name[end..]).parse()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let options = SqliteOptions::default()
            .pattern(pattern)
            .ignore(self.ignored()?)
            .load(self.common.load.iter().cloned());
        Ok((Arc::new(SqliteStore::new(folder, options)), id))
    }

    /// A store whose project `c` is the schema `public`.
    #[cfg(feature = "postgres")]
    fn public_schema(&self, url: &str) -> Result<PostgresStore> {
        let options = PostgresOptions::default().pattern(NamePattern::parse_of_schemas("publi{id}")?);
        PostgresStore::new(url, options.ignore(self.ignored()?))
    }

    fn require(&self, dialect: Dialect, source: &str) -> Result<()> {
        if self.dialect() == dialect {
            return Ok(());
        }
        let message = format!(
            "{} is for {}, and the store for {}",
            shown(source),
            dialect.name(),
            self.dialect().name()
        );
        Err(Error::new(ErrorKind::Usage, message)
            .with_hint("name the store: --store sqlite:DIR or postgres://..."))
    }
}

/// A source for a message. A URL may contain a password.
fn shown(source: &str) -> &str {
    if source.contains("://") { "the URL" } else { source }
}
