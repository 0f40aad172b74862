//! Comments that allow a finding: `-- lint: allow RULE: REASON`, before or in the statement that they are about.

use std::collections::BTreeSet;

use crate::catalog::Script;
use crate::sql::{Dialect, tokens};

/// What the comments of a script allow.
#[derive(Default)]
pub(super) struct Allowed {
    /// Rules, each with the first and the last line for which it is allowed.
    rules: Vec<(String, u32, u32)>,
    /// The rules that there are none of, with the lines of their comments.
    pub(super) unknown: Vec<(u32, String)>,
    /// The lines of comments without a reason.
    pub(super) without_reason: Vec<u32>,
}

impl Allowed {
    pub(super) fn covers(&self, rule: &str, line: u32) -> bool {
        self.rules.iter().any(|(allowed, first, last)| allowed == rule && (*first..=*last).contains(&line))
    }
}

/// Reads the comments of a script. A comment is about the statement that it stands in, or else about the next one.
pub(super) fn allowed(script: &Script, dialect: Dialect) -> Allowed {
    let mut allowed = Allowed::default();
    let starts: BTreeSet<u32> = script.statements().iter().map(|statement| statement.line).collect();
    // A comment is no token; a line that begins inside a text or another comment is none of ours.
    let in_tokens = |line: u32| {
        tokens(script.text(), dialect).is_ok_and(|tokens| {
            tokens.iter().any(|token| {
                let last = token.line + u32::try_from(token.text.matches('\n').count()).unwrap_or(0);
                token.line < line && line <= last
            })
        })
    };
    for (index, text) in script.text().lines().enumerate() {
        let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let Some(rest) = text.trim().strip_prefix("--") else { continue };
        let Some(rest) = rest.trim().strip_prefix("lint: allow ") else { continue };
        if in_tokens(line) {
            continue;
        }
        let (rule, reason) = rest.split_once(':').unwrap_or((rest, ""));
        if !super::is_rule(rule.trim()) {
            allowed.unknown.push((line, rule.trim().to_string()));
            continue;
        }
        if reason.trim().is_empty() {
            allowed.without_reason.push(line);
        }
        // Up to the end of the statement that begins next. A comment in a statement is before the next one's beginning, too.
        let current = starts.range(..=line).next_back().copied();
        let next = starts.range(line..).next().copied().unwrap_or(u32::MAX);
        let is_inside = current.is_some_and(|start| statement_end(script, start) >= line);
        let (first, statement) =
            if is_inside { (current.unwrap_or(line), current) } else { (line, Some(next)) };
        let last = statement.map_or(line, |start| statement_end(script, start));
        allowed.rules.push((rule.trim().to_string(), first, last));
    }
    allowed
}

/// The last line of the statement that begins at a line.
fn statement_end(script: &Script, start: u32) -> u32 {
    let statement = script.statements().iter().rfind(|statement| statement.line == start);
    statement.map_or(start, |it| start + u32::try_from(it.sql.matches('\n').count()).unwrap_or(0))
}
