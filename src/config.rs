//! The settings of a fleet: its store, its migrations, its limits. Flags override environment variables, which override
//! `tenantry.toml`, which overrides the defaults.
//!
//! Callers pass flags and environment variables as a [`Layer`]. Only [`Config::journal`] and [`Config::manager`] read
//! the environment themselves.

mod layer;
mod model;
mod rollout;
mod store_location;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use layer::{Layer, Migrations};
pub use rollout::RolloutSettings;
use store_location::StoreLocation;
#[cfg(feature = "postgres")]
use store_location::Url;

use crate::backup::{Archive, Directory};
use crate::catalog::{Catalog, FolderOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, current_actor};
use crate::manager::Manager;
use crate::project::NamePattern;
use crate::rules::Rules;
use crate::schema::ignore::IgnoreList;
use crate::sql::Dialect;
use crate::store::Store;
#[cfg(feature = "postgres")]
use crate::store::postgres::{Isolation, PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// The settings file that is read if none is named.
pub const FILE_NAME: &str = "tenantry.toml";

/// Complete and validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    location: StoreLocation,
    pattern: Option<NamePattern>,
    /// The migrations that the projects follow.
    pub migrations: Migrations,
    folder: FolderOptions,
    /// The number of projects to work on in parallel; `None` for the store's default.
    pub jobs: Option<usize>,
    lock_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no statement timeout"))]
    statement_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "a file has no connection to lose"))]
    reconnect_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite needs no spares"))]
    spares: usize,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no roles"))]
    has_roles: bool,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no schemas"))]
    shared: Vec<String>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no schemas"))]
    extensions: Option<String>,
    #[cfg(feature = "postgres")]
    rehearse_on: Option<String>,
    ignore: IgnoreList,
    load: Vec<String>,
    rehearsal_memory_mib: Option<u64>,
    lint_off: Vec<String>,
    lint_strict: bool,
    rollout: RolloutSettings,
    backups: PathBuf,
    journal: PathBuf,
}

impl Config {
    /// Builds settings from a layer, with defaults for what it does not set.
    ///
    /// Returns `Configuration` if a setting is invalid.
    pub fn new(layer: Layer) -> Result<Self> {
        let location = StoreLocation::parse(layer.store.as_deref().unwrap_or("sqlite:data"))?;
        let parse_pattern = match location {
            StoreLocation::Directory(_) => str::parse,
            #[cfg(feature = "postgres")]
            StoreLocation::Server(_) => NamePattern::parse_of_schemas,
        };
        if layer.jobs.is_some_and(|jobs| !(1..=1_024).contains(&jobs)) {
            return Err(Error::new(ErrorKind::Configuration, "jobs must be between 1 and 1024")
                .with_hint("omit it to use the default"));
        }
        let has_roles = match layer.isolation.as_deref() {
            None | Some("none") => false,
            Some("role") => true,
            Some(other) => {
                return Err(Error::new(ErrorKind::Configuration, format!("unknown isolation {other:?}"))
                    .with_hint("use \"none\" or \"role\""));
            }
        };
        let spares = layer.spares.unwrap_or(0);
        let shared = layer.shared.unwrap_or_default();
        let is_for_postgres = has_roles || spares > 0 || !shared.is_empty() || layer.extensions.is_some();
        if location.is_directory() && is_for_postgres {
            return Err(Error::new(
                ErrorKind::Configuration,
                "spares, isolation, shared and extensions require Postgres",
            )
            .with_hint("remove them from [store] in tenantry.toml, or use a Postgres store"));
        }
        if let Some(name) = shared.iter().chain(&layer.extensions).find(|name| !is_schema_name(name)) {
            return Err(Error::new(ErrorKind::Configuration, format!("{name:?} cannot be a shared schema"))
                .with_hint(
                    "give the name of a schema, without quotes, that is not the server's or tenantry's own",
                ));
        }
        let mut folder = FolderOptions::default();
        if let Some(layout) = &layer.layout {
            folder = folder.layout(layout.parse()?);
        }
        if let Some(schema) = layer.own_schema {
            folder = folder.own_schema(schema);
        }
        Ok(Self {
            folder,
            spares,
            has_roles,
            shared,
            extensions: layer.extensions,
            #[cfg(feature = "postgres")]
            rehearse_on: None,
            ignore: IgnoreList::new(layer.ignore.unwrap_or_default())?,
            load: layer.load.unwrap_or_default(),
            rehearsal_memory_mib: layer.rehearsal_memory_mib,
            lint_off: layer.lint_off.unwrap_or_default(),
            lint_strict: layer.lint_strict.unwrap_or_default(),
            rollout: layer.rollout,
            backups: layer.backups.unwrap_or_else(|| location.default_folder("backups")),
            journal: layer.journal.unwrap_or_else(|| location.default_folder("journal")),
            location,
            pattern: layer.pattern.as_deref().map(parse_pattern).transpose()?,
            migrations: layer.migrations.unwrap_or_else(|| Migrations::Set("project".into())),
            jobs: layer.jobs,
            lock_timeout: seconds("lock_timeout", layer.lock_timeout)?,
            statement_timeout: seconds("statement_timeout", layer.statement_timeout)?,
            reconnect_timeout: seconds("reconnect_timeout", layer.reconnect_timeout)?,
        })
    }

