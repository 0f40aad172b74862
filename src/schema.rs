//! A schema in canonical form: what it means, without how it was written.
//!
//! It must not know a database: a store's reader makes a [`Schema`], and this module compares them. Two schemas have
//! one fingerprint exactly when they behave alike.

pub mod bookkeeping;
mod deparsed;
mod difference;
mod expression;
pub mod postgres;
pub mod sqlite;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::hash::hexadecimal;

use difference::compare;
pub use difference::{Difference, notes};

/// What an object of a schema is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ObjectKind {
    /// A table, with its columns and constraints.
    Table,
    /// A virtual table.
    VirtualTable,
    /// An index that has a name of its own.
    Index,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A sequence that is more than a column's default.
    Sequence,
    /// An enum, a domain, a composite or a range type.
    Type,
    /// A function, a procedure or an aggregate, with its arguments.
    Function,
    /// An extension.
    Extension,
    /// What is rare: an operator, a collation and the like.
    Other,
    /// A trigger.
    Trigger,
    /// The schema itself, and what is granted on what is made in it later.
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

/// What a facet of an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FacetKind {
    /// A column; the value is its type, nullability, default, collation and generation.
    Column,
    /// The order of the columns, which `SELECT *` and `INSERT` without names depend on.
    ColumnOrder,
    /// The primary key.
    PrimaryKey,
    /// A UNIQUE constraint, known by its columns.
    Unique,
    /// A CHECK constraint, known by its expression.
    Check,
    /// A foreign key, known by its columns and what they reference; the value is its actions.
    ForeignKey,
    /// An exclusion constraint, known by its definition.
    Exclusion,
    /// A rule that rewrites statements.
    Rule,
    /// A policy that hides rows.
    Policy,
    /// A table option: STRICT, WITHOUT ROWID, UNLOGGED, PARTITION BY.
    Option,
    /// The whole definition of an object that has no parts worth naming.
    Definition,
    /// The role that owns it, where that is not the schema's owner.
    Owner,
    /// A privilege that its creation alone doesn't give: `SELECT to readers`.
    Grant,
    /// A privilege that its creation gives, and that was taken away: `EXECUTE from PUBLIC`.
    Revoke,
}

impl FacetKind {
    /// Whether it says who may use the object, rather than what the object is.
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
}

/// A hash of a canonical schema; equal exactly when the schemas mean the same.
///
/// The first 24 bytes are of the objects alone, the last 8 also of who owns them and may use them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// How many bytes of a fingerprint are of the objects alone.
const OF_OBJECTS: usize = 24;

impl Fingerprint {
    /// Whether the schemas have the same objects, whoever owns them and may use them.
    #[must_use]
    pub fn has_same_objects(&self, other: &Self) -> bool {
        self.0[..OF_OBJECTS] == other.0[..OF_OBJECTS]
    }

    /// Reads a fingerprint as it is written out.
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
    fn new(objects: Objects, writes_may_delete: bool) -> Self {
        let mut fingerprint = hash(&objects, |facet| !facet.is_access());
        if objects.values().flat_map(Facets::keys).any(|(facet, _)| facet.is_access()) {
            let all = hash(&objects, |_| true);
            fingerprint[OF_OBJECTS..].copy_from_slice(&all[OF_OBJECTS..]);
        }
        Self { objects, fingerprint: Fingerprint(fingerprint), writes_may_delete }
    }

    /// The schema's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.keys().all(|(kind, _)| *kind == ObjectKind::Schema)
    }

    /// The names of its tables, sorted.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().filter(|(kind, _)| *kind == ObjectKind::Table).map(|(_, name)| name.as_str())
    }

    /// The names of its virtual tables, sorted.
    pub(crate) fn virtual_tables(&self) -> impl Iterator<Item = &str> {
        let is_virtual = |(kind, _): &&(ObjectKind, String)| *kind == ObjectKind::VirtualTable;
        self.objects.keys().filter(is_virtual).map(|(_, name)| name.as_str())
    }

    /// Its constraints that were never validated.
    #[must_use]
    pub(crate) fn unvalidated(&self) -> BTreeSet<String> {
        let of = |(object, facets): (&(ObjectKind, String), &Facets)| {
            let (kind, name) = object;
            let says = |text: &str| text.contains("NOT VALID");
            let odd = facets.iter().filter(|((_, key), value)| says(key) || says(value));
            odd.map(|((facet, key), _)| format!("{kind} {name}: {facet} {key}")).collect::<Vec<_>>()
        };
        self.objects.iter().flat_map(of).collect()
    }

    /// Whether writing a row may delete others by itself: by a trigger, or by a conflict rule.
    #[must_use]
    pub fn writes_may_delete(&self) -> bool {
        self.writes_may_delete
    }

    /// What is different here from what is expected, sorted; empty exactly when the fingerprints are equal.
    #[must_use]
    pub fn differences(&self, expected: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let none = Facets::new();
        for (object, facets) in &expected.objects {
            match self.objects.get(object) {
                None if object.0 == ObjectKind::Schema => compare(object, &none, facets, &mut differences),
                None => differences.push(Difference::missing(object)),
                Some(here) => compare(object, here, facets, &mut differences),
            }
        }
        for (object, facets) in
            self.objects.iter().filter(|(object, _)| !expected.objects.contains_key(*object))
        {
            match object.0 {
                ObjectKind::Schema => compare(object, facets, &none, &mut differences),
                _ => differences.push(Difference::extra(object)),
            }
        }
        differences.sort();
        differences
    }
}

/// The SHA-256 of objects, of those facets that count; the schema itself has no others than of access.
fn hash(objects: &Objects, counts: fn(FacetKind) -> bool) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"tenantry schema 1\0");
    let mut part = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    for ((kind, name), facets) in objects {
        let counted: Vec<_> = facets.iter().filter(|((facet, _), _)| counts(*facet)).collect();
        if *kind == ObjectKind::Schema && counted.is_empty() {
            continue;
        }
        part(&kind.to_string());
        part(name);
        part(&counted.len().to_string());
        for ((kind, key), value) in counted {
            part(&kind.to_string());
            part(key);
            part(value);
        }
    }
    hasher.finalize().into()
}
