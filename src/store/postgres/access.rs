//! Reads the owners and privileges of a schema's objects as statements, and restores them on a copy.
//!
//! The statements for copies leave out the project's own role, which is a different one in each project (see `roles`).

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::catalog::search_path;
use super::connect::CATALOG_PATH;
use super::queries::{AccessRow, access_query, full_access_query};
use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{quote_name, quote_text};

/// A statement that the server refused, with SQLSTATE and message.
struct RefusedStatement {
    index: usize,
    state: String,
    message: String,
}

impl PostgresSession<'_> {
    /// Returns the statements that restore owners and privileges on a copy of the schema, except those of its own role.
    pub(super) fn access(&mut self) -> Result<Vec<String>> {
        let schema = self.schema_oid_sql()?;
        self.statements(&access_query(&schema))
    }

    /// Returns the statements that restore all owners and privileges, including the schema's owner and its own role.
    pub(super) fn all_access(&mut self) -> Result<Vec<String>> {
        let schema = self.schema_oid_sql()?;
        let mut statements = self.statements(&full_access_query(&schema))?;
        let owner = format!(
            "SELECT format('ALTER SCHEMA %%1$I OWNER TO %s', replace(quote_ident(pg_get_userbyid(nspowner)), '%', '%%')) AS value \
             FROM pg_namespace WHERE oid = {schema} AND pg_get_userbyid(nspowner) <> current_user"
        );
        statements.splice(0..0, self.texts_of(&owner)?);
        Ok(statements)
    }

    fn statements(&mut self, sql: &str) -> Result<Vec<String>> {
        let path = search_path(&quote_name(&self.name));
        self.reader()?;
        let connection = &mut self.pooled.connection()?.connection;
        let rows: QueryResult<Vec<AccessRow>> = connection
            .batch_execute(&path)
            .and_then(|()| diesel::sql_query(sql).load(connection))
            .and_then(|rows| connection.batch_execute(&search_path(CATALOG_PATH)).map(|()| rows));
        let rows = rows.map_err(|error| self.failed("cannot read its owners and privileges", &error))?;
        Ok(rows.into_iter().map(|row| row.statement).collect())
    }

    /// Runs the statements on the schema. Returns notes on those that the server refused. A statement whose object does
    /// not exist is skipped without a note.
    pub(super) fn apply_access(&mut self, statements: &[String]) -> Result<Vec<String>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let refused = self.run_each(statements)?;
        Ok(refusal_notes(statements, &refused))
    }

    /// Runs the statements on a restored copy, and returns notes as [`Self::apply_access`] does. Fails with `CheckFailed` if
    /// the copy lacks an owner or a privilege although the server did not refuse its statement.
    pub(super) fn apply_and_verify_access(&mut self, statements: &[String]) -> Result<Vec<String>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let refused = self.run_each(statements)?;
        let found = self.access()?;
        let is_refused = |index: usize| refused.iter().any(|it| it.index == index);
        let lost =
            statements.iter().enumerate().find(|(index, it)| !is_refused(*index) && !found.contains(it));
        if let Some((_, lost)) = lost {
            return Err(Error::new(
                ErrorKind::CheckFailed,
                format!("an owner or privilege is missing in the restored copy: {}", readable(lost)),
            ));
        }
        Ok(refusal_notes(statements, &refused))
    }

    /// Runs each statement in a subtransaction, with the schema as `search_path`.
    fn run_each(&mut self, statements: &[String]) -> Result<Vec<RefusedStatement>> {
        let list: Vec<_> = statements.iter().map(|it| quote_text(it)).collect();
        let sql = format!(
            "DO $tenantry$ DECLARE list text[] := ARRAY[{}]::text[]; refused text := ''; BEGIN \
             FOR number IN 1..array_length(list, 1) LOOP BEGIN EXECUTE format(list[number], {}); \
             EXCEPTION WHEN undefined_object OR undefined_table OR undefined_function OR undefined_column OR wrong_object_type \
             OR insufficient_privilege OR invalid_grant_operation OR invalid_schema_name THEN \
             refused := concat(refused, number - 1, E'\\x1f', SQLSTATE, E'\\x1f', SQLERRM, E'\\x1e'); END; END LOOP; \
             PERFORM set_config('tenantry.refused', refused, true); END $tenantry$",
            list.join(", "),
            quote_text(&self.name)
        );
        self.reader()?;
        self.batch("cannot restore its owners and privileges", &search_path(&quote_name(&self.name)))?;
        self.batch("cannot restore its owners and privileges", &sql)?;
        self.batch("cannot restore its owners and privileges", &search_path(CATALOG_PATH))?;
        self.current = None;
        let lines = self.texts_of("SELECT current_setting('tenantry.refused') AS value")?;
        let refused = |line: &str| {
            let mut parts = line.split('\u{1f}');
            let (index, state, message) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
            Some(RefusedStatement { index, state: state.into(), message: message.into() })
        };
        Ok(lines.iter().flat_map(|lines| lines.split('\u{1e}')).filter_map(refused).collect())
    }
}

/// Describes the refused statements: one note for each distinct message.
fn refusal_notes(statements: &[String], refused: &[RefusedStatement]) -> Vec<String> {
    const NO_OBJECT: [&str; 4] = ["42P01", "42883", "42703", "42809"];
    let mut notes: Vec<(&str, usize, &str)> = Vec::new();
    for RefusedStatement { index, message, .. } in
        refused.iter().filter(|it| !NO_OBJECT.contains(&it.state.as_str()))
    {
        let Some(statement) = statements.get(*index) else { continue };
        match notes.iter_mut().find(|(known, ..)| known == message) {
            Some((_, count, _)) => *count += 1,
            None => notes.push((message, 1, statement)),
        }
    }
    let note = |(message, count, first): (&str, usize, &str)| {
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        format!("not restored: {message} ({}{more})", readable(first))
    };
    notes.into_iter().map(note).collect()
}

/// A statement for messages, without placeholders.
fn readable(statement: &str) -> String {
    statement.replace("%1$I.", "").replace("SCHEMA %1$I", "the project's schema").replace("%%", "%")
}
