//! What is settled before the server is put into backup mode: whose backup it is, under which keys, and what is in its way.

use std::sync::Arc;

use refloat_pg::control::{self, ControlFile};
use refloat_pg::sql::Session;
use refloat_repo::crypt::random;
use refloat_repo::crypt::seal::DataKey;
use refloat_repo::repository::{OwnerRecord, SourceDescription, Uses as Pins};
use refloat_repo::{Repository, layout};
use refloat_store::Store;
use refloat_types::{BackupId, ObjectId, SourceId, Timestamp};

use super::leftovers::{self, Crashed, Note, SourceLock};
use super::{BackupError, BackupRequest, others, standby, turn};
use crate::generation::{self, NewGeneration};
use crate::guard::{Guard, GuardRequest, SinceBoot};
use crate::locked::Locked;

/// What is known before anything is copied.
pub(super) struct Prepared<'a> {
    pub(super) guard: Guard<'a>,
    pub(super) id: BackupId,
    pub(super) source: SourceId,
    pub(super) started: Timestamp,
    pub(super) key: Option<Arc<DataKey>>,
    /// Seals page maps and the manifest: a key of its own where this host cannot read its data again.
    pub(super) map_key: Option<Arc<DataKey>>,
    pub(super) note: Arc<Note>,
    /// Where packs are written to.
    pub(super) packs: Arc<dyn Store>,
    /// What backups that died have left.
    pub(super) crashed: Crashed,
    pub(super) control: ControlFile,
    /// The server is a standby.
    pub(super) is_standby: bool,
    /// The source is another cluster than before.
    pub(super) generation: Option<NewGeneration>,
    pub(super) notes: Vec<String>,
    pub(super) cleared_packs: u64,
}

pub(super) fn refuse_locked(request: &BackupRequest<'_>) -> Result<(), BackupError> {
    let path = &request.data_directory;
    let locked = Locked::read(path)
        .map_err(|source| BackupError::Read { path: path.join(crate::locked::LOCK_FILE), source })?;
    match locked {
        None => Ok(()),
        Some(locked) => Err(BackupError::Locked {
            directory: path.clone(),
            source_name: locked.source,
            at: locked.at.to_string(),
        }),
    }
}

/// Looks at the server, the repository and what backups that died have left; refuses what cannot become a backup.
pub(super) fn prepare<'a>(
    request: &BackupRequest<'a>,
    session: &Session,
    lock: &SourceLock,
) -> Result<Prepared<'a>, BackupError> {
    let repository = request.repository;
    let now = request.clock.now();
    repository.ensure_enrolled(now)?;
    let (control, _) = control::read_settled(&request.data_directory)?;
    let is_standby = session.is_in_recovery()?;
    let mut notes = if is_standby { standby::admit(request, session, &control)? } else { Vec::new() };
    let major = session.info().major();
    let source = find_or_describe(request, &control, is_standby, major, now)?;
    let generation = generation::since_last(repository, source, control.system_identifier, major)?;
    turn::by_role(request, source, is_standby, now)?;
    let id = random::backup_id();
    let guard = guarded(request, source, id, now)?;
    turn::by_others(request, &guard, source, now)?;
    let mut header = leftovers::header(request, control.system_identifier);
    let (crashed, cleared_packs) = leftovers::survey(repository, source, lock, &guard, &header)?;
    let abandoned = clear_abandoned(repository, &request.repository_name);
    if cleared_packs + abandoned > 0 {
        let cleared_packs = cleared_packs + abandoned;
        notes.push(format!("cleared {cleared_packs} objects of a backup that did not finish"));
    }
    warn_about_clock(request, source, now, &mut notes)?;
    let key = repository.draw_key("backup", now)?;
    let map_key = if repository.can_read() { key.clone() } else { repository.draw_map_key(now)? };
    header.key = key.as_ref().map_or(ObjectId::NONE, |key| key.id());
    let note = Arc::new(Note::begin(repository, source, id, &header)?);
    Ok(Prepared {
        guard,
        id,
        source,
        started: now,
        key,
        map_key,
        note,
        packs: others::store(request),
        crashed,
        control,
        is_standby,
        generation,
        notes,
        cleared_packs,
    })
}

