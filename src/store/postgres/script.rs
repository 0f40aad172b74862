//! Sends a migration's scripts to the server.
//!
//! A script is sent as written, without the schema's name. The `search_path` directs it to the schema, and an assertion
//! after each script checks that it still does.

use std::time::{Duration, SystemTime};

use diesel::connection::SimpleConnection as _;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Integer, Text};

use super::connect::{DefaultSettings, Scope, Timeouts, settings};
use super::connection_url::ConnectionUrl;
use super::failure::{Failure, MARK, marked, new_error};
use super::session::{PostgresSession, TransactionOwner};
use crate::catalog::{Migration, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::statement::{Control, Statement};
use crate::sql::{Dialect, quote_text, tokens};
use crate::store::{ScriptRun, Step};

/// Reads when each of the first `parts` parts of a batch ended.
struct EndTimes {
    parts: i32,
}

impl QueryFragment<Pg> for EndTimes {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT string_agg(current_setting('");
        out.push_sql(END_TIME);
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

/// Scripts for one schema that are sent together.
pub(super) struct Batch<'a> {
    /// The session's unsent statements, which go first.
    unsent: String,
    schema: String,
    parts: Vec<Part<'a>>,
    /// The statement that makes the settings for the scripts.
    settings: String,
    timeouts: Timeouts,
    sending: Sending,
}

/// How the scripts of a batch are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// In one message, after a savepoint. If it fails, the scripts run again from there to find the failed statement.
    OneMessage,
    /// Each statement in its own message: a `SET` is never sent with others, see [`settings`].
    PerStatement,
}

/// One script of a batch.
struct Part<'a> {
    migration: &'a Migration,
    script: &'a Script,
    /// The statements to send, each with the line that it begins on.
    statements: Vec<(String, u32)>,
}

/// Prefix of the settings that record when each part ended, in seconds of the server's clock. They are settings because
/// `batch_execute` discards the results of queries.
const END_TIME: &str = "tenantry.ended";

impl<'a> Batch<'a> {
    fn new(
        schema: String,
        path: &str,
        steps: &[Step<'a>],
        transaction_owner: TransactionOwner,
        timeouts: Timeouts,
        defaults: DefaultSettings,
    ) -> Self {
        let part = |step: &Step<'a>| {
            let statements = step.script.statements().iter();
            let statements = statements.filter_map(|statement| match transaction_owner {
                TransactionOwner::Session => Some((statement.sql.clone(), statement.line)),
                TransactionOwner::Caller => for_transaction(statement).map(|sql| (sql, statement.line)),
            });
            Part { migration: step.migration, script: step.script, statements: statements.collect() }
        };
        let parts: Vec<Part<'_>> = steps.iter().map(part).collect();
        let settings = timeouts.of_statements(Scope::Transaction, path, defaults);
        let sending =
            if parts.iter().any(Part::has_set) { Sending::PerStatement } else { Sending::OneMessage };
        Self { unsent: String::new(), schema, parts, settings, timeouts, sending }
    }

    /// The statements that go before the scripts.
    fn head(&self) -> String {
        format!("{}SAVEPOINT tenantry_step; {};\n", self.unsent, self.settings)
    }

    /// The statement that goes after a script. It records the time, and fails with the name of the current schema if
    /// the script changed that.
    fn end_marker(&self, index: usize) -> String {
        format!(
            "SELECT set_config('{END_TIME}{index}', CASE current_schema() WHEN {} \
             THEN CAST(extract(epoch FROM clock_timestamp()) AS text) \
             ELSE CAST(CAST({} AS int) AS text) END, true);\n",
            quote_text(&self.schema),
            marked(&format!("elsewhere {index}")),
        )
    }

    fn end() -> String {
        format!("RELEASE SAVEPOINT tenantry_step; {}", Timeouts::after_statements())
    }

    /// The whole message.
    fn sql(&self) -> String {
        let mut sql = self.head();
        for (index, part) in self.parts.iter().enumerate() {
            for (statement, _) in &part.statements {
                sql.push_str(statement);
                sql.push_str(";\n");
            }
            sql.push_str(&self.end_marker(index));
        }
        sql.push_str(&Self::end());
        sql
    }

    /// Returns the part and the line of a position in [`Batch::sql`], which is counted in characters from 1.
    fn locate(&self, sql: &str, position: usize) -> Option<(&Part<'a>, u32)> {
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
            start += self.end_marker(index).len();
        }
        None
    }
}

