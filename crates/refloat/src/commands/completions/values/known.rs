//! What the configuration and the repositories know: names and ids.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_store::Key;
use refloat_types::BackupId;

use super::Wanted;
use super::line::Line;
use crate::context::Context;
use crate::render::time;

/// A person waits for this. A disk that is asleep, or a mount that is gone, is not worth it.
const PATIENCE: Duration = Duration::from_millis(150);
/// Of so many backups it is said what they are; older ones are named only.
const DESCRIBED: usize = 20;

/// The values of this kind, each with a word about it.
pub(super) fn values(context: Context, wanted: Wanted, line: &Line) -> Vec<(String, String)> {
    let Some(config) = &context.config else { return Vec::new() };
    match wanted {
        Wanted::Sources => config
            .sources
            .values()
            .map(|source| (source.name.to_string(), source.data_directory.display().to_string()))
            .collect(),
        Wanted::Repositories => {
            config.repositories.values().map(|one| (one.name.to_string(), one.url.to_string())).collect()
        }
        Wanted::Backups => backups(context, line),
        Wanted::Files | Wanted::Directories => Vec::new(),
    }
}

/// Backups of the source that the line names, else of all; the newest of a source first.
fn backups(mut context: Context, line: &Line) -> Vec<(String, String)> {
    let mut sources: Vec<SourceConfig> =
        context.config.iter().flat_map(|config| config.sources.values()).cloned().collect();
    if let Some(named) = sources.iter().find(|source| line.before().any(|word| word == source.name.as_str()))
    {
        sources = vec![named.clone()];
    }
    // Whose state directory it is may read there; root becomes that user first, as for everything else.
    let Some(first) = sources.first() else { return Vec::new() };
    if context.assume_only(first).is_err() {
        return Vec::new();
    }
    let (send, receive) = sync_channel(64);
    let searcher = move || {
        for source in &sources {
            for repository in context.repositories(Some(source)).unwrap_or_default() {
                for found in of_source(&context, &repository, source).unwrap_or_default() {
                    if send.send(found).is_err() {
                        return;
                    }
                }
            }
        }
    };
    let begun = std::time::Instant::now();
    let mut found: Vec<(String, String)> = Vec::new();
    // It is left behind where it hangs; the process ends without it.
    if std::thread::Builder::new().spawn(searcher).is_err() {
        return found;
    }
    while let Ok((id, about)) = receive.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
        if !found.iter().any(|(known, _)| *known == id) {
            found.push((id, about));
        }
    }
    found
}

/// Backups of a source in one repository that this host has opened before.
fn of_source(
    context: &Context,
    repository: &RepositoryConfig,
    source: &SourceConfig,
) -> Option<Vec<(String, String)>> {
    let opened = context.open_known(repository).ok()?;
    let info = opened.repository.find_source(&source.name).ok()??;
    let keys = opened.repository.commit_keys(info.id).ok()?;
    let about = |key: &Key| {
        let commit = opened.repository.read_commit(key).ok()?.commit;
        Some(format!("{} {}", commit.kind.as_str(), time::moment(commit.finished)))
    };
    let newest_first = keys.iter().rev().enumerate().filter_map(|(at, key)| {
        let id: BackupId = key.file_name().split_once('-')?.1.parse().ok()?;
        let about = if at < DESCRIBED { about(key) } else { None };
        Some((id.to_string(), about.unwrap_or_default()))
    });
    Some(newest_first.collect())
}
