//! Chooses the version of a new migration, in the style of the existing ones. Works on names only.

use time::OffsetDateTime;
use time::macros::format_description;

/// The style of the versions in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `20260112093000`: the time, to the second.
    Time,
    /// `2026-01-12-093000`: the style of diesel.
    DashedTime,
    /// `007`: plain numbers of this many digits.
    Number(usize),
    /// `20260112-007`: the day, and a number of this many digits that is not reset each day.
    DayAndNumber(usize),
}

/// Returns the next version, given the names of the existing folders and the time in UTC.
pub(super) fn next_version(folders: &[String], now: OffsetDateTime) -> Result<String, time::error::Format> {
    let versions: Vec<&str> = folders
        .iter()
        .filter_map(|name| name.split(['_', '.']).next())
        .filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    let newest = |number: &dyn Fn(&str) -> Option<u64>| versions.iter().filter_map(|it| number(it)).max();
    Ok(match style(&versions) {
        Style::Number(width) => {
            let last = newest(&|version| version.parse().ok());
            format!("{:0width$}", last.map_or(0, |last| last + 1))
        }
        Style::DayAndNumber(width) => {
            let last = newest(&|version| version.rsplit('-').next()?.parse().ok());
            let today = now.format(format_description!("[year][month][day]"))?;
            let newest_day = versions.iter().filter_map(|version| version.split('-').next()).max();
            let day = newest_day.map_or(today.as_str(), |newest| newest.max(&today));
            format!("{day}-{:0width$}", last.map_or(1, |last| last + 1))
        }
        Style::Time => {
            let text = now.format(format_description!("[year][month][day][hour][minute][second]"))?;
            // Never before or equal to an existing version.
            let last = newest(&|version| version.replace('-', "").parse().ok());
            match text.parse::<u64>() {
                Ok(version) => last.map_or(version, |last| version.max(last + 1)).to_string(),
                Err(_) => text,
            }
        }
        Style::DashedTime => {
            let mut moment = now;
            loop {
                let text =
                    moment.format(format_description!("[year]-[month]-[day]-[hour][minute][second]"))?;
                if !versions.contains(&text.as_str()) {
                    return Ok(text);
                }
                moment += time::Duration::SECOND;
            }
        }
    })
}

/// Whether a version is a plain number with more digits than the version of a folder.
pub(super) fn is_wider(version: &str, folder: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let other = folder.split('_').next().unwrap_or_default();
    is_number(version) && is_number(other) && version.len() > other.len() && version.len() < 8
}

/// Returns the style of the newest version.
fn style(versions: &[&str]) -> Style {
    let Some(newest) = versions.iter().max() else { return Style::Time };
    let parts: Vec<&str> = newest.split('-').collect();
    let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !parts.iter().all(digits) {
        return Style::Time;
    }
    match parts.iter().map(|part| part.len()).collect::<Vec<_>>().as_slice() {
        // A plain number is shorter than a date.
        [width] if *width < 8 => Style::Number(*width),
        [8, width] => Style::DayAndNumber(*width),
        [4, 2, 2, 6] => Style::DashedTime,
        _ => Style::Time,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_next_version_is_in_the_style_of_those_there_are() {
        let now = time::macros::datetime!(2026-11-21 19:20:05 UTC);
        for (folders, next) in [
            (&[][..], "20261121192005"),
            (&["000_init", "001_more", "014_members"], "015"),
            (&["0000_init", "0003_planning"], "0004"),
            (&["1_a", "2_b"], "3"),
            (&["999_a"], "1000"),
            (&["20250115-001_a", "20250115-007_b"], "20261121-008"),
            (&["20260112000000_a", "20260114000000_b"], "20261121192005"),
            (&["20261121192005_a"], "20261121192006"),
            (&["20990101000000_a"], "20990101000001"),
            (&["2026-01-12-000000_a"], "2026-11-21-192005"),
            (&["2026-11-21-192005_a"], "2026-11-21-192006"),
            (&["20991231-007_a"], "20991231-008"),
            (&["notes_a"], "20261121192005"),
            (&["0001_a", "notes"], "0002"),
            (&["1__a.sql", "1.2__b.sql"], "2"),
        ] {
            let folders: Vec<String> = folders.iter().map(ToString::to_string).collect();
            assert_eq!(next_version(&folders, now).unwrap(), next, "{folders:?}");
        }
    }
}
