//! The statements of a Postgres schema, as `pg_dump` writes them, each with what it creates.

use std::collections::BTreeSet;

use super::create_table::spelled;
use super::{Definitions, names};
use crate::schema::ObjectKind;
use crate::sql::{Dialect, Token, tokens};

/// What a statement creates or sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Extension,
    Type,
    Domain,
    Function,
    Aggregate,
    Table,
    Sequence,
    /// The column that a sequence belongs to.
    SequenceOwner,
    /// A column's default, if it is set by a statement of its own.
    Default,
    Identity,
    View,
    MaterializedView,
    PrimaryKey,
    Unique,
    Check,
    ForeignKey,
    Exclusion,
    Index,
    Trigger,
    /// Whether a trigger or rule is enabled.
    TriggerState,
    Rule,
    Policy,
    Statistics,
    Partition,
    IndexPartition,
    RowSecurity,
    ForcedRowSecurity,
    ReplicaIdentity,
    /// A setting that is not part of what a schema means, such as a comment or a statistics target.
    Setting,
    Other,
}

/// A statement that creates an object or sets one of its properties.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) kind: Kind,
    /// The name, without quotes. For a function with its arguments, for a property of a column that column's name.
    pub(super) name: String,
    /// The name for use in statements.
    pub(super) spelled: String,
    /// The table that it belongs to, without quotes. Empty if it belongs to none.
    pub(super) table: String,
    /// The table for use in statements.
    pub(super) spelled_table: String,
    pub(super) sql: String,
    /// The names in it, in lower case and without quotes.
    pub(super) names: BTreeSet<String>,
}

impl Statement {
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.kind, &self.name, &self.table) == (other.kind, &other.name, &other.table)
    }

    /// The name of the table that it creates.
    pub(super) fn table_name(&self) -> Option<String> {
        (self.kind == Kind::Table).then(|| self.name.clone())
    }

    /// Whether it makes a column of this table an identity.
    pub(super) fn is_identity_of(&self, table: &str) -> bool {
        self.kind == Kind::Identity && self.table == table
    }

    /// Whether rows are inserted before it.
    pub(super) fn comes_after_rows(&self) -> bool {
        const KINDS: [Kind; 9] = [
            Kind::PrimaryKey,
            Kind::Unique,
            Kind::Check,
            Kind::ForeignKey,
            Kind::Exclusion,
            Kind::Index,
            Kind::Trigger,
            Kind::Rule,
            Kind::Policy,
        ];
        KINDS.contains(&self.kind)
    }

    /// Whether both create the same constraint or index of a table, under names that Postgres generated.
    pub(super) fn is_same_unnamed(&self, other: &Self) -> bool {
        let suffix = match self.kind {
            Kind::PrimaryKey => "_pkey",
            Kind::Unique => "_key",
            Kind::Check => "_check",
            Kind::ForeignKey => "_fkey",
            Kind::Exclusion => "_excl",
            Kind::Index => "_idx",
            _ => return false,
        };
        let is_generated =
            |it: &Self| it.name.trim_end_matches(|it: char| it.is_ascii_digit()).ends_with(suffix);
        let behind_name =
            |it: &Self| it.sql.split_once(&format!("{} ", it.spelled)).map(|it| it.1.to_string());
        (self.kind, &self.table) == (other.kind, &other.table)
            && is_generated(self)
            && is_generated(other)
            && behind_name(self) == behind_name(other)
    }

    /// Whether it creates or sets a part of what is ignored.
    fn is_ignored(&self, ignored: &[(ObjectKind, String)]) -> bool {
        const RELATIONS: [ObjectKind; 3] =
            [ObjectKind::Table, ObjectKind::View, ObjectKind::MaterializedView];
        // Functions are named with their arguments, and triggers with their table.
        let bare = |name: &str| name.split(['(', ' ']).next().unwrap_or_default().to_lowercase();
        let has = |kinds: &[ObjectKind], name: &str| {
            ignored.iter().any(|(kind, it)| kinds.contains(kind) && bare(it) == bare(name))
        };
        let is_named = match self.kind {
            Kind::Extension => has(&[ObjectKind::Extension], &self.name),
            Kind::Type | Kind::Domain => has(&[ObjectKind::Type], &self.name),
            Kind::Function | Kind::Aggregate => has(&[ObjectKind::Function], &self.name),
            Kind::Table | Kind::View | Kind::MaterializedView | Kind::Partition => {
                has(&RELATIONS, &self.name)
            }
            Kind::Sequence | Kind::SequenceOwner => has(&[ObjectKind::Sequence], &self.name),
            Kind::Index => has(&[ObjectKind::Index], &self.name),
            Kind::Trigger | Kind::TriggerState => has(&[ObjectKind::Trigger], &self.name),
            // A comment, or an object without a kind of its own.
            Kind::Setting | Kind::Other => ignored.iter().any(|(_, it)| self.names.contains(&bare(it))),
            _ => false,
        };
        is_named || has(&RELATIONS, &self.table)
    }

    /// The object of the schema that it creates, if it is one whose meaning is compared as a whole.
    pub(super) fn object(&self) -> Option<(ObjectKind, String)> {
        let name = self.name.clone();
        match self.kind {
            Kind::Type | Kind::Domain => Some((ObjectKind::Type, name)),
            Kind::View => Some((ObjectKind::View, name)),
            Kind::MaterializedView => Some((ObjectKind::MaterializedView, name)),
            Kind::Index => Some((ObjectKind::Index, name)),
            Kind::Trigger => Some((ObjectKind::Trigger, format!("{name} on {}", self.table))),
            _ => None,
        }
    }

    pub(super) fn label(&self) -> String {
        let kind = match self.kind {
            Kind::Type | Kind::Domain => "type",
            Kind::Function | Kind::Aggregate => "function",
            Kind::Table => "table",
            Kind::View => "view",
            Kind::MaterializedView => "materialized view",
            Kind::Sequence => "sequence",
            Kind::Index => "index",
            Kind::Trigger => "trigger",
            _ => "statement",
        };
        if kind == "statement" {
            return self.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        format!("{kind} {}", self.name)
    }
}

