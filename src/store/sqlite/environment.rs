//! What all connections of a store have in common: the cache of schemas, and the extensions of SQLite that they load.

use rusqlite::Connection;

use super::failure::describe;
use crate::error::Result;
use crate::store::cache::SchemaCache;

/// What all connections of a store have in common.
#[derive(Default)]
pub(super) struct Environment {
    pub(super) schemas: SchemaCache,
    /// The names or paths of extensions.
    extensions: Vec<String>,
}

impl Environment {
    pub(super) const fn new(schemas: SchemaCache, extensions: Vec<String>) -> Self {
        Self { schemas, extensions }
    }

    /// The names or paths of the extensions that are loaded.
    pub(super) fn loaded(&self) -> &[String] {
        &self.extensions
    }

    /// Loads the extensions into a connection.
    pub(super) fn prepare(&self, connection: Connection) -> Result<Connection> {
        for extension in &self.extensions {
            load(&connection, extension).map_err(|error| {
                describe(&format!("cannot load the extension {extension}"), error)
                    .with_hint("check [sqlite] load in tenantry.toml: the name of a library that the system finds, or its path")
            })?;
        }
        Ok(connection)
    }
}

/// Loads an extension. Names come from the settings alone, never from a project's data.
#[expect(unsafe_code, reason = "an extension is foreign code, and loading it is what the settings ask for")]
fn load(connection: &Connection, extension: &str) -> rusqlite::Result<()> {
    // SAFETY: SQL that runs between the two calls could load other libraries; only this thread uses the connection, and
    // it runs none. The library itself is trusted, as the settings name it.
    unsafe {
        connection.load_extension_enable()?;
        let loaded = connection.load_extension(extension, None::<&str>);
        connection.load_extension_disable()?;
        loaded
    }
}
