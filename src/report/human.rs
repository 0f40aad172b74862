//! The report of a run for people: progress on a terminal, then groups of projects with the same result, failures
//! first, then totals.
//!
//! Keeps no reports of single projects, so the size of the output does not grow with the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::IsTerminal as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tenantry::event::{
    Coverage, Event, Halted, KilledRun, Outcome, Prediction, ProjectReport, RunStarted, Summary,
};
use tenantry::{Catalog, ProjectId, Result};

use super::Output;
use super::rehearsals::Rehearsals;
use super::text::{blocked, done, drifted, failure, one_line, sql};
use super::waves;
use super::{MAX_IDS, Verbosity, human_time};

/// The maximum number of groups. Further results are counted in one more group for each rank.
const MAX_GROUPS: usize = 100;

pub(crate) struct Human {
    output: Output,
    verbosity: Verbosity,
    catalog: String,
    progress: ProgressBar,
    started: Option<RunStarted>,
    groups: BTreeMap<Key, Group>,
    /// The number of deleted rows by table, or of rows that would be deleted.
    rows: BTreeMap<String, u64>,
    coverage: Option<Coverage>,
    rehearsals: Rehearsals,
    prediction: Option<Prediction>,
    halted: Option<Halted>,
}

/// What the projects of a group have in common. Groups are sorted by rank, failures first, then by text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    rank: Rank,
    text: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Failed,
    Blocked,
    Drifted,
    Skipped,
    NotStarted,
    Done,
    Note,
}

#[derive(Default)]
struct Group {
    count: usize,
    ids: BTreeSet<ProjectId>,
}

impl Human {
    pub(crate) fn new(verbosity: Verbosity, catalog: &Catalog) -> Self {
        let last = catalog.migrations().last();
        let head = last.map(tenantry::catalog::Migration::label).unwrap_or_default();
        Self {
            output: Output::new(),
            verbosity,
            catalog: format!("{}: newest version {head}", set_label(catalog)),
            progress: ProgressBar::hidden(),
            started: None,
            groups: BTreeMap::new(),
            rows: BTreeMap::new(),
            coverage: None,
            rehearsals: Rehearsals::default(),
            prediction: None,
            halted: None,
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        match event {
            Event::RunStarted(started) => self.run_started(started),
            Event::Skipped(it) => {
                self.count(Rank::Skipped, format!("skipped {}: {}", it.name, it.reason), None, None);
            }
            Event::StoreFailed(it) => {
                let text = format!("store {}: {}", it.store, failure(&it.error));
                let hint = it.error.hint_for_command().map(String::from);
                self.count(Rank::Failed, text, hint, None);
            }
            Event::Note(note) => self.count(Rank::Note, note.message, Some(note.hint), None),
            Event::ProjectFinished(report) => self.project_finished(&report),
            Event::KilledRun(killed) => self.killed_run(&killed),
            Event::Backups(coverage) => self.coverage = Some(coverage),
            Event::Prediction(prediction) => self.prediction = Some(prediction),
            Event::Waves(it) => {
                let is_dry_run = self.started.as_ref().is_some_and(|started| started.dry_run);
                self.say(&waves::waves(&it, is_dry_run));
            }
            Event::WaveStarted(it) => self.say(&waves::started(&it)),
            Event::WavePaused(it) => self.say(&waves::paused(&it)),
            Event::WaveFinished(it) => {
                if let Some(text) = waves::finished(&it) {
                    self.say(&text);
                }
            }
            Event::Halted(halted) => self.halted = Some(halted),
            Event::RunFinished(summary) => self.run_finished(&summary),
            // `Event` is non-exhaustive. The JSON format covers new variants.
            _ => {}
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.output.finish()
    }

    fn run_started(&mut self, started: RunStarted) {
        if std::io::stderr().is_terminal() && self.verbosity == Verbosity::Normal && started.projects > 1 {
            let template = "{bar:30} {pos}/{len} {rate} eta {eta} {msg}";
            self.progress = ProgressBar::new(started.projects as u64).with_message("planning");
            self.progress.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.progress.set_style(style.with_key(
                    "rate",
                    |state: &ProgressState, to: &mut dyn fmt::Write| {
                        // Progress that cannot be drawn is not an error.
                        let _ = write!(to, "{:.0}/s", state.per_sec());
                    },
                ));
            }
            self.progress.enable_steady_tick(Duration::from_millis(200));
        }
        if self.verbosity != Verbosity::Quiet {
            self.output.line(format_args!("{}", started.store));
            self.output.line(format_args!("{}", self.catalog));
            if started.resumed {
                self.output.line(format_args!("going on with run {}", started.run));
            }
            if started.dry_run && !started.read_only {
                let name = if started.command == "rehearse" { "rehearsal" } else { "dry run" };
                self.output.line(format_args!("{name}: nothing is changed"));
            }
        }
        self.started = Some(started);
    }

    /// Says something while the run goes on.
    fn say(&mut self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            let output = &mut self.output;
            self.progress.suspend(|| {
                output.line(format_args!("{text}"));
                output.flush();
            });
        }
    }

