//! Writes migrations that lead from the newest version to another schema.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use super::Manager;
use crate::apply::{TestDownScripts, run_migrations};
use crate::catalog::{Catalog, NewMigration, Transaction, script_text};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::alter::{Alteration, Blocking, Definitions, Part, Purpose, alter};
use crate::schema::{Difference, Schema};
use crate::sql::quote_name;
use crate::store::Session;

/// A schema with the statements that create it, as [`Config::definitions`](crate::config::Config::definitions) reads it.
#[derive(Clone, Debug)]
pub struct WantedSchema(pub(crate) Definitions);

/// A table or column that gets another name, written `notes=entries` or `notes.text=body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    table: String,
    column: Option<String>,
    to: String,
}

impl FromStr for Rename {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unclear = || {
            Error::new(ErrorKind::Usage, format!("{text:?} is no renaming"))
                .with_hint("write --rename table=name, or --rename table.column=name")
        };
        let (from, to) = text.split_once('=').ok_or_else(unclear)?;
        let (table, column) = match from.split_once('.') {
            Some((table, column)) => (table, Some(column.to_string())),
            None => (from, None),
        };
        if table.is_empty()
            || to.is_empty()
            || column.as_ref().is_some_and(String::is_empty)
            || to.contains('.')
        {
            return Err(unclear());
        }
        Ok(Self { table: table.into(), column, to: to.into() })
    }
}

impl Rename {
    fn sql(&self) -> String {
        let (table, to) = (quote_name(&self.table), quote_name(&self.to));
        match &self.column {
            Some(column) => format!("ALTER TABLE {table} RENAME COLUMN {} TO {to}", quote_name(column)),
            None => format!("ALTER TABLE {table} RENAME TO {to}"),
        }
    }

    /// Fails if the wanted schema does not have the new name.
    fn require_in(&self, wanted: &Schema) -> Result<()> {
        let is_there = match &self.column {
            None => wanted.tables().any(|table| table.eq_ignore_ascii_case(&self.to)),
            // The table may get another name as well.
            Some(_) => wanted.has_name(&self.to),
        };
        if is_there {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Usage, format!("the wanted schema has no {}", self.to))
            .with_hint("give the name that the wanted schema has: --rename table.column=name"))
    }

    fn reversed(&self) -> Self {
        match &self.column {
            Some(column) => {
                Self { table: self.table.clone(), column: Some(self.to.clone()), to: column.clone() }
            }
            None => Self { table: self.to.clone(), column: None, to: self.table.clone() },
        }
    }
}

/// Migrations that were written and tried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Generated {
    /// The migrations, in order. Empty if the schemas are equal.
    pub migrations: Vec<NewMigration>,
    /// What a reader should know of them.
    pub notes: Vec<String>,
}

