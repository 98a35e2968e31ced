//! Who can read changes, and nothing that was stored does.

use refloat_repo::crypt::identity::Identity;
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{Credentials, Generation, Protection, Shown};
use refloat_repo::{KeyError, RepoError, Repository, StateDirectory};
use refloat_store::Store as _;
use refloat_types::Explain as _;

use super::opening::{Home, never, passphrase, refused};
use super::sample::{
    SYSTEM, expected_files, fill, now, objects, put_backup, put_wal, read_files, read_wal, wal_bytes,
    wal_name,
};

fn secret(text: &str) -> Protection {
    Protection::Passphrase(text.to_owned())
}

fn rotate(home: &Home, host: &str, to: &Protection) -> (Generation, Repository) {
    let generation = home.open(host, None, never).unwrap().rotate(to, now()).unwrap();
    (generation, home.open(host, None, never).unwrap())
}

#[test]
fn the_new_passphrase_opens_what_was_sealed_before_and_since() {
    let home = Home::new();
    let first = home.init(secret("old")).unwrap();
    let made = fill(&first);
    let before = objects(&home.store);
    let (generation, rotated) = rotate(&home, "first", &secret("new"));
    assert_eq!((generation.number, generation.has_passphrase), (1, true));
    assert_ne!(generation.recipients, first.marker().recipients);
    assert_eq!(rotated.fingerprint(), first.fingerprint());
    assert_eq!(rotated.agent(), first.agent());
    // Nothing that was there is another, and there is one object more.
    let after = objects(&home.store);
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|object| after.contains(object)));

    let old_key = first.writer_key(now()).unwrap().unwrap();
    let new_key = rotated.writer_key(now()).unwrap().unwrap();
    assert_ne!(old_key.id(), new_key.id(), "the day's key is drawn anew");
    let backup = put_backup(&rotated, made.source);
    let other = home.open("other", None, passphrase("new")).unwrap();
    assert_eq!(read_files(&other, made.source, made.backup).unwrap(), expected_files());
    assert_eq!(read_files(&other, made.source, backup).unwrap(), expected_files());
    assert_eq!(read_wal(&other).unwrap(), wal_bytes());
    assert_eq!(other.page_hasher().hash(b"page"), first.page_hasher().hash(b"page"));

    let wrong = refused(home.open("third", None, passphrase("old")));
    assert!(matches!(wrong, RepoError::WrongPassphrase { changed: Some(_), .. }), "{wrong:?}");
    assert!(wrong.to_string().ends_with("; it was changed at 2026-01-02T03:04:05Z"), "{wrong}");
    // Again, and the newest opens all three.
    let (generation, _) = rotate(&home, "other", &secret("newest"));
    assert_eq!(generation.number, 2);
    let last = home.open("last", None, passphrase("newest")).unwrap();
    for backup in [made.backup, backup] {
        assert_eq!(read_files(&last, made.source, backup).unwrap(), expected_files());
    }
    for (key, _) in objects(&home.store) {
        let named = Named::parse(&key).unwrap();
        if !matches!(named, Named::Pack(_) | Named::Wal(..)) {
            assert_eq!(last.inspect(&named).unwrap().opened, Ok(()), "{key}");
        }
    }
}

