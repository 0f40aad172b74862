//! Compares a project's schema with the version that its ledger records, for a report on a whole fleet.

use super::{Inspection, Planner, Problem, Reference, State};
use crate::catalog::Catalog;
use crate::schema::Difference;

/// How a project's schema compares with its version.
pub(crate) struct Comparison {
    /// The version, with what was run at it.
    pub(crate) state: State,
    /// The differences, without those that are only notes. Empty if the schema is as expected.
    pub(crate) differences: Vec<Difference>,
    /// Notes for the user.
    pub(crate) notes: Vec<String>,
}

/// Compares a project's schema with its version. Without a ledger, that is the version whose schema it has. Fails with the
/// problems that leave its version unknown.
pub(crate) fn compare(
    catalog: &Catalog,
    reference: &Reference,
    inspection: &Inspection,
) -> Result<Comparison, Vec<Problem>> {
    let planner = Planner { catalog, reference, inspection };
    if inspection.ledger.is_empty() {
        planner.refuse_other_ledger()?;
        let state = planner.baseline()?;
        let mut notes = planner.notes(state)?;
        notes.push("it has no ledger: this is the version whose schema it has".into());
        return Ok(Comparison { state, differences: Vec::new(), notes });
    }
    let (position, mut notes) = planner.position()?;
    let state = planner.state(position);
    notes.extend(planner.notes(state)?);
    let differences = match &inspection.schema {
        // It was verified before, and has not changed since.
        None => Vec::new(),
        Some(_) if !reference.is_known() => return Err(vec![Problem::unknown_reference()]),
        Some(_) if planner.expects_nothing(state)? => {
            notes
                .push("its schema was not compared: a migration declares that it depends on the data".into());
            Vec::new()
        }
        Some(schema) => planner.differences(schema, state)?,
    };
    Ok(Comparison { state, differences, notes })
}
