//! Operation records: who did what, with which result, how many bytes in how many seconds.
//!
//! Each is signed into the repository it is about, and appended to `log/operations.jsonl` of the state directory (0600, one
//! JSON object a line). A pushed WAL file carries its own signed header, so pushes and fetches go to the local log only.
//! A record that cannot be written is a warning: what was done is not undone by that.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use refloat_repo::repository::OperationRecord;
use refloat_repo::{RepoError, Repository};
use refloat_types::{Clock, Severity, Timestamp};

use crate::Outcome;
use crate::context::Context;
use crate::error::Failure;

/// An operation under way.
pub(crate) struct Operation {
    name: &'static str,
    source: Option<String>,
    who: String,
    log: Option<PathBuf>,
    started: Timestamp,
    began: Instant,
    /// Bytes moved.
    pub bytes: u64,
    /// Backup or restore it is about.
    pub about: Option<String>,
    /// What was found, where that is worth a word.
    pub detail: Option<String>,
}

impl Operation {
    /// Begins one.
    pub(crate) fn begin(context: &Context, name: &'static str, source: Option<&str>) -> Self {
        Self {
            name,
            source: source.map(str::to_owned),
            who: format!("{}@{}", context.who, context.host),
            log: context.state_path().map(|state| state.join("log").join("operations.jsonl")),
            started: context.clock.now(),
            began: Instant::now(),
            bytes: 0,
            about: None,
            detail: None,
        }
    }

    fn record(&self, result: &Result<Outcome, Failure>) -> OperationRecord {
        let (word, error) = match result {
            Ok(Outcome::Done) => ("done", None),
            Ok(Outcome::Findings) => ("findings", None),
            Err(failure) => {
                let causes: Vec<&str> = failure.detail.iter().map(String::as_str).collect();
                let chain =
                    if causes.is_empty() { String::new() } else { format!(": {}", causes.join(": ")) };
                ("failed", Some(format!("{} {}{chain}", failure.code, failure.message)))
            }
        };
        OperationRecord {
            operation: self.name.to_owned(),
            source: self.source.clone(),
            who: self.who.clone(),
            started: self.started,
            seconds: self.began.elapsed().as_secs_f64(),
            result: word.to_owned(),
            detail: error.or_else(|| self.detail.clone()),
            bytes: self.bytes,
            about: self.about.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Writes the record to the local log only.
    pub(crate) fn finish_locally(&self, result: &Result<Outcome, Failure>) {
        self.append(&self.record(result));
    }

    /// Writes the record to these repositories and to the local log.
    pub(crate) fn finish<'r>(
        &self,
        context: &Context,
        repositories: impl IntoIterator<Item = &'r Repository>,
        result: &Result<Outcome, Failure>,
    ) {
        let record = self.record(result);
        // A command line that makes no sense is no operation on a repository.
        let refused = matches!(result, Err(failure) if failure.severity == Severity::Usage);
        for repository in repositories.into_iter().filter(|_| !refused) {
            if let Err(error) = repository.record_operation(&record, context.clock.now()) {
                if matches!(error, RepoError::NotEnrolled { .. }) {
                    // It has only read: nobody would believe its record.
                    tracing::info!(%error, "the record is kept here alone");
                    continue;
                }
                let store = repository.store().describe();
                context.out.warn(&format!(
                    "the record of this {} could not be written to {store}: {error}",
                    self.name
                ));
            }
        }
        self.append(&record);
    }

    fn append(&self, record: &OperationRecord) {
        let Some(path) = &self.log else { return };
        if let Err(error) = append(path, record) {
            tracing::info!(path = %path.display(), %error, "the record could not be written to the local log");
        }
    }
}

/// How much of the end of the local log is looked through.
const REMEMBERED: u64 = 4 << 20;
/// Less than this says nothing about the speed: starting takes longer.
const TELLING: u64 = 16 << 20;

/// The last operation of this name that was done here and moved enough to tell how fast it goes: bytes a second, and when.
pub(crate) fn last_speed(context: &Context, name: &str) -> Option<(f64, Timestamp)> {
    last_speed_in(&context.state_path()?.join("log").join("operations.jsonl"), name)
}

fn last_speed_in(log: &Path, name: &str) -> Option<(f64, Timestamp)> {
    let all = newest_in(log, name).unwrap_or_default();
    all.into_iter().find_map(|record| {
        let tells = record.result == "done" && record.bytes >= TELLING;
        (tells && record.seconds > 0.0).then(|| (record.bytes as f64 / record.seconds, record.started))
    })
}

/// The operations of this name that the end of the local log knows of, the newest first.
pub(crate) fn newest(context: &Context, name: &str) -> Vec<OperationRecord> {
    let log = context.state_path().map(|state| state.join("log").join("operations.jsonl"));
    log.and_then(|log| newest_in(&log, name)).unwrap_or_default()
}

fn newest_in(log: &Path, name: &str) -> Option<Vec<OperationRecord>> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(REMEMBERED))).ok()?;
    let mut bytes = Vec::new();
    file.take(REMEMBERED).read_to_end(&mut bytes).ok()?;
    // Most lines are of WAL, and not worth being parsed.
    let mark = format!("\"operation\":\"{name}\"");
    let record = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok().filter(|line| line.contains(&mark))?;
        serde_json::from_str(line).ok().filter(|record: &OperationRecord| record.operation == name)
    };
    Some(bytes.rsplit(|byte| *byte == b'\n').filter_map(record).collect())
}

/// One write, so that lines of several processes never mix.
fn append(path: &Path, record: &OperationRecord) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_one_that_tells() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("log").join("operations.jsonl");
        assert_eq!(last_speed_in(&log, "restore"), None);
        let at = |second| Timestamp::from_second(second).expect("it is in range");
        for (second, operation, result, bytes) in [
            (1, "restore", "done", 100 << 20),
            (2, "restore", "done", 200 << 20),
            (3, "restore", "failed", 900 << 20),
            (4, "restore", "done", 1 << 20),
            (5, "wal push", "done", 16 << 20),
        ] {
            let record = OperationRecord {
                operation: operation.to_owned(),
                source: None,
                who: "postgres@db1".to_owned(),
                started: at(second),
                seconds: 2.0,
                result: result.to_owned(),
                detail: None,
                bytes,
                about: None,
                version: "0.1.0".to_owned(),
            };
            append(&log, &record).expect("own directory");
        }
        assert_eq!(last_speed_in(&log, "restore"), Some(((100_u64 << 20) as f64, at(2))));
    }
}
