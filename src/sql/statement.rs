//! A script as statements, and what each may do to a transaction and to rows.
//!
//! It must not run anything or know a database's contents. Where it can't be sure it errs to the careful side:
//! a statement that may delete rows is one that does.

use super::effect::{Effect, arms, effect};
use super::outside::{OutsideReference, elsewhere};
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
    /// What it may do to the transaction around it.
    pub control: Control,
    /// What it may do to rows that exist.
    pub effect: Effect,
    /// Whether writes that come after it may delete rows by themselves: it makes a trigger that deletes, or a
    /// conflict rule that replaces.
    pub arms: bool,
    /// Whether it adds a value to an enum of Postgres, which before version 17 nobody can use before that is committed.
    pub adds_enum_value: bool,
    /// Whether it says something that comes out differently each time: a random number, the time.
    pub computes: bool,
    /// The tables it drops or renames, spelled as the database keeps their names.
    pub table_changes: Vec<TableChange>,
}

/// A table that goes away by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableChange {
    /// It is dropped.
    Dropped(String),
    /// It has another name from here on.
    Renamed {
        /// Its name before.
        from: String,
        /// Its name afterwards.
        to: String,
    },
}

/// What a statement may do to the transaction around it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Nothing.
    None,
    /// It begins, ends or leaves the transaction; the word says which.
    Breaks(&'static str),
    /// The database refuses it inside a transaction; the word says which.
    Outside(&'static str),
    /// It is a pragma that does not simply run where it stands.
    Pragma(Pragma),
    /// It reaches beyond the project's own database or schema.
    OutsideSchema(OutsideReference),
}

/// Splits a script into its statements. Lines are counted from one.
pub fn split(script: &str, dialect: Dialect) -> Result<Vec<Statement>, Unclosed> {
    let tokens = tokens(script, dialect)?;
    let mut statements = Vec::new();
    let mut rest = tokens.as_slice();
    while !rest.is_empty() {
        let mut end = End::new(dialect);
        let length = rest.iter().position(|token| end.is_at(token)).map_or(rest.len(), |index| index + 1);
        let (tokens, following) = rest.split_at(length);
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
                arms: body[0].is("CREATE") && arms(body, dialect),
                adds_enum_value: adds_enum_value(body, dialect),
                computes: !is_view(body) && computes(body, dialect),
                table_changes: moves(body, dialect),
            });
        }
        rest = following;
    }
    Ok(statements)
}

/// Finds the semicolon that ends a statement, token by token.
#[expect(clippy::struct_excessive_bools, reason = "what a scanner has seen so far")]
struct End {
    dialect: Dialect,
    seen: usize,
    /// Whether it makes something; and whether that is a trigger or a routine.
    creates: bool,
    has_body: bool,
    /// Whether a trigger's body was begun, and whether the last tokens are `; END`.
    is_begun: bool,
    may_close: bool,
    /// How many bodies and `CASE`s, and how many brackets, are open.
    bodies: u32,
    brackets: u32,
    /// Whether the last token was a semicolon, or `BEGIN`.
    after_semicolon: bool,
    after_begin: bool,
}

impl End {
    const fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            seen: 0,
            creates: false,
            has_body: false,
            is_begun: false,
            may_close: false,
            bodies: 0,
            brackets: 0,
            after_semicolon: false,
            after_begin: false,
        }
    }

    /// Whether this token, the next one, ends the statement.
    fn is_at(&mut self, token: &Token<'_>) -> bool {
        self.creates |= self.seen == 0 && token.is("CREATE");
        let ends = match self.dialect {
            Dialect::Sqlite => self.in_sqlite(token),
            Dialect::Postgres => self.in_postgres(token),
        };
        self.seen += 1;
        self.after_semicolon = token.is_symbol(";");
        self.after_begin = token.is("BEGIN");
        ends
    }

    /// The body of a trigger has semicolons of its own: it ends with `; END ;`, as `sqlite3_complete` has it.
    fn in_sqlite(&mut self, token: &Token<'_>) -> bool {
        self.has_body |= self.creates && self.seen < 4 && token.is("TRIGGER");
        self.is_begun |= self.has_body && token.is("BEGIN");
        let ends = token.is_symbol(";") && (!self.is_begun || self.may_close);
        self.may_close = token.is("END") && self.after_semicolon;
        ends
    }

    /// The body of a function in standard SQL has semicolons of its own: from `BEGIN ATOMIC` to the `END` that belongs to it,
    /// among those of `CASE`. So have the statements of a rule, in brackets.
    fn in_postgres(&mut self, token: &Token<'_>) -> bool {
        self.has_body |= self.creates && self.seen < 4 && (token.is("FUNCTION") || token.is("PROCEDURE"));
        let is_opened = token.is("ATOMIC") && self.after_begin || self.bodies > 0 && token.is("CASE");
        if self.has_body && is_opened {
            self.bodies += 1;
        } else if token.is("END") {
            self.bodies = self.bodies.saturating_sub(1);
        } else if token.is_symbol("(") {
            self.brackets += 1;
        } else if token.is_symbol(")") {
            self.brackets = self.brackets.saturating_sub(1);
        }
        token.is_symbol(";") && self.bodies == 0 && self.brackets == 0
    }
}

