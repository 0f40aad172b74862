//! Several stores as one: each project is called by the name of its store and its id, such as `eu1/42`.
//!
//! Passes each call to the store of the project, which knows it by its id alone.

mod builder;
mod inspect;
mod names;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::connection::Connector;
use super::{
    Create, DatabaseMaintenance, DeferredCommits, Finding, Session, SpareStore, Spares, Store, Template,
};
pub use builder::CombinedStoreBuilder;

use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::sql::Dialect;

/// Several stores of one dialect as one fleet.
pub struct CombinedStore {
    parts: Vec<Part>,
    placement: Placement,
    /// The stores of each id, for ids that name none. Read on first use.
    homes: Mutex<Option<BTreeMap<ProjectId, Vec<usize>>>>,
}

/// What is between the stores in the location.
const SEPARATOR: &str = " | ";

/// One of the stores.
struct Part {
    name: String,
    store: Arc<dyn Store>,
    /// How many of its projects to work on at once; `None` for the store's own default.
    jobs: Option<usize>,
}

/// In which store a new project is created that names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In none: the project has to name one.
    #[default]
    Named,
    /// In the one with the fewest projects.
    Fewest,
}

impl CombinedStore {
    fn first(&self) -> &dyn Store {
        &*self.parts[0].store
    }

    fn names(&self) -> String {
        self.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The index of a project's store. An id that names none is searched for.
    fn index(&self, id: &ProjectId) -> Result<usize> {
        let Some(name) = id.store() else {
            let resolved = self.resolve(std::slice::from_ref(id))?;
            return match resolved.first() {
                Some(resolved) if resolved.store().is_some() => self.index(resolved),
                _ => Err(Error::new(
                    ErrorKind::NotFound,
                    format!("it is in none of the stores {}", self.names()),
                )
                .in_project(id)
                .with_hint("to see the projects: tenantry list")),
            };
        };
        self.parts.iter().position(|part| part.name == name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("no store is called {name}"))
                .in_project(id)
                .with_hint(format!("the stores are {}", self.names()))
        })
    }

    /// Does something with a project's store, which knows the project by its id alone.
    fn at<'a, T>(
        &'a self,
        id: &ProjectId,
        work: impl FnOnce(&'a dyn Store, &ProjectId) -> Result<T>,
    ) -> Result<T> {
        let index = self.index(id)?;
        work(&*self.parts[index].store, &id.in_its_store()).map_err(|error| error.of_project(id))
    }

    /// Does something that any of the stores can do, with the first one that can be reached.
    fn at_any<T>(&self, mut work: impl FnMut(&dyn Store) -> Result<T>) -> Result<T> {
        let mut unreachable = None;
        for part in &self.parts {
            match work(&*part.store) {
                Err(error) if error.kind() == ErrorKind::Disconnected => {
                    unreachable.get_or_insert(error.in_store(&part.name));
                }
                result => return result,
            }
        }
        Err(unreachable.unwrap_or_else(|| Error::new(ErrorKind::Internal, "there is no store")))
    }

    /// Calls `work` for each store that has some of the projects, at the same time, with their places in `ids`. Projects
    /// without a store are left out.
    fn by_store<T: Send>(
        &self,
        ids: &[ProjectId],
        work: impl Fn(&Part, &[ProjectId]) -> T + Sync,
    ) -> Vec<(Vec<usize>, T)> {
        let mut groups: BTreeMap<usize, (Vec<usize>, Vec<ProjectId>)> = BTreeMap::new();
        for (place, id) in ids.iter().enumerate() {
            if let Ok(index) = self.index(id) {
                let (places, locals) = groups.entry(index).or_default();
                places.push(place);
                locals.push(id.in_its_store());
            }
        }
        let work = &work;
        std::thread::scope(|scope| {
            let groups = groups.into_iter().map(|(index, (places, locals))| {
                let part = &self.parts[index];
                (places, scope.spawn(move || work(part, &locals)))
            });
            let groups: Vec<_> = groups.collect();
            let results = groups.into_iter().map(|(places, thread)| match thread.join() {
                Ok(result) => (places, result),
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect()
        })
    }

    /// Returns the results of several stores in the order of the projects.
    fn in_order<T>(&self, ids: &[ProjectId], results: Vec<(Vec<usize>, Vec<Result<T>>)>) -> Vec<Result<T>> {
        let mut ordered: Vec<Option<Result<T>>> = ids.iter().map(|_| None).collect();
        for (places, results) in results {
            for (place, result) in places.into_iter().zip(results) {
                ordered[place] = Some(result.map_err(|error| error.of_project(&ids[place])));
            }
        }
        let missing = |id: &ProjectId| match self.index(id) {
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(ErrorKind::Internal, "the store returned no result").in_project(id)),
        };
        ordered.into_iter().zip(ids).map(|(result, id)| result.unwrap_or_else(|| missing(id))).collect()
    }
}

