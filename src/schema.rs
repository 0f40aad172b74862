//! Schemas in canonical form: what a schema means, regardless of how it was written.
//!
//! The modules [`sqlite`] and [`postgres`] build a [`Schema`], and this module compares them. Two schemas have the same
//! fingerprint exactly when they behave the same.

pub(crate) mod alter;
pub(crate) mod bookkeeping;
#[cfg(feature = "postgres")]
mod deparsed;
mod difference;
mod expression;
pub(crate) mod ignore;
mod lookup;
#[cfg(feature = "lint")]
mod names;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub mod sqlite;
mod table;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

use sha2::{Digest as _, Sha256};

use crate::hash::hexadecimal;

use bookkeeping::Tool;
pub use difference::Difference;
use difference::compare;
pub(crate) use difference::notes;
use ignore::IgnoreList;

/// A schema that is parsed when it is first used. Of the many schemas that a long catalog leads through, a run compares a
/// few.
pub(crate) type LazySchema = LazyLock<Arc<Schema>, Box<dyn FnOnce() -> Arc<Schema> + Send>>;

/// The kind of a schema's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "some kinds exist only on Postgres"))]
pub(crate) enum ObjectKind {
    /// A table, with its columns and constraints.
    Table,
    /// A virtual table.
    VirtualTable,
    /// An index that no constraint created.
    Index,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A sequence, unless it only supplies a column's default.
    Sequence,
    /// An enum, domain, composite or range type.
    Type,
    /// A function, procedure or aggregate, identified by its name and arguments.
    Function,
    /// An extension.
    Extension,
    /// A rarer object, such as an operator or a collation.
    Other,
    /// A trigger.
    Trigger,
    /// The schema itself, with its privileges and default privileges.
    Schema,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::VirtualTable => "virtual table",
            Self::Index => "index",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Sequence => "sequence",
            Self::Type => "type",
            Self::Function => "function",
            Self::Extension => "extension",
            Self::Other => "object",
            Self::Trigger => "trigger",
            Self::Schema => "schema",
        })
    }
}

/// The kind of a facet. A facet is one property of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "some kinds exist only on Postgres"))]
pub(crate) enum FacetKind {
    /// A column; the value is its type, nullability, default, collation and generation.
    Column,
    /// The order of the columns, which `SELECT *` and `INSERT` without names depend on.
    ColumnOrder,
    /// The primary key.
    PrimaryKey,
    /// A UNIQUE constraint, identified by its columns.
    Unique,
    /// A CHECK constraint, identified by its expression.
    Check,
    /// A foreign key, identified by its columns and what they reference; the value is its actions.
    ForeignKey,
    /// An exclusion constraint, identified by its definition.
    Exclusion,
    /// A rule that rewrites statements.
    Rule,
    /// A row security policy.
    Policy,
    /// A table option: STRICT, WITHOUT ROWID, UNLOGGED, PARTITION BY.
    Option,
    /// The whole definition of an object that is not split into facets.
    Definition,
    /// The owner, if it is not the schema's owner.
    Owner,
    /// A privilege that does not exist by default: `SELECT to readers`.
    Grant,
    /// A default privilege that was revoked: `EXECUTE from PUBLIC`.
    Revoke,
}

impl FacetKind {
    /// Whether the facet describes ownership or privileges, rather than the object itself.
    fn is_access(self) -> bool {
        matches!(self, Self::Owner | Self::Grant | Self::Revoke)
    }
}

impl fmt::Display for FacetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Column => "column",
            Self::ColumnOrder => "column order",
            Self::PrimaryKey => "primary key",
            Self::Unique => "UNIQUE",
            Self::Check => "CHECK",
            Self::ForeignKey => "foreign key",
            Self::Exclusion => "EXCLUDE",
            Self::Rule => "rule",
            Self::Policy => "policy",
            Self::Option => "option",
            Self::Definition => "definition",
            Self::Owner => "owner",
            Self::Grant => "GRANT",
            Self::Revoke => "REVOKE",
        })
    }
}

type Facets = BTreeMap<(FacetKind, String), String>;
type Objects = BTreeMap<(ObjectKind, String), Facets>;

