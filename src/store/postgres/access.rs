//! Who owns a schema's objects and what is granted on them: read, to be compared; and given again to a copy.
//!
//! It must not give anything to a role that is a project's own: that is `wall`'s business, as each project has another one.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::catalog::{NEUTRAL, search_path};
use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::postgres::Row;
use crate::sql::{quote_name, quote_text};

/// The query on one schema, whose number in the catalogs is given by an expression: relative to the schema's owner, and without
/// what is granted to the role of the schema's own name.
pub(super) fn access_query(schema: &str) -> String {
    query(schema, "n.nspowner", "false")
}

/// The same relative to this session's role, with everything.
fn everything_query(schema: &str) -> String {
    query(schema, "(SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)", "true")
}

fn query(schema: &str, base_owner: &str, with_own_role: &str) -> String {
    include_str!("access.sql")
        .replace("{schema}", schema)
        .replace("{base_owner}", base_owner)
        .replace("{with_own_role}", with_own_role)
}

/// One thing that an object's creation alone doesn't give.
#[derive(QueryableByName)]
pub(super) struct AccessRow {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    said: String,
    #[diesel(sql_type = Text)]
    statement: String,
}

impl AccessRow {
    /// It as a facet of its object.
    pub(super) fn facet(self) -> Row {
        let Self { kind, object, key, said, .. } = self;
        Row { kind, object, facet: "access".into(), key, value: said }
    }
}

/// A statement that could not be run, and why.
struct RefusedStatement {
    index: usize,
    state: String,
    message: String,
}

impl PostgresSession<'_> {
    /// Statements that give a copy of the schema to whom the original belongs and is granted.
    pub(super) fn access(&mut self) -> Result<Vec<String>> {
        let schema = self.number()?;
        self.statements(&access_query(&schema))
    }

    /// Statements that give everything in the schema back to whom it belongs and is granted, its own role as well.
    pub(super) fn all_access(&mut self) -> Result<Vec<String>> {
        let schema = self.number()?;
        let mut statements = self.statements(&everything_query(&schema))?;
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
        let connection = &mut self.pooled.link()?.connection;
        let rows: QueryResult<Vec<AccessRow>> = connection
            .batch_execute(&path)
            .and_then(|()| diesel::sql_query(sql).load(connection))
            .and_then(|rows| connection.batch_execute(&search_path(NEUTRAL)).map(|()| rows));
        let rows = rows.map_err(|error| self.failed("cannot see whom it is granted to", &error))?;
        Ok(rows.into_iter().map(|row| row.statement).collect())
    }

    /// Gives the schema's objects to whom these statements say, as far as the roles and objects are there. Those that can't be
    /// run are given back, each with the reason; an object that is not there is no reason to tell.
    pub(super) fn give(&mut self, statements: &[String]) -> Result<Vec<String>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let refused = self.run_apart(statements)?;
        Ok(told(statements, &refused))
    }

    /// Gives a restored copy to whom its statements say, and proves that it is theirs now.
    pub(super) fn give_copy(&mut self, statements: &[String]) -> Result<Vec<String>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let refused = self.run_apart(statements)?;
        let found = self.access()?;
        let is_refused = |index: usize| refused.iter().any(|it| it.index == index);
        let lost =
            statements.iter().enumerate().find(|(index, it)| !is_refused(*index) && !found.contains(it));
        if let Some((_, lost)) = lost {
            return Err(Error::new(
                ErrorKind::CheckFailed,
                format!("its copy is not as granted: {}", plain(lost)),
            ));
        }
        Ok(told(statements, &refused))
    }

    /// Runs each statement by itself, with the schema as `search_path`.
    fn run_apart(&mut self, statements: &[String]) -> Result<Vec<RefusedStatement>> {
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
        self.batch("cannot give it to whom it belongs", &search_path(&quote_name(&self.name)))?;
        self.batch("cannot give it to whom it belongs", &sql)?;
        self.batch("cannot give it to whom it belongs", &search_path(NEUTRAL))?;
        self.read = None;
        let lines = self.texts_of("SELECT current_setting('tenantry.refused') AS value")?;
        let refused = |line: &str| {
            let mut parts = line.split('\u{1f}');
            let (index, state, message) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
            Some(RefusedStatement { index, state: state.into(), message: message.into() })
        };
        Ok(lines.iter().flat_map(|lines| lines.split('\u{1e}')).filter_map(refused).collect())
    }
}

/// What to say of statements that could not be run: each reason once.
fn told(statements: &[String], refused: &[RefusedStatement]) -> Vec<String> {
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
        format!("not given back: {message} ({}{more})", plain(first))
    };
    notes.into_iter().map(note).collect()
}

/// A statement as people write it: the schema is the one at hand.
fn plain(statement: &str) -> String {
    statement.replace("%1$I.", "").replace("%1$I", "of the project").replace("%%", "%")
}