#[test]
fn a_host_that_was_left_behind_writes_on_and_says_what_to_do() {
    let home = Home::new();
    let first = home.init(secret("old")).unwrap();
    let made = fill(&first);
    let second = home.open("second", None, passphrase("old")).unwrap();
    second.writer_key(now()).unwrap();
    let (_, rotated) = rotate(&home, "first", &secret("new"));
    let new = put_backup(&rotated, made.source);

    let behind = home.open("second", None, never).unwrap();
    assert!(behind.is_behind() && behind.lacks_identity());
    assert_eq!(read_files(&behind, made.source, made.backup).unwrap(), expected_files(), "the old ones open");
    let error = read_files(&behind, made.source, new).unwrap_err();
    let RepoError::NoKey { source: KeyError::Rotated { have: 0, number: 1, .. }, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(error.advice().code, "KEY-004");
    assert!(error.advice().hints[0].ends_with("refloat init"));
    // What it writes is sealed to the new recipients: others read it.
    let own = put_backup(&behind, made.source);
    assert_eq!(read_files(&rotated, made.source, own).unwrap(), expected_files());
    assert!(matches!(behind.rotate(&secret("mine"), now()), Err(RepoError::NoKey { .. })));

    let wrong = behind.adopt(now(), &mut || Ok(Credentials::Passphrase("old".to_owned())));
    assert!(matches!(wrong, Err(RepoError::WrongPassphrase { .. })));
    behind.adopt(now(), &mut || Ok(Credentials::Passphrase("new".to_owned()))).unwrap();
    let follows = home.open("second", None, never).unwrap();
    assert!(!follows.lacks_identity());
    assert_eq!(follows.agent(), behind.agent());
    for backup in [made.backup, new, own] {
        assert_eq!(read_files(&follows, made.source, backup).unwrap(), expected_files());
    }
}

#[test]
fn a_generation_that_the_root_did_not_sign_adds_no_reader() {
    let (home, other) = (Home::new(), Home::new());
    let first = home.init(secret("x")).unwrap();
    let made = fill(&first);
    other.init(secret("y")).unwrap();
    rotate(&other, "first", &secret("z"));
    let key = layout::generation(layout::RECIPIENTS, 1);
    let forged = objects(&other.store).into_iter().find(|(found, _)| *found == key).unwrap().1;
    home.store.put_new(&key, &forged).unwrap();
    home.store.put_new(&layout::generation(layout::RECIPIENTS, 7), b"nonsense").unwrap();

    let again = home.open("first", None, never).unwrap();
    assert_eq!(again.generation().number, 0);
    let error = again.inspect(&Named::Generation(1)).unwrap_err();
    assert!(matches!(error, RepoError::UnknownOrigin { .. }), "{error:?}");
    assert!(matches!(again.inspect(&Named::Generation(7)), Err(RepoError::Damaged { .. })));
    let mut wrong = Vec::new();
    assert_eq!(again.list_generations(&mut |object, _| wrong.push(object.to_owned())).unwrap().len(), 1);
    assert_eq!(wrong, [key.as_str(), "keys/recipients/0000000007"]);
    let backup = put_backup(&again, made.source);
    let reader = home.open("reader", None, passphrase("x")).unwrap();
    assert_eq!(read_files(&reader, made.source, backup).unwrap(), expected_files());

    // A rotation takes the next name that is free, and counts.
    let (generation, _) = rotate(&home, "first", &secret("new"));
    assert_eq!(generation.number, 2);
    assert!(home.open("late", None, passphrase("new")).is_ok());
    // Under another number it is another object.
    let signed =
        objects(&home.store).into_iter().find(|(key, _)| key.as_str().ends_with("ts/0000000002")).unwrap().1;
    home.store.put_new(&layout::generation(layout::RECIPIENTS, 9), &signed).unwrap();
    let error = again.inspect(&Named::Generation(9)).unwrap_err();
    assert!(matches!(error, RepoError::Damaged { .. }), "{error:?}");
}

#[test]
fn an_agent_cannot_sign_a_generation() {
    use refloat_repo::kind::{Kind, Suite};
    use refloat_repo::object::document::{Body, Document, Signer};
    let home = Home::new();
    let first = home.init(secret("x")).unwrap();
    fill(&first);
    let thief = Identity::draw();
    let mine = Generation {
        number: 1,
        created: now(),
        suite: Suite::Standard,
        recipients: vec![thief.recipient()],
        has_passphrase: false,
    };
    let signer = Signer::Agent(first.signing());
    let id = refloat_repo::crypt::random::object_id();
    let body = br#"{"identity":null,"secrets":""}"#;
    let bytes = Document::encode(Kind::Recipients, Suite::Standard, id, &signer, &mine, &[], Body::Raw(body))
        .unwrap();
    home.store.put_new(&layout::generation(layout::RECIPIENTS, 1), &bytes).unwrap();
    assert_eq!(home.open("first", None, never).unwrap().generation().number, 0);
    let error = first.inspect(&Named::Generation(1)).unwrap_err();
    assert!(matches!(error, RepoError::UnknownOrigin { .. }), "{error:?}");
}

#[test]
fn taking_the_newest_generation_away_does_not_bring_the_old_recipients_back() {
    let home = Home::new();
    let first = home.init(secret("old")).unwrap();
    let made = fill(&first);
    let (generation, rotated) = rotate(&home, "first", &secret("new"));
    let reader = home.open("reader", None, passphrase("new")).unwrap();
    drop(rotated);
    home.store.delete(&layout::generation(layout::RECIPIENTS, 1)).unwrap();
    let again = home.open("first", None, never).unwrap();
    assert_eq!(again.generation(), &generation);
    let backup = put_backup(&again, made.source);
    assert_eq!(read_files(&reader, made.source, backup).unwrap(), expected_files());
    assert!(matches!(again.inspect(&Named::Generation(1)), Err(RepoError::Missing { .. })));
}

#[test]
fn every_recipient_opens_and_age_alone_does_too() {
    let home = Home::new();
    let (a, b, c) = (Identity::draw(), Identity::draw(), Identity::draw());
    let first = home.init(secret("old")).unwrap();
    let made = fill(&first);
    let to =
        Protection::Recipients { recipients: vec![a.recipient(), b.recipient()], identity: Some(a.clone()) };
    let (generation, rotated) = rotate(&home, "first", &to);
    assert!(!generation.has_passphrase);
    let backup = put_backup(&rotated, made.source);
    for (host, identity) in [("a", &a), ("b", &b)] {
        let reader = home.open(host, None, || Credentials::Identity(identity.clone())).unwrap();
        for backup in [made.backup, backup] {
            assert_eq!(read_files(&reader, made.source, backup).unwrap(), expected_files(), "{host}");
        }
    }
    let error = refused(home.open("c", None, || Credentials::Identity(c.clone())));
    assert!(matches!(error, RepoError::NoKey { source: KeyError::OtherRecipients { .. }, .. }), "{error:?}");

    // The documented way with the tools of others: the envelope's body is an age file.
    let record = rotated.find_commit(made.source, backup).unwrap().unwrap();
    let key = layout::envelope(record.commit.keys[0]);
    let bytes = objects(&home.store).into_iter().find(|(found, _)| *found == key).unwrap().1;
    let length = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let clear = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let body = &bytes[80 + clear + length(64)..][..length(72)];
    let identity: age::x25519::Identity = b.expose().parse().unwrap();
    let plain = age::decrypt(&identity, body).unwrap();
    assert_eq!(plain, rotated.open_key(record.commit.keys[0]).unwrap().expose());
}

#[test]
fn a_confirmation_is_of_its_generation() {
    let home = Home::new();
    let first = home.init(secret("old")).unwrap();
    fill(&first);
    assert!(first.confirmation().unwrap().is_some());
    let (_, rotated) = rotate(&home, "first", &secret("new"));
    assert_eq!(rotated.confirmation().unwrap(), None);
    assert!(rotated.try_passphrase("new").is_ok() && rotated.try_passphrase("old").is_err());
    let opens = rotated.try_passphrase("new").unwrap();
    assert_eq!(rotated.generation().recipients, std::slice::from_ref(&opens));
    rotated.put_confirmation(Shown::Entered, Some(opens.clone()), now()).unwrap();
    let counts = rotated.confirmation().unwrap().unwrap();
    assert_eq!((counts.generation, counts.opens), (1, Some(opens)));
    // One of a key that opens nothing of this generation says nothing about it.
    rotated.put_confirmation(Shown::Declared, Some(Identity::draw().recipient()), now()).unwrap();
    assert_eq!(rotated.confirmation().unwrap(), None);
}

#[test]
#[cfg(feature = "failpoints")]
fn a_crash_leaves_the_old_or_the_new() {
    use refloat_types::fault;
    for (point, there) in [("rotate.before_generation", false), ("rotate.after_generation", true)] {
        let home = Home::new();
        let first = home.init(secret("old")).unwrap();
        let made = fill(&first);
        fault::arm(&format!("{point}=error"));
        assert!(first.rotate(&secret("new"), now()).is_err());
        fault::arm("");
        let opens = |text: &str| home.open(text, None, passphrase(text)).is_ok();
        assert_eq!((opens("old"), opens("new")), (!there, there), "{point}");
        // The host itself writes on, and reads again like any other host.
        let again = home.open("first", None, never).unwrap();
        let backup = put_backup(&again, made.source);
        if there {
            again.adopt(now(), &mut || Ok(Credentials::Passphrase("new".to_owned()))).unwrap();
        }
        let again = home.open("first", None, never).unwrap();
        assert_eq!(read_files(&again, made.source, backup).unwrap(), expected_files());
    }
}

#[test]
fn encryption_is_turned_on_and_not_off() {
    let home = Home::new();
    let first = home.init(Protection::None).unwrap();
    let made = fill(&first);
    let second = home.open("second", None, || Credentials::Unencrypted).unwrap();
    assert!(matches!(second.rotate(&secret("x"), now()), Err(RepoError::NoRoot { .. })));
    let (_, on) = rotate(&home, "first", &secret("new"));
    assert!(on.is_encrypted() && on.can_read());
    assert_eq!(on.naming_key(), first.naming_key(), "names of stored WAL are made with it");
    assert_ne!(on.page_hasher().hash(b"page"), first.page_hasher().hash(b"page"));
    assert!(matches!(on.rotate(&Protection::None, now()), Err(RepoError::EncryptionDiffers { .. })));

    let bytes: Vec<u8> = wal_bytes().into_iter().map(|byte| byte ^ 0x55).collect();
    put_wal(&on, &bytes).unwrap();
    let backup = put_backup(&on, made.source);
    let stored = objects(&home.store);
    let new: Vec<_> = stored.iter().filter(|(key, _)| key.as_str().starts_with("wal/")).collect();
    assert_eq!(new.iter().filter(|(_, bytes)| bytes[11] == 1).count(), 1, "one plain, one sealed");

    let reader = home.open("reader", None, passphrase("new")).unwrap();
    for backup in [made.backup, backup] {
        assert_eq!(read_files(&reader, made.source, backup).unwrap(), expected_files());
    }
    assert_eq!(reader.find_wal(SYSTEM, wal_name()).unwrap().len(), 2);
    assert!(reader.ensure_enrolled(now()).is_ok(), "the root key is behind the passphrase now");
    for (key, _) in &stored {
        let named = Named::parse(key).unwrap();
        if !matches!(named, Named::Pack(_) | Named::Wal(..)) {
            assert_eq!(reader.inspect(&named).unwrap().opened, Ok(()), "{key}");
        }
    }
    // The other host seals what it writes, reads what is not sealed, and is told what to do.
    let behind = home.open("second", None, never).unwrap();
    assert!(behind.is_encrypted() && !behind.can_read());
    assert_eq!(read_files(&behind, made.source, made.backup).unwrap(), expected_files());
    let error = read_files(&behind, made.source, backup).unwrap_err();
    assert_eq!(error.advice().code, "KEY-004", "{error:?}");
    let plain = refused(home.open("fourth", None, || Credentials::Unencrypted));
    assert!(matches!(plain, RepoError::EncryptionDiffers { .. }), "{plain:?}");
    // And the root seed lies on no disk in the clear any more.
    let state = StateDirectory::new(home.state.path().join("first"));
    let root = format!("repositories/{}/root.json", on.marker().id);
    assert!(state.read::<String>(&root).unwrap().is_none());
}

/// Seals every key again, as the command does.
fn rewrap(repository: &Repository, delete_old: bool) -> Result<(u64, u64), RepoError> {
    let (mut sealed, mut deleted) = (0, 0);
    for stored in repository.list_data_keys()? {
        sealed += u64::from(repository.rewrap_key(&stored)? == refloat_repo::repository::Rewrapped::Sealed);
    }
    if delete_old {
        for stored in repository.list_data_keys()? {
            deleted += repository.delete_old_envelopes(&stored)?;
        }
    }
    Ok((sealed, deleted))
}

#[test]
fn keys_that_were_sealed_again_open_without_the_old_identity() {
    let home = Home::new();
    let (old, new) = (Identity::draw(), Identity::draw());
    let to = |identity: &Identity| Protection::Recipients {
        recipients: vec![identity.recipient()],
        identity: Some(identity.clone()),
    };
    let first = home.init(to(&old)).unwrap();
    let made = fill(&first);
    let (_, rotated) = rotate(&home, "first", &to(&new));
    // An identity that a person keeps goes nowhere: who has only the new one cannot open what is older.
    let reader = || home.open("reader", None, || Credentials::Identity(new.clone())).unwrap();
    let error = read_files(&reader(), made.source, made.backup).unwrap_err();
    assert!(matches!(error, RepoError::NoKey { source: KeyError::OtherRecipients { .. }, .. }), "{error:?}");
    let stored = reader().list_data_keys().unwrap();
    assert!(reader().rewrap_key(&stored[0]).is_err());
    assert!(matches!(rotated.delete_old_envelopes(&stored[0]), Err(RepoError::Damaged { .. })));

    let before = objects(&home.store);
    let count = stored.len() as u64;
    assert!(count >= 2, "a backup's and a writer's");
    assert_eq!(rewrap(&rotated, false).unwrap(), (count, 0));
    assert_eq!(rewrap(&rotated, false).unwrap(), (0, 0), "it is done once");
    let after = objects(&home.store);
    assert!(before.iter().all(|object| after.contains(object)), "nothing was touched");
    assert_eq!(read_files(&reader(), made.source, made.backup).unwrap(), expected_files());
    assert_eq!(read_wal(&reader()).unwrap(), wal_bytes());

    assert_eq!(rewrap(&rotated, true).unwrap(), (0, count));
    for host in [reader(), home.open("first", None, never).unwrap()] {
        assert_eq!(read_files(&host, made.source, made.backup).unwrap(), expected_files());
        assert_eq!(read_wal(&host).unwrap(), wal_bytes());
        for stored in host.list_data_keys().unwrap() {
            assert!(!stored.first);
            let facts = host.key_facts(&stored).unwrap();
            assert_eq!((facts.generation, facts.opens), (1, Ok(())));
        }
    }
    // The old identity opens none of what is left.
    for (key, bytes) in objects(&home.store) {
        if key.as_str().starts_with(layout::ENVELOPES) {
            let at = bytes.windows(21).position(|part| part == b"age-encryption.org/v1").unwrap();
            let body = &bytes[at..bytes.len() - 64];
            assert!(old.open(body).is_err() && new.open(body).is_ok(), "{key}");
        }
    }
}

/// Any agent can sign an envelope. One with a key of its own must neither be taken for the key nor take its place.
#[test]
fn an_envelope_with_another_key_displaces_none() {
    use refloat_repo::crypt::identity::seal_to;
    use refloat_repo::crypt::random;
    use refloat_repo::crypt::seal::DataKey;
    use refloat_repo::kind::{Kind, Suite};
    use refloat_repo::object::Body;
    use refloat_repo::object::document::{Document, Signer};
    let home = Home::new();
    let first = home.init(secret("one")).unwrap();
    let made = fill(&first);
    let (_, rotated) = rotate(&home, "first", &secret("two"));
    let mut forged = Vec::new();
    for stored in rotated.list_data_keys().unwrap() {
        let bytes: [u8; 32] = random::bytes();
        let key = DataKey::from_parts(stored.id, bytes);
        let clear = serde_json::json!({
            "key": stored.id, "purpose": "backup", "created": now(), "generation": 1,
            "commitment": refloat_types::hex::encode(&key.commitment()),
        });
        let sealed = seal_to(&rotated.generation().recipients, &bytes).unwrap();
        let signer = Signer::Agent(first.signing());
        let id = random::object_id();
        let document =
            Document::encode(Kind::Envelope, Suite::Standard, id, &signer, &clear, &[], Body::Raw(&sealed));
        let object = layout::rewrapped(stored.id, 1);
        home.store.put_new(&object, &document.unwrap()).unwrap();
        forged.push(object);
    }
    let before = objects(&home.store);
    for stored in rotated.list_data_keys().unwrap() {
        let error = rotated.rewrap_key(&stored).unwrap_err();
        assert!(matches!(error, RepoError::Damaged { .. }), "{error:?}");
        assert!(rotated.delete_old_envelopes(&stored).is_err());
    }
    assert_eq!(objects(&home.store), before, "nothing was deleted");
    // With the old identity, which the new passphrase opens too, everything is read as before.
    let reader = home.open("reader", None, passphrase("two")).unwrap();
    assert_eq!(read_files(&reader, made.source, made.backup).unwrap(), expected_files());
    for object in forged {
        home.store.delete(&object).unwrap();
    }
    assert_eq!(rewrap(&rotated, true).unwrap().1, rotated.list_data_keys().unwrap().len() as u64);
    assert_eq!(read_files(&reader, made.source, made.backup).unwrap(), expected_files());
}

#[test]
#[cfg(feature = "failpoints")]
fn sealing_again_goes_on_where_it_was_killed() {
    use refloat_types::fault;
    for (point, deletes) in
        [("rewrap.before_envelope", false), ("rewrap.after_envelope", false), ("rewrap.before_delete", true)]
    {
        let home = Home::new();
        let first = home.init(secret("old")).unwrap();
        let made = fill(&first);
        let (_, rotated) = rotate(&home, "first", &secret("new"));
        fault::arm(&format!("{point}=error@2"));
        assert!(rewrap(&rotated, deletes).is_err(), "{point}");
        fault::arm("");
        let readable = || {
            for host in ["first", "reader"] {
                let reader = home.open(host, None, passphrase("new")).unwrap();
                assert_eq!(
                    read_files(&reader, made.source, made.backup).unwrap(),
                    expected_files(),
                    "{point}"
                );
                assert_eq!(read_wal(&reader).unwrap(), wal_bytes(), "{point}");
            }
        };
        readable();
        rewrap(&rotated, true).unwrap();
        readable();
        for stored in rotated.list_data_keys().unwrap() {
            assert!(!stored.first && stored.again.len() == 1, "{point}: {stored:?}");
        }
    }
}
