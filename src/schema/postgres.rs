//! Builds a canonical schema from the system catalogs of Postgres.
//!
//! Works on the rows of `store/postgres/facets.sql` alone, without a connection.

use std::collections::{BTreeMap, HashMap};

use super::deparsed::canonical;
use super::ignore::IgnoreList;
use super::{FacetKind, ObjectKind, Objects, Schema, bookkeeping, take_ignored};
use crate::sql::effect::body_may_delete;

/// One facet of an object, as read from the system catalogs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// A relation's kind as in `pg_class`, or `type`, `function`, `trigger`, `extension`, `statistics`, `other`.
    pub kind: String,
    /// The object's name.
    pub object: String,
    /// `object`, `column`, `constraint` and its kind, `inherits`, `rule`, `policy`, `access`; for a function, its kind.
    pub facet: String,
    /// Distinguishes the facet from others of its kind.
    pub key: String,
    /// The facet's definition.
    pub value: String,
}

/// The names of a table's columns by number.
type Columns = BTreeMap<u32, String>;

/// Builds the canonical schema from these rows, without the tables of migration tools, and without what `ignore` names.
#[must_use]
pub(crate) fn schema(rows: &[Row], ignore: &IgnoreList) -> Schema {
    let mut columns: HashMap<&str, Columns> = HashMap::new();
    for row in rows.iter().filter(|row| row.facet == "column") {
        if let Some((number, name)) = numbered(&row.key) {
            columns.entry(row.object.as_str()).or_default().insert(number, name.to_string());
        }
    }
    let names: HashMap<&str, Vec<String>> =
        columns.iter().map(|(table, columns)| (*table, columns.values().cloned().collect())).collect();
    let is_bookkeeping_table =
        |table: &str| bookkeeping::is_bookkeeping(table, names.get(table).map_or(&[], Vec::as_slice));
    let (mut objects, mut ignored) = (Objects::new(), Objects::new());
    for row in rows {
        let table = match row.kind.as_str() {
            "i" | "trigger" => unquoted(&row.key),
            "S" => numbered(&row.key).map_or(String::new(), |(_, table)| unquoted(table)),
            _ => row.object.clone(),
        };
        if is_bookkeeping_table(&table) || (row.kind == "S" && is_part_of_default(row, rows)) {
            continue;
        }
        let (object, facet, value) = facet(row, &columns);
        let is_ignored = ignore.matches(ObjectKind::Table, &table);
        let facets = if is_ignored { &mut ignored } else { &mut objects }.entry(object).or_default();
        let Some(facet) = facet else { continue };
        // If the same facet exists twice, both act, so the value contains both.
        facets.entry(facet).and_modify(|first| *first = format!("{first} and {value}")).or_insert(value);
    }
    for (table, names) in &columns {
        let key = (ObjectKind::Table, (*table).to_string());
        let facets = if objects.contains_key(&key) { &mut objects } else { &mut ignored }.get_mut(&key);
        if let Some(facets) = facets {
            // A dump and restore may reorder the columns of a table that inherits some, so their order is not compared.
            let is_inherited = |(facet, key): &(FacetKind, String)| {
                *facet == FacetKind::Option && key.starts_with("INHERITS ")
            };
            let is_partition = |(facet, key): &(FacetKind, String)| {
                *facet == FacetKind::Option && key.contains("PARTITION ")
            };
            if facets.keys().any(is_inherited) && !facets.keys().any(is_partition) {
                continue;
            }
            let order: Vec<_> = names.values().map(String::as_str).collect();
            facets.insert((FacetKind::ColumnOrder, String::new()), order.join(", "));
        }
    }
    ignored.extend(take_ignored(&mut objects, ignore));
    Schema::new(objects, ignored, writes_may_delete(rows))
        .with_other_ledgers(names.iter().map(|(table, columns)| (*table, columns.as_slice())))
}

