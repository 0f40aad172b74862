//! Puts one migration in the place of many, for new projects: it creates what they create, with their rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::Manager;
use crate::apply::{TestDownScripts, run_migrations};
use crate::catalog::{Catalog, NewMigration, script_text};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{self, Problem};
use crate::project::ProjectId;
use crate::schema::Schema;
use crate::schema::alter::{Definitions, RowSource, row_sources, with_rows};
use crate::sql::{Dialect, quote_name, quote_text};
use crate::store::{Contents, Mode, Session, TableSummary};

/// A migration that takes the place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Squashed {
    /// The migration. Its version is that of the last one that it replaces.
    pub migration: NewMigration,
    /// The text before the first `_` of its folder's name.
    pub version: String,
    /// The folders of the migrations that it replaces.
    pub replaced: Vec<PathBuf>,
    /// How many projects were found to be past it.
    pub projects: usize,
}

/// What migrations produce.
struct Produced {
    schema: Arc<Schema>,
    /// The rows by table.
    tables: BTreeMap<String, TableSummary>,
    /// The settings of the database file.
    properties: BTreeMap<String, i64>,
}

/// How many ids a message lists.
const SHOWN: usize = 12;

impl Manager {
    /// Writes a migration that creates the schema of a version, with the rows that the migrations up to it insert. Tried out on
    /// a private database: the schema and the rows are the same, also after the migrations that follow.
    ///
    /// Fails with [`ErrorKind::Usage`] if the result would differ, and with [`ErrorKind::Blocked`] if a project of the fleet
    /// is not at or past this version.
    pub fn squash(&self, version: &str) -> Result<Squashed> {
        let position = self.catalog.resolve(version)?;
        let replaced = self.catalog.between(0..position);
        let (Some(last), true) = (replaced.last(), position > 1) else {
            return Err(Error::new(
                ErrorKind::Usage,
                "there is nothing to squash: it is one migration at most",
            )
            .with_hint("name a later version: tenantry migration list"));
        };
        let mut folders = Vec::new();
        for migration in replaced {
            let folder = migration.up.path().parent().filter(|_| migration.up.path().ends_with("up.sql"));
            let folder = folder.filter(|_| self.catalog.folder().is_some()).ok_or_else(|| {
                Error::new(
                    ErrorKind::Usage,
                    "this folder is in another tool's layout, which cannot say what a migration replaces",
                )
                .with_hint("squash with that tool, or move the migrations to folders with up.sql")
            })?;
            folders.push(folder.to_path_buf());
        }
        let projects = self.require_all_past(position)?;
        let before = self.catalog.up_to(position);
        let (definitions, rows) = self.definitions_with_rows(&before)?;
        if !rows.is_empty()
            && let Some((path, line)) = before.first_volatile_value()
        {
            let message = "these migrations insert rows with values that differ in each project";
            return Err(Error::new(ErrorKind::Usage, message).at(path, line).with_hint(
                "squash up to the version before; or set same_for_all_projects in its metadata.toml",
            ));
        }
        let label = last.label();
        if !rows.is_empty()
            && let Some(table) = definitions.schema.virtual_tables().next()
        {
            let message = format!(
                "{table} is a virtual table, which could not be filled from the rows that the migrations insert"
            );
            return Err(Error::new(ErrorKind::Usage, message).with_hint("squash up to a version before it"));
        }
        let statements = with_rows(self.store.dialect(), &definitions.statements, &rows);
        let comment = format!("The schema of {label}, in place of {position} migrations.");
        let up = script_text(&comment, &statements);
        let mut versions = Vec::new();
        for migration in replaced {
            versions.extend(migration.metadata.replaces.iter().cloned());
            versions.push(migration.version.to_string());
        }
        let unique: BTreeSet<String> = versions.into_iter().collect();
        let migration = NewMigration {
            replaces: unique.into_iter().collect(),
            ..NewMigration::new("baseline", up, None)
        };
        self.require_same_result(position, &migration)?;
        let name = folders.last().and_then(|folder| folder.file_name()).unwrap_or_default();
        let version = name.to_string_lossy().split('_').next().unwrap_or_default().to_string();
        Ok(Squashed { migration, version, replaced: folders, projects })
    }

    /// Fails unless all projects are at this position or a later one. Returns how many there are.
    fn require_all_past(&self, position: usize) -> Result<usize> {
        let projects = self.store.discover()?.require_complete()?;
        let mut behind: BTreeMap<String, Vec<ProjectId>> = BTreeMap::new();
        let reference = self.reference()?;
        for (project, inspection) in self.inspect_all(&projects) {
            let reason = match inspection {
                Err(error) => Some(error.summary()),
                Ok(inspection) => match plan::compare(&self.catalog, reference, &inspection) {
                    Err(problems) => {
                        Some(problems.iter().map(Problem::message).collect::<Vec<_>>().join("; "))
                    }
                    Ok(_) if inspection.ledger.is_empty() => Some("no ledger".to_string()),
                    Ok(found) if found.state.position < position => {
                        Some(format!("at {}", self.catalog.version_at(found.state.position)))
                    }
                    Ok(_) => None,
                },
            };
            if let Some(reason) = reason {
                behind.entry(reason).or_default().push(project.clone());
            }
        }
        if behind.is_empty() {
            return Ok(projects.len());
        }
        let described = |(reason, ids): (&String, &Vec<ProjectId>)| {
            let named: Vec<_> = ids.iter().take(SHOWN).map(ToString::to_string).collect();
            let more =
                if ids.len() > SHOWN { format!(" and {} more", ids.len() - SHOWN) } else { String::new() };
            format!("{}{more} ({reason})", named.join(", "))
        };
        let version = self.catalog.version_at(position);
        let list = behind.iter().map(described).collect::<Vec<_>>().join("; ");
        Err(Error::new(ErrorKind::Blocked, format!("not all projects are at {version} or later: {list}"))
            .with_hint(format!("upgrade them first: tenantry upgrade-all --to {version}")))
    }

