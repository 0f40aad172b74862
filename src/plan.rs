//! What a project needs: pure, from a catalog, an inspection and a request to a plan or to problems.
//!
//! It must not read or write anything, so that a dry run and the run itself decide alike.

mod baseline;
mod problem;
mod reference;

use std::sync::Arc;

use crate::catalog::{Catalog, Migration, Script};
use crate::error::{Error, ErrorKind};
use crate::ledger::Ledger;
use crate::schema::{Difference, Fingerprint, Schema};
use crate::sql::effect::Effect;
use crate::sql::pragma::FileSettings;

pub use problem::Problem;
pub use reference::{DownScriptOutcome, Reference};

/// Everything read of one project, at one moment.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What its ledger says.
    pub ledger: Arc<Ledger>,
    /// What its schema is; `None` where that was not wanted, see [`ReadSchema`](crate::store::ReadSchema).
    pub schema: Option<Arc<Schema>>,
    /// What the ledger says the schema was when tenantry last wrote there; not every store keeps that.
    pub recorded: Option<Fingerprint>,
    /// Whether it may be written.
    pub access: Access,
}

impl Inspection {
    /// What its schema is known by. Errors where it was not read.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        let unread = || Error::new(ErrorKind::Internal, "its schema was not read");
        self.schema.as_ref().map(|schema| schema.fingerprint()).ok_or_else(unread)
    }
}

/// Whether a project may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may.
    ReadWrite,
    /// Its owner marked it read-only.
    ReadOnly,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// To go up to a position, and never down.
    Upgrade {
        /// Where to.
        to: usize,
        /// What to do with a project that has no ledger.
        baseline: Baseline,
        /// What to do with a project whose schema is not what its version says.
        drift: Drift,
    },
    /// To record a position without running anything.
    Stamp {
        /// Which one; `None` is the one whose schema matches.
        to: Option<usize>,
        /// Whether to record it in spite of a difference.
        force: bool,
    },
    /// To go down to a position.
    Downgrade {
        /// How far.
        down: DowngradeTo,
        /// What to do where a down.sql does not lead back to the schema from before.
        drift: Drift,
    },
}

impl Request {
    /// The same request with the target that a plan found for it, which no longer depends on where a project stands.
    #[must_use]
    pub(crate) fn with_target(self, position: usize) -> Self {
        match self {
            Self::Downgrade { drift, .. } => Self::Downgrade { down: DowngradeTo::Position(position), drift },
            Self::Upgrade { .. } | Self::Stamp { .. } => self,
        }
    }
}

/// How far down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowngradeTo {
    /// To a position.
    Position(usize),
    /// By so many migrations.
    Steps(usize),
}

/// What to do with a project that has no ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Record the version whose schema it has, and go on.
    Stamp,
    /// Leave it alone and say so.
    Refuse,
}

/// What to do with a project whose schema is not what its version says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Leave it alone and say so.
    Refuse,
    /// Go on, and prove that the difference afterwards is the difference before.
    Keep,
}

/// What will be done to one project.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The position its ledger says; `None` without a ledger.
    pub recorded: Option<usize>,
    /// The position to record first without running anything.
    pub stamp: Option<Stamp>,
    /// The position from which migrations run.
    pub from: usize,
    /// The position to which they run: above `from` they are applied, below it reverted.
    pub to: usize,
    /// How the schema differs from what it should be at `from`, where that is allowed; it has to differ likewise at `to`.
    pub drift: Vec<Difference>,
    /// What the user should know, though it hinders nothing.
    pub notes: Vec<String>,
}

/// A version to record without running anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stamp {
    /// The position.
    pub position: usize,
    /// Whether the schema differs from it.
    pub forced: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stamp.is_none() && self.from == self.to
    }

    /// The migrations to run, in the order in which they run.
    #[must_use]
    pub fn migrations<'a>(&self, catalog: &'a Catalog) -> Vec<&'a Migration> {
        if self.from <= self.to {
            catalog.between(self.from..self.to).iter().collect()
        } else {
            catalog.between(self.to..self.from).iter().rev().collect()
        }
    }

    /// The scripts to run, in order.
    fn scripts<'a>(&self, catalog: &'a Catalog) -> impl Iterator<Item = &'a Script> + use<'a> {
        let up = self.from <= self.to;
        let script =
            move |migration: &'a Migration| if up { Some(&migration.up) } else { migration.down.as_ref() };
        self.migrations(catalog).into_iter().filter_map(script)
    }

    /// Whether it drops a table, which takes the rows of its children along where foreign keys are enforced.
    #[must_use]
    pub fn drops_table(&self, catalog: &Catalog) -> bool {
        self.scripts(catalog).any(|script| script.effect() == Effect::DropsTable)
    }

    /// The settings of a database file that it makes.
    #[must_use]
    pub fn file_settings(&self, catalog: &Catalog) -> FileSettings {
        self.scripts(catalog).map(Script::file_settings).fold(FileSettings::default(), FileSettings::then)
    }

    /// Whether every migration of it can share one transaction.
    #[must_use]
    pub fn is_transactional(&self, catalog: &Catalog) -> bool {
        self.migrations(catalog).iter().all(|migration| migration.is_transactional())
    }
}

