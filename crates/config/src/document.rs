//! Reads the configuration file and `conf.d/*.toml` beside it into one tree.
//!
//! Reads only; a crash leaves nothing. Files are merged by table: a key may be set once in all of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use crate::error::{ConfigError, Fault, Problem};
use crate::node::{Entry, Lines, Table, Value};
use crate::rights;

/// Larger files are no configuration; reading one by mistake should not fill the memory.
const LARGEST: u64 = 4 << 20;

/// Faults in the text of one file that are told. Each takes another look at the whole text, and nobody reads more.
const MOST_FAULTS: usize = 20;

/// What was read.
#[derive(Debug)]
pub(crate) struct Document {
    /// The main file first, then those of `conf.d` by name.
    pub files: Vec<PathBuf>,
    pub root: Table,
    pub problems: Vec<Problem>,
}

/// Reads `file` and `conf.d/*.toml` beside it.
///
/// # Errors
/// Absent, unreadable or, for root, writable by others. What is wrong in the text is in [`Document::problems`].
pub(crate) fn read(file: &Path, for_root: bool) -> Result<Document, ConfigError> {
    let mut document = Document { files: Vec::new(), root: Table::default(), problems: Vec::new() };
    let text = read_text(file, for_root)?;
    document.add(file, &text);
    for part in parts(file, for_root)? {
        let text = read_text(&part, for_root).map_err(|error| match error {
            // It was listed: a link that leads nowhere, or a file that went away since. To go on without it, or to say
            // that there is no configuration at all, would be wrong.
            ConfigError::Absent { file } => {
                ConfigError::Unreadable { file, source: rustix::io::Errno::NOENT.into() }
            }
            other => other,
        })?;
        document.add(&part, &text);
    }
    Ok(document)
}

/// The files of `conf.d` beside `file`, by name. Hidden ones (editors' copies) are left out.
fn parts(file: &Path, for_root: bool) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = file.parent().unwrap_or_else(|| Path::new("/")).join("conf.d");
    let unreadable = |source| ConfigError::Unreadable { file: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    if for_root {
        // Before anything is in it: whoever may write here would say what root obeys the next time.
        rights::only_root_may_add(&directory)?;
    }
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_text(file: &Path, for_root: bool) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    // A named pipe without a writer would hold the program for ever; without NONBLOCK it is not even opened.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(nonblocking).open(file);
    let opened = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ConfigError::Absent { file: file.to_owned() },
        _ => unreadable(error),
    })?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    if for_root {
        rights::only_root_may_write(file, &metadata)?;
    }
    let mut bytes = Vec::new();
    opened.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(unreadable(io::Error::other("it is larger than 4 MiB")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count()
                + 1;
        unreadable(io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8")))
    })
}

impl Document {
    /// A document of one text, as if read from `file`.
    pub(crate) fn from_text(file: &Path, text: &str) -> Self {
        let mut document = Self { files: Vec::new(), root: Table::default(), problems: Vec::new() };
        document.add(file, text);
        document
    }

    fn add(&mut self, file: &Path, text: &str) {
        let lines = Lines::new(Arc::from(file), text);
        self.files.push(file.to_owned());
        let (parsed, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            merge(&mut self.root, lines.table(parsed.get_ref(), true), &mut self.problems);
            return;
        }
        let mut last_line = 0;
        let before = self.problems.len();
        for error in errors {
            if self.problems.len() - before == MOST_FAULTS {
                break;
            }
            let span = error.span().unwrap_or(0..0);
            let place = lines.place(span.start);
            // One slip makes the parser stumble several times on a line: the first is the one to mend.
            if place.line() == last_line {
                continue;
            }
            last_line = place.line();
            let fault = if error.message().starts_with("duplicate key") {
                let key = text.get(span.clone()).unwrap_or("?").trim_matches(['"', '\'']).to_owned();
                let first = first_of_duplicate(parsed.get_ref(), text, &span).map(|at| lines.place(at));
                Fault::SetTwice { key, first }
            } else {
                Fault::Syntax(error.message().to_owned())
            };
            self.problems.push(Problem::new(place, fault));
        }
    }
}

/// Where the key that is a duplicate at `span` is set first.
///
/// The parser knows it but does not tell. So: of all keys of that name before `span`, nearest first, the one is it
/// without which there would be no duplicate.
fn first_of_duplicate(tree: &DeTable<'_>, text: &str, span: &std::ops::Range<usize>) -> Option<usize> {
    fn keys(table: &DeTable<'_>, name: &str, found: &mut Vec<std::ops::Range<usize>>) {
        for (key, value) in table.iter() {
            if key.get_ref() == name {
                found.push(key.span());
            }
            if let Some(inner) = value.get_ref().as_table() {
                keys(inner, name, found);
            }
        }
    }
    let name = text.get(span.clone())?.trim_matches(['"', '\'']);
    let mut candidates = Vec::new();
    keys(tree, name, &mut candidates);
    // Of a table that is set twice the tree has only the second header: what is above the line has the first.
    let above = text.get(..text.get(..span.start)?.rfind('\n').map_or(0, |end| end + 1))?;
    keys(DeTable::parse_recoverable(above).0.get_ref(), name, &mut candidates);
    candidates.retain(|candidate| candidate.start < span.start);
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.start));
    candidates.into_iter().find_map(|candidate| {
        let renamed =
            [text.get(..candidate.start)?, &"Q".repeat(candidate.len()), text.get(candidate.end..)?].concat();
        let (_, errors) = DeTable::parse_recoverable(&renamed);
        let remains = errors.iter().any(|error| error.span().as_ref() == Some(span));
        (!remains).then_some(candidate.start)
    })
}

/// Adds the tables of another file.
fn merge(into: &mut Table, from: Table, problems: &mut Vec<Problem>) {
    for (key, entry) in from.entries {
        match into.entries.get_mut(&key) {
            None => {
                into.entries.insert(key, entry);
            }
            Some(Entry { node: existing, key: first }) => match (&mut existing.value, entry.node.value) {
                (Value::Table(ours), Value::Table(theirs)) if ours.open && theirs.open => {
                    merge(ours, theirs, problems);
                }
                _ => {
                    let fault = Fault::SetTwice { key, first: Some(first.clone()) };
                    problems.push(Problem::new(entry.key, fault));
                }
            },
        }
    }
}
