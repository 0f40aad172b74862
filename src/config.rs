//! Where the projects are and which migrations they follow: flags, environment, `tenantry.toml`, defaults, in this
//! order of strength.
//!
//! It must not read the environment or the command line itself: whoever does hands it a [`Layer`].

mod place;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

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

/// Where the settings of one source stand: what is `None` is left to weaker sources.
#[derive(Clone, Default, PartialEq)]
pub struct Layer {
    /// `sqlite:DIR` or `postgres://...`.
    pub store: Option<String>,
    /// How ids and names relate, such as `project_{id}.db`.
    pub pattern: Option<String>,
    /// Which migrations.
    pub migrations: Option<Migrations>,
    /// How many projects are worked on at once.
    pub jobs: Option<usize>,
    /// How long to wait for another process's lock, in seconds.
    pub lock_timeout: Option<f64>,
    /// How long one statement may run on Postgres, in seconds; zero for no limit.
    pub statement_timeout: Option<f64>,
    /// How long reading is tried again that lost its connection to Postgres, in seconds; zero for not at all.
    pub reconnect_timeout: Option<f64>,
    /// How many schemas are kept ready to become projects on Postgres.
    pub spares: Option<usize>,
    /// What keeps projects apart on Postgres: `none` or `role`.
    pub isolation: Option<String>,
    /// Where backups are kept.
    pub backups: Option<PathBuf>,
    /// Where the journal is kept.
    pub journal: Option<PathBuf>,
}

