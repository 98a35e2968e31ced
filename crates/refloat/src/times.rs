//! Moments as people write them: RFC 3339, PostgreSQL's own print, a zone by name, `10 min ago`.
//!
//! A time without a zone is not guessed: the reading of this terminal and that of PostgreSQL's log may be hours apart.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use refloat_types::Age;

/// What a text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A moment.
    At(Timestamp),
    /// A date and time without a zone.
    Zoneless(DateTime),
    /// It looks like a time, and is none.
    Bad(String),
    /// It is something else.
    NotATime,
}

/// Reads a text.
pub(crate) fn parse(text: &str, now: Timestamp) -> Moment {
    let text = text.trim();
    if let Some(age) = text.strip_suffix(" ago") {
        return match age.trim().parse::<Age>() {
            Ok(Age(length)) => {
                now.checked_sub(length).map_or_else(|e| Moment::Bad(e.to_string()), Moment::At)
            }
            Err(_) => match words(age.trim()) {
                Some(length) => {
                    now.checked_sub(length).map_or_else(|e| Moment::Bad(e.to_string()), Moment::At)
                }
                None => Moment::Bad(format!(
                    "\"{text}\" is not a length of time before now, such as \"10 min ago\""
                )),
            },
        };
    }
    if text == "now" {
        return Moment::At(now);
    }
    if !looks_like_date(text) {
        return Moment::NotATime;
    }
    if let Ok(at) = with_offset(text) {
        return Moment::At(at);
    }
    let (civil, zone) = split_zone(text);
    let Some(civil) = civil_of(civil) else {
        return Moment::Bad(format!("\"{text}\" is not a time; write it as 2026-11-20 02:50:00+01"));
    };
    if zone.is_empty() {
        return Moment::Zoneless(civil);
    }
    in_zone(text, civil, zone)
}

/// `2 hours`, `1 minute`, `3 days`.
fn words(text: &str) -> Option<std::time::Duration> {
    let (number, unit) = text.split_once(' ')?;
    let seconds = match unit.trim().trim_end_matches('s') {
        "second" | "sec" => 1.0,
        "minute" | "min" => 60.0,
        "hour" | "hr" => 3600.0,
        "day" => 86_400.0,
        "week" => 604_800.0,
        _ => return None,
    };
    std::time::Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    (0..4).all(digit) && bytes.get(4) == Some(&b'-') && digit(5)
}

/// `…Z`, `…+01`, `…+0100`, `…+01:00`, with or without a blank before.
fn with_offset(text: &str) -> Result<Timestamp, jiff::Error> {
    let text = text.replacen(' ', "T", 1).replace(' ', "");
    text.parse()
}

/// Date and time apart from what follows them.
fn split_zone(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || "-:. ,T".contains(c))).unwrap_or(text.len());
    let (civil, zone) = text.split_at(end);
    (civil.trim(), zone.trim().trim_matches(['[', ']']))
}

fn civil_of(text: &str) -> Option<DateTime> {
    let text = text.replacen(' ', "T", 1).replace(',', ".");
    // A bare date is its first moment.
    text.parse()
        .ok()
        .or_else(|| Some(text.parse::<jiff::civil::Date>().ok()?.to_datetime(jiff::civil::Time::midnight())))
}

/// Abbreviations that mean one thing only; others are refused, as `CST` and `IST` are several places.
fn abbreviation(zone: &str) -> Option<TimeZone> {
    let hours = match zone.to_ascii_uppercase().as_str() {
        "Z" | "UTC" | "GMT" => 0,
        "CET" => 1,
        "CEST" => 2,
        "EET" => 2,
        "EEST" => 3,
        "WEST" => 1,
        "EDT" => -4,
        "EST" => -5,
        "CDT" => -5,
        "MDT" => -6,
        "MST" => -7,
        "PDT" => -7,
        "PST" => -8,
        "JST" => 9,
        _ => return None,
    };
    Some(TimeZone::fixed(jiff::tz::offset(hours)))
}

fn in_zone(text: &str, civil: DateTime, zone: &str) -> Moment {
    let Some(zone) = abbreviation(zone).or_else(|| TimeZone::get(zone).ok()) else {
        return Moment::Bad(format!(
            "\"{zone}\" in \"{text}\" is no time zone; write an offset such as +01, or a name such as Europe/Berlin"
        ));
    };
    match zone.to_ambiguous_timestamp(civil).unambiguous() {
        Ok(at) => Moment::At(at),
        Err(_) => Moment::Bad(format!(
            "\"{text}\" is ambiguous: the clocks were changed then; write it with its offset, such as +01 or +02"
        )),
    }
}

/// A zoneless time as a zone reads it; when the clocks were changed, the earlier one.
pub(crate) fn reading(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_timestamp(civil).earlier().ok()
}

/// A moment as it is typed: with the offset of this zone.
pub(crate) fn typed(at: Timestamp, zone: &TimeZone) -> String {
    let text = at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.f%:z").to_string();
    text.strip_suffix(":00").map_or_else(|| text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Moment {
        Moment::At(text.parse().expect("RFC 3339"))
    }

    #[test]
    fn every_way_of_writing_the_same_moment() {
        let now: Timestamp = "2026-11-20T15:00:00Z".parse().expect("RFC 3339");
        let same = at("2026-11-20T01:50:00Z");
        for text in [
            "2026-11-20T01:50:00Z",
            "2026-11-20T02:50:00+01:00",
            "2026-11-20 02:50:00+01",
            "2026-11-20 02:50:00 +01:00",
            "2026-11-20 02:50:00.000+0100",
            "2026-11-20 02:50+01",
            "2026-11-20 02:50 Europe/Berlin",
            "2026-11-20 02:50:00 CET",
            "2026-11-20 01:50:00.000 UTC",
            "790 min ago",
        ] {
            assert_eq!(parse(text, now), same, "{text}");
        }
        assert_eq!(parse("2 hours ago", now), at("2026-11-20T13:00:00Z"));
        assert_eq!(parse("2026-11-20 02:50:00.118+01", now), at("2026-11-20T01:50:00.118Z"));
    }

    #[test]
    fn what_is_not_a_moment_is_told_apart() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(parse("2026-11-20 02:50", now), Moment::Zoneless(_)));
        assert!(matches!(parse("2026-11-20", now), Moment::Zoneless(_)));
        for text in [
            "2026-13-20 02:50+01",
            "2026-11-20 25:00",
            "2026-11-20 02:50 Mars/Base",
            "soon ago",
            "2026-10-25 02:30 Europe/Berlin",
        ] {
            assert!(matches!(parse(text, now), Moment::Bad(_)), "{text}");
        }
        for text in ["k7m2qxw4", "latest", "/srv/x", "16/B374D848"] {
            assert_eq!(parse(text, now), Moment::NotATime, "{text}");
        }
    }

    #[test]
    fn both_readings_can_be_typed() {
        let Moment::Zoneless(civil) = parse("2026-11-20 02:50", Timestamp::UNIX_EPOCH) else {
            panic!("no zone")
        };
        let berlin = TimeZone::get("Europe/Berlin").expect("tzdata is installed");
        let at = reading(civil, &berlin).expect("a moment");
        assert_eq!(typed(at, &berlin), "2026-11-20 02:50:00+01");
        assert_eq!(typed(at, &TimeZone::UTC), "2026-11-20 01:50:00+00");
    }
}