/// A schema in canonical form, with its fingerprint.
#[derive(Clone, Debug)]
pub struct Schema {
    objects: Objects,
    fingerprint: Fingerprint,
    writes_may_delete: bool,
    /// The fingerprint of all objects, also of those that are ignored.
    full_fingerprint: Fingerprint,
    /// The objects that are ignored. They are not part of the schema.
    ignored: Vec<(ObjectKind, String)>,
    /// The tables in which other migration tools keep their ledgers. They are not part of the schema.
    other_ledgers: Vec<(Tool, String)>,
}

/// A hash of a canonical schema. Equal exactly when the schemas mean the same.
///
/// The first 24 bytes cover the objects alone. The last 8 also cover owners and privileges.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// How many bytes of a fingerprint cover the objects alone.
const OBJECT_BYTES: usize = 24;

impl Fingerprint {
    /// Whether the schemas have the same objects, regardless of owners and privileges.
    #[must_use]
    pub fn has_same_objects(&self, other: &Self) -> bool {
        self.0[..OBJECT_BYTES] == other.0[..OBJECT_BYTES]
    }

    /// Parses a fingerprint in its `Display` form. Returns `None` if the text is not 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |index: usize| text.get(2 * index..2 * index + 2);
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits(index)?, 16).ok()?;
        }
        (text.len() == 64).then_some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hexadecimal(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Schema {
    /// `objects` are those that are compared, `ignored` the others.
    fn new(objects: Objects, ignored: Objects, writes_may_delete: bool) -> Self {
        let fingerprint = fingerprint(&objects);
        let names = ignored.keys().cloned().collect();
        let full_fingerprint = if ignored.is_empty() {
            fingerprint
        } else {
            let mut all = ignored;
            all.extend(objects.iter().map(|(object, facets)| (object.clone(), facets.clone())));
            self::fingerprint(&all)
        };
        Self {
            objects,
            fingerprint,
            full_fingerprint,
            ignored: names,
            writes_may_delete,
            other_ledgers: Vec::new(),
        }
    }

    /// The fingerprint of all objects, also of those that are ignored in comparisons with migrations.
    pub(crate) fn full_fingerprint(&self) -> Fingerprint {
        self.full_fingerprint
    }

    /// Returns the objects that are ignored.
    pub(crate) fn ignored(&self) -> &[(ObjectKind, String)] {
        &self.ignored
    }

    /// Adds the tables in which other migration tools keep their ledgers, as found among tables with their columns.
    fn with_other_ledgers<'a>(
        mut self,
        tables: impl Iterator<Item = (&'a str, &'a [String])> + Clone,
    ) -> Self {
        // Rails has this table beside one that looks like dbmate's.
        let is_rails = tables.clone().any(|(name, _)| name.eq_ignore_ascii_case("ar_internal_metadata"));
        self.other_ledgers = tables
            .filter_map(|(name, columns)| Some((Tool::of_table(name, columns)?, name.to_string())))
            .map(|(tool, name)| (if tool == Tool::Dbmate && is_rails { Tool::Rails } else { tool }, name))
            .collect();
        self.other_ledgers.sort();
        self
    }

    /// Returns the other migration tools that keep a ledger here, and the tables in which they keep it.
    #[must_use]
    pub(crate) fn other_ledgers(&self) -> &[(Tool, String)] {
        &self.other_ledgers
    }

    /// The schema's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether the schema has no objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.keys().all(|(kind, _)| *kind == ObjectKind::Schema)
    }

    /// Returns the names of the tables, sorted.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().filter(|(kind, _)| *kind == ObjectKind::Table).map(|(_, name)| name.as_str())
    }

    /// Returns the names of the virtual tables, sorted.
    pub(crate) fn virtual_tables(&self) -> impl Iterator<Item = &str> {
        let is_virtual = |(kind, _): &&(ObjectKind, String)| *kind == ObjectKind::VirtualTable;
        self.objects.keys().filter(is_virtual).map(|(_, name)| name.as_str())
    }

    /// Returns the constraints that were never validated.
    #[must_use]
    pub(crate) fn unvalidated(&self) -> BTreeSet<String> {
        let in_object = |(object, facets): (&(ObjectKind, String), &Facets)| {
            let (kind, name) = object;
            let is_not_valid = |text: &str| text.contains("NOT VALID");
            let unvalidated =
                facets.iter().filter(|((_, key), value)| is_not_valid(key) || is_not_valid(value));
            unvalidated.map(|((facet, key), _)| format!("{kind} {name}: {facet} {key}")).collect::<Vec<_>>()
        };
        self.objects.iter().flat_map(in_object).collect()
    }

    /// Whether writing a row may delete other rows, through a trigger, a rule or a conflict clause.
    #[must_use]
    pub fn writes_may_delete(&self) -> bool {
        self.writes_may_delete
    }

    /// Returns a privilege or owner that an object has and that it does not have in a later schema.
    pub(crate) fn lost_access(&self, later: &Self) -> Option<String> {
        self.objects.iter().find_map(|(object, facets)| {
            let after = later.objects.get(object)?;
            let is_lost = |facet: &&(FacetKind, String)| facet.0.is_access() && !after.contains_key(*facet);
            let (kind, key) = facets.keys().find(is_lost)?;
            Some(format!("{kind} {key} on {} {}", object.0, object.1))
        })
    }

    /// The schema with one object as another schema has it, or without it if the other one does not have it.
    fn with_object_of(&self, other: &Self, key: (ObjectKind, String)) -> Self {
        let mut schema = self.clone();
        match other.objects.get(&key) {
            Some(facets) => drop(schema.objects.insert(key, facets.clone())),
            None => drop(schema.objects.remove(&key)),
        }
        schema
    }

    /// Returns how this schema differs from the expected one, sorted. Empty exactly when the fingerprints are equal.
    #[must_use]
    pub fn differences(&self, expected: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let empty = Facets::new();
        for (object, facets) in &expected.objects {
            match self.objects.get(object) {
                None if object.0 == ObjectKind::Schema => compare(object, &empty, facets, &mut differences),
                None => differences.push(Difference::missing(object)),
                Some(actual) => compare(object, actual, facets, &mut differences),
            }
        }
        for (object, facets) in
            self.objects.iter().filter(|(object, _)| !expected.objects.contains_key(*object))
        {
            match object.0 {
                ObjectKind::Schema => compare(object, facets, &empty, &mut differences),
                _ => differences.push(Difference::extra(object)),
            }
        }
        differences.sort();
        differences
    }
}

