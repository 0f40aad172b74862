//! Opens connections for applications.

use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};

use super::connection_url::ConnectionUrl;
use super::failure;
use crate::error::{Error, ErrorKind, Result};
use crate::store::connection::ProjectConnection;

/// Opens an application's connection whose `search_path` is the project's schema.
pub(super) fn connect(target: &ConnectionUrl, name: &str) -> Result<ProjectConnection> {
    #[derive(QueryableByName)]
    struct CurrentSchema {
        #[diesel(sql_type = Nullable<Text>)]
        place: Option<String>,
    }
    let pooled = || {
        Error::new(ErrorKind::Configuration, "the connection goes through a pooler that gives each transaction another server connection").with_hint(
            "an application's search_path would be lost: connect to the server directly, or give each project its own \
             role with isolation = \"role\"",
        )
    };
    #[expect(clippy::disallowed_methods, reason = "connecting to Postgres creates nothing")]
    let mut connection = PgConnection::establish(&target.conninfo()).map_err(|error| {
        let message = error.to_string();
        if message.contains("startup parameter") {
            return pooled();
        }
        failure::new_error("cannot connect", target, ErrorKind::Disconnected, &message)
    })?;
    let CurrentSchema { place } = diesel::sql_query("SELECT current_schema()::text AS place")
        .get_result(&mut connection)
        .map_err(|error| failure::convert_error("cannot connect", target, &error))?;
    match place {
        Some(place) if place == name => Ok(ProjectConnection::Postgres(connection)),
        _ => Err(pooled()),
    }
}
