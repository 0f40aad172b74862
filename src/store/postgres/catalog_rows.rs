//! A schema's rows in the catalogs, without the numbers that this server gave its objects.
//!
//! Two schemas with one text mean the same, so that only one of them need be spelled out, which takes the server longer
//! than reading the rows. The other way round nothing is promised: it must rather tell two apart that are alike than take
//! two for one that are not. It must not ask a database: `catalog_rows.sql` does.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::sql::quote_name;

/// A row as `catalog_rows.sql` gives it: hash, where no other row's changes with it, objects, what, name, body, tree, access.
pub(super) type Row =
    (Option<i64>, Vec<u32>, String, Option<String>, Option<String>, Option<String>, Option<String>);

/// What a schema's own objects are called in the text, by their numbers.
type Own = HashMap<u32, String>;

/// The types whose values are numbers of objects that a schema's text has names for: `regproc`, `regprocedure`, `regclass`
/// and `regtype`.
const REFERENCES: [u32; 4] = [24, 2202, 2205, 2206];
/// The kinds of relations that a row tells all about: tables, views, materialized views, sequences, indexes.
const PLAIN: [&str; 5] = ["r", "v", "m", "S", "i"];

/// What these rows come to: the same as long as nothing about the schema changed. `catalog_rows.sql` has it summed up by the
/// server as well.
pub(super) fn state(rows: &[Row]) -> String {
    let hashes = || rows.iter().filter_map(|(hash, ..)| *hash);
    let sum: i128 = hashes().map(i128::from).sum();
    if rows.is_empty() { "0".into() } else { format!("{}.{sum}", hashes().count()) }
}

/// The text of these rows of a schema; none where they don't tell all of it.
pub(super) fn text(rows: &[Row], schema: &str) -> Option<Vec<u8>> {
    let own = own(rows)?;
    let own_role = [format!("{schema}="), format!("{}=", quote_name(schema))];
    let mut lines: Vec<Vec<u8>> = rows.iter().map(|row| line(row, &own, &own_role)).collect();
    lines.sort_unstable();
    Some(lines.concat())
}

/// Names for all objects that have a number. Each is unique: the kind, and quoted what tells it from others of its kind.
fn own(rows: &[Row]) -> Option<Own> {
    let mut own = Own::with_capacity(rows.len());
    let mut later = Vec::new();
    for (_, objects, what, name, ..) in rows {
        let name = name.as_deref().unwrap_or_default();
        let mut words = what.split(' ');
        match (words.next()?, words.next(), objects.as_slice()) {
            ("relation", Some(kind), [relation, row, ..]) if PLAIN.contains(&kind) => {
                own.insert(*relation, format!("relation{name:?}"));
                own.insert(*row, format!("row{name:?}"));
            }
            ("enum", _, [own_type, array]) => {
                own.insert(*own_type, format!("enum{name:?}"));
                own.insert(*array, format!("enums{name:?}"));
            }
            ("odd" | "relation" | "enum", ..) => return None,
            ("label" | "constraint", _, [object, of, ..]) => {
                later.push((*object, std::slice::from_ref(of), name));
            }
            ("function", Some(arguments), [object, _, _, types @ ..]) => {
                later.push((*object, types.get(..arguments.parse().ok()?)?, name));
            }
            _ => {}
        }
    }
    // None of an object's number is 0.
    own.remove(&0);
    for (object, of, name) in later {
        let mut called = String::from("part of");
        put_objects(&mut called, of, &own);
        let _ = write!(called, " {name:?}");
        own.insert(object, called);
    }
    Some(own)
}

