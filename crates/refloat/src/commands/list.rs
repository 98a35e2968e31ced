//! `list`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use refloat_engine::locks::of_backups;
use refloat_repo::commit::{CommitNames, CommitRecord};
use refloat_repo::repository::{KnownCommit, SeenSource, SourceInfo};
use refloat_types::{BackupId, ByteSize, Clock as _, RepositoryName, Timestamp};
use serde::Serialize;

use crate::Outcome;
use crate::asking::{Answers, Away, read_all};
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::identity::Wanted;
use crate::render::text::table;
use crate::render::time;
use crate::retention;

/// List the backups
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat list prod
  sudo refloat -r file:///backup/db1 list        without a configuration; asks for the passphrase")]
pub(crate) struct List {
    /// Name of a source [default: all]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
}

/// A backup as it is listed.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    repository: String,
    source: String,
    backup: String,
    number: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    started: Timestamp,
    finished: Timestamp,
    restorable_from: Timestamp,
    timeline: refloat_types::TimelineId,
    start_lsn: refloat_types::Lsn,
    stop_lsn: refloat_types::Lsn,
    system: refloat_types::SystemIdentifier,
    server_version: u32,
    source_bytes: u64,
    read_bytes: u64,
    stored_bytes: u64,
    needed_bytes: u64,
    own_wal: bool,
    /// Taken from a standby.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    standby: bool,
    bad_pages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// Until when the store lets nobody destroy any of what it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) locked_until: Option<Timestamp>,
    /// What keeps it, or why it goes, where that is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<String>,
    /// Repositories of the source that answer and do not have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacking: Vec<String>,
}

impl Listed {
    /// What is listed of a backup.
    pub(crate) fn new(
        opened: &Opened,
        source: &str,
        record: &CommitRecord,
        names: Option<&CommitNames>,
    ) -> Self {
        let commit = &record.commit;
        Self {
            repository: opened.name.clone(),
            source: source.to_owned(),
            backup: commit.backup.to_string(),
            number: commit.number,
            kind: commit.kind.as_str(),
            parent: commit.parent.map(|parent| parent.to_string()),
            started: commit.started,
            finished: commit.finished,
            restorable_from: commit.cluster.stop_time,
            timeline: commit.cluster.timeline,
            start_lsn: commit.cluster.start_lsn,
            stop_lsn: commit.cluster.stop_lsn,
            system: commit.cluster.system,
            server_version: commit.cluster.server_version,
            source_bytes: commit.sizes.source,
            read_bytes: commit.sizes.read,
            stored_bytes: commit.sizes.stored,
            needed_bytes: live_bytes(record),
            own_wal: commit.own_wal,
            standby: commit.cluster.standby,
            bad_pages: commit.bad_pages,
            label: names.and_then(|names| names.label.clone()),
            locked_until: None,
            retention: None,
            lacking: Vec::new(),
        }
    }
}

/// Bytes of all packs, older ones among them, that a restore of this backup reads.
pub(crate) fn live_bytes(record: &CommitRecord) -> u64 {
    record.packs.iter().map(|pack| pack.live).sum()
}

/// What a source is called: its name, or its id where this host cannot read names.
pub(crate) fn source_name(info: &SourceInfo) -> String {
    info.description.as_ref().map_or_else(|| info.id.to_string(), |description| description.name.to_string())
}

/// Becomes the right user for reading: by the configuration, or for `-r URL` the owner of the repository's directory.
///
/// # Errors
/// When that cannot be.
pub(crate) fn prepare_reading(
    context: &mut Context,
    state: Option<std::path::PathBuf>,
) -> Result<(), Failure> {
    if !context.is_ad_hoc()? {
        let sources: Vec<_> = context.config()?.sources.values().cloned().collect();
        return context.assume(&sources, false);
    }
    let path = ad_hoc_path(context)?;
    if crate::identity::is_root()
        && let Some(path) = path
        && let Some(owner) = Wanted::owner_of([path.as_path()])
    {
        context.become_user(&owner, false)?;
    }
    context.use_state(state)
}

/// Directory of the repository of `-r URL`; `None` where it is in another kind of store.
///
/// # Errors
/// It is no URL.
pub(crate) fn ad_hoc_path(context: &Context) -> Result<Option<std::path::PathBuf>, Failure> {
    let url = context.global.repository.clone().unwrap_or_default();
    Ok(refloat_store::open::file_path(&url)?)
}

