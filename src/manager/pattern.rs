//! Patterns for project ids.

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;

/// A glob pattern for project ids: `*` matches any characters, `?` one character, `[a-c]` one of `a`, `b` and `c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPattern(glob::Pattern);

impl IdPattern {
    /// Whether the pattern matches an id, with or without its store.
    #[must_use]
    pub fn matches(&self, id: &ProjectId) -> bool {
        self.0.matches(id.as_str()) || (id.store().is_some() && self.0.matches(id.in_its_store().as_str()))
    }

    /// The pattern that only this id matches. `None` if it had a character with a meaning in patterns; no id has one.
    pub(super) fn of(id: &ProjectId) -> Option<Self> {
        id.as_str().parse().ok()
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for IdPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        glob::Pattern::new(text).map(Self).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a valid id pattern"))
                .caused_by(error)
                .with_hint("examples: 'a*', '[0-9]*'")
        })
    }
}