/// The statements of a schema.
pub(super) fn statements(definitions: &Definitions) -> Vec<Statement> {
    definitions.statements.iter().map(|sql| one(sql)).collect()
}

/// The statements of what is compared, so without those that create or set what is ignored.
pub(super) fn compared(definitions: &Definitions) -> Vec<String> {
    let ignored = definitions.schema.ignored();
    if ignored.is_empty() {
        return definitions.statements.clone();
    }
    let all = statements(definitions);
    let owners = all.iter().filter(|it| it.kind == Kind::SequenceOwner && it.is_ignored(ignored));
    let owned: BTreeSet<&str> = owners.map(|it| it.name.as_str()).collect();
    let is_owned = |it: &Statement| it.kind == Kind::Sequence && owned.contains(it.name.as_str());
    let kept = all.iter().filter(|it| !is_owned(it) && !it.is_ignored(ignored));
    kept.map(|it| it.sql.clone()).collect()
}

/// Reads the tokens of one statement.
struct Reader<'a, 'b> {
    tokens: &'a [Token<'b>],
    at: usize,
}

impl<'a, 'b> Reader<'a, 'b> {
    fn take(&mut self, words: &[&str]) -> bool {
        let rest = &self.tokens[self.at.min(self.tokens.len())..];
        let found = rest.len() >= words.len() && rest.iter().zip(words).all(|(token, word)| token.is(word));
        self.at += if found { words.len() } else { 0 };
        found
    }

    fn next(&mut self) -> Option<&'a Token<'b>> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    /// Goes to behind the next of these words.
    fn skip_to(&mut self, word: &str) -> bool {
        let found = self.tokens.iter().skip(self.at).position(|token| token.is(word));
        self.at += found.map_or(0, |index| index + 1);
        found.is_some()
    }
}

/// One statement.
pub(super) fn one(sql: &str) -> Statement {
    let tokens = tokens(sql, Dialect::Postgres).unwrap_or_default();
    let found = creation(&tokens).or_else(|| alteration(&tokens));
    let (kind, name, table) = found.unwrap_or((Kind::Other, None, None));
    let (kind, name) = match (kind, name) {
        _ if tokens.first().is_some_and(|token| token.is("COMMENT")) => (Kind::Setting, None),
        found => found,
    };
    let plain = |token: Option<&Token<'_>>| token.and_then(Token::name).unwrap_or_default();
    let mut statement = Statement {
        kind,
        name: plain(name),
        spelled: name.map(spelled).unwrap_or_default(),
        table: plain(table),
        spelled_table: table.map(spelled).unwrap_or_default(),
        sql: sql.to_string(),
        names: names(sql, Dialect::Postgres),
    };
    match kind {
        Kind::Other | Kind::Setting => statement.name = sql.to_string(),
        Kind::Function | Kind::Aggregate => {
            let signature = signature(&tokens);
            statement.name = format!("{}{signature}", statement.name);
            statement.spelled = format!("{}{signature}", statement.spelled);
        }
        _ => {}
    }
    statement
}

type Found<'a, 'b> = (Kind, Option<&'a Token<'b>>, Option<&'a Token<'b>>);

