//! Runs the statements of a text as a role without privileges, in a scratch database.
//!
//! A text may define functions and make them run, and parsing cannot show what they do. So the server confines it: each
//! statement is run by a `SECURITY DEFINER` function that belongs to a role without privileges. In such a function the
//! server refuses every way to become another role. The role is created in the transaction that loads the text, and
//! dropped at its end.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use crate::sql::{quote_name, quote_text};

/// Runs statements as the unprivileged role, or directly if that role could not be created.
pub(super) struct Guard(Option<UnprivilegedRole>);

/// The role without privileges.
struct UnprivilegedRole {
    role: String,
    /// The query that runs a statement. It calls the function only if the text did not change it.
    call: String,
}

#[derive(QueryableByName)]
struct YesOrNo {
    #[diesel(sql_type = Bool)]
    answer: bool,
}

#[derive(QueryableByName)]
struct TextValue {
    #[diesel(sql_type = Text)]
    value: String,
}

/// The function's body.
const BODY: &str = "BEGIN EXECUTE $1; END";

/// What the transaction changed in the system catalogs that all databases of the server share.
const SHARED_CHANGES: &str = "
SELECT format('the role %s', rolname) AS value FROM pg_catalog.pg_authid WHERE xmin OPERATOR(pg_catalog.=) {own}
UNION ALL SELECT 'the membership of a role' FROM pg_catalog.pg_auth_members WHERE xmin OPERATOR(pg_catalog.=) {own}
UNION ALL SELECT format('the database %s', datname) FROM pg_catalog.pg_database
    WHERE xmin OPERATOR(pg_catalog.=) {own} AND datname OPERATOR(pg_catalog.<>) pg_catalog.current_database()
UNION ALL SELECT 'the settings of a role' FROM pg_catalog.pg_db_role_setting WHERE xmin OPERATOR(pg_catalog.=) {own}
UNION ALL SELECT format('the tablespace %s', spcname) FROM pg_catalog.pg_tablespace WHERE xmin OPERATOR(pg_catalog.=) {own}
LIMIT 1";

impl Guard {
    /// Creates the role if the current one may create roles. If it may not, it has few privileges itself.
    pub(super) fn new(connection: &mut PgConnection) -> QueryResult<Self> {
        let may = "SELECT rolsuper OR rolcreaterole AS answer FROM pg_roles WHERE rolname = current_user";
        if !diesel::sql_query(may).get_result::<YesOrNo>(connection)?.answer {
            return Ok(Self(None));
        }
        let role = format!("tenantry_import_{}", uuid::Uuid::now_v7().simple());
        let name = quote_name(&role);
        let database = "SELECT format('%I', current_database()) AS value";
        let database = diesel::sql_query(database).get_result::<TextValue>(connection)?.value;
        connection.batch_execute(&format!(
            "CREATE ROLE {name} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; \
             GRANT {name} TO CURRENT_USER; GRANT CREATE ON DATABASE {database} TO {name}; GRANT ALL ON SCHEMA public TO {name}; \
             CREATE SCHEMA tenantry_import; GRANT ALL ON SCHEMA tenantry_import TO {name}; \
             CREATE FUNCTION tenantry_import.run(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS {body}; \
             REVOKE ALL ON FUNCTION tenantry_import.run(text) FROM PUBLIC; \
             ALTER FUNCTION tenantry_import.run(text) OWNER TO {name}; \
             REVOKE ALL ON SCHEMA tenantry_import FROM {name}; GRANT EXECUTE ON FUNCTION tenantry_import.run(text) TO CURRENT_USER",
            body = quote_text(BODY)
        ))?;
        // The text runs as the function's owner, so it may change the function. A changed function is not called.
        let call = "SELECT format('SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid \
             AND p.prosecdef AND p.proowner OPERATOR(pg_catalog.=) %s::pg_catalog.oid AND p.proconfig IS NULL \
             AND p.prosrc OPERATOR(pg_catalog.=) %L::pg_catalog.text) THEN tenantry_import.run($1) \
             ELSE tenantry_import.changed() END', p.oid, p.proowner, p.prosrc) AS value \
             FROM pg_proc p WHERE p.oid = 'tenantry_import.run(text)'::regprocedure";
        connection.batch_execute(
            "CREATE FUNCTION tenantry_import.changed() RETURNS void LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''it changes the function that runs its statements''; END'",
        )?;
        let call = diesel::sql_query(call).get_result::<TextValue>(connection)?.value;
        Ok(Self(Some(UnprivilegedRole { role, call })))
    }

