//! Settings of a Postgres store.

use std::time::Duration;

use crate::project::NamePattern;

/// Settings of a [`PostgresStore`](super::PostgresStore). The defaults suit most fleets.
///
/// ```
/// use std::time::Duration;
/// use tenantry::store::{Isolation, PostgresOptions};
///
/// let options = PostgresOptions::default().spares(8).isolation(Isolation::Role).lock_timeout(Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(super) pattern: NamePattern,
    pub(super) lock_timeout: Duration,
    pub(super) retries: u32,
    pub(super) statement_timeout: Option<Duration>,
    pub(super) reconnect_timeout: Duration,
    pub(super) spares: usize,
    pub(super) isolation: Isolation,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            pattern: NamePattern::of_schemas(),
            lock_timeout: Duration::from_secs(2),
            retries: 3,
            statement_timeout: None,
            reconnect_timeout: Duration::from_secs(10),
            spares: 0,
            isolation: Isolation::None,
        }
    }
}

impl PostgresOptions {
    /// Sets the pattern of schema names; default `project_{id}`. See [`NamePattern::parse_of_schemas`].
    #[must_use]
    pub fn pattern(self, pattern: NamePattern) -> Self {
        Self { pattern, ..self }
    }

    /// Sets how long one attempt waits for a lock; default 2 s.
    #[must_use]
    pub fn lock_timeout(self, lock_timeout: Duration) -> Self {
        Self { lock_timeout, ..self }
    }

    /// Sets how often a project is retried whose lock was not available; default 3.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// Limits the time of each statement of a migration; default no limit.
    #[must_use]
    pub fn statement_timeout(self, statement_timeout: Duration) -> Self {
        Self { statement_timeout: Some(statement_timeout), ..self }
    }

    /// Sets for how long reads are retried that lost their connection; default 10 s.
    #[must_use]
    pub fn reconnect_timeout(self, reconnect_timeout: Duration) -> Self {
        Self { reconnect_timeout, ..self }
    }

    /// Sets how many migrated schemas are kept ready to become projects; default none.
    #[must_use]
    pub fn spares(self, spares: usize) -> Self {
        Self { spares, ..self }
    }

    /// Sets what separates projects; default [`Isolation::None`].
    #[must_use]
    pub fn isolation(self, isolation: Isolation) -> Self {
        Self { isolation, ..self }
    }
}

/// What separates projects from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Only the `search_path`: a connection to one project can name any schema.
    None,
    /// Each project has a login role with its schema's name that can use that schema alone.
    Role,
}
