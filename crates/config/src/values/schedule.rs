//! When backups are to be made. Checked and kept; nothing acts on it yet.

use std::path::Path;

use crate::error::Problem;
use crate::node::{Node, Table, Value};
use crate::setting::{
    At, Set, Setting, options, read_text, refuse_unknown, schema_of, text_schema, wrong_type,
};
use serde_json::Value as Json;

/// Five fields of cron: minute, hour, day of the month, month, day of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron(String);

impl Cron {
    /// As configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Cron {
    const TAKES: &'static str = "the five fields of cron, such as \"0 2 * * 0\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| check_cron(text).map(|()| Self(text.to_owned())))
    }
    fn show(&self) -> Json {
        Json::from(self.0.as_str())
    }
}
schema_of!(Cron, |_g| text_schema(
    "minute, hour, day of the month, month, day of the week, as in cron",
    None
));

const FIELDS: [(&str, u32, u32); 5] = [
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
];

fn check_cron(text: &str) -> Result<(), String> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!(
            "\"{text}\" has {} fields, cron has five (minute hour day month weekday)",
            fields.len()
        ));
    }
    for (field, (name, least, most)) in fields.iter().zip(FIELDS) {
        if !field.split(',').all(|item| is_cron_item(item, name, least, most)) {
            return Err(format!(
                "\"{field}\" is no {name} (expected {least} to {most}, *, a-b, */n or a list of these)"
            ));
        }
    }
    Ok(())
}

/// `*`, `5`, `1-5`, `MON-FRI`, each perhaps with `/n`; `L` for the last day; `1#2`, `1L` for the nth or last weekday.
fn is_cron_item(item: &str, field: &str, least: u32, most: u32) -> bool {
    const MONTHS: &str = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC";
    const DAYS: &str = "SUN MON TUE WED THU FRI SAT";
    let (weekday, names) = match field {
        "month" => (false, MONTHS),
        "day of the week" => (true, DAYS),
        _ => (false, ""),
    };
    let value = |text: &str| {
        let named = text.len() == 3 && names.split(' ').any(|name| name.eq_ignore_ascii_case(text));
        named || text.parse::<u32>().is_ok_and(|n| (least..=most).contains(&n))
    };
    let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| !step.parse::<u32>().is_ok_and(|n| (1..=most).contains(&n))) {
        return false;
    }
    if range == "*" || (range == "L" && field == "day of the month" && step.is_none()) {
        return true;
    }
    if weekday && step.is_none() {
        if let Some((day, nth)) = range.split_once('#') {
            return value(day) && matches!(nth, "1" | "2" | "3" | "4" | "5");
        }
        if let Some(day) = range.strip_suffix('L') {
            return value(day);
        }
    }
    match range.split_once('-') {
        Some((from, to)) => {
            let ordered = match (from.parse::<u32>(), to.parse::<u32>()) {
                (Ok(from), Ok(to)) => from <= to,
                _ => true,
            };
            value(from) && value(to) && ordered
        }
        None => value(range),
    }
}

/// A zone by its name: `Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(String);

impl Zone {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Zone {
    const TAKES: &'static str = "the name of a zone such as \"Europe/Berlin\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| check_zone(text).map(|()| Self(text.to_owned())))
    }
    fn show(&self) -> Json {
        Json::from(self.0.as_str())
    }
}
schema_of!(Zone, |_g| text_schema("the name of a time zone such as \"Europe/Berlin\"", None));

/// One `stat` instead of a search through the whole zone database: this runs in every `wal push`.
fn check_zone(text: &str) -> Result<(), String> {
    let database = Path::new("/usr/share/zoneinfo");
    let safe = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-/".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphabetic());
    let known = safe && (text == "UTC" || !database.is_dir() || database.join(text).is_file());
    if known { Ok(()) } else { Err(format!("\"{text}\" is not a time zone this host knows")) }
}

options! {
    /// When each type of backup is to begin.
    pub(crate) struct ScheduleOptions {
        /// Full backups.
        full: Cron,
        /// Differential backups.
        diff: Cron,
        /// Incremental backups.
        incr: Cron,
        /// The zone in which the times are meant. Default: the host's.
        zone: Zone,
    }
}

/// When each type of backup is to begin. Checked and shown; this version does not act on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Full backups.
    pub full: Option<Cron>,
    /// Differential backups.
    pub diff: Option<Cron>,
    /// Incremental backups.
    pub incr: Option<Cron>,
    /// In which zone; `None` is the host's.
    pub zone: Option<Zone>,
}

impl Setting for Schedule {
    const TAKES: &'static str = "a table such as { full = \"0 2 * * 0\", zone = \"Europe/Berlin\" }";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Table(table) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let before = problems.len();
        refuse_unknown(table, at, &[ScheduleOptions::KEYS], problems);
        let read = read_table(table, at, problems);
        (problems.len() == before).then_some(read)
    }
    fn show(&self) -> Json {
        let entries = [("full", &self.full), ("diff", &self.diff), ("incr", &self.incr)];
        let crons =
            entries.into_iter().filter_map(|(key, cron)| cron.as_ref().map(|cron| (key, cron.show())));
        let zone = self.zone.as_ref().map(|zone| ("zone", zone.show()));
        crons.chain(zone).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}
schema_of!(Schedule, |generator| <ScheduleOptions as schemars::JsonSchema>::json_schema(generator));

fn read_table(table: &Table, at: &At<'_>, problems: &mut Vec<Problem>) -> Schedule {
    let raw = ScheduleOptions::read_keys(table, at, problems);
    fn value<T>(set: Option<Set<T>>) -> Option<T> {
        set.map(|set| set.value)
    }
    Schedule { full: value(raw.full), diff: value(raw.diff), incr: value(raw.incr), zone: value(raw.zone) }
}
