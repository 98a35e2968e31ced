//! `check`: each fault with the line that mends it; archiving proven end to end.
//!
//! `repository` looks at stores and keys, `server` at the running server's settings, `archiving` switches a WAL segment
//! and waits for it, `owner` sees whether this is the source's cluster and the only server that writes.

mod archiving;
mod owner;
mod repository;
mod server;

use std::path::Path;

use clap::Args;
use refloat_config::SourceConfig;
use serde::Serialize;

use super::config::{check_secret, more_files, secrets};
use crate::Outcome;
use crate::context::{Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::text::count;

/// Prove that backups and archiving work, end to end; for each fault the line that mends it
///
/// Writes, reads and deletes a small object in each repository, and closes a WAL segment on the server to see it arrive.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 3: there is a fault, or nobody has shown that the recovery sheet is kept.")]
pub(crate) struct Check {
    /// Name of a source [default: all]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
}

/// How a finding counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, and something is better done otherwise.
    Warn,
    /// It does not work.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    level: Level,
    /// `archiving prod`.
    about: String,
    what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mend: Vec<String>,
    #[serde(skip)]
    counts: bool,
}

/// All that was looked at.
pub(super) struct Lines<'c> {
    context: &'c Context,
    all: Vec<Line>,
}

impl Lines<'_> {
    fn push(&mut self, level: Level, about: String, what: String, mend: Vec<String>, counts: bool) {
        let line = Line { level, about, what, mend, counts };
        // Shown as it is found: proving archiving takes a while.
        self.context.out.text(&line.text());
        self.all.push(line);
    }
    /// As it should be.
    pub(super) fn ok(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.push(Level::Ok, about.into(), what.into(), Vec::new(), false);
    }
    /// Better done otherwise.
    pub(super) fn warn(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let mend = Some(mend.into()).filter(|mend| !mend.is_empty());
        self.push(Level::Warn, about.into(), what.into(), mend.into_iter().collect(), false);
    }
    /// Better done otherwise, and a person must look.
    pub(super) fn look(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.push(Level::Warn, about.into(), what.into(), vec![mend.into()], true);
    }
    /// It does not work.
    pub(super) fn fault(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let mend = Some(mend.into()).filter(|mend| !mend.is_empty());
        self.push(Level::Fault, about.into(), what.into(), mend.into_iter().collect(), true);
    }
    /// It does not work, as an error says.
    pub(super) fn failure(&mut self, about: impl Into<String>, failure: &Failure) {
        let mut what = failure.message.clone();
        for cause in &failure.detail {
            what.push_str(&format!(": {cause}"));
        }
        self.push(
            Level::Fault,
            about.into(),
            format!("{what} ({})", failure.code),
            failure.hints.clone(),
            true,
        );
    }
    /// The context.
    pub(super) const fn context(&self) -> &Context {
        self.context
    }
}

impl Line {
    fn text(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok   ",
            Level::Warn => "warn ",
            Level::Fault => "FAULT",
        };
        let mut out = format!("{level} {:<20} {}\n", self.about, self.what);
        for (number, mend) in self.mend.iter().enumerate() {
            let label = if number == 0 { "mend:" } else { "     " };
            out.push_str(&format!("        {label}  {mend}\n"));
        }
        out
    }
}

impl Check {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        if self.source.as_deref() == Some("security")
            && !context.source_names().iter().any(|name| name == "security")
        {
            return Err(CliError::OtherWord {
                message: "`refloat check security` is not in this release".to_owned(),
                hint: "refloat check".to_owned(),
            }
            .into());
        }
        let names: Vec<String> = self.source.clone().into_iter().collect();
        let sources = context.sources(&names)?;
        let secrets_of_root = secret_lines(&context)?;
        context.assume(&sources, false)?;
        let mut operation = Operation::begin(&context, "check", self.source.as_deref());
        let mut lines = Lines { context: &context, all: Vec::new() };
        configuration(&mut lines)?;
        for (about, failure) in &secrets_of_root {
            lines.failure(about, failure);
        }
        let opened = repository::check_all(&mut lines, &sources)?;
        for source in &sources {
            check_source(&mut lines, source, &opened);
        }
        let all = lines.all;
        let faults = all.iter().filter(|line| line.level == Level::Fault).count();
        let warnings = all.iter().filter(|line| line.level == Level::Warn).count();
        let outcome = if all.iter().any(|line| line.counts) { Outcome::Findings } else { Outcome::Done };
        let summary = match (faults, warnings) {
            (0, 0) => "all is well".to_owned(),
            _ => format!("{}, {}", count(faults, "fault"), count(warnings, "warning")),
        };
        context.out.text(&format!("{summary}\n"));
        context.out.document(&serde_json::json!({ "lines": all, "faults": faults, "warnings": warnings }));
        operation.detail = Some(summary);
        operation.finish(&context, opened.iter().map(|one| &one.repository), &Ok(outcome));
        Ok(outcome)
    }
}

fn configuration(lines: &mut Lines<'_>) -> Result<(), Failure> {
    let config = lines.context().config()?;
    let text = format!("{}{}", config.file.display(), more_files(config.files.len()));
    let warnings: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
    lines.ok("configuration", text);
    for warning in warnings {
        lines.warn("configuration", warning, "");
    }
    Ok(())
}

/// Secrets that cannot be read by whoever shall read them; looked at before root becomes that user.
fn secret_lines(context: &Context) -> Result<Vec<(String, Failure)>, Failure> {
    let mut found = Vec::new();
    for secret in secrets(context.config()?) {
        if let Err(error) = check_secret(context, secret) {
            let name = secret.setting().split('.').nth(1).unwrap_or_default().to_owned();
            found.push((format!("key {name}"), Failure::from(error)));
        }
    }
    Ok(found)
}

fn check_source(lines: &mut Lines<'_>, source: &SourceConfig, opened: &[Opened]) {
    let mine: Vec<&Opened> = opened
        .iter()
        .filter(|one| source.repositories.iter().any(|name| name.as_str() == one.name))
        .collect();
    same_device(lines, source);
    durable_somewhere(lines, source, &mine);
    if let Some(session) = server::check(lines, source) {
        archiving::prove(lines, source, &session, &mine);
    }
    owner::check(lines, source, &mine);
}

/// A backup on the data's own disk dies with it.
fn same_device(lines: &mut Lines<'_>, source: &SourceConfig) {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let Some(data) = device(&source.data_directory) else { return };
    let Ok(repositories) = lines.context().repositories(Some(source)) else { return };
    let all_here =
        repositories.iter().all(|repository| repository.url.directory().and_then(device) == Some(data));
    if all_here {
        lines.warn(
            format!("disk {}", source.name),
            "every repository is on the same file system as the data: a lost disk takes both",
            "put a repository on another disk or host",
        );
    }
}

/// WAL is recycled as soon as it is acknowledged: one repository at least has to survive a power cut with it.
fn durable_somewhere(lines: &mut Lines<'_>, source: &SourceConfig, opened: &[&Opened]) {
    let durable = |one: &&Opened| one.repository.store().features().durable;
    if opened.is_empty() || opened.iter().any(durable) {
        return;
    }
    lines.look(
        format!("durability {}", source.name),
        "no repository's store promises that what it answered for survives a power cut; WAL that is acknowledged \
         there alone can be lost with it",
        "put a repository in a directory, in a bucket, or on an SFTP server with fsync@openssh.com (OpenSSH has it)",
    );
}
