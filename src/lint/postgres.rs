//! squawk's rules.

use squawk_linter::{Linter, Rule};
use squawk_syntax::SourceFile;

use crate::catalog::Script;
use crate::sql::line_number;

/// The rules that ask for what tenantry does itself: it sets the timeouts, each migration runs once, and transactions of the
/// script's own are left out or refused.
const MOOT: [Rule; 5] = [
    Rule::TransactionNesting,
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

/// `was_run` says that the server has run the script, so that its syntax is right.
pub(super) fn lint(script: &Script, was_run: bool) -> Vec<Violation> {
    let text = &*script.parseable();
    let mut linter = Linter::with_rules(&[], &MOOT);
    linter.settings.assume_in_transaction = script.is_transactional();
    let parse = SourceFile::parse(text);
    let line_at = |offset: usize| line_number(text.get(..offset).unwrap_or(text).matches('\n').count() + 1);
    let mut found: Vec<Violation> = Vec::new();
    if !was_run {
        found.extend(parse.errors().iter().map(|error| Violation {
            rule: "syntax-error".into(),
            line: line_at(usize::from(error.range().start())),
            message: error.message().to_string(),
            help: "the migrations could not be run on a server, which would say whether this is one".into(),
        }));
    }
    let violations = linter.lint(&parse, text);
    found.extend(violations.into_iter().map(|it| Violation {
        rule: it.code.to_string(),
        line: line_at(usize::from(it.text_range.start())),
        message: it.message,
        help: it.help.unwrap_or_default(),
    }));
    found
}

pub(super) fn is_rule(name: &str) -> bool {
    name.parse::<Rule>().is_ok()
}