/// Which migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrations {
    /// A set of the binary.
    Set(String),
    /// A folder.
    Directory(PathBuf),
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The store's URL may have a password in it.
        f.debug_struct("Layer")
            .field("pattern", &self.pattern)
            .field("migrations", &self.migrations)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// This layer, and `weaker` where it says nothing.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        Self {
            store: self.store.or(weaker.store),
            pattern: self.pattern.or(weaker.pattern),
            migrations: self.migrations.or(weaker.migrations),
            jobs: self.jobs.or(weaker.jobs),
            lock_timeout: self.lock_timeout.or(weaker.lock_timeout),
            statement_timeout: self.statement_timeout.or(weaker.statement_timeout),
            reconnect_timeout: self.reconnect_timeout.or(weaker.reconnect_timeout),
            spares: self.spares.or(weaker.spares),
            isolation: self.isolation.or(weaker.isolation),
            backups: self.backups.or(weaker.backups),
            journal: self.journal.or(weaker.journal),
        }
    }

    /// What environment variables say: `TENANTRY_STORE`, `TENANTRY_SET`, `TENANTRY_MIGRATIONS`, `TENANTRY_JOBS`,
    /// `TENANTRY_BACKUP_DIR`, `TENANTRY_JOURNAL_DIR`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let migrations = match (variable("TENANTRY_SET"), variable("TENANTRY_MIGRATIONS")) {
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    "TENANTRY_SET and TENANTRY_MIGRATIONS are both set",
                )
                .with_hint("unset one of them"));
            }
            (Some(set), None) => Some(Migrations::Set(set)),
            (None, Some(directory)) => Some(Migrations::Directory(directory.into())),
            (None, None) => None,
        };
        let number = |text: String| {
            text.parse().map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("TENANTRY_JOBS={text} is no number"))
            })
        };
        let jobs = variable("TENANTRY_JOBS").map(number).transpose()?;
        let backups = variable("TENANTRY_BACKUP_DIR").map(PathBuf::from);
        let journal = variable("TENANTRY_JOURNAL_DIR").map(PathBuf::from);
        Ok(Self { store: variable("TENANTRY_STORE"), migrations, jobs, backups, journal, ..Self::default() })
    }

    /// What a file says, with its section `[env.NAME]` over the rest where an environment is named.
    ///
    /// Paths in it are relative to its folder.
    pub fn from_file(path: &Path, environment: Option<&str>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Configuration, format!("cannot read {}", path.display())).caused_by(error)
        })?;
        let file: File = toml::from_str(&text).map_err(|error| {
            Error::in_toml(ErrorKind::Configuration, path, &text, &error)
                .with_hint("see a commented example: tenantry init")
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let File { store, migrations, run, backup, journal, env } = file;
        let base = Settings { store, migrations, run, backup, journal }.layer(path, folder)?;
        let Some(name) = environment else { return Ok(base) };
        let Some(settings) = env.get(name) else {
            let known: Vec<_> = env.keys().map(String::as_str).collect();
            return Err(Error::new(ErrorKind::Configuration, format!("there is no section [env.{name}]"))
                .at(path, None)
                .with_hint(format!(
                    "its environments are: {}",
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                )));
        };
        Ok(settings.layer(path, folder)?.over(base))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    store: StoreSection,
    #[serde(default)]
    migrations: MigrationsSection,
    #[serde(default)]
    run: RunSection,
    #[serde(default)]
    backup: FolderSection,
    #[serde(default)]
    journal: FolderSection,
    #[serde(default)]
    env: BTreeMap<String, Settings>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    store: StoreSection,
    #[serde(default)]
    migrations: MigrationsSection,
    #[serde(default)]
    run: RunSection,
    #[serde(default)]
    backup: FolderSection,
    #[serde(default)]
    journal: FolderSection,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreSection {
    url: Option<String>,
    pattern: Option<String>,
    spares: Option<usize>,
    isolation: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrationsSection {
    set: Option<String>,
    directory: Option<PathBuf>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunSection {
    jobs: Option<usize>,
    lock_timeout: Option<f64>,
    statement_timeout: Option<f64>,
    reconnect_timeout: Option<f64>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderSection {
    dir: Option<PathBuf>,
}

impl Settings {
    fn layer(&self, path: &Path, folder: &Path) -> Result<Layer> {
        let migrations = match (&self.migrations.set, &self.migrations.directory) {
            (Some(_), Some(_)) => {
                return Err(Error::new(ErrorKind::Configuration, "[migrations] has both set and directory")
                    .at(path, None)
                    .with_hint("a set is in the binary, a directory is your own: keep one"));
            }
            (Some(set), None) => Some(Migrations::Set(set.clone())),
            (None, Some(directory)) => Some(Migrations::Directory(folder.join(directory))),
            (None, None) => None,
        };
        let store = self.store.url.as_ref().map(|url| match url.strip_prefix("sqlite:") {
            Some(directory) => format!("sqlite:{}", folder.join(directory).display()),
            None => url.clone(),
        });
        let RunSection { jobs, lock_timeout, statement_timeout, reconnect_timeout } = self.run;
        let StoreSection { pattern, spares, isolation, .. } = self.store.clone();
        let [backups, journal] =
            [&self.backup, &self.journal].map(|it| it.dir.as_ref().map(|dir| folder.join(dir)));
        Ok(Layer {
            store,
            pattern,
            migrations,
            jobs,
            lock_timeout,
            statement_timeout,
            reconnect_timeout,
            spares,
            isolation,
            backups,
            journal,
        })
    }
}

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

    fn file(text: &str, environment: Option<&str>) -> Result<Layer> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, text).unwrap();
        let mut layer = Layer::from_file(&path, environment)?;
        layer.store = layer.store.map(|store| store.replace(&folder.path().display().to_string(), "HERE"));
        Ok(layer)
    }

    const TEXT: &str = "[store]\nurl = \"sqlite:data\"\n[run]\njobs = 4\n\
                        [env.production.store]\nurl = \"sqlite:/srv/data\"\n";

    #[test]
    fn an_environment_is_over_the_rest_of_the_file() {
        assert_eq!(file(TEXT, None).unwrap().store.unwrap(), "sqlite:HERE/data");
        let production = file(TEXT, Some("production")).unwrap();
        assert_eq!((production.store.as_deref(), production.jobs), (Some("sqlite:/srv/data"), Some(4)));
        assert_eq!(file(TEXT, Some("staging")).unwrap_err().kind(), ErrorKind::Configuration);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let error = file("[store]\nurl = \"sqlite:data\"\npatern = \"x\"\n", None).unwrap_err();
        assert_eq!((error.kind(), error.line()), (ErrorKind::Configuration, Some(3)));
    }

    #[test]
    fn flags_are_over_variables_over_files() {
        let variables = |name: &str| (name == "TENANTRY_STORE").then(|| "sqlite:variable".to_string());
        let environment = Layer::from_environment(variables).unwrap();
        let flags = Layer { jobs: Some(2), ..Layer::default() };
        let layer = flags.over(environment).over(file(TEXT, None).unwrap());
        assert_eq!((layer.store.as_deref(), layer.jobs), (Some("sqlite:variable"), Some(2)));
    }

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
