//! A schema as text: its objects, each with what it consists of, in an order that is always the same.

use std::fmt::Write as _;

use serde::ser::{SerializeStruct as _, Serializer};

use super::{ObjectKind, Schema};

impl Schema {
    /// Returns the schema as text, with one line for each object, and indented below it those of each of its parts.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for ((kind, name), facets) in &self.objects {
            if *kind == ObjectKind::Schema && facets.is_empty() {
                continue;
            }
            let name = if *kind == ObjectKind::Schema { "" } else { name };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", format!("{kind} {name}").trim_end());
            for ((facet, key), value) in facets {
                let facet = facet.to_string();
                let parts = [&facet, key, value].map(String::as_str);
                let part: Vec<&str> = parts.into_iter().filter(|it| !it.is_empty()).collect();
                for (index, line) in part.join(" ").lines().enumerate() {
                    let _ = writeln!(text, "{}{line}", if index == 0 { "    " } else { "        " });
                }
            }
        }
        text
    }
}

/// Its fingerprint, and its objects with their kind, name and parts.
impl serde::Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Part<'a> {
            kind: String,
            name: &'a str,
            value: &'a str,
        }
        #[derive(serde::Serialize)]
        struct Object<'a> {
            kind: String,
            name: &'a str,
            parts: Vec<Part<'a>>,
        }
        let mut objects = Vec::new();
        for ((kind, name), facets) in &self.objects {
            let mut parts = Vec::new();
            for ((part, key), value) in facets {
                parts.push(Part { kind: part.to_string(), name: key, value });
            }
            objects.push(Object { kind: kind.to_string(), name, parts });
        }
        let mut object = serializer.serialize_struct("Schema", 2)?;
        object.serialize_field("fingerprint", &self.fingerprint.to_string())?;
        object.serialize_field("objects", &objects)?;
        object.end()
    }
}
