//! A migration's script as it is sent to the server.
//!
//! It must keep the schema's name out of the script: the `search_path` leads it there, and it is asserted afterwards that
//! it still does.

use diesel::connection::SimpleConnection as _;

use super::failure::{Failure, MARK, described};
use super::session::{Kind, PostgresSession, Settings};
use super::target::Target;
use crate::catalog::Script;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::statement::{Control, Statement};
use crate::sql::{Dialect, quote_name, quote_text, tokens};

/// One script for one schema.
pub(super) struct Step<'a> {
    schema: String,
    script: &'a Script,
    /// What is sent, statement by statement, with the line each begins on.
    statements: Vec<(String, u32)>,
    /// What gives them the settings that they run with.
    settings: String,
    /// Whether they have these already.
    is_set: bool,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        schema: String,
        script: &'a Script,
        kind: Kind,
        settings: String,
        is_set: bool,
    ) -> Self {
        let statements = script
            .statements()
            .iter()
            .filter_map(|statement| match kind {
                Kind::Existing => Some((statement.sql.clone(), statement.line)),
                Kind::Within => inside(statement).map(|sql| (sql, statement.line)),
            })
            .collect();
        Self { schema, script, statements, settings, is_set }
    }

    fn settings(&self) -> String {
        format!("SET LOCAL search_path = {}; {}", quote_name(&self.schema), self.settings)
    }

    /// What goes before the script in a transaction.
    fn head(&self) -> String {
        let settings = if self.is_set { String::new() } else { self.settings() };
        format!("SAVEPOINT tenantry_step; {settings};\n")
    }

    /// Undoes what was sent, for another try.
    pub(super) fn again(&self) -> String {
        format!("ROLLBACK TO SAVEPOINT tenantry_step; {}", self.settings())
    }

    /// What goes after it: an error with the name of the place where the script has led, should that be another one.
    pub(super) fn end(&self) -> String {
        format!(
            "SELECT CASE WHEN current_schema() IS DISTINCT FROM {} THEN CAST({} || coalesce(current_schema(), 'nowhere') AS int) END; \
             RELEASE SAVEPOINT tenantry_step",
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

impl PostgresSession<'_> {
    /// Runs a script in the transaction, whole; where that fails for a reason without a place, once more statement by
    /// statement, to find the one.
    pub(super) fn run_inside(&mut self, script: &Script) -> Result<()> {
        let settings = self.kept.link()?.timeouts.of_statements("LOCAL");
        let step =
            Step::new(self.name.clone(), script, self.kind, settings, self.settings == Settings::Script);
        let sql = step.sql();
        let result = self.kept.link()?.connection.batch_execute(&sql);
        let Err(error) = result else { return self.after(&step) };
        let failure = Failure::of(&error);
        if failure.message.contains(MARK) {
            return Err(step.left_its_schema());
        }
        if matches!(failure.kind, ErrorKind::Disconnected | ErrorKind::Locked | ErrorKind::Timeout) {
            return Err(self.failed("a statement failed", &error).at(script.path(), None));
        }
        if let Some((_, line)) = failure.position.and_then(|position| step.place(&sql, position)) {
            return Err(step.failed(self.store.target(), &failure, line));
        }
        self.batch("cannot look for the statement", &step.again())?;
        for (statement, line) in step.statements() {
            let result = self.kept.link()?.connection.batch_execute(statement);
            if let Err(error) = result {
                return Err(step.failed(self.store.target(), &Failure::of(&error), line));
            }
        }
        // What failed a moment ago works now: then it is done.
        self.batch("cannot go on", &step.end())?;
        self.after(&step)
    }

    fn after(&mut self, step: &Step<'_>) -> Result<()> {
        self.settings = Settings::Script;
        if !step.may_set() {
            return Ok(());
        }
        let settled = self.kept.link()?.settle_again();
        self.settings = Settings::Own;
        settled.map_err(|error| self.failed("cannot go on", &error))
    }

    /// Runs a script outside a transaction, one statement at a time.
    pub(super) fn run_outside(&mut self, script: &Script) -> Result<()> {
        let timeouts = self.kept.link()?.timeouts;
        let settings = timeouts.of_statements("SESSION");
        let path = quote_name(&self.name);
        self.batch("cannot begin", &format!("SET SESSION search_path = {path}; {settings}"))?;
        let step = Step::new(self.name.clone(), script, self.kind, settings, true);
        let mut outcome = Ok(());
        for (statement, line) in step.statements() {
            let is_concurrent = statement.to_ascii_uppercase().contains("CONCURRENTLY");
            self.batch("cannot begin", &timeouts.outside(is_concurrent))?;
            if let Err(error) = self.kept.link()?.connection.batch_execute(statement) {
                outcome = Err(step.failed(self.store.target(), &Failure::of(&error), line));
                break;
            }
        }
        // A savepoint can be made in a transaction only; where there is none, ROLLBACK does nothing.
        let open = self.kept.link()?.connection.batch_execute("SAVEPOINT tenantry_step").is_ok();
        self.batch("cannot go on", "ROLLBACK")?;
        let settled = self.kept.link()?.settle();
        settled.map_err(|error| self.failed("cannot go on", &error))?;
        outcome?;
        if open {
            return Err(Error::new(ErrorKind::Migration, "it begins a transaction and does not end it")
                .at(script.path(), None));
        }
        Ok(())
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