impl Part<'_> {
    /// Whether one of its statements may change a setting that outlasts the script.
    fn may_set(&self) -> bool {
        const WORDS: [&str; 4] = ["SET", "SELECT", "DO", "CALL"];
        let first =
            |sql: &str| sql.split(|it: char| !it.is_ascii_alphabetic()).next().map(str::to_ascii_uppercase);
        self.statements.iter().any(|(sql, _)| first(sql).is_some_and(|word| WORDS.contains(&word.as_str())))
    }

    /// Whether one of its statements is a `SET`.
    fn has_set(&self) -> bool {
        let starts = |sql: &str| sql.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("SET"));
        self.statements.iter().any(|(sql, _)| starts(sql))
    }

    /// The error for a failed statement, with its line.
    fn failed(&self, target: &ConnectionUrl, failure: &Failure, line: impl Into<Option<u32>>) -> Error {
        let kind = match failure.kind {
            // An error without a more specific kind is the migration's fault.
            ErrorKind::Database => ErrorKind::Migration,
            kind => kind,
        };
        let error = new_error("a statement failed", target, kind, &failure.message);
        error.in_migration(self.migration.label()).at(self.script.path(), line)
    }

    /// The error for a script that ends with another current schema.
    fn left_schema(&self) -> Error {
        Error::new(
            ErrorKind::Migration,
            "it changes the search_path, so what follows it would run in another schema",
        )
        .in_migration(self.migration.label())
        .at(self.script.path(), None)
        .with_hint("remove that change: a migration runs in the schema of each project and cannot choose another one")
    }
}

