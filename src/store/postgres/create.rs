//! Creates and deletes schemas.
//!
//! A project is never visible before it is complete. Its schema is created, filled and recorded in one transaction, or
//! it is prepared under a private name, for example as a spare, and then renamed.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::{SchemaWithState, lock_key};
use super::leftovers::{Claim, PrivateName};
use super::session::{PostgresSession, TransactionOwner};
use super::snapshot::{DEFAULT_MODE, Scratch};
use super::{OWN, PostgresStore, sql_text};
use crate::catalog::Catalog;
use crate::error::{ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::project::ProjectId;
use crate::schema::Fingerprint;
use crate::sql::{quote_name, quote_text};
use crate::store::{Session, Spares, Template};

/// How many spares are tried before a project is created from its migrations.
const CANDIDATES: usize = 16;

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Creates a project from a spare if there is one, otherwise from its migrations.
pub(super) fn create(store: &PostgresStore, id: &ProjectId, template: Template<'_>) -> Result<()> {
    let mut session = store.session(id)?;
    if store.options.spares == 0 || !template.is_reusable {
        session.begin(DEFAULT_MODE)?;
        return session.create_and_fill(template);
    }
    session.begin_transaction()?;
    let claimed = session.claim_spare(template);
    match &claimed {
        Ok(true) => return session.commit(),
        Err(error) if error.kind() == ErrorKind::Disconnected => return claimed.map(|_| ()),
        _ => session.rollback()?,
    }
    session.begin(DEFAULT_MODE)?;
    // If the name is taken, the error of `create_and_fill` is better than that of the rename.
    if session.schema_info.is_none() {
        claimed?;
    }
    session.create_and_fill(template)
}

/// Calls `work` with a private schema that no other session ever sees: the transaction that creates it is not
/// committed. If something must be committed, the schema is in a scratch database instead, which is dropped afterwards.
pub(super) fn scratch(
    store: &PostgresStore,
    catalog: &Catalog,
    work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
) -> Result<()> {
    let name = format!("{OWN}scratch_{}", uuid::Uuid::now_v7().simple());
    let mut session = PostgresSession::new(store, store.connections.get()?, name.clone());
    if !catalog.adds_enum_values() || session.uses_new_values()? {
        session.begin(DEFAULT_MODE)?;
        session.create_in_transaction()?;
        match work(&mut session) {
            // Committing in steps takes fewer locks.
            Err(error) if error.kind() == ErrorKind::LocksExhausted => session.end_transaction("ROLLBACK")?,
            result => return result,
        }
    }
    drop(session);
    let scratch = Scratch::new(store)?;
    let scratch_store = scratch.store();
    let mut session = PostgresSession::new(&scratch_store, scratch_store.connections.get()?, name);
    session.create_empty()?;
    work(&mut session)
}

/// Lets `fill` fill a schema in a scratch database, and returns the statements that create its objects: `pg_dump` sees only
/// what is committed.
pub(super) fn scratch_definitions(
    store: &PostgresStore,
    fill: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
) -> Result<Vec<String>> {
    let name = format!("{OWN}scratch_{}", uuid::Uuid::now_v7().simple());
    let scratch = Scratch::new(store)?;
    let scratch_store = scratch.store();
    let mut session = PostgresSession::new(&scratch_store, scratch_store.connections.get()?, name.clone());
    session.create_empty()?;
    fill(&mut session)?;
    drop(session);
    sql_text::definitions(&scratch_store, &name)
}

/// The prefix of the names of a template's spares.
fn spare_prefix(template: Template<'_>) -> String {
    format!("{OWN}spare_{}_", &hexadecimal(&template.catalog_hash)[..12])
}

/// Creates spares up to the configured number. Removes those of another catalog and those that were changed.
pub(super) fn top_up_spares(store: &PostgresStore, template: Template<'_>) -> Result<Spares> {
    let mut spares = Spares::default();
    let mut ready = 0;
    for name in schema_names(store, &format!("{OWN}spare_"))? {
        let is_current = template.is_reusable && name.starts_with(&spare_prefix(template));
        let mut session = PostgresSession::new(store, store.connections.get()?, name);
        session.begin(DEFAULT_MODE)?;
        // It became a project meanwhile, or another run removed it.
        if session.schema_info.is_none() {
            continue;
        }
        if is_current && session.is_untouched()? {
            ready += 1;
        } else {
            session.remove()?;
            spares.removed += 1;
        }
    }
    // Migrations that may give each project another result cannot run in advance.
    let wanted = if template.is_reusable { store.options.spares } else { 0 };
    for _ in ready..wanted {
        let name = format!("{}{}", spare_prefix(template), uuid::Uuid::now_v7().simple());
        let mut session = PostgresSession::new(store, store.connections.get()?, name);
        session.begin(DEFAULT_MODE)?;
        session.create_and_fill(template)?;
        // A schema whose name is in the body of a function cannot be renamed, so this migration set has no spares.
        session.begin(DEFAULT_MODE)?;
        if session.contains_own_name()? {
            session.remove()?;
            break;
        }
        session.rollback()?;
        spares.made += 1;
    }
    spares.ready = schema_names(store, &spare_prefix(template))?.len();
    Ok(spares)
}

fn schema_names(store: &PostgresStore, prefix: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT nspname::text AS name FROM pg_namespace WHERE starts_with(nspname::text, {}) ORDER BY nspname",
        quote_text(prefix)
    );
    let names = diesel::sql_query(sql).load(&mut store.connections.get()?.connection()?.connection);
    let names: Vec<Name> = names
        .map_err(|error| super::failure::convert_error("cannot list the spares", store.target(), &error))?;
    Ok(names.into_iter().map(|it| it.name).collect())
}

