//! Takes over the ledger of another migration tool: finds the version that it records, and verifies the tool's checksums
//! against the files, and the schema against that version.

use super::{Adoption, Plan, Planner, Problem, Stamp, State};
use crate::catalog::ChecksumMatch;
use crate::ledger::other::{OtherLedger, OtherRow, RowState, algorithm};
use crate::schema::bookkeeping::{RETIRED, Tool};

impl Planner<'_> {
    pub(super) fn adopt(&self, from: Option<Tool>, retire: bool) -> Result<Plan, Vec<Problem>> {
        let ledger = &self.inspection.ledger;
        if !ledger.is_empty() {
            return self.already_adopted(retire);
        }
        let other = self.choose(from)?;
        let position = self.adopted_position(other)?;
        let mut notes = self.compare_files(other, position)?;
        let repeatables = self.adopted_repeatables(other)?;
        let all_repeatables = self.catalog.repeatables().len();
        let is_complete = position == self.catalog.head() && repeatables.len() == all_repeatables;
        let state = State { position, is_complete };
        self.check_state(state)?;
        if position == 0 {
            return Ok(Plan::nothing(0, notes));
        }
        if all_repeatables > 0 {
            notes.push(format!(
                "{} of {all_repeatables} repeatable migrations were run with their present text",
                repeatables.len()
            ));
        }
        notes.extend(self.notes(state)?);
        notes.push(match &other.table {
            Some(table) if retire => renaming_note(other.tool, table),
            Some(table) => format!(
                "{}'s table {table} stays, and is not kept up to date from now on; --retire renames it",
                other.tool
            ),
            None => format!("{}'s number stays, and is not kept up to date from now on", other.tool),
        });
        Ok(Plan {
            stamp: Some(Stamp { position, repeatables, forced: false }),
            adoption: Some(Adoption {
                retired_tables: other.table.clone().filter(|_| retire).into_iter().collect(),
            }),
            ..Plan::nothing(position, notes)
        })
    }

    /// The plan for a project that has a ledger of tenantry's: at most, the other tools' tables are renamed.
    fn already_adopted(&self, retire: bool) -> Result<Plan, Vec<Problem>> {
        let (position, mut notes) = self.position()?;
        if self.inspection.ledger.history.is_empty() {
            notes
                .push("diesel's table is part of tenantry's ledger, so there is nothing to take over".into());
        }
        let mut adoption = None;
        if retire {
            let ledgers = &self.inspection.other_ledgers;
            let tables: Vec<_> = ledgers.iter().filter_map(|it| Some((it.tool, it.table.clone()?))).collect();
            notes.extend(tables.iter().map(|(tool, table)| renaming_note(*tool, table)));
            let retired_tables: Vec<_> = tables.into_iter().map(|(_, table)| table).collect();
            adoption = (!retired_tables.is_empty()).then_some(Adoption { retired_tables });
        }
        Ok(Plan { recorded_position: Some(position), adoption, ..Plan::nothing(position, notes) })
    }

    /// Returns the only ledger of another tool, or the one of the tool that was named.
    fn choose(&self, from: Option<Tool>) -> Result<&OtherLedger, Vec<Problem>> {
        match self.inspection.other_ledgers.as_slice() {
            [ledger] => Ok(ledger),
            [] => Err(vec![Problem::NotAdoptable {
                message: match from {
                    Some(tool) => format!("it has no ledger of {tool}"),
                    None => "it has no ledger of a tool that tenantry knows".into(),
                },
                hint: match self.inspection.schema.as_ref().and_then(|schema| schema.other_ledgers().first())
                {
                    Some((tool, _)) => format!("it has one of {tool}: tenantry adopt ID --from {tool}"),
                    None => "record the version that its schema matches: tenantry stamp ID".into(),
                },
            }]),
            several => {
                let tools: Vec<&str> = several.iter().map(|ledger| ledger.tool.name()).collect();
                Err(vec![Problem::NotAdoptable {
                    message: format!("it has the ledgers of {}", tools.join(" and ")),
                    hint: "name the tool that is in use: tenantry adopt ID --from TOOL".into(),
                }])
            }
        }
    }

    /// Returns the position that another tool's ledger records. Fails unless each of its rows is complete, is a migration
    /// of the catalog, and follows directly on those before it.
    fn adopted_position(&self, other: &OtherLedger) -> Result<usize, Vec<Problem>> {
        let tool = other.tool;
        let describe = |row: &OtherRow| match &row.state {
            RowState::Broken(what) => Some(format!("{}: {what}", row.migration)),
            RowState::Applied | RowState::Baseline | RowState::NotApplied | RowState::Repeatable => None,
        };
        let broken: Vec<String> = other.rows.iter().filter_map(describe).collect();
        if !broken.is_empty() {
            return Err(vec![Problem::NotAdoptable {
                message: format!(
                    "{tool}'s ledger records what tenantry cannot take over: {}",
                    broken.join(", ")
                ),
                hint: format!(
                    "complete it with {tool} first; or check the database, then record its version: tenantry stamp ID --to VERSION"
                ),
            }]);
        }
        let is_applied = |row: &&OtherRow| row.state == RowState::Applied;
        let (mut positions, mut unknown) = (Vec::new(), Vec::new());
        for row in &other.rows {
            if row.state == RowState::Baseline {
                positions.extend(1..=OtherLedger::position_of_baseline(row, self.catalog));
            }
        }
        for row in other.rows.iter().filter(is_applied) {
            match other.position(row, self.catalog) {
                Some(position) => positions.push(position),
                None => unknown.push(row.migration.clone()),
            }
        }
        if !unknown.is_empty() {
            return Err(vec![unknown_migrations(tool, &unknown)]);
        }
        let position = positions.iter().copied().max().unwrap_or(0);
        let missing: Vec<String> = (1..=position)
            .filter(|it| !other.records_newest_only() && !positions.contains(it))
            .map(|it| self.catalog.version_at(it).to_string())
            .collect();
        if missing.is_empty() {
            return Ok(position);
        }
        Err(vec![Problem::NotAdoptable {
            message: format!("{tool}'s ledger has a later migration, but not {}", missing.join(", ")),
            hint: format!("apply it with {tool} first"),
        }])
    }

    /// Returns the repeatable migrations that the tool has run with their present text, by their indices.
    fn adopted_repeatables(&self, other: &OtherLedger) -> Result<Vec<usize>, Vec<Problem>> {
        let (mut current, mut unknown) = (Vec::new(), Vec::new());
        for row in other.rows.iter().filter(|row| row.state == RowState::Repeatable) {
            match OtherLedger::repeatable(row, self.catalog) {
                None => unknown.push(row.migration.clone()),
                Some((index, ChecksumMatch::Same | ChecksumMatch::LineEndings)) => current.push(index),
                // It will be run again.
                Some((_, ChecksumMatch::Edited)) => {}
            }
        }
        if unknown.is_empty() { Ok(current) } else { Err(vec![unknown_migrations(other.tool, &unknown)]) }
    }

    /// Compares the tool's checksums with the files. Returns notes. Fails if a file was edited.
    fn compare_files(&self, other: &OtherLedger, position: usize) -> Result<Vec<String>, Vec<Problem>> {
        let (mut same, mut line_endings, mut edited) = (0, Vec::new(), Vec::new());
        for row in other.rows.iter().filter(|row| row.state == RowState::Applied) {
            let Some(index) = other.position(row, self.catalog).map(|it| it - 1) else { continue };
            let Some(migration) = self.catalog.migrations().get(index) else { continue };
            match other.compare(row, self.catalog, index) {
                Some(ChecksumMatch::Same) => same += 1,
                Some(ChecksumMatch::LineEndings) => line_endings.push(migration.label()),
                Some(ChecksumMatch::Edited) => edited.push(migration.up.path().display().to_string()),
                None => {}
            }
        }
        let tool = other.tool;
        if !edited.is_empty() {
            // Atlas' hash of a file covers those before it, too.
            edited.truncate(if tool == Tool::Atlas { 1 } else { usize::MAX });
            return Err(vec![Problem::NotAdoptable {
                message: format!(
                    "edited after it was applied, {tool}'s checksum ({}) differs: {}",
                    algorithm(tool),
                    edited.join(", ")
                ),
                hint: "restore the file as it was applied".into(),
            }]);
        }
        let mut notes = vec![match same + line_endings.len() {
            0 => format!("{tool}'s ledger records {position} of {} migrations", self.catalog.head()),
            checked => format!(
                "{tool}'s ledger records {position} of {} migrations, and its checksums ({checked}) are those of the files",
                self.catalog.head()
            ),
        }];
        if !line_endings.is_empty() {
            notes.push(format!(
                "the line endings differ from those when it was applied: {}",
                line_endings.join(", ")
            ));
        }
        Ok(notes)
    }
}

fn unknown_migrations(tool: Tool, unknown: &[String]) -> Problem {
    Problem::NotAdoptable {
        message: format!(
            "{tool}'s ledger has migrations that the catalog does not have: {}",
            unknown.join(", ")
        ),
        hint: match tool {
            Tool::Alembic | Tool::Liquibase => "list each in the replaces of a migration's metadata.toml",
            Tool::Drizzle => {
                "drizzle records the SHA-256 of each file: restore the file that was edited, or name the right folder: \
                 --migrations DIR"
            }
            _ => "use the folder of migrations that this database was made with: --migrations DIR",
        }
        .into(),
    }
}

fn renaming_note(tool: Tool, table: &str) -> String {
    format!("{tool}'s table {table} gets the name {table}{RETIRED}")
}
