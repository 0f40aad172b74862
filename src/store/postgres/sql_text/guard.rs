//! A role without rights that a text is run by, in a database of its own.
//!
//! A text may define functions and have them run, and what those do no look at the text can tell. So the server keeps it in: each
//! statement is run by a function that belongs to a role without rights and runs as its owner. In such a function the server refuses
//! every way to become another role. The role is made in the transaction that loads the text, and gone at its end.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use crate::sql::{quote_name, quote_text};

pub(super) struct Guard(Option<UnprivilegedRole>);

/// The role without rights.
struct UnprivilegedRole {
    role: String,
    /// The query that runs a statement, as long as its function is as it was made.
    call: String,
}

#[derive(QueryableByName)]
struct HasRight {
    #[diesel(sql_type = Bool)]
    right: bool,
}

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

/// What the function does.
const BODY: &str = "BEGIN EXECUTE $1; END";

/// What a transaction has written into the catalogs that all databases share.
const SHARED: &str = "
SELECT format('the role %s', rolname) AS value FROM pg_catalog.pg_authid WHERE xmin OPERATOR(pg_catalog.=) {own}
UNION ALL SELECT 'the membership of a role' FROM pg_catalog.pg_auth_members WHERE xmin OPERATOR(pg_catalog.=) {own}
UNION ALL SELECT format('the database %s', datname) FROM pg_catalog.pg_database
    WHERE xmin OPERATOR(pg_catalog.=) {own} AND datname OPERATOR(pg_catalog.<>) pg_catalog.current_database()
UNION ALL SELECT 'the settings of a role' FROM pg_catalog.pg_db_role_setting WHERE xmin OPERATOR(pg_catalog.=) {own}
UNION ALL SELECT format('the tablespace %s', spcname) FROM pg_catalog.pg_tablespace WHERE xmin OPERATOR(pg_catalog.=) {own}
LIMIT 1";

impl Guard {
    /// Makes the role, where this one may make any: one that may not has few rights itself.
    pub(super) fn new(connection: &mut PgConnection) -> QueryResult<Self> {
        let may = "SELECT rolsuper OR rolcreaterole AS right FROM pg_roles WHERE rolname = current_user";
        if !diesel::sql_query(may).get_result::<HasRight>(connection)?.right {
            return Ok(Self(None));
        }
        let role = format!("tenantry_import_{}", uuid::Uuid::now_v7().simple());
        let name = quote_name(&role);
        let database = "SELECT format('%I', current_database()) AS value";
        let database = diesel::sql_query(database).get_result::<Value>(connection)?.value;
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
        // The text may change the function, being run by its owner: then it is not called any more.
        let call = "SELECT format('SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid \
             AND p.prosecdef AND p.proowner OPERATOR(pg_catalog.=) %s::pg_catalog.oid AND p.proconfig IS NULL \
             AND p.prosrc OPERATOR(pg_catalog.=) %L::pg_catalog.text) THEN tenantry_import.run($1) \
             ELSE tenantry_import.changed() END', p.oid, p.proowner, p.prosrc) AS value \
             FROM pg_proc p WHERE p.oid = 'tenantry_import.run(text)'::regprocedure";
        connection.batch_execute(
            "CREATE FUNCTION tenantry_import.changed() RETURNS void LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''it changes the function that it is run by''; END'",
        )?;
        let call = diesel::sql_query(call).get_result::<Value>(connection)?.value;
        Ok(Self(Some(UnprivilegedRole { role, call })))
    }

    /// Runs a statement with none of this session's rights.
    pub(super) fn run(&self, connection: &mut PgConnection, sql: &str) -> QueryResult<()> {
        match &self.0 {
            Some(UnprivilegedRole { call, .. }) => {
                diesel::sql_query(call).bind::<Text, _>(sql).execute(connection).map(drop)
            }
            None => diesel::sql_query(sql).execute(connection).map(drop),
        }
    }

    /// Makes an extension with this session's rights. A schema that does not exist is created for it, and the role may use that
    /// one; in those that were there, such as the server's own, the role gets no rights by this.
    pub(super) fn make_extension(
        &self,
        connection: &mut PgConnection,
        sql: &str,
        schema: &str,
    ) -> QueryResult<()> {
        let is_new = "SELECT to_regnamespace($1) IS NULL AS right";
        let is_new =
            diesel::sql_query(is_new).bind::<Text, _>(schema).get_result::<HasRight>(connection)?.right;
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

    /// Takes over what was made, and removes the role. What waits for the commit is run before, while it has no rights; says
    /// whether nothing waits any more.
    pub(super) fn end(self, connection: &mut PgConnection) -> QueryResult<bool> {
        self.run(connection, "SET CONSTRAINTS ALL IMMEDIATE")?;
        reset_path(connection)?;
        if !is_nothing_put_off(connection)? {
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

/// What the text has set must not say what the operators in tenantry's own queries are.
fn reset_path(connection: &mut PgConnection) -> QueryResult<()> {
    connection.batch_execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)")
}

/// Whether no trigger waits for the commit. A trigger may put others off once more; the server tells of no such thing, but it
/// changes no table that a trigger waits for.
fn is_nothing_put_off(connection: &mut PgConnection) -> QueryResult<bool> {
    let tables = "SELECT c.oid::regclass::text AS value FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'";
    for Value { value } in diesel::sql_query(tables).load::<Value>(connection)? {
        // It has never been clustered, so this changes nothing.
        match connection.batch_execute(&format!("ALTER TABLE {value} SET WITHOUT CLUSTER")) {
            Err(error) if error.to_string().contains("pending trigger events") => return Ok(false),
            done => done?,
        }
    }
    Ok(true)
}

/// What the transaction has changed of what all databases share; only a role that may change it can look there.
pub(super) fn written_elsewhere(connection: &mut PgConnection) -> QueryResult<Option<String>> {
    let may =
        "SELECT rolsuper AS right FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user";
    if !diesel::sql_query(may).get_result::<HasRight>(connection)?.right {
        return Ok(None);
    }
    let sql = SHARED.replace("{own}", "pg_catalog.pg_current_xact_id()::pg_catalog.xid");
    Ok(diesel::sql_query(sql).get_result::<Value>(connection).optional()?.map(|row| row.value))
}
