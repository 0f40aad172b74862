//! Schemas made and removed.
//!
//! It must not show a half-made project: a schema is made, filled and recorded in one transaction; or it was made before,
//! as a spare, and gets its name.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::{Read, lock_key};
use super::leftovers::{Claim, PrivateName};
use super::session::{Kind, PostgresSession};
use super::snapshot::{ALONE, Scratch};
use super::{OWN, PostgresStore};
use crate::catalog::Catalog;
use crate::error::{ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::project::ProjectId;
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
    if store.options.spares == 0 || !template.is_reusable {
        session.begin(ALONE)?;
        return session.make(template);
    }
    session.begin_transaction()?;
    let claimed = session.claim(template);
    match &claimed {
        Ok(true) => return session.commit(),
        Err(error) if error.kind() == ErrorKind::Disconnected => return claimed.map(|_| ()),
        _ => session.rollback()?,
    }
    session.begin(ALONE)?;
    // A name that is taken can't be given to a spare, and there is a better error for that.
    if session.place.is_none() {
        claimed?;
    }
    session.make(template)
}

/// Lets `work` have a private schema that nobody else ever sees: the transaction in which it is made is never committed.
/// Where something has to be committed, it is in a database of its own, which is gone afterwards.
pub(super) fn scratch(
    store: &PostgresStore,
    catalog: &Catalog,
    work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
) -> Result<()> {
    let name = format!("{OWN}scratch_{}", uuid::Uuid::now_v7().simple());
    let mut session = PostgresSession::new(store, store.connections.get()?, name.clone());
    if !catalog.adds_enum_values() || session.uses_new_values()? {
        session.begin(ALONE)?;
        session.make_within()?;
        match work(&mut session) {
            // What is committed bit by bit takes fewer locks.
            Err(error) if error.kind() == ErrorKind::LocksExhausted => session.end_transaction("ROLLBACK")?,
            worked => return worked,
        }
    }
    drop(session);
    let scratch = Scratch::new(store)?;
    let own = scratch.store();
    let mut session = PostgresSession::new(&own, own.connections.get()?, name);
    session.make_empty()?;
    work(&mut session)
}

/// What the names of a template's spares begin with.
fn prefix(template: Template<'_>) -> String {
    format!("{OWN}spare_{}_", &hexadecimal(&template.catalog)[..12])
}

/// Makes spares until there are as many as wanted, and removes those of another catalog and those that
/// somebody changed.
pub(super) fn top_up_spares(store: &PostgresStore, template: Template<'_>) -> Result<Spares> {
    let mut spares = Spares::default();
    let mut ready = 0;
    for name in names(store, &format!("{OWN}spare_"))? {
        let is_current = template.is_reusable && name.starts_with(&prefix(template));
        let mut session = PostgresSession::new(store, store.connections.get()?, name);
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
    // What each project has to make up for itself can't be made beforehand.
    let wanted = if template.is_reusable { store.options.spares } else { 0 };
    for _ in ready..wanted {
        let name = format!("{}{}", prefix(template), uuid::Uuid::now_v7().simple());
        let mut session = PostgresSession::new(store, store.connections.get()?, name);
        session.begin(ALONE)?;
        session.make(template)?;
        // What has its name in a function's body can't get another one: such a set's projects are made one by one.
        session.begin(ALONE)?;
        if session.names_itself()? {
            session.remove()?;
            break;
        }
        session.rollback()?;
        spares.made += 1;
    }
    spares.ready = names(store, &prefix(template))?.len();
    Ok(spares)
}

fn names(store: &PostgresStore, prefix: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT nspname::text AS name FROM pg_namespace WHERE starts_with(nspname::text, {}) ORDER BY nspname",
        quote_text(prefix)
    );
    let names = diesel::sql_query(sql).load(&mut store.connections.get()?.link()?.connection);
    let names: Vec<Name> =
        names.map_err(|error| super::failure::describe("cannot list the spares", store.target(), &error))?;
    Ok(names.into_iter().map(|it| it.name).collect())
}

