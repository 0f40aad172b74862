//! Decides what to do with one project. Input is a catalog, a reference, an inspection and a request; the result is a
//! plan or the problems that prevent it.
//!
//! Writes nothing and reads nothing of the project, so a dry run and the run itself decide the same.

mod adoption;
mod baseline;
mod drift;
mod problem;
mod recorded;
mod reference;
mod request;

use std::sync::Arc;

use crate::catalog::{Catalog, Migration, Script};
use crate::error::{Error, ErrorKind};
use crate::ledger::Ledger;
use crate::ledger::other::OtherLedger;
use crate::schema::{Difference, Fingerprint, Schema};
use crate::sql::effect::Effect;
use crate::sql::pragma::FileSettings;

pub(crate) use drift::{Comparison, compare};
pub use problem::Problem;
pub use reference::DownScriptOutcome;
pub(crate) use reference::{ReadSchemas, Reference, Schemas, State};
pub use request::{DowngradeTarget, IfDrifted, IfNoLedger, Request};

/// Everything that was read of one project at one moment.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its ledger.
    pub ledger: Arc<Ledger>,
    /// Its schema. `None` if it was not read, see [`ReadSchema`](crate::store::ReadSchema).
    pub schema: Option<Arc<Schema>>,
    /// The fingerprint that the schema had when tenantry last wrote to the ledger. Not every store records it.
    pub recorded_fingerprint: Option<Fingerprint>,
    /// Whether it may be written.
    pub access: Access,
    /// The ledgers of other tools. Filled for [`Request::Adopt`], empty otherwise.
    pub other_ledgers: Vec<OtherLedger>,
}

impl Inspection {
    /// Returns the position whose schema it is compared with. `None` if it is not compared, or with more than one. It is
    /// what planning finds unless the ledger has a problem.
    pub(crate) fn compared_position(&self) -> Option<usize> {
        (self.schema.is_some() && !self.ledger.is_empty()).then_some(self.ledger.applied.len())
    }

    /// Returns the fingerprint of its schema, also of objects that are ignored. Fails if the schema was not read.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        let unread = || Error::new(ErrorKind::Internal, "the schema was not read");
        self.schema.as_ref().map(|schema| schema.full_fingerprint()).ok_or_else(unread)
    }
}

/// Whether a project may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may be read and written.
    ReadWrite,
    /// It may only be read.
    ReadOnly,
}

/// How the note begins on the differences from the migrations that a project keeps.
pub(crate) const KEEPS: &str = "it keeps its differences from the migrations";

/// What to do with one project, in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct Plan {
    /// The position in its ledger. `None` without a ledger.
    pub recorded_position: Option<usize>,
    /// The position to record first, without running anything.
    pub stamp: Option<Stamp>,
    /// Set if another tool's ledger is taken over, or its table renamed.
    pub adoption: Option<Adoption>,
    /// The position from which migrations are run.
    pub from: usize,
    /// The position to which migrations are run. Above `from` they are applied, below it they are reverted.
    pub to: usize,
    /// The repeatable migrations to run at `to`, by their indices in [`Catalog::repeatables`].
    pub repeatables: Vec<usize>,
    /// Whether at `to` every repeatable migration was run with its present text.
    pub is_complete: bool,
    /// Whether repeatable migrations were run that the catalog does not have any more. What they made is not compared.
    pub has_former_repeatables: bool,
    /// How the schema differs from the expected one at `from`, if that is allowed. At `to` it must differ the same way.
    pub drift: Vec<Difference>,
    /// Notes for the user. They do not prevent the plan.
    pub notes: Vec<String>,
}

/// A version to record without running anything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct Stamp {
    /// The position.
    pub position: usize,
    /// The repeatable migrations that were run with their present text, by their indices.
    pub repeatables: Vec<usize>,
    /// Whether it is recorded although the schema or an applied script differs.
    pub forced: bool,
}

/// The takeover of another tool's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Adoption {
    /// The tables of other tools that are renamed.
    pub retired_tables: Vec<String>,
}

