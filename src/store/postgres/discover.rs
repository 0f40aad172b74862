//! Which schemas are projects.
//!
//! It must not look into one: its name alone says whether it is a project.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::failure::describe;
use super::{OWN, PostgresStore};
use crate::error::Result;
use crate::store::{Discovery, LeftOut, Store as _};

#[derive(QueryableByName)]
struct Schema {
    #[diesel(sql_type = Text)]
    name: String,
}

pub(super) fn discover(store: &PostgresStore) -> Result<Discovery> {
    let mut kept = store.links.get()?;
    let sql = "SELECT nspname::text AS name FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    let schemas: Vec<Schema> = diesel::sql_query(sql)
        .load(&mut kept.link()?.connection)
        .map_err(|error| describe("cannot list the schemas", store.target(), &error))?;
    let mut found = Discovery::default();
    for Schema { name } in schemas.into_iter().filter(|schema| !schema.name.starts_with(OWN)) {
        match store.options.pattern.id(&name) {
            None => {}
            Some(Ok(id)) if store.check(&id).is_ok() => found.projects.push(id),
            Some(Ok(id)) => {
                let reason =
                    store.check(&id).err().map(|error| error.message().to_string()).unwrap_or_default();
                found.left_out.push(LeftOut {
                    name,
                    reason: format!("named like a project, and its name is not usable: {reason}"),
                });
            }
            Some(Err(error)) => found
                .left_out
                .push(LeftOut { name, reason: format!("named like a project: {}", error.message()) }),
        }
    }
    found.projects.sort();
    found.left_out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