    /// Sets the server on which rehearsals upgrade their copies.
    ///
    /// Fails with [`ErrorKind::Usage`] if the store is not on Postgres.
    pub fn rehearse_on(self, url: &str) -> Result<Self> {
        if self.dialect() != Dialect::Postgres {
            let message = "SQLite databases are rehearsed on this machine";
            return Err(Error::new(ErrorKind::Usage, message).with_hint("leave out --rehearse-on"));
        }
        #[cfg(feature = "postgres")]
        return Ok(Self { rehearse_on: Some(url.into()), ..self });
        #[cfg(not(feature = "postgres"))]
        {
            let _ = url;
            Ok(self)
        }
    }

    /// Returns the SQL dialect of the store.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.location {
            StoreLocation::Directory(_) => Dialect::Sqlite,
            #[cfg(feature = "postgres")]
            StoreLocation::Server(_) => Dialect::Postgres,
        }
    }

    /// Loads the catalog that the settings name.
    pub fn catalog(&self) -> Result<Catalog> {
        match &self.migrations {
            Migrations::Set(name) => Catalog::embedded(name, self.dialect()),
            Migrations::Directory(directory) => {
                Catalog::from_directory(directory, self.dialect(), &self.folder)
            }
        }
    }

    /// Loads the retention rules and checks that the migration set declares. `variable` looks up environment variables.
    pub fn rules(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Rules> {
        match &self.migrations {
            Migrations::Set(name) => Rules::embedded(name, self.dialect(), variable),
            Migrations::Directory(directory) => Rules::from_directory(directory, self.dialect(), variable),
        }
    }

    /// The objects that are not compared, as the settings and the set name them.
    fn ignored(&self) -> Result<IgnoreList> {
        let of_set = IgnoreList::new(self.rules(|_| None)?.schema.ignore)?;
        Ok(self.ignore.clone().and(of_set))
    }

    /// Returns the rules of lint that are switched off.
    #[must_use]
    pub fn lint_off(&self) -> &[String] {
        &self.lint_off
    }

    /// Whether findings of lint are errors.
    #[must_use]
    pub fn lint_strict(&self) -> bool {
        self.lint_strict
    }

    /// Returns how `upgrade-all` goes through the fleet.
    #[must_use]
    pub fn rollout(&self) -> &RolloutSettings {
        &self.rollout
    }

    /// Returns the store that the settings name, without connecting to it. Fails if its URL is invalid.
    ///
    /// Reads the set's `set.toml`, which can name objects that are not compared.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        let ignore = self.ignored()?;
        match &self.location {
            StoreLocation::Directory(directory) => {
                let mut options = SqliteOptions::default().ignore(ignore).load(self.load.iter().cloned());
                if let Some(pattern) = &self.pattern {
                    options = options.pattern(pattern.clone());
                }
                if let Some(timeout) = self.lock_timeout {
                    options = options.lock_timeout(timeout);
                }
                if let Some(mebibytes) = self.rehearsal_memory_mib {
                    options = options.rehearsal_memory(mebibytes << 20);
                }
                Ok(Arc::new(SqliteStore::new(directory, options)))
            }
            #[cfg(feature = "postgres")]
            StoreLocation::Server(Url(url)) => {
                let isolation = if self.has_roles { Isolation::Role } else { Isolation::None };
                let mut options = PostgresOptions::default().spares(self.spares).isolation(isolation);
                options = options.shared(self.shared.iter().cloned()).ignore(ignore);
                if let Some(url) = &self.rehearse_on {
                    options = options.rehearse_on(url);
                }
                if let Some(schema) = &self.extensions {
                    options = options.extensions(schema);
                }
                if let Some(pattern) = &self.pattern {
                    options = options.pattern(pattern.clone());
                }
                if let Some(timeout) = self.lock_timeout {
                    options = options.lock_timeout(timeout);
                }
                if let Some(timeout) = self.statement_timeout.filter(|timeout| !timeout.is_zero()) {
                    options = options.statement_timeout(timeout);
                }
                if let Some(timeout) = self.reconnect_timeout {
                    options = options.reconnect_timeout(timeout);
                }
                Ok(Arc::new(PostgresStore::new(url, options)?))
            }
        }
    }

    /// Returns the fleet's backups, without opening anything.
    pub fn archive(&self) -> Result<Archive> {
        Ok(Archive::new(Directory::new(&self.backups)).of_store(self.store()?))
    }

    /// Returns the journal that the settings name, without opening it. Its entries name [`current_actor`].
    #[must_use]
    pub fn journal(&self) -> Journal {
        Journal::new(&self.journal, current_actor())
    }

    /// Returns a manager configured as the command configures it: store, catalog, backups, journal and the set's rules.
    pub fn manager(&self) -> Result<Manager> {
        self.manager_of(self.catalog()?)
    }

    /// Returns such a manager for writing new migrations: the folder of migrations may be missing or empty.
    pub fn manager_for_new_migrations(&self) -> Result<Manager> {
        let is_empty = match &self.migrations {
            Migrations::Set(_) => false,
            Migrations::Directory(directory) => {
                let folder = Catalog::subfolder(directory, self.dialect()).ok().flatten();
                let folder = folder.as_deref().unwrap_or(directory);
                folder.read_dir().map_or(true, |mut entries| entries.next().is_none())
            }
        };
        self.manager_of(if is_empty { Catalog::empty(self.dialect()) } else { self.catalog()? })
    }

    fn manager_of(&self, catalog: Catalog) -> Result<Manager> {
        let config = self.clone();
        let manager = Manager::with_shared_store(self.store()?, catalog)?
            .with_archive(self.archive()?)
            .with_journal(self.journal())
            .with_lazy_rules(Box::new(move || config.rules(|name| std::env::var(name).ok())));
        Ok(match self.jobs {
            Some(jobs) => manager.with_jobs(jobs),
            None => manager,
        })
    }
}

