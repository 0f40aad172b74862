//! A migration's script as it is sent to the server.
//!
//! It must keep the schema's name out of the script: the `search_path` leads it there, and it is asserted afterwards that
//! it still does.

use std::time::{Duration, SystemTime};

use diesel::connection::SimpleConnection as _;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Integer, Text};

use super::connect::{DefaultSettings, Scope, Timeouts, settings};
use super::connection_url::ConnectionUrl;
use super::failure::{Failure, MARK, described, marked};
use super::session::{Kind, PostgresSession};
use crate::catalog::{Migration, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::statement::{Control, Statement};
use crate::sql::{Dialect, quote_text, tokens};
use crate::store::{ScriptRun, Step};

/// Asks when so many parts of a batch had ended.
struct EndTimes {
    parts: i32,
}

impl QueryFragment<Pg> for EndTimes {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT string_agg(current_setting('");
        out.push_sql(ENDED);
        out.push_sql("' || part), ' ' ORDER BY part) FROM generate_series(0, ");
        out.push_bind_param::<Integer, _>(&self.parts)?;
        out.push_sql(" - 1) part");
        Ok(())
    }
}

impl QueryId for EndTimes {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for EndTimes {
    type SqlType = Text;
}

impl RunQueryDsl<PgConnection> for EndTimes {}

/// Scripts for one schema, to be sent as one.
pub(super) struct Batch<'a> {
    /// What was still to be sent before them.
    before: String,
    schema: String,
    parts: Vec<Part<'a>>,
    /// What gives them the settings that they run with.
    settings: String,
    timeouts: Timeouts,
    sending: Sending,
}

/// How scripts go to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// In one message, after a savepoint from which it is found out which statement failed.
    Together,
    /// Each statement by itself: a `SET` is never sent with others.
    Separately,
}

/// One of them.
struct Part<'a> {
    migration: &'a Migration,
    script: &'a Script,
    /// What is sent, statement by statement, with the line each begins on.
    statements: Vec<(String, u32)>,
}

/// What begins the names of the settings that say when each part had ended, in seconds by the server's clock: the answers to
/// all statements of a batch are lost.
const ENDED: &str = "tenantry.ended";

impl<'a> Batch<'a> {
    fn new(
        schema: String,
        steps: &[Step<'a>],
        kind: Kind,
        timeouts: Timeouts,
        usual: DefaultSettings,
    ) -> Self {
        let part = |step: &Step<'a>| {
            let statements = step.script.statements().iter();
            let statements = statements.filter_map(|statement| match kind {
                Kind::Existing => Some((statement.sql.clone(), statement.line)),
                Kind::Within => inside(statement).map(|sql| (sql, statement.line)),
            });
            Part { migration: step.migration, script: step.script, statements: statements.collect() }
        };
        let parts: Vec<Part<'_>> = steps.iter().map(part).collect();
        let settings = timeouts.of_statements(Scope::Transaction, &schema, usual);
        let sending = if parts.iter().any(Part::sets) { Sending::Separately } else { Sending::Together };
        Self { before: String::new(), schema, parts, settings, timeouts, sending }
    }

    /// What goes before the scripts.
    fn head(&self) -> String {
        format!("{}SAVEPOINT tenantry_step; {};\n", self.before, self.settings)
    }

    /// What goes after one: an error with the name of the place where it has led, should that be another one.
    fn mark(&self, index: usize) -> String {
        format!(
            "SELECT set_config('{ENDED}{index}', CASE current_schema() WHEN {} \
             THEN CAST(extract(epoch FROM clock_timestamp()) AS text) \
             ELSE CAST(CAST({} AS int) AS text) END, true);\n",
            quote_text(&self.schema),
            marked(&format!("elsewhere {index}")),
        )
    }

    fn end() -> String {
        format!("RELEASE SAVEPOINT tenantry_step; {}", Timeouts::after_statements())
    }

    /// All that is sent.
    fn sql(&self) -> String {
        let mut sql = self.head();
        for (index, part) in self.parts.iter().enumerate() {
            for (statement, _) in &part.statements {
                sql.push_str(statement);
                sql.push_str(";\n");
            }
            sql.push_str(&self.mark(index));
        }
        sql.push_str(&Self::end());
        sql
    }

    /// The part and the line that a position in [`Batch::sql`] is at, counted in characters from one.
    fn place(&self, sql: &str, position: usize) -> Option<(&Part<'a>, u32)> {
        let offset = sql.char_indices().nth(position.checked_sub(1)?).map_or(sql.len(), |(index, _)| index);
        let mut start = self.head().len();
        for (index, part) in self.parts.iter().enumerate() {
            for (statement, line) in &part.statements {
                let end = start + statement.len();
                if (start..=end).contains(&offset) {
                    return Some((part, line_of(statement, offset - start, *line)));
                }
                start = end + 2;
            }
            start += self.mark(index).len();
        }
        None
    }
}

