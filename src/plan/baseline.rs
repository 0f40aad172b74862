//! The version that a project without a ledger has, found by its schema and proven.

use super::{Planner, Problem};

impl Planner<'_> {
    /// The position of a project without a ledger, by its schema, and by alembic's revision where it has one.
    pub(super) fn baseline(&self) -> Result<usize, Vec<Problem>> {
        let Some(schema) = self.inspection.schema.as_ref().filter(|_| self.reference.is_known()) else {
            return Err(vec![Problem::unknown_reference()]);
        };
        if let [_, ..] = self.inspection.ledger.revisions.as_slice() {
            return self.revision();
        }
        // Whatever else leads to an empty schema: nothing was run yet.
        if schema.is_empty() {
            return Ok(0);
        }
        match self.reference.matching(schema).as_slice() {
            [position] => Ok(*position),
            [] => {
                let (position, differences) = self.reference.nearest(schema);
                Err(vec![Problem::no_match(self.catalog, position, &differences)])
            }
            several => Err(vec![Problem::ambiguous(self.catalog, several)]),
        }
    }

    fn revision(&self) -> Result<usize, Vec<Problem>> {
        let revisions = &self.inspection.ledger.revisions;
        let known: Vec<_> = revisions.iter().map(|revision| self.catalog.replacing(revision)).collect();
        let unknown: Vec<_> =
            revisions.iter().zip(&known).filter(|(_, it)| it.is_none()).map(|(it, _)| it.clone()).collect();
        if !unknown.is_empty() {
            return Err(vec![Problem::UnknownRevision { revisions: unknown }]);
        }
        let position = known.into_iter().flatten().max().unwrap_or(0);
        self.check(position).map(|()| position)
    }

    /// Whether the schema is that of a position. Where it depends on the data, nobody can say.
    pub(super) fn check(&self, position: usize) -> Result<(), Vec<Problem>> {
        let both = self.inspection.schema.as_ref().zip(self.reference.expected(position));
        let Some((schema, _)) = both else {
            return Err(vec![Problem::unverifiable(self.catalog, position)]);
        };
        let differences = self.reference.differences(schema, position);
        if differences.is_empty() {
            Ok(())
        } else {
            Err(vec![Problem::mismatch(self.catalog, position, &differences)])
        }
    }
}
