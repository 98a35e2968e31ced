//! Sizes and ages as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes. Reads `16MiB`, `16MB` (both powers of 1024, as PostgreSQL has it), `4096`; prints `48.2 GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text = if value >= 99.95 { format!("{value:.0}") } else { format!("{value:.1}") };
        f.pad(&format!("{text} {}", UNITS[unit]))
    }
}

/// Text that is no size or no age.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuantity {
    /// No size.
    #[error("\"{0}\" is not a size (expected a number with B, kB, MB, GB, TB or KiB, MiB, GiB, TiB)")]
    Size(String),
    /// No age.
    #[error("\"{0}\" is not a length of time (expected a number with ms, s, min, h, d or w)")]
    Age(String),
}

fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

impl FromStr for ByteSize {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let bad = || BadQuantity::Size(text.to_owned());
        let (number, unit) = split(text.trim()).ok_or_else(bad)?;
        let power = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 1,
            "m" | "mb" | "mib" => 2,
            "g" | "gb" | "gib" => 3,
            "t" | "tb" | "tib" => 4,
            _ => return Err(bad()),
        };
        let bytes = number * 1024_f64.powi(power);
        if bytes > u64::MAX as f64 / 2.0 { Err(bad()) } else { Ok(Self(bytes as u64)) }
    }
}

/// A length of time as configured: `30s`, `10 min`, `12h`, `7d`, `4w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(pub Duration);

impl FromStr for Age {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let bad = || BadQuantity::Age(text.to_owned());
        let (number, unit) = split(text.trim()).ok_or_else(bad)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "min" | "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(bad()),
        };
        Duration::try_from_secs_f64(number * seconds).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let text = match seconds {
            0 => format!("{} ms", self.0.as_millis()),
            1..=119 => format!("{seconds} s"),
            120..=7199 => format!("{} min", seconds / 60),
            7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
            _ => format!("{} d", seconds / 86_400),
        };
        f.pad(&text)
    }
}

/// How long something was waited for, as a person reads it: `0.7 s`, `5 s`, `3 min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(pub Duration);

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_secs_f64() * 10.0).round() as u64;
        let text = match tenths {
            0 => format!("{} ms", self.0.as_millis()),
            1..100 if !tenths.is_multiple_of(10) => format!("{}.{} s", tenths / 10, tenths % 10),
            _ => Age(Duration::from_secs((tenths + 5) / 10)).to_string(),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_read_and_print() {
        assert_eq!("16MiB".parse(), Ok(ByteSize(16 << 20)));
        assert_eq!("1.5 GB".parse(), Ok(ByteSize(3 << 29)));
        assert_eq!(ByteSize(48 << 30).to_string(), "48.0 GB");
        assert_eq!(ByteSize(500).to_string(), "500 B");
        assert!("12 parsecs".parse::<ByteSize>().is_err());
        assert_eq!("7d".parse(), Ok(Age(Duration::from_secs(7 * 86_400))));
        assert!("7".parse::<Age>().is_err());
        assert_eq!(Age(Duration::from_secs(90)).to_string(), "90 s");
    }

    #[test]
    fn nobody_reads_nine_digits_of_a_second() {
        let told =
            [(0.000_4, "0 ms"), (0.03, "30 ms"), (0.1, "0.1 s"), (2.0 / 3.0, "0.7 s"), (14.0 / 3.0, "4.7 s")];
        let longer =
            [(2.0, "2 s"), (9.97, "10 s"), (10.0 / 3.0 * 4.0, "13 s"), (90.0, "90 s"), (180.2, "3 min")];
        for (seconds, text) in told.into_iter().chain(longer) {
            assert_eq!(Wait(Duration::from_secs_f64(seconds)).to_string(), text);
        }
    }
}
