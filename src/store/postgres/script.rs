//! A migration's script as it is sent to the server.
//!
//! It must keep the schema's name out of the script: the `search_path` leads it there, and it is asserted afterwards that
//! it still does.

use super::catalog::NEUTRAL;
use super::failure::{Failure, MARK, described};
use super::session::Kind;
use super::target::Target;
use crate::catalog::Script;
use crate::error::{Error, ErrorKind};
use crate::sql::statement::{Control, Statement};
use crate::sql::{Dialect, quote_name, quote_text, tokens};

/// One script for one schema.
pub(super) struct Step<'a> {
    schema: String,
    script: &'a Script,
    /// What is sent, statement by statement, with the line each begins on.
    statements: Vec<(String, u32)>,
}

impl<'a> Step<'a> {
    pub(super) fn new(schema: String, script: &'a Script, kind: Kind) -> Self {
        let statements = script
            .statements()
            .iter()
            .filter_map(|statement| match kind {
                Kind::Existing => Some((statement.sql.clone(), statement.line)),
                Kind::Within => inside(statement).map(|sql| (sql, statement.line)),
            })
            .collect();
        Self { schema, script, statements }
    }

    /// What goes before the script in a transaction.
    fn head(&self) -> String {
        format!("SAVEPOINT tenantry_step; SET LOCAL search_path = {};\n", quote_name(&self.schema))
    }

    /// Undoes what was sent, for another try.
    pub(super) fn again(&self) -> String {
        format!("ROLLBACK TO SAVEPOINT tenantry_step; SET LOCAL search_path = {}", quote_name(&self.schema))
    }

    /// What goes after it: an error with the name of the place where the script has led, should that be another one.
    pub(super) fn end(&self) -> String {
        format!(
            "SELECT CASE WHEN current_schema() IS DISTINCT FROM {} THEN CAST({} || coalesce(current_schema(), 'nowhere') AS int) END; \
             SET LOCAL search_path = {NEUTRAL}; RELEASE SAVEPOINT tenantry_step",
            quote_text(&self.schema),
            quote_text(MARK),
        )
    }

    /// The whole script with what goes before and after.
    pub(super) fn sql(&self) -> String {
        let mut sql = self.head();
        for (statement, _) in &self.statements {
            sql.push_str(statement);
            sql.push_str(";\n");
        }
        sql.push_str(&self.end());
        sql
    }

    /// The statements, with the lines they begin on.
    pub(super) fn statements(&self) -> impl Iterator<Item = (&str, u32)> {
        self.statements.iter().map(|(sql, line)| (sql.as_str(), *line))
    }

    /// Whether it may change a setting that outlasts its transaction.
    pub(super) fn may_set(&self) -> bool {
        const WORDS: [&str; 4] = ["SET", "SELECT", "DO", "CALL"];
        let first =
            |sql: &str| sql.split(|it: char| !it.is_ascii_alphabetic()).next().map(str::to_ascii_uppercase);
        self.statements().any(|(sql, _)| first(sql).is_some_and(|word| WORDS.contains(&word.as_str())))
    }

    /// The statement at a position in [`Step::sql`], counted in characters from one, and the line in the script.
    pub(super) fn place(&self, sql: &str, position: usize) -> Option<(usize, u32)> {
        let offset = sql.char_indices().nth(position.checked_sub(1)?).map_or(sql.len(), |(index, _)| index);
        let mut start = self.head().len();
        for (index, (statement, line)) in self.statements.iter().enumerate() {
            let end = start + statement.len();
            if (start..=end).contains(&offset) {
                return Some((index, line_of(statement, offset - start, *line)));
            }
            start = end + 2;
        }
        None
    }

    /// The error of a statement, at its line.
    pub(super) fn failed(&self, target: &Target, failure: &Failure, line: u32) -> Error {
        let error = described("a statement failed", target, failure.kind, &failure.message);
        let error = match failure.kind {
            // What has no kind of its own is the statement's fault.
            ErrorKind::Database | ErrorKind::Migration => {
                described("a statement failed", target, ErrorKind::Migration, &failure.message)
            }
            _ => error,
        };
        error.at(self.script.path(), line)
    }

    /// The error of a script that ends in another schema than its own.
    pub(super) fn left_its_schema(&self) -> Error {
        Error::new(
            ErrorKind::Migration,
            "it changes the search_path, and what comes after it would be in another schema",
        )
        .at(self.script.path(), None)
        .hint("remove that: a migration is about one project's schema alone, whichever that is")
    }
}

fn line_of(statement: &str, offset: usize, first: u32) -> u32 {
    let before =
        statement.as_bytes()[..offset.min(statement.len())].iter().filter(|&&byte| byte == b'\n').count();
    first + u32::try_from(before).unwrap_or_default()
}

/// A statement as it can run inside a transaction on a schema that nobody else sees yet: nothing need be concurrent
/// there, and nothing cleaned up.
fn inside(statement: &Statement) -> Option<String> {
    match statement.control {
        Control::Outside("CONCURRENTLY") => {
            let tokens = tokens(&statement.sql, Dialect::Postgres).ok()?;
            let word = tokens.iter().find(|token| token.is("CONCURRENTLY"))?;
            let (before, after) = statement.sql.split_at(word.start);
            Some(format!("{before}{}", &after[word.text.len()..]))
        }
        Control::Outside(_) | Control::Breaks(_) => None,
        Control::None | Control::Elsewhere(_) => Some(statement.sql.clone()),
    }
}
