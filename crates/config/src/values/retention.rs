//! What is to be kept, how long.

use std::collections::BTreeMap;
use std::fmt;

use refloat_types::{Age, RepositoryName};
use serde_json::{Map, Value as Json};

use crate::error::Problem;
use crate::node::{Node, Table, Value};
use crate::place::{Origin, Place};
use crate::setting::{At, Set, Setting, options, refuse_unknown, schema_of, text_schema, wrong_type};
use crate::values::plain::age;

/// How many, or how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The newest so many.
    Count(u32),
    /// Those younger than this, and its text as configured.
    Age(Age, String),
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Age(_, text) => f.write_str(text),
        }
    }
}

impl Setting for Keep {
    const TAKES: &'static str = "a number (how many) or an age such as \"4w\" (how long)";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let kept = match &node.value {
            Value::Integer(number) => match u32::try_from(*number) {
                Ok(count) if count > 0 => Ok(Self::Count(count)),
                _ => Err(format!("{number} is not a number of backups to keep (1 or more)")),
            },
            Value::String(text) => keep_age(text),
            _ => return wrong_type(node, at, Self::TAKES, problems),
        };
        kept.map_err(|why| problems.push(Problem::bad(&node.place, at.path.clone(), why))).ok()
    }
    fn show(&self) -> Json {
        match self {
            Self::Count(count) => Json::from(*count),
            Self::Age(_, text) => Json::from(text.as_str()),
        }
    }
}
schema_of!(Keep, |_g| schemars::json_schema!({
    "type": ["integer", "string"], "minimum": 1, "description": "a number counts, an age such as \"4w\" is how long"
}));

fn keep_age(text: &str) -> Result<Keep, String> {
    let parsed = match (text.trim().parse::<u64>(), age(text)) {
        (Ok(number), _) => {
            return Err(format!(
                "\"{text}\" has no unit; {number} without quotes counts, \"{number}d\" is an age"
            ));
        }
        (_, parsed) => parsed?,
    };
    if parsed.0.is_zero() {
        return Err(format!("\"{text}\" keeps nothing"));
    }
    Ok(Keep::Age(parsed, text.to_owned()))
}

/// The window of WAL: always an age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// How far back any moment can be restored.
    pub age: Age,
    text: String,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Setting for Window {
    const TAKES: &'static str = "an age such as \"7d\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        crate::setting::read_text(node, at, Self::TAKES, problems, |text| match keep_age(text)? {
            Keep::Age(age, text) => Ok(Self { age, text }),
            Keep::Count(_) => Err("WAL is kept by age".to_owned()),
        })
    }
    fn show(&self) -> Json {
        Json::from(self.text.as_str())
    }
}
schema_of!(Window, |_g| text_schema("an age such as \"7d\"", None));

options! {
    /// What is kept. A number counts, a string is an age; backups that any of these wants stay. Ages count from the newest
    /// backup, so nothing grows old while none are made. The newest backup and the newest whole full one always stay.
    pub(crate) struct PolicyOptions {
        /// Full backups, with the differential and incremental ones that were made on them and have no rule of their own.
        full: Keep,
        /// Differential backups.
        diff: Keep,
        /// Incremental backups.
        incr: Keep,
        /// WAL: how far back any moment can be restored; the backup that this begins with stays. Older backups keep only
        /// their own span. Without it, WAL stays from the oldest kept backup on.
        wal: Window,
        /// The last backup of each day (UTC).
        daily: Keep,
        /// The last backup of each week (UTC, from Monday on).
        weekly: Keep,
        /// The last backup of each month (UTC).
        monthly: Keep,
        /// The last backup of each year (UTC).
        yearly: Keep,
    }
}

/// What is kept in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Full backups.
    pub full: Option<Keep>,
    /// Differential backups.
    pub diff: Option<Keep>,
    /// Incremental backups.
    pub incr: Option<Keep>,
    /// WAL.
    pub wal: Option<Window>,
    /// The last backup of each day.
    pub daily: Option<Keep>,
    /// The last backup of each week.
    pub weekly: Option<Keep>,
    /// The last backup of each month.
    pub monthly: Option<Keep>,
    /// The last backup of each year.
    pub yearly: Option<Keep>,
}

