//! The differences between a schema and the expected one.

use std::collections::BTreeMap;
use std::fmt;

use super::{FacetKind, Facets, ObjectKind};

/// Adds the differences of one object.
pub(super) fn compare(
    object: &(ObjectKind, String),
    actual: &Facets,
    expected: &Facets,
    differences: &mut Vec<Difference>,
) {
    let before = differences.len();
    for (facet, value) in expected {
        match actual.get(facet) {
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
    for (facet, value) in actual.iter().filter(|(facet, _)| !expected.contains_key(facet)) {
        differences.push(Difference::of(object, facet, value, Change::Extra));
    }
    // A missing or extra column also changes the order of the columns. Only the column is reported.
    let added = differences.split_off(before);
    let has_column_change = added
        .iter()
        .any(|it| it.facet == Some(FacetKind::Column) && !matches!(it.change, Change::Differs { .. }));
    differences.extend(
        added.into_iter().filter(|it| !(has_column_change && it.facet == Some(FacetKind::ColumnOrder))),
    );
}

/// One difference from the expected schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    object: String,
    facet: Option<FacetKind>,
    key: String,
    value: String,
    change: Change,
    kind: ObjectKind,
}

/// How an object or facet differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Missing,
    Extra,
    Differs { expected: String },
}

impl Difference {
    /// Whether the difference is reported only as a note: another order of columns, which affects only `SELECT *` and
    /// `INSERT` without column names, or a privilege or owner that an administrator added to those of the migrations.
    #[must_use]
    pub fn is_note(&self) -> bool {
        self.facet == Some(FacetKind::ColumnOrder)
            || (self.change == Change::Extra
                && matches!(self.facet, Some(FacetKind::Grant | FacetKind::Owner)))
    }

    /// Returns the kind and name of the object that differs.
    pub(crate) fn object(&self) -> &str {
        &self.object
    }

    /// Whether it is an object that should not be there and holds no rows: a view, function, trigger or index.
    pub(crate) fn is_extra_code(&self) -> bool {
        const CODE: [ObjectKind; 5] = [
            ObjectKind::View,
            ObjectKind::MaterializedView,
            ObjectKind::Function,
            ObjectKind::Trigger,
            ObjectKind::Index,
        ];
        self.facet.is_none() && self.change == Change::Extra && CODE.contains(&self.kind)
    }

    pub(super) fn missing((kind, name): &(ObjectKind, String)) -> Self {
        Self {
            object: label(*kind, name),
            facet: None,
            key: String::new(),
            value: String::new(),
            change: Change::Missing,
            kind: *kind,
        }
    }

    pub(super) fn extra(object: &(ObjectKind, String)) -> Self {
        Self { change: Change::Extra, ..Self::missing(object) }
    }

    fn of(
        (kind, name): &(ObjectKind, String),
        (facet, key): &(FacetKind, String),
        value: &str,
        change: Change,
    ) -> Self {
        Self {
            object: label(*kind, name),
            facet: Some(*facet),
            key: key.clone(),
            value: value.into(),
            change,
            kind: *kind,
        }
    }
}

/// Returns the kind and name of an object, or only the kind for the schema itself.
fn label(kind: ObjectKind, name: &str) -> String {
    if kind == ObjectKind::Schema { kind.to_string() } else { format!("{kind} {name}") }
}

/// Formats the differences that are [notes](Difference::is_note). The same change to several objects becomes one note.
#[must_use]
pub(crate) fn notes(differences: impl IntoIterator<Item = Difference>) -> Vec<String> {
    const MAX_NAMED: usize = 3;
    let mut notes = Vec::new();
    let mut access: BTreeMap<(FacetKind, String), Vec<String>> = BTreeMap::new();
    for difference in differences.into_iter().filter(Difference::is_note) {
        match difference.facet {
            Some(facet) if facet.is_access() => {
                access.entry((facet, difference.key)).or_default().push(difference.object);
            }
            _ => notes.push(format!("{difference}: this affects SELECT * and INSERT without column names")),
        }
    }
    for ((facet, key), objects) in access {
        let more = match objects.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = objects.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
        notes.push(format!("{facet} {key} is not in any migration: {named}{more}"));
    }
    notes
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
            Change::Differs { expected } if expected.is_empty() => {
                write!(f, "{part} is {}, which is not expected", self.value)
            }
            Change::Differs { expected } if self.value.is_empty() => write!(f, "{part}: expected {expected}"),
            Change::Differs { expected } => write!(f, "{part} is {}, expected {expected}", self.value),
        }
    }
}