/// Removes the objects that a list ignores, and returns them.
fn take_ignored(objects: &mut Objects, ignore: &IgnoreList) -> Objects {
    if ignore.is_empty() {
        return Objects::new();
    }
    let (ignored, kept) =
        std::mem::take(objects).into_iter().partition(|((kind, name), _)| ignore.matches(*kind, name));
    *objects = kept;
    ignored
}

fn fingerprint(objects: &Objects) -> Fingerprint {
    let mut fingerprint = hash(objects, |facet| !facet.is_access());
    if objects.values().flat_map(Facets::keys).any(|(facet, _)| facet.is_access()) {
        let all = hash(objects, |_| true);
        fingerprint[OBJECT_BYTES..].copy_from_slice(&all[OBJECT_BYTES..]);
    }
    Fingerprint(fingerprint)
}

/// Returns the SHA-256 of the objects with their included facets. The schema itself, which has only access facets, is
/// left out if none is included.
fn hash(objects: &Objects, is_included: fn(FacetKind) -> bool) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"tenantry schema 1\0");
    let mut part = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    for ((kind, name), facets) in objects {
        let included: Vec<_> = facets.iter().filter(|((facet, _), _)| is_included(*facet)).collect();
        if *kind == ObjectKind::Schema && included.is_empty() {
            continue;
        }
        part(&kind.to_string());
        part(name);
        part(&included.len().to_string());
        for ((kind, key), value) in included {
            part(&kind.to_string());
            part(key);
            part(value);
        }
    }
    hasher.finalize().into()
}
