//! Turns a schema's catalog rows, read by `catalog_rows.sql`, into a text without the OIDs that this server assigned.
//!
//! Schemas with equal texts mean the same, so only one of them is read with `facets.sql`, which takes the server longer
//! than reading the rows. The reverse does not hold: schemas that mean the same may have different texts. Schemas that
//! differ must never have equal texts.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::sql::quote_name;

/// A row of `catalog_rows.sql`: hash (`None` if another row changes whenever this one does), objects, what, name, body,
/// tree, access.
pub(super) type Row =
    (Option<i64>, Vec<u32>, String, Option<String>, Option<String>, Option<String>, Option<String>);

/// The names of a schema's own objects in the text, by OID.
type ObjectNames = HashMap<u32, String>;

/// The types whose values are OIDs of objects that the text has names for: `regproc`, `regprocedure`, `regclass` and
/// `regtype`.
const OID_TYPES: [u32; 4] = [24, 2202, 2205, 2206];
/// The kinds of relations that the rows describe completely: tables, views, materialized views, sequences, indexes.
const COMPLETE_KINDS: [&str; 5] = ["r", "v", "m", "S", "i"];

/// A checksum of the rows, which stays the same as long as nothing about the schema changes. With `catalog_rows.sql`
/// the server can compute it as well. `mark` is that of the list of ignored objects.
pub(super) fn state(rows: &[Row], mark: &str) -> String {
    let hashes = || rows.iter().filter_map(|(hash, ..)| *hash);
    let sum: i128 = hashes().map(i128::from).sum();
    let state = if rows.is_empty() { "0".into() } else { format!("{}.{sum}", hashes().count()) };
    if mark.is_empty() { state } else { format!("{state}.{mark}") }
}

/// The text of a schema's rows. Returns `None` if they do not describe the schema completely.
pub(super) fn text(rows: &[Row], schema: &str) -> Option<Vec<u8>> {
    let names = object_names(rows)?;
    let own_role = [format!("{schema}="), format!("{}=", quote_name(schema))];
    let mut lines: Vec<Vec<u8>> = rows.iter().map(|row| line(row, &names, &own_role)).collect();
    lines.sort_unstable();
    Some(lines.concat())
}

/// Names for all objects that have an OID. Each is unique: the kind and, quoted, what distinguishes the object from
/// others of its kind. Returns `None` if the rows do not describe the schema completely.
fn object_names(rows: &[Row]) -> Option<ObjectNames> {
    let mut names = ObjectNames::with_capacity(rows.len());
    let mut parts = Vec::new();
    for (_, objects, what, name, ..) in rows {
        let name = name.as_deref().unwrap_or_default();
        let mut words = what.split(' ');
        match (words.next()?, words.next(), objects.as_slice()) {
            ("relation", Some(kind), [relation, row, ..]) if COMPLETE_KINDS.contains(&kind) => {
                names.insert(*relation, format!("relation{name:?}"));
                names.insert(*row, format!("row{name:?}"));
            }
            ("enum", _, [own_type, array]) => {
                names.insert(*own_type, format!("enum{name:?}"));
                names.insert(*array, format!("enums{name:?}"));
            }
            ("odd" | "relation" | "enum", ..) => return None,
            ("label" | "constraint", _, [object, owner, ..]) => {
                parts.push((*object, std::slice::from_ref(owner), name));
            }
            ("function", Some(arguments), [object, _, _, types @ ..]) => {
                parts.push((*object, types.get(..arguments.parse().ok()?)?, name));
            }
            _ => {}
        }
    }
    // OID 0 stands for no object.
    names.remove(&0);
    for (object, qualifiers, name) in parts {
        let mut part_name = String::from("part of");
        put_objects(&mut part_name, qualifiers, &names);
        let _ = write!(part_name, " {name:?}");
        names.insert(object, part_name);
    }
    Some(names)
}

/// One row: its parts, each preceded by its length.
fn line(
    (_, objects, what, name, body, tree, access): &Row,
    names: &ObjectNames,
    own_role: &[String],
) -> Vec<u8> {
    let (mut replaced, mut written) = (String::with_capacity(64), String::new());
    put_objects(&mut replaced, objects, names);
    if let Some(tree) = tree {
        written.reserve(tree.len());
        put_tree(&mut written, tree, names);
    }
    let granted = granted(access.as_deref().unwrap_or_default(), own_role);
    let mut line = Vec::with_capacity(replaced.len() + what.len() + written.len() + granted.len() + 64);
    for part in [Some(&replaced), Some(what), name.as_ref(), body.as_ref(), Some(&written), Some(&granted)] {
        // `None` differs from an empty text.
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        line.extend_from_slice(&length.to_le_bytes());
        line.extend_from_slice(part.map_or(&[], |part| part.as_bytes()));
    }
    line
}

