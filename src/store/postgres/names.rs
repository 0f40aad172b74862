//! Schema names that a schema's objects store as text.
//!
//! The server follows a rename wherever it stores a schema's OID. A function's settings and body are text: a function
//! that still contains its schema's former name would read another project's rows.

use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use super::OWN;
use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{quote_name, quote_text};

/// Returns the statements that replace the schema's former name in the `search_path` settings of its functions.
const SEARCH_PATH_UPDATES: &str = r#"
SELECT format('ALTER ROUTINE %I.%I(%s) SET search_path = %s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid),
    (SELECT string_agg(CASE WHEN trim('"' FROM trim(e)) = {former} THEN quote_ident(n.nspname) ELSE trim(e) END, ', ' ORDER BY number)
        FROM unnest(string_to_array(substr(c, 13), ',')) WITH ORDINALITY AS part (e, number))) AS text, '' AS what
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace, unnest(p.proconfig) c
WHERE d.refclassid = 'pg_namespace'::regclass AND d.classid = 'pg_proc'::regclass AND d.refobjid = {schema}
    AND c LIKE 'search\_path=%' AND {former} IN (SELECT trim('"' FROM trim(e)) FROM unnest(string_to_array(substr(c, 13), ',')) e)"#;

/// The failed operation, for error messages.
const WHAT: &str = "cannot search its objects for schema names";

