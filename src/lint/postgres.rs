//! squawk's rules.

use squawk_linter::{Linter, Rule};
use squawk_syntax::SourceFile;

use crate::catalog::Script;
use crate::sql::line_number;

/// The rules that ask for what tenantry does itself: it sets the timeouts, and each migration runs once.
const MOOT: [Rule; 4] = [
    Rule::RequireTimeoutSettings,
    Rule::RequireLockTimeout,
    Rule::RequireStatementTimeout,
    Rule::PreferRobustStmts,
];

pub(super) struct Violation {
    pub(super) rule: String,
    pub(super) line: u32,
    pub(super) message: String,
    pub(super) help: String,
}

pub(super) fn lint(script: &Script) -> Vec<Violation> {
    let text = script.text();
    let mut linter = Linter::with_rules(&[], &MOOT);
    linter.settings.assume_in_transaction = script.is_transactional();
    let violations = linter.lint(&SourceFile::parse(text), text);
    let violation = |it: squawk_linter::Violation| {
        let start = usize::from(it.text_range.start());
        let before = text.get(..start).unwrap_or(text);
        Violation {
            rule: it.code.to_string(),
            line: line_number(before.matches('\n').count() + 1),
            message: it.message,
            help: it.help.unwrap_or_default(),
        }
    };
    violations.into_iter().map(violation).collect()
}

pub(super) fn is_rule(name: &str) -> bool {
    name.parse::<Rule>().is_ok()
}