impl Plan {
    /// A plan to do nothing at a position.
    fn nothing(position: usize, notes: Vec<String>) -> Self {
        Self {
            recorded_position: None,
            stamp: None,
            adoption: None,
            from: position,
            to: position,
            repeatables: Vec::new(),
            is_complete: false,
            has_former_repeatables: false,
            drift: Vec::new(),
            notes,
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.stamp.is_none() && self.adoption.is_none() && self.from == self.to && self.repeatables.is_empty()
    }

    /// Returns the migrations to run, in the order in which they run.
    #[must_use]
    pub(crate) fn migrations<'a>(&self, catalog: &'a Catalog) -> Vec<&'a Migration> {
        if self.from <= self.to {
            let repeatables = self.repeatables.iter().filter_map(|index| catalog.repeatables().get(*index));
            catalog.between(self.from..self.to).iter().chain(repeatables).collect()
        } else {
            catalog.between(self.to..self.from).iter().rev().collect()
        }
    }

    /// Returns the scripts to run, in order.
    pub(crate) fn scripts<'a>(&self, catalog: &'a Catalog) -> impl Iterator<Item = &'a Script> + use<'a> {
        let up = self.from <= self.to;
        let script =
            move |migration: &'a Migration| if up { Some(&migration.up) } else { migration.down.as_ref() };
        self.migrations(catalog).into_iter().filter_map(script)
    }

    /// Whether it drops a table. If foreign keys are enforced, this also deletes the rows of the child tables.
    #[must_use]
    pub(crate) fn drops_table(&self, catalog: &Catalog) -> bool {
        self.scripts(catalog).any(|script| script.effect() == Effect::DropsTable)
    }

    /// Returns the settings of a database file that it changes.
    #[must_use]
    pub(crate) fn file_settings(&self, catalog: &Catalog) -> FileSettings {
        self.scripts(catalog).map(Script::file_settings).fold(FileSettings::default(), FileSettings::then)
    }

    /// Whether all its scripts can share one transaction.
    #[must_use]
    pub(crate) fn is_transactional(&self, catalog: &Catalog) -> bool {
        self.scripts(catalog).all(Script::is_transactional)
    }
}

/// Plans a request. Returns all problems that prevent it, not only the first.
pub(crate) fn plan(
    catalog: &Catalog,
    reference: &Reference,
    inspection: &Inspection,
    request: Request,
) -> Result<Plan, Vec<Problem>> {
    let planner = Planner { catalog, reference, inspection };
    let plan = match request {
        Request::Upgrade { to, baseline, drift } => planner.upgrade(to, baseline, drift),
        Request::Stamp { to, force } => planner.stamp(to, force),
        Request::Adopt { from, retire } => planner.adopt(from, retire),
        Request::Downgrade { target, drift } => planner.downgrade(target, drift),
    }?;
    if inspection.access == Access::ReadOnly && !plan.is_empty() {
        return Err(vec![Problem::ReadOnly]);
    }
    Ok(plan)
}

struct Planner<'a> {
    catalog: &'a Catalog,
    reference: &'a Reference,
    inspection: &'a Inspection,
}

