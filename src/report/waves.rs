//! What a report says about the waves of an upgrade, for people.

use tenantry::event::{HaltReason, Halted, WaveFinished, WavePaused, WaveStarted, Waves};

use super::{MAX_IDS, human_time};

/// The waves. A dry run also names their projects.
pub(super) fn waves(event: &Waves, is_dry_run: bool) -> String {
    let Waves { order, first, waves, .. } = event;
    let count = first + waves.len() - 1;
    let mut lines = vec![format!("waves: {count}, order {order}")];
    if !is_dry_run {
        return lines.remove(0);
    }
    for (number, projects) in (*first..).zip(waves) {
        let mut ids: Vec<String> = projects.iter().take(MAX_IDS).map(ToString::to_string).collect();
        if projects.len() > MAX_IDS {
            ids.push(format!("and {} more", projects.len() - MAX_IDS));
        }
        let ids = ids.join(", ");
        lines.push(format!("  wave {number} of {count}, {}: {ids}", projects_text(projects.len())));
    }
    if order.starts_with("random:") {
        lines.push(format!("  to have the same waves in the run: --order {order}"));
    }
    lines.join("\n")
}

pub(super) fn started(event: &WaveStarted) -> String {
    format!("wave {} of {}: {}", event.wave, event.waves, projects_text(event.projects))
}

pub(super) fn paused(event: &WavePaused) -> String {
    format!("wave {} is done; waiting for {}", event.wave, human_time(event.duration))
}

pub(super) fn finished(event: &WaveFinished) -> Option<String> {
    event.gate.as_ref().map(|_| format!("wave {}: the gate passed", event.wave))
}

/// Why a run stopped, and what to do next.
pub(super) fn halted(event: &Halted) -> (String, Option<String>) {
    let Halted { run, wave, waves, reason, recorded, .. } = event;
    let place = if *waves > 1 { format!(" in wave {wave} of {waves}") } else { String::new() };
    let reason = match reason {
        HaltReason::Failures { failures, limit } => {
            format!("{} failed, and the limit is {limit}", projects_text(*failures))
        }
        HaltReason::Gate { gate } => {
            let code = gate.code.map_or("by a signal".into(), |code| format!("with exit code {code}"));
            let lines = [format!("the gate ended {code}")].into_iter();
            lines.chain(gate.output.lines().map(String::from)).collect::<Vec<_>>().join("\n        ")
        }
        HaltReason::Unplanned { projects } => {
            format!("{} cannot be upgraded, and all or none were to be", projects_text(*projects))
        }
        HaltReason::Interrupted => "it was interrupted".into(),
        HaltReason::Journal => "its record cannot be written".into(),
        _ => "see --format json".into(),
    };
    let hint = recorded
        .then(|| format!("to go on: tenantry runs resume {run}; to go back: tenantry runs rollback {run}"));
    (format!("halted{place}: {reason}"), hint)
}

fn projects_text(count: usize) -> String {
    if count == 1 { "1 project".into() } else { format!("{count} projects") }
}
