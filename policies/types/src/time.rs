//! Time as a value: it comes in as an argument, nothing below `policies/` reads a clock.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, Months, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A moment in UTC, in whole microseconds since 1970; written as RFC 3339.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The last moment that RFC 3339 can write: the end of the year 9999.
    pub const LAST: Self = Self(253_402_300_799_999_999);
    /// The first one: the beginning of the year 0.
    const FIRST: Self = Self(-62_167_219_200_000_000);

    /// The moment `later` after this one, held at [`Self::LAST`].
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_micros()).unwrap_or(i64::MAX))).min(Self::LAST)
    }

    /// The time from `earlier` to this moment; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Midnight UTC at the start of this moment's day.
    #[must_use]
    pub const fn day_start(self) -> Self {
        const DAY: i64 = 86_400_000_000;
        Self(self.0.div_euclid(DAY).saturating_mul(DAY))
    }

    /// Midnight UTC at the start of the first day of this moment's month.
    #[must_use]
    pub fn month_start(self) -> Self {
        let start = self.day_start();
        let into = self.date().map_or(0, |date| i64::from(date.day0()));
        Self(start.0.saturating_sub(into.saturating_mul(86_400_000_000)))
    }

    /// Midnight UTC at the start of the next month.
    #[must_use]
    pub fn next_month_start(self) -> Self {
        let start = self.month_start();
        start
            .date()
            .and_then(|date| date.checked_add_months(Months::new(1)))
            .map_or(start, |date| Self(date.timestamp_micros()))
    }

    /// Reads RFC 3339 (`2026-11-23T10:00:00Z`).
    ///
    /// # Errors
    /// When the text is not an RFC 3339 date and time, or one that could not be written again: an offset can lead out of
    /// the years that have four digits.
    pub fn parse(text: &str) -> Result<Self, ParseTimeError> {
        DateTime::parse_from_rfc3339(text)
            .map(|time| Self(time.timestamp_micros()))
            .ok()
            .filter(|time| (Self::FIRST..=Self::LAST).contains(time))
            .ok_or_else(|| ParseTimeError(text.to_owned()))
    }

    fn date(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0)
    }
}

/// The text is not a date and time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 date and time such as `2026-11-23T10:00:00Z`")]
pub struct ParseTimeError(String);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.date() {
            Some(date) => f.write_str(&date.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// A span of time as users write it: a whole number and `ms`, `s`, `m`, `h` or `d` (`30s`, `24h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// Reads a whole number followed by its unit.
    ///
    /// # Errors
    /// When the unit is missing or unknown, or the number is not whole or too large.
    pub fn parse(text: &str) -> Result<Self, ParseSpanError> {
        let bad = || ParseSpanError(text.to_owned());
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at_checked(at).ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        number.checked_mul(millis).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(bad)
    }
}

/// The text is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a span of time: write a whole number and `ms`, `s`, `m`, `h` or `d`, such as `30s`")]
pub struct ParseSpanError(String);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms >= size && ms.is_multiple_of(size) {
                return write!(f, "{}{unit}", ms / size);
            }
        }
        write!(f, "{ms}ms")
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "A moment in UTC (RFC 3339)."
        })
    }
}

impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A whole number and `ms`, `s`, `m`, `h` or `d`, such as `30s`."
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, Timestamp};

    #[test]
    fn calendar_windows_start_at_utc_midnight() {
        let time = Timestamp::parse("2026-12-23T10:20:30.5Z").expect("a valid time");
        assert_eq!(time.day_start().to_string(), "2026-12-23T00:00:00.000000Z");
        assert_eq!(time.month_start().to_string(), "2026-12-01T00:00:00.000000Z");
        assert_eq!(time.next_month_start().to_string(), "2027-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_moment_that_is_read_can_be_read_again() {
        for text in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-11-27T05:00:00+14:00"] {
            let time = Timestamp::parse(text).expect("a moment");
            assert_eq!(Timestamp::parse(&time.to_string()), Ok(time), "{text}");
        }
        for text in ["9999-12-31T23:59:59-12:00", "0000-01-01T00:00:00+01:00"] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
        let last = Timestamp(0).plus(std::time::Duration::MAX);
        assert_eq!(Timestamp::parse(&last.to_string()), Ok(Timestamp::LAST));
    }

    #[test]
    fn spans_read_what_they_write() {
        for text in ["250ms", "30s", "1m", "24h", "30d"] {
            let written = Span::parse(text).expect("a valid span").to_string();
            assert_eq!(Span::parse(&written), Span::parse(text));
        }
        for text in ["", "5", "m", "1.5h", "1w", "99999999999999999999d"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
