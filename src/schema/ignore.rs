//! Objects that no migration makes and that are left out of every comparison, such as another component's tables.

use glob::{MatchOptions, Pattern};

use super::ObjectKind;
use crate::error::{Error, ErrorKind, Result};

/// Patterns of names of objects that are not compared. They are backed up like all others.
///
/// A pattern is a name with `*`, `?` and `[...]`, such as `tmp_*`. A kind before it restricts it, such as `view:report_*`.
///
/// ```
/// use tenantry::store::IgnoreList;
///
/// let ignore = IgnoreList::new(["tmp_*", "view:report_*"])?;
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoreList {
    patterns: Vec<(Option<ObjectKind>, Pattern)>,
    /// The patterns as written, for [`Self::mark`].
    texts: Vec<String>,
}

/// The kinds that a pattern can name.
const KINDS: [ObjectKind; 9] = [
    ObjectKind::Table,
    ObjectKind::VirtualTable,
    ObjectKind::Index,
    ObjectKind::View,
    ObjectKind::MaterializedView,
    ObjectKind::Sequence,
    ObjectKind::Type,
    ObjectKind::Function,
    ObjectKind::Trigger,
];

impl IgnoreList {
    /// Parses patterns. Fails with [`ErrorKind::Configuration`] on an invalid pattern or an unknown kind.
    pub fn new<T: AsRef<str>>(patterns: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut list = Self::default();
        for text in patterns {
            let text = text.as_ref();
            let (kind, name) = match text.split_once(':') {
                Some((kind, name)) => (Some(parse_kind(kind, text)?), name),
                None => (None, text),
            };
            let pattern = Pattern::new(name).map_err(|error| invalid(text, &error.to_string()))?;
            if name.trim_matches('*').is_empty() {
                return Err(invalid(text, "it would ignore everything"));
            }
            list.patterns.push((kind, pattern));
            list.texts.push(text.into());
        }
        Ok(list)
    }

    /// Adds the patterns of another list.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.patterns.extend(other.patterns);
        self.texts.extend(other.texts);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether an object is ignored. A name may be followed by arguments or by the table that the object belongs to.
    pub(crate) fn matches(&self, kind: ObjectKind, name: &str) -> bool {
        let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        let name = name.split([' ', '(']).next().unwrap_or(name);
        self.patterns.iter().any(|(wanted, pattern)| {
            wanted.is_none_or(|wanted| wanted == kind) && pattern.matches_with(name, options)
        })
    }

    /// Returns a short text that differs between lists. Empty for an empty list.
    #[cfg(feature = "postgres")]
    pub(crate) fn mark(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let hash = <sha2::Sha256 as sha2::Digest>::digest(self.texts.join("\0"));
        format!("i{}", &crate::hash::hexadecimal(&hash)[..8])
    }
}

fn parse_kind(kind: &str, text: &str) -> Result<ObjectKind> {
    KINDS.into_iter().find(|known| known.to_string() == kind).ok_or_else(|| {
        let kinds: Vec<String> = KINDS.iter().map(ToString::to_string).collect();
        invalid(text, &format!("{kind:?} is not one of {}", kinds.join(", ")))
    })
}

fn invalid(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("{text:?} is no pattern of ignored objects: {why}"))
        .with_hint("write names such as \"tmp_*\", or with a kind \"view:report_*\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_are_compared() {
        let list = IgnoreList::new(["tmp_*", "view:report_?", "cache"]).unwrap();
        for (kind, name, ignored) in [
            (ObjectKind::Table, "tmp_a", true),
            (ObjectKind::Index, "TMP_a", true),
            (ObjectKind::Table, "a_tmp_", false),
            (ObjectKind::View, "report_1", true),
            (ObjectKind::View, "report_12", false),
            (ObjectKind::Table, "report_1", false),
            (ObjectKind::Function, "cache(integer)", true),
            (ObjectKind::Trigger, "cache on notes", true),
            (ObjectKind::Table, "caches", false),
        ] {
            assert_eq!(list.matches(kind, name), ignored, "{kind} {name}");
        }
        for text in ["*", "views:a", "a[", "table:", "view:**"] {
            assert_eq!(IgnoreList::new([text]).unwrap_err().kind(), ErrorKind::Configuration, "{text}");
        }
    }
}
