//! Settings that take one of a few words.

use serde::Serialize;
use serde_json::Value as Json;

use crate::error::{Fault, Problem};
use crate::node::{Node, Value};
use crate::setting::{At, Setting, nearest, schema_of, wrong_type};

/// Reads one of `words`; a word of `later` is answered with what this version can do.
fn read_word<T: Copy>(
    node: &Node,
    at: &At<'_>,
    words: &[(&'static str, T)],
    later: &[&'static str],
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let Value::String(text) = &node.value else { return wrong_type(node, at, "a word in quotes", problems) };
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Some(*value);
    }
    let now: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let key = at.path.rsplit('.').next().unwrap_or(&at.path);
    let fault = if later.contains(&text.as_str()) {
        let can = format!("This version can do {key} = {}.", now.join(" or "));
        Fault::NotBuilt { what: format!("{} = \"{text}\"", at.path), can }
    } else {
        let all = words.iter().map(|(word, _)| *word);
        let hint = nearest(text, all).map(|meant| format!("Did you mean \"{meant}\"?"));
        let why = format!("\"{text}\" is not one of {}", now.join(", "));
        Fault::BadValue { key: at.path.clone().into_owned(), why, hint }
    };
    problems.push(Problem::new(node.place.clone(), fault));
    None
}

macro_rules! words {
    ($(#[doc = $about:expr])* $name:ident { $($(#[doc = $doc:expr])* $variant:ident = $word:literal,)* } later [$($later:literal),*]) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum $name { $($(#[doc = $doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// The word of the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl Setting for $name {
            const TAKES: &'static str = "a word in quotes";
            fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
                read_word(node, at, &[$(($word, Self::$variant)),*], &[$($later),*], problems)
            }
            fn show(&self) -> Json {
                Json::from(self.as_str())
            }
        }
        schema_of!($name, |_g| schemars::json_schema!({ "type": "string", "enum": [$($word),*] }));
    };
}

words! {
    /// What a source is.
    Kind {
        /// A PostgreSQL cluster, physically.
        Postgres = "postgres",
    } later ["dump", "files", "redis", "git", "command", "pgbouncer", "rds", "neon", "ebs"]
}
words! {
    /// How WAL gets into the repository.
    Wal {
        /// PostgreSQL's `archive_command` pushes each finished segment.
        Push = "push",
    } later ["receive", "both"]
}
words! {
    /// Which of several nodes does the work.
    RunOn {
        /// The primary. A standby says so and does nothing.
        Primary = "primary",
        /// A standby, whichever begins first. The primary says so and does nothing, or fails when none did it for a day.
        Standby = "standby",
        /// Whichever begins first; the others say so and do nothing.
        Any = "any",
    } later []
}
words! {
    /// When a repository gets what is stored.
    Mode {
        /// At once: a backup and a WAL segment are not done before it has them, or has failed.
        Sync = "sync",
        /// Later, in the background, out of one that has it.
        Async = "async",
    } later []
}
words! {
    /// Where the WAL is that a backup needs to become consistent.
    BackupWal {
        /// Verified in the archive when archiving works, else stored in the backup.
        Auto = "auto",
        /// Always stored in the backup, which then needs nothing from the archive.
        Include = "include",
        /// Always verified in the archive; a backup fails when it does not arrive.
        Archive = "archive",
    } later []
}
words! {
    /// How the checkpoint is made that a backup begins with.
    Checkpoint {
        /// At once, with a burst of writes.
        Fast = "fast",
        /// Spread, as `checkpoint_completion_target` says; the backup begins minutes later.
        Spread = "spread",
    } later []
}
words! {
    /// How a bucket is addressed.
    Style {
        /// The bucket in the path: `https://host/bucket`.
        Path = "path",
        /// The bucket in the host name: `https://bucket.host`.
        Virtual = "virtual",
    } later []
}
