//! The settings of one source: flags, environment variables or `tenantry.toml`.
//!
//! Does not read the environment; callers pass a function that looks up a variable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

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
    /// The folder of the journal.
    pub journal: Option<PathBuf>,
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
    /// `TENANTRY_BACKUP_DIR` and `TENANTRY_JOURNAL_DIR`.
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
        let journal = variable("TENANTRY_JOURNAL_DIR").map(PathBuf::from);
        Ok(Self { store: variable("TENANTRY_STORE"), migrations, jobs, backups, journal, ..Self::default() })
    }

    /// Reads a settings file. If `environment` is given, its section `[env.NAME]` overrides the other sections.
    ///
    /// Paths in the file are relative to its folder.
    pub fn from_file(path: &Path, environment: Option<&str>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Configuration, format!("cannot read {}", path.display())).caused_by(error)
        })?;
        let file: File = toml::from_str(&text).map_err(|error| {
            Error::in_toml(ErrorKind::Configuration, path, &text, &error)
                .with_hint("for a commented example, run in an empty folder: tenantry init")
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let File {
            store,
            stores,
            create,
            migrations,
            schema,
            lint,
            sqlite,
            run,
            rollout,
            backup,
            journal,
            env,
        } = file;
        let base = Settings {
            store,
            stores,
            create,
            migrations,
            schema,
            lint,
            sqlite,
            run,
            rollout,
            backup,
            journal,
        }
        .layer(path, folder)?;
        let Some(name) = environment else { return Ok(base) };
        let Some(settings) = env.get(name) else {
            let names: Vec<_> = env.keys().map(String::as_str).collect();
            return Err(Error::new(ErrorKind::Configuration, format!("no section [env.{name}]"))
                .at(path, None)
                .with_hint(format!(
                    "environments in this file: {}",
                    if names.is_empty() { "none".into() } else { names.join(", ") }
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
    stores: Option<Vec<StoreSettings>>,
    #[serde(default)]
    create: CreateSection,
    #[serde(default)]
    migrations: MigrationsSection,
    #[serde(default)]
    schema: SchemaSection,
    #[serde(default)]
    lint: LintSection,
    #[serde(default)]
    sqlite: SqliteSection,
    #[serde(default)]
    run: RunSection,
    #[serde(default)]
    rollout: RolloutSettings,
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
    stores: Option<Vec<StoreSettings>>,
    #[serde(default)]
    create: CreateSection,
    #[serde(default)]
    migrations: MigrationsSection,
    #[serde(default)]
    schema: SchemaSection,
    #[serde(default)]
    lint: LintSection,
    #[serde(default)]
    sqlite: SqliteSection,
    #[serde(default)]
    run: RunSection,
    #[serde(default)]
    rollout: RolloutSettings,
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
    shared: Option<Vec<String>>,
    extensions: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateSection {
    place: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrationsSection {
    set: Option<String>,
    directory: Option<PathBuf>,
    layout: Option<String>,
    own_schema: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchemaSection {
    ignore: Option<Vec<String>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqliteSection {
    load: Option<Vec<String>>,
    rehearsal_memory_mib: Option<u64>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LintSection {
    off: Option<Vec<String>>,
    strict: Option<bool>,
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
                return Err(Error::new(
                    ErrorKind::Configuration,
                    "[migrations] cannot have both set and directory",
                )
                .at(path, None)
                .with_hint("keep one: set names a set in the binary, directory your own migrations"));
            }
            (Some(set), None) => Some(Migrations::Set(set.clone())),
            (None, Some(directory)) => Some(Migrations::Directory(folder.join(directory))),
            (None, None) => None,
        };
        let relative_to_folder = |url: &String| match url.strip_prefix("sqlite:") {
            Some(directory) => format!("sqlite:{}", folder.join(directory).display()),
            None => url.clone(),
        };
        let store = self.store.url.as_ref().map(relative_to_folder);
        let of_folder = |it: &StoreSettings| StoreSettings { url: relative_to_folder(&it.url), ..it.clone() };
        let stores: Option<Vec<_>> =
            self.stores.as_ref().map(|stores| stores.iter().map(of_folder).collect());
        if store.is_some() && stores.is_some() {
            let message = "[store] url and [[stores]] exclude each other";
            return Err(Error::new(ErrorKind::Configuration, message)
                .at(path, None)
                .with_hint("make the store of [store] url one of [[stores]], with a name"));
        }
        let RunSection { jobs, lock_timeout, statement_timeout, reconnect_timeout } = self.run;
        let StoreSection { pattern, spares, isolation, shared, extensions, .. } = self.store.clone();
        let [backups, journal] =
            [&self.backup, &self.journal].map(|it| it.dir.as_ref().map(|dir| folder.join(dir)));
        Ok(Layer {
            store,
            stores,
            only_stores: None,
            place: self.create.place.clone(),
            pattern,
            migrations,
            layout: self.migrations.layout.clone(),
            own_schema: self.migrations.own_schema.clone(),
            jobs,
            lock_timeout,
            statement_timeout,
            reconnect_timeout,
            spares,
            isolation,
            shared,
            extensions,
            ignore: self.schema.ignore.clone(),
            lint_off: self.lint.off.clone(),
            lint_strict: self.lint.strict,
            load: self.sqlite.load.clone(),
            rehearsal_memory_mib: self.sqlite.rehearsal_memory_mib,
            rollout: self.rollout.clone(),
            backups,
            journal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FILE_NAME;

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
}