/// Makes the plan, or finds every problem that forbids it.
pub fn plan(
    catalog: &Catalog,
    reference: &Reference,
    inspection: &Inspection,
    request: Request,
) -> Result<Plan, Vec<Problem>> {
    let planner = Planner { catalog, reference, inspection };
    let plan = match request {
        Request::Upgrade { to, baseline, drift } => planner.upgrade(to, baseline, drift),
        Request::Stamp { to, force } => planner.stamp(to, force),
        Request::Downgrade { down, drift } => planner.downgrade(down, drift),
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
    fn upgrade(&self, to: usize, baseline: Baseline, drift: Drift) -> Result<Plan, Vec<Problem>> {
        if self.inspection.ledger.is_empty() {
            let position = self.baseline()?;
            if position > 0 && baseline == Baseline::Refuse {
                return Err(vec![Problem::needs_stamp(self.catalog, position)]);
            }
            let stamp = (position > 0).then_some(Stamp { position, forced: false });
            let to = to.max(position);
            return Ok(Plan {
                recorded: None,
                stamp,
                from: position,
                to,
                drift: Vec::new(),
                notes: self.notes(position),
            });
        }
        let (from, mut notes) = self.position()?;
        let drift = self.drift(from, drift)?;
        notes.extend(self.notes(from));
        if !self.reference.is_known() && self.inspection.schema.is_some() {
            notes.push(match self.inspection.recorded {
                Some(_) => "its schema is as tenantry left it; it was not compared with the migrations, since this role may make no schema".into(),
                None => "its schema was not looked at, since this role may make no schema to compare with".to_string(),
            });
        }
        if to < from {
            notes.push(format!(
                "it is past {} already; to go back: tenantry downgrade",
                self.catalog.version_at(to)
            ));
        }
        Ok(Plan { recorded: Some(from), stamp: None, from, to: to.max(from), drift, notes })
    }

    fn stamp(&self, to: Option<usize>, force: bool) -> Result<Plan, Vec<Problem>> {
        let ledger = &self.inspection.ledger;
        let recorded = match self.position() {
            _ if ledger.is_empty() => None,
            Ok((position, _)) => Some(position),
            // What stamping can't mend is in the way even of --force.
            Err(problems) if !force || problems.iter().any(|it| matches!(it, Problem::Unknown { .. })) => {
                return Err(problems);
            }
            Err(_) => None,
        };
        let position = match to.or(recorded) {
            Some(position) => position,
            None => self.baseline()?,
        };
        let checked = self.check(position);
        let is_open = recorded == Some(position) && self.reference.expected(position).is_none();
        if !force && !is_open {
            checked.clone()?;
        }
        let forced = force && (checked.is_err() || !self.edited().0.is_empty());
        let changes = !ledger.entries_for_stamp(self.catalog, position, forced).is_empty();
        let stamp = changes.then_some(Stamp { position, forced });
        let notes = self.notes(position);
        Ok(Plan { recorded, stamp, from: position, to: position, drift: Vec::new(), notes })
    }

    fn downgrade(&self, down: DowngradeTo, drift: Drift) -> Result<Plan, Vec<Problem>> {
        if self.inspection.ledger.is_empty() {
            return Err(vec![Problem::NeedsBaseline {
                message: "it has no ledger, so there is nothing to revert".into(),
                hint: "take it over first: tenantry stamp ID".into(),
            }]);
        }
        let (from, mut notes) = self.position()?;
        let keep = drift;
        let drift = self.drift(from, keep)?;
        notes.extend(self.notes(from));
        if let DowngradeTo::Position(position) = down
            && position > from
        {
            notes.push(format!(
                "it is not at {} yet; to go there: tenantry upgrade",
                self.catalog.version_at(position)
            ));
        }
        let to = match down {
            DowngradeTo::Position(position) => position.min(from),
            DowngradeTo::Steps(steps) => from.saturating_sub(steps),
        };
        let reverted = self.catalog.between(to..from);
        let missing = |migration: &Migration| match (&migration.down, &migration.down_fault) {
            (Some(_), _) => None,
            (None, Some(fault)) => Some(format!("{} ({fault})", migration.label())),
            (None, None) => Some(migration.label()),
        };
        let missing: Vec<_> = reverted.iter().filter_map(missing).collect();
        if !missing.is_empty() {
            return Err(vec![Problem::Irreversible { migrations: missing }]);
        }
        let irregular_downs = self.irregular_downs(to..from);
        if !irregular_downs.is_empty() && keep == Drift::Refuse {
            return Err(vec![Problem::LeadsElsewhere { migrations: irregular_downs }]);
        }
        notes.extend(irregular_downs.into_iter().map(|it| format!("the way back of {it}")));
        Ok(Plan { recorded: Some(from), stamp: None, from, to, drift, notes })
    }

    /// The migrations whose down.sql does not lead back, and where it leads.
    fn irregular_downs(&self, positions: std::ops::Range<usize>) -> Vec<String> {
        let of = |index: usize| {
            let label = self.catalog.between(index..index + 1).first().map(Migration::label)?;
            match self.reference.down_script_outcome(index)? {
                DownScriptOutcome::Reverts | DownScriptOutcome::Untested => None,
                DownScriptOutcome::Differs(differences) => {
                    Some(format!("{label}: {}", problem::listed(differences)))
                }
                DownScriptOutcome::Fails(error) => Some(format!("{label}: {error}")),
            }
        };
        positions.rev().filter_map(of).collect()
    }

    /// What is worth a note about the schema.
    fn notes(&self, position: usize) -> Vec<String> {
        let schema = self.inspection.schema.as_ref();
        schema.map(|schema| self.reference.notes(schema, position)).unwrap_or_default()
    }

    /// The position that the ledger says, and what is worth a note.
    fn position(&self) -> Result<(usize, Vec<String>), Vec<Problem>> {
        let ledger = &self.inspection.ledger;
        let mut problems = Vec::new();
        let is_unknown =
            |version: &&crate::catalog::Version| self.catalog.position(version.as_str()).is_none();
        let mut unknown: Vec<_> = ledger.applied.iter().filter(is_unknown).map(ToString::to_string).collect();
        unknown.sort();
        if !unknown.is_empty() {
            problems.push(Problem::Unknown { versions: unknown });
        }
        let dirty = ledger.dirty();
        if !dirty.is_empty() {
            problems.push(Problem::Dirty { versions: dirty.into_iter().map(ToString::to_string).collect() });
        }
        let (edited, notes) = self.edited();
        if !edited.is_empty() {
            problems.push(Problem::Edited { migrations: edited });
        }
        let is_applied = |migration: &&Migration| ledger.is_applied(&migration.version);
        let count = self.catalog.migrations().iter().filter(is_applied).count();
        let skipped: Vec<_> =
            self.catalog.between(0..self.last_applied()).iter().filter(|it| !is_applied(it)).collect();
        if !skipped.is_empty() {
            problems.push(Problem::OutOfOrder {
                migrations: skipped.into_iter().map(Migration::label).collect(),
            });
        }
        if problems.is_empty() { Ok((count, notes)) } else { Err(problems) }
    }

    fn last_applied(&self) -> usize {
        let ledger = &self.inspection.ledger;
        self.catalog
            .migrations()
            .iter()
            .rposition(|it| ledger.is_applied(&it.version))
            .map_or(0, |index| index + 1)
    }

    /// Applied migrations whose script is another one now, and notes on those with other line ends only.
    fn edited(&self) -> (Vec<String>, Vec<String>) {
        use crate::catalog::Recognition;
        let ledger = &self.inspection.ledger;
        let (mut edited, mut notes) = (Vec::new(), Vec::new());
        let latest = ledger.latest();
        for migration in self.catalog.migrations().iter().filter(|it| ledger.is_applied(&it.version)) {
            let Some(row) = latest.get(&migration.version) else { continue };
            match migration.up.recognize(&row.checksum) {
                Recognition::Same => {}
                Recognition::LineEnds => {
                    notes.push(format!("{} has other line ends than when it was applied", migration.label()));
                }
                Recognition::Edited => edited.push(migration.label()),
            }
        }
        (edited, notes)
    }

    fn drift(&self, position: usize, drift: Drift) -> Result<Vec<Difference>, Vec<Problem>> {
        // What is not read was proven, and is as it was then.
        let Some(schema) = &self.inspection.schema else { return Ok(Vec::new()) };
        let is_another = |recorded: Fingerprint| !recorded.has_same_objects(&schema.fingerprint());
        if !self.reference.is_known() && self.inspection.recorded.is_some_and(is_another) {
            return Err(vec![Problem::changed(self.catalog, position)]);
        }
        let differences = self.reference.differences(schema, position);
        if differences.is_empty() || drift == Drift::Keep {
            Ok(differences)
        } else {
            Err(vec![Problem::drifted(self.catalog, position, &differences)])
        }
    }
}
