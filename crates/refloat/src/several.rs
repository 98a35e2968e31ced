//! The repositories of one source together: which get something now, which later, and who brings it to the others.

use refloat_config::{Mode, RepositoryConfig, SourceConfig};
use refloat_types::RepositoryName;

use crate::asking::at_once;
use crate::commands::copy::background;
use crate::context::{Access, Behind, Context, Opened};
use crate::error::Failure;
use crate::left_behind;

/// The repositories of a source.
pub(crate) struct Several {
    /// Those that get it now, in the configured order.
    pub opened: Vec<Opened>,
    /// Those that should and cannot be opened.
    pub failed: Vec<(RepositoryName, Failure)>,
    /// Those that get it later: asynchronous ones, and those that did not answer a moment ago.
    pub later: Vec<RepositoryName>,
}

impl Several {
    /// Those that did not get it now.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = String> {
        self.failed.iter().map(|(name, _)| name).chain(&self.later).map(ToString::to_string)
    }
}

/// Opens those of these repositories that get something now. One that did not answer a moment ago is left for later where the
/// others are enough.
pub(crate) fn open(
    context: &Context,
    configs: Vec<RepositoryConfig>,
    enough: usize,
    access: impl Fn(usize) -> Access,
) -> Several {
    let named = context.global.repository.is_some();
    let mut later = Vec::new();
    let (mut now, mut doubtful) = (Vec::new(), Vec::new());
    for (place, config) in configs.into_iter().enumerate() {
        match config.mode {
            // Who names one means it.
            Mode::Async if !named => later.push(config.name),
            _ if !named && context.is_left_alone(config.name.as_str()) => doubtful.push((place, config)),
            _ => now.push((place, config)),
        }
    }
    if now.len() < enough {
        now.append(&mut doubtful);
        now.sort_by_key(|(place, _)| *place);
    }
    let patience = access(now.len());
    let mut all = Several { opened: Vec::new(), failed: Vec::new(), later };
    all.open(context, now.into_iter().map(|(_, config)| config).collect(), patience);
    let doubtful: Vec<RepositoryConfig> = doubtful.into_iter().map(|(_, config)| config).collect();
    if all.opened.len() < enough && !doubtful.is_empty() {
        // Those that were thought to be enough are not.
        let patience = access(doubtful.len());
        all.open(context, doubtful, patience);
    } else {
        all.later.extend(doubtful.into_iter().map(|config| config.name));
    }
    all
}

impl Several {
    fn open(&mut self, context: &Context, configs: Vec<RepositoryConfig>, access: Access) {
        for (config, result) in open_at_once(context, configs, access) {
            // One that opens may hang all the same: the note goes when something was stored in it.
            if let Err(failure) = &result {
                context.note_answer(config.name.as_str(), Err(failure));
            }
            match result {
                Ok(one) => self.opened.push(one),
                Err(failure) => self.failed.push((config.name, failure)),
            }
        }
    }
}

/// One that does not answer must not keep the others waiting.
pub(crate) fn open_at_once(
    context: &Context,
    configs: Vec<RepositoryConfig>,
    access: Access,
) -> Vec<(RepositoryConfig, Result<Opened, Failure>)> {
    at_once(configs, |config| context.open(config, access))
}

/// Notes which repositories were left out of something, and starts a process that brings what lacks to each that answers, without
/// waiting for it. While one works, no other is started: it looks again before it ends.
pub(crate) fn catch_up_later(context: &Context, source: &SourceConfig, left_out: &[String]) {
    // What one names with -r is meant to be there alone.
    if context.global.repository.is_some() || context.config.is_none() || source.repositories.len() < 2 {
        return;
    }
    let behind = context.behind(&source.name);
    if !note(&behind, left_out)
        && let Err(error) = behind.unknown()
    {
        tracing::warn!(%error, "the next backup will not look for what lacks");
    }
    let due = source.repositories.iter().any(|repository| behind.is_due(repository));
    if due && !background::works(context, source) {
        start(context, source);
    }
}

/// Notes that these repositories were left out of something. Answers whether all of that is noted.
fn note(behind: &Behind<'_>, left_out: &[String]) -> bool {
    let mut all = true;
    for repository in left_out {
        if let Err(error) = behind.add(repository) {
            tracing::warn!(%repository, %error, "it could not be noted that a repository lacks something");
            all = false;
        }
    }
    all
}

/// Has every repository of a source looked at, where this host does not know what they lack: its state directory is new.
pub(crate) fn know_what_lacks(context: &Context, source: &SourceConfig) {
    let behind = context.behind(&source.name);
    if context.global.repository.is_some() || source.repositories.len() < 2 || behind.is_known() {
        return;
    }
    let all: Vec<String> = source.repositories.iter().map(ToString::to_string).collect();
    // Only when every wish is there: else the next backup wishes again.
    if note(&behind, &all)
        && let Err(error) = behind.known()
    {
        tracing::debug!(%error, "that every repository is looked at could not be noted");
    }
    catch_up_later(context, source, &[]);
}

fn start(context: &Context, source: &SourceConfig) {
    let mut command = left_behind::command(context, source);
    command.args(["copy", "--background", source.name.as_str()]).current_dir("/");
    match left_behind::start(command) {
        Ok(pid) => tracing::debug!(pid, "repositories are being brought up to date"),
        Err(error) => tracing::warn!(%error, "what other repositories lack could not be sent on its way"),
    }
}
