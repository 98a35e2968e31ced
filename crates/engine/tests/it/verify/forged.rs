//! What somebody with write access to the store adds is refused and named.

use refloat_engine::verify::{Finding, FindingKind, Grade, VerifyReport};
use refloat_repo::layout::Named;
use refloat_store::{Key, Store as _};

use super::small::{Small, objects, verify_all};

fn about<'a>(report: &'a VerifyReport, key: &Key) -> &'a Finding {
    report.findings.iter().find(|finding| finding.names(key.as_str())).unwrap()
}

#[test]
fn objects_of_another_repository_are_strangers() {
    for (ours, theirs) in [
        (Small::encrypted(), Small::encrypted()),
        (Small::plain(), Small::plain()),
        (Small::encrypted(), Small::plain()),
        (Small::plain(), Small::encrypted()),
    ] {
        let known = objects(&ours.store);
        for (key, bytes) in objects(&theirs.store) {
            let named = Named::parse(&key).unwrap();
            // What has the same name here cannot be added, only put in its place: that is a swap, tested elsewhere.
            if known.iter().any(|(known, _)| *known == key) {
                continue;
            }
            ours.store.put_new(&key, &bytes).unwrap();
            let report = verify_all(&ours.repository, true, 1);
            ours.store.delete(&key).unwrap();
            let finding = about(&report, &key);
            match named {
                // Nothing names it, so nothing is deceived by it.
                Named::Pack(_) => assert_eq!(finding.grade, Grade::Note, "{finding}"),
                Named::Agent(_) => {
                    assert_eq!(finding.kind, FindingKind::UnknownOrigin, "{finding}");
                    assert!(report.needs_attention());
                }
                _ => assert!(finding.grade >= Grade::Attention, "{finding}"),
            }
            let whole = report.backups.iter().filter(|backup| ours.backups.contains(&backup.name.id));
            assert_eq!(whole.count(), 2, "its own backups are not touched by {key}");
            assert!(report.backups.iter().all(|backup| ours.backups.contains(&backup.name.id)));
        }
    }
}

#[test]
fn a_backup_signed_by_a_stranger_who_brings_his_enrolment_is_refused() {
    let (ours, theirs) = (Small::plain(), Small::plain());
    let before = objects(&ours.store).len();
    for (key, bytes) in objects(&theirs.store) {
        if !matches!(Named::parse(&key), Some(Named::Repository | Named::Confirmation(_))) {
            let _ = ours.store.put_new(&key, &bytes);
        }
    }
    assert!(objects(&ours.store).len() > before + 20);
    let report = verify_all(&ours.repository, true, 1);
    for id in theirs.backups {
        assert!(report.backups.iter().all(|backup| backup.name.id != id), "{id} is believed");
        let named = report.findings.iter().any(|finding| {
            finding.kind == FindingKind::UnknownOrigin
                && finding.depends.backups.iter().any(|backup| backup.id == id)
        });
        assert!(named, "{id} is not named");
    }
    let mut wrong = 0;
    let commits = ours.repository.list_commits(theirs.source, &mut |_, _| wrong += 1).unwrap();
    assert_eq!((commits.len(), wrong), (0, 2));
}

#[test]
fn what_is_no_object_is_named_and_what_a_later_release_writes_is_no_damage() {
    let small = Small::encrypted();
    let put = |key: &str, bytes: &[u8]| small.store.put_new(&key.parse().unwrap(), bytes).unwrap();
    put("README.txt", b"do not delete");
    put("packs/readme", b"");
    let envelope = objects(&small.store).into_iter().find(|(key, _)| key.as_str().starts_with("keys/data/"));
    let (_, mut bytes) = envelope.unwrap();
    put("keys/data/misplaced", &bytes);
    bytes[8] = 2;
    put("pins/0000000001", &bytes);
    let report = verify_all(&small.repository, false, 1);
    let kind = |key: &str| about(&report, &key.parse().unwrap()).kind;
    assert_eq!(kind("README.txt"), FindingKind::Foreign);
    assert_eq!(kind("packs/readme"), FindingKind::Foreign);
    assert_eq!(kind("keys/data/misplaced"), FindingKind::Foreign);
    assert_eq!(kind("pins/0000000001"), FindingKind::NewerFormat);
    assert!(report.backups.iter().all(|backup| backup.restorable && backup.recoverable));
}