impl Planner<'_> {
    fn upgrade(&self, to: usize, baseline: IfNoLedger, drift: IfDrifted) -> Result<Plan, Vec<Problem>> {
        if self.inspection.ledger.is_empty() {
            self.refuse_other_ledger()?;
            let state = self.baseline()?;
            let position = state.position;
            if position > 0 && baseline == IfNoLedger::Refuse {
                return Err(vec![Problem::needs_stamp(self.catalog, position)]);
            }
            let run = self.run_repeatables(state);
            let stamp = (position > 0).then_some(Stamp { position, repeatables: run, forced: false });
            return Ok(Plan {
                stamp,
                to: to.max(position),
                repeatables: if state.is_complete { Vec::new() } else { self.repeatables_at(to) },
                is_complete: to == self.catalog.head(),
                ..Plan::nothing(position, self.notes(state)?)
            });
        }
        let (from, mut notes) = self.position()?;
        let drift = self.drift(from, drift)?;
        if !drift.is_empty() {
            notes.push(format!("{KEEPS}: {}", problem::list_differences(&drift)));
        }
        notes.extend(self.notes(self.state(from))?);
        if !self.reference.is_known() && self.inspection.schema.is_some() {
            notes.push(match self.inspection.recorded_fingerprint {
                Some(_) => "its schema has not changed since tenantry last wrote to it; it was not compared with the \
                            migrations, because this role cannot create schemas"
                    .into(),
                None => "its schema was not checked, because this role cannot create a schema to compare it with"
                    .to_string(),
            });
        }
        if to < from {
            notes.push(format!(
                "it is already past {}; to go back: tenantry downgrade",
                self.catalog.version_at(to)
            ));
        }
        Ok(Plan {
            recorded_position: Some(from),
            to: to.max(from),
            repeatables: self.repeatables_at(to),
            is_complete: to == self.catalog.head(),
            has_former_repeatables: self.inspection.ledger.has_former_repeatables(self.catalog),
            drift,
            ..Plan::nothing(from, notes)
        })
    }

    fn stamp(&self, to: Option<usize>, force: bool) -> Result<Plan, Vec<Problem>> {
        let ledger = &self.inspection.ledger;
        let recorded = match self.position() {
            _ if ledger.is_empty() => None,
            Ok((position, _)) => Some(position),
            // Stamping does not remove unknown versions, so --force cannot help either.
            Err(problems) if !force || problems.iter().any(|it| matches!(it, Problem::Unknown { .. })) => {
                return Err(problems);
            }
            Err(_) => Some(self.last_applied()),
        };
        let position = match to.or(recorded) {
            Some(position) => position,
            None => self.baseline()?.position,
        };
        let checked = self.check(position);
        let state = checked.clone().unwrap_or_else(|_| self.state(position));
        let is_uncheckable = recorded == Some(position) && self.expects_nothing(state)?;
        if !force && !is_uncheckable {
            checked.clone()?;
        }
        let forced = force && (checked.is_err() || !self.edited().0.is_empty());
        let repeatables = if checked.is_ok() { self.run_repeatables(state) } else { Vec::new() };
        let changes = !ledger.entries_for_stamp(self.catalog, position, forced).is_empty();
        let stamp = (changes || !repeatables.is_empty()).then_some(Stamp { position, repeatables, forced });
        let mut notes = self.notes(state)?;
        let schema = self.inspection.schema.as_ref().filter(|_| ledger.is_empty());
        notes.extend(schema.iter().flat_map(|schema| schema.other_ledgers()).map(|(tool, table)| {
            format!("{tool}'s ledger ({table}) was not verified; tenantry adopt does that")
        }));
        Ok(Plan { recorded_position: recorded, stamp, ..Plan::nothing(position, notes) })
    }

    fn downgrade(&self, target: DowngradeTarget, allowed_drift: IfDrifted) -> Result<Plan, Vec<Problem>> {
        if self.inspection.ledger.is_empty() {
            return Err(vec![Problem::NeedsBaseline {
                message: "it has no ledger, so there is nothing to revert".into(),
                hint: "record its version first: tenantry stamp ID".into(),
            }]);
        }
        let (from, mut notes) = self.position()?;
        let drift = self.drift(from, allowed_drift)?;
        notes.extend(self.notes(self.state(from))?);
        if let DowngradeTarget::Position(position) = target
            && position > from
        {
            notes.push(format!(
                "it is not at {} yet; to go there: tenantry upgrade",
                self.catalog.version_at(position)
            ));
        }
        let to = match target {
            DowngradeTarget::Position(position) => position.min(from),
            DowngradeTarget::Steps(steps) => from.saturating_sub(steps),
        };
        let reverted = self.catalog.between(to..from);
        let irreversible = |migration: &Migration| match (&migration.down, &migration.down_error) {
            (Some(_), _) => None,
            (None, Some(fault)) => Some(format!("{} ({fault})", migration.label())),
            (None, None) => Some(migration.label()),
        };
        let irreversible: Vec<_> = reverted.iter().filter_map(irreversible).collect();
        if !irreversible.is_empty() {
            return Err(vec![Problem::Irreversible { migrations: irreversible }]);
        }
        let failing = self.downs(to..from, |outcome| match outcome {
            DownScriptOutcome::Fails(error) => Some(error.clone()),
            _ => None,
        });
        let irregular = self.downs(to..from, |outcome| match outcome {
            DownScriptOutcome::Differs(differences) => Some(problem::list_differences(differences)),
            _ => None,
        });
        if allowed_drift == IfDrifted::Keep {
            notes.extend(failing.iter().map(|it| format!("down.sql fails on an empty database: {it}")));
            notes.extend(
                irregular.iter().map(|it| format!("down.sql does not restore the previous schema: {it}")),
            );
        } else if !failing.is_empty() || !irregular.is_empty() {
            let failing = (!failing.is_empty()).then_some(Problem::FailingDown { migrations: failing });
            let irregular =
                (!irregular.is_empty()).then_some(Problem::IrregularDown { migrations: irregular });
            return Err(irregular.into_iter().chain(failing).collect());
        }
        let has_former_repeatables = self.inspection.ledger.has_former_repeatables(self.catalog);
        Ok(Plan {
            recorded_position: Some(from),
            to,
            has_former_repeatables,
            drift,
            ..Plan::nothing(from, notes)
        })
    }

    /// Returns the migrations whose down.sql has an outcome that `fault` describes, each with the description.
    fn downs(
        &self,
        positions: std::ops::Range<usize>,
        fault: impl Fn(&DownScriptOutcome) -> Option<String>,
    ) -> Vec<String> {
        let of = |index: usize| {
            let label = self.catalog.between(index..index + 1).first().map(Migration::label)?;
            Some(format!("{label}: {}", fault(self.reference.down_script_outcome(index)?)?))
        };
        positions.rev().filter_map(of).collect()
    }

    /// Whether the schema of a state is not known.
    fn expects_nothing(&self, state: State) -> Result<bool, Vec<Problem>> {
        let expected = self.reference.expected(state);
        expected.map(|schema| schema.is_none()).map_err(|error| Problem::not_compared(&error))
    }

    /// Returns how a schema differs from that of a state.
    fn differences(&self, schema: &Schema, state: State) -> Result<Vec<Difference>, Vec<Problem>> {
        let differences = self.reference.differences(schema, state);
        let mut differences = differences.map_err(|error| Problem::not_compared(&error))?;
        if self.inspection.ledger.has_former_repeatables(self.catalog) {
            differences.retain(|it| !it.is_extra_code());
        }
        Ok(differences)
    }

    /// Returns notes on the schema.
    fn notes(&self, state: State) -> Result<Vec<String>, Vec<Problem>> {
        let schema = self.inspection.schema.as_ref();
        let ignored = schema.map(|schema| schema.ignored()).filter(|ignored| !ignored.is_empty());
        let names = |ignored: &[_]| ignored.iter().map(|(kind, name)| format!("{kind} {name}")).collect();
        let ignored =
            ignored.map(names).map(|names: Vec<_>| format!("ignored as configured: {}", names.join(", ")));
        let notes = schema.map(|schema| self.reference.notes(schema, state)).transpose();
        let notes = notes.map_err(|error| Problem::not_compared(&error))?;
        Ok(notes.into_iter().flatten().chain(ignored).collect())
    }

    /// Returns how the schema differs from the expected one. Fails if it differs and that is not allowed.
    fn drift(&self, position: usize, allowed_drift: IfDrifted) -> Result<Vec<Difference>, Vec<Problem>> {
        // A schema that was not read has been verified before and has not changed since.
        let Some(schema) = &self.inspection.schema else { return Ok(Vec::new()) };
        let has_changed = |recorded: Fingerprint| !recorded.has_same_objects(&schema.fingerprint());
        if !self.reference.is_known() && self.inspection.recorded_fingerprint.is_some_and(has_changed) {
            return Err(vec![Problem::changed(self.catalog, position)]);
        }
        let differences = self.differences(schema, self.state(position))?;
        if differences.is_empty() || allowed_drift == IfDrifted::Keep {
            Ok(differences)
        } else {
            Err(vec![Problem::drifted(self.catalog, position, &differences)])
        }
    }
}
