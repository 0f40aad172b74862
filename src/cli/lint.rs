//! The command `migration lint`.

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde_json::{Value, json};
use tenantry::Result;
use tenantry::lint::{Finding, Touches};

use super::{Format, Settings};
use crate::report::Output;

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Lint {
    /// Lint only the migrations after this version
    #[arg(long, value_name = "VERSION")]
    since: Option<String>,
    /// Switch a rule off; can be repeated
    #[arg(long, value_name = "RULE")]
    off: Vec<String>,
    /// Count the rows and projects of the fleet that each statement will touch
    #[arg(long)]
    fleet: bool,
    /// Exit with 1 if something is found
    #[arg(long)]
    strict: bool,
    /// Write SARIF, which code scanners read
    #[arg(long, conflicts_with = "github")]
    sarif: bool,
    /// Write annotations of GitHub Actions
    #[arg(long)]
    github: bool,
}

pub(super) fn lint(settings: &Settings, lint: &Lint) -> Result<u8> {
    let config = settings.config()?;
    let off = lint.off.iter().chain(config.lint_off()).cloned().collect();
    let strict = lint.strict || config.lint_strict();
    let manager = settings.manager()?;
    let tenantry::manager::Lint { mut findings, not_run, .. } = manager.lint(lint.since.as_deref(), &off)?;
    if lint.fleet {
        manager.count_touched(&mut findings)?;
    }
    match not_run {
        Some(error) if strict => return Err(error),
        Some(error) => crate::report::note(format_args!(
            "the migrations could not be run on an empty database, so the schemas before and after them were not compared: {}",
            error.summary()
        )),
        None => {}
    }
    let mut output = Output::new();
    if lint.sarif {
        output.json(&sarif(&findings, strict));
    } else if lint.github {
        for finding in &findings {
            output.line(format_args!("{}", annotation(finding, strict)));
        }
    } else if settings.format == Format::Json {
        for finding in &findings {
            output.json(&json!({"v": 1, "event": "lint", "finding": finding}));
        }
    } else {
        for finding in &findings {
            write(&mut output, finding);
        }
        let noun = if findings.len() == 1 { "finding" } else { "findings" };
        output.line(format_args!("{} {noun}", findings.len()));
    }
    output.finish()?;
    Ok(u8::from(strict && !findings.is_empty()))
}

fn write(output: &mut Output, finding: &Finding) {
    let (yellow, dim) = (AnsiColor::Yellow.on_default().bold(), Style::new().dimmed());
    output.line(format_args!(
        "{}:{}: {yellow}{}{yellow:#}: {}",
        finding.file.display(),
        finding.line,
        finding.rule,
        finding.message
    ));
    output.line(format_args!("    {}", finding.text.trim()));
    if let Some(touches) = &finding.touches {
        output.line(format_args!("    {}", touched(finding, touches)));
    }
    if !finding.help.is_empty() {
        output.line(format_args!("    {dim}help:{dim:#} {}", finding.help));
    }
    output.line(format_args!(""));
}

/// What a statement touches in the fleet.
fn touched(finding: &Finding, touches: &Touches) -> String {
    let Touches { projects, rows, largest, largest_rows, .. } = touches;
    let largest = largest.as_ref().map(|id| format!(", at most {largest_rows} in {id}")).unwrap_or_default();
    format!("touches {rows} rows of {} in {projects} projects{largest}", finding.tables.join(", "))
}

/// A workflow command, in which some characters have to be escaped.
fn annotation(finding: &Finding, strict: bool) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| escape(text).replace(':', "%3A").replace(',', "%2C");
    format!(
        "::{} file={},line={},title={}::{}",
        if strict { "error" } else { "warning" },
        property(&finding.file.display().to_string()),
        finding.line,
        property(&finding.rule),
        escape(&[finding.message.as_str(), finding.help.as_str()].join("\n"))
    )
}

fn sarif(findings: &[Finding], strict: bool) -> Value {
    let result = |finding: &Finding| {
        json!({
            "ruleId": finding.rule,
            "level": if strict { "error" } else { "warning" },
            "message": {"text": format!("{}. {}", finding.message, finding.help)},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": finding.file.display().to_string()},
                "region": {"startLine": finding.line, "snippet": {"text": finding.text}},
            }}],
        })
    };
    let mut rules: Vec<&str> = findings.iter().map(|finding| finding.rule.as_str()).collect();
    rules.sort_unstable();
    rules.dedup();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "tenantry",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|rule| json!({"id": rule})).collect::<Vec<_>>(),
            }},
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}