impl Store for CombinedStore {
    fn location(&self) -> String {
        let part = |part: &Part| format!("{}={} {}", part.name, part.store.location(), part.store.pattern());
        self.parts.iter().map(part).collect::<Vec<_>>().join(SEPARATOR)
    }

    fn location_of(&self, id: &ProjectId) -> String {
        self.index(id).map_or_else(|_| self.location(), |index| self.parts[index].store.location())
    }

    fn pattern(&self) -> String {
        // Each store has its own, which the location names.
        "{store}/{id}".into()
    }

    fn place(&self, id: &ProjectId) -> String {
        match self.index(id) {
            Ok(index) => self.parts[index].store.place(&id.in_its_store()),
            Err(_) => id.to_string(),
        }
    }

    fn validate_id(&self, id: &ProjectId) -> Result<()> {
        match id.store() {
            Some(_) => self.at(id, Store::validate_id),
            None => Ok(()),
        }
    }

    fn resolve(&self, ids: &[ProjectId]) -> Result<Vec<ProjectId>> {
        self.with_stores(ids)
    }

    fn place_new(&self, ids: &[ProjectId]) -> Result<Vec<ProjectId>> {
        self.with_stores_of_new(ids)
    }

    fn exists(&self) -> bool {
        self.parts.iter().any(|part| part.store.exists())
    }

    fn diagnose(&self) -> Vec<Finding> {
        let of_part = |part: &Part| {
            let name = part.name.clone();
            let findings = part.store.diagnose();
            findings.into_iter().map(move |it| Finding { detail: format!("{name}: {}", it.detail), ..it })
        };
        self.parts.iter().flat_map(of_part).collect()
    }

    fn explain_failure(&self, message: &str) -> Option<String> {
        self.first().explain_failure(message)
    }

    fn sweep(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for part in &self.parts {
            removed.extend(part.store.sweep().map_err(|error| error.in_store(&part.name))?);
        }
        Ok(removed)
    }

    fn dialect(&self) -> Dialect {
        self.first().dialect()
    }

    fn is_at(&self, location: &str) -> bool {
        // Stores may have been added since. Their names are part of the ids, so each must be at its place.
        let has = |(name, location): (&str, &str)| {
            let is_part = |part: &&Part| part.name == name;
            self.parts.iter().find(is_part).is_some_and(|part| {
                let location = location.strip_suffix(&format!(" {}", part.store.pattern()));
                location.is_some_and(|location| part.store.is_at(location))
            })
        };
        let mut stores = location.split(SEPARATOR).map(|it| it.split_once('='));
        stores.all(|it| it.is_some_and(has)) || self.parts.iter().any(|part| part.store.is_at(location))
    }

    fn is_fleet(&self, location: &str, pattern: Option<&str>) -> bool {
        // It may have been one of these stores, before there were others.
        let was_part = |part: &Part| part.store.is_fleet(location, pattern);
        self.parts.iter().any(was_part)
            || (self.is_at(location) && pattern.is_none_or(|it| it == self.pattern()))
    }