impl PostgresSession<'_> {
    /// Makes the schema in the transaction that was begun, and goes on within it.
    pub(super) fn make_within(&mut self) -> Result<()> {
        self.require_absent()?;
        self.batch("cannot make its schema", &format!("CREATE SCHEMA {}", quote_name(&self.name)))?;
        self.look_for_it()?;
        self.kind = Kind::Within;
        // Nothing is in it yet.
        self.read = Some(Read::empty());
        Ok(())
    }

    /// Whether the server lets a value be used in the transaction that adds it to an enum.
    fn uses_new_values(&mut self) -> Result<bool> {
        Ok(self.pooled.link()?.server.version >= 170_000)
    }

    /// Makes the schema, and commits that.
    fn make_empty(&mut self) -> Result<()> {
        self.begin(ALONE)?;
        self.batch("cannot make its schema", &format!("CREATE SCHEMA {}", quote_name(&self.name)))?;
        self.commit()
    }

    /// Makes the schema in several transactions, under a name that is no project's, and gives it its own name in the last.
    fn make_in_steps(&mut self, template: Template<'_>, at_most: usize) -> Result<()> {
        self.require_absent()?;
        self.rollback()?;
        let claim = Claim::new(self.store, PrivateName::Filled)?;
        let name = claim.name.clone();
        let mut building = PostgresSession::new(self.store, self.store.connections.get()?, name.clone());
        let made =
            building.make_empty().and_then(|()| (template.fill)(&mut building, at_most)).and_then(|()| {
                self.begin(ALONE)?;
                self.require_absent()?;
                self.take_over(&name, template)?;
                self.look_for_it()?;
                self.require_own_names(&name)?;
                self.ensure_role()?;
                self.remember_state()?;
                self.commit()
            });
        if made.is_err() {
            self.rollback()?;
            let removed = building.begin(ALONE).and_then(|()| building.remove());
            // What can't be removed now is found by `doctor`; the error that counts is the other one.
            drop(removed);
        }
        made
    }

    fn require_absent(&self) -> Result<()> {
        if self.place.is_some() { Err(crate::disk::exists()) } else { Ok(()) }
    }

    /// Makes the schema, has it filled, and commits both together.
    fn make(&mut self, template: Template<'_>) -> Result<()> {
        if template.adds_enum_values && !self.uses_new_values()? {
            return self.make_in_steps(template, usize::MAX);
        }
        self.make_within()?;
        self.ensure_role()?;
        let filled = (template.fill)(self, usize::MAX);
        self.kind = Kind::Existing;
        match filled {
            // One migration at a time takes fewer locks.
            Err(error) if error.kind() == ErrorKind::LocksExhausted => {
                self.rollback()?;
                self.begin(ALONE)?;
                self.make_in_steps(template, 1)
            }
            filled => filled.and_then(|()| self.commit()),
        }
    }

    /// Gives a spare this project's name; says whether there was one. A spare that somebody changed is passed over.
    fn claim(&mut self, template: Template<'_>) -> Result<bool> {
        let name = self.name.clone();
        let mut seen = Vec::new();
        while let Some(spare) = self.lock_spare(&prefix(template), &seen)? {
            self.name.clone_from(&spare);
            self.look_for_it()?;
            let is_good = self.place.is_some() && self.is_untouched()?;
            self.name.clone_from(&name);
            if is_good {
                let changed = self.take_over(&spare, template)?;
                return self.create_role_for_spare(changed).map(|()| true);
            }
            seen.push(spare);
        }
        Ok(false)
    }

    /// Of two who give a spare the same name at once the server lets one. Says whether anything in it had to be changed.
    fn take_over(&mut self, spare: &str, template: Template<'_>) -> Result<bool> {
        const WHAT: &str = "cannot claim a spare";
        let (name, run) = (self.name.clone(), quote_text(template.run));
        let changed = self.rename_schema(WHAT, spare, &name)?;
        let to = quote_name(&name);
        self.batch(
            WHAT,
            &format!(
                "UPDATE {to}.__diesel_schema_migrations SET run_on = now(); \
                 UPDATE {to}.tenantry_history SET run = {run}, started_at = now()"
            ),
        )?;
        Ok(changed)
    }

    /// Locks a spare that nobody else has, and is none of those seen; it may be gone by now.
    fn lock_spare(&mut self, prefix: &str, seen: &[String]) -> Result<Option<String>> {
        let seen: Vec<_> = seen.iter().map(|name| quote_text(name)).collect();
        let sql = format!(
            "SELECT name FROM (SELECT nspname::text AS name FROM pg_namespace WHERE starts_with(nspname::text, {}) \
             AND nspname <> ALL (ARRAY[{}]::name[]) ORDER BY nspname LIMIT {}) spares \
             WHERE pg_try_advisory_xact_lock({}) LIMIT 1",
            quote_text(prefix),
            seen.join(", "),
            CANDIDATES.saturating_sub(seen.len()),
            lock_key("name")
        );
        let spare = diesel::sql_query(sql).get_result(&mut self.pooled.link()?.connection).optional();
        let spare: Option<Name> = spare.map_err(|error| self.failed("cannot look for a spare", &error))?;
        Ok(spare.map(|it| it.name))
    }

    /// Whether the schema is still what its ledger says.
    fn is_untouched(&mut self) -> Result<bool> {
        let name = self.name.clone();
        if self.place()?.history { self.reader()?.is_as_recorded(&name) } else { Ok(false) }
    }

    /// What a role is granted changes the catalogs' state, and the ledger is to have it as it is then.
    fn create_role_for_spare(&mut self, changed: bool) -> Result<()> {
        if self.ensure_role()? || changed { self.remember_state() } else { Ok(()) }
    }

    /// Has the ledger remember the catalogs' state as it is now: the schema's meaning has not changed since it was written.
    pub(super) fn remember_state(&mut self) -> Result<()> {
        if !self.place()?.history {
            return Ok(());
        }
        let name = self.name.clone();
        let state = self.reader()?.state(&name)?;
        let name = quote_name(&name);
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
        self.drop_role()?;
        self.batch("cannot delete its schema", &format!("DROP SCHEMA {} CASCADE", quote_name(&self.name)))?;
        self.commit()
    }
}