/// Every text of a schema's objects that may contain a schema name which the server does not recognize as one.
const OBJECT_TEXTS: &str = r"
SELECT format('function %s', p.proname) AS what, p.prosrc AS text
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.refclassid = 'pg_namespace'::regclass AND d.classid = 'pg_proc'::regclass AND d.refobjid = {schema}
UNION ALL
SELECT format('settings of function %s', p.proname) AS what, array_to_string(p.proconfig, ' ') AS text
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.refclassid = 'pg_namespace'::regclass AND d.classid = 'pg_proc'::regclass AND d.refobjid = {schema} AND p.proconfig IS NOT NULL
UNION ALL
SELECT format('default of %s.%s', c.relname, a.attname), pg_get_expr(f.adbin, f.adrelid)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_attrdef f ON f.adrelid = c.oid AND f.adnum = a.attnum
WHERE c.relnamespace = {schema}
UNION ALL
SELECT format('constraint %s', conname), pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = {schema}
UNION ALL
SELECT format('view %s', relname), pg_get_viewdef(oid) FROM pg_class WHERE relnamespace = {schema} AND relkind IN ('v', 'm')
UNION ALL
SELECT format('trigger %s of %s', t.tgname, c.relname), pg_get_triggerdef(t.oid, true)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = {schema} AND NOT t.tgisinternal
UNION ALL
SELECT format('policy %s of %s', p.polname, c.relname), concat_ws(' ', pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relnamespace = {schema}
UNION ALL
SELECT format('rule %s of %s', w.rulename, c.relname), pg_get_ruledef(w.oid, true)
FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class WHERE c.relnamespace = {schema} AND w.rulename <> '_RETURN'";

#[derive(QueryableByName)]
struct ObjectText {
    #[diesel(sql_type = Text)]
    what: String,
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(QueryableByName)]
struct Names {
    #[diesel(sql_type = Array<Text>)]
    names: Vec<String>,
}

impl PostgresSession<'_> {
    /// Renames a schema and updates its functions' settings. Returns whether any setting had to be updated.
    pub(super) fn rename_schema(&mut self, what: &str, from: &str, to: &str) -> Result<bool> {
        self.batch(what, &format!("ALTER SCHEMA {} RENAME TO {}", quote_name(from), quote_name(to)))?;
        let statements =
            self.load_texts(what, &SEARCH_PATH_UPDATES.replace("{former}", &quote_text(from)), to)?;
        for statement in &statements {
            self.batch(what, &statement.text)?;
        }
        Ok(!statements.is_empty())
    }

    /// Describes an object of this schema that refers to another project's schema, to one of tenantry's own schemas, or
    /// to this schema's former name. Returns `None` if there is no such object.
    pub(super) fn reference_to_other_schema(&mut self, former: &str) -> Result<Option<String>> {
        let (own_name, texts) = (self.name.clone(), self.object_texts()?);
        let pattern = &self.store.options.pattern;
        let is_other = |name: &String| {
            *name != own_name && (name.starts_with(OWN) || pattern.id(name).is_some_and(|id| id.is_ok()))
        };
        let names_in = |ObjectText { what, text }: ObjectText| {
            let names = schema_names_in(&text).into_iter().filter(is_other);
            names.map(|name| (what.clone(), name)).collect::<Vec<_>>()
        };
        let candidates: Vec<(String, String)> = texts.into_iter().flat_map(names_in).collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        let list: Vec<_> = candidates.iter().map(|(_, name)| quote_text(name)).collect();
        let sql = format!(
            "SELECT ARRAY(SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY (ARRAY[{}]::name[])) AS names",
            list.join(", ")
        );
        let existing = match &self.store.fleet {
            Some(fleet) => diesel::sql_query(sql).get_result(&mut fleet.get()?.connection()?.connection),
            None => diesel::sql_query(sql).get_result(&mut self.pooled.connection()?.connection),
        };
        let Names { names } = existing.map_err(|error| self.failed(WHAT, &error))?;
        let is_schema = |name: &String| name == former || name.starts_with(OWN) || names.contains(name);
        let found = candidates.into_iter().find(|(_, name)| is_schema(name));
        Ok(found.map(|(what, name)| format!("its {what} refers to the schema {name}, which is not its own")))
    }

    /// Whether the schema's own name occurs in a text that neither the server nor [`PostgresSession::rename_schema`]
    /// can update.
    pub(super) fn contains_own_name(&mut self) -> Result<bool> {
        let (own_name, texts) = (self.name.clone(), self.object_texts()?);
        let mut texts = texts.iter().filter(|it| !it.what.starts_with("settings "));
        Ok(texts.any(|it| schema_names_in(&it.text).contains(&own_name)))
    }

    /// Fails with `Blocked` if [`PostgresSession::reference_to_other_schema`] finds an object.
    pub(super) fn require_no_other_schemas(&mut self, former: &str) -> Result<()> {
        match self.reference_to_other_schema(former)? {
            None => Ok(()),
            Some(message) => Err(Error::new(ErrorKind::Blocked, message).with_hint(
                "write the names of the project's tables without a schema, and add SET search_path FROM CURRENT to the function; \
                 then take the backup again",
            )),
        }
    }

    /// Reads the texts of the schema's objects, in which the names of its own objects have no schema.
    fn object_texts(&mut self) -> Result<Vec<ObjectText>> {
        self.enter_schema()?;
        let name = self.name.clone();
        self.load_texts(WHAT, OBJECT_TEXTS, &name)
    }

    fn load_texts(&mut self, what: &str, sql: &str, schema: &str) -> Result<Vec<ObjectText>> {
        let oid = super::queries::schema_oid(&quote_text(schema));
        self.send()?;
        let sql = sql.replace("{schema}", &oid);
        let texts = diesel::sql_query(sql).load(&mut self.pooled.connection()?.connection);
        texts.map_err(|error| self.failed(what, &error))
    }
}

/// Returns the names in a text that stand before a dot or in a `search_path`.
fn schema_names_in(text: &str) -> Vec<String> {
    let is_part = |it: char| it.is_alphanumeric() || it == '_' || it == '-' || it == '$';
    let mut names = Vec::new();
    for (at, _) in text.match_indices('.') {
        let before = text[..at].trim_end_matches('"');
        let start =
            before.char_indices().rev().take_while(|(_, it)| is_part(*it)).last().map_or(at, |(at, _)| at);
        names.push(before.get(start..).unwrap_or_default().to_string());
    }
    for (at, found) in text.match_indices("search_path") {
        let rest = &text[at + found.len()..];
        let end = rest.find([';', '\n']).unwrap_or(rest.len());
        names.extend(rest[..end].split(|it: char| !is_part(it)).map(str::to_string));
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::schema_names_in;

    #[test]
    fn names_before_dots_and_in_paths_are_found() {
        let found = schema_names_in(
            "SELECT * FROM project_1.notes, \"project_b-c\".x; SET search_path = a, \"b\";\n d",
        );
        for name in ["project_1", "project_b-c", "a", "b"] {
            assert!(found.iter().any(|it| it == name), "{name}: {found:?}");
        }
        assert!(!found.iter().any(|it| it == "d"));
    }
}
