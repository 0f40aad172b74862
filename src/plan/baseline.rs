//! Determines the version of a project without a ledger, and verifies it against the schema.

use super::{Planner, Problem, State};
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

    /// Returns the state of a project without a ledger: by alembic's revision if it has one, else by its schema.
    pub(super) fn baseline(&self) -> Result<State, Vec<Problem>> {
        let Some(schema) = self.inspection.schema.as_ref().filter(|_| self.reference.is_known()) else {
            return Err(vec![Problem::unknown_reference()]);
        };
        if let [_, ..] = self.inspection.ledger.revisions.as_slice() {
            return self.position_by_revision();
        }
        // Other positions can have an empty schema, too. Position 0 is the right one, since nothing has been run.
        if schema.is_empty() {
            return Ok(State { position: 0, is_complete: false });
        }
        let matching = self.reference.matching(schema).map_err(|error| Problem::not_compared(&error))?;
        match matching.as_slice() {
            [state] => Ok(*state),
            [] => {
                let nearest = self.reference.nearest(schema);
                let (position, differences) = nearest.map_err(|error| Problem::not_compared(&error))?;
                Err(vec![Problem::no_match(self.catalog, position, &differences)])
            }
            several => {
                let positions: Vec<usize> = several.iter().map(|state| state.position).collect();
                Err(vec![Problem::ambiguous(self.catalog, &positions)])
            }
        }
    }

    fn position_by_revision(&self) -> Result<State, Vec<Problem>> {
        let revisions = &self.inspection.ledger.revisions;
        let known: Vec<_> = revisions.iter().map(|revision| self.catalog.replacing(revision)).collect();
        let unknown: Vec<_> =
            revisions.iter().zip(&known).filter(|(_, it)| it.is_none()).map(|(it, _)| it.clone()).collect();
        if !unknown.is_empty() {
            return Err(vec![Problem::UnknownRevision { revisions: unknown }]);
        }
        let position = known.into_iter().flatten().max().unwrap_or(0);
        self.check(position)
    }

    /// Checks that the schema is that of a position, with or without what repeatable migrations make. Fails if it differs,
    /// or if it depends on the data.
    pub(super) fn check(&self, position: usize) -> Result<State, Vec<Problem>> {
        let state = State { position, is_complete: false };
        if position == self.catalog.head() {
            let complete = State { is_complete: true, ..state };
            let checked = self.check_state(complete).map(|()| complete);
            if checked.is_ok() || self.catalog.repeatables().is_empty() {
                return checked;
            }
        }
        self.check_state(state).map(|()| state)
    }

    /// Checks that the schema is that of a state.
    pub(super) fn check_state(&self, state: State) -> Result<(), Vec<Problem>> {
        let position = state.position;
        if !self.reference.is_known() {
            return Err(vec![Problem::unknown_reference()]);
        }
        let expects_nothing = self.expects_nothing(state)?;
        let schema = self.inspection.schema.as_ref();
        let Some(schema) = schema.filter(|_| !expects_nothing) else {
            return Err(vec![Problem::unverifiable(self.catalog, position)]);
        };
        let differences = self.differences(schema, state)?;
        if differences.is_empty() {
            Ok(())
        } else {
            Err(vec![Problem::mismatch(self.catalog, position, &differences)])
        }
    }
}
