//! What is not as expected in a schema, told one thing at a time.

use std::collections::BTreeMap;
use std::fmt;

use super::{FacetKind, Facets, ObjectKind};

/// Adds what is different in one object.
pub(super) fn compare(
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
    /// Whether it is worth a note and no more: another order of columns, which only `SELECT *` and an `INSERT` without names
    /// depend on; what an administrator granted besides what the migrations do, or gave to another owner.
    #[must_use]
    pub fn is_note(&self) -> bool {
        self.facet == Some(FacetKind::ColumnOrder)
            || (self.change == Change::Extra
                && matches!(self.facet, Some(FacetKind::Grant | FacetKind::Owner)))
    }

    pub(super) fn missing((kind, name): &(ObjectKind, String)) -> Self {
        Self {
            object: called(*kind, name),
            facet: None,
            key: String::new(),
            value: String::new(),
            change: Change::Missing,
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
            object: called(*kind, name),
            facet: Some(*facet),
            key: key.clone(),
            value: value.into(),
            change,
        }
    }
}

/// A schema's objects are told by kind and name; the schema itself has no name of its own.
fn called(kind: ObjectKind, name: &str) -> String {
    if kind == ObjectKind::Schema { kind.to_string() } else { format!("{kind} {name}") }
}

/// What to say of differences that are [worth a note](Difference::is_note), the same of many objects in one.
#[must_use]
pub fn notes(differences: impl IntoIterator<Item = Difference>) -> Vec<String> {
    const NAMED: usize = 3;
    let mut notes = Vec::new();
    let mut granted: BTreeMap<(FacetKind, String), Vec<String>> = BTreeMap::new();
    for difference in differences.into_iter().filter(Difference::is_note) {
        match difference.facet {
            Some(facet) if facet.is_access() => {
                granted.entry((facet, difference.key)).or_default().push(difference.object);
            }
            _ => notes.push(format!("{difference}: SELECT * and INSERT without names tell them apart")),
        }
    }
    for ((facet, key), objects) in granted {
        let more = match objects.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = objects.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        notes.push(format!("{facet} {key}, which no migration says: {named}{more}"));
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
            Change::Differs { expected } => write!(f, "{part} is {}, expected {expected}", self.value),
        }
    }
}
