//! A schema in canonical form: what it means, without how it was written.
//!
//! It must not know a database: a store's reader makes a [`Schema`], and this module compares them. Two schemas have
//! one fingerprint exactly when they behave alike.

pub mod bookkeeping;
mod deparsed;
mod expression;
pub mod postgres;
pub mod sqlite;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest as _, Sha256};

/// What an object of a schema is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        })
    }
}

/// What a facet of an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// The SHA-256 of a canonical schema; equal exactly when the schemas mean the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
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

/// Bytes as hexadecimal digits, two each.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Schema {
    fn new(objects: Objects, writes_may_delete: bool) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"tenantry schema 1\0");
        let mut part = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        for ((kind, name), facets) in &objects {
            part(&kind.to_string());
            part(name);
            part(&facets.len().to_string());
            for ((kind, key), value) in facets {
                part(&kind.to_string());
                part(key);
                part(value);
            }
        }
        let fingerprint = Fingerprint(hasher.finalize().into());
        Self { objects, fingerprint, writes_may_delete }
    }

    /// The schema's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The names of its tables, sorted.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().filter(|(kind, _)| *kind == ObjectKind::Table).map(|(_, name)| name.as_str())
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
        for (object, facets) in &expected.objects {
            match self.objects.get(object) {
                None => differences.push(Difference::missing(object)),
                Some(here) => compare(object, here, facets, &mut differences),
            }
        }
        for object in self.objects.keys().filter(|object| !expected.objects.contains_key(*object)) {
            differences.push(Difference::extra(object));
        }
        differences.sort();
        differences
    }
}

fn compare(
    object: &(ObjectKind, String),
    here: &Facets,
    expected: &Facets,
    differences: &mut Vec<Difference>,
) {
    let before = differences.len();
    for (facet, value) in expected {
        match here.get(facet) {
            None => differences.push(Difference::of(object, facet, value, Change::Missing)),
            Some(found) if found != value => {
                differences.push(Difference::of(
                    object,
                    facet,
                    found,
                    Change::Differs { expected: value.clone() },
                ));
            }
            Some(_) => {}
        }
    }
    for (facet, value) in here.iter().filter(|(facet, _)| !expected.contains_key(facet)) {
        differences.push(Difference::of(object, facet, value, Change::Extra));
    }
    // A column that is missing or extra changes the order as well; saying so twice helps nobody.
    let found = differences.split_off(before);
    let columns = found
        .iter()
        .any(|it| it.facet == Some(FacetKind::Column) && !matches!(it.change, Change::Differs { .. }));
    differences.extend(found.into_iter().filter(|it| !(columns && it.facet == Some(FacetKind::ColumnOrder))));
}

/// One thing that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    object: String,
    facet: Option<FacetKind>,
    key: String,
    value: String,
    change: Change,
}

/// How a thing is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Missing,
    Extra,
    Differs { expected: String },
}

impl Difference {
    /// Whether only the order of columns differs, which `SELECT *` and an `INSERT` without names depend on and nothing else.
    #[must_use]
    pub fn is_order(&self) -> bool {
        self.facet == Some(FacetKind::ColumnOrder)
    }

    fn missing((kind, name): &(ObjectKind, String)) -> Self {
        Self {
            object: format!("{kind} {name}"),
            facet: None,
            key: String::new(),
            value: String::new(),
            change: Change::Missing,
        }
    }

    fn extra(object: &(ObjectKind, String)) -> Self {
        Self { change: Change::Extra, ..Self::missing(object) }
    }

    fn of(
        (kind, name): &(ObjectKind, String),
        (facet, key): &(FacetKind, String),
        value: &str,
        change: Change,
    ) -> Self {
        Self {
            object: format!("{kind} {name}"),
            facet: Some(*facet),
            key: key.clone(),
            value: value.into(),
            change,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(facet) = self.facet else {
            return match self.change {
                Change::Missing => write!(f, "missing {}", self.object),
                Change::Extra | Change::Differs { .. } => write!(f, "extra {}", self.object),
            };
        };
        write!(f, "{}: ", self.object)?;
        let part = if self.key.is_empty() { facet.to_string() } else { format!("{facet} {}", self.key) };
        let value = if self.value.is_empty() { String::new() } else { format!(" {}", self.value) };
        match &self.change {
            Change::Missing => write!(f, "missing {part}{value}"),
            Change::Extra => write!(f, "extra {part}{value}"),
            Change::Differs { expected } => write!(f, "{part} is {}, expected {expected}", self.value),
        }
    }
}