/// Clears what died before it was an object, and answers how much. Whatever keeps it from that is no reason to fail a backup:
/// the next one tries again, and a store that is really away is found out by what the backup has to do there.
pub(super) fn clear_abandoned(repository: &Repository, name: &str) -> u64 {
    match repository.store().clear_abandoned(layout::is_only_ours) {
        Ok(cleared) => cleared,
        // Where this host may only add, the store's own rules clear what was never finished.
        Err(error) if error.is_denied() => 0,
        Err(error) => {
            let cause = &error.source;
            tracing::warn!(repository = name, %error, %cause, "what was never finished stays until the next backup");
            0
        }
    }
}

/// The pin of this backup, and a look at what is being deleted. Until its parent is chosen it keeps the whole source.
fn guarded<'a>(
    request: &BackupRequest<'a>,
    source: SourceId,
    backup: BackupId,
    now: Timestamp,
) -> Result<Guard<'a>, BackupError> {
    let asked = GuardRequest {
        operation: "backup",
        backup: Some(backup),
        uses: Pins::Source(source),
        host: &request.host,
        now,
        uptime: Arc::new(SinceBoot),
        renew: true,
    };
    Ok(Guard::begin(request.repository, &asked)?)
}

/// The source in the repository. A cluster that is another one than before is refused, unless it can only be an upgrade of
/// that in its place.
fn find_or_describe(
    request: &BackupRequest<'_>,
    control: &ControlFile,
    is_standby: bool,
    major: u32,
    now: Timestamp,
) -> Result<SourceId, BackupError> {
    let repository = request.repository;
    let description = SourceDescription {
        name: request.source.clone(),
        kind: "postgres".to_owned(),
        host: request.host.clone(),
        data_directory: request.data_directory.display().to_string(),
    };
    let known = match repository.find_source(&request.source)? {
        None => repository.unreadable_source(control.system_identifier)?,
        known => known,
    };
    if let Some(known) = &known {
        let found = control.system_identifier;
        if let Some(system) = known.system.filter(|system| *system != found) {
            if !is_standby && generation::is_upgrade(repository, known, &description, control, major)? {
                return Ok(generation::begin(repository, known, &description, control, now)?.id);
            }
            return Err(BackupError::OtherCluster {
                name: request.source.to_string(),
                repository: request.repository_name.clone(),
                known: system,
                directory: request.data_directory.clone(),
                found,
            });
        }
        // A crash may have left an owner that is of another cluster.
        if !is_standby && repository.owner(known.id)?.is_none_or(|owner| owner.system != found) {
            generation::put_owner(repository, known.id, control, now)?;
        }
        // The description says where the source's own server is; a standby is another one.
        if is_standby || known.description.as_ref() == Some(&description) {
            return Ok(known.id);
        }
    }
    let id = known.as_ref().map(|k| k.id);
    let described = repository.describe_source(id, &description, control.system_identifier, now)?;
    if id.is_none() {
        let timeline = control.checkpoint.timeline;
        repository.put_owner(OwnerRecord {
            source: described.id,
            number: 0,
            at: now,
            system: control.system_identifier,
            timeline,
            fork_lsn: None,
            restored_from: None,
        })?;
    }
    Ok(described.id)
}

/// The order of backups never comes from a clock, but windows and ages do.
fn warn_about_clock(
    request: &BackupRequest<'_>,
    source: SourceId,
    now: Timestamp,
    notes: &mut Vec<String>,
) -> Result<(), BackupError> {
    let Some(last) = request.repository.commit_keys(source)?.pop() else { return Ok(()) };
    let finished = request.repository.read_commit(&last)?.commit.finished;
    if finished > now {
        notes.push(format!(
            "this host's clock says {now}, but the backup before this one was finished at {finished}: is the clock right?"
        ));
    }
    Ok(())
}
