//! A schema that is parsed when it is first used. Of the many schemas that a long catalog leads through, a run compares a
//! few.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::Schema;

/// A schema that is parsed when it is first used.
pub struct LazySchema {
    parsed: OnceLock<Arc<Schema>>,
    parse: Box<dyn Fn() -> Schema + Send + Sync>,
}

impl LazySchema {
    pub(crate) fn new(parse: impl Fn() -> Schema + Send + Sync + 'static) -> Self {
        Self { parsed: OnceLock::new(), parse: Box::new(parse) }
    }

    pub(crate) fn get(&self) -> &Schema {
        self.parsed.get_or_init(|| Arc::new((self.parse)()))
    }
}

impl From<Arc<Schema>> for LazySchema {
    fn from(schema: Arc<Schema>) -> Self {
        let copy = Arc::clone(&schema);
        Self { parsed: OnceLock::from(schema), parse: Box::new(move || Schema::clone(&copy)) }
    }
}

impl fmt::Debug for LazySchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazySchema").field(&self.parsed).finish()
    }
}
