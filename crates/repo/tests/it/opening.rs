//! Making a repository, and finding it again with what is left: a passphrase, an identity, a fingerprint, or nothing.

use std::sync::Arc;

use refloat_repo::crypt::identity::Identity;
use refloat_repo::layout;
use refloat_repo::repository::{Credentials, InitOptions, Protection};
use refloat_repo::{RepoError, Repository, StateDirectory};
use refloat_store::{Store as _, StoreErrorKind};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;
use refloat_types::Explain as _;

use super::sample::{self, SYSTEM, expected_files, fill, now, put_wal, read_files, read_wal};

pub(crate) struct Home {
    pub(crate) store: Memory,
    pub(crate) state: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { store: Memory::new(), state: tempfile::tempdir().unwrap() }
    }
    fn state(&self, host: &str) -> StateDirectory {
        StateDirectory::new(self.state.path().join(host))
    }
    pub(crate) fn init(&self, protection: Protection) -> Result<Repository, RepoError> {
        let options = InitOptions { protection, now: now() };
        Repository::init(Arc::new(self.store.clone()), self.state("first"), options)
    }
    pub(crate) fn open(
        &self,
        host: &str,
        fingerprint: Option<&str>,
        credentials: impl Fn() -> Credentials,
    ) -> Result<Repository, RepoError> {
        let store = Arc::new(self.store.clone());
        Repository::open(store, self.state(host), fingerprint, now(), &mut || Ok(credentials()))
    }
}

pub(crate) fn passphrase(text: &str) -> impl Fn() -> Credentials + use<> {
    let text = text.to_owned();
    move || Credentials::Passphrase(text.clone())
}

pub(crate) fn never() -> Credentials {
    panic!("this host has opened it before")
}