/// The privileges on an object, except those of the project's own role, whose name differs in each project.
fn granted(access: &str, own_role: &[String]) -> String {
    let is_others = |line: &&str| !own_role.iter().any(|role| line.starts_with(role.as_str()));
    let mut lines: Vec<&str> = access.lines().filter(is_others).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Writes OIDs, or names for the schema's own objects.
fn put_objects(out: &mut String, objects: &[u32], names: &ObjectNames) {
    for object in objects {
        out.push(' ');
        match names.get(object) {
            Some(name) => out.push_str(name),
            // Writing to a string cannot fail.
            None => drop(write!(out, "{object}")),
        }
    }
}

/// Writes an expression as the server stores it, with names for the OIDs of the schema's own objects and without
/// positions in the original SQL.
///
/// A tree consists of lists and of nodes, `{LABEL :field value :field value}`. A number is treated as an OID unless its
/// field says otherwise. In text that a user wrote, the server puts a backslash before characters that would be
/// ambiguous.
fn put_tree(out: &mut String, tree: &str, names: &ObjectNames) {
    let mut rest = tree;
    let (mut field, mut const_type) = ("", "");
    while let Some(first) = rest.chars().next() {
        if is_delimiter(first) {
            // What follows is a label or a sibling node, not a value of the last field.
            if matches!(first, '{' | '}') {
                field = "";
            }
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(end_of_word(rest));
        rest = after;
        if word.starts_with(':') {
            field = word;
        } else if field.ends_with("location") || field == ":stmt_len" {
            continue;
        } else if field == ":constvalue" {
            field = "";
            let (value, after) = rest.split_at(rest.find(']').map_or(0, |end| end + 1));
            if word != "<>" && contains_oids(const_type, names) {
                out.push_str(word);
                put_value(out, value, names);
                rest = after;
                continue;
            }
        } else if field == ":consttype" {
            const_type = word;
        }
        let is_oid = !field.is_empty() && !field.contains("typmod") && !field.contains("typeMod");
        match word.parse().ok().and_then(|number: u32| names.get(&number)) {
            Some(name) if is_oid => out.push_str(name),
            _ => out.push_str(word),
        }
    }
}

/// Whether the server ends a word of a tree at this character.
fn is_delimiter(it: char) -> bool {
    matches!(it, '(' | ')' | '{' | '}' | ' ' | '\n' | '\t')
}

/// Where the first word of a tree ends.
fn end_of_word(tree: &str) -> usize {
    let mut is_escaped = false;
    for (index, it) in tree.char_indices() {
        if !is_escaped && is_delimiter(it) {
            return index;
        }
        is_escaped = !is_escaped && it == '\\';
    }
    tree.len()
}

/// Whether the values of a type contain OIDs of objects.
fn contains_oids(type_oid: &str, names: &ObjectNames) -> bool {
    let Ok(number) = type_oid.parse() else { return false };
    OID_TYPES.contains(&number) || names.get(&number).is_some_and(|name| name.starts_with("enum"))
}

/// Writes the bytes of a value, ` [ 23 -64 0 0 ]`, with names for the OIDs that groups of four bytes contain.
fn put_value(out: &mut String, value: &str, names: &ObjectNames) {
    let bytes: Vec<u8> = value
        .split(|it: char| it.is_whitespace() || it == '[' || it == ']')
        // The server writes bytes as signed or unsigned numbers, depending on its platform.
        .filter_map(|byte| byte.parse().ok().or_else(|| byte.parse().map(i8::cast_unsigned).ok()))
        .collect();
    for group in bytes.chunks(4) {
        let number = group.try_into().ok().map(u32::from_le_bytes);
        let _ = match number.and_then(|number| names.get(&number)) {
            Some(name) => write!(out, " {name}"),
            None => write!(out, " {group:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Row, put_tree, text};

    fn names() -> super::ObjectNames {
        [(16_400, "relation\"t\""), (16_410, "enum\"m\""), (16_411, "part of enum\"m\" \"a\"")]
            .map(|(number, name)| (number, name.to_string()))
            .into()
    }

    fn replaced(tree: &str) -> String {
        let mut out = String::new();
        put_tree(&mut out, tree, &names());
        out
    }

    #[test]
    fn a_number_is_an_objects_unless_its_field_says_otherwise() {
        for (tree, expected) in [
            ("{RTE :relid 16400}", "{RTE :relid relation\"t\"}"),
            ("{Q :dependencies (o 16400 7)}", "{Q :dependencies (o relation\"t\" 7)}"),
            ("{VAR :vartypmod 16400 :location 5}", "{VAR :vartypmod 16400 :location }"),
            (
                r#"{R :colnames ("16400" "x\ 16400") :alias x\ 16400}"#,
                r#"{R :colnames ("16400" "x\ 16400") :alias x\ 16400}"#,
            ),
            ("{A :args ({B :location 7} {C :x 1})}", "{A :args ({B :location } {C :x 1})}"),
            ("{A :alias :location[y :x 1}", "{A :alias :location[y :x 1}"),
            ("{R :coltypmods (i 16400) :typeMod 16400}", "{R :coltypmods (i 16400) :typeMod 16400}"),
            (
                "{CONST :consttype 2205 :constisnull false :constvalue 4 [ 16 64 0 0 0 0 0 0 ]}",
                "{CONST :consttype 2205 :constisnull false :constvalue 4 relation\"t\" [0, 0, 0, 0]}",
            ),
            (
                "{CONST :consttype 16410 :constvalue 4 [ 27 64 0 0 0 0 0 0 ] :args <>}",
                "{CONST :consttype enum\"m\" :constvalue 4 part of enum\"m\" \"a\" [0, 0, 0, 0] :args <>}",
            ),
            (
                "{CONST :consttype 23 :constvalue 4 [ 16 64 0 0 0 0 0 0 ]}",
                "{CONST :consttype 23 :constvalue 4 [ 16 64 0 0 0 0 0 0 ]}",
            ),
            (
                "{CONST :consttype 16410 :constvalue <>} {X :relid 16400}",
                "{CONST :consttype enum\"m\" :constvalue <>} {X :relid relation\"t\"}",
            ),
        ] {
            assert_eq!(replaced(tree), expected);
        }
    }

    fn table(shift: u32, name: &str) -> Vec<Row> {
        let (table, row) = (20_000 + shift, 20_001 + shift);
        vec![
            (
                Some(1),
                vec![table, row, 0],
                "relation r p f f d f".into(),
                Some(name.into()),
                None,
                None,
                None,
            ),
            (Some(2), vec![table, 23, 0], "column 1 -1 f    f f".into(), Some("a".into()), None, None, None),
        ]
    }

    #[test]
    fn what_is_not_told_has_no_text() {
        let mut rows = table(0, "t");
        assert!(text(&rows, "s").is_some());
        rows.push((Some(3), Vec::new(), "odd".into(), None, None, None, None));
        assert_eq!(text(&rows, "s"), None);
        let partitioned =
            (Some(1), vec![20_000, 20_001, 0], "relation p p f f d f".into(), None, None, None, None);
        assert_eq!(text(&[partitioned], "s"), None);
    }

    #[test]
    fn grants_count_but_for_those_of_the_projects_own_role() {
        let granted = |access: &str| {
            let mut rows = table(0, "t");
            rows[0].6 = Some(access.into());
            text(&rows, "project-1")
        };
        let plain = granted("owner=arwdDxt/owner\nreaders=r/owner");
        assert_eq!(granted("readers=r/owner\n\"project-1\"=arwd/owner\nowner=arwdDxt/owner"), plain);
        assert_ne!(granted("owner=arwdDxt/owner"), plain);
    }

    proptest! {
        #[test]
        fn any_tree_is_read_to_its_end(tree in ".{0,80}") {
            replaced(&tree);
        }

        #[test]
        fn numbers_and_order_say_nothing_and_names_do(shift in 0_u32..1_000_000, name in "[a-z \"@]{1,4}") {
            let mut rows = table(shift, &name);
            rows.reverse();
            prop_assert_eq!(text(&rows, "s"), text(&table(0, &name), "s"));
            prop_assert_ne!(text(&rows, "s"), text(&table(0, "other"), "s"));
        }
    }
}
