//! The names of schemas that a schema's objects keep as text.
//!
//! The server renames what it keeps by number; a function's settings and its body are text. A function that still names the
//! schema it came from would read another project's rows.

use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use super::OWN;
use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{quote_name, quote_text};

/// The statements that have functions of a schema look for names in that schema, where they did so under its former name.
const PATHS: &str = r#"
SELECT format('ALTER ROUTINE %I.%I(%s) SET search_path = %s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid),
    (SELECT string_agg(CASE WHEN trim('"' FROM trim(e)) = {former} THEN quote_ident(n.nspname) ELSE trim(e) END, ', ' ORDER BY number)
        FROM unnest(string_to_array(substr(c, 13), ',')) WITH ORDINALITY AS part (e, number))) AS text, '' AS what
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace, unnest(p.proconfig) c
WHERE d.refclassid = 'pg_namespace'::regclass AND d.classid = 'pg_proc'::regclass AND d.refobjid = {schema}
    AND c LIKE 'search\_path=%' AND {former} IN (SELECT trim('"' FROM trim(e)) FROM unnest(string_to_array(substr(c, 13), ',')) e)"#;

/// What is being done, for errors.
const WHAT: &str = "cannot look for names in it";

/// Every text of a schema that may have a name in it which the server does not know for one.
const TEXTS: &str = r"
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
struct NameReference {
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
    /// Gives a schema another name, and its functions' settings with it. Says whether any had to be changed.
    pub(super) fn rename_schema(&mut self, what: &str, from: &str, to: &str) -> Result<bool> {
        self.batch(what, &format!("ALTER SCHEMA {} RENAME TO {}", quote_name(from), quote_name(to)))?;
        let statements = self.said(what, &PATHS.replace("{former}", &quote_text(from)), to)?;
        for statement in &statements {
            self.batch(what, &statement.text)?;
        }
        Ok(!statements.is_empty())
    }

    /// What in this schema names one that is another project's, or tenantry's own, or that it had itself before.
    pub(super) fn others_named(&mut self, former: &str) -> Result<Option<String>> {
        let (own, texts) = (self.name.clone(), self.texts_of_it()?);
        let pattern = &self.store.options.pattern;
        let is_other = |name: &String| {
            *name != own && (name.starts_with(OWN) || pattern.id(name).is_some_and(|id| id.is_ok()))
        };
        let of = |NameReference { what, text }: NameReference| {
            let names = schemas_named(&text).into_iter().filter(is_other);
            names.map(|name| (what.clone(), name)).collect::<Vec<_>>()
        };
        let others: Vec<(String, String)> = texts.into_iter().flat_map(of).collect();
        if others.is_empty() {
            return Ok(None);
        }
        let list: Vec<_> = others.iter().map(|(_, name)| quote_text(name)).collect();
        let sql = format!(
            "SELECT ARRAY(SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY (ARRAY[{}]::name[])) AS names",
            list.join(", ")
        );
        let there = match &self.store.fleet {
            Some(fleet) => diesel::sql_query(sql).get_result(&mut fleet.get()?.link()?.connection),
            None => diesel::sql_query(sql).get_result(&mut self.pooled.link()?.connection),
        };
        let Names { names } = there.map_err(|error| self.failed(WHAT, &error))?;
        let is_there = |name: &String| name == former || name.starts_with(OWN) || names.contains(name);
        let found = others.into_iter().find(|(_, name)| is_there(name));
        Ok(found.map(|(what, name)| format!("its {what} names the schema {name}, which is not its own")))
    }

    /// Whether it names itself where neither the server nor [`PostgresSession::rename_schema`] could rename it.
    pub(super) fn names_itself(&mut self) -> Result<bool> {
        let (own, texts) = (self.name.clone(), self.texts_of_it()?);
        let mut texts = texts.iter().filter(|said| !said.what.starts_with("settings "));
        Ok(texts.any(|said| schemas_named(&said.text).contains(&own)))
    }

    /// Errors where there is any such name.
    pub(super) fn require_own_names(&mut self, former: &str) -> Result<()> {
        match self.others_named(former)? {
            None => Ok(()),
            Some(message) => Err(Error::new(ErrorKind::Blocked, message).with_hint(
                "a function finds its own project's tables without a schema's name, with SET search_path FROM CURRENT: change \
                 it, and take the backup again",
            )),
        }
    }

    /// Its texts, where its own names are bare.
    fn texts_of_it(&mut self) -> Result<Vec<NameReference>> {
        self.enter()?;
        let own = self.name.clone();
        self.said(WHAT, TEXTS, &own)
    }

    fn said(&mut self, what: &str, sql: &str, schema: &str) -> Result<Vec<NameReference>> {
        let number = super::queries::number_of(&quote_text(schema));
        self.send()?;
        let sql = sql.replace("{schema}", &number);
        let said = diesel::sql_query(sql).load(&mut self.pooled.link()?.connection);
        said.map_err(|error| self.failed(what, &error))
    }
}

/// The names that stand before a dot in a text, or in a `search_path`.
fn schemas_named(text: &str) -> Vec<String> {
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
    use super::schemas_named;

    #[test]
    fn names_before_dots_and_in_paths_are_found() {
        let found = schemas_named(
            "SELECT * FROM project_1.notes, \"project_b-c\".x; SET search_path = a, \"b\";\n d",
        );
        for name in ["project_1", "project_b-c", "a", "b"] {
            assert!(found.iter().any(|it| it == name), "{name}: {found:?}");
        }
        assert!(!found.iter().any(|it| it == "d"));
    }
}
