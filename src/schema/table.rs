//! Parses a SQLite `CREATE TABLE` statement into facets.
//!
//! A constraint gives the same facets whether it is written at its column or at the table. A statement that cannot be
//! parsed gives `None`; callers then compare the whole definition.

use super::expression::{bracket_length, expression, name, split_commas};
use super::{FacetKind, Facets};
use crate::sql::{Token, TokenKind};

/// A parsed table. Foreign keys are not yet resolved against the primary keys of their parents.
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) primary_key: Vec<String>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) facets: Facets,
}

/// A foreign key as written. Without parent columns it references the parent's primary key.
pub(super) struct ForeignKey {
    columns: Vec<String>,
    pub(super) parent: String,
    parent_columns: Vec<String>,
    actions: String,
}

impl ForeignKey {
    /// Returns its facet. `parent_key` is the primary key of the parent, if known.
    pub(super) fn facet(&self, parent_key: Option<&[String]>) -> ((FacetKind, String), String) {
        let parent_columns = match parent_key {
            Some(key) if self.parent_columns.is_empty() => key,
            _ => &self.parent_columns,
        };
        let key = format!(
            "({}) references {}({})",
            self.columns.join(", "),
            self.parent,
            parent_columns.join(", ")
        );
        ((FacetKind::ForeignKey, key), self.actions.clone())
    }
}

/// Parses the tokens after the table's name. Returns `None` if they cannot be parsed.
pub(super) fn parse(tokens: &[Token<'_>]) -> Option<Table> {
    let length = bracket_length(tokens)?;
    let items = split_commas(&tokens[1..length - 1]);
    let is_column = |item: &&[Token<'_>]| item.first().is_some_and(|token| !starts_constraint(token));
    let columns: Vec<_> = items.iter().copied().filter(is_column).map(|item| name(&item[0])).collect();
    let mut reader = Reader {
        columns: &columns,
        primary_key: Vec::new(),
        foreign_keys: Vec::new(),
        facets: Facets::new(),
    };
    for item in &items {
        if is_column(item) {
            reader.column(&mut Cursor { tokens: item })?;
        } else {
            reader.table_constraints(&mut Cursor { tokens: item })?;
        }
    }
    for option in split_commas(&tokens[length..]).into_iter().filter(|option| !option.is_empty()) {
        reader.put(FacetKind::Option, expression(option, None).to_ascii_uppercase(), String::new());
    }
    reader.put(FacetKind::ColumnOrder, String::new(), columns.join(", "));
    let Reader { primary_key, foreign_keys, facets, .. } = reader;
    Some(Table { columns, primary_key, foreign_keys, facets })
}

fn starts_constraint(token: &Token<'_>) -> bool {
    ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"].iter().any(|word| token.is(word))
}

struct Cursor<'a, 'b> {
    tokens: &'a [Token<'b>],
}

impl<'a, 'b> Cursor<'a, 'b> {
    fn next(&mut self) -> Option<&'a Token<'b>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    /// Consumes these words if they come next. Returns whether they did.
    fn take(&mut self, words: &[&str]) -> bool {
        let found = self.tokens.len() >= words.len()
            && self.tokens.iter().zip(words).all(|(token, word)| token.is(word));
        if found {
            self.tokens = &self.tokens[words.len()..];
        }
        found
    }

    /// Consumes the brackets that come next, and returns their content.
    fn brackets(&mut self) -> Option<&'a [Token<'b>]> {
        self.tokens.first().filter(|token| token.is_symbol("("))?;
        let length = bracket_length(self.tokens)?;
        let (inside, rest) = self.tokens.split_at(length);
        self.tokens = rest;
        Some(&inside[1..length - 1])
    }

    /// Consumes an `ON CONFLICT` clause, and returns it unless it is the default.
    fn conflict(&mut self) -> Option<String> {
        if !self.take(&["ON", "CONFLICT"]) {
            return Some(String::new());
        }
        let rule = self.next()?.text.to_ascii_uppercase();
        Some(if rule == "ABORT" { String::new() } else { format!(" ON CONFLICT {rule}") })
    }
}