    fn project_finished(&mut self, report: &ProjectReport) {
        if !self.progress.message().is_empty() {
            // Planning is finished. From here on, the rate is that of the execution.
            self.progress.set_message("");
            self.progress.reset_eta();
        }
        self.progress.inc(1);
        let project = &report.project;
        let (command, is_dry_run) = self.started.as_ref().map_or(("", false), |it| (it.command, it.dry_run));
        if self.verbosity == Verbosity::Verbose {
            let line = format!("{project}: {} ({})", one_line(report, command), human_time(report.elapsed));
            let output = &mut self.output;
            self.progress.suspend(|| output.line(format_args!("{line}")));
        }
        if self.verbosity == Verbosity::Verbose || self.started.as_ref().is_some_and(|it| it.projects == 1) {
            let output = &mut self.output;
            self.progress.suspend(|| {
                for step in &report.steps {
                    output.line(format_args!("  level {}: {}", step.level, step.found));
                }
                for line in report.rehearsal.iter().flat_map(super::rehearsals::details) {
                    output.line(format_args!("  {line}"));
                }
            });
        }
        match &report.outcome {
            Outcome::Failed(error) => {
                self.count(
                    Rank::Failed,
                    failure(error),
                    error.hint_for_command().map(String::from),
                    Some(project),
                );
            }
            Outcome::Blocked(problems) => {
                for problem in problems {
                    let text = blocked(problem);
                    self.count(Rank::Blocked, text, Some(problem.hint_for_command()), Some(project));
                }
            }
            Outcome::Drifted(differences) => {
                let mut text = drifted(report, differences);
                if !report.sql.is_empty() {
                    let verb = if is_dry_run { "would repair" } else { "repaired" };
                    text = format!("{text}\n        {verb} the rest by:{}", sql(report));
                }
                self.count(Rank::Drifted, text, None, Some(project));
            }
            Outcome::NotStarted => self.count(Rank::NotStarted, "not started".into(), None, Some(project)),
            Outcome::Repaired | Outcome::Planned if !report.sql.is_empty() => {
                let text = format!("{}, by:{}", done(report, command), sql(report));
                self.count(Rank::Done, text, None, Some(project));
            }
            _ => self.count(Rank::Done, done(report, command), None, Some(project)),
        }
        for (table, rows) in &report.rows {
            *self.rows.entry(table.clone()).or_default() += rows;
        }
        if let Some(rehearsal) = &report.rehearsal {
            self.rehearsals.add(project, rehearsal);
        }
        for note in &report.notes {
            self.count(Rank::Note, note.clone(), None, Some(project));
        }
    }

