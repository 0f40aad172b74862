//! Project ids and the names of projects' files and schemas. No other module parses an id or derives a name from it.

mod shard;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

pub use shard::Shard;

/// The longest id, in bytes.
pub(crate) const MAX_ID_LENGTH: usize = 100;

/// The longest name of a store, in bytes.
const MAX_STORE_LENGTH: usize = 40;

/// A project's id: 1 to 100 characters of `A-Z a-z 0-9 _ -`, starting with a letter or a digit. In a fleet of several
/// stores, the name of its store and a slash come before it: `eu1/42`.
///
/// Dots, spaces and quotes are not allowed. So `project_7.bak.db` is not a project, and an id cannot lead out of the
/// folder. Ids are sorted by store, and in natural order: 2 before 10, numbers before words.
///
/// ```
/// use tenantry::ProjectId;
/// let id: ProjectId = "eu1/42".parse()?;
/// assert_eq!((id.as_str(), id.store()), ("eu1/42", Some("eu1")));
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

    /// Returns the name of its store; `None` in a fleet of one store.
    #[must_use]
    pub fn store(&self) -> Option<&str> {
        self.0.split_once('/').map(|(store, _)| store)
    }

    /// Returns the id without its store.
    #[must_use]
    pub fn in_its_store(&self) -> Self {
        match self.0.split_once('/') {
            Some((_, id)) => Self(id.into()),
            None => self.clone(),
        }
    }

    /// Whether this project can be called by a name that has its store, or leaves the store out.
    pub(crate) fn answers_to(&self, name: &Self) -> bool {
        self == name || (name.store().is_none() && self.in_its_store() == *name)
    }

    /// Returns the id with this store instead of its own.
    ///
    /// Fails with [`ErrorKind::Usage`] if the store's name is not valid.
    pub fn of_store(&self, store: &str) -> Result<Self> {
        format!("{store}/{}", self.in_its_store()).parse()
    }

    /// Parses an id that names no store, as files and schemas have it.
    fn parse_without_store(text: &str) -> Result<Self> {
        match fault(text, MAX_ID_LENGTH) {
            None => Ok(Self(text.into())),
            Some(fault) => Err(invalid(text, &fault)),
        }
    }

    /// Returns the name of the folder of its backups: `42`, or `eu1.42` with a store. No two projects have the same.
    #[must_use]
    pub fn folder(&self) -> String {
        self.0.replacen('/', ".", 1)
    }

    /// Returns the project whose backups are in a folder of this name.
    ///
    /// Fails with [`ErrorKind::Usage`] if it is not the folder of a project.
    pub fn of_folder(name: &str) -> Result<Self> {
        name.replacen('.', "/", 1).parse()
    }

    /// Returns a hash that never changes, to divide a fleet into parts.
    pub(crate) fn hash(&self) -> u64 {
        // FNV-1a. Any hash would do, as long as it never changes.
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

fn invalid(text: &str, fault: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("project id {text:?} {fault}"))
        .with_hint("an id is 1 to 100 characters of A-Z a-z 0-9 _ -, starting with a letter or a digit")
}

/// What is wrong with a text as an id, if something is.
fn fault(text: &str, max_length: usize) -> Option<String> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        Some("is empty".into())
    } else if bytes.len() > max_length {
        Some(format!("is longer than {max_length} bytes"))
    } else if !bytes[0].is_ascii_alphanumeric() {
        Some("does not start with a letter or a digit".into())
    } else if !bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        Some("has a character other than A-Z a-z 0-9 _ -".into())
    } else {
        None
    }
}

/// Fails if a text cannot be the name of a store.
pub(crate) fn require_store_name(text: &str) -> Result<()> {
    match fault(text, MAX_STORE_LENGTH) {
        None => Ok(()),
        Some(fault) => Err(Error::new(ErrorKind::Usage, format!("the name of a store, {text:?}, {fault}"))
            .with_hint("use a name such as eu1")),
    }
}

/// The digits of a number without leading zeros; `None` if the text is not a number.
fn number(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.trim_start_matches('0'))
}

impl FromStr for ProjectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (store, id) = text.split_once('/').map_or((None, text), |(store, id)| (Some(store), id));
        let store_fault = store.and_then(|store| fault(store, MAX_STORE_LENGTH));
        let fault = store_fault
            .map(|fault| format!("names a store that {fault}"))
            .or_else(|| fault(id, MAX_ID_LENGTH));
        match fault {
            None => Ok(Self(text.into())),
            Some(fault) => Err(invalid(text, &fault)),
        }
    }
}

impl Ord for ProjectId {
    fn cmp(&self, other: &Self) -> Ordering {
        let [a, b] = [self, other].map(|id| id.0.split_once('/').unwrap_or(("", &id.0)));
        a.0.cmp(b.0).then_with(|| match (number(a.1), number(b.1)) {
            (Some(m), Some(n)) => m.len().cmp(&n.len()).then_with(|| m.cmp(n)).then_with(|| a.1.cmp(b.1)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => a.1.cmp(b.1),
        })
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
        // A store refuses an id that names a store. If one came this far, its name must not be that of another project.
        format!("{}{}{}", self.prefix, id.as_str().replace('/', ":"), self.suffix)
    }

    /// Returns the id in a name. `None` if the name does not match the pattern. An error if it matches, but the text in
    /// place of `{id}` is not a valid id.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<Result<ProjectId>> {
        let inner = name.strip_prefix(self.prefix.as_str())?.strip_suffix(self.suffix.as_str())?;
        Some(ProjectId::parse_without_store(inner))
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
        for text in [
            "", ".", "..", "../1", "a/", "/a", "a/b/c", "a/../b", "a.b/c", "a.b", "a b", "a\"b", "a'b", "-a",
            "_a", "ä", "a\0", &long,
        ] {
            assert!(text.parse::<ProjectId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn an_id_can_name_its_store() {
        let id = id("eu1/42");
        assert_eq!(
            (id.store(), id.in_its_store().as_str(), id.folder().as_str()),
            (Some("eu1"), "42", "eu1.42")
        );
        assert_eq!(ProjectId::of_folder("eu1.42").unwrap(), id);
        assert_eq!(ProjectId::of_folder("42").unwrap().as_str(), "42");
        assert!(ProjectId::of_folder("a.b.c").is_err());
        assert_eq!(id.of_store("us2").unwrap().as_str(), "us2/42");
        assert!(id.of_store("../us2").is_err());
        // A store does not find it under the name of another project.
        assert_ne!(NamePattern::default().name(&id), NamePattern::default().name(&id.in_its_store()));
        assert!(NamePattern::of_schemas().id("project_a/b").unwrap().is_err());
        let mut ids = ["us/2", "eu/10", "7", "eu/9", "eu/a"].map(|text| text.parse::<ProjectId>().unwrap());
        ids.sort();
        assert_eq!(ids.map(|id| id.to_string()), ["7", "eu/9", "eu/10", "eu/a", "us/2"]);
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