struct Reader<'c> {
    columns: &'c [String],
    primary_key: Vec<String>,
    foreign_keys: Vec<ForeignKey>,
    facets: Facets,
}

/// The parts of a column's value, in the order in which they are shown.
#[derive(Default)]
struct Column {
    data_type: String,
    not_null: String,
    default: String,
    collation: String,
    generated: String,
}

impl Reader<'_> {
    fn put(&mut self, kind: FacetKind, key: String, value: String) {
        self.facets.insert((kind, key), value);
    }

    fn column(&mut self, cursor: &mut Cursor<'_, '_>) -> Option<()> {
        let column_name = name(cursor.next()?);
        let mut column = Column { data_type: data_type(cursor)?, ..Column::default() };
        while !cursor.tokens.is_empty() {
            self.column_constraint(cursor, &column_name, &mut column)?;
        }
        let parts = [column.data_type, column.not_null, column.default, column.collation, column.generated];
        let value =
            parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
        self.put(FacetKind::Column, column_name, value);
        Some(())
    }

    fn column_constraint(
        &mut self,
        cursor: &mut Cursor<'_, '_>,
        column_name: &str,
        column: &mut Column,
    ) -> Option<()> {
        if cursor.take(&["CONSTRAINT"]) {
            cursor.next()?;
        } else if cursor.take(&["NOT", "NULL"]) {
            column.not_null = format!("NOT NULL{}", cursor.conflict()?);
        } else if cursor.take(&["NULL"]) {
            cursor.conflict()?;
        } else if cursor.take(&["DEFAULT"]) {
            column.default = default(cursor)?;
        } else if cursor.take(&["COLLATE"]) {
            column.collation = collation(cursor)?;
        } else if cursor.take(&["GENERATED", "ALWAYS", "AS"]) || cursor.take(&["AS"]) {
            let body = expression(cursor.brackets()?, Some(self.columns));
            let stored = cursor.take(&["STORED"]);
            cursor.take(&["VIRTUAL"]);
            column.generated = format!("AS ({body}) {}", if stored { "STORED" } else { "VIRTUAL" });
        } else if cursor.take(&["PRIMARY", "KEY"]) {
            self.column_primary_key(cursor, column_name)?;
        } else if cursor.take(&["UNIQUE"]) {
            let conflict = cursor.conflict()?;
            self.put(FacetKind::Unique, format!("({column_name})"), conflict.trim().into());
        } else if cursor.take(&["CHECK"]) {
            self.check(cursor)?;
        } else if cursor.take(&["REFERENCES"]) {
            self.references(cursor, vec![column_name.to_string()])?;
        } else {
            return None;
        }
        Some(())
    }

    /// `INTEGER PRIMARY KEY DESC` at a column is not an alias of the rowid, unlike every other spelling.
    fn column_primary_key(&mut self, cursor: &mut Cursor<'_, '_>, column_name: &str) -> Option<()> {
        let descending = cursor.take(&["DESC"]);
        cursor.take(&["ASC"]);
        let conflict = cursor.conflict()?;
        let automatic = if cursor.take(&["AUTOINCREMENT"]) { " AUTOINCREMENT" } else { "" };
        let order = if descending { " DESC at the column" } else { "" };
        self.primary_key = vec![column_name.to_string()];
        self.put(
            FacetKind::PrimaryKey,
            String::new(),
            format!("({column_name}){order}{conflict}{automatic}"),
        );
        Some(())
    }

    fn table_constraints(&mut self, cursor: &mut Cursor<'_, '_>) -> Option<()> {
        while !cursor.tokens.is_empty() {
            if cursor.take(&["CONSTRAINT"]) {
                cursor.next()?;
            } else if cursor.take(&["PRIMARY", "KEY"]) {
                let inside = cursor.brackets()?;
                self.primary_key =
                    split_commas(inside).into_iter().filter_map(|it| it.first()).map(name).collect();
                let (columns, automatic) = self.indexed_columns(inside);
                let conflict = cursor.conflict()?;
                let automatic = if automatic { " AUTOINCREMENT" } else { "" };
                self.put(
                    FacetKind::PrimaryKey,
                    String::new(),
                    format!("({}){conflict}{automatic}", columns.join(", ")),
                );
            } else if cursor.take(&["UNIQUE"]) {
                let (columns, _) = self.indexed_columns(cursor.brackets()?);
                let conflict = cursor.conflict()?;
                self.put(FacetKind::Unique, format!("({})", columns.join(", ")), conflict.trim().into());
            } else if cursor.take(&["CHECK"]) {
                self.check(cursor)?;
            } else if cursor.take(&["FOREIGN", "KEY"]) {
                let columns = column_names(cursor.brackets()?);
                cursor.take(&["REFERENCES"]).then_some(())?;
                self.references(cursor, columns)?;
            } else {
                return None;
            }
        }
        Some(())
    }

    /// Returns the columns in canonical spelling (`a` for `a COLLATE binary ASC`), and whether AUTOINCREMENT follows.
    fn indexed_columns(&self, tokens: &[Token<'_>]) -> (Vec<String>, bool) {
        let automatic = tokens.last().is_some_and(|token| token.is("AUTOINCREMENT"));
        let tokens = if automatic { &tokens[..tokens.len() - 1] } else { tokens };
        (
            split_commas(tokens)
                .into_iter()
                .map(|column| indexed_column(column, Some(self.columns)))
                .collect(),
            automatic,
        )
    }

    fn check(&mut self, cursor: &mut Cursor<'_, '_>) -> Option<()> {
        let body = expression(cursor.brackets()?, Some(self.columns));
        cursor.conflict()?;
        self.put(FacetKind::Check, format!("({body})"), String::new());
        Some(())
    }

    fn references(&mut self, cursor: &mut Cursor<'_, '_>, columns: Vec<String>) -> Option<()> {
        let parent = name(cursor.next()?);
        let parent_columns = match cursor.brackets() {
            Some(tokens) => column_names(tokens),
            None => Vec::new(),
        };
        let actions = actions(cursor)?;
        self.foreign_keys.push(ForeignKey { columns, parent, parent_columns, actions });
        Some(())
    }
}

