//! Postgres' catalogs as a canonical schema.
//!
//! It must work on rows alone, as `store/postgres/facets.sql` gives them: no database is asked here.

use std::collections::{BTreeMap, HashMap};

use super::deparsed::canonical;
use super::{FacetKind, ObjectKind, Objects, Schema, bookkeeping};
use crate::sql::effect::may_delete_in_a_body;

/// One facet of an object, as the catalogs have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// A relation's kind as in `pg_class`, or `type`, `function`, `trigger`, `extension`, `statistics`, `other`.
    pub kind: String,
    /// The object's name.
    pub object: String,
    /// `object`, `column`, `constraint` with its kind, `inherits`, `rule`, `policy`, `access`; of a function its kind.
    pub facet: String,
    /// What tells the facet from others of its kind.
    pub key: String,
    /// What it is.
    pub value: String,
}

/// The names of a table's columns by their numbers.
type Columns = BTreeMap<u32, String>;

/// The canonical schema of these rows, without the tables of migration tools.
#[must_use]
pub fn schema(rows: &[Row]) -> Schema {
    let mut columns: HashMap<&str, Columns> = HashMap::new();
    for row in rows.iter().filter(|row| row.facet == "column") {
        if let Some((number, name)) = numbered(&row.key) {
            columns.entry(row.object.as_str()).or_default().insert(number, name.to_string());
        }
    }
    let is_books = |table: &str| {
        let names: Vec<String> = columns.get(table).into_iter().flat_map(|it| it.values().cloned()).collect();
        bookkeeping::is_bookkeeping(table, &names)
    };
    let mut objects = Objects::new();
    for row in rows {
        let belongs_to = match row.kind.as_str() {
            "i" | "trigger" => unquoted(&row.key),
            "S" => numbered(&row.key).map_or(String::new(), |(_, table)| unquoted(table)),
            _ => row.object.clone(),
        };
        if is_books(&belongs_to) || (row.kind == "S" && is_of_a_default(row, rows)) {
            continue;
        }
        let (object, facet, value) = facet(row, &columns);
        let facets = objects.entry(object).or_default();
        let Some(facet) = facet else { continue };
        // The same twice: both act, and both are there.
        facets.entry(facet).and_modify(|known| *known = format!("{known} and {value}")).or_insert(value);
    }
    for (table, names) in &columns {
        if let Some(facets) = objects.get_mut(&(ObjectKind::Table, (*table).to_string())) {
            // A dump writes the columns of a table that inherits some in another order.
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
    Schema::new(objects, writes_may_delete(rows))
}

/// The object that a row is about, which facet of it, and the facet's value.
fn facet(
    row: &Row,
    columns: &HashMap<&str, Columns>,
) -> ((ObjectKind, String), Option<(FacetKind, String)>, String) {
    let name = row.object.clone();
    let value = canonical(&row.value);
    if row.facet == "access" {
        return access(row);
    }
    let whole = Some((FacetKind::Definition, String::new()));
    let kind = match row.kind.as_str() {
        "v" => ObjectKind::View,
        "m" => ObjectKind::MaterializedView,
        "S" => ObjectKind::Sequence,
        "i" => return index(row, &value),
        "type" => ObjectKind::Type,
        "extension" => ObjectKind::Extension,
        "trigger" => {
            let text = value.strip_prefix("CREATE ").unwrap_or(&value).to_string();
            return ((ObjectKind::Trigger, format!("{name} on {}", row.key)), whole, text);
        }
        "function" => {
            let signature = format!("{name}({})", row.key);
            return (
                (ObjectKind::Function, signature),
                Some((FacetKind::Definition, row.facet.clone())),
                value,
            );
        }
        "statistics" => return ((ObjectKind::Other, format!("statistics {name}")), whole, value),
        "other" => return ((ObjectKind::Other, format!("{name} {}", row.key)), whole, value),
        "f" if row.facet == "object" => {
            return ((ObjectKind::Table, name), Some((FacetKind::Option, "FOREIGN".into())), value);
        }
        _ => ObjectKind::Table,
    };
    if kind != ObjectKind::Table && row.facet == "object" {
        return ((kind, name), whole, value);
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

/// `grant SELECT to readers`, `owner app` and the like, of an object.
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
    let (what, whom) = row.value.split_once(' ').unwrap_or((&row.value, ""));
    let facet = match what {
        "owner" => FacetKind::Owner,
        "revoke" => FacetKind::Revoke,
        _ => FacetKind::Grant,
    };
    (object, Some((facet, whom.to_string())), String::new())
}

/// `7 name` as number and name.
fn numbered(key: &str) -> Option<(u32, &str)> {
    let (number, name) = key.split_once(' ')?;
    Some((number.parse().ok()?, name))
}

/// A sequence that only feeds its column's default is a part of that column.
fn is_of_a_default(sequence: &Row, rows: &[Row]) -> bool {
    let Some((number, table)) = numbered(&sequence.key) else { return false };
    let table = unquoted(table);
    rows.iter().any(|row| {
        row.facet == "column"
            && row.object == table
            && numbered(&row.key).is_some_and(|(it, _)| it == number)
            && row.value.ends_with(&format!("next of {}", sequence.value))
    })
}

/// A constraint by what it means. A name that Postgres made up says nothing and is left out; one that somebody chose can
/// be referred to, and counts.
fn constraint(row: &Row, meaning: &str, columns: &HashMap<&str, Columns>) -> ((FacetKind, String), String) {
    let empty = Columns::new();
    let own = columns.get(row.object.as_str()).unwrap_or(&empty);
    let (kind, suffix) = match row.facet.as_str() {
        "constraint p" => (FacetKind::PrimaryKey, "_pkey"),
        "constraint u" => (FacetKind::Unique, "_key"),
        "constraint f" => (FacetKind::ForeignKey, "_fkey"),
        "constraint c" => (FacetKind::Check, "_check"),
        _ => (FacetKind::Exclusion, "_excl"),
    };
    let (key, mut value) = match kind {
        FacetKind::ForeignKey => foreign_key(&row.value, own, columns),
        FacetKind::PrimaryKey => (String::new(), key_columns(&row.value, own).join(" ")),
        FacetKind::Unique => {
            let [key, rest] = key_columns(&row.value, own);
            (key, rest)
        }
        _ => (meaning.to_string(), String::new()),
    };
    if !is_made_up(&row.key, suffix) {
        value = format!("{value} named {}", row.key).trim_start().to_string();
    }
    ((kind, key), value)
}

/// Whether a name ends as those do that Postgres makes up.
fn is_made_up(name: &str, suffix: &str) -> bool {
    name.trim_end_matches(|it: char| it.is_ascii_digit()).ends_with(suffix)
}

/// `1 2 3 DEFERRABLE` (one key column, number 2; another included, number 3) as key and rest.
fn key_columns(value: &str, own: &Columns) -> [String; 2] {
    let mut words = value.split(' ');
    let count: usize = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
    let (mut names, mut rest) = (Vec::new(), Vec::new());
    for word in words {
        match word.parse::<u32>() {
            Ok(number) if rest.is_empty() => names.push(own.get(&number).map_or(word, String::as_str)),
            _ => rest.push(word),
        }
    }
    let (keys, included) = names.split_at(count.min(names.len()));
    let included =
        if included.is_empty() { String::new() } else { format!("INCLUDE ({})", included.join(", ")) };
    let rest = [included, rest.join(" ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    [format!("({})", keys.join(", ")), rest.join(" ")]
}

/// `{2} tasks {1} acs  DEFERRABLE` as what it references, and what happens then.
fn foreign_key(value: &str, own: &Columns, columns: &HashMap<&str, Columns>) -> (String, String) {
    let empty = Columns::new();
    let list = |text: &str, names: &Columns| {
        let numbers = text.trim_matches(['{', '}']).split(',');
        let names = numbers.map(|number| {
            number.parse().ok().and_then(|number: u32| names.get(&number)).map_or(number, String::as_str)
        });
        names.collect::<Vec<_>>().join(", ")
    };
    // The table's name may have spaces in quotes, so it is what stands between the two lists.
    let parsed = || {
        let (keys, rest) = value.split_once("} ")?;
        let (parent, rest) = rest.split_once(" {")?;
        let (parent_keys, rest) = rest.split_once("} ")?;
        Some((keys, parent, parent_keys, rest))
    };
    let Some((keys, parent, parent_keys, rest)) = parsed() else { return (value.to_string(), String::new()) };
    let name = unquoted(parent);
    let parents = columns.get(name.as_str()).unwrap_or(&empty);
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
        parts.push(if word.starts_with('{') { format!("({})", list(word, own)) } else { word.to_string() });
    }
    (format!("({}) references {name}({})", list(keys, own), list(parent_keys, parents)), parts.join(" "))
}

/// A name as the server spells it, without the quotes it may need there.
fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_string(),
    }
}

/// An index by its name, or by what it means where Postgres made the name up.
fn index(row: &Row, meaning: &str) -> ((ObjectKind, String), Option<(FacetKind, String)>, String) {
    let name = &row.object;
    let unique = format!("CREATE UNIQUE INDEX {name} ON ");
    let plain = format!("CREATE INDEX {name} ON ");
    let text = match (meaning.strip_prefix(&unique), meaning.strip_prefix(&plain)) {
        (Some(rest), _) => format!("UNIQUE on {rest}"),
        (_, Some(rest)) => format!("on {rest}"),
        _ => meaning.to_string(),
    };
    let whole = Some((FacetKind::Definition, String::new()));
    let is_made_up = is_made_up(&unquoted(name), "_idx");
    let name = if is_made_up { text.trim_end_matches(" INVALID").to_string() } else { unquoted(name) };
    ((ObjectKind::Index, name), whole, text)
}

/// Whether a trigger or a rule may delete rows when others are written.
fn writes_may_delete(rows: &[Row]) -> bool {
    let functions: Vec<&Row> = rows.iter().filter(|row| row.kind == "function").collect();
    let is_harmless = |trigger: &Row| {
        let called = trigger.value.rsplit_once("EXECUTE FUNCTION ").map_or("", |(_, call)| call);
        let name = unquoted(called.split('(').next().unwrap_or_default());
        functions.iter().any(|row| row.object == name && row.value.contains(" LANGUAGE plpgsql "))
    };
    let triggers: Vec<&Row> = rows.iter().filter(|row| row.kind == "trigger").collect();
    rows.iter().any(|row| row.facet == "rule")
        || triggers.iter().any(|trigger| !is_harmless(trigger))
        // A default or a condition may call it as well as a trigger.
        || functions.iter().any(|row| may_delete_in_a_body(&row.value))
}