/// Returns the object of a row, the facet, and the facet's value.
fn facet(
    row: &Row,
    columns: &HashMap<&str, Columns>,
) -> ((ObjectKind, String), Option<(FacetKind, String)>, String) {
    let name = row.object.clone();
    let value = canonical(&row.value);
    if row.facet == "access" {
        return access(row);
    }
    let definition = Some((FacetKind::Definition, String::new()));
    let kind = match row.kind.as_str() {
        "v" => ObjectKind::View,
        "m" => ObjectKind::MaterializedView,
        "S" => ObjectKind::Sequence,
        "i" => return index(row, &value),
        "type" => ObjectKind::Type,
        "extension" => ObjectKind::Extension,
        "trigger" => {
            let text = value.strip_prefix("CREATE ").unwrap_or(&value).to_string();
            return ((ObjectKind::Trigger, format!("{name} on {}", row.key)), definition, text);
        }
        "function" => {
            let signature = format!("{name}({})", row.key);
            return (
                (ObjectKind::Function, signature),
                Some((FacetKind::Definition, row.facet.clone())),
                value,
            );
        }
        "statistics" => return ((ObjectKind::Other, format!("statistics {name}")), definition, value),
        "other" => return ((ObjectKind::Other, format!("{name} {}", row.key)), definition, value),
        "f" if row.facet == "object" => {
            return ((ObjectKind::Table, name), Some((FacetKind::Option, "FOREIGN".into())), value);
        }
        _ => ObjectKind::Table,
    };
    if kind != ObjectKind::Table && row.facet == "object" {
        return ((kind, name), definition, value);
    }
    let facet = match row.facet.as_str() {
        "object" if value.is_empty() => None,
        "object" => Some((FacetKind::Option, value.clone())),
        "column" => numbered(&row.key).map(|(_, column)| (FacetKind::Column, column.to_string())),
        "inherits" => Some((FacetKind::Option, format!("INHERITS {value}"))),
        "rule" => Some((FacetKind::Rule, row.key.clone())),
        "policy" => Some((FacetKind::Policy, row.key.clone())),
        _ => {
            let (facet, value) = constraint(row, &value, columns);
            return ((kind, name), Some(facet), value);
        }
    };
    let value = if matches!(row.facet.as_str(), "object" | "inherits") { String::new() } else { value };
    ((kind, name), facet, value)
}

/// Returns the object and facet of an access row, whose value is `grant SELECT to readers`, `owner app` or similar.
fn access(row: &Row) -> ((ObjectKind, String), Option<(FacetKind, String)>, String) {
    let object = match row.kind.as_str() {
        "schema" => (ObjectKind::Schema, String::new()),
        "v" => (ObjectKind::View, row.object.clone()),
        "m" => (ObjectKind::MaterializedView, row.object.clone()),
        "S" => (ObjectKind::Sequence, row.object.clone()),
        "type" => (ObjectKind::Type, row.object.clone()),
        "function" => (ObjectKind::Function, format!("{}({})", row.object, row.key)),
        _ => (ObjectKind::Table, row.object.clone()),
    };
    let (kind, key) = row.value.split_once(' ').unwrap_or((&row.value, ""));
    let facet = match kind {
        "owner" => FacetKind::Owner,
        "revoke" => FacetKind::Revoke,
        _ => FacetKind::Grant,
    };
    (object, Some((facet, key.to_string())), String::new())
}

/// Splits `7 name` into number and name.
fn numbered(key: &str) -> Option<(u32, &str)> {
    let (number, name) = key.split_once(' ')?;
    Some((number.parse().ok()?, name))
}

/// Whether a sequence only supplies the default of its column. It is part of the column then.
fn is_part_of_default(sequence: &Row, rows: &[Row]) -> bool {
    let Some((number, table)) = numbered(&sequence.key) else { return false };
    let table = unquoted(table);
    rows.iter().any(|row| {
        row.facet == "column"
            && row.object == table
            && numbered(&row.key).is_some_and(|(it, _)| it == number)
            && row.value.ends_with(&format!("next of {}", sequence.value))
    })
}

/// Returns the facet and value of a constraint, which is identified by its meaning. A name that Postgres generated is
/// left out. Any other name is part of the value, because statements can refer to it.
fn constraint(row: &Row, meaning: &str, columns: &HashMap<&str, Columns>) -> ((FacetKind, String), String) {
    let empty = Columns::new();
    let table_columns = columns.get(row.object.as_str()).unwrap_or(&empty);
    let (kind, suffix) = match row.facet.as_str() {
        "constraint p" => (FacetKind::PrimaryKey, "_pkey"),
        "constraint u" => (FacetKind::Unique, "_key"),
        "constraint f" => (FacetKind::ForeignKey, "_fkey"),
        "constraint c" => (FacetKind::Check, "_check"),
        _ => (FacetKind::Exclusion, "_excl"),
    };
    let (key, mut value) = match kind {
        FacetKind::ForeignKey => foreign_key(&row.value, table_columns, columns),
        FacetKind::PrimaryKey => (String::new(), key_columns(&row.value, table_columns).join(" ")),
        FacetKind::Unique => {
            let [key, options] = key_columns(&row.value, table_columns);
            (key, options)
        }
        _ => (meaning.to_string(), String::new()),
    };
    if !is_generated_name(&row.key, suffix) {
        value = format!("{value} named {}", row.key).trim_start().to_string();
    }
    ((kind, key), value)
}

/// Whether a name has the suffix of the names that Postgres generates.
fn is_generated_name(name: &str, suffix: &str) -> bool {
    name.trim_end_matches(|it: char| it.is_ascii_digit()).ends_with(suffix)
}

