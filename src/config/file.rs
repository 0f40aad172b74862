//! Reads `tenantry.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::layer::{JournalPlace, Layer, Migrations};
use super::rollout::RolloutSettings;
use super::stores::StoreSettings;
use crate::error::{Error, ErrorKind, Result};

impl Layer {
    /// Reads a settings file. If `environment` is given, its section `[env.NAME]` overrides the other sections.
    ///
    /// Paths in the file are relative to its folder.
    pub fn from_file(path: &Path, environment: Option<&str>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Configuration, format!("cannot read {}", path.display())).caused_by(error)
        })?;
        let settings: Settings = toml::from_str(&text).map_err(|error| {
            Error::in_toml(ErrorKind::Configuration, path, &text, &error)
                .with_hint("for a commented example, run in an empty folder: tenantry init")
        })?;
        if let Some((name, _)) = settings.env.iter().find(|(_, it)| !it.env.is_empty()) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("[env.{name}] has environments of its own"),
            )
            .at(path, None)
            .with_hint("write each environment as [env.NAME]"));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let base = settings.layer(path, folder)?;
        let Some(name) = environment else { return Ok(base) };
        let Some(environment) = settings.env.get(name) else {
            let names: Vec<_> = settings.env.keys().map(String::as_str).collect();
            return Err(Error::new(ErrorKind::Configuration, format!("no section [env.{name}]"))
                .at(path, None)
                .with_hint(format!(
                    "environments in this file: {}",
                    if names.is_empty() { "none".into() } else { names.join(", ") }
                )));
        };
        Ok(environment.layer(path, folder)?.over(base))
    }
}

/// The sections of the file, and of each of its environments.
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
    journal: JournalSection,
    /// The environments. They have none of their own.
    #[serde(default)]
    env: BTreeMap<String, Self>,
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
struct JournalSection {
    dir: Option<PathBuf>,
    url: Option<String>,
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
        let backups = self.backup.dir.as_ref().map(|dir| folder.join(dir));
        let journal = match (&self.journal.url, &self.journal.dir) {
            (Some(_), Some(_)) => {
                return Err(Error::new(ErrorKind::Configuration, "[journal] cannot have both url and dir")
                    .at(path, None)
                    .with_hint("keep one: url names a Postgres database, dir a folder"));
            }
            (Some(url), None) => Some(JournalPlace::Database(url.clone())),
            (None, dir) => dir.as_ref().map(|dir| JournalPlace::Folder(folder.join(dir))),
        };
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
    fn an_environment_has_no_environments() {
        let error = file("[env.a.env.b.run]\njobs = 2\n", None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
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
