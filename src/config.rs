//! The settings of a fleet: its store, its migrations, its limits. Flags override environment variables, which override
//! `tenantry.toml`, which overrides the defaults.
//!
//! Callers pass flags and environment variables as a [`Layer`]. Only [`Config::journal`] and [`Config::manager`] read
//! the environment themselves.

mod file;
mod layer;
mod model;
mod rollout;
mod store_location;
mod stores;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use layer::{JournalPlace, Layer, Migrations};
pub use rollout::RolloutSettings;
use store_location::StoreLocation;
#[cfg(feature = "postgres")]
use store_location::Url;
pub use stores::StoreSettings;
use stores::{CommonOptions, StoreConfig};

use crate::backup::{Archive, Directory};
use crate::catalog::{Catalog, FolderOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, current_actor};
use crate::manager::Manager;
use crate::rules::Rules;
use crate::schema::ignore::IgnoreList;
use crate::sql::Dialect;
use crate::store::Store;
use crate::store::combined::{CombinedStoreBuilder, Placement};

/// For how long a lost connection to the journal is opened again.
#[cfg(feature = "postgres")]
const DEFAULT_RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings file that is read if none is named.
pub const FILE_NAME: &str = "tenantry.toml";

/// Complete and validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    stores: Vec<StoreConfig>,
    /// Whether the stores have names, which are part of their projects' ids.
    has_names: bool,
    placement: Placement,
    common: CommonOptions,
    /// The migrations that the projects follow.
    pub migrations: Migrations,
    folder: FolderOptions,
    /// The number of projects to work on in parallel in each store; `None` for each store's default.
    pub jobs: Option<usize>,
    ignore: IgnoreList,
    lint_off: Vec<String>,
    lint_strict: bool,
    rollout: RolloutSettings,
    backups: PathBuf,
    journal: JournalPlace,
}

