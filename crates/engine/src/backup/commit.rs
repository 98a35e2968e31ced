//! The end of a backup: its manifest and its commit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use refloat_pg::sql::StartPoint;
use refloat_repo::commit::{ClusterPoint, Commit, CommitNames, PackUse, Sizes};
use refloat_repo::crypt::page_hash::PageKey;
use refloat_repo::manifest::root::RootRef;
use refloat_repo::manifest::{Entry, ManifestWriter, Reading, What};
use refloat_repo::pack::PackSummary;
use refloat_repo::{RepoError, Repository, layout};
use refloat_types::{ByteSize, ObjectId, Timestamp};

use super::files::{FileToCopy, Listed, Listing};
use super::parent::{Choice, Held, Parent, Trust, Uses};
use super::places::PlaceReader;
use super::prepare::Prepared;
use super::run::{Copied, page_key};
use super::{BackupError, BackupReport, BackupRequest};
use crate::guard::GuardError;

/// Writes the manifest and the commit.
pub(super) fn commit(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    start: &StartPoint,
    (choice, held): (Choice, Option<Held>),
    copied: Copied,
    began: Instant,
) -> Result<(BackupReport, CommitNames), BackupError> {
    let Choice { kind, parent, notes: choice_notes } = choice;
    let parent = parent.as_ref();
    request.progress.phase("commit", 0);
    let repository = request.repository;
    let mut names = names(request, &copied);
    names.bad_pages = copied.bad_pages.iter().map(|p| (p.path.clone(), u64::from(p.block))).collect();
    let mut notes = prepared.notes.clone();
    notes.extend(choice_notes);
    notes.extend(copied.lost.note());
    notes.extend(copied.listing.notes.iter().cloned());
    if copied.collected.suspects_dropped > 0 {
        notes.push(format!(
            "{} more pages looked wrong and were not read again",
            copied.collected.suspects_dropped
        ));
    }
    let bad_pages = copied.bad_pages.len() as u64 + copied.collected.suspects_dropped;
    let (stop, own_wal, read) = (copied.stop.clone(), copied.own_wal, copied.read);
    let stop_record = copied.stop_record;
    let archiver_failing = copied.failing.clone();
    let (reported_bad, uses) = (copied.bad_pages.clone(), copied.uses.clone());
    let reading = reading_of(request, prepared, parent, copied.read_from);
    let written = write_manifest(request, copied, reading, page_key(repository, parent))?;
    let own: u64 = written.summaries.iter().flat_map(|summary| &summary.packs).map(|pack| pack.size).sum();
    let older = parent.map_or(&[][..], |parent| &parent.record.packs).iter().chain(prepared.crashed.packs());
    let packs = pack_uses(&written.summaries, &uses, older);
    let reused: u64 = prepared.crashed.packs().filter_map(|pack| uses.get(&pack.id)).sum();
    if reused > 0 {
        notes.push(format!("{} of a backup that did not finish were not stored again", ByteSize(reused)));
    }
    let sizes = Sizes { entries: written.entries, source: written.bytes, read, stored: own };
    let mut keys: Vec<ObjectId> = prepared.key.iter().map(|key| key.id()).collect();
    keys.extend(packs.iter().map(|pack| pack.key).filter(|key| *key != ObjectId::NONE));
    keys.sort_unstable();
    keys.dedup();
    if !uses.is_empty() {
        present(repository, prepared, &packs, &written.summaries)?;
    }
    if let Some(held) = held {
        let older = packs.iter().filter(|pack| uses.contains_key(&pack.id));
        notes.extend(held.extend(repository, older, prepared.guard.store_now()));
    }
    let control = &prepared.control;
    let commit = Commit {
        source: prepared.source,
        backup: prepared.id,
        number: repository.next_commit_number(prepared.source)?,
        kind,
        parent: parent.map(Parent::id),
        started: prepared.started,
        finished: request.clock.now(),
        cluster: ClusterPoint {
            system: control.system_identifier,
            timeline: start.timeline,
            start_lsn: start.lsn,
            stop_lsn: stop.lsn,
            // A standby's end is a moment of its primary, which it may be far behind.
            start_time: start.server_time.min(stop.server_time),
            stop_time: stop.server_time,
            wal_segment_size: start.wal_segment_size.bytes() as u32,
            server_version: written.server_version,
            checksums: control.checksum_version != 0,
            standby: prepared.is_standby,
            stop_record,
        },
        sizes,
        keys,
        root: written.root,
        own_wal,
        bad_pages,
    };
    prepared.guard.before_commit(&commit, &packs)?;
    repository.put_commit(&commit, &packs, &names, prepared.key.as_deref())?;
    prepared.guard.after_commit(&commit, &packs)?;
    prepared.note.done()?;
    let report = BackupReport {
        backup: prepared.id,
        number: commit.number,
        kind: kind.as_str(),
        parent: parent.map(Parent::id),
        source: request.source.to_string(),
        start_lsn: start.lsn,
        stop_lsn: stop.lsn,
        stop_time: stop.server_time,
        entries: sizes.entries,
        source_bytes: sizes.source,
        read_bytes: sizes.read,
        stored_bytes: sizes.stored,
        reused_bytes: reused,
        seconds: began.elapsed().as_secs_f64(),
        own_wal,
        archiver_failing,
        new_generation: prepared.generation.clone(),
        bad_pages: reported_bad,
        notes,
        cleared_packs: prepared.cleared_packs,
        others: Vec::new(),
    };
    Ok((report, names))
}

fn names(request: &BackupRequest<'_>, copied: &Copied) -> CommitNames {
    let sizes = copied.facts.cluster.databases.iter();
    CommitNames {
        source_name: request.source.to_string(),
        host: request.host.clone(),
        data_directory: request.data_directory.display().to_string(),
        label: request.label.clone(),
        databases: sizes.map(|d| (d.name.clone(), d.size_bytes.unwrap_or(0))).collect(),
        bad_pages: Vec::new(),
    }
}