fn column_names(tokens: &[Token<'_>]) -> Vec<String> {
    split_commas(tokens).into_iter().filter_map(|column| column.first()).map(name).collect()
}

/// Returns the actions of a foreign key, except the default ones. SQLite parses MATCH and ignores it.
fn actions(cursor: &mut Cursor<'_, '_>) -> Option<String> {
    let mut found = [String::new(), String::new(), String::new()];
    loop {
        let slot = match () {
            () if cursor.take(&["ON", "DELETE"]) => 0,
            () if cursor.take(&["ON", "UPDATE"]) => 1,
            () if cursor.take(&["MATCH"]) => {
                cursor.next()?;
                continue;
            }
            () if cursor.take(&["NOT", "DEFERRABLE"]) => {
                let _ = cursor.take(&["INITIALLY", "DEFERRED"]) || cursor.take(&["INITIALLY", "IMMEDIATE"]);
                continue;
            }
            () if cursor.take(&["DEFERRABLE"]) => {
                if cursor.take(&["INITIALLY", "DEFERRED"]) {
                    found[2] = "DEFERRABLE INITIALLY DEFERRED".into();
                }
                cursor.take(&["INITIALLY", "IMMEDIATE"]);
                continue;
            }
            () => break,
        };
        let mut action = cursor.next()?.text.to_ascii_uppercase();
        if action == "SET" || action == "NO" {
            action = format!("{action} {}", cursor.next()?.text.to_ascii_uppercase());
        }
        let event = if slot == 0 { "ON DELETE" } else { "ON UPDATE" };
        found[slot] = if action == "NO ACTION" { String::new() } else { format!("{event} {action}") };
    }
    Some(found.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
}

/// The words that end a column's type.
pub(super) const ENDS: [&str; 11] = [
    "CONSTRAINT",
    "PRIMARY",
    "NOT",
    "NULL",
    "UNIQUE",
    "CHECK",
    "DEFAULT",
    "COLLATE",
    "REFERENCES",
    "GENERATED",
    "AS",
];

/// Returns a type in canonical spelling: `varchar ( 10 )` becomes `VARCHAR(10)`.
fn data_type(cursor: &mut Cursor<'_, '_>) -> Option<String> {
    let mut words = Vec::new();
    while let Some(token) = cursor.tokens.first() {
        let is_word =
            token.kind == TokenKind::Quoted || token.kind == TokenKind::Text || token.kind == TokenKind::Word;
        if !is_word || ENDS.iter().any(|word| token.is(word)) {
            break;
        }
        words.push(token.name()?.to_ascii_uppercase());
        cursor.next();
    }
    let mut text = words.join(" ");
    if let Some(size) = cursor.brackets() {
        let sizes: Vec<_> =
            split_commas(size).iter().map(|it| expression(it, None).replace(' ', "")).collect();
        text = format!("{text}({})", sizes.join(","));
    }
    Some(text)
}

/// Returns a default in canonical spelling. `DEFAULT NULL` is no default, brackets around a value are removed, and a
/// bare word is a string.
fn default(cursor: &mut Cursor<'_, '_>) -> Option<String> {
    if let Some(body) = cursor.brackets() {
        return Some(default_value(&expression(body, Some(&[]))));
    }
    let first = cursor.next()?;
    let value = match first.text.to_ascii_lowercase().as_str() {
        "+" => expression(&[*cursor.next()?], None),
        "-" => format!("-{}", expression(&[*cursor.next()?], None)),
        lower if first.kind != TokenKind::Word || DEFAULT_KEYWORDS.contains(&lower) => {
            expression(&[*first], Some(&[]))
        }
        _ => format!("'{}'", first.text),
    };
    Some(default_value(&value))
}

/// The words that are not strings in a default without brackets.
const DEFAULT_KEYWORDS: [&str; 6] =
    ["null", "true", "false", "current_timestamp", "current_date", "current_time"];

fn default_value(value: &str) -> String {
    let value = match value {
        "null" => return String::new(),
        "true" => "1",
        "false" => "0",
        _ => match value.strip_prefix("- ").filter(|rest| rest.starts_with(|it: char| it.is_ascii_digit())) {
            Some(number) => return format!("DEFAULT -{number}"),
            None => value,
        },
    };
    let is_time = value.starts_with("current_");
    format!("DEFAULT {}", if is_time { value.to_ascii_uppercase() } else { value.to_string() })
}

fn collation(cursor: &mut Cursor<'_, '_>) -> Option<String> {
    let collation = name(cursor.next()?).to_ascii_uppercase();
    Some(if collation == "BINARY" { String::new() } else { format!("COLLATE {collation}") })
}

/// Returns one column of an index or key: its expression, its collation unless it is BINARY, and DESC.
pub(super) fn indexed_column(tokens: &[Token<'_>], columns: Option<&[String]>) -> String {
    let (mut tokens, mut suffix) = (tokens, String::new());
    match tokens.split_last() {
        Some((last, rest)) if last.is("DESC") => (tokens, suffix) = (rest, " DESC".into()),
        Some((last, rest)) if last.is("ASC") => tokens = rest,
        _ => {}
    }
    if let [rest @ .., keyword, collation] = tokens
        && keyword.is("COLLATE")
    {
        let collation = name(collation).to_ascii_uppercase();
        if collation != "BINARY" {
            suffix = format!(" COLLATE {collation}{suffix}");
        }
        tokens = rest;
    }
    format!("{}{suffix}", expression(tokens, columns))
}
