//! Statements about extensions of Postgres, which belong to the whole database.

use super::{Dialect, Token, TokenKind, quote_name, tokens};

/// A statement about an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExtensionStatement {
    Create(Extension),
    Drop,
    Comment,
}

/// An extension that a script creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) name: String,
    /// The schema that the script names.
    pub(crate) schema: Option<String>,
    pub(crate) version: Option<String>,
    /// Whether the extensions that it needs are created as well.
    pub(crate) cascade: bool,
}

impl Extension {
    /// Returns the statement that creates it in a schema, unless it exists.
    pub(crate) fn create_sql(&self, schema: Option<&str>) -> String {
        let part = |word: &str, name: Option<&str>| {
            name.map_or(String::new(), |name| format!(" {word} {}", quote_name(name)))
        };
        format!(
            "CREATE EXTENSION IF NOT EXISTS {}{}{}{}",
            quote_name(&self.name),
            part("SCHEMA", schema),
            part("VERSION", self.version.as_deref()),
            if self.cascade { " CASCADE" } else { "" }
        )
    }
}

/// Parses a statement about an extension. `None` if it is about something else, or has options that are not known.
pub(crate) fn parse(sql: &str) -> Option<ExtensionStatement> {
    let found = tokens(sql, Dialect::Postgres).ok()?;
    let [verb, rest @ ..] = found.as_slice() else { return None };
    if verb.is("COMMENT") {
        let is_extension = rest.first()?.is("ON") && rest.get(1)?.is("EXTENSION");
        return is_extension.then_some(ExtensionStatement::Comment);
    }
    let [kind, rest @ ..] = rest else { return None };
    match kind.is("EXTENSION") {
        true if verb.is("DROP") => Some(ExtensionStatement::Drop),
        true if verb.is("CREATE") => create(rest).map(ExtensionStatement::Create),
        _ => None,
    }
}

/// Parses what follows `CREATE EXTENSION`.
fn create(mut rest: &[Token<'_>]) -> Option<Extension> {
    if let [a, b, c, after @ ..] = rest
        && a.is("IF")
        && b.is("NOT")
        && c.is("EXISTS")
    {
        rest = after;
    }
    let (first, mut rest) = rest.split_first()?;
    let mut extension = Extension { name: name(first)?, schema: None, version: None, cascade: false };
    loop {
        rest = match rest {
            [] => return Some(extension),
            [with, after @ ..] if with.is("WITH") => after,
            [cascade, after @ ..] if cascade.is("CASCADE") => {
                extension.cascade = true;
                after
            }
            [schema, value, after @ ..] if schema.is("SCHEMA") => {
                extension.schema = Some(name(value)?);
                after
            }
            [version, value, after @ ..] if version.is("VERSION") => {
                extension.version = Some(name(value)?);
                after
            }
            _ => return None,
        };
    }
}

/// A name without its quotes, or in lower case if it has none.
fn name(token: &Token<'_>) -> Option<String> {
    let text = token.text;
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return Some(inner.replace(&format!("{quote}{quote}"), &quote.to_string()));
        }
    }
    (token.kind == TokenKind::Word).then(|| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_statement_are_found() {
        let all =
            r#"create extension if not exists "uuid-ossp" with schema Extensions version '1.1' cascade"#;
        let extension = Extension {
            name: "uuid-ossp".into(),
            schema: Some("extensions".into()),
            version: Some("1.1".into()),
            cascade: true,
        };
        assert_eq!(parse(all), Some(ExtensionStatement::Create(extension)));
        let plain = Extension { name: "citext".into(), schema: None, version: None, cascade: false };
        assert_eq!(parse("CREATE EXTENSION citext"), Some(ExtensionStatement::Create(plain)));
        assert_eq!(parse("DROP EXTENSION citext"), Some(ExtensionStatement::Drop));
        assert_eq!(parse("COMMENT ON EXTENSION citext IS 'x'"), Some(ExtensionStatement::Comment));
        for other in [
            "ALTER EXTENSION citext UPDATE",
            "CREATE TABLE extension (id int)",
            "COMMENT ON TABLE t IS 'x'",
            "CREATE EXTENSION citext FROM unpackaged",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