impl Manager {
    /// Writes the migrations that lead from the newest version to a schema, and tries them out on a private database: applied
    /// after the others they give that schema, and each down.sql gives the one before.
    ///
    /// Fails with [`ErrorKind::Usage`] if a difference cannot be expressed without losing rows; nothing is written then.
    pub fn generate(&self, wanted: &WantedSchema, renames: &[Rename], name: &str) -> Result<Generated> {
        if !self.catalog.repeatables().is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                "the folder has repeatable migrations, whose objects cannot be told apart",
            )
            .with_hint("write the migration by hand: tenantry migration new NAME"));
        }
        let wanted = &wanted.0;
        for rename in renames {
            rename.require_in(&wanted.schema)?;
        }
        let head = self.definitions_of(&self.catalog)?;
        let mut base = head.clone();
        let renaming: Vec<String> = renames.iter().flat_map(|it| Self::renaming(it, &head)).collect();
        if !renaming.is_empty() {
            let script = migration("rename", &renaming, None, Transaction::Shared);
            base = self.definitions_of(&self.catalog.with(&[script])?).map_err(|error| {
                Error::new(ErrorKind::Usage, "a renaming is not possible")
                    .caused_by(error.summary())
                    .with_hint("name tables and columns as in the newest version, after the renamings before it: tenantry schema show @head")
            })?;
        }
        let mut alteration = alter(self.store.dialect(), &base, wanted, Blocking::Never);
        refuse(&alteration)?;
        put_first(&mut alteration, &renaming);
        let mut migrations: Vec<NewMigration> = Vec::new();
        for (part_name, part) in named(name, &alteration.parts) {
            let transaction =
                if part.purpose == Purpose::Index { Transaction::None } else { Transaction::Shared };
            migrations.push(migration(&part_name, &part.statements, None, transaction));
        }
        let mut notes = self.require_schema(&migrations, wanted)?;
        notes.extend(
            base.schema.lost_data(&wanted.schema).into_iter().map(|it| format!("drops {it} with its data")),
        );
        self.add_down_scripts(&head, &base, renames, &alteration, &mut migrations, &mut notes)?;
        Ok(Generated { migrations, notes })
    }

    /// The statements of a renaming. On Postgres, a sequence that is named by the table and column goes with them.
    fn renaming(rename: &Rename, head: &Definitions) -> Vec<String> {
        let mut statements = vec![rename.sql()];
        for sequence in sequences(head) {
            let new = match &rename.column {
                Some(column) if sequence == format!("{}_{column}_seq", rename.table) => {
                    format!("{}_{}_seq", rename.table, rename.to)
                }
                None if sequence.ends_with("_seq") => {
                    match sequence.strip_prefix(&format!("{}_", rename.table)) {
                        Some(rest) => format!("{}_{rest}", rename.to),
                        None => continue,
                    }
                }
                _ => continue,
            };
            statements.push(format!(
                "ALTER SEQUENCE {} RENAME TO {}",
                quote_name(&sequence),
                quote_name(&new)
            ));
        }
        statements
    }

    /// Runs the migrations after the others, and fails if that does not give the wanted schema. Returns notes.
    fn require_schema(&self, migrations: &[NewMigration], wanted: &Definitions) -> Result<Vec<String>> {
        let catalog = self.catalog.with(migrations)?;
        let found = self.schema_of_catalog(&catalog).map_err(|error| {
            Error::new(ErrorKind::Usage, "the change cannot be expressed: a statement that it needs fails")
                .caused_by(described(&error, migrations))
                .with_hint("write this part by hand, in a migration before it: tenantry migration new NAME")
        })?;
        let (notes, differences): (Vec<_>, Vec<_>) =
            found.differences(&wanted.schema).into_iter().partition(Difference::is_note);
        if differences.is_empty() {
            return Ok(notes.iter().map(|it| format!("stays different: {it}")).collect());
        }
        let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
        Err(Error::new(ErrorKind::Usage, format!("it cannot be expressed: {}", list.join("; ")))
            .with_hint("write this part by hand, in a migration before it: tenantry migration new NAME"))
    }

    /// Writes each down.sql from the schemas before and after its migration, and tries it out.
    fn add_down_scripts(
        &self,
        head: &Definitions,
        base: &Definitions,
        renames: &[Rename],
        alteration: &Alteration,
        migrations: &mut [NewMigration],
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let mut before = head.clone();
        for index in 0..migrations.len() {
            let applied = self.catalog.with(&migrations[..=index])?;
            let after = self.definitions_of(&applied)?;
            let renames_here = alteration.parts[index].purpose == Purpose::Main && !renames.is_empty();
            let goal = if renames_here { base } else { &before };
            let mut back = alter(self.store.dialect(), &after, goal, Blocking::OneTransaction);
            if renames_here {
                let former = renames.iter().rev().flat_map(|it| Self::renaming(&it.reversed(), base));
                former.for_each(|sql| put_last(&mut back, sql));
            }
            let statements: Vec<String> = back.statements().map(ToString::to_string).collect();
            let name = migrations[index].name.clone();
            let obstacle = back.refused.first().cloned().or_else(|| {
                let down = migration("down", &statements, None, Transaction::Shared);
                self.obstacle(&applied, &down, &before)
            });
            match obstacle {
                None => {
                    migrations[index].down =
                        Some(script_text(&format!("Undoes {}.", words(&name)), &statements));
                }
                Some(reason) => notes.push(format!("{name} has no down.sql: {reason}")),
            }
            before = after;
        }
        Ok(())
    }

    /// Why a script does not restore the schema that was before, if it does not.
    fn obstacle(&self, applied: &Catalog, down: &NewMigration, before: &Definitions) -> Option<String> {
        let restored = applied.with(std::slice::from_ref(down)).and_then(|it| self.schema_of_catalog(&it));
        let restored = match restored {
            Ok(restored) => restored,
            Err(error) => return Some(error.summary()),
        };
        let differences = restored.differences(&before.schema);
        differences.iter().find(|it| !it.is_note()).map(ToString::to_string)
    }

    /// The schema that a catalog's migrations produce, with the statements that create it.
    pub(super) fn definitions_of(&self, catalog: &Catalog) -> Result<Definitions> {
        let mut schema = None;
        let statements = self.store.scratch_definitions(catalog, &mut |session| {
            schema = run_and_read(session, catalog)?;
            Ok(())
        })?;
        Ok(Definitions { schema: schema.ok_or_else(unread)?, statements })
    }

    fn schema_of_catalog(&self, catalog: &Catalog) -> Result<Arc<Schema>> {
        let mut schema = None;
        self.store.scratch(catalog, &mut |session| {
            schema = run_and_read(session, catalog)?;
            Ok(())
        })?;
        schema.ok_or_else(unread)
    }
}

