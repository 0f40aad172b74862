//! Schemas that were understood already: a fleet mostly shares a handful.
//!
//! It must not decide whether a schema is still what it was: a store knows what to ask by.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::schema::{Fingerprint, Schema};

/// How many different schemas are remembered.
const REMEMBERED: usize = 512;

/// Schemas by what was read of them, and by their fingerprints.
#[derive(Default)]
pub(super) struct SchemaCache(RwLock<CachedSchemas>);

#[derive(Default)]
struct CachedSchemas {
    by_text: HashMap<Vec<u8>, Arc<Schema>>,
    by_fingerprint: HashMap<Fingerprint, Arc<Schema>>,
}

impl SchemaCache {
    pub(super) fn get(&self, text: &[u8]) -> Option<Arc<Schema>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_text.get(text).cloned()
    }

    #[cfg(feature = "postgres")]
    pub(super) fn with_fingerprint(&self, fingerprint: Fingerprint) -> Option<Arc<Schema>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_fingerprint.get(&fingerprint).cloned()
    }

    /// Remembers a schema, by the text that was read of it where one tells all of it; gives the one that is kept.
    pub(super) fn insert(&self, text: Option<Vec<u8>>, schema: Schema) -> Arc<Schema> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.by_text.len().max(known.by_fingerprint.len()) >= REMEMBERED {
            *known = CachedSchemas::default();
        }
        let kept = known.by_fingerprint.entry(schema.fingerprint()).or_insert_with(|| Arc::new(schema));
        let kept = Arc::clone(kept);
        known.by_text.extend(text.map(|text| (text, Arc::clone(&kept))));
        kept
    }
}
