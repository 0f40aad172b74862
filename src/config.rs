//! Where the projects are and which migrations they follow: flags, environment, `tenantry.toml`, defaults, in this
//! order of strength.
//!
//! It must not read the environment or the command line itself: whoever does hands it a [`Layer`].

mod layer;
mod place;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use layer::{Layer, Migrations};
use place::Place;
#[cfg(feature = "postgres")]
use place::Url;

use crate::backup::{Archive, Directory};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, current_actor};
use crate::manager::Manager;
use crate::project::NamePattern;
use crate::rules::Rules;
use crate::sql::Dialect;
use crate::store::Store;
#[cfg(feature = "postgres")]
use crate::store::postgres::{Isolation, PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// The file that is read where none is named.
pub const FILE_NAME: &str = "tenantry.toml";

/// Settings, complete and sound.
#[derive(Clone, Debug)]
pub struct Config {
    place: Place,
    pattern: Option<NamePattern>,
    /// Which migrations.
    pub migrations: Migrations,
    /// How many projects are worked on at once; `None` for the store's default.
    pub jobs: Option<usize>,
    lock_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no such limit"))]
    statement_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "a file has no connection to lose"))]
    reconnect_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite needs no spares"))]
    spares: usize,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has no roles"))]
    has_roles: bool,
    backups: PathBuf,
    journal: PathBuf,
}

impl Config {
    /// Settings with the defaults where a layer says nothing.
    pub fn new(layer: Layer) -> Result<Self> {
        let place = Place::parse(layer.store.as_deref().unwrap_or("sqlite:data"))?;
        let parse_pattern = match place {
            Place::Directory(_) => str::parse,
            #[cfg(feature = "postgres")]
            Place::Server(_) => NamePattern::parse_of_schemas,
        };
        if layer.jobs.is_some_and(|jobs| !(1..=1_024).contains(&jobs)) {
            return Err(Error::new(ErrorKind::Configuration, "jobs is not between 1 and 1024")
                .with_hint("leave it out for the measured default"));
        }
        let has_roles = match layer.isolation.as_deref() {
            None | Some("none") => false,
            Some("role") => true,
            Some(other) => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    format!("isolation = {other:?} is not known"),
                )
                .with_hint("it is \"none\" or \"role\""));
            }
        };
        let spares = layer.spares.unwrap_or(0);
        if place.is_directory() && (has_roles || spares > 0) {
            return Err(Error::new(ErrorKind::Configuration, "spares and isolation are for Postgres")
                .with_hint("a SQLite file is made in a millisecond, and its permissions are its wall"));
        }
        Ok(Self {
            spares,
            has_roles,
            backups: layer.backups.unwrap_or_else(|| place.own_folder("backups")),
            journal: layer.journal.unwrap_or_else(|| place.own_folder("journal")),
            place,
            pattern: layer.pattern.as_deref().map(parse_pattern).transpose()?,
            migrations: layer.migrations.unwrap_or_else(|| Migrations::Set("project".into())),
            jobs: layer.jobs,
            lock_timeout: seconds("lock_timeout", layer.lock_timeout)?,
            statement_timeout: seconds("statement_timeout", layer.statement_timeout)?,
            reconnect_timeout: seconds("reconnect_timeout", layer.reconnect_timeout)?,
        })
    }

    /// The dialect of the store.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.place {
            Place::Directory(_) => Dialect::Sqlite,
            #[cfg(feature = "postgres")]
            Place::Server(_) => Dialect::Postgres,
        }
    }

    /// The catalog that the settings name.
    pub fn catalog(&self) -> Result<Catalog> {
        match &self.migrations {
            Migrations::Set(name) => Catalog::embedded(name, self.dialect()),
            Migrations::Directory(directory) => Catalog::from_directory(directory, self.dialect()),
        }
    }

    /// What the migration set declares besides its migrations. `variable` looks up environment variables.
    pub fn rules(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Rules> {
        match &self.migrations {
            Migrations::Set(name) => Rules::embedded(name, self.dialect(), variable),
            Migrations::Directory(directory) => Rules::from_directory(directory, self.dialect(), variable),
        }
    }

    /// The store that the settings name. Opens nothing. Errors when the URL can't be read.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        match &self.place {
            Place::Directory(directory) => {
                let default = SqliteOptions::default();
                let options = SqliteOptions {
                    pattern: self.pattern.clone().unwrap_or(default.pattern),
                    lock_timeout: self.lock_timeout.unwrap_or(default.lock_timeout),
                    read_timeout: default.read_timeout,
                };
                Ok(Arc::new(SqliteStore::new(directory, options)))
            }
            #[cfg(feature = "postgres")]
            Place::Server(Url(url)) => {
                let default = PostgresOptions::default();
                let options = PostgresOptions {
                    pattern: self.pattern.clone().unwrap_or(default.pattern),
                    lock_timeout: self.lock_timeout.unwrap_or(default.lock_timeout),
                    statement_timeout: self.statement_timeout.filter(|timeout| !timeout.is_zero()),
                    reconnect_timeout: self.reconnect_timeout.unwrap_or(default.reconnect_timeout),
                    retries: default.retries,
                    spares: self.spares,
                    isolation: if self.has_roles { Isolation::Role } else { Isolation::None },
                };
                Ok(Arc::new(PostgresStore::new(url, options)?))
            }
        }
    }

    /// The fleet's backups. Opens nothing.
    pub fn archive(&self) -> Result<Archive> {
        Ok(Archive::new(Directory::new(&self.backups)).of_store(self.store()?))
    }

    /// The journal that the settings name, for whoever runs this process. Opens nothing.
    #[must_use]
    pub fn journal(&self) -> Journal {
        Journal::new(&self.journal, current_actor())
    }

    /// A manager of the store and the catalog, with its backups, its journal and what the set declares besides its migrations, as
    /// the command has it.
    pub fn manager(&self) -> Result<Manager> {
        let config = self.clone();
        let manager = Manager::of(self.store()?, self.catalog()?)?
            .with_archive(self.archive()?)
            .with_journal(self.journal())
            .with_rules_read_by(Box::new(move || config.rules(|name| std::env::var(name).ok())));
        Ok(match self.jobs {
            Some(jobs) => manager.with_jobs(jobs),
            None => manager,
        })
    }
}

fn seconds(name: &str, value: Option<f64>) -> Result<Option<Duration>> {
    let parse = |seconds: f64| {
        // What the databases can count, in milliseconds.
        let longest = Duration::from_millis(i32::MAX as u64);
        Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= longest).ok_or_else(|| {
            Error::new(ErrorKind::Configuration, format!("{name} = {seconds} is no time"))
                .with_hint(format!("give it in seconds, such as 5 or 0.5, and at most {}", longest.as_secs()))
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
