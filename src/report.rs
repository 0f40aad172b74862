//! The output of the command: data on standard output, messages on standard error. A closed output does not stop a run.

mod human;
mod rehearsals;
mod text;
mod waves;

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use tenantry::event::Event;
use tenantry::{Catalog, Error, ErrorKind, Result};

/// The maximum number of ids listed in a group.
const MAX_IDS: usize = 12;

/// The format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Groups and totals, for people
    Human,
    /// One JSON object per line
    Json,
}

/// The amount of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Only failures.
    Quiet,
    /// Groups of projects.
    Normal,
    /// Every project on its own line.
    Verbose,
}

/// Standard output. Keeps the first write error and reports it at the end, so that a run continues without a reader.
pub(crate) struct Output {
    stream: anstream::AutoStream<io::StdoutLock<'static>>,
    failure: Option<io::Error>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { stream: anstream::stdout().lock(), failure: None }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) {
        let result = writeln!(self.stream, "{line}");
        self.keep(result);
    }

    /// Passes on what was written so far.
    pub(crate) fn flush(&mut self) {
        let result = self.stream.flush();
        self.keep(result);
    }

    /// Writes bytes unchanged.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let result = self.stream.write_all(bytes);
        self.keep(result);
    }

    /// Writes a value as one line of JSON, and flushes.
    pub(crate) fn json(&mut self, value: &impl Serialize) {
        let text = serde_json::to_string(value).map_err(io::Error::from);
        let result = text.and_then(|text| writeln!(self.stream, "{text}")).and_then(|()| self.stream.flush());
        self.keep(result);
    }

    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
    }

    /// Flushes, and returns the first write error. A closed pipe is not an error, since readers such as `head` close
    /// it.
    pub(crate) fn finish(mut self) -> Result<()> {
        let result = self.stream.flush();
        self.keep(result);
        match self.failure {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::new(ErrorKind::Io, "cannot write the report")
                    .caused_by(error)
                    .with_hint("changes that were made remain"))
            }
            _ => Ok(()),
        }
    }
}

/// Writes the events of a run as they occur.
pub(crate) enum Reporter {
    /// Groups and totals.
    Human(Box<human::Human>),
    /// One line of JSON per event.
    Json(Output),
}

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    #[serde(flatten)]
    event: &'a Event,
}

impl Reporter {
    pub(crate) fn new(format: Format, verbosity: Verbosity, catalog: &Catalog) -> Self {
        match format {
            Format::Human => Self::Human(Box::new(human::Human::new(verbosity, catalog))),
            Format::Json => Self::Json(Output::new()),
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        match self {
            Self::Human(human) => human.event(event),
            Self::Json(output) => output.json(&Line { v: 1, event: &event }),
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Human(human) => human.finish(),
            Self::Json(output) => output.finish(),
        }
    }
}

/// The commands' names, and the options that the user gave and that a command in a hint needs as well.
static GIVEN: OnceLock<(Vec<String>, String)> = OnceLock::new();

/// Sets the options to repeat in the commands of hints and notes, such as `--store sqlite:customers`.
pub(crate) fn repeat_options(commands: Vec<String>, options: String) {
    // A process runs one command, so this is called once.
    let _ = GIVEN.set((commands, options));
}

/// Returns a text whose commands can be copied: they repeat the options that the user gave.
fn with_given_options(text: &str) -> String {
    match GIVEN.get() {
        Some((commands, options)) if !options.is_empty() => insert_options(text, commands, options),
        _ => text.into(),
    }
}

fn insert_options(text: &str, commands: &[String], options: &str) -> String {
    const PROGRAM: &str = "tenantry ";
    let mut parts = text.split(PROGRAM);
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        result.push_str(PROGRAM);
        let word = part.split(|it: char| !it.is_ascii_lowercase() && it != '-').next().unwrap_or_default();
        if commands.iter().any(|command| command == word) {
            result.push_str(options);
            result.push(' ');
        }
        result.push_str(part);
    }
    result
}

/// Formats a duration.
fn human_time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0),
    }
}

/// Writes a message to standard error.
pub(crate) fn note(message: fmt::Arguments<'_>) {
    // If standard error is closed, there is no other channel to report it on.
    let _ = writeln!(anstream::stderr().lock(), "{message}");
}

/// Writes the error that a command failed with, its causes and its hint.
pub(crate) fn fatal(error: &Error, format: Format) {
    let (red, dim) = (AnsiColor::Red.on_default().bold(), Style::new().dimmed());
    note(format_args!("{red}error:{red:#} {error}"));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        note(format_args!("{dim}caused by:{dim:#} {cause}"));
        source = cause.source();
    }
    if let Some(hint) = error.hint_for_command() {
        note(format_args!("{dim}hint:{dim:#} {}", with_given_options(hint)));
    }
    if format == Format::Json {
        let mut output = Output::new();
        output.json(&json!({
            "v": 1, "event": "error", "kind": error.kind().code(), "message": error.summary(),
            "project": error.project(), "migration": error.migration(), "line": error.line(),
            "hint": error.hint_for_command(),
        }));
        // The error is already on standard error.
        let _ = output.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::insert_options;

    #[test]
    fn commands_repeat_the_given_options_and_other_words_do_not() {
        let commands = ["stamp".to_string(), "upgrade-all".into()];
        let insert = |text: &str| insert_options(text, &commands, "--store sqlite:x");
        assert_eq!(insert("record it: tenantry stamp ID"), "record it: tenantry --store sqlite:x stamp ID");
        assert_eq!(
            insert("tenantry upgrade-all, or tenantry stamp"),
            "tenantry --store sqlite:x upgrade-all, or tenantry --store sqlite:x stamp"
        );
        assert_eq!(
            insert("run tenantry again; another tenantry process"),
            "run tenantry again; another tenantry process"
        );
        assert_eq!(insert("tenantry upgrade"), "tenantry upgrade");
    }
}
