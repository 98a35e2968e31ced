//! Times as people read them: with their offset, in the zone of this terminal.

use std::time::Duration;

use jiff::tz::TimeZone;
use refloat_types::{Age, Timestamp};

/// The zone of this terminal.
pub(crate) fn zone() -> TimeZone {
    TimeZone::system()
}

/// `2026-11-20 16:04:31 +01:00`.
pub(crate) fn moment(at: Timestamp) -> String {
    at.to_zoned(zone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// `2026-11-20 16:04:31.118 +01:00`, with as many digits as it has.
pub(crate) fn exact(at: Timestamp) -> String {
    micros(at).to_zoned(zone()).strftime("%Y-%m-%d %H:%M:%S%.f %:z").to_string()
}

/// PostgreSQL's clock has microseconds; more digits would only be noise.
fn micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// `16:04:31`, or with its date when that is not the day of `now`.
pub(crate) fn short(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_zoned(zone()), now.to_zoned(zone()));
    let format = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.strftime(format).to_string()
}

/// `2026-11-20 16:04:31 +01:00 (15:04:31 UTC)`.
pub(crate) fn with_utc(at: Timestamp) -> String {
    format!("{} ({} UTC)", exact(at), micros(at).to_zoned(TimeZone::UTC).strftime("%H:%M:%S%.f"))
}

/// `3 s`, `23 min`, `7 h 40 min`, `6 d`.
pub(crate) fn length(length: Duration) -> String {
    match length.as_secs() {
        0 => "0 s".to_owned(),
        7200.. if length.as_secs() < 172_800 => {
            format!("{} h {} min", length.as_secs() / 3600, length.as_secs() % 3600 / 60)
        }
        _ => Age(Duration::from_secs(length.as_secs())).to_string(),
    }
}

/// How long ago, never negative.
pub(crate) fn since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

/// Seconds as a person reads them: `0.4 s`, `6 min 12 s`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_well() {
        assert_eq!(seconds(0.42), "0.4 s");
        assert_eq!(seconds(372.0), "6 min 12 s");
        assert_eq!(length(Duration::from_secs(27_600)), "7 h 40 min");
        assert_eq!(length(Duration::from_secs(3)), "3 s");
    }
}
