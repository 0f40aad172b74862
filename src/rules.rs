//! What a set declares besides its migrations, in its `set.toml`: how long rows are kept, and what must hold.
//!
//! It must not know any set, and must not touch a database: `tend` carries the rules out.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::catalog::embedded;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::{Dialect, tokens};

/// The name of the file that declares them, beside a set's migrations.
pub const FILE_NAME: &str = "set.toml";

/// A set's rules; none where it has no `set.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// How long rows are kept, in the order in which they are deleted.
    #[serde(default)]
    pub retention: Vec<Retention>,
    /// What must hold in every project.
    #[serde(default, rename = "check")]
    pub checks: Vec<Check>,
}

/// Rows of one table that are deleted at an age.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The table.
    pub table: String,
    /// The column with the time that a row's age is counted from.
    pub time: String,
    /// How that column has the time.
    pub unit: Unit,
    /// The age from which rows are deleted, such as `90d`.
    #[serde(deserialize_with = "age")]
    pub age: Duration,
    /// An environment variable with the age in seconds, over `age`.
    #[serde(default)]
    pub variable: Option<String>,
    /// Only rows for which this SQL expression holds.
    #[serde(default)]
    pub condition: Option<String>,
    /// A column in whose order rows go, none before one that stays; the last row always stays. For chains.
    #[serde(default)]
    pub in_order_of: Option<String>,
    /// Rows of other tables that go with them.
    #[serde(default)]
    pub dependents: Vec<Dependent>,
}

/// Rows that go with those that they point at.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependent {
    /// Their table.
    pub table: String,
    /// Their column that points.
    pub column: String,
    /// The column that it points at.
    pub references: String,
}

/// How a column has a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// A date and time as the database understands it.
    Timestamp,
}

/// Something that must hold in every project. Either of the two.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What it is called in reports.
    pub name: String,
    /// A query that must give no row.
    #[serde(default)]
    pub query: Option<String>,
    /// A chain of hashes.
    #[serde(default)]
    pub chain: Option<Chain>,
}

/// Rows of which each has the SHA-256, in hexadecimal, of itself and of the hash of the row before it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The table.
    pub table: String,
    /// The column with the rows' order.
    pub order: String,
    /// The column with the hash of the row before.
    pub previous: String,
    /// The column with the hash of the row itself.
    pub hash: String,
    /// The columns that are hashed, as text, in this order.
    pub data: Vec<String>,
    /// What stands between them.
    pub separator: String,
}

impl Rules {
    /// The rules of a set of the binary. `variable` looks up environment variables.
    pub fn embedded(set: &str, dialect: Dialect, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        match embedded::beside(set, FILE_NAME) {
            Some((path, text)) => Self::parse(path.as_ref(), &text, dialect, variable),
            None => Ok(Self::default()),
        }
    }

    /// The rules beside the migrations of a folder. `variable` looks up environment variables.
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

    /// Reads a `set.toml`. `variable` looks up environment variables.
    pub fn parse(
        path: &Path,
        text: &str,
        dialect: Dialect,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::Catalog, message).at(path, None);
        let mut rules: Self =
            toml::from_str(text).map_err(|error| Error::in_toml(ErrorKind::Catalog, path, text, &error))?;
        for check in &rules.checks {
            if check.query.is_some() == check.chain.is_some() {
                return Err(wrong(format!("the check {:?} needs either query or chain", check.name)));
            }
        }
        let queries = rules.checks.iter().filter_map(|check| check.query.as_deref());
        let conditions = rules.retention.iter().filter_map(|rule| rule.condition.as_deref());
        for sql in queries.chain(conditions) {
            if !is_one_expression(sql, dialect) {
                return Err(wrong(format!("this is not one whole SQL expression or query: {sql}")));
            }
        }
        for rule in &mut rules.retention {
            let Some((name, value)) = rule.variable.as_ref().and_then(|name| Some((name, variable(name)?)))
            else {
                continue;
            };
            let seconds = value.trim().parse().map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("{name} = {value:?} is no number of seconds"))
            })?;
            rule.age = Duration::from_secs(seconds);
        }
        Ok(rules)
    }
}

/// Whether it can stand inside parentheses: it ends nothing that it did not begin.
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

/// Reads an age: a number with `s`, `m`, `h`, `d` or `w` for seconds, minutes, hours, days or weeks.
pub fn parse_age(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::new(ErrorKind::Usage, format!("{text:?} is no age"))
            .with_hint("give a whole number and a unit, one of s, m, h, d and w: 90d")
    };
    let digits = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
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
