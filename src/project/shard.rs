//! Shards: the parts of a fleet that several processes take, each one of them.

use std::fmt;
use std::str::FromStr;

use super::ProjectId;
use crate::error::{Error, ErrorKind, Result};

/// A part of a fleet: one of so many. Each project always belongs to the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number, counted from 1.
    pub part: u64,
    /// How many the fleet is divided into.
    pub of: u64,
}

impl Shard {
    pub(crate) fn contains(self, project: &ProjectId) -> bool {
        let hash = project.hash();
        self.part.checked_sub(1) == Some(hash % self.of.max(1))
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// Parses text such as `2/8`.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (part, of) = text.split_once('/')?;
            let shard = Self { part: part.parse().ok()?, of: of.parse().ok()? };
            (shard.part >= 1 && shard.part <= shard.of).then_some(shard)
        };
        parse().ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a shard N/T"))
                .with_hint("for example 1/7, the first of seven")
        })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_all_of_a_fleet_and_no_other_part_is_any() {
        let ids: Vec<ProjectId> = (0..100).map(|id| id.to_string().parse().unwrap()).collect();
        let count = |part: u64, of: u64| ids.iter().filter(|id| Shard { part, of }.contains(id)).count();
        assert_eq!((1..=7).map(|part| count(part, 7)).sum::<usize>(), 100);
        // Part 0, a part after the last, and a part of 0 are empty.
        assert_eq!((count(0, 7), count(8, 7), count(0, 0)), (0, 0, 0));
        for text in ["0/7", "8/7", "1", "1/0", "a/b", "-1/7", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        assert_eq!("2/8".parse::<Shard>().unwrap().to_string(), "2/8");
    }
}
