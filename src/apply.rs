//! A request carried out on one project: lock, look again, plan again, run, prove, commit.
//!
//! It must not know which database it is on, and must not commit what it has not proven.

use std::time::Instant;

use crate::catalog::{Catalog, Migration};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Entry};
use crate::plan::{self, Inspection, Plan, Problem, Reference, Request};
use crate::schema::{Difference, Schema};
use crate::store::{Census, Direction, ForeignKeys, Lock, Mode, Session};

/// What a project is brought to, and in which run.
pub(crate) struct Work<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) reference: &'a Reference,
    pub(crate) request: Request,
    pub(crate) run: &'a str,
}

/// What was done: the plan as it stood under the lock, or the problems found there.
pub(crate) type Done = Result<Plan, Vec<Problem>>;

impl Work<'_> {
    /// What a project needs, by what was read of it.
    pub(crate) fn plan(&self, inspection: &Inspection) -> Done {
        plan::plan(self.catalog, self.reference, inspection, self.request)
    }

    /// Does it. `mode` is what the plan made without the lock asks for: only a guess, since under the lock everything
    /// is read and planned again.
    pub(crate) fn perform(&self, session: &mut dyn Session, mut mode: Mode) -> Result<Done> {
        let mut whole: Option<Plan> = None;
        loop {
            session.begin(mode)?;
            let inspection = session.inspect()?;
            let plan = match self.plan(&inspection) {
                Ok(plan) => plan,
                Err(problems) => {
                    session.rollback()?;
                    return Ok(Err(problems));
                }
            };
            let needed = self.mode(&plan);
            if needed != mode {
                session.rollback()?;
                mode = needed;
                continue;
            }
            if plan.is_empty() {
                session.rollback()?;
                return Ok(Ok(whole.unwrap_or(plan)));
            }
            let segment = self.first_segment(&plan);
            self.run_segment(session, &inspection, &segment, mode)?;
            let is_last = segment.to == plan.to;
            let whole = whole.get_or_insert(plan);
            if is_last {
                return Ok(Ok(whole.clone()));
            }
        }
    }

    /// Foreign keys are enforced unless a table is dropped: its rows would take their children with them.
    pub(crate) fn mode(&self, plan: &Plan) -> Mode {
        let foreign_keys =
            if plan.drops_table(self.catalog) { ForeignKeys::Compared } else { ForeignKeys::Enforced };
        let lock = if plan.is_transactional(self.catalog) { Lock::Transaction } else { Lock::Session };
        Mode { foreign_keys, lock }
    }

    /// The part of a plan that is committed next: all migrations up to the first that cannot run in a transaction, or
    /// that one alone.
    fn first_segment(&self, plan: &Plan) -> Plan {
        let migrations = plan.migrations(self.catalog);
        let together = migrations.iter().take_while(|migration| migration.is_transactional()).count();
        let count = match (together, &plan.stamp) {
            (0, Some(_)) => 0,
            (0, None) => 1.min(migrations.len()),
            (count, _) => count,
        };
        let to = if plan.from <= plan.to { plan.from + count } else { plan.from - count };
        Plan { to, ..plan.clone() }
    }

    fn run_segment(
        &self,
        session: &mut dyn Session,
        found: &Inspection,
        segment: &Plan,
        mode: Mode,
    ) -> Result<()> {
        let migrations = segment.migrations(self.catalog);
        let direction = if segment.from <= segment.to { Direction::Up } else { Direction::Down };
        let mut entries = match segment.stamp {
            Some(stamp) => found.ledger.entries_for_stamp(self.catalog, stamp.position, stamp.forced),
            None => Vec::new(),
        };
        if let [alone] = migrations.as_slice()
            && !alone.is_transactional()
        {
            return self.run_outside(session, alone, direction, segment, mode);
        }
        let counts = segment.may_delete(self.catalog, &found.schema);
        let before = if counts { Some(session.census()?) } else { None };
        for migration in &migrations {
            entries.push(run_one(session, migration, direction)?);
        }
        if let Some(before) = before {
            prove_rows(&before, &session.census()?, &migrations)?;
        }
        if !migrations.is_empty() {
            self.prove_schema(&*session.schema()?, segment)?;
        }
        session.record(&entries, self.run)?;
        session.commit()
    }

    /// A migration without a transaction: its start is durable before it begins, and only its end makes the project
    /// clean again.
    fn run_outside(
        &self,
        session: &mut dyn Session,
        migration: &Migration,
        direction: Direction,
        segment: &Plan,
        mode: Mode,
    ) -> Result<()> {
        session.record(&[Entry::new(migration, Action::Start)], self.run)?;
        session.commit()?;
        let entry = run_one(session, migration, direction).map_err(|error| {
            error.hint(
                "it ran outside a transaction, so a part of it may be done: look, then say where the project stands \
                 with tenantry stamp ID --to VERSION --force",
            )
        })?;
        session.begin(mode)?;
        self.prove_schema(&*session.schema()?, segment)?;
        session.record(&[entry], self.run)?;
        session.commit()
    }

    /// The schema is the catalog's, or differs from it just as it did before.
    fn prove_schema(&self, schema: &Schema, segment: &Plan) -> Result<()> {
        let differences = self.reference.differences(schema, segment.to);
        if differences == segment.drift || self.reference.expected(segment.to).is_none() {
            return Ok(());
        }
        let found: Vec<_> =
            differences.iter().filter(|it| !segment.drift.contains(it)).map(Difference::to_string).collect();
        let gone: Vec<_> =
            segment.drift.iter().filter(|it| !differences.contains(it)).map(Difference::to_string).collect();
        let what =
            if found.is_empty() { format!("no longer: {}", gone.join("; ")) } else { found.join("; ") };
        let version = self.catalog.version_at(segment.to);
        Err(Error::new(ErrorKind::SchemaMismatch, format!("the schema that came out is not that of {version}: {what}"))
            .hint("a migration whose schema depends on the data says schema_depends_on_data = true in its metadata.toml"))
    }
}