    /// The schema that a catalog produces, with the statements that create it and those that insert its rows.
    fn definitions_with_rows(&self, catalog: &Catalog) -> Result<(Definitions, Vec<String>)> {
        let definitions = self.definitions_of(catalog)?;
        let sources = row_sources(self.store.dialect(), &definitions.statements);
        let mut inserts = Vec::new();
        self.store.scratch(catalog, &mut |session| {
            run_migrations(session, catalog, &BTreeSet::new(), TestDownScripts::No)?;
            session.begin(Mode::PLAIN)?;
            inserts = self.inserts(session, &sources)?;
            session.rollback()
        })?;
        Ok((definitions, inserts))
    }

    /// The statements that insert the rows of a database, and let its sequences go on after them.
    fn inserts(&self, session: &mut dyn Session, sources: &[RowSource]) -> Result<Vec<String>> {
        let dialect = self.store.dialect();
        let counts = session.count_rows()?;
        let mut statements = Vec::new();
        for source in sources {
            if counts.rows.get(&source.table).copied().unwrap_or_default() == 0 {
                continue;
            }
            let literal = |column: &String| match dialect {
                Dialect::Sqlite => format!("quote({column})"),
                Dialect::Postgres => format!("quote_nullable({column}::text)"),
            };
            let expressions: Vec<String> = source.columns.iter().map(literal).collect();
            let columns = source.columns.join(", ");
            let mut rows = Vec::new();
            session.for_each_row(&expressions, &quote_name(&source.table), &mut |row| {
                let values: Vec<String> = row.into_iter().map(|it| it.unwrap_or("NULL".into())).collect();
                rows.push(format!("    ({})", values.join(", ")));
                Ok(true)
            })?;
            let (table, overriding) = (quote_name(&source.table), source.overriding);
            statements
                .push(format!("INSERT INTO {table} ({columns}){overriding} VALUES\n{}", rows.join(",\n")));
        }
        for (property, value) in session.contents()?.properties {
            if value != 0 {
                statements.push(format!("PRAGMA {property} = {value}"));
            }
        }
        for (name, last) in &counts.sequences {
            statements.push(match (dialect, name.split_once('.')) {
                (Dialect::Postgres, Some((table, column))) => format!(
                    "SELECT setval(pg_get_serial_sequence({}, {}), {last})",
                    quote_text(&quote_name(table)),
                    quote_text(column)
                ),
                (Dialect::Postgres, None) => continue,
                (Dialect::Sqlite, _) => {
                    format!("UPDATE sqlite_sequence SET seq = {last} WHERE name = {}", quote_text(name))
                }
            });
        }
        Ok(statements)
    }

    /// Fails unless a new project gets the same schema and rows from the migration as from those that it replaces, also after
    /// the migrations that follow.
    fn require_same_result(&self, position: usize, migration: &NewMigration) -> Result<()> {
        let differs = |what: String| {
            Error::new(ErrorKind::Usage, format!("it cannot be squashed: {what}"))
                .with_hint("name another version; nothing was written")
        };
        let head = self.catalog.head();
        for last in BTreeSet::from([position, head]) {
            let old = self.catalog.up_to(last);
            let new = self.catalog.squashed(position, last, migration)?;
            let (before, after) = (
                self.result_of(&old)?,
                self.result_of(&new).map_err(|error| {
                    differs(format!("the migration in their place fails: {}", error.summary()))
                })?,
            );
            let differences = after.schema.differences(&before.schema);
            if let Some(difference) = differences.first() {
                return Err(differs(difference.to_string()));
            }
            let tables = before.tables.keys().chain(after.tables.keys());
            if before.properties != after.properties {
                return Err(differs("the settings of the database file differ".into()));
            }
            if let Some(table) =
                tables.into_iter().find(|table| before.tables.get(*table) != after.tables.get(*table))
            {
                return Err(differs(format!("the rows of {table} differ")));
            }
        }
        Ok(())
    }

    /// The schema and the rows that a catalog's migrations produce.
    fn result_of(&self, catalog: &Catalog) -> Result<Produced> {
        let mut found = None;
        self.store.scratch(catalog, &mut |session| {
            run_migrations(session, catalog, &BTreeSet::new(), TestDownScripts::No)?;
            session.begin(Mode::PLAIN)?;
            let (schema, Contents { mut tables, properties }) = (session.schema()?, session.contents()?);
            session.rollback()?;
            tables.retain(|table, summary| summary.rows > 0 && schema.tables().any(|it| it == table));
            found = Some(Produced { schema, tables, properties });
            Ok(())
        })?;
        found.ok_or_else(|| Error::new(ErrorKind::Internal, "the schema was not read"))
    }
}
