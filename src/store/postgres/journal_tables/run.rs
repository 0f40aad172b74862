//! A run in progress: its mark, its lock and its events.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connection::{
    add_event, commit_asynchronously, connect, failed, is_disconnected, next_event, pauses, try_lock, yes,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::postgres::connect::ServerConnection;
use crate::store::postgres::connection_url::ConnectionUrl;

/// How many events are kept to be sent again.
const RECENT_EVENTS: usize = 1_024;
/// A run that this process has in progress.
pub(crate) struct OpenRun {
    target: ConnectionUrl,
    reconnect_timeout: Duration,
    link: ServerConnection,
    run: String,
    /// The number of the next event. It makes a repeated insertion harmless.
    next: i64,
    /// The last events: a server that crashes may lose what it committed asynchronously.
    recent: VecDeque<String>,
    is_lost: bool,
    is_asynchronous: bool,
}

impl OpenRun {
    /// Takes the lock of a run and marks it as in progress. Returns `None` if it is marked already.
    pub(super) fn begin(
        target: &ConnectionUrl,
        reconnect_timeout: Duration,
        run: &str,
    ) -> Result<Option<Self>> {
        let mut link = connect(target)?;
        let connection = &mut link.connection;
        let mut begin = || -> QueryResult<Option<i64>> {
            // The lock comes first: a row without it means a killed run.
            if !try_lock(connection, run)? {
                return Ok(None);
            }
            let insert = "INSERT INTO tenantry_journal.runs (run) VALUES ($1) ON CONFLICT DO NOTHING";
            let inserted = diesel::sql_query(insert).bind::<Text, _>(run).execute(connection)?;
            Ok(if inserted == 1 { Some(next_event(connection, run)?) } else { None })
        };
        let next = begin().map_err(|error| failed(target, &error))?;
        Ok(next.map(|next| Self {
            target: target.clone(),
            reconnect_timeout,
            link,
            run: run.into(),
            next,
            recent: VecDeque::new(),
            is_lost: false,
            is_asynchronous: false,
        }))
    }

    /// Appends an event. If the connection is lost, does so over a new one.
    pub(crate) fn append_event(&mut self, line: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            match add_event(&mut self.link.connection, &self.run, self.next, line) {
                Ok(()) => {
                    self.next += 1;
                    self.recent.push_back(line.into());
                    if self.recent.len() > RECENT_EVENTS {
                        self.recent.pop_front();
                    }
                    // The first event says what the run is to do, so it is on disk. The others need not be. If this
                    // fails, the next event finds the connection lost.
                    if !self.is_asynchronous {
                        self.is_asynchronous = commit_asynchronously(&mut self.link.connection).is_ok();
                    }
                    return Ok(());
                }
                Err(error) if is_disconnected(&error) && started.elapsed() < self.reconnect_timeout => {
                    self.reconnect(started)?;
                }
                Err(error) => return Err(failed(&self.target, &error)),
            }
        }
    }

    /// Whether the lock was lost and could not be taken again.
    pub(crate) fn has_lost_its_lock(&self) -> bool {
        self.is_lost
    }

    /// Sends the events again that a server lost in a crash.
    fn resend(&mut self) -> QueryResult<bool> {
        let found = next_event(&mut self.link.connection, &self.run)?;
        let lost = usize::try_from(self.next - found).unwrap_or_default();
        let Some(kept) = self.recent.len().checked_sub(lost) else { return Ok(false) };
        for (number, line) in (found..).zip(self.recent.iter().skip(kept)) {
            add_event(&mut self.link.connection, &self.run, number, line)?;
        }
        Ok(true)
    }

    /// Opens another connection that has the run's lock. The server may notice only later that the old one is gone.
    fn reconnect(&mut self, started: Instant) -> Result<()> {
        let mut pauses = pauses();
        loop {
            pauses.sleep();
            let has_time = started.elapsed() < self.reconnect_timeout;
            let mut link = match connect(&self.target) {
                Err(error) if error.kind() == ErrorKind::Disconnected && has_time => continue,
                link => link?,
            };
            let sql = "SELECT EXISTS (SELECT FROM tenantry_journal.runs WHERE run = $1) AS yes";
            let mut take = || -> QueryResult<[bool; 2]> {
                let is_locked = try_lock(&mut link.connection, &self.run)?;
                commit_asynchronously(&mut link.connection)?;
                Ok([is_locked, yes(&mut link.connection, sql, &self.run)?])
            };
            match take() {
                Ok([true, true]) => {
                    self.link = link;
                    match self.resend() {
                        Ok(true) => return Ok(()),
                        Ok(false) => {
                            let message = "the server has lost events of the run";
                            return Err(Error::new(ErrorKind::Disconnected, message));
                        }
                        Err(error) if is_disconnected(&error) && has_time => {}
                        Err(error) => return Err(failed(&self.target, &error)),
                    }
                }
                Ok([true, false]) => {
                    self.is_lost = true;
                    let message =
                        "another process has taken this run for a killed one, and completed its record";
                    return Err(Error::new(ErrorKind::Disconnected, message));
                }
                Ok([false, _]) if has_time => {}
                Ok([false, _]) => {
                    self.is_lost = true;
                    return Err(Error::new(
                        ErrorKind::Disconnected,
                        "the run's lock could not be taken again",
                    ));
                }
                Err(error) if is_disconnected(&error) && has_time => {}
                Err(error) => return Err(failed(&self.target, &error)),
            }
        }
    }
}