impl PostgresSession<'_> {
    /// Runs scripts in the transaction. Returns when each began and how long it took.
    ///
    /// Sends the scripts together, with two exceptions. A script that may change settings goes alone, because the next
    /// one would run with them. With a statement timeout every script goes alone, because a timeout has no position
    /// that would show which script failed.
    pub(super) fn run_in_transaction(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>> {
        let (timeouts, defaults) = self.settings()?;
        let goes_alone = |step: &Step<'_>| {
            let batch = Batch::new(
                String::new(),
                "",
                std::slice::from_ref(step),
                self.transaction_owner,
                timeouts,
                defaults,
            );
            timeouts.statement.is_some() || batch.parts.iter().any(Part::may_set)
        };
        let goes_alone: Vec<bool> = steps.iter().map(goes_alone).collect();
        let mut runs = Vec::new();
        while let Some(rest) = steps.get(runs.len()..).filter(|rest| !rest.is_empty()) {
            let count = goes_alone[runs.len()..].iter().take_while(|it| !**it).count();
            let batch = Batch::new(
                self.name.clone(),
                &self.store.options.search_path(&self.name),
                &rest[..count.max(1)],
                self.transaction_owner,
                timeouts,
                defaults,
            );
            let batch = Batch { unsent: self.take_unsent(), ..batch };
            runs.extend(self.run_batch(&batch)?);
        }
        Ok(runs)
    }

    fn run_batch(&mut self, batch: &Batch<'_>) -> Result<Vec<ScriptRun>> {
        let started = SystemTime::now();
        match batch.sending {
            Sending::OneMessage => {
                let sql = batch.sql();
                let result = self.pooled.connection()?.connection.batch_execute(&sql);
                if let Err(error) = result {
                    self.find_failed_statement(batch, &sql, &Failure::of(&error))?;
                }
            }
            Sending::PerStatement => {
                let result =
                    self.batch("cannot prepare the script", &format!("{}{}", batch.unsent, batch.settings));
                result.map_err(|error| {
                    if self.checks_inspection(batch) && error.kind() != ErrorKind::Disconnected {
                        self.changed_since_inspection()
                    } else {
                        error
                    }
                })?;
                self.run_statements(batch)?;
                self.batch("cannot reset the settings", &Timeouts::after_statements())?;
            }
        }
        let took = started.elapsed().unwrap_or_default();
        self.is_in_schema = false;
        match batch.parts.as_slice() {
            [part] => {
                if part.may_set() {
                    let result = self.pooled.connection()?.reapply_settings();
                    result.map_err(|error| self.failed("cannot reset the settings", &error))?;
                }
                Ok(vec![ScriptRun { started, took, deletes: false }])
            }
            parts => self.part_runs(started, took, parts.len()),
        }
    }

    /// Returns when each part of a batch began and how long it took. `took` is the duration of the whole batch.
    fn part_runs(&mut self, started: SystemTime, took: Duration, parts: usize) -> Result<Vec<ScriptRun>> {
        let parts = i32::try_from(parts).unwrap_or(i32::MAX);
        let ended = EndTimes { parts }.get_result::<String>(&mut self.pooled.connection()?.connection);
        let ended = ended.map_err(|error| self.failed("cannot read when the scripts ended", &error))?;
        let ended: Vec<f64> = ended.split(' ').filter_map(|at| at.parse().ok()).collect();
        let last = ended.last().copied().unwrap_or_default();
        // The server's clock may differ from this one, so its times only count backwards from the end of the batch.
        let ended = ended
            .iter()
            .map(|at| took.saturating_sub(Duration::try_from_secs_f64(last - at).unwrap_or_default()));
        let mut previous = Duration::ZERO;
        let runs = ended.map(|ended| {
            let began = std::mem::replace(&mut previous, ended);
            ScriptRun { started: started + began, took: ended.saturating_sub(began), deletes: false }
        });
        Ok(runs.collect())
    }

    /// Whether the unsent statements of a batch check that the project is as inspected. Otherwise they create its ledger.
    fn checks_inspection(&self, batch: &Batch<'_>) -> bool {
        !batch.unsent.is_empty() && self.assumes_unchanged()
    }

    /// Finds the statement that made a batch fail, and returns its error. If the failure has no position, runs the
    /// batch again, one statement at a time and with a lock timeout of 1 ms, so that a statement that waited for a lock
    /// in vain does not wait again. Succeeds if the batch succeeds this time.
    fn find_failed_statement(&mut self, batch: &Batch<'_>, sql: &str, failure: &Failure) -> Result<()> {
        let target = self.store.target();
        if let Some(marked) = failure.message.split(MARK).nth(1) {
            let index =
                marked.strip_prefix("elsewhere ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            let part = index.and_then(|index: usize| batch.parts.get(index));
            return Err(part.map_or_else(|| self.changed_since_inspection(), Part::left_schema));
        }
        if failure.position.is_some_and(|position| position <= batch.unsent.chars().count()) {
            return Err(if self.checks_inspection(batch) {
                self.changed_since_inspection()
            } else {
                new_error("cannot create its ledger", target, failure.kind, &failure.message)
            });
        }
        if let Some((part, line)) = failure.position.and_then(|position| batch.locate(sql, position)) {
            return Err(part.failed(target, failure, line));
        }
        let has_only_scripts = batch.unsent.is_empty();
        match (failure.kind, batch.parts.as_slice()) {
            (ErrorKind::LocksExhausted, [part]) => return Err(part.failed(target, failure, None)),
            (ErrorKind::LocksExhausted, _) => {
                return Err(new_error("a statement failed", target, failure.kind, &failure.message));
            }
            (ErrorKind::Disconnected, parts) if parts.len() > 1 || !has_only_scripts => {
                return Err(new_error("a statement failed", target, failure.kind, &failure.message));
            }
            (ErrorKind::Disconnected | ErrorKind::Locked | ErrorKind::Timeout, [part])
                if has_only_scripts =>
            {
                return Err(part.failed(target, failure, None));
            }
            _ => {}
        }
        let lock = batch.timeouts.lock.as_millis().max(1);
        let wait = |lock: u128| settings(Scope::Transaction, [("lock_timeout", lock.to_string())]);
        let result = self.batch(
            "cannot find the failed statement",
            &format!("ROLLBACK TO SAVEPOINT tenantry_step; {}; {}", batch.settings, wait(1)),
        );
        // If the unsent statements failed, the savepoint does not exist.
        if result.is_err() && !batch.unsent.is_empty() {
            return Err(if self.checks_inspection(batch) {
                self.changed_since_inspection()
            } else {
                new_error("cannot create its ledger", target, failure.kind, &failure.message)
            });
        }
        result?;
        self.run_statements(batch)?;
        // All statements succeeded this time.
        self.batch("cannot complete the scripts", &format!("{}; {}", wait(lock), Batch::end()))
    }

    /// Runs the statements one at a time. Checks after each script that the current schema is still the project's.
    fn run_statements(&mut self, batch: &Batch<'_>) -> Result<()> {
        let target = self.store.target();
        for (index, part) in batch.parts.iter().enumerate() {
            let marker = (batch.end_marker(index), None);
            let statements = part.statements.iter().map(|(sql, line)| (sql.clone(), Some(*line)));
            for (statement, line) in statements.chain([marker]) {
                let result = self.pooled.connection()?.connection.batch_execute(&statement);
                let Err(error) = result else { continue };
                let failure = Failure::of(&error);
                let has_left = failure.message.contains(MARK);
                return Err(if has_left { part.left_schema() } else { part.failed(target, &failure, line) });
            }
        }
        Ok(())
    }

    /// The timeouts of statements, and the server's default settings.
    fn settings(&mut self) -> Result<(Timeouts, DefaultSettings)> {
        let link = self.pooled.connection()?;
        Ok((link.timeouts, link.server.defaults))
    }

    /// Runs a script outside a transaction, one statement at a time.
    pub(super) fn run_outside_transaction(&mut self, step: &Step<'_>) -> Result<()> {
        let (timeouts, defaults) = self.settings()?;
        self.batch(
            "cannot prepare the script",
            &timeouts.of_statements(Scope::Session, &self.store.options.search_path(&self.name), defaults),
        )?;
        let batch = Batch::new(
            self.name.clone(),
            &self.store.options.search_path(&self.name),
            std::slice::from_ref(step),
            self.transaction_owner,
            timeouts,
            defaults,
        );
        let mut outcome = Ok(());
        let statements = batch.parts.iter().flat_map(|part| part.statements.iter().map(move |it| (part, it)));
        for (part, (statement, line)) in statements {
            let is_concurrent = statement.to_ascii_uppercase().contains("CONCURRENTLY");
            self.batch("cannot prepare the script", &timeouts.outside(is_concurrent))?;
            if let Err(error) = self.pooled.connection()?.connection.batch_execute(statement) {
                outcome = Err(part.failed(self.store.target(), &Failure::of(&error), *line));
                break;
            }
        }
        // SAVEPOINT succeeds only if the script left a transaction open. Otherwise ROLLBACK does nothing.
        let is_open = self.pooled.connection()?.connection.batch_execute("SAVEPOINT tenantry_step").is_ok();
        self.batch("cannot end the transaction", "ROLLBACK")?;
        let result = self.pooled.connection()?.apply_settings();
        result.map_err(|error| self.failed("cannot reset the settings", &error))?;
        outcome?;
        if is_open {
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

/// Returns a statement in a form that can run in a transaction, for a schema that nobody else sees yet: it does not
/// need `CONCURRENTLY`. Returns `None` for a statement that is not needed there, such as `VACUUM` or `COMMIT`.
fn for_transaction(statement: &Statement) -> Option<String> {
    match &statement.control {
        Control::OutsideTransaction("CONCURRENTLY") => {
            let tokens = tokens(&statement.sql, Dialect::Postgres).ok()?;
            let word = tokens.iter().find(|token| token.is("CONCURRENTLY"))?;
            let (before, after) = statement.sql.split_at(word.start);
            Some(format!("{before}{}", &after[word.text.len()..]))
        }
        Control::OutsideTransaction(_) | Control::ControlsTransaction(_) => None,
        Control::None | Control::Pragma(_) | Control::OutsideSchema(_) => Some(statement.sql.clone()),
    }
}