/// An error of an open that must fail.
pub(crate) fn refused(opened: Result<Repository, RepoError>) -> RepoError {
    match opened {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[test]
fn a_lost_state_directory_is_made_anew_from_the_passphrase_alone() {
    let home = Home::new();
    let first = home.init(Protection::Passphrase("one two three".to_owned())).unwrap();
    let made = fill(&first);
    let second = home.open("second", None, passphrase("one two three")).unwrap();
    assert_eq!(second.fingerprint(), first.fingerprint());
    assert_ne!(second.agent(), first.agent(), "each host signs with a key of its own");
    assert_eq!(read_files(&second, made.source, made.backup).unwrap(), expected_files());
    assert_eq!(read_wal(&second).unwrap(), sample::wal_bytes());
    // It is enrolled: what it writes is believed by others, and it needs no passphrase any more.
    let backup = sample::put_backup(&second, made.source);
    let third = home.open("second", None, never).unwrap();
    assert_eq!(third.agent(), second.agent());
    assert_eq!(read_files(&first, made.source, backup).unwrap(), expected_files());
    let name = first.find_source(&"prod".parse().unwrap()).unwrap().unwrap();
    assert_eq!(name.id, made.source);
}

#[test]
fn a_lost_state_directory_is_made_anew_from_an_identity() {
    let home = Home::new();
    let identity = Identity::draw();
    let recipients = vec![Identity::draw().recipient(), identity.recipient()];
    let first = home.init(Protection::Recipients { recipients, identity: None }).unwrap();
    assert!(!first.can_read(), "it can only write");
    let made = fill(&first);
    assert!(matches!(read_files(&first, made.source, made.backup), Err(RepoError::NoKey { .. })));
    let second = home.open("second", None, || Credentials::Identity(identity.clone())).unwrap();
    assert_eq!(read_files(&second, made.source, made.backup).unwrap(), expected_files());
    sample::record(&second, "check", None);
}

#[test]
fn an_unencrypted_repository_needs_no_secret_to_be_read() {
    let home = Home::new();
    let first = home.init(Protection::None).unwrap();
    let made = fill(&first);
    let second = home.open("second", None, || Credentials::Unencrypted).unwrap();
    assert_eq!(read_files(&second, made.source, made.backup).unwrap(), expected_files());
    // Only the first host holds the root key, so this one cannot enrol itself.
    assert!(matches!(second.ensure_enrolled(now()), Err(RepoError::NotEnrolled { .. })));
    assert!(first.ensure_enrolled(now()).is_ok());
}

#[test]
fn what_is_not_the_right_secret_is_told_apart() {
    let home = Home::new();
    home.init(Protection::Passphrase("right".to_owned())).unwrap();
    let wrong = refused(home.open("b", None, passphrase("wrong")));
    assert!(matches!(wrong, RepoError::WrongPassphrase { .. }), "{wrong:?}");
    assert_eq!(wrong.advice().code, "KEY-001");
    let other = Identity::draw();
    let foreign = refused(home.open("b", None, || Credentials::Identity(other.clone())));
    let RepoError::NoKey { source, .. } = &foreign else { panic!("{foreign:?}") };
    assert!(source.to_string().contains(other.recipient().as_str()), "it names the key: {source}");
    let plain = refused(home.open("b", None, || Credentials::Unencrypted));
    assert!(matches!(plain, RepoError::EncryptionDiffers { .. }), "{plain:?}");
    // A refused open leaves nothing: the right secret still works, and is asked for.
    assert!(home.open("b", None, passphrase("right")).is_ok());
}

#[test]
fn a_configuration_that_expects_encryption_refuses_a_plain_repository() {
    let home = Home::new();
    home.init(Protection::None).unwrap();
    for credentials in [passphrase("x")(), Credentials::Identity(Identity::draw())] {
        let credentials = std::cell::RefCell::new(Some(credentials));
        let error = refused(home.open("b", None, || credentials.take().unwrap()));
        assert!(matches!(error, RepoError::EncryptionDiffers { .. }), "{error:?}");
    }
}

#[test]
fn another_repository_in_the_same_place_is_refused() {
    let (home, other) = (Home::new(), Home::new());
    let first = home.init(Protection::Passphrase("same".to_owned())).unwrap();
    let second = other.init(Protection::Passphrase("same".to_owned())).unwrap();
    let pinned = home.open("b", Some(&second.fingerprint()), passphrase("same"));
    assert!(matches!(refused(pinned), RepoError::WrongFingerprint { .. }));
    assert!(home.open("b", Some(&first.fingerprint()), passphrase("same")).is_ok());
    // The repository object replaced behind a host that has opened the old one: another id, so it is unknown here and
    // the passphrase is asked for; with a pin it is refused.
    let key = layout::repository();
    let bytes = sample::objects(&other.store).into_iter().find(|(found, _)| *found == key).unwrap().1;
    home.store.damage(&key, |now| now.clone_from(&bytes));
    let pinned = home.open("first", Some(&first.fingerprint()), never);
    assert!(matches!(refused(pinned), RepoError::WrongFingerprint { .. }));
}

#[test]
fn what_is_no_repository_is_left_alone() {
    let home = Home::new();
    let error = refused(home.open("b", None, never));
    assert!(matches!(error, RepoError::NotARepository { .. }), "{error:?}");
    home.store.put_new(&"holiday.jpg".parse().unwrap(), b"x").unwrap();
    let error = refused(home.init(Protection::None));
    assert!(matches!(error, RepoError::NotEmpty { .. }), "{error:?}");
    assert_eq!(sample::objects(&home.store).len(), 1, "nothing was written");
    let twice = Home::new();
    twice.init(Protection::None).unwrap();
    assert!(matches!(refused(twice.init(Protection::None)), RepoError::NotEmpty { .. }));
}

#[test]
fn a_repository_of_a_later_format_is_refused_politely() {
    let home = Home::new();
    home.init(Protection::Passphrase("x".to_owned())).unwrap();
    home.store.damage(&layout::repository(), |bytes| bytes[8] = 2);
    let error = refused(home.open("b", None, never));
    assert_eq!(error.to_string(), "\"repository\" has format 2; this release reads formats up to 1");
    assert_eq!(error.advice().code, "REP-003");
    assert!(error.advice().hints[0].contains("Install the release"));
    let known = refused(home.open("first", None, never));
    assert!(matches!(known, RepoError::NewerFormat { .. }), "a host that knows it too");
}

#[test]
fn a_later_generation_of_recipients_stops_writing_and_not_reading() {
    let home = Home::new();
    let first = home.init(Protection::Passphrase("x".to_owned())).unwrap();
    let made = fill(&first);
    let (_, mut later) =
        sample::objects(&home.store).into_iter().find(|(key, _)| *key == layout::repository()).unwrap();
    later[8] = 2;
    home.store.put_new(&"keys/recipients/0000000002".parse().unwrap(), &later).unwrap();
    assert!(matches!(first.draw_key("backup", now()), Err(RepoError::NewerFormat { .. })));
    assert_eq!(read_files(&first, made.source, made.backup).unwrap(), expected_files());
}

/// What a store, or a process that ended, left undone when this host first opened the repository is made up for before
/// anything is stored that this host signs.
#[test]
fn a_host_that_could_not_be_enrolled_at_first_is_before_it_writes() {
    let kinds = [StoreErrorKind::Unreachable, StoreErrorKind::NoSpace, StoreErrorKind::Other];
    let failures = kinds.map(Effect::Refuse).into_iter().map(Some).chain([Some(Effect::LoseAnswer), None]);
    for failure in failures {
        let home = Home::new();
        let first = home.init(Protection::Passphrase("x".to_owned())).unwrap();
        let made = fill(&first);
        let plan = FaultPlan::new();
        let open = |credentials: &dyn Fn() -> Credentials| {
            let store = Arc::new(Faulty::new(home.store.clone(), &plan));
            Repository::open(store, home.state("second"), None, now(), &mut || Ok(credentials())).unwrap()
        };
        if let Some(effect) = failure {
            plan.add(Rule::new(On::Put, effect).key("agents/").first(2));
        }
        let second = open(&passphrase("x"));
        // Reading needs no enrolment.
        assert_eq!(read_files(&second, made.source, made.backup).unwrap(), expected_files());
        let agent = second.agent();
        if failure.is_none() {
            // It ended right before that.
            home.store.delete(&layout::agent(agent)).unwrap();
            let noted = home.state.path().join(format!("second/repositories/{}", second.marker().id));
            std::fs::remove_file(noted.join("enrolled.json")).unwrap();
        }
        drop(second);

        let again = open(&never);
        assert_eq!(again.agent(), agent, "it stays the same host");
        let segment = vec![7_u8; 4096];
        if matches!(failure, Some(Effect::Refuse(_))) {
            put_wal(&again, &segment).unwrap_err();
            assert_eq!(again.find_wal(SYSTEM, sample::wal_name()).unwrap().len(), 1, "nothing was stored");
        }
        let stored = put_wal(&again, &segment).unwrap();
        // Who comes with nothing but the passphrase believes it.
        let rescue = home.open("rescue", None, passphrase("x")).unwrap();
        let head = rescue.read_wal_head(&stored).unwrap();
        let mut read = Vec::new();
        rescue
            .read_wal(&head, &mut |piece| {
                read.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert_eq!(read, segment);
        assert!(open(&never).was_enrolled(), "it is not asked for again");
    }
}

/// A host that nothing enrols stores nothing that nobody would believe.
#[test]
fn a_host_that_cannot_be_enrolled_stores_nothing() {
    let home = Home::new();
    let first = home.init(Protection::None).unwrap();
    fill(&first);
    let second = home.open("second", None, || Credentials::Unencrypted).unwrap();
    let count = sample::objects(&home.store).len();
    let error = put_wal(&second, &vec![7_u8; 4096]).unwrap_err();
    assert!(matches!(error, RepoError::NotEnrolled { .. }), "{error:?}");
    let again = home.open("second", None, never).unwrap();
    let error = again.put_owner(first.owner(first.own_sources().unwrap()[0]).unwrap().unwrap()).unwrap_err();
    assert!(matches!(error, RepoError::NotEnrolled { .. }), "{error:?}");
    assert_eq!(sample::objects(&home.store).len(), count);
}
