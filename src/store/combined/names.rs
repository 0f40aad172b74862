//! In which store a project is whose id does not say it.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::{CombinedStore, Placement};
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::store::Inspect as _;

impl CombinedStore {
    /// Adds the store to ids that have none, where there is exactly one project of that id.
    pub(super) fn with_stores(&self, ids: &[ProjectId]) -> Result<Vec<ProjectId>> {
        let mut resolved = Vec::with_capacity(ids.len());
        for id in ids {
            if id.store().is_some() {
                self.index(id)?;
                resolved.push(id.clone());
                continue;
            }
            let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
            // A project may have been created since the last look.
            if !homes.as_ref().is_some_and(|homes| homes.contains_key(id)) {
                *homes = Some(self.homes()?);
            }
            let found = homes.as_ref().and_then(|homes| homes.get(id)).cloned().unwrap_or_default();
            resolved.push(match found.as_slice() {
                [] => id.clone(),
                [index] => id.of_store(&self.parts[*index].name)?,
                several => {
                    let several: Vec<String> =
                        several.iter().map(|index| format!("{}/{id}", self.parts[*index].name)).collect();
                    let message = format!("{id} can be {}", several.join(" or "));
                    return Err(Error::new(ErrorKind::Usage, message).with_hint("name its store as well"));
                }
            });
        }
        Ok(resolved)
    }

    /// Adds to ids of new projects that have no store the one that they will be in.
    pub(super) fn with_stores_of_new(&self, ids: &[ProjectId]) -> Result<Vec<ProjectId>> {
        if ids.iter().all(|id| id.store().is_some()) {
            return self.with_stores(ids);
        }
        let mut counts = vec![0; self.parts.len()];
        let homes = self.homes()?;
        for index in homes.values().flatten() {
            counts[*index] += 1;
        }
        let mut placed: Vec<ProjectId> = Vec::with_capacity(ids.len());
        for id in ids {
            let index = match (id.store(), homes.get(id)) {
                (Some(_), _) => self.index(id)?,
                (None, Some(found)) => {
                    let existing = format!("{}/{id}", self.parts[found[0]].name);
                    return Err(Error::new(ErrorKind::AlreadyExists, format!("{existing} exists"))
                        .with_hint("to create another one, name its store as well, such as eu2/42"));
                }
                (None, None) if self.placement == Placement::Named => {
                    let names = self.names();
                    return Err(Error::new(
                        ErrorKind::Usage,
                        format!("it is not said in which store {id} belongs"),
                    )
                    .with_hint(format!("name it as in eu1/{id}; the stores are {names}. For create, also --in NAME or [create] place = \"fewest\"")));
                }
                (None, None) => {
                    let fewest = counts.iter().enumerate().min_by_key(|(_, count)| **count);
                    fewest.map_or(0, |(index, _)| index)
                }
            };
            counts[index] += 1;
            placed.push(id.of_store(&self.parts[index].name)?);
        }
        Ok(placed)
    }

    /// Returns the stores of each id.
    fn homes(&self) -> Result<BTreeMap<ProjectId, Vec<usize>>> {
        let mut homes = BTreeMap::<ProjectId, Vec<usize>>::new();
        for id in self.discover()?.require_complete()? {
            homes.entry(id.in_its_store()).or_default().push(self.index(&id)?);
        }
        Ok(homes)
    }
}