/// Whether a name can be that of a schema of the database's users.
fn is_schema_name(name: &str) -> bool {
    let is_reserved =
        name.starts_with("pg_") || name.starts_with("tenantry_") || name == "information_schema";
    !name.is_empty() && name.len() <= 63 && !is_reserved && !name.contains(['"', ',', '\0'])
}

fn seconds(name: &str, value: Option<f64>) -> Result<Option<Duration>> {
    let parse = |seconds: f64| {
        // Databases store timeouts as a signed 32-bit number of milliseconds.
        let longest = Duration::from_millis(i32::MAX as u64);
        Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= longest).ok_or_else(|| {
            Error::new(ErrorKind::Configuration, format!("{name} = {seconds} is not a valid duration"))
                .with_hint(format!("give it in seconds, such as 5 or 0.5, at most {}", longest.as_secs()))
        })
    };
    value.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_cannot_be_opened_is_refused_without_its_secrets() {
        let layer = Layer { store: Some("mysql://user:secret@host/db".into()), ..Layer::default() };
        let error = Config::new(layer).unwrap_err();
        assert!(!error.summary().contains("secret"), "{}", error.summary());
        let layer = Layer { store: Some("host=db password=secret".into()), ..Layer::default() };
        assert!(!format!("{layer:?}").contains("secret"));
        let error = Config::new(layer).unwrap_err();
        assert!(!error.summary().contains("secret"), "{}", error.summary());
    }
}