/// Runs a catalog's migrations, also the repeatable ones, and returns the schema after them.
fn run_and_read(session: &mut dyn Session, catalog: &Catalog) -> Result<Option<Arc<Schema>>> {
    let last = catalog.head() + usize::from(!catalog.repeatables().is_empty());
    let run = run_migrations(session, catalog, &BTreeSet::from([last]), TestDownScripts::No)?;
    Ok(run.schemas.get(&last).map(|schema| Arc::clone(&**schema)))
}

fn unread() -> Error {
    Error::new(ErrorKind::Internal, "the schema was not read")
}

/// Why a migration that was not written fails, with its line: there is no file to look at.
fn described(error: &Error, migrations: &[NewMigration]) -> String {
    let cause = std::error::Error::source(error).map_or_else(|| error.summary(), ToString::to_string);
    let file = error.file().map(|file| file.display().to_string()).unwrap_or_default();
    let line = error.line().and_then(|line| usize::try_from(line).ok()).unwrap_or_default();
    let failed = migrations.iter().find(|it| file.ends_with(&format!("_{}/up.sql", it.name)));
    let text = failed.and_then(|it| it.up.lines().nth(line.checked_sub(1)?));
    text.map_or_else(|| cause.clone(), |text| format!("{cause}: {text}"))
}

/// The names of the sequences that columns have.
fn sequences(definitions: &Definitions) -> BTreeSet<String> {
    let named = |sql: &'_ String| {
        let rest = ["CREATE SEQUENCE ", "SEQUENCE NAME "].iter().find_map(|words| sql.split_once(words));
        rest.and_then(|(_, rest)| rest.split_whitespace().next())
            .map(|name| name.trim_matches('"').to_string())
    };
    definitions.statements.iter().filter_map(named).collect()
}

fn refuse(alteration: &Alteration) -> Result<()> {
    if alteration.refused.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("it cannot be expressed: {}", alteration.refused.join("; ")))
        .with_hint("change the wanted schema, or write this part by hand: tenantry migration new NAME"))
}

/// Puts statements before all others of the main script.
fn put_first(alteration: &mut Alteration, statements: &[String]) {
    if statements.is_empty() {
        return;
    }
    let at = alteration.parts.iter().take_while(|part| part.purpose < Purpose::Main).count();
    let main = alteration.parts.get_mut(at).filter(|part| part.purpose == Purpose::Main);
    if let Some(part) = main {
        part.statements.splice(0..0, statements.iter().cloned());
    } else {
        let part = Part { purpose: Purpose::Main, statements: statements.to_vec() };
        alteration.parts.insert(at, part);
    }
}

fn put_last(alteration: &mut Alteration, sql: String) {
    alteration.parts.push(Part { purpose: Purpose::Main, statements: vec![sql] });
}

/// The scripts with the names of their migrations.
fn named<'a>(name: &str, parts: &'a [Part]) -> Vec<(String, &'a Part)> {
    let mut indexes = 0;
    let suffixed = parts.iter().map(|part| {
        let suffix = match part.purpose {
            Purpose::Main => String::new(),
            Purpose::EnumValues => "_values".into(),
            Purpose::Validate => "_validate".into(),
            Purpose::Index => {
                indexes += 1;
                if indexes == 1 { "_index".into() } else { format!("_index_{indexes}") }
            }
        };
        (if parts.len() == 1 { name.to_string() } else { format!("{name}{suffix}") }, part)
    });
    suffixed.collect()
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn migration(
    name: &str,
    statements: &[String],
    down: Option<String>,
    transaction: Transaction,
) -> NewMigration {
    let up = script_text(&format!("{}, generated by tenantry.", words(name)), statements);
    NewMigration { transaction, ..NewMigration::new(name, up, down) }
}
