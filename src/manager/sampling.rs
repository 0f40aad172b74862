//! Chooses which projects of a fleet are rehearsed.

use std::collections::BTreeSet;

use super::Manager;
use super::portion::Portion;
use crate::error::Result;
use crate::event::ProjectReport;
use crate::plan::KEEPS;
use crate::project::ProjectId;
use crate::store::Footprint;

/// What distinguishes the projects of a fleet: those with an equal one are upgraded by the same steps.
type Kind = String;

impl Manager {
    /// Chooses the planned projects that are rehearsed, sorted. Returns the reports of the others.
    pub(super) fn choose_sample(
        &self,
        mut planned: Vec<ProjectReport>,
        size: Option<Portion>,
    ) -> Result<(Vec<ProjectId>, Vec<ProjectReport>)> {
        planned.sort_by(|a, b| a.project.cmp(&b.project));
        let ids: Vec<ProjectId> = planned.iter().map(|report| report.project.clone()).collect();
        let Some(size) = size else { return Ok((ids, Vec::new())) };
        let footprints = self.store.footprints(&ids)?;
        let kinds: Vec<Kind> = planned.iter().map(kind).collect();
        let chosen = choose(&ids, &kinds, &footprints, size.of(ids.len()));
        let (sample, others): (Vec<_>, Vec<_>) =
            planned.into_iter().partition(|report| chosen.contains(&report.project));
        Ok((sample.into_iter().map(|report| report.project).collect(), others))
    }
}

fn kind(report: &ProjectReport) -> Kind {
    let ProjectReport { from, stamped, migrations, notes, .. } = report;
    let drift = notes.iter().find(|note| note.starts_with(KEEPS));
    format!("{from:?} {stamped:?} {migrations:?} {drift:?}")
}

/// Chooses projects: the first of each kind, the largest, the oldest, and then others that are spread over the fleet, up to
/// `size`.
fn choose(ids: &[ProjectId], kinds: &[Kind], footprints: &[Footprint], size: usize) -> BTreeSet<ProjectId> {
    let mut chosen = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (id, kind) in ids.iter().zip(kinds) {
        if seen.insert(kind) {
            chosen.insert(id.clone());
        }
    }
    let with_footprints = || ids.iter().zip(footprints);
    chosen.extend(with_footprints().max_by_key(|(_, it)| it.bytes).map(|(id, _)| id.clone()));
    chosen.extend(with_footprints().min_by_key(|(_, it)| it.created).map(|(id, _)| id.clone()));
    let mut others: Vec<&ProjectId> = ids.iter().filter(|id| !chosen.contains(*id)).collect();
    others.sort_by_key(|id| (id.hash(), (*id).clone()));
    let missing = size.saturating_sub(chosen.len());
    chosen.extend(others.into_iter().take(missing).cloned());
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_every_kind_the_largest_and_the_oldest() {
        let ids: Vec<ProjectId> = (0..100).map(|number| format!("p{number:02}").parse().unwrap()).collect();
        let kinds: Vec<Kind> =
            (0..100).map(|number| if number == 77 { "rare" } else { "usual" }.into()).collect();
        let footprint = |number: u64| Footprint {
            bytes: if number == 31 { 9_000 } else { 100 },
            created: if number == 52 { 1 } else { 1_000 + number },
        };
        let footprints: Vec<Footprint> = (0..100).map(footprint).collect();
        for (size, expected) in [(10, 10), (1, 4), (100, 100)] {
            let chosen = choose(&ids, &kinds, &footprints, size);
            assert_eq!(chosen.len(), expected);
            for id in ["p00", "p77", "p31", "p52"] {
                assert!(chosen.iter().any(|it| it.as_str() == id), "{id} is not in a sample of {size}");
            }
        }
        // The same fleet gives the same sample.
        assert_eq!(choose(&ids, &kinds, &footprints, 10), choose(&ids, &kinds, &footprints, 10));
    }
}
