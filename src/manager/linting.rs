//! Lints the catalog with the schemas that its migrations lead through.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::Manager;
use super::command::LintOptions;
use super::reporting::lock;
use crate::catalog::Migration;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Note, Outcome, ProjectReport};
use crate::lint::{Finding, RULES, Surroundings, Touches, is_rule, lint};
use crate::plan::{Reference, State};
use crate::project::ProjectId;
use crate::sql::quote_name;
use crate::workers::StopCondition;

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
        let findings = self.findings(first..self.catalog.head(), true, reference, off)?;
        Ok(Lint { findings, not_run })
    }

    /// The findings in the migrations between two positions, and in the repeatable ones.
    fn findings(
        &self,
        positions: Range<usize>,
        with_repeatables: bool,
        reference: Option<&Reference>,
        off: &BTreeSet<String>,
    ) -> Result<Vec<Finding>> {
        let head = self.catalog.head();
        let schema = |position: usize, is_complete: bool| match reference {
            Some(reference) => reference.expected(State { position, is_complete }),
            None => Ok(None),
        };
        if let Some(reference) = reference {
            reference.read(positions.start..=positions.end)?;
        }
        let mut findings = Vec::new();
        for index in positions {
            let Some(migration) = self.catalog.migrations().get(index) else { continue };
            let surroundings =
                Surroundings { before: schema(index, false)?, after: schema(index + 1, false)? };
            findings.extend(lint(migration, self.catalog.dialect(), surroundings, off));
        }
        for migration in self.catalog.repeatables().iter().filter(|_| with_repeatables) {
            let surroundings = Surroundings { before: schema(head, false)?, after: schema(head, true)? };
            findings.extend(lint(migration, self.catalog.dialect(), surroundings, off));
        }
        Ok(findings)
    }

    /// Reports how often which rule of lint warns of the migrations of a plan, as a note. Fails if that is an error for this run.
    pub(super) fn lint_plan(
        &self,
        options: &LintOptions,
        positions: Range<usize>,
        note: &mut dyn FnMut(Note),
    ) -> Result<()> {
        let findings = self.findings(positions.clone(), false, Some(self.reference()?), &options.off)?;
        if findings.is_empty() {
            return Ok(());
        }
        let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &findings {
            *rules.entry(&finding.rule).or_default() += 1;
        }
        let counts: Vec<String> = rules.iter().map(|(rule, count)| format!("{rule} ({count})")).collect();
        let message = format!("lint warns of the migrations that run: {}", counts.join(", "));
        let since = self.catalog.version_at(positions.start);
        let hint = format!("look at the warnings: tenantry migration lint --since {since}");
        if options.strict {
            return Err(Error::new(ErrorKind::Catalog, message)
                .with_hint(format!("{hint}; mend each, or allow it with a comment and a reason")));
        }
        note(Note { message, hint });
        Ok(())
    }

    /// Counts what the findings' statements will touch in the fleet: the rows of their tables, in the projects that the
    /// migrations were not applied to.
    pub fn count_touched(&self, findings: &mut [Finding]) -> Result<()> {
        let position = |finding: &Finding| self.catalog.resolve(&finding.migration).unwrap_or(usize::MAX);
        let tables: BTreeSet<&String> = findings.iter().flat_map(|it| &it.tables).collect();
        let tables: Vec<String> = tables.into_iter().cloned().collect();
        let projects = self.store.discover()?.require_complete()?;
        let mut applied: BTreeMap<ProjectId, usize> = BTreeMap::new();
        for (project, inspection) in self.inspect_all(&projects) {
            let ledger = inspection?.ledger;
            let is_applied = |it: &&Migration| ledger.is_applied(&it.version);
            applied.insert(project.clone(), self.catalog.migrations().iter().filter(is_applied).count());
        }
        let (interrupted, halted) = (&self.interrupted, AtomicBool::new(false));
        let stop = StopCondition::new(interrupted, &halted, None);
        let mut counts: BTreeMap<ProjectId, BTreeMap<String, u64>> = BTreeMap::new();
        let mut failed = None;
        let count = |project: &ProjectId| match self.count_rows_of(project, &tables) {
            Ok(rows) => ProjectReport { rows, ..ProjectReport::new(project.clone(), Outcome::Checked) },
            Err(error) => ProjectReport::new(project.clone(), Outcome::Failed(error)),
        };
        self.workers()?.for_each_project(
            &projects,
            1,
            &stop,
            count,
            |_| (),
            |report| match report.outcome {
                Outcome::Failed(error) => failed = Some(error),
                _ => drop(counts.insert(report.project, report.rows)),
            },
        );
        if let Some(error) = failed {
            return Err(error);
        }
        for finding in findings {
            let position = position(finding);
            let mut touches = Touches::default();
            for (project, counts) in counts.iter().filter(|(project, _)| applied[*project] < position) {
                let rows = finding.tables.iter().filter_map(|table| counts.get(table)).sum::<u64>();
                touches.projects += 1;
                touches.rows += rows;
                if touches.largest.is_none() || rows > touches.largest_rows {
                    (touches.largest, touches.largest_rows) = (Some(project.clone()), rows);
                }
            }
            finding.touches = (!finding.tables.is_empty()).then_some(touches);
        }
        Ok(())
    }

    /// The numbers of rows of these tables, as far as the project has them.
    fn count_rows_of(&self, project: &ProjectId, tables: &[String]) -> Result<BTreeMap<String, u64>> {
        let found = Mutex::new(BTreeMap::new());
        self.store.read(project, &|rows| {
            for table in tables {
                if rows.columns(table)?.is_empty() {
                    continue;
                }
                rows.for_each_row(&["count(*)".into()], &quote_name(table), &mut |row| {
                    let count = row.into_iter().flatten().next().and_then(|text| text.parse().ok());
                    lock(&found).insert(table.clone(), count.unwrap_or(0));
                    Ok(false)
                })?;
            }
            Ok(())
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
