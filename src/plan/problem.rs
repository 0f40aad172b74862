//! What forbids a plan, in words: a code for programs, a message and a hint for people.

use crate::catalog::Catalog;
use crate::hint::for_library;
use crate::schema::Difference;

/// How many differences a message names before it counts the rest.
const SHOWN: usize = 6;

/// One reason why a project is left alone. A project has all that apply, not the first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// It has no ledger, and its schema is not (or not allowed to be taken for) exactly one version's.
    NeedsBaseline {
        /// What was found.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Its schema is not what its ledger's version says.
    Drifted {
        /// How it differs.
        message: String,
    },
    /// Migrations were changed after they were applied.
    Edited {
        /// Their labels.
        migrations: Vec<String>,
    },
    /// Versions are applied that the catalog does not have: the code is older than the data.
    Unknown {
        /// The versions.
        versions: Vec<String>,
    },
    /// Migrations are missing below one that is applied.
    OutOfOrder {
        /// Their labels.
        migrations: Vec<String>,
    },
    /// Migrations outside a transaction were begun and are not known to have ended.
    Dirty {
        /// The versions.
        versions: Vec<String>,
    },
    /// Migrations have no down.sql.
    Irreversible {
        /// Their labels.
        migrations: Vec<String>,
    },
    /// Migrations have a down.sql that does not lead back to the schema from before.
    LeadsElsewhere {
        /// Their labels, each with where it leads.
        migrations: Vec<String>,
    },
    /// There is something to do, and its owner marked it read-only.
    ReadOnly,
    /// Its file is another project's, too.
    SeveralNames {
        /// Which.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Another tool's revisions stand for no version of the catalog.
    UnknownRevision {
        /// The revisions.
        revisions: Vec<String>,
    },
}

impl Problem {
    pub(super) fn needs_stamp(catalog: &Catalog, position: usize) -> Self {
        Self::NeedsBaseline {
            message: format!(
                "it has no ledger; its schema is that of version {}",
                version(catalog, position)
            ),
            hint: "take it over: tenantry stamp ID, or upgrade without --no-stamp".into(),
        }
    }

    pub(super) fn no_match(catalog: &Catalog, position: usize, differences: &[Difference]) -> Self {
        Self::NeedsBaseline {
            message: format!(
                "it has no ledger, and its schema is that of no version; nearest is {}: {}",
                version(catalog, position),
                listed(differences)
            ),
            hint:
                "mend the schema, or record a version in spite of it: tenantry stamp ID --to VERSION --force"
                    .into(),
        }
    }

    pub(super) fn ambiguous(catalog: &Catalog, positions: &[usize]) -> Self {
        let versions: Vec<_> = positions.iter().map(|position| version(catalog, *position)).collect();
        Self::NeedsBaseline {
            message: format!("it has no ledger, and its schema is that of {}", versions.join(" and of ")),
            hint: "say which: tenantry stamp ID --to VERSION".into(),
        }
    }

    pub(super) fn unverifiable(catalog: &Catalog, position: usize) -> Self {
        Self::NeedsBaseline {
            message: format!(
                "the schema of {} depends on the data, so it can't be checked",
                version(catalog, position)
            ),
            hint: "look at the database, then record the version: tenantry stamp ID --to VERSION --force"
                .into(),
        }
    }

    pub(super) fn mismatch(catalog: &Catalog, position: usize, differences: &[Difference]) -> Self {
        Self::NeedsBaseline {
            message: format!("its schema is not that of {}: {}", version(catalog, position), listed(differences)),
            hint: "mend the schema, or record the version in spite of it: tenantry stamp ID --to VERSION --force".into(),
        }
    }

    pub(super) fn drifted(catalog: &Catalog, position: usize, differences: &[Difference]) -> Self {
        Self::Drifted {
            message: format!(
                "its schema is not that of its version {}: {}",
                version(catalog, position),
                listed(differences)
            ),
        }
    }

    pub(super) fn changed(catalog: &Catalog, position: usize) -> Self {
        Self::Drifted {
            message: format!(
                "its schema is not what it was when tenantry recorded its version {}",
                version(catalog, position)
            ),
        }
    }

    pub(super) fn unknown_reference() -> Self {
        Self::NeedsBaseline {
            message: "it has no ledger, and this role may make no schema to compare its own with".into(),
            hint: "run as a role that may: GRANT CREATE ON DATABASE".into(),
        }
    }

    /// The problem's name in JSON: snake case, stable.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NeedsBaseline { .. } => "needs_baseline",
            Self::Drifted { .. } => "drifted",
            Self::Edited { .. } => "edited",
            Self::Unknown { .. } => "unknown",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::Dirty { .. } => "dirty",
            Self::Irreversible { .. } => "irreversible",
            Self::LeadsElsewhere { .. } => "leads_elsewhere",
            Self::ReadOnly => "read_only",
            Self::SeveralNames { .. } => "several_names",
            Self::UnknownRevision { .. } => "unknown_revision",
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NeedsBaseline { message, .. }
            | Self::SeveralNames { message, .. }
            | Self::Drifted { message } => message.clone(),
            Self::Edited { migrations } => format!("changed after it was applied: {}", migrations.join(", ")),
            Self::Unknown { versions } => {
                format!("it has versions that this code does not know: {}", versions.join(", "))
            }
            Self::OutOfOrder { migrations } => {
                format!("skipped below an applied version: {}", migrations.join(", "))
            }
            Self::Dirty { versions } => {
                format!("begun outside a transaction and never ended: {}", versions.join(", "))
            }
            Self::Irreversible { migrations } => {
                format!("without a down.sql that can be run: {}", migrations.join(", "))
            }
            Self::LeadsElsewhere { migrations } => {
                format!(
                    "its down.sql does not lead back to the schema from before: {}",
                    migrations.join("; ")
                )
            }
            Self::ReadOnly => "it is marked read-only".into(),
            Self::UnknownRevision { revisions } => {
                format!("alembic's revision stands for no version: {}", revisions.join(", "))
            }
        }
    }

    /// What to do about it, in terms of this library.
    #[must_use]
    pub fn hint(&self) -> String {
        for_library(&self.hint_for_command())
    }

    /// What to do about it, in terms of the command line.
    #[must_use]
    pub fn hint_for_command(&self) -> String {
        match self {
            Self::NeedsBaseline { hint, .. } | Self::SeveralNames { hint, .. } => hint.clone(),
            Self::Drifted { .. } => {
                "mend the schema, or upgrade it as it is, keeping the difference: --allow-drift".into()
            }
            Self::Edited { .. } => {
                "restore the script, and put the change into a new migration; or, once it is reviewed, \
                                    record the script as it is now: tenantry stamp ID --to VERSION --force"
                    .into()
            }
            Self::Unknown { .. } => "run the newer code, or give its migrations".into(),
            Self::OutOfOrder { .. } => {
                "give the skipped migration a version after the applied ones, or downgrade to below it first"
                    .into()
            }
            Self::Dirty { .. } => {
                "unless a run is at it right now: look at the database, finish or undo the migration by hand, then record where it stands: \
                 tenantry stamp ID --to VERSION --force"
                    .into()
            }
            Self::Irreversible { .. } => "write the down.sql, or go back with a backup".into(),
            Self::LeadsElsewhere { .. } => {
                "mend the down.sql; or go down all the same, and have the ledger say so: --allow-drift".into()
            }
            Self::ReadOnly => {
                "give write permission to whoever runs this, or leave the project out: --except".into()
            }
            Self::UnknownRevision { .. } => "name it in the replaces of a migration's metadata.toml".into(),
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

pub(super) fn listed(differences: &[Difference]) -> String {
    let mut shown: Vec<_> = differences.iter().take(SHOWN).map(ToString::to_string).collect();
    if differences.len() > SHOWN {
        shown.push(format!("and {} more", differences.len() - SHOWN));
    }
    shown.join("; ")
}
