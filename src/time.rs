//! Timestamps in UTC, as written in manifests, journals and file names.

use std::fmt;

use ::time::OffsetDateTime;
use ::time::macros::format_description;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A timestamp in UTC with millisecond precision: `2026-11-21T20:17:00.123Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        let now = OffsetDateTime::now_utc();
        Self(now.replace_millisecond(now.millisecond()).unwrap_or(now))
    }

    /// Parses a time in UTC such as `2026-11-21`, `2026-11-21 20:17` or `2026-11-21T20:17:00.123Z`.
    ///
    /// Returns `Usage` for anything else, including a time zone other than `Z`.
    pub fn parse(text: &str) -> Result<Self> {
        let plain = text.trim();
        let plain = plain.strip_suffix('Z').unwrap_or(plain).replacen(' ', "T", 1);
        let (date, clock) = plain.split_once('T').unwrap_or((&plain, "00:00:00"));
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let seconds = if clock.matches(':').count() == 1 { ":00" } else { "" };
        // Anything but digits, such as another time zone, makes the parse fail.
        let is_numeric = fraction.bytes().all(|byte| byte.is_ascii_digit()) && !fraction.is_empty();
        let fraction = if is_numeric { fraction } else { "?" };
        let full = format!("{date}T{clock}{seconds}.{fraction:0<3.3}");
        let format =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]");
        ::time::PrimitiveDateTime::parse(&full, format).map(|moment| Self(moment.assume_utc())).map_err(
            |error| {
                Error::new(ErrorKind::Usage, format!("{text:?} is not a time"))
                    .caused_by(error)
                    .with_hint("write it in UTC, such as 2026-11-21T20:17:00Z or 2026-11-21")
            },
        )
    }

    /// Returns the timestamp as used in file names: without `-` and `:`, and sortable as text.
    #[must_use]
    pub fn for_file_name(&self) -> String {
        self.to_string().replace(['-', ':'], "")
    }

    /// Returns the time since this timestamp; zero if it is in the future.
    #[must_use]
    pub fn age(&self) -> std::time::Duration {
        (OffsetDateTime::now_utc() - self.0).try_into().unwrap_or_default()
    }

    /// Returns the date.
    #[must_use]
    pub fn date(&self) -> ::time::Date {
        self.0.date()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, clock) = (self.0.date(), self.0.time());
        let (hour, minute, second) = (clock.hour(), clock.minute(), clock.second());
        write!(f, "{date}T{hour:02}:{minute:02}:{second:02}.{:03}Z", clock.millisecond())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        for (text, full) in [
            ("2026-11-21", "2026-11-21T00:00:00.000Z"),
            ("2026-11-21 20:17", "2026-11-21T20:17:00.000Z"),
            ("2026-11-21T20:17:05Z", "2026-11-21T20:17:05.000Z"),
            ("2026-11-21T20:17:05.5Z", "2026-11-21T20:17:05.500Z"),
            ("2026-11-21T20:17:05.123456Z", "2026-11-21T20:17:05.123Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), full, "{text}");
        }
        for text in [
            "yesterday",
            "2026-13-01",
            "2026-11-21T25:00",
            "",
            "2026-11-21T20:17:00+01:00",
            "2026-11-21T20:17:00.123+14:00",
            "2026-11-21T20:17:00.123 nonsense",
            "2026-11-21T20:17:00.",
            "2026-11-21T20:17:00ZZ",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
        let now = Timestamp::now();
        assert_eq!(Timestamp::parse(&now.to_string()).unwrap(), now);
    }
}
