//! The rules that a migration set declares in its `set.toml`: how long rows are kept, and what must hold in a project.
//!
//! Only parses the rules. The module `apply::rules` applies them to a project.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::catalog::embedded;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{Dialect, tokens};

/// The name of the file with the rules, beside a set's migrations.
pub const FILE_NAME: &str = "set.toml";

/// A set's rules. There are none if it has no `set.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// How long rows are kept. The rules are applied in this order.
    #[serde(default)]
    pub retention: Vec<Retention>,
    /// The conditions that must hold in every project.
    #[serde(default, rename = "check")]
    pub checks: Vec<Check>,
    /// What is not compared.
    #[serde(default)]
    pub schema: SchemaRules,
}

/// Deletes rows of a table when they reach an age.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The table.
    pub table: String,
    /// The column with the time from which a row's age is counted.
    pub time: String,
    /// The format of that column.
    pub unit: Unit,
    /// The age at which rows are deleted, such as `90d`.
    #[serde(deserialize_with = "age")]
    pub age: Duration,
    /// An environment variable with the age in seconds. If it is set, it overrides `age`.
    #[serde(default)]
    pub variable: Option<String>,
    /// An SQL expression. Only rows for which it holds are deleted.
    #[serde(default)]
    pub condition: Option<String>,
    /// A column that defines the order of deletion, for chains. A row is deleted only if all rows before it are. The
    /// last row is never deleted.
    #[serde(default)]
    pub in_order_of: Option<String>,
    /// Rows of other tables that are deleted with them.
    #[serde(default)]
    pub dependents: Vec<Dependent>,
}

/// Rows that are deleted together with the rows that they reference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependent {
    /// Their table.
    pub table: String,
    /// The referencing column of that table.
    pub column: String,
    /// The referenced column of the retention's table.
    pub references: String,
}

/// The format of a column with times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// A date and time in a format that the database understands.
    Timestamp,
}

/// A condition that must hold in every project. It has either `query` or `chain`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name in reports.
    pub name: String,
    /// A query that must return no row.
    #[serde(default)]
    pub query: Option<String>,
    /// A chain of hashes that must be valid.
    #[serde(default)]
    pub chain: Option<Chain>,
}

/// A chain of hashes. Each row contains the hexadecimal SHA-256 of its own data and of the previous row's hash.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The table.
    pub table: String,
    /// The column by which the rows are ordered.
    pub order: String,
    /// The column with the previous row's hash.
    pub previous: String,
    /// The column with the row's own hash.
    pub hash: String,
    /// The columns that are hashed, as text, in this order.
    pub data: Vec<String>,
    /// The separator between them.
    pub separator: String,
}

/// The part of a `set.toml` that says which objects are not compared.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaRules {
    /// Patterns of the objects that are not compared, see [`IgnoreList`](crate::store::IgnoreList).
    #[serde(default)]
    pub ignore: Vec<String>,
}

impl Rules {
    /// Returns the rules of a built-in set. `variable` looks up environment variables.
    pub fn embedded(set: &str, dialect: Dialect, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        match embedded::set_file(set, FILE_NAME) {
            Some((path, text)) => Self::parse(path.as_ref(), &text, dialect, variable),
            None => Ok(Self::default()),
        }
    }