/// Runs a catalog's migrations on a private empty database, and keeps the schema after each.
pub(crate) fn build_reference(session: &mut dyn Session, catalog: &Catalog) -> Result<Reference> {
    let mode = Mode { foreign_keys: ForeignKeys::Compared, lock: Lock::Transaction };
    let mut schemas = vec![session.schema()?];
    for migration in catalog.migrations() {
        let run = |session: &mut dyn Session| {
            if !migration.is_transactional() {
                return session.execute(migration, Direction::Up);
            }
            session.begin(mode)?;
            session.execute(migration, Direction::Up)?;
            session.commit()
        };
        run(session).map_err(|error| broken(migration, &error))?;
        schemas.push(session.schema()?);
    }
    Ok(Reference::new(catalog, schemas))
}

fn broken(migration: &Migration, error: &Error) -> Error {
    let causes =
        std::error::Error::source(error).map_or_else(|| error.message().to_string(), ToString::to_string);
    Error::new(ErrorKind::Catalog, format!("it fails on an empty database: {causes}"))
        .in_migration(migration.label())
        .at(error.file().unwrap_or(migration.up.path()), error.line())
        .hint("mend the migration; no project was touched")
}

fn run_one(session: &mut dyn Session, migration: &Migration, direction: Direction) -> Result<Entry> {
    let action = match direction {
        Direction::Up => Action::Apply,
        Direction::Down => Action::Revert,
    };
    let (entry, started) = (Entry::new(migration, action), Instant::now());
    session.execute(migration, direction)?;
    Ok(Entry { duration: started.elapsed(), ..entry })
}

/// No new violation of a foreign key, and no table with fewer rows that no migration said it deletes from.
fn prove_rows(before: &Census, after: &Census, migrations: &[&Migration]) -> Result<()> {
    let label = migrations.iter().map(|migration| migration.label()).collect::<Vec<_>>().join(", ");
    for ((child, parent), count) in &after.violations {
        let known = before.violations.get(&(child.clone(), parent.clone())).copied().unwrap_or_default();
        if *count > known {
            let more = count - known;
            return Err(Error::new(
                ErrorKind::ForeignKeys,
                format!("{more} row(s) of {child} would point at nothing in {parent}"),
            )
            .in_migration(label)
            .hint("mend the rows in the migration, before the table they point at is rebuilt"));
        }
    }
    let declared = |table: &String| {
        let names = migrations.iter().flat_map(|migration| &migration.metadata.deletes_rows_from);
        names.into_iter().any(|name| name.eq_ignore_ascii_case(table))
    };
    for (table, count) in before.rows.iter().filter(|(table, _)| !declared(table)) {
        // A table that is gone was dropped by name, and the schema that is proven next does without it.
        let Some(left) = after.rows.get(table).filter(|left| *left < count) else { continue };
        return Err(Error::new(
            ErrorKind::RowsLost,
            format!("{table} would lose {} of its {count} row(s)", count - left),
        )
        .in_migration(label)
        .hint(format!("if that is meant, metadata.toml says deletes_rows_from = [{table:?}]")));
    }
    Ok(())
}
