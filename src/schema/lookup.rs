//! Which names a schema has, and what another one does not have of it.

use super::{FacetKind, ObjectKind, Schema};
use crate::sql::quote_name;

impl Schema {
    /// Whether an object or a column has this name. Names are compared case-insensitively.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        // A name that has to be quoted is kept with its quotes.
        let is_name = |it: &str| it.eq_ignore_ascii_case(name) || it.eq_ignore_ascii_case(&quote_name(name));
        self.objects.iter().any(|((_, object), facets)| {
            let mut columns = facets.keys().filter(|(facet, _)| *facet == FacetKind::Column);
            is_name(object) || columns.any(|(_, column)| is_name(column))
        })
    }

    /// Returns the tables and columns that another schema does not have.
    pub(crate) fn lost_data(&self, later: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        let tables = self.objects.iter().filter(|((kind, _), _)| *kind == ObjectKind::Table);
        for ((kind, table), facets) in tables {
            let Some(after) = later.objects.get(&(*kind, table.clone())) else {
                lost.push(format!("table {table}"));
                continue;
            };
            let columns =
                facets.keys().filter(|facet| facet.0 == FacetKind::Column && !after.contains_key(*facet));
            lost.extend(columns.map(|(_, column)| format!("column {column} of {table}")));
        }
        lost
    }
}