impl Part<'_> {
    /// Whether it may change a setting that outlasts its transaction.
    fn may_set(&self) -> bool {
        const WORDS: [&str; 4] = ["SET", "SELECT", "DO", "CALL"];
        let first =
            |sql: &str| sql.split(|it: char| !it.is_ascii_alphabetic()).next().map(str::to_ascii_uppercase);
        self.statements.iter().any(|(sql, _)| first(sql).is_some_and(|word| WORDS.contains(&word.as_str())))
    }

    /// Whether one of its statements is a `SET`.
    fn sets(&self) -> bool {
        let starts = |sql: &str| sql.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("SET"));
        self.statements.iter().any(|(sql, _)| starts(sql))
    }

    /// The error of a statement, at its line.
    fn failed(&self, target: &ConnectionUrl, failure: &Failure, line: impl Into<Option<u32>>) -> Error {
        let kind = match failure.kind {
            // What has no kind of its own is the statement's fault.
            ErrorKind::Database => ErrorKind::Migration,
            kind => kind,
        };
        let error = described("a statement failed", target, kind, &failure.message);
        error.in_migration(self.migration.label()).at(self.script.path(), line)
    }

    /// The error of a script that ends in another schema than its own.
    fn left_its_schema(&self) -> Error {
        Error::new(
            ErrorKind::Migration,
            "it changes the search_path, and what comes after it would be in another schema",
        )
        .in_migration(self.migration.label())
        .at(self.script.path(), None)
        .with_hint("remove that: a migration is about one project's schema alone, whichever that is")
    }
}

