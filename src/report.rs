//! What the command writes: data to standard output, messages to standard error.
//!
//! It must not decide anything, and must not stop a run because nobody reads what it writes.

mod human;

use std::fmt;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::json;
use tenantry::event::Event;
use tenantry::{Catalog, Error, ErrorKind, Result};

use crate::cli::{Format, Verbosity};

/// Standard output, remembering the first failure to write: a run goes on without a reader, and says so at its end.
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

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let result = self.stream.write_all(bytes);
        self.keep(result);
    }

    /// Writes one JSON object as a line, at once.
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

    /// Tells the first failure. A reader that went away, as `head` does, is none.
    pub(crate) fn finish(mut self) -> Result<()> {
        let result = self.stream.flush();
        self.keep(result);
        match self.failure {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::new(ErrorKind::Io, "cannot write the report")
                    .caused_by(error)
                    .with_hint("what was done is done"))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a run's events as they come.
pub(crate) enum Reporter {
    /// For people.
    Human(Box<human::Human>),
    /// For programs.
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

/// A message on standard error.
pub(crate) fn note(message: fmt::Arguments<'_>) {
    // Where standard error is closed, nowhere is left to say so.
    let _ = writeln!(anstream::stderr().lock(), "{message}");
}

/// The error that a command could not run for.
pub(crate) fn fatal(error: &Error, format: Format) {
    let (red, dim) = (AnsiColor::Red.on_default().bold(), Style::new().dimmed());
    note(format_args!("{red}error:{red:#} {error}"));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        note(format_args!("{dim}caused by:{dim:#} {cause}"));
        source = cause.source();
    }
    if let Some(hint) = error.hint_for_command() {
        note(format_args!("{dim}hint:{dim:#} {hint}"));
    }
    if format == Format::Json {
        let mut output = Output::new();
        output.json(&json!({
            "v": 1, "event": "error", "kind": error.kind().code(), "message": error.summary(), "project": error.project(),
            "migration": error.migration(), "line": error.line(), "hint": error.hint_for_command(),
        }));
        // The error itself was told on standard error.
        let _ = output.finish();
    }
}