/// The usable sources of a repository; what only somebody else has put there is told. Of ours whose newest description cannot
/// be believed `covered` gets the name and what is wrong.
///
/// # Errors
/// What the repository says.
pub(crate) fn usable_sources(
    context: &Context,
    opened: &Opened,
    covered: &mut dyn FnMut(String, Failure) -> Result<(), Failure>,
) -> Result<Vec<SourceInfo>, Failure> {
    let mut usable = Vec::new();
    for seen in opened.repository.see_sources()? {
        match seen {
            SeenSource::Usable(source) => usable.push(source),
            SeenSource::Covered { last, error, .. } => covered(source_name(&last), error.into())?,
            SeenSource::Strange { key, error } => {
                context.out.warn(&format!("repository {}: source {key} is not used: {error}", opened.name));
            }
        }
    }
    Ok(usable)
}

/// That a source of ours cannot be used now.
pub(crate) fn is_covered(opened: &Opened, name: &str, failure: &Failure) -> String {
    format!("repository {}: source {name} cannot be used: {}", opened.name, failure.message)
}

/// The usable sources, or the one that is asked for; of others nothing is told, but where all are asked for.
///
/// # Errors
/// What the repository says; also where the one that is asked for cannot be used.
pub(crate) fn sources_of(
    context: &Context,
    opened: &Opened,
    wanted: Option<&str>,
) -> Result<Vec<SourceInfo>, Failure> {
    let mut usable = Vec::new();
    for seen in opened.repository.see_sources()? {
        match seen {
            SeenSource::Usable(source) => usable.push(source),
            SeenSource::Covered { last, error, .. } => {
                let name = source_name(&last);
                match wanted {
                    Some(wanted) if wanted == name => return Err(error.into()),
                    Some(_) => {}
                    None => context.out.warn(&is_covered(opened, &name, &error.into())),
                }
            }
            SeenSource::Strange { .. } => {}
        }
    }
    usable.retain(|source| wanted.is_none_or(|name| source_name(source) == name));
    usable.sort_by_key(source_name);
    Ok(usable)
}

/// The commits of a source that can be believed; the others are told.
///
/// # Errors
/// What the repository says.
pub(crate) fn commits_of(
    context: &Context,
    opened: &Opened,
    source: &SourceInfo,
) -> Result<Vec<CommitRecord>, Failure> {
    Ok(known_of(context, opened, source)?.into_iter().map(|known| known.record).collect())
}

/// The same with their names, where this host can read them.
fn known_of(context: &Context, opened: &Opened, source: &SourceInfo) -> Result<Vec<KnownCommit>, Failure> {
    Ok(opened.repository.known_commits(source.id, &mut |key, error| {
        context.out.warn(&format!(
            "repository {}: backup {} cannot be used: {error}",
            opened.name,
            key.file_name()
        ));
    })?)
}

/// Until when the store lets nobody destroy these backups; nothing where it locks none. That it cannot be told is said.
pub(crate) fn locks_of<'r>(
    context: &Context,
    opened: &Opened,
    records: impl Iterator<Item = &'r CommitRecord>,
) -> BTreeMap<BackupId, Timestamp> {
    of_backups(&opened.repository, records, context.clock.now()).unwrap_or_else(|error| {
        context
            .out
            .warn(&format!("repository {}: how long backups are locked is not known: {error}", opened.name));
        BTreeMap::new()
    })
}

/// What one repository holds.
struct Holds {
    listed: Vec<Listed>,
    /// The sources that it knows.
    known: Vec<String>,
}

impl List {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        prepare_reading(&mut context, None)?;
        let Answers { said, away } = read_all(&context, Access::ASKED, |opened| self.look(&context, opened))?;
        let (mut opened, mut all, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for (one, mut holds) in said {
            opened.push(one);
            all.append(&mut holds.listed);
            known.append(&mut holds.known);
        }
        // One that is away may know it; but a name that nothing here does is more often mistyped.
        if let Err(mut unknown) = refuse_unknown(&context, self.source.as_deref(), &known) {
            unknown
                .detail
                .extend(away.iter().map(|one| one.text("what it holds is not known").trim_end().to_owned()));
            return Err(unknown);
        }
        say_who_lacks(&context, &opened, &mut all);
        context.out.text(&text(&all, &away));
        context.out.document(&serde_json::json!({ "backups": all, "away": away }));
        Ok(Outcome::Done)
    }

    fn look(&self, context: &Context, one: &Opened) -> Result<Holds, Failure> {
        let mut holds = Holds { listed: Vec::new(), known: Vec::new() };
        let kept = retention::kept(context, one);
        let mut sources = usable_sources(context, one, &mut |name, failure| {
            if self.source.as_ref() == Some(&name) {
                return Err(failure);
            }
            context.out.warn(&is_covered(one, &name, &failure));
            holds.known.push(name);
            Ok(())
        })?;
        sources.sort_by_key(source_name);
        for source in sources {
            let name = source_name(&source);
            holds.known.push(name.clone());
            if self.source.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let commits = known_of(context, one, &source)?;
            let locks = locks_of(context, one, commits.iter().map(|known| &known.record));
            for KnownCommit { record, names } in commits {
                let mut listed = Listed::new(one, &name, &record, names.as_ref());
                listed.locked_until = locks.get(&record.commit.backup).copied();
                listed.retention = kept.get(&record.commit.backup).cloned();
                holds.listed.push(listed);
            }
        }
        Ok(holds)
    }
}

