//! Combines stores, and refuses those that do not fit together.

use std::sync::{Arc, Mutex};

use super::{CombinedStore, Part, Placement};
use crate::error::{Error, ErrorKind, Result};
use crate::project::require_store_name;
use crate::store::Store;

/// Combines stores. Their names are part of their projects' ids.
///
/// Every store has its own limit for the number of its projects that are worked on at once.
#[derive(Default)]
pub struct CombinedStoreBuilder {
    parts: Vec<Part>,
    placement: Placement,
}

impl CombinedStoreBuilder {
    /// Adds a store. `jobs` is how many of its projects to work on at once; `None` for the store's own default.
    #[must_use]
    pub fn store(mut self, name: impl Into<String>, store: Arc<dyn Store>, jobs: Option<usize>) -> Self {
        self.parts.push(Part { name: name.into(), store, jobs });
        self
    }

    /// Sets where new projects are created that name no store; by default they have to name one.
    #[must_use]
    pub fn placement(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// Returns the combined store.
    ///
    /// Fails with [`ErrorKind::Configuration`] if there is no store, if two have the same name or the same location, or
    /// if they have different dialects.
    pub fn build(self) -> Result<CombinedStore> {
        let refuse = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::Configuration, message).with_hint(hint.to_string()))
        };
        let Some(first) = self.parts.first() else {
            return refuse("no store is given".into(), "name one or more");
        };
        for (index, part) in self.parts.iter().enumerate() {
            require_store_name(&part.name)?;
            if part.store.dialect() != first.store.dialect() {
                let message = format!("{} and {} have different dialects", first.name, part.name);
                return refuse(message, "use one fleet for SQLite and one for Postgres");
            }
            for other in &self.parts[..index] {
                if other.name == part.name {
                    return refuse(format!("two stores are called {}", part.name), "give each its own name");
                }
                let is_same = other.store.location() == part.store.location()
                    && other.store.pattern() == part.store.pattern();
                if is_same {
                    return refuse(
                        format!("{} and {} are the same store", other.name, part.name),
                        "keep one of them",
                    );
                }
            }
        }
        Ok(CombinedStore { parts: self.parts, placement: self.placement, homes: Mutex::default() })
    }
}
