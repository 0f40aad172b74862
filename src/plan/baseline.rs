//! Determines the version of a project without a ledger, and verifies it against the schema.

use super::{Planner, Problem};
use crate::schema::bookkeeping::Tool;

impl Planner<'_> {
    /// Fails if another tool keeps a ledger in a project that has no ledger of tenantry's. That ledger may say that a
    /// migration failed, which the schema alone does not show.
    pub(super) fn refuse_other_ledger(&self) -> Result<(), Vec<Problem>> {
        let Some(schema) = self.inspection.schema.as_ref().filter(|schema| !schema.is_empty()) else {
            return Ok(());
        };
        // An upgrade checks alembic's revisions itself, see `position_by_revision`.
        let other = schema.other_ledgers().iter().find(|(tool, _)| *tool != Tool::Alembic);
        match other {
            None => Ok(()),
            Some((tool, table)) => Err(vec![Problem::OtherLedger { tool: *tool, table: table.clone() }]),
        }
    }

    /// Returns the position of a project without a ledger: by alembic's revision if it has one, else by its schema.
    pub(super) fn baseline(&self) -> Result<usize, Vec<Problem>> {
        let Some(schema) = self.inspection.schema.as_ref().filter(|_| self.reference.is_known()) else {
            return Err(vec![Problem::unknown_reference()]);
        };
        if let [_, ..] = self.inspection.ledger.revisions.as_slice() {
            return self.position_by_revision();
        }
        // Other positions can have an empty schema, too. Position 0 is the right one, since nothing has been run.
        if schema.is_empty() {
            return Ok(0);
        }
        match self.reference.matching(schema)?.as_slice() {
            [position] => Ok(*position),
            [] => {
                let (position, differences) = self.reference.nearest(schema)?;
                Err(vec![Problem::no_match(self.catalog, position, &differences)])
            }
            several => Err(vec![Problem::ambiguous(self.catalog, several)]),
        }
    }

    fn position_by_revision(&self) -> Result<usize, Vec<Problem>> {
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

    /// Checks that the schema is that of a position. Fails if it differs, or if it depends on the data.
    pub(super) fn check(&self, position: usize) -> Result<(), Vec<Problem>> {
        if !self.reference.is_known() {
            return Err(vec![Problem::unknown_reference()]);
        }
        let comparable = self.inspection.schema.as_ref().zip(self.reference.expected(position)?);
        let Some((schema, _)) = comparable else {
            return Err(vec![Problem::unverifiable(self.catalog, position)]);
        };
        let differences = self.reference.differences(schema, position)?;
        if differences.is_empty() {
            Ok(())
        } else {
            Err(vec![Problem::mismatch(self.catalog, position, &differences)])
        }
    }
}
