//! Days, weeks, months and years. They are those of UTC, so that the same policy judges alike on every host.

use jiff::tz::TimeZone;
use refloat_types::Timestamp;

/// A stretch of the calendar of which the last backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// `day`, `week`, `month`, `year`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Which one a moment lies in: the same for two moments in the same one, and in order.
    pub fn of(self, at: Timestamp) -> (i16, i16) {
        let date = at.to_zoned(TimeZone::UTC).date();
        match self {
            Self::Day => (date.year(), date.day_of_year()),
            Self::Week => {
                let week = date.iso_week_date();
                (week.year(), i16::from(week.week()))
            }
            Self::Month => (date.year(), i16::from(date.month())),
            Self::Year => (date.year(), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_fall_into_periods() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (a, b) = (at("2026-12-31T23:59:59Z"), at("2027-01-01T00:00:00Z"));
        assert_eq!(Period::Week.of(a), Period::Week.of(b), "one week, of 2026");
        for period in [Period::Day, Period::Month, Period::Year] {
            assert!(period.of(a) < period.of(b));
        }
    }
}