    /// Runs a statement with none of this session's privileges.
    pub(super) fn run(&self, connection: &mut PgConnection, sql: &str) -> QueryResult<()> {
        match &self.0 {
            Some(UnprivilegedRole { call, .. }) => {
                diesel::sql_query(call).bind::<Text, _>(sql).execute(connection).map(drop)
            }
            None => diesel::sql_query(sql).execute(connection).map(drop),
        }
    }

    /// Lets the text read the shared schemas, and refer to their tables. They are copies in a scratch database.
    pub(super) fn grant_shared(&self, connection: &mut PgConnection, shared: &[String]) -> QueryResult<()> {
        let Some(UnprivilegedRole { role, .. }) = &self.0 else { return Ok(()) };
        for schema in shared {
            let (schema, role) = (quote_name(schema), quote_name(role));
            connection.batch_execute(&format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, REFERENCES ON ALL TABLES IN SCHEMA {schema} TO {role}"
            ))?;
        }
        Ok(())
    }

    /// Creates an extension with this session's privileges, and its schema if that does not exist. The role gets all
    /// privileges on a new schema, and none on an existing one such as the server's own.
    pub(super) fn create_extension(
        &self,
        connection: &mut PgConnection,
        sql: &str,
        schema: &str,
    ) -> QueryResult<()> {
        let is_new = "SELECT to_regnamespace($1) IS NULL AS answer";
        let is_new =
            diesel::sql_query(is_new).bind::<Text, _>(schema).get_result::<YesOrNo>(connection)?.answer;
        if is_new {
            diesel::sql_query(format!("CREATE SCHEMA {schema}")).execute(connection)?;
        }
        diesel::sql_query(sql).execute(connection)?;
        match &self.0 {
            Some(UnprivilegedRole { role, .. }) if is_new => {
                let name = quote_name(role);
                diesel::sql_query(format!("GRANT ALL ON SCHEMA {schema} TO {name}"))
                    .execute(connection)
                    .map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Takes over what the text created, and drops the role. Deferred triggers run before that, as the unprivileged
    /// role. Returns `false`, and keeps the role, if any trigger is still deferred.
    pub(super) fn end(self, connection: &mut PgConnection) -> QueryResult<bool> {
        self.run(connection, "SET CONSTRAINTS ALL IMMEDIATE")?;
        reset_search_path(connection)?;
        if !has_no_deferred_trigger(connection)? {
            return Ok(false);
        }
        if let Some(UnprivilegedRole { role, .. }) = &self.0 {
            let name = quote_name(role);
            connection.batch_execute(&format!(
                "DROP SCHEMA tenantry_import CASCADE; REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}"
            ))?;
        }
        Ok(true)
    }
}

/// Resets the `search_path`, so that the text cannot decide which operators tenantry's own queries use.
fn reset_search_path(connection: &mut PgConnection) -> QueryResult<()> {
    connection.batch_execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)")
}

/// Whether no trigger waits for the commit. A deferred trigger may defer others again. The server does not report that,
/// but it refuses to alter a table with pending trigger events.
fn has_no_deferred_trigger(connection: &mut PgConnection) -> QueryResult<bool> {
    let tables = "SELECT c.oid::regclass::text AS value FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'";
    for TextValue { value } in diesel::sql_query(tables).load::<TextValue>(connection)? {
        // The table was never clustered, so this changes nothing.
        match connection.batch_execute(&format!("ALTER TABLE {value} SET WITHOUT CLUSTER")) {
            Err(error) if error.to_string().contains("pending trigger events") => return Ok(false),
            result => result?,
        }
    }
    Ok(true)
}

/// Returns one object that the transaction changed in the system catalogs that all databases share. Checks only
/// as a superuser: other roles cannot read them.
pub(super) fn changed_shared_object(connection: &mut PgConnection) -> QueryResult<Option<String>> {
    let may = "SELECT rolsuper AS answer FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user";
    if !diesel::sql_query(may).get_result::<YesOrNo>(connection)?.answer {
        return Ok(None);
    }
    let sql = SHARED_CHANGES.replace("{own}", "pg_catalog.pg_current_xact_id()::pg_catalog.xid");
    Ok(diesel::sql_query(sql).get_result::<TextValue>(connection).optional()?.map(|row| row.value))
}
