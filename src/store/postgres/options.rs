//! Settings of a Postgres store.

use std::time::Duration;

use crate::project::NamePattern;
use crate::schema::ignore::IgnoreList;
use crate::sql::quote_name;

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
    pub(super) shared: Vec<String>,
    pub(super) extensions: Option<String>,
    pub(super) rehearse_on: Option<String>,
    pub(super) ignore: IgnoreList,
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
            shared: Vec::new(),
            extensions: None,
            rehearse_on: None,
            ignore: IgnoreList::default(),
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

    /// Sets the schemas that all projects share, such as `public`; default none. They follow a project's own schema on the
    /// `search_path` of migrations, applications and roles. New objects are always created in the project's own schema.
    #[must_use]
    pub fn shared(self, schemas: impl IntoIterator<Item = String>) -> Self {
        Self { shared: schemas.into_iter().collect(), ..self }
    }

    /// Sets the URL of the server on which copies of projects are upgraded in a rehearsal; default the same server.
    #[must_use]
    pub fn rehearse_on(self, url: impl Into<String>) -> Self {
        Self { rehearse_on: Some(url.into()), ..self }
    }

    /// Sets the schema in which extensions are created that a migration asks for; default the first shared schema, or
    /// `public` if there is none.
    #[must_use]
    pub fn extensions(self, schema: impl Into<String>) -> Self {
        Self { extensions: Some(schema.into()), ..self }
    }

    /// The schema for an extension: the one that the migration names, else the configured one.
    pub(super) fn extension_schema(&self, named: Option<&str>) -> String {
        let configured = self.extensions.as_ref().or(self.shared.first()).map(String::as_str);
        named.or(configured).unwrap_or("public").to_string()
    }

    /// The `search_path` with which names in a project's schema and in shared schemas are found.
    pub(super) fn search_path(&self, schema: &str) -> String {
        let schemas = std::iter::once(schema).chain(self.shared.iter().map(String::as_str));
        schemas.map(quote_name).collect::<Vec<_>>().join(", ")
    }

    /// Sets the objects that are not compared with the migrations; default none.
    #[must_use]
    pub fn ignore(self, ignore: IgnoreList) -> Self {
        Self { ignore, ..self }
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
