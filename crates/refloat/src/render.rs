//! What reaches people and programs: stdout is data, stderr is talk.
//!
//! A reader that went away (`refloat list | head -1`) is no error: what cannot be written any more is dropped.

pub(crate) mod failure;
pub(crate) mod text;
pub(crate) mod time;

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// Data as one JSON document.
    pub json: bool,
    /// No talk.
    pub quiet: bool,
}

impl Out {
    /// Text on stdout; nothing where JSON was asked for.
    pub(crate) fn text(self, text: &str) {
        if !self.json {
            print(text);
        }
    }
    /// What a command has done, on stdout: talk, where nothing but errors is wanted.
    pub(crate) fn done(self, text: &str) {
        if !self.quiet {
            self.text(text);
        }
    }
    /// A document on stdout where JSON was asked for; `"format": 1` is added.
    pub(crate) fn document(self, document: &impl Serialize) {
        if self.json {
            print(&format!("{}\n", json(document)));
        }
    }
    /// A line of talk on stderr.
    pub(crate) fn say(self, line: &str) {
        if !self.quiet {
            complain(&format!("{line}\n"));
        }
    }
    /// A warning on stderr, also when quiet.
    pub(crate) fn warn(self, line: &str) {
        complain(&format!("warning: {line}\n"));
    }
}

/// A document with `"format": 1` in front.
pub(crate) fn json(document: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Formatted<'a, T> {
        format: u32,
        #[serde(flatten)]
        document: &'a T,
    }
    serde_json::to_string_pretty(&Formatted { format: 1, document })
        .unwrap_or_else(|error| format!("{{\"format\": 1, \"error\": {{\"message\": \"{error}\"}}}}"))
}

/// Writes to stdout.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes to stderr.
pub(crate) fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Whether a person can be asked: stdin and stderr are a terminal.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Whether stdout is a terminal.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}