/// A manifest that is stored.
struct Written {
    root: RootRef,
    summaries: Vec<PackSummary>,
    entries: u64,
    bytes: u64,
    server_version: u32,
}

fn write_manifest(
    request: &BackupRequest<'_>,
    copied: Copied,
    reading: Reading,
    page_key: PageKey,
) -> Result<Written, BackupError> {
    let Copied { listing, late, collected, data, stop, facts, outside, .. } = copied;
    let outside_bytes = json(&outside)?;
    let mut packer = collected.packer;
    let (mut entries, mut bytes) = (0, 0);
    let mut writer = ManifestWriter::new(&mut packer);
    merge(&listing, late, collected.places, |entry| {
        if let What::File { size, .. } = entry.what {
            bytes += size;
        }
        entries += 1;
        writer.push(&entry)
    })?;
    writer.blob("backup_label", &stop.label)?;
    writer.blob("tablespace_map", &stop.tablespace_map)?;
    writer.blob_of("facts", &mut facts.json(listing.top_mode)?)?;
    writer.blob("outside_files", &outside_bytes)?;
    writer.blob("configuration", request.configuration.as_bytes())?;
    writer.reading(reading);
    writer.page_key(page_key);
    let root = writer.finish()?;
    let mut summaries = data;
    summaries.push(packer.finish()?);
    let server_version = facts.cluster.server.version_number;
    Ok(Written { root, summaries, entries, bytes, server_version })
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value).map_err(|_| BackupError::Internal("its facts cannot be written"))
}

/// All entries in the order of their paths; files that vanished are left out.
fn merge(
    listing: &Listing,
    mut late: Vec<FileToCopy>,
    mut places: PlaceReader,
    mut each: impl FnMut(Entry) -> Result<(), RepoError>,
) -> Result<(), RepoError> {
    late.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let mut late = late.into_iter().peekable();
    let mut entries = listing.entries();
    // The last ones have their leaves behind those of the listing: another reader spares going back and forth.
    let mut late_places = places.again();
    loop {
        let listed = entries.next()?;
        let path = match &listed {
            Some(Listed::File(file)) => Some(&file.entry.path),
            Some(Listed::Other(entry)) => Some(&entry.path),
            None => None,
        };
        while let Some(file) = late.next_if(|file| path.is_none_or(|path| file.entry.path < *path)) {
            whole(file, &mut late_places)?.map_or(Ok(()), &mut each)?;
        }
        match listed {
            Some(Listed::File(file)) => whole(file, &mut places)?.map_or(Ok(()), &mut each)?,
            Some(Listed::Other(entry)) => each(entry)?,
            None => return Ok(()),
        }
    }
}

/// A file with its leaves; `None` when it vanished.
fn whole(file: FileToCopy, places: &mut PlaceReader) -> Result<Option<Entry>, RepoError> {
    let known = places.file(file.place, file.spans())?;
    let What::File { stat, .. } = file.entry.what else { return Ok(None) };
    let what = What::File { size: known.size, stat, leaves: known.leaves.into() };
    Ok((!known.vanished).then_some(Entry { what, ..file.entry }))
}

/// Every pack that the backup needs: its own, and those that were there already.
fn pack_uses<'a>(
    summaries: &[PackSummary],
    uses: &Uses,
    older: impl Iterator<Item = &'a PackUse>,
) -> Vec<PackUse> {
    let mut live: BTreeMap<ObjectId, u64> = BTreeMap::new();
    for summary in summaries {
        live.extend(&summary.live);
    }
    let own = summaries.iter().flat_map(|s| &s.packs);
    let own = own.map(|p| PackUse {
        id: p.id,
        key: p.key,
        size: p.size,
        live: live.get(&p.id).copied().unwrap_or(0),
    });
    let used = older.filter_map(|pack| {
        let live = uses.get(&pack.id)?;
        Some(PackUse { live: (*live).min(pack.size), ..*pack })
    });
    let mut packs: Vec<PackUse> = own.chain(used).collect();
    packs.sort_by_key(|p| p.id);
    packs
}

/// The packs that were there before are still there, and whole: nobody else looks before this backup is needed.
fn present(
    repository: &Repository,
    prepared: &Prepared<'_>,
    packs: &[PackUse],
    own: &[PackSummary],
) -> Result<(), BackupError> {
    let own: BTreeSet<ObjectId> = own.iter().flat_map(|summary| &summary.packs).map(|pack| pack.id).collect();
    let older: Vec<PackUse> = packs.iter().filter(|pack| !own.contains(&pack.id)).copied().collect();
    match crate::packs::lacking(repository, &older)? {
        None => Ok(()),
        Some(pack) if prepared.crashed.packs().any(|crashed| crashed.id == pack) => {
            Err(GuardError::Gone { object: layout::pack(pack).to_string(), count: 1 }.into())
        }
        Some(pack) => Err(BackupError::ParentPack { pack: layout::pack(pack).to_string() }),
    }
}

/// What a later backup must know before it believes that a file has not changed.
fn reading_of(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    parent: Option<&Parent>,
    began: Timestamp,
) -> Reading {
    // The checkpoint that began the backup has waited for every write that was on its way before it. One that began later
    // may have set the file's time already, and be held up by the disk until after the file was read.
    let began = began.min(prepared.started);
    let unread = parent.filter(|parent| matches!(parent.trust, Trust::Before(_)));
    let everything = unread.and_then(Parent::last_read).unwrap_or(prepared.started).min(began);
    Reading { machine: request.machine.clone(), began, everything }
}