    /// Reads the rules beside the migrations of a folder. `variable` looks up environment variables.
    pub fn from_directory(
        directory: &Path,
        dialect: Dialect,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let path = directory.join(FILE_NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text, dialect, variable),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Parses a `set.toml`. `variable` looks up environment variables. Fails if the file is invalid, or if a variable's
    /// value is not a number of seconds.
    pub fn parse(
        path: &Path,
        text: &str,
        dialect: Dialect,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Catalog, message).at(path, None);
        let mut rules: Self =
            toml::from_str(text).map_err(|error| Error::in_toml(ErrorKind::Catalog, path, text, &error))?;
        for check in &rules.checks {
            if check.query.is_some() == check.chain.is_some() {
                return Err(invalid(format!("the check {:?} needs either query or chain", check.name)));
            }
        }
        let queries = rules.checks.iter().filter_map(|check| check.query.as_deref());
        let conditions = rules.retention.iter().filter_map(|rule| rule.condition.as_deref());
        for sql in queries.chain(conditions) {
            if !is_one_expression(sql, dialect) {
                return Err(invalid(format!("not a single complete SQL expression or query: {sql}")));
            }
        }
        for rule in &mut rules.retention {
            let Some((name, value)) = rule.variable.as_ref().and_then(|name| Some((name, variable(name)?)))
            else {
                continue;
            };
            let seconds = value.trim().parse().map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("{name} = {value:?} is not a number of seconds"))
            })?;
            rule.age = Duration::from_secs(seconds);
        }
        Ok(rules)
    }
}

/// Whether the SQL can be put inside parentheses: its own parentheses are balanced, and it has no semicolon.
fn is_one_expression(sql: &str, dialect: Dialect) -> bool {
    let Ok(tokens) = tokens(sql, dialect) else { return false };
    let mut depth = 0_i32;
    for token in &tokens {
        if token.is_symbol(";") {
            return false;
        }
        depth += i32::from(token.is_symbol("(")) - i32::from(token.is_symbol(")"));
        if depth < 0 {
            return false;
        }
    }
    depth == 0 && !tokens.is_empty()
}

/// Parses an age: a number with the unit `s`, `m`, `h`, `d` or `w` for seconds, minutes, hours, days or weeks.
pub fn parse_age(text: &str) -> Result<Duration> {
    let invalid = || {
        Error::new(ErrorKind::Usage, format!("{text:?} is not an age"))
            .with_hint("use a whole number and one of the units s, m, h, d and w, such as 90d")
    };
    let digits = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(invalid()),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(invalid)
}

fn age<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_age(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules> {
        Rules::parse(Path::new("set.toml"), text, Dialect::Sqlite, |name| {
            (name == "AGE").then(|| "60".to_string())
        })
    }

    const RULE: &str = "[[retention]]\ntable = \"t\"\ntime = \"at\"\nunit = \"seconds\"\nage = \"90d\"\n";

    #[test]
    fn ages_have_a_unit() {
        for (text, seconds) in [("90d", 7_776_000), ("0s", 0), ("2w", 1_209_600), ("5m", 300), ("1h", 3_600)]
        {
            assert_eq!(parse_age(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in
            ["", "90", "d", "-1d", "1.5d", "90 d", "1d2h", "99999999999999999999d", "18446744073709551615w"]
        {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_is_over_the_age() {
        assert_eq!(parse(RULE).unwrap().retention[0].age.as_secs(), 7_776_000);
        assert_eq!(parse(&format!("{RULE}variable = \"AGE\"")).unwrap().retention[0].age.as_secs(), 60);
        assert_eq!(
            parse(&format!("{RULE}variable = \"NONE\"")).unwrap().retention[0].age.as_secs(),
            7_776_000
        );
    }

    #[test]
    fn what_is_misspelt_or_would_end_the_statement_is_refused() {
        for text in [
            "[[retention]]\ntable = \"t\"".to_string(),
            format!("{RULE}conditon = \"1\""),
            format!("{RULE}condition = \"1; DROP TABLE t\""),
            format!("{RULE}condition = \"1) OR (1\""),
            format!("{RULE}condition = \"'\""),
            RULE.replace("90d", "90"),
            RULE.replace("seconds", "hours"),
            "[[check]]\nname = \"a\"".to_string(),
            "[[check]]\nname = \"a\"\nquery = \"SELECT 1; SELECT 2\"".to_string(),
        ] {
            assert_eq!(parse(&text).unwrap_err().kind(), ErrorKind::Catalog, "{text}");
        }
        assert!(parse(&format!("{RULE}condition = \"a = ';)' AND (b OR c)\"")).is_ok());
    }
}
