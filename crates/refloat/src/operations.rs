//! Operation records: who did what, with which result, how many bytes in how many seconds.
//!
//! Each is signed into the repository it is about, and appended to `log/operations.jsonl` of the state directory (0600, one
//! JSON object a line). A pushed WAL file carries its own signed header, so pushes and fetches go to the local log only.
//! A record that cannot be written is a warning: what was done is not undone by that.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use refloat_repo::Repository;
use refloat_repo::repository::OperationRecord;
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
