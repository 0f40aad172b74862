//! A database role for each project, which has access to that project's schema only.
//!
//! Does not set or remove passwords: the administrator decides how applications authenticate.

use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::catalog::{OUR_ROLE, SchemaInfo};
use super::session::PostgresSession;
use super::{Isolation, OWN};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::bookkeeping::{DIESEL, HISTORY};
use crate::sql::{quote_name, quote_text};

/// The name of the group role whose members may read the shared schemas of this database, as an SQL expression.
const GROUP: &str =
    "('tenantry_shared_' || (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))";

#[derive(QueryableByName)]
struct IsPublic {
    #[diesel(sql_type = Bool)]
    open: bool,
}

#[derive(QueryableByName)]
struct RoleOwner {
    #[diesel(sql_type = Bool)]
    is_ours: bool,
}

impl PostgresSession<'_> {
    /// Creates the project's role if roles are enabled and it does not exist. The role can log in, use the schema, read
    /// and write its rows, and read its ledger. It gets the same privileges on objects created in the schema later.
    /// Returns whether the role was created. Fails with `AlreadyExists` if another role has its name.
    pub(super) fn ensure_role(&mut self) -> Result<bool> {
        let is_wanted = self.store.options.isolation == Isolation::Role && !self.name.starts_with(OWN);
        if self.schema_info.is_none() || !is_wanted {
            return Ok(false);
        }
        match self.role_is_ours()? {
            Some(true) => {
                self.ensure_shared_access()?;
                return Ok(false);
            }
            Some(false) => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("the role {} exists, and tenantry did not create it", self.name),
                )
                .with_hint("rename that role, or use another pattern for the fleet's schemas"));
            }
            None => {}
        }
        self.revoke_public()?;
        let name = quote_name(&self.name);
        let sql = format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT; COMMENT ON ROLE {name} IS '{OUR_ROLE}'"
        );
        self.batch("cannot create its role", &sql)?;
        let sql = self.role_path_sql();
        self.batch("cannot create its role", &sql)?;
        self.ensure_shared_access()?;
        self.grant_to_role()?;
        Ok(true)
    }

    /// The statement that sets the `search_path` with which the role's connections begin.
    fn role_path_sql(&self) -> String {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %s', {}, current_database(), {}); END $$",
            quote_text(&self.name),
            quote_text(&self.store.options.search_path(&self.name)),
        )
    }

    /// Lets the project's role read what is shared. The privileges belong to one group role for all projects of the
    /// database: thousands of entries in a table's privileges would slow down every query on it.
    fn ensure_shared_access(&mut self) -> Result<()> {
        const WHAT: &str = "cannot let its role read the shared schemas";
        let shared = &self.store.options.shared;
        if shared.is_empty() {
            return Ok(());
        }
        let list = shared.iter().map(|schema| quote_text(schema)).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT coalesce((SELECT pg_has_role({role}, g.oid, 'USAGE') AND {path} = ANY (SELECT unnest(setconfig) FROM pg_db_role_setting s \
             JOIN pg_roles r ON r.oid = s.setrole JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database() \
             WHERE r.rolname = {role}) \
             AND (SELECT bool_and(has_schema_privilege(g.oid, n.oid, 'USAGE')) FROM pg_namespace n WHERE n.nspname IN ({list})) \
             AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ({list}) \
             AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege(g.oid, c.oid, 'SELECT')) \
             FROM pg_roles g WHERE g.rolname = {group}), false) AS is_ours",
            role = quote_text(&self.name),
            path = quote_text(&format!("search_path={}", self.store.options.search_path(&self.name))),
            group = GROUP,
        );
        let found = diesel::sql_query(sql).get_result(&mut self.pooled.connection()?.connection);
        let RoleOwner { is_ours: has_access } = found.map_err(|error| self.failed(WHAT, &error))?;
        if has_access {
            return Ok(());
        }
        let quoted: Vec<String> = shared.iter().map(|schema| quote_name(schema)).collect();
        let quoted = quoted.join(", ");
        // From version 16 on, inheriting is a property of the membership.
        let sql = format!(
            "SELECT pg_advisory_xact_lock(hashtextextended('tenantry shared', 0)); \
             DO $$ DECLARE g name := {GROUP}; BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = g) THEN \
             EXECUTE format('CREATE ROLE %I NOLOGIN', g); END IF; \
             EXECUTE format('GRANT USAGE ON SCHEMA {quoted} TO %I', g); \
             EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA {quoted} TO %I', g); \
             IF current_setting('server_version_num')::int >= 160000 THEN EXECUTE format('GRANT %I TO %I WITH INHERIT TRUE', g, {role}); \
             ELSE EXECUTE format('ALTER ROLE %I INHERIT', {role}); EXECUTE format('GRANT %I TO %I', g, {role}); END IF; END $$",
            role = quote_text(&self.name),
        );
        self.batch(WHAT, &sql)?;
        let sql = self.role_path_sql();
        self.batch(WHAT, &sql)
    }

    /// Whether tenantry created the role with the schema's name; `None` if there is no such role.
    fn role_is_ours(&mut self) -> Result<Option<bool>> {
        let sql = format!(
            "SELECT coalesce(shobj_description(oid, 'pg_authid') = '{OUR_ROLE}', false) AS is_ours FROM pg_roles WHERE rolname = {}",
            quote_text(&self.name)
        );
        let role = diesel::sql_query(sql).get_result(&mut self.pooled.connection()?.connection).optional();
        let role: Option<RoleOwner> = role.map_err(|error| self.failed("cannot look up its role", &error))?;
        Ok(role.map(|role| role.is_ours))
    }

    /// Grants the project's role access to the schema as it is now, if there is such a role.
    pub(super) fn grant_to_role(&mut self) -> Result<()> {
        let info = self.require_schema()?;
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
        for (exists, table) in [(info.diesel, DIESEL), (info.history, HISTORY)] {
            if exists {
                sql.push_str(&protect_ledger(&self.name, table));
            }
        }
        self.batch("cannot grant its role access", &sql)?;
        self.current = None;
        Ok(())
    }

    /// Revokes the right of PUBLIC to create objects in the schema `public`. Checks first whether PUBLIC has it,
    /// because revoking takes a lock that projects wait for.
    fn revoke_public(&mut self) -> Result<()> {
        let sql = "SELECT coalesce(has_schema_privilege('public', to_regnamespace('public'), 'CREATE'), false) AS open";
        let found = diesel::sql_query(sql).get_result(&mut self.pooled.connection()?.connection);
        let IsPublic { open } =
            found.map_err(|error| self.failed("cannot check the privileges on the schema public", &error))?;
        if !open {
            return Ok(());
        }
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('tenantry public', 0)); \
                    REVOKE CREATE ON SCHEMA public FROM PUBLIC";
        self.batch("cannot revoke CREATE on the schema public", lock)
    }

    /// Drops the project's role, with its privileges in this database.
    pub(super) fn drop_role(&mut self) -> Result<()> {
        if self.role_is_ours()? != Some(true) {
            return Ok(());
        }
        let name = quote_name(&self.name);
        self.batch("cannot drop its role", &format!("DROP OWNED BY {name}; DROP ROLE {name}"))
    }

    /// Returns the statements that protect new ledger tables from writes by the project's role, if it has one. `info`
    /// says which of the tables existed before.
    pub(super) fn protect_new_ledger(&mut self, info: SchemaInfo) -> Result<String> {
        let new =
            [(info.diesel, DIESEL), (info.history, HISTORY)].into_iter().filter(|(existed, _)| !existed);
        let new: Vec<_> = new.map(|(_, table)| protect_ledger(&self.name, table)).collect();
        let needs_protection = self.store.options.isolation == Isolation::Role
            && !new.is_empty()
            && self.role_is_ours()? == Some(true);
        Ok(if needs_protection { new.concat() } else { String::new() })
    }
}

/// Returns the statements that let a project's role read a ledger table but not write it.
fn protect_ledger(schema: &str, table: &str) -> String {
    let name = quote_name(schema);
    format!("REVOKE ALL ON {name}.{table} FROM {name}; GRANT SELECT ON {name}.{table} TO {name}; ")
}