#[test]
fn a_missing_wal_segment_tells_backups_and_moments() {
    let small = Small::encrypted();
    let wal = super::small::real_wal();
    let find = |number: usize| {
        let name = format!("/{}-", wal.segments[number]);
        objects(&small.store).into_iter().find(|(key, _)| key.as_str().contains(&name)).unwrap().0
    };
    let (needed, later) = (find(1), find(4));
    let (_, kept) = objects(&small.store).into_iter().find(|(key, _)| *key == later).unwrap();
    small.store.delete(&later).unwrap();
    let report = verify_all(&small.repository, false, 1);
    let finding = report.findings.iter().find(|finding| finding.kind == FindingKind::Gap).unwrap();
    assert!(later.as_str().starts_with(&finding.object));
    assert!(finding.depends.backups.is_empty());
    assert_eq!(finding.depends.recovery.len(), 2, "{finding}");
    let stretch = &finding.depends.wal[0];
    assert_eq!((stretch.first.as_str(), stretch.count), (wal.segments[4].to_string().as_str(), 1));
    assert!(stretch.after.is_some() && stretch.before.is_some(), "{finding}");
    assert!(report.backups.iter().all(|backup| backup.restorable && !backup.recoverable));
    assert_eq!(report.objects.present + 1, report.objects.expected);
    small.store.put_new(&later, &kept).unwrap();

    // The first backup relies on the archive, the second has its own.
    small.store.delete(&needed).unwrap();
    let report = verify_all(&small.repository, false, 1);
    let finding = report.findings.iter().find(|finding| finding.kind == FindingKind::Gap).unwrap();
    let unusable: Vec<_> = finding.depends.backups.iter().map(|backup| backup.id).collect();
    assert_eq!(unusable, [small.backups[0]], "{finding}");
    let restorable: Vec<bool> = report.backups.iter().map(|backup| backup.restorable).collect();
    assert_eq!(restorable, [false, true]);
}

#[test]
fn two_different_segments_of_one_name_are_a_conflict() {
    let small = Small::plain();
    let wal = super::small::real_wal();
    // The same records, and another byte in the zeros behind the switch is no WAL; so another server's segment it is: the
    // stored one with its last bytes changed, signed anew by a host of ours.
    let name = wal.segments[3];
    let mut bytes = std::fs::read(wal.directory.path().join(name.to_string())).unwrap();
    let at = bytes.len() - 1;
    bytes[at] = 1;
    let repository = &small.repository;
    let mut digest = refloat_repo::wal_object::WalDigest::new(repository.naming_key());
    digest.update(&bytes);
    let new = refloat_repo::wal_object::NewWal {
        name: refloat_types::WalFileName::Segment(name),
        system: wal.system,
        size: bytes.len() as u64,
        digest: digest.finish(),
        stored: refloat_types::Timestamp::UNIX_EPOCH,
        facts: serde_json::Value::Null,
        sealed_facts: serde_json::Value::Null,
        compression: refloat_repo::Compression::default(),
        key: None,
        signing: repository.signing(),
    };
    let frames = refloat_repo::wal_object::WalFrames::of(new.compression, &bytes).unwrap();
    let (key, _) = repository.put_wal(&new, &frames).unwrap();
    let report = verify_all(repository, true, 1);
    let conflict = report.findings.iter().find(|finding| finding.kind == FindingKind::Conflict).unwrap();
    assert!(key.as_str().starts_with(&conflict.object), "{conflict}");
    assert_eq!(conflict.depends.recovery.len(), 2, "{conflict}");
    // Signed, whole, and not what PostgreSQL writes.
    assert_eq!(about(&report, &key).kind, FindingKind::BadWal);
}

