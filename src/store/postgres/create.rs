//! Schemas made and removed.
//!
//! It must not show a half-made project: a schema is made, filled and recorded in one transaction; or it was made before,
//! as a spare, and gets its name.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::Placed;
use super::copy::ALONE;
use super::session::{Kind, PostgresSession};
use super::{Isolation, OWN, PostgresStore};
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::schema::hexadecimal;
use crate::sql::{quote_name, quote_text};
use crate::store::{Session, Spares, Template};

/// How many spares are looked at before a project is made the long way.
const CANDIDATES: usize = 16;

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Makes a project: from a spare where there is one, by its migrations otherwise.
pub(super) fn create(store: &PostgresStore, id: &ProjectId, template: Template<'_>) -> Result<()> {
    let mut session = store.session(id)?;
    session.begin(ALONE)?;
    if store.options.spares > 0 && session.place.is_none() && session.claim(template)? {
        return session.commit();
    }
    session.make(template)
}

/// A private schema that nobody else ever sees: the transaction in which it is made is never committed.
pub(super) fn scratch(store: &PostgresStore) -> Result<PostgresSession<'_>> {
    let name = format!("{OWN}scratch_{}", uuid::Uuid::now_v7().simple());
    let mut session = PostgresSession::new(store, store.links.get()?, name);
    session.begin(ALONE)?;
    session.make_within()?;
    Ok(session)
}

/// What the names of a template's spares begin with.
fn prefix(template: Template<'_>) -> String {
    format!("{OWN}spare_{}_", &hexadecimal(&template.catalog)[..12])
}

/// Makes spares until there are as many as wanted, and removes those of another catalog and those that
/// somebody changed.
pub(super) fn top_up(store: &PostgresStore, template: Template<'_>) -> Result<Spares> {
    let mut spares = Spares::default();
    let mut ready = 0;
    for name in names(store, &format!("{OWN}spare_"), usize::MAX)? {
        let is_current = name.starts_with(&prefix(template));
        let mut session = PostgresSession::new(store, store.links.get()?, name);
        session.begin(ALONE)?;
        // One that is gone became a project meanwhile, or another run was quicker.
        if session.place.is_none() {
            continue;
        }
        if is_current && session.is_untouched()? {
            ready += 1;
        } else {
            session.remove()?;
            spares.removed += 1;
        }
    }
    for _ in ready..store.options.spares {
        let name = format!("{}{}", prefix(template), uuid::Uuid::now_v7().simple());
        let mut session = PostgresSession::new(store, store.links.get()?, name);
        session.begin(ALONE)?;
        session.make(template)?;
        spares.made += 1;
    }
    spares.ready = names(store, &prefix(template), usize::MAX)?.len();
    Ok(spares)
}

fn names(store: &PostgresStore, prefix: &str, limit: usize) -> Result<Vec<String>> {
    names_on(&mut store.links.get()?.link()?.connection, prefix, limit)
        .map_err(|error| super::failure::describe("cannot list the spares", store.target(), &error))
}

fn names_on(connection: &mut PgConnection, prefix: &str, limit: usize) -> QueryResult<Vec<String>> {
    let sql = format!(
        "SELECT nspname::text AS name FROM pg_namespace WHERE starts_with(nspname::text, {}) ORDER BY nspname LIMIT {}",
        quote_text(prefix),
        limit.min(1_000_000)
    );
    let names: Vec<Name> = diesel::sql_query(sql).load(connection)?;
    Ok(names.into_iter().map(|it| it.name).collect())
}

impl PostgresSession<'_> {
    /// Makes the schema in the transaction that was begun, and goes on within it.
    pub(super) fn make_within(&mut self) -> Result<()> {
        if self.place.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists already")
                .hint("it was left as it is; see where it stands: tenantry status ID"));
        }
        self.batch("cannot make its schema", &format!("CREATE SCHEMA {}", quote_name(&self.name)))?;
        self.look_for_it()?;
        self.kind = Kind::Within;
        Ok(())
    }

    /// Makes the schema, has it filled, and commits both together.
    fn make(&mut self, template: Template<'_>) -> Result<()> {
        self.make_within()?;
        self.wall_off()?;
        (template.fill)(self)?;
        self.kind = Kind::Existing;
        self.commit()
    }

    /// Gives a spare this project's name; says whether there was one. A spare that somebody changed is passed over.
    fn claim(&mut self, template: Template<'_>) -> Result<bool> {
        let found = names_on(&mut self.kept.link()?.connection, &prefix(template), CANDIDATES);
        let candidates = found.map_err(|error| self.failed("cannot look for a spare", &error))?;
        let name = self.name.clone();
        for spare in candidates {
            if !self.reader()?.try_lock(&spare, false)? {
                continue;
            }
            self.name.clone_from(&spare);
            self.look_for_it()?;
            if self.place.is_some() && self.is_untouched()? {
                let (from, to) = (quote_name(&spare), quote_name(&name));
                let run = quote_text(template.run);
                self.batch(
                    "cannot claim a spare",
                    &format!(
                        "ALTER SCHEMA {from} RENAME TO {to}; UPDATE {to}.__diesel_schema_migrations SET run_on = now(); \
                         UPDATE {to}.tenantry_history SET run = {run}, started_at = now()"
                    ),
                )?;
                self.name = name;
                // By its new name it may have a role already.
                if self.store.options.isolation == Isolation::Role {
                    self.look_for_it()?;
                }
                return self.wall_off_claimed().map(|()| true);
            }
        }
        self.name = name;
        self.place = None;
        Ok(false)
    }

    /// Whether the schema is still what its ledger says.
    fn is_untouched(&mut self) -> Result<bool> {
        let oid = self.place()?.oid;
        let (_, known) = self.read_ledger()?;
        let state = self.reader()?.state(oid)?;
        Ok(known.is_some_and(|known| known.state == state))
    }

    /// What a role is granted changes the catalogs' state, and the ledger is to have it as it is then.
    fn wall_off_claimed(&mut self) -> Result<()> {
        let before = self.place()?.role_is_ours;
        self.wall_off()?;
        if before == self.place()?.role_is_ours { Ok(()) } else { self.remember_state() }
    }

    /// Has the ledger remember the catalogs' state as it is now: the schema's meaning has not changed since it was written.
    pub(super) fn remember_state(&mut self) -> Result<()> {
        let Placed { oid, history, .. } = self.place()?;
        if !history {
            return Ok(());
        }
        let state = self.reader()?.state(oid)?;
        let name = quote_name(&self.name);
        self.batch(
            "cannot write its ledger",
            &format!(
                "UPDATE {name}.tenantry_history SET schema_state = {} WHERE sequence = (SELECT max(sequence) FROM {name}.tenantry_history)",
                quote_text(&state)
            ),
        )
    }

    /// Deletes the schema, and its role.
    pub(super) fn remove(&mut self) -> Result<()> {
        self.place()?;
        self.tear_down()?;
        self.batch("cannot delete its schema", &format!("DROP SCHEMA {} CASCADE", quote_name(&self.name)))?;
        self.commit()
    }
}
