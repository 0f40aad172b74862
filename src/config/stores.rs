//! The stores of a fleet, as the settings describe them: one, or several with names.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::store_location::StoreLocation;
#[cfg(feature = "postgres")]
use super::store_location::Url;
use crate::error::{Error, ErrorKind, Result};
use crate::project::NamePattern;
use crate::schema::ignore::IgnoreList;
use crate::sql::Dialect;
use crate::store::Store;
#[cfg(feature = "postgres")]
use crate::store::postgres::{Isolation, PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// One of several stores: `[[stores]]` in `tenantry.toml`. What it does not set is taken from `[store]`.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// Its name, the first part of its projects' ids.
    pub name: String,
    /// `sqlite:DIR` or `postgres://...`.
    pub url: String,
    /// The pattern that maps ids to file or schema names.
    pub pattern: Option<String>,
    /// The largest number of its projects to work on in parallel.
    pub jobs: Option<usize>,
    /// The number of empty, migrated schemas to keep ready for new projects on Postgres.
    pub spares: Option<usize>,
    /// How projects are isolated from each other on Postgres: `none` or `role`.
    pub isolation: Option<String>,
    /// The schemas that all its projects share on Postgres.
    pub shared: Option<Vec<String>>,
    /// The schema in which extensions are created on Postgres.
    pub extensions: Option<String>,
}

impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may contain a password.
        f.debug_struct("StoreSettings").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StoreSettings {
    /// Returns these settings, with unset ones taken from `defaults`.
    pub(super) fn or(self, defaults: &Self) -> Self {
        let Self { pattern, jobs, spares, isolation, shared, extensions, .. } = defaults.clone();
        Self {
            name: self.name,
            url: self.url,
            pattern: self.pattern.or(pattern),
            // Its own number is a limit.
            jobs: self.jobs.into_iter().chain(jobs).min(),
            spares: self.spares.or(spares),
            isolation: self.isolation.or(isolation),
            shared: self.shared.or(shared),
            extensions: self.extensions.or(extensions),
        }
    }
}

/// One store, validated.
#[derive(Clone, Debug)]
pub(super) struct StoreConfig {
    pub(super) name: String,
    pub(super) location: StoreLocation,
    pub(super) jobs: Option<usize>,
    pattern: Option<NamePattern>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite needs no spares"))]
    spares: usize,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no roles"))]
    has_roles: bool,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no schemas"))]
    shared: Vec<String>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no schemas"))]
    extensions: Option<String>,
}

/// What all stores of a fleet have in common.
#[derive(Clone, Debug)]
pub(super) struct CommonOptions {
    pub(super) lock_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no statement timeout"))]
    pub(super) statement_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "a file has no connection to lose"))]
    pub(super) reconnect_timeout: Option<Duration>,
    #[cfg(feature = "postgres")]
    pub(super) rehearse_on: Option<String>,
    pub(super) load: Vec<String>,
    pub(super) rehearsal_memory_mib: Option<u64>,
}

impl StoreConfig {
    /// Returns `Configuration` if a setting is invalid.
    pub(super) fn new(settings: StoreSettings) -> Result<Self> {
        let location = StoreLocation::parse(&settings.url)?;
        let parse_pattern = match location {
            StoreLocation::Directory(_) => str::parse,
            #[cfg(feature = "postgres")]
            StoreLocation::Server(_) => NamePattern::parse_of_schemas,
        };
        let has_roles = match settings.isolation.as_deref() {
            None | Some("none") => false,
            Some("role") => true,
            Some(other) => {
                return Err(Error::new(ErrorKind::Configuration, format!("unknown isolation {other:?}"))
                    .with_hint("use \"none\" or \"role\""));
            }
        };
        if settings.jobs.is_some_and(|jobs| !(1..=1_024).contains(&jobs)) {
            return Err(Error::new(ErrorKind::Configuration, "jobs must be between 1 and 1024")
                .with_hint("omit it to use the default"));
        }
        let spares = settings.spares.unwrap_or(0);
        let shared = settings.shared.unwrap_or_default();
        let is_for_postgres = has_roles || spares > 0 || !shared.is_empty() || settings.extensions.is_some();
        if location.is_directory() && is_for_postgres {
            return Err(Error::new(
                ErrorKind::Configuration,
                "spares, isolation, shared and extensions require Postgres",
            )
            .with_hint(
                "remove them from the settings of the store in tenantry.toml, or use a Postgres store",
            ));
        }
        if let Some(name) = shared.iter().chain(&settings.extensions).find(|name| !is_schema_name(name)) {
            return Err(Error::new(ErrorKind::Configuration, format!("{name:?} cannot be a shared schema"))
                .with_hint(
                    "give the name of a schema, without quotes, that is not the server's or tenantry's own",
                ));
        }
        Ok(Self {
            name: settings.name,
            pattern: settings.pattern.as_deref().map(parse_pattern).transpose()?,
            location,
            jobs: settings.jobs,
            spares,
            has_roles,
            shared,
            extensions: settings.extensions,
        })
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.location {
            StoreLocation::Directory(_) => Dialect::Sqlite,
            #[cfg(feature = "postgres")]
            StoreLocation::Server(_) => Dialect::Postgres,
        }
    }

    /// Returns the store, without connecting to it. Fails if its URL is invalid.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unnecessary_wraps, reason = "a folder has no URL"))]
    pub(super) fn build(&self, common: &CommonOptions, ignore: IgnoreList) -> Result<Arc<dyn Store>> {
        match &self.location {
            StoreLocation::Directory(directory) => {
                let mut options = SqliteOptions::default().ignore(ignore).load(common.load.iter().cloned());
                if let Some(pattern) = &self.pattern {
                    options = options.pattern(pattern.clone());
                }
                if let Some(timeout) = common.lock_timeout {
                    options = options.lock_timeout(timeout);
                }
                if let Some(mebibytes) = common.rehearsal_memory_mib {
                    options = options.rehearsal_memory(mebibytes << 20);
                }
                Ok(Arc::new(SqliteStore::new(directory, options)))
            }
            #[cfg(feature = "postgres")]
            StoreLocation::Server(Url(url)) => {
                let isolation = if self.has_roles { Isolation::Role } else { Isolation::None };
                let mut options = PostgresOptions::default().spares(self.spares).isolation(isolation);
                options = options.shared(self.shared.iter().cloned()).ignore(ignore);
                if let Some(url) = &common.rehearse_on {
                    options = options.rehearse_on(url);
                }
                if let Some(schema) = &self.extensions {
                    options = options.extensions(schema);
                }
                if let Some(pattern) = &self.pattern {
                    options = options.pattern(pattern.clone());
                }
                if let Some(timeout) = common.lock_timeout {
                    options = options.lock_timeout(timeout);
                }
                if let Some(timeout) = common.statement_timeout.filter(|timeout| !timeout.is_zero()) {
                    options = options.statement_timeout(timeout);
                }
                if let Some(timeout) = common.reconnect_timeout {
                    options = options.reconnect_timeout(timeout);
                }
                Ok(Arc::new(PostgresStore::new(url, options)?))
            }
        }
    }
}

/// Whether a name can be that of a schema of the database's users.
fn is_schema_name(name: &str) -> bool {
    let is_reserved =
        name.starts_with("pg_") || name.starts_with("tenantry_") || name == "information_schema";
    !name.is_empty() && name.len() <= 63 && !is_reserved && !name.contains(['"', ',', '\0'])
}
