//! Lists the schemas that are projects. Only a schema's name decides whether it is one.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::failure::convert_error;
use super::{OWN, PostgresStore};
use crate::error::Result;
use crate::store::{Discovery, Skipped, Store as _};

#[derive(QueryableByName)]
struct Schema {
    #[diesel(sql_type = Text)]
    name: String,
}

pub(super) fn discover(store: &PostgresStore) -> Result<Discovery> {
    let mut pooled = store.connections.get()?;
    let sql = "SELECT nspname::text AS name FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    let schemas: Vec<Schema> = diesel::sql_query(sql)
        .load(&mut pooled.connection()?.connection)
        .map_err(|error| convert_error("cannot list the schemas", store.target(), &error))?;
    let mut found = Discovery::default();
    for Schema { name } in schemas.into_iter().filter(|schema| !schema.name.starts_with(OWN)) {
        match store.options.pattern.id(&name) {
            None => {}
            Some(Ok(id)) if store.validate_id(&id).is_ok() => found.projects.push(id),
            Some(Ok(id)) => {
                let reason =
                    store.validate_id(&id).err().map(|error| error.message().to_string()).unwrap_or_default();
                found.skipped.push(Skipped {
                    name,
                    reason: format!("named like a project, but the name is not usable: {reason}"),
                });
            }
            Some(Err(error)) => found
                .skipped
                .push(Skipped { name, reason: format!("named like a project: {}", error.message()) }),
        }
    }
    found.projects.sort();
    found.skipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