impl PostgresSession<'_> {
    /// Creates the schema in the current transaction. The session stays in this transaction until the caller ends it.
    pub(super) fn create_in_transaction(&mut self) -> Result<()> {
        self.require_absent()?;
        self.batch("cannot create its schema", &format!("CREATE SCHEMA {}", quote_name(&self.name)))?;
        self.find_schema()?;
        self.transaction_owner = TransactionOwner::Caller;
        self.current = Some(SchemaWithState::empty(&self.store.schemas));
        Ok(())
    }

    /// Whether the server allows the use of an enum value in the transaction that adds it.
    fn uses_new_values(&mut self) -> Result<bool> {
        Ok(self.pooled.connection()?.server.version >= 170_000)
    }

    /// Creates an empty schema and commits.
    fn create_empty(&mut self) -> Result<()> {
        self.begin(DEFAULT_MODE)?;
        self.batch("cannot create its schema", &format!("CREATE SCHEMA {}", quote_name(&self.name)))?;
        self.commit()
    }

    /// Creates and fills the schema in several transactions under a private name, and renames it in the last one.
    fn create_in_steps(&mut self, template: Template<'_>, at_most: usize) -> Result<()> {
        self.require_absent()?;
        self.rollback()?;
        let claim = Claim::new(self.store, PrivateName::Filled)?;
        let name = claim.name.clone();
        let mut building = PostgresSession::new(self.store, self.store.connections.get()?, name.clone());
        let result =
            building.create_empty().and_then(|()| (template.fill)(&mut building, at_most)).and_then(|()| {
                self.begin(DEFAULT_MODE)?;
                self.require_absent()?;
                self.rename_into_place(&name, template)?;
                self.find_schema()?;
                self.require_no_other_schemas(&name)?;
                self.ensure_role()?;
                self.record_state()?;
                self.commit()
            });
        if result.is_err() {
            self.rollback()?;
            let removed = building.begin(DEFAULT_MODE).and_then(|()| building.remove());
            // A schema that cannot be removed now is found by `doctor`. The original error is returned.
            drop(removed);
        }
        result
    }

    fn require_absent(&self) -> Result<()> {
        if self.schema_info.is_some() { Err(crate::disk::already_exists()) } else { Ok(()) }
    }

    /// Creates and fills the schema, and commits both together.
    fn create_and_fill(&mut self, template: Template<'_>) -> Result<()> {
        if template.adds_enum_values && !self.uses_new_values()? {
            return self.create_in_steps(template, usize::MAX);
        }
        self.create_in_transaction()?;
        self.ensure_role()?;
        let filled = (template.fill)(self, usize::MAX);
        self.transaction_owner = TransactionOwner::Session;
        match filled {
            // One migration at a time takes fewer locks.
            Err(error) if error.kind() == ErrorKind::LocksExhausted => {
                self.rollback()?;
                self.begin(DEFAULT_MODE)?;
                self.create_in_steps(template, 1)
            }
            filled => filled.and_then(|()| self.commit()),
        }
    }

    /// Renames a spare to this project's name. Returns `false` if there is none. Spares that were changed are skipped.
    fn claim_spare(&mut self, template: Template<'_>) -> Result<bool> {
        let name = self.name.clone();
        let mut tried = Vec::new();
        while let Some(spare) = self.lock_spare(&spare_prefix(template), &tried)? {
            self.name.clone_from(&spare);
            self.find_schema()?;
            let is_usable = self.schema_info.is_some() && self.is_untouched()?;
            self.name.clone_from(&name);
            if is_usable {
                let changed = self.rename_into_place(&spare, template)?;
                return self.create_role_for_spare(changed).map(|()| true);
            }
            tried.push(spare);
        }
        Ok(false)
    }

    /// Renames a schema to this project's name and updates the run and the times in its ledger. Returns whether objects
    /// in the schema had to be changed. If two sessions use the same name at once, the server lets only one succeed.
    fn rename_into_place(&mut self, spare: &str, template: Template<'_>) -> Result<bool> {
        const WHAT: &str = "cannot rename the new schema";
        let (name, run) = (self.name.clone(), quote_text(template.run_id));
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

    /// Locks a spare that no other session has locked and that was not tried. It may have been renamed in the meantime.
    fn lock_spare(&mut self, prefix: &str, tried: &[String]) -> Result<Option<String>> {
        let tried: Vec<_> = tried.iter().map(|name| quote_text(name)).collect();
        let sql = format!(
            "SELECT name FROM (SELECT nspname::text AS name FROM pg_namespace WHERE starts_with(nspname::text, {}) \
             AND nspname <> ALL (ARRAY[{}]::name[]) ORDER BY nspname LIMIT {}) spares \
             WHERE pg_try_advisory_xact_lock({}) LIMIT 1",
            quote_text(prefix),
            tried.join(", "),
            CANDIDATES.saturating_sub(tried.len()),
            lock_key("name")
        );
        let spare = diesel::sql_query(sql).get_result(&mut self.pooled.connection()?.connection).optional();
        let spare: Option<Name> = spare.map_err(|error| self.failed("cannot look for a spare", &error))?;
        Ok(spare.map(|it| it.name))
    }

    /// Whether the schema is still in the state that its ledger recorded.
    fn is_untouched(&mut self) -> Result<bool> {
        let name = self.name.clone();
        if self.require_schema()?.history { self.reader()?.is_as_recorded(&name) } else { Ok(false) }
    }

    /// Creates the project's role. Its privileges change the system catalogs' state, so the ledger is updated as well.
    fn create_role_for_spare(&mut self, changed: bool) -> Result<()> {
        if self.ensure_role()? || changed { self.record_state() } else { Ok(()) }
    }

    /// Records the current state of the system catalogs in the ledger. Call this only if the schema's meaning has not changed.
    fn record_state(&mut self) -> Result<()> {
        self.record_state_of(None)
    }

    /// The same after a restore, unless the schema differs from the recorded one: it did so when the backup was taken.
    pub(super) fn record_restored_state(&mut self) -> Result<()> {
        self.current = None;
        let fingerprint = self.schema()?.fingerprint();
        self.record_state_of(Some(fingerprint))
    }

    /// Records the state, if the recorded fingerprint is this one.
    fn record_state_of(&mut self, fingerprint: Option<Fingerprint>) -> Result<()> {
        if !self.require_schema()?.history {
            return Ok(());
        }
        let condition = fingerprint
            .map_or(String::new(), |it| format!(" AND schema_fingerprint = {}", quote_text(&it.to_string())));
        let name = self.name.clone();
        let state = self.reader()?.state(&name)?;
        let name = quote_name(&name);
        self.batch(
            "cannot write its ledger",
            &format!(
                "UPDATE {name}.tenantry_history SET schema_state = {} WHERE sequence = (SELECT max(sequence) FROM {name}.tenantry_history){condition}",
                quote_text(&state)
            ),
        )
    }

    /// Deletes the schema and its role, and commits.
    pub(super) fn remove(&mut self) -> Result<()> {
        self.require_schema()?;
        self.drop_role()?;
        self.batch("cannot delete its schema", &format!("DROP SCHEMA {} CASCADE", quote_name(&self.name)))?;
        self.commit()
    }
}
