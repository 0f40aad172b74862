//! Splits a script into statements and classifies what each may do to the transaction and to rows.
//!
//! Works on the text alone. When in doubt it assumes the more dangerous effect: a statement that may delete rows counts
//! as one that does.

use super::effect::{Effect, effect, enables_deletes};
use super::outside::{OutsideReference, outside_reference};
use super::pragma::{Pragma, pragma};
use super::{Dialect, Scanner, Token, TokenKind, Unclosed, tokens};

/// One statement of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statement {
    /// The statement without its semicolon.
    pub sql: String,
    /// The line it starts on, counted from one.
    pub line: u32,
    /// What it may do to the surrounding transaction.
    pub control: Control,
    /// What it may do to existing rows.
    pub effect: Effect,
    /// Whether later writes may delete rows because of it: it creates a trigger that deletes, or a constraint with
    /// `ON CONFLICT REPLACE`.
    pub enables_deletes: bool,
    /// Whether it adds a value to a Postgres enum. Before Postgres 17 the value can be used only after the commit.
    pub adds_enum_value: bool,
    /// Whether it uses a value that differs each time it runs, such as a random number or the time.
    pub is_volatile: bool,
    /// The tables that it drops or renames, with their names as the database stores them.
    pub table_changes: Vec<TableChange>,
}

impl Statement {
    /// Whether it validates a Postgres constraint.
    pub(crate) fn validates_constraint(&self) -> bool {
        let words: Vec<String> = self.sql.split_whitespace().map(str::to_ascii_uppercase).collect();
        self.sql.get(..5).is_some_and(|it| it.eq_ignore_ascii_case("ALTER"))
            && words.windows(2).any(|it| it == ["VALIDATE", "CONSTRAINT"])
    }
}

/// A table that is dropped or renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableChange {
    /// The table is dropped: its name.
    Dropped(String),
    /// The table is renamed.
    Renamed {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
}

/// What a statement may do to the surrounding transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Nothing.
    None,
    /// It begins, ends or detaches (`PREPARE TRANSACTION`) the transaction: its keyword.
    ControlsTransaction(&'static str),
    /// The database refuses it inside a transaction: its keyword.
    OutsideTransaction(&'static str),
    /// It is a pragma that cannot simply run at its place in the script.
    Pragma(Pragma),
    /// It reads or changes something outside the project's own database or schema.
    OutsideSchema(OutsideReference),
}

/// Splits a script into its statements. Lines are counted from one. Fails if a quote or comment is never closed.
pub fn split(script: &str, dialect: Dialect) -> Result<Vec<Statement>, Unclosed> {
    let tokens = tokens(script, dialect)?;
    let mut statements = Vec::new();
    let mut remaining = tokens.as_slice();
    while !remaining.is_empty() {
        let mut end = EndFinder::new(dialect);
        let last = remaining.iter().position(|token| end.is_end(token));
        let (tokens, following) = remaining.split_at(last.map_or(remaining.len(), |index| index + 1));
        let body = match tokens.split_last() {
            Some((last, body)) if last.is_symbol(";") => body,
            _ => tokens,
        };
        if let (Some(first), Some(last)) = (body.first(), body.last()) {
            let sql = &script[first.start..last.start + last.text.len()];
            statements.push(Statement {
                sql: sql.to_string(),
                line: first.line,
                control: control(sql, body, dialect),
                effect: effect(sql, body, dialect),
                enables_deletes: body[0].is("CREATE") && enables_deletes(body, dialect),
                adds_enum_value: adds_enum_value(body, dialect),
                is_volatile: !is_view(body) && is_volatile(body, dialect),
                table_changes: table_changes(body, dialect),
            });
        }
        remaining = following;
    }
    Ok(statements)
}

/// Finds the semicolon that ends a statement, token by token.
#[expect(clippy::struct_excessive_bools, reason = "the state of a scanner")]
struct EndFinder {
    dialect: Dialect,
    /// The number of tokens so far.
    token_count: usize,
    /// Whether the statement is a `CREATE`, and whether it creates a trigger or a routine.
    creates: bool,
    has_body: bool,
    /// Whether a trigger's body has begun, and whether the last tokens are `; END`.
    body_begun: bool,
    may_close: bool,
    /// The number of open bodies and `CASE`s, and of open parentheses.
    bodies: u32,
    parentheses: u32,
    /// Whether the last token was a semicolon, or `BEGIN`.
    after_semicolon: bool,
    after_begin: bool,
}

impl EndFinder {
    const fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            token_count: 0,
            creates: false,
            has_body: false,
            body_begun: false,
            may_close: false,
            bodies: 0,
            parentheses: 0,
            after_semicolon: false,
            after_begin: false,
        }
    }

    /// Takes the next token. Returns whether it ends the statement.
    fn is_end(&mut self, token: &Token<'_>) -> bool {
        self.creates |= self.token_count == 0 && token.is("CREATE");
        let ends = match self.dialect {
            Dialect::Sqlite => self.in_sqlite(token),
            Dialect::Postgres => self.in_postgres(token),
        };
        self.token_count += 1;
        self.after_semicolon = token.is_symbol(";");
        self.after_begin = token.is("BEGIN");
        ends
    }

    /// The body of a trigger contains semicolons. It ends with `; END ;`, the same rule as in `sqlite3_complete`.
    fn in_sqlite(&mut self, token: &Token<'_>) -> bool {
        self.has_body |= self.creates && self.token_count < 4 && token.is("TRIGGER");
        self.body_begun |= self.has_body && token.is("BEGIN");
        let ends = token.is_symbol(";") && (!self.body_begun || self.may_close);
        self.may_close = token.is("END") && self.after_semicolon;
        ends
    }

    /// The body of a function in standard SQL contains semicolons. It lasts from `BEGIN ATOMIC` to the matching `END`;
    /// each `CASE` has an `END`, too. The statements of a rule contain semicolons inside parentheses.
    fn in_postgres(&mut self, token: &Token<'_>) -> bool {
        self.has_body |=
            self.creates && self.token_count < 4 && (token.is("FUNCTION") || token.is("PROCEDURE"));
        let is_opened = token.is("ATOMIC") && self.after_begin || self.bodies > 0 && token.is("CASE");
        if self.has_body && is_opened {
            self.bodies += 1;
        } else if token.is("END") {
            self.bodies = self.bodies.saturating_sub(1);
        } else if token.is_symbol("(") {
            self.parentheses += 1;
        } else if token.is_symbol(")") {
            self.parentheses = self.parentheses.saturating_sub(1);
        }
        token.is_symbol(";") && self.bodies == 0 && self.parentheses == 0
    }
}

