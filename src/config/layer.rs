//! The settings of one source: flags, environment variables or `tenantry.toml`.
//!
//! Does not read the environment; callers pass a function that looks up a variable.

use std::path::PathBuf;

use super::rollout::RolloutSettings;
use super::stores::StoreSettings;
use crate::error::{Error, ErrorKind, Result};

/// The settings of one source. `None` leaves a setting to a source of lower precedence.
#[derive(Clone, Default, PartialEq)]
pub struct Layer {
    /// `sqlite:DIR` or `postgres://...`.
    pub store: Option<String>,
    /// Several stores with names, in place of `store`.
    pub stores: Option<Vec<StoreSettings>>,
    /// The names of those among `stores` that are meant.
    pub only_stores: Option<Vec<String>>,
    /// Where new projects are created that name no store: `fewest`.
    pub place: Option<String>,
    /// The pattern that maps ids to file or schema names, such as `project_{id}.db`.
    pub pattern: Option<String>,
    /// The migrations that the projects follow.
    pub migrations: Option<Migrations>,
    /// The tool whose layout the folder of migrations has.
    pub layout: Option<String>,
    /// The name by which migrations call the project's own schema on Postgres.
    pub own_schema: Option<String>,
    /// The number of projects to work on in parallel.
    pub jobs: Option<usize>,
    /// How long to wait for another process's lock, in seconds.
    pub lock_timeout: Option<f64>,
    /// How long one statement may run on Postgres, in seconds; 0 for no limit.
    pub statement_timeout: Option<f64>,
    /// How long to retry a read that lost its connection to Postgres, in seconds; 0 disables retries.
    pub reconnect_timeout: Option<f64>,
    /// The number of empty, migrated schemas to keep ready for new projects on Postgres.
    pub spares: Option<usize>,
    /// How projects are isolated from each other on Postgres: `none` or `role`.
    pub isolation: Option<String>,
    /// The schemas that all projects share on Postgres.
    pub shared: Option<Vec<String>>,
    /// The schema in which extensions are created on Postgres.
    pub extensions: Option<String>,
    /// The objects that are not compared with the migrations.
    pub ignore: Option<Vec<String>>,
    /// The extensions of SQLite that every connection loads.
    pub load: Option<Vec<String>>,
    /// Up to which size a SQLite database is rehearsed in memory, in MiB.
    pub rehearsal_memory_mib: Option<u64>,
    /// The rules of lint that are switched off.
    pub lint_off: Option<Vec<String>>,
    /// Whether findings of lint are errors.
    pub lint_strict: Option<bool>,
    /// How `upgrade-all` goes through the fleet.
    pub rollout: RolloutSettings,
    /// The folder of the backups.
    pub backups: Option<PathBuf>,
    /// Where the journal is.
    pub journal: Option<JournalPlace>,
}

/// Where a journal is.
#[derive(Clone, PartialEq, Eq)]
pub enum JournalPlace {
    /// In a folder.
    Folder(PathBuf),
    /// In the Postgres database with this URL.
    Database(String),
}

impl std::fmt::Debug for JournalPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "Folder({})", folder.display()),
            // The URL may contain a password.
            Self::Database(_) => f.write_str("Database(...)"),
        }
    }
}

/// The source of the migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrations {
    /// The name of a set that is embedded in the binary.
    Set(String),
    /// A folder of migrations.
    Directory(PathBuf),
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The store's URL may contain a password.
        f.debug_struct("Layer")
            .field("pattern", &self.pattern)
            .field("migrations", &self.migrations)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// Returns this layer, with unset settings taken from `weaker`.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        // A store and several stores exclude each other, so either replaces both.
        let (store, stores) = if self.store.is_some() || self.stores.is_some() {
            (self.store, self.stores)
        } else {
            (weaker.store, weaker.stores)
        };
        Self {
            store,
            stores,
            only_stores: self.only_stores.or(weaker.only_stores),
            place: self.place.or(weaker.place),
            pattern: self.pattern.or(weaker.pattern),
            migrations: self.migrations.or(weaker.migrations),
            layout: self.layout.or(weaker.layout),
            own_schema: self.own_schema.or(weaker.own_schema),
            jobs: self.jobs.or(weaker.jobs),
            lock_timeout: self.lock_timeout.or(weaker.lock_timeout),
            statement_timeout: self.statement_timeout.or(weaker.statement_timeout),
            reconnect_timeout: self.reconnect_timeout.or(weaker.reconnect_timeout),
            spares: self.spares.or(weaker.spares),
            isolation: self.isolation.or(weaker.isolation),
            shared: self.shared.or(weaker.shared),
            extensions: self.extensions.or(weaker.extensions),
            ignore: self.ignore.or(weaker.ignore),
            load: self.load.or(weaker.load),
            rehearsal_memory_mib: self.rehearsal_memory_mib.or(weaker.rehearsal_memory_mib),
            lint_off: self.lint_off.or(weaker.lint_off),
            lint_strict: self.lint_strict.or(weaker.lint_strict),
            rollout: self.rollout.over(weaker.rollout),
            backups: self.backups.or(weaker.backups),
            journal: self.journal.or(weaker.journal),
        }
    }

    /// Reads the environment variables `TENANTRY_STORE`, `TENANTRY_SET`, `TENANTRY_MIGRATIONS`, `TENANTRY_JOBS`,
    /// `TENANTRY_BACKUP_DIR`, `TENANTRY_JOURNAL_DIR` and `TENANTRY_JOURNAL_URL`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let migrations = match (variable("TENANTRY_SET"), variable("TENANTRY_MIGRATIONS")) {
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    "TENANTRY_SET and TENANTRY_MIGRATIONS cannot both be set",
                )
                .with_hint("unset one of them"));
            }
            (Some(set), None) => Some(Migrations::Set(set)),
            (None, Some(directory)) => Some(Migrations::Directory(directory.into())),
            (None, None) => None,
        };
        let number = |text: String| {
            text.parse().map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("TENANTRY_JOBS={text} is not a number"))
            })
        };
        let jobs = variable("TENANTRY_JOBS").map(number).transpose()?;
        let backups = variable("TENANTRY_BACKUP_DIR").map(PathBuf::from);
        let journal = match (variable("TENANTRY_JOURNAL_URL"), variable("TENANTRY_JOURNAL_DIR")) {
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    "TENANTRY_JOURNAL_URL and TENANTRY_JOURNAL_DIR cannot both be set",
                )
                .with_hint("unset one of them"));
            }
            (Some(url), None) => Some(JournalPlace::Database(url)),
            (None, directory) => directory.map(|directory| JournalPlace::Folder(directory.into())),
        };
        Ok(Self { store: variable("TENANTRY_STORE"), migrations, jobs, backups, journal, ..Self::default() })
    }
}
