//! The reasons why a project cannot be planned. Each has a code for programs, and a message and a hint for people.

use crate::catalog::Catalog;
use crate::error::Error;
use crate::hint::for_library;
use crate::schema::Difference;
use crate::schema::bookkeeping::Tool;

/// The maximum number of differences that a message lists. The others are only counted.
const SHOWN: usize = 6;

/// A reason why a project is blocked. A blocked project reports all reasons, not only the first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// It has no ledger. Its schema does not match exactly one version, or recording that version is not allowed.
    NeedsBaseline {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Its schema differs from that of the version in its ledger.
    Drifted {
        /// How it differs.
        message: String,
        /// Whether migrations are pending, which can run despite the difference.
        has_pending: bool,
    },
    /// Migrations were edited after they were applied.
    Edited {
        /// Their labels.
        migrations: Vec<String>,
        /// The project's present version.
        version: String,
    },
    /// Its ledger has versions that the catalog does not have, so the code is older than the data.
    Unknown {
        /// The versions.
        versions: Vec<String>,
    },
    /// It has only some of the migrations that a squashed one replaces.
    BeforeSquash {
        /// The squashed migration's label.
        migration: String,
    },
    /// Migrations are not applied although a later one is.
    OutOfOrder {
        /// Their labels.
        migrations: Vec<String>,
    },
    /// Migrations outside a transaction were started, and their end was not recorded.
    Dirty {
        /// The versions.
        versions: Vec<String>,
    },
    /// Migrations have no down.sql that can be run.
    Irreversible {
        /// Their labels.
        migrations: Vec<String>,
    },
    /// Migrations have a down.sql that does not restore the previous schema.
    IrregularDown {
        /// Their labels, each with the differences.
        migrations: Vec<String>,
    },
    /// There is something to do, but it is read-only.
    ReadOnly,
    /// Its file is also the file of another project.
    SharedFile {
        /// Which project that is.
        message: String,
        /// What to do.
        hint: String,
    },
    /// It has no ledger, but another tool keeps one. That one may know of a failure that the schema does not show.
    OtherLedger {
        /// The tool.
        tool: Tool,
        /// Its table.
        table: String,
    },
    /// Migrations have a down.sql that fails on an empty database.
    FailingDown {
        /// Their labels, each with the error.
        migrations: Vec<String>,
    },
    /// The ledger of another tool cannot be taken over.
    NotAdoptable {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The schema that it should have could not be read.
    NotCompared {
        /// Why.
        message: String,
    },
    /// Another tool's revisions do not correspond to a version of the catalog.
    UnknownRevision {
        /// The revisions.
        revisions: Vec<String>,
    },
}

impl Problem {
    pub(super) fn needs_stamp(catalog: &Catalog, position: usize) -> Self {
        Self::NeedsBaseline {
            message: format!("it has no ledger; its schema matches version {}", version(catalog, position)),
            hint: "record its version: tenantry stamp ID, or upgrade without --no-stamp".into(),
        }
    }

    pub(super) fn no_match(catalog: &Catalog, position: usize, differences: &[Difference]) -> Self {
        Self::NeedsBaseline {
            message: format!(
                "it has no ledger, and its schema matches no version; the closest is {}: {}",
                version(catalog, position),
                list_differences(differences)
            ),
            hint: "fix the schema, or record a version despite the difference: \
                   tenantry stamp ID --to VERSION --force"
                .into(),
        }
    }

    pub(super) fn ambiguous(catalog: &Catalog, positions: &[usize]) -> Self {
        let versions: Vec<_> = positions.iter().map(|position| version(catalog, *position)).collect();
        Self::NeedsBaseline {
            message: format!(
                "it has no ledger, and its schema matches more than one version: {}",
                versions.join(", ")
            ),
            hint: "choose one: tenantry stamp ID --to VERSION".into(),
        }
    }

    pub(super) fn unverifiable(catalog: &Catalog, position: usize) -> Self {
        Self::NeedsBaseline {
            message: format!(
                "the schema of {} depends on the data, so it cannot be checked",
                version(catalog, position)
            ),
            hint: "check the database, then record the version: tenantry stamp ID --to VERSION --force"
                .into(),
        }
    }

    pub(super) fn mismatch(catalog: &Catalog, position: usize, differences: &[Difference]) -> Self {
        Self::NeedsBaseline {
            message: format!(
                "its schema does not match {}: {}",
                version(catalog, position),
                list_differences(differences)
            ),
            hint: "fix the schema, or record the version despite the difference: \
                   tenantry stamp ID --to VERSION --force"
                .into(),
        }
    }

    pub(super) fn drifted(catalog: &Catalog, position: usize, differences: &[Difference]) -> Self {
        Self::Drifted {
            has_pending: position < catalog.head(),
            message: format!(
                "its schema does not match its version {}: {}",
                version(catalog, position),
                list_differences(differences)
            ),
        }
    }

    pub(super) fn changed(catalog: &Catalog, position: usize) -> Self {
        Self::Drifted {
            has_pending: position < catalog.head(),
            message: format!(
                "its schema has changed since tenantry recorded its version {}",
                version(catalog, position)
            ),
        }
    }

    /// The problem of a project that needs a schema of the reference that cannot be read.
    pub(super) fn not_compared(error: &Error) -> Vec<Self> {
        vec![Self::NotCompared { message: error.summary() }]
    }

    pub(super) fn unknown_reference() -> Self {
        Self::NeedsBaseline {
            message: "it has no ledger, and this role cannot create a schema to compare it with".into(),
            hint: "use a role that can create schemas: GRANT CREATE ON DATABASE".into(),
        }
    }

    /// Returns the problem's name in JSON. It is in snake case and never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NeedsBaseline { .. } => "needs_baseline",
            Self::Drifted { .. } => "drifted",
            Self::Edited { .. } => "edited",
            Self::Unknown { .. } => "unknown",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::BeforeSquash { .. } => "before_squash",
            Self::Dirty { .. } => "dirty",
            Self::Irreversible { .. } => "irreversible",
            Self::IrregularDown { .. } => "leads_elsewhere",
            Self::ReadOnly => "read_only",
            Self::SharedFile { .. } => "several_names",
            Self::UnknownRevision { .. } => "unknown_revision",
            Self::NotAdoptable { .. } => "not_adoptable",
            Self::OtherLedger { .. } => "other_ledger",
            Self::FailingDown { .. } => "failing_down",
            Self::NotCompared { .. } => "not_compared",
        }
    }

    /// Returns what is wrong.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NeedsBaseline { message, .. }
            | Self::SharedFile { message, .. }
            | Self::NotAdoptable { message, .. }
            | Self::Drifted { message, .. } => message.clone(),
            Self::Edited { migrations, .. } => {
                format!("migrations edited after they were applied: {}", migrations.join(", "))
            }
            Self::Unknown { versions } => {
                format!("its ledger has versions that are not in the migration set: {}", versions.join(", "))
            }
            Self::BeforeSquash { migration } => {
                format!("it has some of the migrations that {migration} replaces, but not the last one")
            }
            Self::OutOfOrder { migrations } => {
                format!("not applied, although a later version is: {}", migrations.join(", "))
            }
            Self::Dirty { versions } => {
                format!("started outside a transaction and not finished: {}", versions.join(", "))
            }
            Self::Irreversible { migrations } => {
                format!("no down.sql that can be run: {}", migrations.join(", "))
            }
            Self::IrregularDown { migrations } => {
                format!("down.sql does not restore the previous schema: {}", migrations.join("; "))
            }
            Self::OtherLedger { tool, table } => {
                format!("it has no tenantry ledger, but a ledger of {tool} ({table})")
            }
            Self::FailingDown { migrations } => {
                format!("down.sql fails on an empty database: {}", migrations.join("; "))
            }
            Self::NotCompared { message } => format!("its schema could not be compared: {message}"),
            Self::ReadOnly => "it is read-only".into(),
            Self::UnknownRevision { revisions } => {
                format!("no migration replaces the alembic revision: {}", revisions.join(", "))
            }
        }
    }

    /// Returns what to do about it, in terms of the library.
    #[must_use]
    pub fn hint(&self) -> String {
        for_library(&self.hint_for_command())
    }

    /// Returns what to do about it, in terms of the command line.
    #[must_use]
    pub fn hint_for_command(&self) -> String {
        match self {
            Self::NeedsBaseline { hint, .. }
            | Self::NotAdoptable { hint, .. }
            | Self::SharedFile { hint, .. } => hint.clone(),
            Self::Drifted { has_pending: true, .. } => {
                "see what a repair would do: tenantry schema repair ID --dry-run; or upgrade it and keep the difference: tenantry upgrade ID \
                 --allow-drift"
                    .into()
            }
            Self::Drifted { .. } => "see what a repair would do: tenantry schema repair ID --dry-run".into(),
            Self::Edited { version, .. } => format!(
                "restore the script and put the change into a new migration; or review it and record the current script: \
                 tenantry stamp ID --to {version} --force"
            ),
            Self::Unknown { .. } => {
                "other migrations were applied: check --set and --migrations; or newer code migrated it: use that code".into()
            }
            Self::BeforeSquash { .. } => {
                "upgrade it with the migrations that were replaced, then with these: --migrations DIR".into()
            }
            Self::OutOfOrder { .. } => {
                "give the migration a version after the applied ones; or, if the project has its tables already, record it: \
                 tenantry stamp ID --to VERSION --force"
                    .into()
            }
            Self::Dirty { .. } => {
                "if no run is working on it now: check the database, finish or undo the migration by hand, \
                 then record the version: tenantry stamp ID --to VERSION --force"
                    .into()
            }
            Self::Irreversible { .. } => "write the down.sql, or restore a backup".into(),
            Self::IrregularDown { .. } => {
                "fix the down.sql; or downgrade anyway and record the difference in the ledger: --allow-drift"
                    .into()
            }
            Self::ReadOnly => {
                "give the current user write permission, or exclude the project: --except".into()
            }
            Self::OtherLedger { .. } => "take it over: tenantry adopt --all, or tenantry adopt ID".into(),
            Self::FailingDown { .. } => {
                "fix the down.sql, or restore a backup; if it works with the project's rows: --allow-drift".into()
            }
            Self::NotCompared { .. } => "run the command again".into(),
            Self::UnknownRevision { .. } => "add it to replaces in a migration's metadata.toml".into(),
        }
    }
}

impl serde::Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut object = serializer.serialize_struct("Problem", 3)?;
        object.serialize_field("code", self.code())?;
        object.serialize_field("message", &self.message())?;
        object.serialize_field("hint", &self.hint_for_command())?;
        object.end()
    }
}

fn version(catalog: &Catalog, position: usize) -> String {
    catalog
        .between(0..position)
        .last()
        .map_or_else(|| "0 (an empty database)".into(), crate::catalog::Migration::label)
}

/// Joins differences for a message, at most [`SHOWN`] of them.
pub(super) fn list_differences(differences: &[Difference]) -> String {
    let mut shown: Vec<_> = differences.iter().take(SHOWN).map(ToString::to_string).collect();
    if differences.len() > SHOWN {
        shown.push(format!("and {} more", differences.len() - SHOWN));
    }
    shown.join("; ")
}