    fn is_all_of(&self, location: &str) -> bool {
        self.is_at(location)
            && location.split(SEPARATOR).count() == self.parts.len()
            && location.contains('=')
    }

    fn owns(&self, taken_of: &str, place: &str, id: &ProjectId, kept_at: &str) -> bool {
        // A backup of a project without a store is one of the project that it has become, see `Archive::owns`.
        id.store().is_some()
            && self
                .index(id)
                .is_ok_and(|index| self.parts[index].store.owns(taken_of, place, &id.in_its_store(), kept_at))
    }

    fn maintain(&self, id: &ProjectId, maintenance: DatabaseMaintenance) -> Result<()> {
        self.at(id, |store, id| store.maintain(id, maintenance))
    }

    fn lanes(&self) -> Vec<usize> {
        let of_part = |part: &Part| part.jobs.unwrap_or_else(|| part.store.lanes().into_iter().sum());
        self.parts.iter().map(of_part).collect()
    }

    fn lane(&self, id: &ProjectId) -> usize {
        self.index(id).unwrap_or_default()
    }

    fn retries(&self) -> u32 {
        self.parts.iter().map(|part| part.store.retries()).max().unwrap_or_default()
    }

    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>> {
        self.at(id, Store::open)
    }

    fn supports_begin_if_unchanged(&self) -> bool {
        self.first().supports_begin_if_unchanged()
    }

    fn deferred_commits(&self) -> Option<&dyn DeferredCommits> {
        self.first().deferred_commits().map(|_| self as &dyn DeferredCommits)
    }

    fn connector(&self, id: &ProjectId) -> Result<Connector> {
        self.at(id, Store::connector)
    }
}

impl Create for CombinedStore {
    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()> {
        self.at(id, |store, id| store.create(id, template))
    }

    fn scratch(&self, catalog: &Catalog, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        self.at_any(|store| store.scratch(catalog, work))
    }

    fn scratch_definitions(
        &self,
        catalog: &Catalog,
        fill: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Vec<String>> {
        self.at_any(|store| store.scratch_definitions(catalog, fill))
    }

    fn spares(&self) -> Option<&dyn SpareStore> {
        self.parts.iter().any(|part| part.store.spares().is_some()).then_some(self)
    }
}

impl SpareStore for CombinedStore {
    fn top_up(&self, template: Template<'_>) -> Result<Spares> {
        let (mut all, mut failure) = (Spares::default(), None);
        for part in &self.parts {
            let Some(store) = part.store.spares() else { continue };
            // A store that cannot be reached keeps no other from having its spares.
            match store.top_up(template) {
                Ok(Spares { ready, made, removed }) => {
                    all = Spares {
                        ready: all.ready + ready,
                        made: all.made + made,
                        removed: all.removed + removed,
                    };
                }
                Err(error) => failure = failure.or(Some(error.in_store(&part.name))),
            }
        }
        failure.map_or(Ok(all), Err)
    }
}

impl DeferredCommits for CombinedStore {
    fn commit_batch_size(&self) -> usize {
        self.first().deferred_commits().map_or(1, DeferredCommits::commit_batch_size)
    }

    fn flush_commits(&self, ids: &[ProjectId], run_id: &str) -> Result<Vec<bool>> {
        // Without projects there may still be commits of other runs, on each of the stores.
        if ids.is_empty() {
            for part in &self.parts {
                if let Some(store) = part.store.deferred_commits() {
                    store.flush_commits(&[], run_id)?;
                }
            }
            return Ok(Vec::new());
        }
        let results = self.by_store(ids, |part, ids| match part.store.deferred_commits() {
            Some(store) => store.flush_commits(ids, run_id),
            None => Ok(vec![true; ids.len()]),
        });
        let results = results.into_iter().map(|(places, flushed)| {
            let results = match flushed {
                Ok(durable) => durable.into_iter().map(Ok).collect(),
                Err(error) => places.iter().map(|_| Err(error.duplicate())).collect(),
            };
            (places, results)
        });
        self.in_order(ids, results.collect()).into_iter().collect()
    }
}