/// A name that neither repository nor configuration knows is an error; one that only the configuration knows has no
/// backup yet.
///
/// # Errors
/// As said.
pub(crate) fn refuse_unknown(
    context: &Context,
    wanted: Option<&str>,
    known: &[String],
) -> Result<(), Failure> {
    let Some(name) = wanted else { return Ok(()) };
    let configured = context.source_names();
    if known.iter().chain(&configured).any(|known| known == name) {
        return Ok(());
    }
    let place =
        context.global.repository.clone().unwrap_or_else(|| context.config_file.display().to_string());
    let mut known: Vec<String> = known.iter().chain(&configured).cloned().collect();
    known.sort();
    known.dedup();
    Err(CliError::NoSource { name: name.to_owned(), place, known }.into())
}

/// Tells of each backup which repositories of its source do not have it.
fn say_who_lacks(context: &Context, opened: &[Opened], all: &mut [Listed]) {
    let Some(config) = &context.config else { return };
    let mut holders: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for one in all.iter() {
        let holders = holders.entry((one.source.clone(), one.backup.clone())).or_default();
        holders.insert(one.repository.clone());
    }
    for one in all {
        let Some(source) = config.sources.values().find(|source| source.name.as_str() == one.source) else {
            continue;
        };
        let Some(holders) = holders.get(&(one.source.clone(), one.backup.clone())) else { continue };
        let answers = |name: &&str| opened.iter().any(|opened| opened.name == **name);
        let names = source.repositories.iter().map(RepositoryName::as_str).filter(answers);
        one.lacking = names.filter(|name| !holders.contains(*name)).map(str::to_owned).collect();
    }
}

/// Where a backup is, when there are several places, and what keeps it in each.
fn places(of: &[&Listed], several: bool) -> Vec<String> {
    let first = of[0];
    let mut remarks = Vec::new();
    if several {
        let names: Vec<&str> = of.iter().map(|one| one.repository.as_str()).collect();
        remarks.push(format!("in {}", names.join(", ")));
    }
    if !first.lacking.is_empty() {
        remarks.push(format!("not in {}", first.lacking.join(", ")));
    }
    if of.iter().all(|one| one.retention == first.retention) {
        remarks.extend(first.retention.clone());
    } else {
        let each =
            of.iter().filter_map(|one| Some(format!("{} {}", one.repository, one.retention.as_ref()?)));
        remarks.extend(each);
    }
    remarks
}

fn text(all: &[Listed], away: &[Away]) -> String {
    let mut out = backups_text(all);
    if all.is_empty() {
        out = if away.is_empty() { "no backups yet\n" } else { "no backups in what answers\n" }.to_owned();
    }
    for one in away {
        out.push_str(&one.text("what it holds is not listed"));
    }
    out
}

fn backups_text(all: &[Listed]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let several = all.iter().any(|one| one.repository != all[0].repository);
    let mut rows = vec![
        ["source", "backup", "type", "finished", "size", "stored", "needs", ""].map(str::to_owned).to_vec(),
    ];
    let mut together: BTreeMap<(&str, &str), Vec<&Listed>> = BTreeMap::new();
    for one in all {
        together.entry((&one.source, &one.backup)).or_default().push(one);
    }
    for one in all {
        // The same backup in several places is one line.
        let Some(of) = together.remove(&(one.source.as_str(), one.backup.as_str())) else { continue };
        let mut remarks: Vec<String> = one.label.iter().map(|label| format!("\"{label}\"")).collect();
        if one.bad_pages > 0 {
            remarks.push(format!("! {} damaged pages", one.bad_pages));
        }
        remarks.extend(one.own_wal.then(|| "carries its own WAL".to_owned()));
        remarks.extend(one.locked_until.map(|end| format!("locked until {}", time::moment(end))));
        let mut places = places(&of, several);
        places.append(&mut remarks);
        let remarks = places;
        rows.push(vec![
            one.source.clone(),
            one.backup.clone(),
            one.kind.to_owned(),
            time::moment(one.finished),
            ByteSize(one.source_bytes).to_string(),
            ByteSize(one.stored_bytes).to_string(),
            ByteSize(one.needed_bytes).to_string(),
            remarks.join("; "),
        ]);
    }
    table(&rows, &[4, 5, 6])
}
