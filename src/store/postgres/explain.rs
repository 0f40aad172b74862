//! Explains why a migration fails on an empty schema, from what exists on the server.

use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};

use super::PostgresStore;
use crate::sql::quote_text;

#[derive(QueryableByName)]
struct FoundObject {
    #[diesel(sql_type = Text)]
    schema: String,
    #[diesel(sql_type = Nullable<Text>)]
    extension: Option<String>,
}

#[derive(QueryableByName)]
struct AvailableExtension {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Where the server lists each kind of object: the kind as in errors, the system catalog, its columns for name and schema.
const KINDS: [(&str, &str, &str, &str); 4] = [
    ("type", "pg_type", "typname", "typnamespace"),
    ("function", "pg_proc", "proname", "pronamespace"),
    ("relation", "pg_class", "relname", "relnamespace"),
    ("collation", "pg_collation", "collname", "collnamespace"),
];

/// Returns a hint for a server error that something does not exist, or `None` if the cause is unknown.
pub(super) fn explain(store: &PostgresStore, message: &str) -> Option<String> {
    if let Some(name) = quoted_after(message, "extension ").filter(|_| {
        message.contains("is not available") || message.contains("permission denied to create extension")
    }) {
        return Some(format!(
            "if it is not installed on the server, install its package; if this role may not create it, let an administrator \
             run CREATE EXTENSION {name} once"
        ));
    }
    let before = message.split(" does not exist").next().filter(|before| before.len() < message.len())?;
    if let Some(role) = quoted_after(before, "role ") {
        return Some(format!(
            "the role {role} does not exist on this server: create it by hand before the migrations run, since roles belong \
             to the server"
        ));
    }
    let (kind, catalog, name_column, schema_column) =
        KINDS.iter().find(|(kind, ..)| before.contains(&format!("{kind} ")))?;
    let name = quoted_after(before, &format!("{kind} "))?;
    let name = name.split('(').next().unwrap_or(&name).to_string();
    let sql = format!(
        "SELECT n.nspname::text AS schema, e.extname::text AS extension FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{schema_column} \
         LEFT JOIN pg_depend d ON d.classid = '{catalog}'::regclass AND d.objid = o.oid AND d.deptype = 'e' \
         LEFT JOIN pg_extension e ON e.oid = d.refobjid WHERE o.{name_column} = {} AND n.nspname !~ '^(pg_|tenantry_)' \
         ORDER BY e.extname IS NULL, n.nspname LIMIT 1",
        quote_text(&name)
    );
    let mut pooled = store.connections.get().ok()?;
    let connection = &mut pooled.connection().ok()?.connection;
    if let Some(FoundObject { schema, extension }) =
        diesel::sql_query(sql).get_result(connection).optional().ok()?
    {
        let of = extension.map_or(String::new(), |extension| format!(" from the extension {extension}"));
        return Some(format!(
            "the schema {schema} has a {kind} {name}{of}: if all projects share that schema, list it in tenantry.toml \
             ([store] shared = [\"{schema}\"]); else write {schema}.{name}"
        ));
    }
    let available = format!(
        "SELECT name::text AS name FROM pg_available_extensions WHERE name = {} AND installed_version IS NULL",
        quote_text(&name)
    );
    let found: Option<AvailableExtension> =
        diesel::sql_query(available).get_result(connection).optional().ok()?;
    found.map(|it| {
        format!(
            "the extension {} is not created in this database: write CREATE EXTENSION IF NOT EXISTS {} into the migration, and \
             list its schema in tenantry.toml ([store] shared = [\"public\"])",
            it.name, it.name
        )
    })
}

/// The name after `word`, in quotes or up to a space, without its schema.
fn quoted_after(text: &str, word: &str) -> Option<String> {
    let rest = &text[text.rfind(word)? + word.len()..];
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split(' ').next()?,
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    (!last.is_empty()).then(|| last.to_string())
}

#[cfg(test)]
mod tests {
    use super::quoted_after;

    #[test]
    fn names_in_errors_are_found() {
        assert_eq!(quoted_after("type \"citext\"", "type ").as_deref(), Some("citext"));
        assert_eq!(
            quoted_after("function uuid_generate_v4()", "function ").as_deref(),
            Some("uuid_generate_v4()")
        );
        assert_eq!(quoted_after("relation \"public.country\"", "relation ").as_deref(), Some("country"));
    }
}