/// How many bytes a script's first statement takes, with its semicolon and what stands before it; and whether it has one.
pub(crate) fn first_length(script: &str, dialect: Dialect) -> Result<(usize, bool), Unclosed> {
    let mut scanner = Scanner::new(script, dialect);
    let mut end = End::new(dialect);
    while let Some(token) = scanner.next_token()? {
        if end.is_at(&token) {
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
        return if word == "ROLLBACK" && has("TO") { Control::None } else { Control::Breaks(word) };
    }
    if first.is("PREPARE") && tokens.get(1).is_some_and(|token| token.is("TRANSACTION")) {
        return Control::Breaks("PREPARE TRANSACTION");
    }
    if let Some(word) = ["ATTACH", "DETACH"].into_iter().find(|word| first.is(word)) {
        return Control::OutsideSchema(OutsideReference::Session(word));
    }
    if first.is("VACUUM") && has("INTO") {
        return Control::OutsideSchema(OutsideReference::Session("VACUUM INTO"));
    }
    if first.is("VACUUM") {
        return Control::Outside("VACUUM");
    }
    match dialect {
        Dialect::Sqlite => match pragma(tokens) {
            None | Some(Pragma::Run) => Control::None,
            Some(other) => Control::Pragma(other),
        },
        Dialect::Postgres => match elsewhere(sql, tokens) {
            Some(elsewhere) => Control::OutsideSchema(elsewhere),
            // A view can be refreshed concurrently in a transaction.
            None if has("CONCURRENTLY") && !first.is("REFRESH") => Control::Outside("CONCURRENTLY"),
            None => Control::None,
        },
    }
}

fn is_view(tokens: &[Token<'_>]) -> bool {
    tokens[0].is("CREATE") && tokens.iter().take(4).any(|token| token.is("VIEW"))
}

/// Whether these words have a value that is another one each time they run.
fn computes(tokens: &[Token<'_>], dialect: Dialect) -> bool {
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
    // In SQLite they tell the time of now where that, or nothing, is asked for.
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
                && body_computes(token.text, dialect))
    })
}

/// The same for the text of a function or a block.
fn body_computes(literal: &str, dialect: Dialect) -> bool {
    let inner = literal.find('$').and_then(|start| literal[start + 1..].find('$').map(|end| start + end + 2));
    let inner = inner.map_or("", |start| &literal[start..literal.len() - start]);
    tokens(inner, dialect).is_ok_and(|tokens| computes(&tokens, dialect))
}

fn adds_enum_value(tokens: &[Token<'_>], dialect: Dialect) -> bool {
    let has = |first: &str, second: &str| tokens.windows(2).any(|it| it[0].is(first) && it[1].is(second));
    // A block has it in its text.
    let in_block = || tokens.iter().any(|token| token.text.to_ascii_uppercase().contains("ADD VALUE"));
    dialect == Dialect::Postgres
        && ((tokens[0].is("ALTER") && has("ALTER", "TYPE") && has("ADD", "VALUE"))
            || (tokens[0].is("DO") && in_block()))
}

fn moves(tokens: &[Token<'_>], dialect: Dialect) -> Vec<TableChange> {
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
    use super::Control::{Breaks, None, Outside};
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
                Breaks("COMMIT"),
                Breaks("END"),
                Breaks("ROLLBACK"),
                Breaks("BEGIN"),
                Control::OutsideSchema(OutsideReference::Session("ATTACH")),
                None,
                None,
                None,
                Outside("VACUUM"),
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
        let computes = |sql: &str, dialect| split(sql, dialect).unwrap()[0].computes;
        for sql in [
            "INSERT INTO a VALUES (hex(randomblob(16)))",
            "INSERT INTO a VALUES (datetime('now'))",
            "UPDATE a SET b = CURRENT_TIMESTAMP",
            "INSERT INTO a VALUES (strftime('%s', 'now'))",
            "INSERT INTO a VALUES (date())",
        ] {
            assert!(computes(sql, Dialect::Sqlite), "{sql}");
        }
        for sql in
            ["INSERT INTO a VALUES (gen_random_uuid())", "DO $$ BEGIN INSERT INTO a VALUES (now()); END $$"]
        {
            assert!(computes(sql, Dialect::Postgres), "{sql}");
        }
        for sql in [
            "INSERT INTO a VALUES (datetime('2020-01-01'), 'random()')",
            "CREATE VIEW v AS SELECT datetime('now')",
            "UPDATE a SET date = 1, now = 2, random = 3",
        ] {
            assert!(!computes(sql, Dialect::Sqlite), "{sql}");
        }
    }

    #[test]
    fn tables_that_go_away_are_named() {
        let moves = |sql: &str| split(sql, Dialect::Sqlite).unwrap()[0].table_changes.clone();
        assert_eq!(moves("DROP TABLE IF EXISTS main.\"A b\""), [TableChange::Dropped("a b".into())]);
        let renamed = TableChange::Renamed { from: "a".into(), to: "b".into() };
        assert_eq!(moves("ALTER TABLE main.A RENAME TO [b]"), [renamed]);
        assert_eq!(moves("ALTER TABLE a RENAME COLUMN x TO y"), []);
        let moves =
            split("DROP TABLE a, \"B c\" CASCADE", Dialect::Postgres).unwrap()[0].table_changes.clone();
        assert_eq!(moves, [TableChange::Dropped("a".into()), TableChange::Dropped("B c".into())]);
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
