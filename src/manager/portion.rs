//! A number of projects, given as such or as a share of all of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A number of projects, such as `20`, or a share of them, such as `0.5%`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Portion {
    /// So many projects.
    Count(usize),
    /// So many of a hundred projects, rounded up. More than 0, at most 100.
    Percent(f64),
}

impl Portion {
    /// The number of projects out of `all`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fleet has fewer projects than a float has integers")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and `all`")]
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => count.min(all),
            Self::Percent(percent) => {
                let exact = all as f64 * percent / 100.0;
                // A product that is an integer may be a little too large as a float.
                ((exact - 1e-9).ceil().max(0.0) as usize).min(all)
            }
        }
    }
}

impl FromStr for Portion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit() || it == b'.');
        let portion = match text.strip_suffix('%') {
            Some(percent) if is_number(percent) => {
                percent.parse().ok().filter(|it| 0.0 < *it && *it <= 100.0).map(Self::Percent)
            }
            Some(_) => None,
            None => text.parse().ok().filter(|it| *it > 0).map(Self::Count),
        };
        portion.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a number of projects"))
                .with_hint("give a number such as 20, or a share such as 5%")
        })
    }
}

impl TryFrom<String> for Portion {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Portion> for String {
    fn from(portion: Portion) -> Self {
        portion.to_string()
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_never_more_than_all() {
        let of = |text: &str, all| text.parse::<Portion>().unwrap().of(all);
        assert_eq!((of("5%", 101), of("5%", 100), of("0.5%", 10_000), of("7%", 100)), (6, 5, 50, 7));
        assert_eq!((of("100%", 3), of("0.1%", 3), of("5%", 0), of("20", 3), of("2", 3)), (3, 1, 0, 3, 2));
        for text in ["0", "0%", "101%", "-1", "x", "", "%", "1e1%", "+5%", "inf%", "NaN%"] {
            assert!(text.parse::<Portion>().is_err(), "{text}");
        }
        for text in ["5%", "0.5%", "20"] {
            assert_eq!(text.parse::<Portion>().unwrap().to_string(), text);
        }
    }
}
