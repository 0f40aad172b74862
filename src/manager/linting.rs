//! Lints the catalog with the schemas that its migrations lead through.

use std::collections::BTreeSet;

use super::Manager;
use crate::error::{Error, ErrorKind, Result};
use crate::lint::{Finding, RULES, Surroundings, is_rule, lint};
use crate::plan::State;

/// The result of [`Manager::lint`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Lint {
    /// What was found.
    pub findings: Vec<Finding>,
    /// Why the migrations could not be run on an empty database, if so. Then the rules that compare schemas found nothing.
    pub not_run: Option<Error>,
}

impl Manager {
    /// Lints the migrations after a version, or all of them, and the repeatable ones. `off` are the names of rules that are
    /// switched off. Without a server to run the migrations on, the rules that compare schemas find nothing.
    ///
    /// Fails with [`ErrorKind::Catalog`] if a migration fails on an empty database, and with [`ErrorKind::Usage`] for an
    /// unknown version or rule.
    pub fn lint(&self, since: Option<&str>, off: &BTreeSet<String>) -> Result<Lint> {
        if let Some(unknown) = off.iter().find(|rule| !is_rule(rule)) {
            let names = RULES.map(|(name, _)| name);
            return Err(Error::new(ErrorKind::Usage, format!("there is no rule {unknown:?}")).with_hint(
                format!("tenantry's rules are {}; those for Postgres are squawk's", names.join(", ")),
            ));
        }
        let first = since.map(|version| self.catalog.resolve(version)).transpose()?.unwrap_or(0);
        let (reference, not_run) = match self.reference() {
            Ok(reference) => (Some(reference), None),
            Err(error) if error.kind() == ErrorKind::Catalog => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let head = self.catalog.head();
        let schema = |position: usize, is_complete: bool| match reference {
            Some(reference) => reference.expected(State { position, is_complete }),
            None => Ok(None),
        };
        if let Some(reference) = reference {
            reference.read(first..=head)?;
        }
        let mut findings = Vec::new();
        for (index, migration) in self.catalog.migrations().iter().enumerate().skip(first) {
            let surroundings =
                Surroundings { before: schema(index, false)?, after: schema(index + 1, false)? };
            findings.extend(lint(migration, self.catalog.dialect(), surroundings, off));
        }
        for migration in self.catalog.repeatables() {
            let surroundings = Surroundings { before: schema(head, false)?, after: schema(head, true)? };
            findings.extend(lint(migration, self.catalog.dialect(), surroundings, off));
        }
        Ok(Lint { findings, not_run })
    }
}