impl PostgresSession<'_> {
    /// Runs scripts in the transaction; says when each began and how long it took. They are sent as one, but for those
    /// that may change what the next would run with, and where each statement's time is limited: of what fails without
    /// a place it must be known which it was.
    pub(super) fn run_inside(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>> {
        let (timeouts, usual) = self.settings()?;
        let alone = |step: &Step<'_>| {
            let batch = Batch::new(String::new(), std::slice::from_ref(step), self.kind, timeouts, usual);
            timeouts.statement.is_some() || batch.parts.iter().any(Part::may_set)
        };
        let alone: Vec<bool> = steps.iter().map(alone).collect();
        let mut ran = Vec::new();
        while let Some(rest) = steps.get(ran.len()..).filter(|rest| !rest.is_empty()) {
            let together = alone[ran.len()..].iter().take_while(|alone| !**alone).count();
            let batch = Batch::new(self.name.clone(), &rest[..together.max(1)], self.kind, timeouts, usual);
            let batch = Batch { before: self.take_unsent(), ..batch };
            ran.extend(self.run_batch(&batch)?);
        }
        Ok(ran)
    }

    fn run_batch(&mut self, batch: &Batch<'_>) -> Result<Vec<ScriptRun>> {
        let started = SystemTime::now();
        match batch.sending {
            Sending::Together => {
                let sql = batch.sql();
                let result = self.pooled.link()?.connection.batch_execute(&sql);
                if let Err(error) = result {
                    self.look_for_the_statement(batch, &sql, &Failure::of(&error))?;
                }
            }
            Sending::Separately => {
                let begun = self.batch("cannot begin", &format!("{}{}", batch.before, batch.settings));
                begun.map_err(|error| {
                    if batch.before.is_empty() || error.kind() == ErrorKind::Disconnected {
                        error
                    } else {
                        self.moved()
                    }
                })?;
                self.run_each(batch)?;
                self.batch("cannot go on", &Timeouts::after_statements())?;
            }
        }
        let took = started.elapsed().unwrap_or_default();
        self.is_inside = false;
        match batch.parts.as_slice() {
            [part] => {
                if part.may_set() {
                    let settled = self.pooled.link()?.reapply_settings();
                    settled.map_err(|error| self.failed("cannot go on", &error))?;
                }
                Ok(vec![ScriptRun { started, took, deletes: false }])
            }
            parts => self.ran(started, took, parts.len()),
        }
    }

    /// When the parts of a batch began that took so long together, and how long each took.
    fn ran(&mut self, started: SystemTime, took: Duration, parts: usize) -> Result<Vec<ScriptRun>> {
        let parts = i32::try_from(parts).unwrap_or(i32::MAX);
        let ended = EndTimes { parts }.get_result::<String>(&mut self.pooled.link()?.connection);
        let ended = ended.map_err(|error| self.failed("cannot go on", &error))?;
        let ended: Vec<f64> = ended.split(' ').filter_map(|at| at.parse().ok()).collect();
        let last = ended.last().copied().unwrap_or_default();
        // The two clocks need not agree: the last ended when all had.
        let ended = ended
            .iter()
            .map(|at| took.saturating_sub(Duration::try_from_secs_f64(last - at).unwrap_or_default()));
        let mut before = Duration::ZERO;
        let ran = ended.map(|ended| {
            let began = std::mem::replace(&mut before, ended);
            ScriptRun { started: started + began, took: ended.saturating_sub(began), deletes: false }
        });
        Ok(ran.collect())
    }

    /// What failed without a place is done once more, statement by statement, to find the one. What waited for a lock in
    /// vain waits hardly at all this time. Errors, unless it now works.
    fn look_for_the_statement(&mut self, batch: &Batch<'_>, sql: &str, failure: &Failure) -> Result<()> {
        let target = self.store.target();
        if let Some(marked) = failure.message.split(MARK).nth(1) {
            let index =
                marked.strip_prefix("elsewhere ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            let part = index.and_then(|index: usize| batch.parts.get(index));
            return Err(part.map_or_else(|| self.moved(), Part::left_its_schema));
        }
        if failure.position.is_some_and(|position| position <= batch.before.chars().count()) {
            return Err(self.moved());
        }
        if let Some((part, line)) = failure.position.and_then(|position| batch.place(sql, position)) {
            return Err(part.failed(target, failure, line));
        }
        let is_alone = batch.before.is_empty();
        match (failure.kind, batch.parts.as_slice()) {
            (ErrorKind::LocksExhausted, [part]) => return Err(part.failed(target, failure, None)),
            (ErrorKind::LocksExhausted, _) => {
                return Err(described("a statement failed", target, failure.kind, &failure.message));
            }
            (ErrorKind::Disconnected, parts) if parts.len() > 1 || !is_alone => {
                return Err(described("a statement failed", target, failure.kind, &failure.message));
            }
            (ErrorKind::Disconnected | ErrorKind::Locked | ErrorKind::Timeout, [part]) if is_alone => {
                return Err(part.failed(target, failure, None));
            }
            _ => {}
        }
        let lock = batch.timeouts.lock.as_millis().max(1);
        let wait = |lock: u128| settings(Scope::Transaction, [("lock_timeout", lock.to_string())]);
        let back = self.batch(
            "cannot look for the statement",
            &format!("ROLLBACK TO SAVEPOINT tenantry_step; {}; {}", batch.settings, wait(1)),
        );
        // Where what comes before the scripts failed, there is no place to go back to.
        back.map_err(|error| if batch.before.is_empty() { error } else { self.moved() })?;
        self.run_each(batch)?;
        // What failed a moment ago works now: then it is done.
        self.batch("cannot go on", &format!("{}; {}", wait(lock), Batch::end()))
    }

    /// Runs each statement by itself, and asserts after each script where it has led.
    fn run_each(&mut self, batch: &Batch<'_>) -> Result<()> {
        let target = self.store.target();
        for (index, part) in batch.parts.iter().enumerate() {
            let mark = (batch.mark(index), None);
            let statements = part.statements.iter().map(|(sql, line)| (sql.clone(), Some(*line)));
            for (statement, line) in statements.chain([mark]) {
                let result = self.pooled.link()?.connection.batch_execute(&statement);
                let Err(error) = result else { continue };
                let failure = Failure::of(&error);
                let is_elsewhere = failure.message.contains(MARK);
                return Err(if is_elsewhere {
                    part.left_its_schema()
                } else {
                    part.failed(target, &failure, line)
                });
            }
        }
        Ok(())
    }

    /// The time limits of statements, and the settings that are anybody's.
    fn settings(&mut self) -> Result<(Timeouts, DefaultSettings)> {
        let link = self.pooled.link()?;
        Ok((link.timeouts, link.server.usual))
    }

    /// Runs a script outside a transaction, one statement at a time.
    pub(super) fn run_outside(&mut self, step: &Step<'_>) -> Result<()> {
        let (timeouts, usual) = self.settings()?;
        self.batch("cannot begin", &timeouts.of_statements(Scope::Session, &self.name, usual))?;
        let batch = Batch::new(self.name.clone(), std::slice::from_ref(step), self.kind, timeouts, usual);
        let mut outcome = Ok(());
        let statements = batch.parts.iter().flat_map(|part| part.statements.iter().map(move |it| (part, it)));
        for (part, (statement, line)) in statements {
            let is_concurrent = statement.to_ascii_uppercase().contains("CONCURRENTLY");
            self.batch("cannot begin", &timeouts.outside(is_concurrent))?;
            if let Err(error) = self.pooled.link()?.connection.batch_execute(statement) {
                outcome = Err(part.failed(self.store.target(), &Failure::of(&error), *line));
                break;
            }
        }
        // A savepoint can be made in a transaction only; where there is none, ROLLBACK does nothing.
        let open = self.pooled.link()?.connection.batch_execute("SAVEPOINT tenantry_step").is_ok();
        self.batch("cannot go on", "ROLLBACK")?;
        let settled = self.pooled.link()?.apply_settings();
        settled.map_err(|error| self.failed("cannot go on", &error))?;
        outcome?;
        if open {
            return Err(Error::new(ErrorKind::Migration, "it begins a transaction and does not end it")
                .in_migration(step.migration.label())
                .at(step.script.path(), None));
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
    match &statement.control {
        Control::Outside("CONCURRENTLY") => {
            let tokens = tokens(&statement.sql, Dialect::Postgres).ok()?;
            let word = tokens.iter().find(|token| token.is("CONCURRENTLY"))?;
            let (before, after) = statement.sql.split_at(word.start);
            Some(format!("{before}{}", &after[word.text.len()..]))
        }
        Control::Outside(_) | Control::Breaks(_) => None,
        Control::None | Control::Pragma(_) | Control::OutsideSchema(_) => Some(statement.sql.clone()),
    }
}
