//! Project ids and the names of projects' files and schemas. No other module parses an id or derives a name from it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The longest id, in bytes.
pub(crate) const MAX_ID_LENGTH: usize = 100;

/// A project's id: 1 to 100 characters of `A-Z a-z 0-9 _ -`, starting with a letter or a digit.
///
/// Dots, slashes, spaces and quotes are not allowed. So `project_7.bak.db` is not a project, and an id cannot lead out
/// of the folder. Ids are sorted in natural order: 2 before 10, numbers before words.
///
/// ```
/// use tenantry::ProjectId;
/// let id: ProjectId = "42".parse()?;
/// assert_eq!(id.as_str(), "42");
/// assert!("../42".parse::<ProjectId>().is_err());
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProjectId(Arc<str>);

impl ProjectId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a hash that never changes, to divide a fleet into parts.
    pub(crate) fn hash(&self) -> u64 {
        // FNV-1a. Any hash would do, as long as it never changes.
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn number(&self) -> Option<&str> {
        let text = self.0.trim_start_matches('0');
        self.0.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)
    }
}

impl FromStr for ProjectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.as_bytes();
        let fault = if bytes.is_empty() {
            "is empty"
        } else if bytes.len() > MAX_ID_LENGTH {
            "is longer than 100 bytes"
        } else if !bytes[0].is_ascii_alphanumeric() {
            "does not start with a letter or a digit"
        } else if !bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            "has a character other than A-Z a-z 0-9 _ -"
        } else {
            return Ok(Self(text.into()));
        };
        Err(Error::new(ErrorKind::Usage, format!("project id {text:?} {fault}"))
            .with_hint("an id is 1 to 100 characters of A-Z a-z 0-9 _ -, starting with a letter or a digit"))
    }
}

impl Ord for ProjectId {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.number(), other.number()) {
            (Some(a), Some(b)) => {
                a.len().cmp(&b.len()).then_with(|| a.cmp(b)).then_with(|| self.0.cmp(&other.0))
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.0.cmp(&other.0),
        }
    }
}

impl PartialOrd for ProjectId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl serde::Serialize for ProjectId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ProjectId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A pattern that maps ids to names of files or schemas. It contains `{id}` once: `project_{id}.db`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    prefix: String,
    suffix: String,
}

impl NamePattern {
    /// Returns the default pattern for schemas: `project_{id}`.
    #[must_use]
    pub fn of_schemas() -> Self {
        Self { prefix: "project_".into(), suffix: String::new() }
    }

    /// Parses a pattern for names of schemas, such as `project_{id}`.
    pub fn parse_of_schemas(text: &str) -> Result<Self> {
        let refuse = |fault: &str| {
            Err(Error::new(ErrorKind::Configuration, format!("the schema pattern {text:?} {fault}"))
                .with_hint("use a pattern like project_{id}"))
        };
        let Some((prefix, suffix)) = text.split_once("{id}") else { return refuse("has no {id}") };
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if !prefix.bytes().chain(suffix.bytes()).all(is_plain) {
            return refuse("may contain only a-z 0-9 _ - around a single {id}");
        }
        if !prefix.starts_with(|first: char| first.is_ascii_lowercase()) {
            return refuse("does not start with a lowercase letter, so every schema could be a project");
        }
        Ok(Self { prefix: prefix.into(), suffix: suffix.into() })
    }

    /// Returns the name of a project's file or schema.
    #[must_use]
    pub fn name(&self, id: &ProjectId) -> String {
        format!("{}{id}{}", self.prefix, self.suffix)
    }

    /// Returns the id in a name. `None` if the name does not match the pattern. An error if it matches, but the text in
    /// place of `{id}` is not a valid id.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<Result<ProjectId>> {
        let inner = name.strip_prefix(self.prefix.as_str())?.strip_suffix(self.suffix.as_str())?;
        Some(inner.parse())
    }

    /// Returns the pattern as a glob with `*` in place of `{id}`. The rest of it is matched literally.
    #[must_use]
    pub fn glob(&self) -> String {
        format!("{}*{}", glob::Pattern::escape(&self.prefix), glob::Pattern::escape(&self.suffix))
    }
}

impl FromStr for NamePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |fault: &str| {
            Err(Error::new(ErrorKind::Configuration, format!("the file pattern {text:?} {fault}"))
                .with_hint("use a pattern like project_{id}.db"))
        };
        let Some((prefix, suffix)) = text.split_once("{id}") else { return refuse("has no {id}") };
        if suffix.contains("{id}") {
            return refuse("has {id} more than once");
        }
        if text.contains(['/', '\\', '\0']) {
            return refuse("is not a single file name");
        }
        if prefix.starts_with('.') {
            return refuse("starts with a dot, as temporary files do");
        }
        // Otherwise the companion files of `x`, such as `x-wal`, would count as projects.
        if suffix.is_empty() {
            return refuse(
                "has nothing after {id}, so a database could not be distinguished from its -wal file",
            );
        }
        Ok(Self { prefix: prefix.into(), suffix: suffix.into() })
    }
}

impl Default for NamePattern {
    fn default() -> Self {
        Self { prefix: "project_".into(), suffix: ".db".into() }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{id}}{}", self.prefix, self.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> ProjectId {
        text.parse().unwrap()
    }

    #[test]
    fn ids_that_could_leave_their_folder_or_break_a_quote_are_refused() {
        let long = "x".repeat(MAX_ID_LENGTH + 1);
        for text in ["", ".", "..", "../1", "a/b", "a.b", "a b", "a\"b", "a'b", "-a", "_a", "ä", "a\0", &long]
        {
            assert!(text.parse::<ProjectId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn ids_sort_as_people_count() {
        let mut ids = ["b", "10", "a", "2", "02", "1"].map(id);
        ids.sort();
        assert_eq!(ids.map(|id| id.to_string()), ["1", "02", "2", "10", "a", "b"]);
    }

    #[test]
    fn a_pattern_needs_exactly_one_id_and_one_file_name() {
        for text in ["project.db", "{id}{id}.db", "a/{id}.db", ".{id}.db", "project_{id}", "{id}"] {
            assert!(text.parse::<NamePattern>().is_err(), "{text:?} was accepted");
        }
        let pattern: NamePattern = "t[{id}].sqlite3".parse().unwrap();
        assert_eq!(pattern.name(&id("7")), "t[7].sqlite3");
        assert_eq!(pattern.glob(), "t[[]*[]].sqlite3");
    }

    proptest! {
        #[test]
        fn a_name_gives_back_its_id(text in "[A-Za-z0-9][A-Za-z0-9_-]{0,99}") {
            let pattern = NamePattern::default();
            prop_assert_eq!(pattern.id(&pattern.name(&id(&text))).unwrap().unwrap(), id(&text));
        }

        #[test]
        fn the_order_is_total(a in "[0-9a-b]{1,4}", b in "[0-9a-b]{1,4}", c in "[0-9a-b]{1,4}") {
            let (a, b, c) = (id(&a), id(&b), id(&c));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a == b, a.cmp(&b) == Ordering::Equal);
            if a < b && b < c { prop_assert!(a < c); }
        }
    }
}