/// Returns the length in bytes of a script's first statement, including its semicolon and the text before it. Also
/// returns whether it has a semicolon.
pub(crate) fn first_statement_length(script: &str, dialect: Dialect) -> Result<(usize, bool), Unclosed> {
    let mut scanner = Scanner::new(script, dialect);
    let mut end = EndFinder::new(dialect);
    while let Some(token) = scanner.next_token()? {
        if end.is_end(&token) {
            return Ok((token.start + token.text.len(), true));
        }
    }
    Ok((script.len(), false))
}

fn control(sql: &str, tokens: &[Token<'_>], dialect: Dialect) -> Control {
    const BREAKS: [&str; 6] = ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"];
    let first = &tokens[0];
    let has = |word: &str| tokens.iter().any(|token| token.is(word));
    if let Some(word) = BREAKS.into_iter().find(|word| first.is(word)) {
        // `ROLLBACK TO name` stays inside the transaction.
        return if word == "ROLLBACK" && has("TO") {
            Control::None
        } else {
            Control::ControlsTransaction(word)
        };
    }
    if first.is("PREPARE") && tokens.get(1).is_some_and(|token| token.is("TRANSACTION")) {
        return Control::ControlsTransaction("PREPARE TRANSACTION");
    }
    if let Some(word) = ["ATTACH", "DETACH"].into_iter().find(|word| first.is(word)) {
        return Control::OutsideSchema(OutsideReference::Session(word));
    }
    if first.is("VACUUM") && has("INTO") {
        return Control::OutsideSchema(OutsideReference::Session("VACUUM INTO"));
    }
    if first.is("VACUUM") {
        return Control::OutsideTransaction("VACUUM");
    }
    match dialect {
        Dialect::Sqlite => match pragma(tokens) {
            None | Some(Pragma::Run) => Control::None,
            Some(other) => Control::Pragma(other),
        },
        Dialect::Postgres => match outside_reference(sql, tokens) {
            Some(outside) => Control::OutsideSchema(outside),
            // Unlike other statements with CONCURRENTLY, REFRESH is allowed in a transaction.
            None if has("CONCURRENTLY") && !first.is("REFRESH") => {
                Control::OutsideTransaction("CONCURRENTLY")
            }
            None => Control::None,
        },
    }
}

fn is_view(tokens: &[Token<'_>]) -> bool {
    tokens[0].is("CREATE") && tokens.iter().take(4).any(|token| token.is("VIEW"))
}

/// Whether the tokens contain a value that differs each time they run.
fn is_volatile(tokens: &[Token<'_>], dialect: Dialect) -> bool {
    const WORDS: [&str; 5] =
        ["CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME"];
    const FUNCTIONS: [&str; 22] = [
        "random",
        "randomblob",
        "random_normal",
        "gen_random_uuid",
        "gen_random_bytes",
        "gen_salt",
        "uuid_generate_v1",
        "uuid_generate_v1mc",
        "uuid_generate_v4",
        "uuidv4",
        "uuidv7",
        "now",
        "clock_timestamp",
        "statement_timestamp",
        "transaction_timestamp",
        "timeofday",
        "txid_current",
        "pg_current_xact_id",
        "crypt",
        "setseed",
        "last_insert_rowid",
        "changes",
    ];
    // In SQLite these return the current time if called with 'now' or without an argument.
    const TIMES: [&str; 6] = ["date", "time", "datetime", "julianday", "unixepoch", "strftime"];
    let is = |token: &Token<'_>, words: &[&str]| words.iter().any(|word| token.is(word));
    let is_now = |token: &Token<'_>| {
        token.kind == TokenKind::Text && token.text.trim_matches('\'').eq_ignore_ascii_case("now")
    };
    let is_call = |index: usize| tokens.get(index + 1).is_some_and(|next| next.is_symbol("("));
    tokens.iter().enumerate().any(|(index, token)| {
        is(token, &WORDS)
            || (is(token, &FUNCTIONS) && is_call(index))
            || (dialect == Dialect::Sqlite
                && is(token, &TIMES)
                && is_call(index)
                && tokens.get(index + 2).is_some_and(|next| next.is_symbol(")")))
            || is_now(token)
            || (token.text.starts_with('$')
                && token.kind == TokenKind::Text
                && body_is_volatile(token.text, dialect))
    })
}

/// Does the same as [`is_volatile`] for the body of a function or a block.
fn body_is_volatile(literal: &str, dialect: Dialect) -> bool {
    let inner = literal.find('$').and_then(|start| literal[start + 1..].find('$').map(|end| start + end + 2));
    let inner = inner.map_or("", |start| &literal[start..literal.len() - start]);
    tokens(inner, dialect).is_ok_and(|tokens| is_volatile(&tokens, dialect))
}

fn adds_enum_value(tokens: &[Token<'_>], dialect: Dialect) -> bool {
    let has = |first: &str, second: &str| tokens.windows(2).any(|it| it[0].is(first) && it[1].is(second));
    // In a block, the words are part of a string.
    let in_block = || tokens.iter().any(|token| token.text.to_ascii_uppercase().contains("ADD VALUE"));
    dialect == Dialect::Postgres
        && ((tokens[0].is("ALTER") && has("ALTER", "TYPE") && has("ADD", "VALUE"))
            || (tokens[0].is("DO") && in_block()))
}

fn table_changes(tokens: &[Token<'_>], dialect: Dialect) -> Vec<TableChange> {
    let name = |token: &Token<'_>| {
        let keeps_case = dialect == Dialect::Postgres && token.kind == TokenKind::Quoted;
        token.name().map(|name| if keeps_case { name } else { name.to_ascii_lowercase() })
    };
    if !tokens.get(1).is_some_and(|token| token.is("TABLE")) {
        return Vec::new();
    }
    if tokens[0].is("DROP") {
        let is_name = |token: &&Token<'_>| !["CASCADE", "RESTRICT"].iter().any(|word| token.is(word));
        let names = tokens.split(|token| token.is_symbol(","));
        return names
            .filter_map(|it| it.iter().rfind(is_name).and_then(name))
            .map(TableChange::Dropped)
            .collect();
    }
    match tokens {
        [alter, _, .., from, rename, to, new] if alter.is("ALTER") && rename.is("RENAME") && to.is("TO") => {
            name(from)
                .zip(name(new))
                .map(|(from, to)| TableChange::Renamed { from, to })
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::Control::{ControlsTransaction, None, OutsideTransaction};
    use super::*;

    fn sqls(script: &str) -> Vec<String> {
        split(script, Dialect::Sqlite).unwrap().into_iter().map(|statement| statement.sql).collect()
    }

    #[test]
    fn trap_8_semicolons_in_strings_comments_and_triggers_do_not_split() {
        let trigger = "CREATE TEMP TRIGGER t AFTER UPDATE ON a BEGIN\n UPDATE a SET b = CASE WHEN c THEN 1 ELSE 2 END;\n \
                       DELETE FROM d; END";
        let script =
            format!("-- one; comment\nINSERT INTO a VALUES ('x;--y'); {trigger};\nSELECT 1 /* ; */;;");
        assert_eq!(sqls(&script), ["INSERT INTO a VALUES ('x;--y')", trigger, "SELECT 1"]);
    }

    #[test]
    fn trap_8_words_that_break_a_transaction_are_found_only_where_they_are_statements() {
        let script = "COMMIT; end transaction; ROLLBACK; /* x */ begin; ATTACH 'a' AS b; SELECT 'COMMIT'; ROLLBACK TO a; \
                      CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; VACUUM; VACUUM INTO 'x'";
        let found: Vec<_> =
            split(script, Dialect::Sqlite).unwrap().into_iter().map(|statement| statement.control).collect();
        assert_eq!(
            found,
            [
                ControlsTransaction("COMMIT"),
                ControlsTransaction("END"),
                ControlsTransaction("ROLLBACK"),
                ControlsTransaction("BEGIN"),
                Control::OutsideSchema(OutsideReference::Session("ATTACH")),
                None,
                None,
                None,
                OutsideTransaction("VACUUM"),
                Control::OutsideSchema(OutsideReference::Session("VACUUM INTO"))
            ]
        );
    }

    #[test]
    fn postgres_bodies_are_one_statement() {
        let script = "CREATE FUNCTION f() RETURNS int AS $$ BEGIN; COMMIT; END $$ LANGUAGE plpgsql; \
                      CREATE FUNCTION g() RETURNS int BEGIN ATOMIC; SELECT 1; END; SELECT 2";
        assert_eq!(split(script, Dialect::Postgres).unwrap().len(), 3);
    }

    #[test]
    fn what_comes_out_differently_each_time_is_told() {
        let is_volatile = |sql: &str, dialect| split(sql, dialect).unwrap()[0].is_volatile;
        for sql in [
            "INSERT INTO a VALUES (hex(randomblob(16)))",
            "INSERT INTO a VALUES (datetime('now'))",
            "UPDATE a SET b = CURRENT_TIMESTAMP",
            "INSERT INTO a VALUES (strftime('%s', 'now'))",
            "INSERT INTO a VALUES (date())",
        ] {
            assert!(is_volatile(sql, Dialect::Sqlite), "{sql}");
        }
        for sql in
            ["INSERT INTO a VALUES (gen_random_uuid())", "DO $$ BEGIN INSERT INTO a VALUES (now()); END $$"]
        {
            assert!(is_volatile(sql, Dialect::Postgres), "{sql}");
        }
        for sql in [
            "INSERT INTO a VALUES (datetime('2020-01-01'), 'random()')",
            "CREATE VIEW v AS SELECT datetime('now')",
            "UPDATE a SET date = 1, now = 2, random = 3",
        ] {
            assert!(!is_volatile(sql, Dialect::Sqlite), "{sql}");
        }
    }

    #[test]
    fn tables_that_go_away_are_named() {
        let changes = |sql: &str| split(sql, Dialect::Sqlite).unwrap()[0].table_changes.clone();
        assert_eq!(changes("DROP TABLE IF EXISTS main.\"A b\""), [TableChange::Dropped("a b".into())]);
        let renamed = TableChange::Renamed { from: "a".into(), to: "b".into() };
        assert_eq!(changes("ALTER TABLE main.A RENAME TO [b]"), [renamed]);
        assert_eq!(changes("ALTER TABLE a RENAME COLUMN x TO y"), []);
        let changes =
            split("DROP TABLE a, \"B c\" CASCADE", Dialect::Postgres).unwrap()[0].table_changes.clone();
        assert_eq!(changes, [TableChange::Dropped("a".into()), TableChange::Dropped("B c".into())]);
    }

    #[test]
    fn lines_are_of_the_first_token() {
        let lines: Vec<_> = split("\n-- a\nSELECT 1;\n\nSELECT\n2;", Dialect::Sqlite)
            .unwrap()
            .into_iter()
            .map(|statement| statement.line)
            .collect();
        assert_eq!(lines, [3, 5]);
    }
}