impl Policy {
    fn read(table: &Table, at: &At<'_>, problems: &mut Vec<Problem>) -> Self {
        fn value<T>(set: Option<Set<T>>) -> Option<T> {
            set.map(|set| set.value)
        }
        let raw = PolicyOptions::read_keys(table, at, problems);
        Self {
            full: value(raw.full),
            diff: value(raw.diff),
            incr: value(raw.incr),
            wal: value(raw.wal),
            daily: value(raw.daily),
            weekly: value(raw.weekly),
            monthly: value(raw.monthly),
            yearly: value(raw.yearly),
        }
    }

    pub(crate) fn show(&self) -> Json {
        let kept = [
            ("full", &self.full),
            ("diff", &self.diff),
            ("incr", &self.incr),
            ("daily", &self.daily),
            ("weekly", &self.weekly),
            ("monthly", &self.monthly),
            ("yearly", &self.yearly),
        ];
        let mut entries: Map<String, Json> = kept
            .into_iter()
            .filter_map(|(key, keep)| keep.as_ref().map(|keep| (key.to_owned(), keep.show())))
            .collect();
        if let Some(window) = &self.wal {
            entries.insert("wal".to_owned(), window.show());
        }
        Json::Object(entries)
    }
}

/// A policy with the place of its table and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub policy: Policy,
    pub place: Place,
    pub origin: Origin,
}

/// The policy for every repository, and those for single ones.
///
/// A layer that sets any of the general keys sets the whole general policy; the policy for one repository is taken from
/// the first layer that has one. So half a policy is never mixed with half of another.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetentionOptions {
    pub general: Option<Placed>,
    pub repositories: BTreeMap<RepositoryName, Placed>,
}

impl Setting for RetentionOptions {
    const TAKES: &'static str = "a table such as { full = \"4w\", wal = \"7d\" }";

    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Table(table) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let before = problems.len();
        let (mut general, mut repositories) = (table.clone(), BTreeMap::new());
        general.entries.retain(|key, _| is_policy_key(table, key));
        for (key, entry) in table.entries.iter().filter(|(key, _)| !is_policy_key(table, key)) {
            let Value::Table(inner) = &entry.node.value else { continue };
            let at = at.key(key);
            match key.parse::<RepositoryName>() {
                Ok(name) => {
                    if let Some(placed) = read_policy(inner, &entry.node.place, &at, problems) {
                        repositories.insert(name, placed);
                    }
                }
                Err(error) => problems.push(Problem::bad(&entry.key, at.path.clone(), error.to_string())),
            }
        }
        let general = if general.entries.is_empty() && !table.entries.is_empty() {
            None
        } else {
            read_policy(&general, &node.place, at, problems)
        };
        (problems.len() == before).then_some(Self { general, repositories })
    }

    fn show(&self) -> Json {
        let mut entries = match self.general.as_ref().map(|placed| placed.policy.show()) {
            Some(Json::Object(entries)) => entries,
            _ => Map::new(),
        };
        for (name, placed) in &self.repositories {
            entries.insert(name.to_string(), placed.policy.show());
        }
        Json::Object(entries)
    }

    fn over(mut self, lower: &Self) -> Self {
        self.general = self.general.or_else(|| lower.general.clone());
        for (name, placed) in &lower.repositories {
            self.repositories.entry(name.clone()).or_insert_with(|| placed.clone());
        }
        self
    }
}

/// A key that holds a table names a repository, unless it is a word of the policy; what is no table belongs to the policy.
fn is_policy_key(table: &Table, key: &str) -> bool {
    PolicyOptions::KEYS.contains(&key) || !matches!(table.get(key), Some(Node { value: Value::Table(_), .. }))
}

fn read_policy(table: &Table, place: &Place, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Placed> {
    let before = problems.len();
    refuse_unknown(table, at, &[PolicyOptions::KEYS], problems);
    let policy = Policy::read(table, at, problems);
    if problems.len() == before && policy == Policy::default() {
        problems.push(Problem::bad(place, at.path.clone(), "the policy keeps nothing"));
    }
    (problems.len() == before).then(|| Placed { policy, place: place.clone(), origin: at.origin(place) })
}

schema_of!(RetentionOptions, |generator| {
    let mut schema = <PolicyOptions as schemars::JsonSchema>::json_schema(generator);
    let policy = <PolicyOptions as schemars::JsonSchema>::json_schema(generator);
    // Every other key is the name of a repository with a policy of its own.
    schema.insert("additionalProperties".to_owned(), policy.into());
    schema
});