fn creation<'a, 'b>(tokens: &'a [Token<'b>]) -> Option<Found<'a, 'b>> {
    let mut reader = Reader { tokens, at: 0 };
    if !reader.take(&["CREATE"]) {
        return None;
    }
    reader.take(&["OR", "REPLACE"]);
    for word in ["UNIQUE", "UNLOGGED", "CONSTRAINT"] {
        reader.take(&[word]);
    }
    let kind = if reader.take(&["MATERIALIZED", "VIEW"]) {
        Kind::MaterializedView
    } else {
        match reader.next()?.text.to_ascii_uppercase().as_str() {
            "EXTENSION" => Kind::Extension,
            "TYPE" => Kind::Type,
            "DOMAIN" => Kind::Domain,
            "FUNCTION" | "PROCEDURE" => Kind::Function,
            "AGGREGATE" => Kind::Aggregate,
            "TABLE" => Kind::Table,
            "SEQUENCE" => Kind::Sequence,
            "VIEW" => Kind::View,
            "INDEX" => Kind::Index,
            "TRIGGER" => Kind::Trigger,
            "RULE" => Kind::Rule,
            "POLICY" => Kind::Policy,
            "STATISTICS" => Kind::Statistics,
            _ => return None,
        }
    };
    reader.take(&["IF", "NOT", "EXISTS"]);
    let name = reader.next();
    let table = match kind {
        Kind::Index | Kind::Trigger | Kind::Policy if reader.skip_to("ON") => {
            reader.take(&["ONLY"]);
            reader.next()
        }
        Kind::Rule if reader.skip_to("TO") => reader.next(),
        _ => None,
    };
    Some((kind, name, table))
}

fn alteration<'a, 'b>(tokens: &'a [Token<'b>]) -> Option<Found<'a, 'b>> {
    let mut reader = Reader { tokens, at: 0 };
    if reader.take(&["ALTER", "SEQUENCE"]) {
        let name = reader.next();
        return reader.take(&["OWNED", "BY"]).then(|| (Kind::SequenceOwner, name, reader.next()));
    }
    if reader.take(&["ALTER", "INDEX"]) {
        let parent = reader.next();
        return reader.take(&["ATTACH", "PARTITION"]).then(|| (Kind::IndexPartition, reader.next(), parent));
    }
    if !reader.take(&["ALTER", "TABLE"]) {
        return None;
    }
    reader.take(&["ONLY"]);
    let table = reader.next();
    if reader.take(&["ADD", "CONSTRAINT"]) {
        let name = reader.next();
        let kind = match reader.next()?.text.to_ascii_uppercase().as_str() {
            "PRIMARY" => Kind::PrimaryKey,
            "UNIQUE" => Kind::Unique,
            "CHECK" => Kind::Check,
            "FOREIGN" => Kind::ForeignKey,
            "EXCLUDE" => Kind::Exclusion,
            _ => return None,
        };
        return Some((kind, name, table));
    }
    if reader.take(&["ALTER", "COLUMN"]) {
        let column = reader.next();
        let kind = if reader.take(&["SET", "DEFAULT"]) {
            Kind::Default
        } else if reader.take(&["ADD", "GENERATED"]) {
            Kind::Identity
        } else {
            Kind::Setting
        };
        return Some((kind, column, table));
    }
    if reader.take(&["ATTACH", "PARTITION"]) {
        return Some((Kind::Partition, reader.next(), table));
    }
    if reader.take(&["ENABLE", "ROW", "LEVEL", "SECURITY"]) {
        return Some((Kind::RowSecurity, None, table));
    }
    if reader.take(&["FORCE", "ROW", "LEVEL", "SECURITY"]) {
        return Some((Kind::ForcedRowSecurity, None, table));
    }
    if reader.take(&["REPLICA", "IDENTITY"]) {
        return Some((Kind::ReplicaIdentity, None, table));
    }
    if reader.take(&["CLUSTER", "ON"]) {
        return Some((Kind::Setting, None, table));
    }
    reader.next();
    for word in ["ALWAYS", "REPLICA"] {
        reader.take(&[word]);
    }
    (reader.take(&["TRIGGER"]) || reader.take(&["RULE"])).then(|| (Kind::TriggerState, reader.next(), table))
}

/// The arguments of a function, without their defaults.
fn signature(tokens: &[Token<'_>]) -> String {
    let Some(open) = tokens.iter().position(|token| token.is_symbol("(")) else { return "()".into() };
    let (mut depth, mut skips, mut text) = (0_i32, false, String::new());
    let mut end = tokens[open].start;
    for token in &tokens[open..] {
        depth += i32::from(token.is_symbol("(")) - i32::from(token.is_symbol(")"));
        let is_end = depth == 0;
        let is_next = depth == 1 && token.is_symbol(",");
        skips = (skips || token.is("DEFAULT")) && !is_end && !is_next;
        if !skips {
            let space = if token.start > end && !is_end && !is_next { " " } else { "" };
            text.push_str(space);
            text.push_str(token.text);
        }
        end = token.start + token.text.len();
        if is_end {
            break;
        }
    }
    text
}