    fn count(&mut self, rank: Rank, text: String, hint: Option<String>, project: Option<&ProjectId>) {
        let mut key = Key { rank, text, hint };
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            key = Key { rank, text: "other results: see --verbose or --format json".into(), hint: None };
        }
        let group = self.groups.entry(key).or_default();
        group.count += 1;
        if let Some(project) = project {
            group.ids.insert(project.clone());
            if group.ids.len() > MAX_IDS {
                group.ids.pop_last();
            }
        }
    }

    fn run_finished(&mut self, summary: &Summary) {
        self.progress.finish_and_clear();
        let groups = std::mem::take(&mut self.groups);
        for (key, group) in groups {
            if self.verbosity == Verbosity::Quiet && key.rank > Rank::Skipped {
                continue;
            }
            self.group(&key, &group);
        }
        if !self.rows.is_empty() && self.verbosity != Verbosity::Quiet {
            let verb = if self.started.as_ref().is_some_and(|it| it.dry_run) {
                "total of rows to delete"
            } else {
                "total of rows deleted"
            };
            let counts: Vec<_> = self.rows.iter().map(|(table, rows)| format!("{rows} of {table}")).collect();
            self.output.line(format_args!("\n{verb}: {}", counts.join(", ")));
        }
        if let Some(totals) = self.rehearsals.totals().filter(|_| self.verbosity != Verbosity::Quiet) {
            self.output.line(format_args!("\n{totals}"));
        }
        if let Some(it) = self.prediction.take().filter(|_| self.verbosity != Verbosity::Quiet) {
            self.output.line(format_args!("{}", super::rehearsals::predicted(&it)));
        }
        if let Some(coverage) = self.coverage.take().filter(|_| self.verbosity != Verbosity::Quiet) {
            self.coverage(&coverage);
        }
        if summary.outcomes.total() == 0 {
            self.output.line(format_args!("no project found"));
        } else if self.verbosity != Verbosity::Quiet {
            let is_status = self.started.as_ref().is_some_and(|it| it.command == "status");
            let label = |name: &str| match name {
                "planned" if is_status => "pending".to_string(),
                "rows_deleted" => "with rows deleted".into(),
                _ => name.replace('_', " "),
            };
            let counts: Vec<_> =
                summary.outcomes.iter().map(|(name, count)| format!("{count} {}", label(name))).collect();
            let total = summary.outcomes.total();
            let noun = if total == 1 { "project" } else { "projects" };
            let end = if summary.interrupted { ", interrupted" } else { "" };
            let predicted = summary.predicted.map(|it| format!(", predicted {}", human_time(it)));
            self.output.line(format_args!(
                "\n{total} {noun}: {}{end} ({}{})",
                counts.join(", "),
                human_time(summary.elapsed),
                predicted.unwrap_or_default()
            ));
        }
        if let Some(halted) = self.halted.take() {
            let (text, hint) = waves::halted(&halted);
            let red = AnsiColor::Red.on_default().bold();
            self.output.line(format_args!("{red}{text}{red:#}"));
            if let Some(hint) = hint {
                self.output.line(format_args!("        hint: {}", super::with_given_options(&hint)));
            }
        }
    }

    fn killed_run(&mut self, run: &KilledRun) {
        let KilledRun { run: killed, command, moved, gone: dropped, unread, .. } = run;
        let dropped =
            if dropped.is_empty() { String::new() } else { format!(" and dropped {}", dropped.len()) };
        let unread =
            if unread.is_empty() { String::new() } else { format!("; {} cannot be read now", unread.len()) };
        if moved.is_empty() && dropped.is_empty() && unread.is_empty() {
            self.output.line(format_args!(
                "an earlier {command} was killed; its record is complete: tenantry runs show {killed}"
            ));
            return;
        }
        self.output.line(format_args!(
            "an earlier {command} was killed: according to the ledgers it changed {} project(s){dropped} without \
             recording it{unread}; see tenantry runs show {killed}",
            moved.len()
        ));
    }

    fn coverage(&mut self, coverage: &Coverage) {
        let Coverage { projects, without, verified_in_7_days, oldest_unverified, .. } = coverage;
        let output = &mut self.output;
        output.line(format_args!(
            "\n{verified_in_7_days} of {projects} projects have a backup that was restored and compared in the last \
             7 days"
        ));
        if !without.is_empty() {
            let ids: Vec<_> = without.iter().take(MAX_IDS).map(ToString::to_string).collect();
            let more = if without.len() > MAX_IDS { ", ..." } else { "" };
            output.line(format_args!("{} without a backup: {}{more}", without.len(), ids.join(", ")));
        }
        if let Some(oldest) = oldest_unverified {
            output.line(format_args!("oldest backup that was never restored and compared: {oldest}"));
        }
    }

    fn group(&mut self, key: &Key, group: &Group) {
        let (style, label) = match key.rank {
            Rank::Failed => (AnsiColor::Red.on_default().bold(), "FAILED "),
            Rank::Blocked => (AnsiColor::Yellow.on_default().bold(), "BLOCKED "),
            Rank::Drifted => (AnsiColor::Yellow.on_default().bold(), "DRIFTED "),
            Rank::NotStarted | Rank::Skipped | Rank::Note => (AnsiColor::Yellow.on_default(), ""),
            Rank::Done => (Style::new(), ""),
        };
        let mut ids: Vec<_> = group.ids.iter().map(ToString::to_string).collect();
        if group.count > ids.len() && !ids.is_empty() {
            ids.push(format!("and {} more", group.count - ids.len()));
        }
        let note = if key.rank == Rank::Note { "note: " } else { "" };
        self.output.line(format_args!(
            "\n{:>6}  {style}{label}{style:#}{note}{}",
            group.count,
            super::with_given_options(&key.text)
        ));
        if !ids.is_empty() {
            self.output.line(format_args!("        {}", ids.join(", ")));
        }
        if let Some(hint) = &key.hint {
            self.output.line(format_args!("        hint: {}", super::with_given_options(hint)));
        }
    }
}

/// Names a migration set of the binary, or a folder of migrations.
fn set_label(catalog: &Catalog) -> String {
    match catalog.folder() {
        Some(folder) => format!("migrations in {}", folder.display()),
        None => format!("migration set {}", catalog.name()),
    }
}
