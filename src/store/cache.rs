//! A cache of parsed schemas. Most projects of a fleet share a few schemas.
//!
//! Does not check whether a cached schema is current. A store looks it up by what it has just read from the database.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::schema::ignore::IgnoreList;
use crate::schema::{Fingerprint, Schema};

/// How many schemas are cached. A full cache is cleared.
const CAPACITY: usize = 512;

/// Schemas by the text that was read from the database, and by their fingerprints.
#[derive(Default)]
pub(super) struct SchemaCache {
    schemas: RwLock<CachedSchemas>,
    /// The objects that no schema has here.
    ignore: IgnoreList,
}

#[derive(Default)]
struct CachedSchemas {
    by_text: HashMap<Vec<u8>, Arc<Schema>>,
    by_fingerprint: HashMap<Fingerprint, Arc<Schema>>,
}

impl SchemaCache {
    pub(super) fn new(ignore: IgnoreList) -> Self {
        Self { ignore, ..Self::default() }
    }

    /// Returns the objects that are left out of every schema.
    pub(super) fn ignore(&self) -> &IgnoreList {
        &self.ignore
    }

    pub(super) fn get(&self, text: &[u8]) -> Option<Arc<Schema>> {
        self.schemas.read().unwrap_or_else(PoisonError::into_inner).by_text.get(text).cloned()
    }

    #[cfg(feature = "postgres")]
    pub(super) fn with_fingerprint(&self, fingerprint: Fingerprint) -> Option<Arc<Schema>> {
        // The fingerprint does not cover what is ignored.
        let is_complete = self.ignore.is_empty();
        let schemas = self.schemas.read().unwrap_or_else(PoisonError::into_inner);
        schemas.by_fingerprint.get(&fingerprint).filter(|_| is_complete).cloned()
    }

    /// Caches a schema by its fingerprint, and by the text read from the database if that describes it completely.
    /// Returns the cached schema.
    pub(super) fn insert(&self, text: Option<Vec<u8>>, schema: Schema) -> Arc<Schema> {
        let mut cached = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        if cached.by_text.len().max(cached.by_fingerprint.len()) >= CAPACITY {
            *cached = CachedSchemas::default();
        }
        let shared = if schema.other_ledgers().is_empty() && schema.ignored().is_empty() {
            let shared =
                cached.by_fingerprint.entry(schema.fingerprint()).or_insert_with(|| Arc::new(schema));
            Arc::clone(shared)
        } else {
            // The fingerprint does not cover these, so others with that fingerprint may have none.
            Arc::new(schema)
        };
        cached.by_text.extend(text.map(|text| (text, Arc::clone(&shared))));
        shared
    }
}
