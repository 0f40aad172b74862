//! What a report says about one project, for people. Projects with the same text form one group.

use tenantry::catalog::Version;
use tenantry::event::{Difference, Outcome, Problem, ProjectReport};
use tenantry::{Error, ErrorKind};

/// Formats an error without its project, so that projects with the same error form one group.
pub(super) fn failure(error: &Error) -> String {
    let kind = match error.kind() {
        // The message says the same.
        ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::ReadOnly | ErrorKind::Blocked => {
            String::new()
        }
        kind => format!("{}: ", kind.code().replace('_', " ")),
    };
    let migration = error.migration().map(|migration| format!("{migration}: ")).unwrap_or_default();
    format!("{kind}{migration}{}", error.summary())
}

/// Formats a problem.
pub(super) fn blocked(problem: &Problem) -> String {
    match problem {
        // The message says the same.
        Problem::ReadOnly
        | Problem::SharedFile { .. }
        | Problem::IrregularDown { .. }
        | Problem::FailingDown { .. }
        | Problem::OtherLedger { .. }
        | Problem::Edited { .. } => problem.message(),
        Problem::NeedsBaseline { .. } => format!("version unknown: {}", problem.message()),
        problem => format!("{}: {}", problem.code().replace('_', " "), problem.message()),
    }
}

/// Formats a report as one line, without its project.
pub(super) fn one_line(report: &ProjectReport, command: &str) -> String {
    match &report.outcome {
        Outcome::Failed(error) => format!("FAILED {}", failure(error)),
        Outcome::Blocked(problems) => {
            format!("BLOCKED {}", problems.iter().map(Problem::message).collect::<Vec<_>>().join("; "))
        }
        Outcome::Drifted(differences) => {
            format!("DRIFTED {}", drifted(report, differences).replace("\n        ", " "))
        }
        Outcome::NotStarted => "not started".into(),
        _ => done(report, command),
    }
}

/// Formats the differences of a project's schema, each on its own line.
pub(super) fn drifted(report: &ProjectReport, differences: &[Difference]) -> String {
    let version = report.to.as_ref().map_or("0", Version::as_str);
    let mut text = format!("from {version}:");
    for difference in differences {
        text.push_str("\n        ");
        text.push_str(&difference.to_string());
    }
    text
}

/// The statements of a repair, each on lines of its own.
pub(super) fn sql(report: &ProjectReport) -> String {
    let lines = report.sql.iter().flat_map(|sql| sql.lines().collect::<Vec<_>>().into_iter().chain([";"]));
    let mut text = String::new();
    for line in lines {
        if line != ";" {
            text.push_str("\n          ");
        }
        text.push_str(line);
    }
    text
}

/// Formats what was done with a project, or would be done.
pub(super) fn done(report: &ProjectReport, command: &str) -> String {
    let version = |version: &Option<Version>| version.as_ref().map_or("0", Version::as_str).to_string();
    let list = |versions: &[Version]| versions.iter().map(Version::as_str).collect::<Vec<_>>().join(", ");
    let [record, run] = match (&report.outcome, report.goes_down) {
        (Outcome::Planned, true) => ["would record", "would revert"],
        (Outcome::Planned | Outcome::Rehearsed, false) => ["would record", "would run"],
        (_, true) => ["recorded", "reverted"],
        (_, false) => ["recorded", "ran"],
    };
    let mut parts = Vec::new();
    if let Some(stamped) = &report.stamped {
        parts.push(format!("{record} {stamped}"));
    }
    if !report.migrations.is_empty() {
        parts.push(format!("{run} {}", list(&report.migrations)));
    }
    match report.outcome {
        Outcome::UpToDate if report.to.is_none() => "nothing to do".into(),
        // A project can be at this version and still have pending migrations.
        Outcome::UpToDate if matches!(command, "stamp" | "adopt") => {
            format!("already at {}", version(&report.to))
        }
        Outcome::UpToDate => format!("at {}, nothing to do", version(&report.to)),
        Outcome::Rehearsed => format!("would succeed at {}: {}", version(&report.from), parts.join(" and ")),
        Outcome::AsExpected => format!("as expected at {}", version(&report.to)),
        Outcome::Repaired => format!("repaired, as expected at {}", version(&report.to)),
        Outcome::Planned if command == "schema repair" => "would be repaired".into(),
        Outcome::RowsDeleted => "old rows deleted".into(),
        Outcome::Checked => "all checks passed".into(),
        Outcome::BackedUp => "backed up".into(),
        Outcome::Verified => {
            let level = report.steps.iter().map(|step| step.level).max().unwrap_or_default();
            format!("backup verified at level {level}")
        }
        Outcome::Restored => "restored".into(),
        Outcome::Pruned => "backups removed".into(),
        Outcome::Analyzed => "analyzed".into(),
        Outcome::Vacuumed => "vacuumed".into(),
        Outcome::Adopted => format!("adopted at {}", version(&report.to)),
        Outcome::Planned if command == "adopt" => format!("would be adopted at {}", version(&report.to)),
        Outcome::Planned if !report.rows.is_empty() => "has old rows to delete".into(),
        Outcome::Planned if report.to.is_none() => match command {
            "backup restore" => "would be restored",
            "backup prune" => "would remove backups",
            "vacuum" => "would be vacuumed",
            "analyze" => "would be analyzed",
            _ => "would be done",
        }
        .into(),
        // A rollback by a backup runs no migration.
        Outcome::Planned if parts.is_empty() => {
            format!("would go back from {} to {}", version(&report.from), version(&report.to))
        }
        Outcome::Created => format!("created at {}", version(&report.to)),
        Outcome::Dropped => "dropped".into(),
        _ if report.from.is_none() => format!("no ledger: {}", parts.join(" and ")),
        Outcome::Planned => format!("at {}: {}", version(&report.from), parts.join(" and ")),
        _ => format!("{}; now at {}", parts.join(" and "), version(&report.to)),
    }
}
