//! Comments that allow a finding: `-- lint: allow RULE: REASON`, before or in the statement that they are about.

use std::collections::BTreeSet;

use crate::catalog::Script;
use crate::sql::{Dialect, Token, tokens};

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
    // The rows of a `COPY` are no tokens.
    let tokens = tokens(script.text(), dialect).unwrap_or_default();
    let mut offset = 0;
    for (index, text) in script.text().split_inclusive('\n').enumerate() {
        let (line, start) = (u32::try_from(index + 1).unwrap_or(u32::MAX), offset);
        offset += text.len();
        let Some(rest) = text.trim().strip_prefix("--") else { continue };
        let Some(rest) = rest.trim().strip_prefix("lint: allow ") else { continue };
        let before = tokens.iter().rfind(|token| token.start < start);
        if is_hidden(script.text(), before, start) {
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
        // What follows a comment in a statement, its semicolon at the latest, is a part of that.
        let statement = match (before, tokens.iter().find(|token| token.start > start)) {
            (Some(before), Some(next)) if next.is_symbol(";") => starts.range(..=before.line).next_back(),
            (_, Some(next)) => starts.range(..=next.line).next_back(),
            (_, None) => starts.range(line..).next(),
        };
        let Some(statement) = statement.copied() else { continue };
        allowed.rules.push((rule.trim().to_string(), line.min(statement), statement_end(script, statement)));
    }
    allowed
}

/// Whether a place is inside of the token before it, or of a block comment.
fn is_hidden(text: &str, before: Option<&Token<'_>>, start: usize) -> bool {
    let end = before.map_or(0, |token| token.start + token.text.len());
    let Some(gap) = text.get(end..start) else { return true };
    gap.rfind("/*").is_some_and(|open| gap.rfind("*/").is_none_or(|close| close < open))
}

/// The last line of the statement that begins at a line.
fn statement_end(script: &Script, start: u32) -> u32 {
    let statement = script.statements().iter().rfind(|statement| statement.line == start);
    statement.map_or(start, |it| start + u32::try_from(it.sql.matches('\n').count()).unwrap_or(0))
}