/// One row: its parts, each after its length.
fn line((_, objects, what, name, body, tree, access): &Row, own: &Own, own_role: &[String]) -> Vec<u8> {
    let (mut named, mut written) = (String::with_capacity(64), String::new());
    put_objects(&mut named, objects, own);
    if let Some(tree) = tree {
        written.reserve(tree.len());
        put_tree(&mut written, tree, own);
    }
    let granted = granted(access.as_deref().unwrap_or_default(), own_role);
    let mut line = Vec::with_capacity(named.len() + what.len() + written.len() + granted.len() + 64);
    for part in [Some(&named), Some(what), name.as_ref(), body.as_ref(), Some(&written), Some(&granted)] {
        // Nothing is not the same as an empty text.
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        line.extend_from_slice(&length.to_le_bytes());
        line.extend_from_slice(part.map_or(&[], |part| part.as_bytes()));
    }
    line
}

/// Whom an object is granted to, but for the role of the schema's own name, which every project has another of.
fn granted(access: &str, own_role: &[String]) -> String {
    let is_others = |line: &&str| !own_role.iter().any(|role| line.starts_with(role.as_str()));
    let mut lines: Vec<&str> = access.lines().filter(is_others).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Numbers of objects, with names for those of the schema's own.
fn put_objects(out: &mut String, objects: &[u32], own: &Own) {
    for object in objects {
        out.push(' ');
        match own.get(object) {
            Some(name) => out.push_str(name),
            // Writing to a string can't fail.
            None => drop(write!(out, "{object}")),
        }
    }
}

/// An expression as the server keeps it, with names for the numbers of the schema's own objects and without the places in
/// the SQL that it was written at.
///
/// It is made of lists and of nodes, `{LABEL :field value :field value}`. A number there is an object's unless its field
/// says otherwise; a text of the user's has a backslash before what would let it be taken for something else.
fn put_tree(out: &mut String, tree: &str, own: &Own) {
    let mut rest = tree;
    let (mut field, mut of) = ("", "");
    while let Some(first) = rest.chars().next() {
        if is_delimiter(first) {
            // What comes next is a label, or another node's neighbour: no value of the last field.
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
            if word != "<>" && refers(of, own) {
                out.push_str(word);
                put_value(out, value, own);
                rest = after;
                continue;
            }
        } else if field == ":consttype" {
            of = word;
        }
        let is_number_of_an_object =
            !field.is_empty() && !field.contains("typmod") && !field.contains("typeMod");
        match word.parse().ok().and_then(|number: u32| own.get(&number)) {
            Some(name) if is_number_of_an_object => out.push_str(name),
            _ => out.push_str(word),
        }
    }
}

/// What the server ends a word of a tree at.
fn is_delimiter(it: char) -> bool {
    matches!(it, '(' | ')' | '{' | '}' | ' ' | '\n' | '\t')
}

/// Where the word ends that a tree begins with.
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

/// Whether a type's values have numbers of objects in them.
fn refers(of: &str, own: &Own) -> bool {
    let Ok(number) = of.parse() else { return false };
    REFERENCES.contains(&number) || own.get(&number).is_some_and(|name| name.starts_with("enum"))
}

/// The bytes of a value, ` [ 23 -64 0 0 ]`, with names for the numbers that they have in groups of four.
fn put_value(out: &mut String, value: &str, own: &Own) {
    let bytes: Vec<u8> = value
        .split(|it: char| it.is_whitespace() || it == '[' || it == ']')
        // How the server writes a byte depends on whether its characters have signs.
        .filter_map(|byte| byte.parse().ok().or_else(|| byte.parse().map(i8::cast_unsigned).ok()))
        .collect();
    for group in bytes.chunks(4) {
        let number = group.try_into().ok().map(u32::from_le_bytes);
        let _ = match number.and_then(|number| own.get(&number)) {
            Some(name) => write!(out, " {name}"),
            None => write!(out, " {group:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Row, put_tree, text};

    fn own() -> super::Own {
        [(16_400, "relation\"t\""), (16_410, "enum\"m\""), (16_411, "part of enum\"m\" \"a\"")]
            .map(|(number, name)| (number, name.to_string()))
            .into()
    }

    fn named(tree: &str) -> String {
        let mut out = String::new();
        put_tree(&mut out, tree, &own());
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
            assert_eq!(named(tree), expected);
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
            named(&tree);
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