/// A rotation, keys that were sealed again, and a host that was invited: damaged, missing or forged, each is named.
#[test]
fn what_changes_keys_is_looked_at_too() {
    use refloat_repo::crypt::identity::Identity;
    use refloat_repo::layout;
    use refloat_repo::repository::Protection;
    use refloat_repo::{Repository, StateDirectory};
    use refloat_types::{Clock as _, SystemClock};
    use std::sync::Arc;

    let small = Small::encrypted();
    let now = SystemClock.now();
    let state = |host: &str| StateDirectory::new(small.state.path().join(host));
    let store = || Arc::new(small.store.clone());
    let opened =
        || Repository::open(store(), state("first"), None, now, &mut || panic!("it is known")).unwrap();
    let known = objects(&small.store);
    let identity = Identity::draw();
    let recipients = vec![identity.recipient()];
    small.repository.rotate(&Protection::Recipients { recipients, identity: Some(identity) }, now).unwrap();
    let repository = opened();
    for stored in repository.list_data_keys().unwrap() {
        repository.rewrap_key(&stored).unwrap();
    }
    for stored in repository.list_data_keys().unwrap() {
        repository.delete_old_envelopes(&stored).unwrap();
    }
    let (token, _) = repository.invite(std::time::Duration::from_secs(3600), now).unwrap();
    let writer = Repository::accept(store(), state("writer"), &token, now).unwrap();
    small.record(&writer, "backup", None);

    let report = verify_all(&opened(), true, 1);
    let bad: Vec<String> =
        report.findings.iter().filter(|f| f.grade > Grade::Note).map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let new: Vec<(Key, Vec<u8>)> = objects(&small.store)
        .into_iter()
        .filter(|(key, _)| !known.iter().any(|(old, _)| old == key))
        .collect();
    let begin = |key: &Key| key.as_str().split('/').next().unwrap().to_owned();
    let begins: std::collections::BTreeSet<String> = new.iter().map(|(key, _)| begin(key)).collect();
    assert_eq!(begins.into_iter().collect::<Vec<_>>(), ["agents", "invitations", "keys", "operations"]);
    let mut unmissed = Vec::new();
    for (key, bytes) in &new {
        for at in [0, 9, 20, 70, bytes.len() / 2, bytes.len() - 1] {
            small.store.damage(key, |now| now[at] ^= 0x40);
            let report = verify_all(&opened(), true, 1);
            small.store.damage(key, |now| now.clone_from(bytes));
            assert!(report.needs_attention(), "{key}, byte {at}");
            assert!(report.findings.iter().any(|f| f.names(key.as_str())), "{key}, byte {at}");
        }
        small.store.delete(key).unwrap();
        let report = verify_all(&opened(), true, 1);
        small.store.put_new(key, bytes).unwrap();
        if !report.needs_attention() {
            unmissed.push(begin(key));
        }
    }
    // The last record of an agent is missed by nobody, as is said; nor are keys that nothing needs: of a backup that died,
    // and of pins that are gone.
    unmissed.sort();
    assert_eq!(unmissed, ["keys", "keys", "operations"]);
    // A generation that another root signed adds no reader, and is named.
    let theirs = Small::encrypted();
    let thief = Identity::draw();
    let recipients = vec![thief.recipient()];
    theirs.repository.rotate(&Protection::Recipients { recipients, identity: Some(thief) }, now).unwrap();
    let name = |number| layout::generation(layout::RECIPIENTS, number);
    let (_, forged) = objects(&theirs.store).into_iter().find(|(key, _)| *key == name(1)).unwrap();
    small.store.put_new(&name(2), &forged).unwrap();
    let report = verify_all(&opened(), true, 1);
    assert_eq!(about(&report, &name(2)).kind, FindingKind::UnknownOrigin);
    assert_eq!(opened().generation().number, 1);
    assert!(report.backups.iter().all(|backup| backup.restorable));
}