/// Splits `1 2 3 DEFERRABLE` (one key column, number 2, and one included column, number 3) into key and options.
fn key_columns(value: &str, table_columns: &Columns) -> [String; 2] {
    let mut words = value.split(' ');
    let count: usize = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
    let (mut names, mut options) = (Vec::new(), Vec::new());
    for word in words {
        match word.parse::<u32>() {
            Ok(number) if options.is_empty() => {
                names.push(table_columns.get(&number).map_or(word, String::as_str));
            }
            _ => options.push(word),
        }
    }
    let (keys, included) = names.split_at(count.min(names.len()));
    let included =
        if included.is_empty() { String::new() } else { format!("INCLUDE ({})", included.join(", ")) };
    let options =
        [included, options.join(" ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    [format!("({})", keys.join(", ")), options.join(" ")]
}

/// Splits `{2} tasks {1} acs  DEFERRABLE` into its columns with what they reference, and its actions.
fn foreign_key(value: &str, table_columns: &Columns, columns: &HashMap<&str, Columns>) -> (String, String) {
    let empty = Columns::new();
    let list = |text: &str, names: &Columns| {
        let numbers = text.trim_matches(['{', '}']).split(',');
        let names = numbers.map(|number| {
            number.parse().ok().and_then(|number: u32| names.get(&number)).map_or(number, String::as_str)
        });
        names.collect::<Vec<_>>().join(", ")
    };
    // A quoted table name may contain spaces, so the name is everything between the two lists.
    let parsed = || {
        let (keys, rest) = value.split_once("} ")?;
        let (parent, rest) = rest.split_once(" {")?;
        let (parent_keys, rest) = rest.split_once("} ")?;
        Some((keys, parent, parent_keys, rest))
    };
    let Some((keys, parent, parent_keys, rest)) = parsed() else { return (value.to_string(), String::new()) };
    let name = unquoted(parent);
    let parent_columns = columns.get(name.as_str()).unwrap_or(&empty);
    let action = |letter: Option<char>| match letter {
        Some('r') => "RESTRICT",
        Some('c') => "CASCADE",
        Some('n') => "SET NULL",
        Some('d') => "SET DEFAULT",
        _ => "",
    };
    let (actions, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut letters = actions.chars();
    let (update, delete, matching) = (action(letters.next()), action(letters.next()), letters.next());
    let mut parts = Vec::new();
    if !update.is_empty() {
        parts.push(format!("ON UPDATE {update}"));
    }
    if !delete.is_empty() {
        parts.push(format!("ON DELETE {delete}"));
    }
    if matching == Some('f') {
        parts.push("MATCH FULL".into());
    }
    for word in rest.split(' ').filter(|word| !word.is_empty()) {
        parts.push(if word.starts_with('{') {
            format!("({})", list(word, table_columns))
        } else {
            word.to_string()
        });
    }
    (
        format!("({}) references {name}({})", list(keys, table_columns), list(parent_keys, parent_columns)),
        parts.join(" "),
    )
}

/// Removes the quotes that the server adds to some names.
fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_string(),
    }
}

/// Returns the object, facet and value of an index. It is identified by its name, or by its definition if Postgres
/// generated the name.
fn index(row: &Row, meaning: &str) -> ((ObjectKind, String), Option<(FacetKind, String)>, String) {
    let name = &row.object;
    let unique = format!("CREATE UNIQUE INDEX {name} ON ");
    let plain = format!("CREATE INDEX {name} ON ");
    let text = match (meaning.strip_prefix(&unique), meaning.strip_prefix(&plain)) {
        (Some(rest), _) => format!("UNIQUE on {rest}"),
        (_, Some(rest)) => format!("on {rest}"),
        _ => meaning.to_string(),
    };
    let definition = Some((FacetKind::Definition, String::new()));
    let is_generated = is_generated_name(&unquoted(name), "_idx");
    let name = if is_generated { text.trim_end_matches(" INVALID").to_string() } else { unquoted(name) };
    ((ObjectKind::Index, name), definition, text)
}

/// Whether a trigger, a rule or a function may delete rows when other rows are written.
fn writes_may_delete(rows: &[Row]) -> bool {
    let functions: Vec<&Row> = rows.iter().filter(|row| row.kind == "function").collect();
    // Functions in PL/pgSQL are checked below, by their bodies.
    let calls_plpgsql = |trigger: &Row| {
        let call = trigger.value.rsplit_once("EXECUTE FUNCTION ").map_or("", |(_, after)| after);
        let name = unquoted(call.split('(').next().unwrap_or_default());
        functions.iter().any(|row| row.object == name && row.value.contains(" LANGUAGE plpgsql "))
    };
    let triggers: Vec<&Row> = rows.iter().filter(|row| row.kind == "trigger").collect();
    rows.iter().any(|row| row.facet == "rule")
        || triggers.iter().any(|trigger| !calls_plpgsql(trigger))
        // Not only triggers call functions: defaults and CHECK constraints do too.
        || functions.iter().any(|row| body_may_delete(&row.value))
}
