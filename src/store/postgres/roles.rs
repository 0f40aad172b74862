//! A role for each project, which reaches that project's schema and nothing else.
//!
//! It must not give a role a password, or take one: whoever lets applications in decides how they prove who they are.

use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::catalog::{Exists, LedgerTables, OUR_ROLE};
use super::session::PostgresSession;
use super::{Isolation, OWN};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::bookkeeping::{DIESEL, HISTORY};
use crate::sql::{quote_name, quote_text};

#[derive(QueryableByName)]
struct IsPublic {
    #[diesel(sql_type = Bool)]
    open: bool,
}

impl PostgresSession<'_> {
    /// Gives the project its role where it should have one and has none: a login that uses its schema, may write its rows
    /// and read its ledger. What is made in the schema later is the role's to use as well. Says whether it did.
    pub(super) fn ensure_role(&mut self) -> Result<bool> {
        let is_wanted = self.store.options.isolation == Isolation::Role && !self.name.starts_with(OWN);
        if self.place.is_none() || !is_wanted {
            return Ok(false);
        }
        match self.role_is_ours()? {
            Some(true) => return Ok(false),
            Some(false) => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("there is a role {} that tenantry did not make", self.name),
                )
                .with_hint("rename that role, or name the fleet's schemas by another pattern"));
            }
            None => {}
        }
        self.revoke_public()?;
        let name = quote_name(&self.name);
        let sql = format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT; COMMENT ON ROLE {name} IS '{OUR_ROLE}'; \
             DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', {text}, current_database(), {text}); END $$",
            text = quote_text(&self.name),
        );
        self.batch("cannot give it a role of its own", &sql)?;
        self.grant_again()?;
        Ok(true)
    }

    /// Whether the role of the schema's name, where there is one, was made by tenantry.
    fn role_is_ours(&mut self) -> Result<Option<bool>> {
        let sql = format!(
            "SELECT coalesce(shobj_description(oid, 'pg_authid') = '{OUR_ROLE}', false) AS exists FROM pg_roles WHERE rolname = {}",
            quote_text(&self.name)
        );
        let role = diesel::sql_query(sql).get_result(&mut self.pooled.link()?.connection).optional();
        let role: Option<Exists> = role.map_err(|error| self.failed("cannot look for its role", &error))?;
        Ok(role.map(|role| role.exists))
    }

    /// Lets the project's role use the schema as it is now, where there is such a role.
    pub(super) fn grant_again(&mut self) -> Result<()> {
        let place = self.place()?;
        if self.store.options.isolation == Isolation::None || self.role_is_ours()? != Some(true) {
            return Ok(());
        }
        let name = quote_name(&self.name);
        let mut sql = format!(
            "GRANT USAGE ON SCHEMA {name} TO {name}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {name} TO {name}; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA {name} TO {name}; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {name}; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT ALL ON SEQUENCES TO {name}; "
        );
        for (there, table) in [(place.diesel, DIESEL), (place.history, HISTORY)] {
            if there {
                sql.push_str(&protect_ledger(&self.name, table));
            }
        }
        self.batch("cannot let its role use it", &sql)?;
        self.read = None;
        Ok(())
    }

    /// Nobody makes anything in the schema that all share. Looked at first: to change it, projects would have to queue.
    fn revoke_public(&mut self) -> Result<()> {
        let sql = "SELECT coalesce(has_schema_privilege('public', to_regnamespace('public'), 'CREATE'), false) AS open";
        let found = diesel::sql_query(sql).get_result(&mut self.pooled.link()?.connection);
        let IsPublic { open } =
            found.map_err(|error| self.failed("cannot look at the schema public", &error))?;
        if !open {
            return Ok(());
        }
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('tenantry public', 0)); \
                    REVOKE CREATE ON SCHEMA public FROM PUBLIC";
        self.batch("cannot close the schema public", lock)
    }

    /// Takes the project's role away, with all that it was granted here.
    pub(super) fn drop_role(&mut self) -> Result<()> {
        if self.role_is_ours()? != Some(true) {
            return Ok(());
        }
        let name = quote_name(&self.name);
        self.batch("cannot take its role away", &format!("DROP OWNED BY {name}; DROP ROLE {name}"))
    }

    /// The statements that keep books, made a moment ago, from their project's role, where it has one.
    pub(super) fn protect_new_ledger(&mut self, place: LedgerTables) -> Result<String> {
        let new = [(place.diesel, DIESEL), (place.history, HISTORY)].into_iter().filter(|(there, _)| !there);
        let new: Vec<_> = new.map(|(_, table)| protect_ledger(&self.name, table)).collect();
        let is_walled = self.store.options.isolation == Isolation::Role
            && !new.is_empty()
            && self.role_is_ours()? == Some(true);
        Ok(if is_walled { new.concat() } else { String::new() })
    }
}

/// A role reads its project's books, and doesn't write them.
fn protect_ledger(schema: &str, table: &str) -> String {
    let name = quote_name(schema);
    format!("REVOKE ALL ON {name}.{table} FROM {name}; GRANT SELECT ON {name}.{table} TO {name}; ")
}