impl Config {
    /// Builds settings from a layer, with defaults for what it does not set.
    ///
    /// Returns `Configuration` if a setting is invalid.
    pub fn new(layer: Layer) -> Result<Self> {
        let defaults = StoreSettings {
            name: String::new(),
            url: layer.store.clone().unwrap_or_else(|| "sqlite:data".into()),
            pattern: layer.pattern,
            jobs: layer.jobs,
            spares: layer.spares,
            isolation: layer.isolation,
            shared: layer.shared,
            extensions: layer.extensions,
        };
        let has_names = layer.stores.is_some();
        // The journal does not depend on which of the stores are meant.
        let first = layer.stores.as_ref().and_then(|stores| stores.first()).unwrap_or(&defaults).url.clone();
        let first = StoreLocation::parse(&first)?;
        let stores = match layer.stores {
            None => vec![StoreConfig::new(defaults)?],
            Some(stores) => named_stores(stores, layer.only_stores, &defaults)?,
        };
        let placement = match layer.place.as_deref() {
            None => Placement::Named,
            Some("fewest") => Placement::Fewest,
            Some(other) => {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    format!("unknown place {other:?} in [create]"),
                )
                .with_hint("use \"fewest\", or leave it out and name the store of each new project"));
            }
        };
        let default_folder = |kind: &str| match stores.as_slice() {
            [store] if !has_names => store.location.default_folder(kind),
            _ => PathBuf::from(kind),
        };
        let mut folder = FolderOptions::default();
        if let Some(layout) = &layer.layout {
            folder = folder.layout(layout.parse()?);
        }
        if let Some(schema) = layer.own_schema {
            folder = folder.own_schema(schema);
        }
        Ok(Self {
            folder,
            placement,
            common: CommonOptions {
                lock_timeout: seconds("lock_timeout", layer.lock_timeout)?,
                statement_timeout: seconds("statement_timeout", layer.statement_timeout)?,
                reconnect_timeout: seconds("reconnect_timeout", layer.reconnect_timeout)?,
                #[cfg(feature = "postgres")]
                rehearse_on: None,
                load: layer.load.unwrap_or_default(),
                rehearsal_memory_mib: layer.rehearsal_memory_mib,
            },
            ignore: IgnoreList::new(layer.ignore.unwrap_or_default())?,
            lint_off: layer.lint_off.unwrap_or_default(),
            lint_strict: layer.lint_strict.unwrap_or_default(),
            rollout: layer.rollout,
            backups: layer.backups.unwrap_or_else(|| default_folder("backups")),
            journal: layer.journal.unwrap_or_else(|| match &first {
                #[cfg(feature = "postgres")]
                StoreLocation::Server(Url(url)) => JournalPlace::Database(url.clone()),
                StoreLocation::Directory(_) => JournalPlace::Folder(default_folder("journal")),
            }),
            stores,
            has_names,
            migrations: layer.migrations.unwrap_or_else(|| Migrations::Set("project".into())),
            jobs: layer.jobs,
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
        return Ok(Self { common: CommonOptions { rehearse_on: Some(url.into()), ..self.common }, ..self });
        #[cfg(not(feature = "postgres"))]
        {
            let _ = url;
            Ok(self)
        }
    }

    /// Returns the SQL dialect of the store.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        // There is at least one store, and all have the same dialect.
        self.stores.first().map_or(Dialect::Sqlite, StoreConfig::dialect)
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
        if let ([store], false) = (self.stores.as_slice(), self.has_names) {
            return store.build(&self.common, ignore);
        }
        let mut stores = CombinedStoreBuilder::default().placement(self.placement);
        for store in &self.stores {
            stores = stores.store(&store.name, store.build(&self.common, ignore.clone())?, store.jobs);
        }
        Ok(Arc::new(stores.build()?))
    }

    /// Returns the fleet's backups, without opening anything.
    pub fn archive(&self) -> Result<Archive> {
        Ok(Archive::new(Directory::new(&self.backups)).of_store(self.store()?))
    }

    /// Returns the journal that the settings name, without opening it: by default in the Postgres database of the first store,
    /// or in the folder of a SQLite store. Its entries name [`current_actor`].
    ///
    /// Fails if its URL is invalid.
    pub fn journal(&self) -> Result<Journal> {
        match &self.journal {
            JournalPlace::Folder(folder) => Ok(Journal::new(folder, current_actor())),
            #[cfg(feature = "postgres")]
            JournalPlace::Database(url) => {
                let timeout = self.common.reconnect_timeout.unwrap_or(DEFAULT_RECONNECT_TIMEOUT);
                Journal::in_database(url, current_actor(), timeout)
            }
            #[cfg(not(feature = "postgres"))]
            JournalPlace::Database(_) => Err(Error::new(
                ErrorKind::Configuration,
                "this tenantry was built without the feature postgres, so its journal is a folder",
            )
            .with_hint("set [journal] dir")),
        }
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
            .with_journal(self.journal()?)
            .with_lazy_rules(Box::new(move || config.rules(|name| std::env::var(name).ok())));
        // Named stores have limits of their own, which the settings have merged already.
        Ok(match self.jobs.filter(|_| !self.has_names) {
            Some(jobs) => manager.with_jobs(jobs),
            None => manager,
        })
    }
}

/// Returns the stores of a fleet, or those of them that are named.
fn named_stores(
    stores: Vec<StoreSettings>,
    only: Option<Vec<String>>,
    defaults: &StoreSettings,
) -> Result<Vec<StoreConfig>> {
    let names: Vec<String> = stores.iter().map(|store| store.name.clone()).collect();
    let only = only.unwrap_or_else(|| names.clone());
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        return Err(Error::new(ErrorKind::Usage, format!("no store is called {unknown}"))
            .with_hint(format!("the stores in tenantry.toml are {}", names.join(", "))));
    }
    let is_meant = |store: &StoreSettings| only.contains(&store.name);
    stores.into_iter().filter(is_meant).map(|store| StoreConfig::new(store.or(defaults))).collect()
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
