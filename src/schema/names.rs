//! What a schema's objects are called, for lint.

use super::{FacetKind, Facets, ObjectKind, Schema};
use crate::sql::quote_name;

/// An index, trigger or view that another schema does not have.
pub(crate) struct LostCode {
    pub(crate) kind: ObjectKind,
    pub(crate) name: String,
    /// The table that it belongs to.
    pub(crate) table: Option<String>,
}

impl Schema {
    /// Whether another table references this one.
    pub(crate) fn has_children(&self, table: &str) -> bool {
        // A name that has to be quoted is kept with its quotes.
        let references =
            [table, &*quote_name(table)].map(|it| format!("references {}(", it.to_ascii_lowercase()));
        self.objects.values().flat_map(|facets| facets.keys()).any(|(facet, key)| {
            *facet == FacetKind::ForeignKey
                && references.iter().any(|it| key.to_ascii_lowercase().contains(it))
        })
    }

    /// Returns the columns that a table of an earlier schema has and that of this one has not.
    pub(crate) fn lost_columns(&self, earlier: &Self, table: &str) -> Vec<String> {
        let columns = |schema: &Self| -> Vec<String> {
            let is_meant = |((kind, name), _): &(&(ObjectKind, String), &Facets)| {
                *kind == ObjectKind::Table && name.trim_matches('"').eq_ignore_ascii_case(table)
            };
            let found = schema.objects.iter().find(is_meant);
            let columns = found.into_iter().flat_map(|(_, facets)| facets.keys());
            columns.filter(|(facet, _)| *facet == FacetKind::Column).map(|(_, name)| name.clone()).collect()
        };
        let now = columns(self);
        columns(earlier)
            .into_iter()
            .filter(|name| !now.iter().any(|it| it.eq_ignore_ascii_case(name)))
            .collect()
    }

    /// Returns the columns that have another type than in an earlier schema: table, column, the former and the present type.
    pub(crate) fn retyped_columns(&self, earlier: &Self) -> Vec<(String, String, String, String)> {
        let changed = self.common_facets(earlier).filter_map(|(table, (kind, column), before, after)| {
            let types = (data_type(before?), data_type(after));
            let is_retyped = *kind == FacetKind::Column && types.0 != types.1;
            is_retyped.then(|| (table.clone(), column.clone(), types.0.to_string(), types.1.to_string()))
        });
        changed.collect()
    }

    /// Returns the constraints that tables have and did not have in an earlier schema: table and constraint.
    pub(crate) fn added_constraints(&self, earlier: &Self) -> Vec<(String, String)> {
        const CONSTRAINTS: [FacetKind; 3] = [FacetKind::Unique, FacetKind::Check, FacetKind::ForeignKey];
        let added = self.common_facets(earlier).filter_map(|(table, (kind, key), before, after)| {
            let becomes_required = *kind == FacetKind::Column
                && before.is_some_and(|before| !before.contains("NOT NULL"))
                && after.contains("NOT NULL");
            // A new column has no values yet.
            let is_new =
                before.is_none() && CONSTRAINTS.contains(kind) && !self.is_of_new_column(earlier, table, key);
            match (becomes_required, is_new) {
                (true, _) => Some((table.clone(), format!("NOT NULL for {key}"))),
                (_, true) => Some((table.clone(), format!("{kind} {key}"))),
                _ => None,
            }
        });
        added.collect()
    }

    /// Whether a constraint names a column that an earlier schema's table does not have.
    fn is_of_new_column(&self, earlier: &Self, table: &str, constraint: &str) -> bool {
        let key = (ObjectKind::Table, table.to_string());
        let has = |schema: &Self, column: &String| {
            schema.objects.get(&key).is_some_and(|it| it.contains_key(&(FacetKind::Column, column.clone())))
        };
        let columns = self.objects.get(&key).into_iter().flat_map(|facets| facets.keys());
        let mut columns = columns.filter(|(kind, _)| *kind == FacetKind::Column).map(|(_, column)| column);
        columns.any(|column| {
            let is_named = constraint
                .split(|it: char| !it.is_alphanumeric() && it != '_')
                .any(|word| word.eq_ignore_ascii_case(column));
            is_named && !has(earlier, column)
        })
    }

    /// The facets of the tables that both schemas have: table, facet, the former value and the present one.
    fn common_facets<'a>(
        &'a self,
        earlier: &'a Self,
    ) -> impl Iterator<Item = (&'a String, &'a (FacetKind, String), Option<&'a String>, &'a String)> {
        let tables = self.objects.iter().filter(|((kind, _), _)| *kind == ObjectKind::Table);
        let both =
            tables.filter_map(|(object, facets)| Some((&object.1, facets, earlier.objects.get(object)?)));
        both.flat_map(|(table, facets, before)| {
            facets.iter().map(move |(facet, value)| (table, facet, before.get(facet), value))
        })
    }

    /// Returns the indexes, triggers and views that an earlier schema has and this one has not, although the table that they
    /// belong to is still there.
    pub(crate) fn lost_code(&self, earlier: &Self) -> Vec<LostCode> {
        const CODE: [ObjectKind; 4] =
            [ObjectKind::Index, ObjectKind::Trigger, ObjectKind::View, ObjectKind::MaterializedView];
        let is_lost =
            |object: &&(ObjectKind, String)| CODE.contains(&object.0) && !self.objects.contains_key(*object);
        let lost = earlier.objects.keys().filter(is_lost).map(|(kind, name)| {
            // A trigger is called `name on table`; an index' definition begins with the table.
            let of_trigger = name.split_once(" on ").map(|(_, table)| table.to_string());
            let definition = earlier.objects[&(*kind, name.clone())].values().next();
            let of_index = definition.and_then(|it| it.split_once("on ")).map(|(_, rest)| rest);
            let of_index = of_index.and_then(|rest| rest.split(['(', ' ']).next()).map(ToString::to_string);
            let table = of_trigger.or(of_index.filter(|_| *kind == ObjectKind::Index));
            let name = name.split(" on ").next().unwrap_or(name).to_string();
            LostCode { kind: *kind, name, table }
        });
        let has_table = |it: &LostCode| {
            it.table.as_ref().is_none_or(|table| self.tables().any(|name| name.eq_ignore_ascii_case(table)))
        };
        lost.filter(has_table).collect()
    }
}

/// The type in a column's value.
fn data_type(value: &str) -> &str {
    let ends = [" NOT NULL", " DEFAULT ", " COLLATE ", " GENERATED", " AS "];
    let starts = ["NOT NULL", "DEFAULT ", "COLLATE ", "GENERATED", "AS "];
    if starts.iter().any(|start| value.starts_with(start)) {
        return "";
    }
    let end = ends.iter().filter_map(|end| value.find(end)).min().unwrap_or(value.len());
    value[..end].split('(').next().unwrap_or_default().trim()
}
