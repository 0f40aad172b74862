//! The request that a plan carries out: upgrade, stamp, adopt or downgrade, and how far.

use crate::schema::bookkeeping::Tool;

/// What to do with a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Upgrade to a position, and never downgrade.
    Upgrade {
        /// The target position.
        to: usize,
        /// What to do with a project that has no ledger.
        baseline: IfNoLedger,
        /// What to do with a project whose schema differs from that of its version.
        drift: IfDrifted,
    },
    /// Record a position without running anything.
    Stamp {
        /// The position. `None` for the position whose schema matches.
        to: Option<usize>,
        /// Whether to record it despite a difference.
        force: bool,
    },
    /// Record the position that another tool's ledger records, without running anything.
    Adopt {
        /// The tool. `None` for the only one that has a ledger in the project.
        from: Option<Tool>,
        /// Whether to rename the tool's table.
        retire: bool,
    },
    /// Downgrade to a position.
    Downgrade {
        /// How far to downgrade.
        target: DowngradeTarget,
        /// What to do if a down.sql does not restore the previous schema.
        drift: IfDrifted,
    },
}

impl Request {
    /// Returns the request with the target position of a plan. It no longer depends on the project's current position.
    #[must_use]
    pub(crate) fn with_target(self, position: usize) -> Self {
        match self {
            Self::Downgrade { drift, .. } => {
                Self::Downgrade { target: DowngradeTarget::Position(position), drift }
            }
            Self::Upgrade { .. } | Self::Stamp { .. } | Self::Adopt { .. } => self,
        }
    }
}

/// How far to downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowngradeTarget {
    /// To this position.
    Position(usize),
    /// By this number of migrations.
    Steps(usize),
}

/// What to do with a project that has no ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfNoLedger {
    /// Record the version whose schema it has, and continue.
    Stamp,
    /// Change nothing and report a problem.
    Refuse,
}

/// What to do with a project whose schema differs from that of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfDrifted {
    /// Change nothing and report a problem.
    Refuse,
    /// Continue. An upgrade verifies that the schema differs in the same way afterwards; a downgrade accepts any schema
    /// and records that.
    Keep,
}
