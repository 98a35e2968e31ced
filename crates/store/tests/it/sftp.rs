//! The store behind SSH, on a real OpenSSH server.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use refloat_store::{
    Backoff, Credentials, Keys, Options, Patience, PosixStore, Retry, SftpStore, Store, StoreError,
    StoreErrorKind, StoreSettings, read_whole,
};
use refloat_testkit::proxy::{Mode, Proxy};
use refloat_testkit::servers::{Sshd, SshdOptions};
use refloat_testkit::store_contract::run;

const CREATE: Options = Options { create: true, read_only: false, owner: None };

fn keys(file: PathBuf) -> Credentials {
    Credentials::Keys(Arc::new(move || {
        Ok(Keys::default().with("private_key", std::fs::read_to_string(&file)?))
    }))
}

fn settings(server: &Sshd) -> StoreSettings {
    StoreSettings {
        known_hosts: Some(server.known_hosts()),
        credentials: keys(server.private_key()),
        patience: Patience { call: Duration::from_secs(20), ..Patience::default() },
        ..StoreSettings::default()
    }
}

/// A store in a directory of its own.
fn open(server: &Sshd, port: u16, name: &str, settings: &StoreSettings) -> SftpStore {
    let directory = server.directory(name);
    let url = format!("sftp://{}@127.0.0.1:{port}{}", server.user(), directory.display());
    SftpStore::open(&url.parse().unwrap(), settings, CREATE).unwrap()
}

fn contract(server: &Sshd, durable: bool) {
    let settings = settings(server);
    let number = Cell::new(0);
    run(&|| {
        number.set(number.get() + 1);
        let store = open(server, server.port(), &number.get().to_string(), &settings);
        let features = store.features();
        assert!(features.create_new);
        assert_eq!(features.durable, durable);
        Box::new(store)
    });
}

#[test]
fn keeps_the_contract() {
    let Some(server) = Sshd::start() else { return };
    contract(&server, true);
}

#[test]
fn without_its_extensions_it_keeps_the_contract_and_promises_nothing() {
    let options = SshdOptions { denied: vec!["fsync", "hardlink", "limits", "statvfs"] };
    let Some(server) = Sshd::start_with(&options) else { return };
    contract(&server, false);
}

fn key(text: &str) -> refloat_store::Key {
    text.parse().unwrap()
}

fn names(store: &dyn Store) -> Vec<String> {
    let mut names = Vec::new();
    let each = &mut |object: refloat_store::ObjectInfo| {
        names.push(object.key.to_string());
        ControlFlow::Continue(())
    };
    store.list("", each).unwrap();
    names.sort();
    names
}

/// The same directory is a store of files on the server itself.
#[test]
fn what_it_stores_is_what_the_posix_store_stores() {
    let Some(server) = Sshd::start() else { return };
    let store = open(&server, server.port(), "d", &settings(&server));
    store.put_new(&key("a/b/c"), b"by sftp").unwrap();
    use std::os::unix::fs::MetadataExt as _;
    let meta = server.directory("d").metadata().unwrap();
    let as_owner =
        Options { owner: rustix::process::geteuid().is_root().then(|| (meta.uid(), meta.gid())), ..CREATE };
    let local = PosixStore::open(server.directory("d"), as_owner).unwrap();
    assert_eq!(read_whole(&local, &key("a/b/c"), 100).unwrap(), b"by sftp");
    local.put_new(&key("a/b/d"), b"by file").unwrap();
    assert_eq!(read_whole(&store, &key("a/b/d"), 100).unwrap(), b"by file");
    use std::os::unix::fs::PermissionsExt as _;
    let mode =
        |name: &str| server.directory("d").join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o750, 0o750, 0o640));
    assert!(store.space().unwrap().is_some());
}

fn refusal(store: &SftpStore) -> (StoreErrorKind, String) {
    let error: StoreError = store.put_new(&key("x"), b"x").unwrap_err();
    (error.kind, error.source.to_string())
}

#[test]
fn a_server_that_is_not_known_gets_nothing() {
    let Some(server) = Sshd::start() else { return };
    let good = settings(&server);
    let open = |settings: &StoreSettings| open(&server, server.port(), "d", settings);
    let with = |file: PathBuf| refusal(&open(&StoreSettings { known_hosts: Some(file), ..good.clone() }));

    let (kind, why) = with(server.wrong_known_hosts());
    assert_eq!(kind, StoreErrorKind::Denied, "{why}");
    assert!(why.contains(&server.host_fingerprint()) && why.contains("not the one that is known"), "{why}");

    let file = server.directory("other place").join("known_hosts");
    std::fs::write(&file, "").unwrap();
    let (kind, why) = with(file.clone());
    assert_eq!(kind, StoreErrorKind::Denied, "{why}");

    let known = std::fs::read_to_string(server.known_hosts()).unwrap();
    let line = known.trim();
    std::fs::write(&file, format!("{line}\n@revoked {line}\n")).unwrap();
    let (kind, why) = with(file.clone());
    assert_eq!(kind, StoreErrorKind::Denied, "{why}");

    std::fs::write(&file, format!("{line}\n")).unwrap();
    open(&StoreSettings { known_hosts: Some(file.clone()), ..good.clone() })
        .put_new(&key("x"), b"x")
        .unwrap();

    std::fs::remove_file(&file).unwrap();
    let (kind, why) = with(file);
    assert_eq!(kind, StoreErrorKind::Denied);
    assert!(why.contains("No such file"), "{why}");

    let none = StoreSettings { known_hosts: None, ..good };
    let url = format!("sftp://{}@127.0.0.1/x", server.user()).parse().unwrap();
    let error = SftpStore::open(&url, &none, CREATE).err().unwrap();
    assert!(error.to_string().ends_with("nothing says how the server is recognised"), "{error}");
}

#[test]
fn keys_let_in_or_do_not() {
    let Some(server) = Sshd::start() else { return };
    let with = |credentials| {
        let settings = StoreSettings { credentials, ..settings(&server) };
        open(&server, server.port(), "d", &settings)
    };
    for credentials in [keys(server.locked_private_key()), keys("/etc/hostname".into()), Credentials::Machine]
    {
        let (kind, why) = refusal(&with(credentials));
        assert_eq!(kind, StoreErrorKind::Denied, "{why}");
    }
    with(keys(server.private_key())).put_new(&key("x"), b"x").unwrap();
}

#[test]
fn a_broken_connection_leaves_nothing_half_and_is_made_again() {
    let Some(server) = Sshd::start() else { return };
    let proxy = Proxy::before(server.port());
    let known = server.directory("known").join("hosts");
    std::fs::write(&known, server.known_hosts_line(proxy.port())).unwrap();
    let settings = StoreSettings { known_hosts: Some(known), ..settings(&server) };
    let store = open(&server, proxy.port(), "d", &settings);
    store.put_new(&key("before"), b"before").unwrap();
    let body = vec![7; 3 << 20];
    for mode in [Mode::CutRequests(1 << 20), Mode::Reset] {
        proxy.set(mode);
        let began = std::time::Instant::now();
        let error = store.put_new(&key("large"), &body).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{mode:?}: {}", error.source);
        assert!(began.elapsed() < Duration::from_secs(10), "{mode:?}: noticed after {:?}", began.elapsed());
        proxy.set(Mode::Pass);
        assert_eq!(names(&store), ["before"], "{mode:?}");
    }
    store.put_new(&key("large"), &body).unwrap();
    proxy.set(Mode::CutAnswers(1 << 20));
    let error = read_whole(&store, &key("large"), 10 << 20).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{}", error.source);
    proxy.set(Mode::Pass);
    assert!(read_whole(&store, &key("large"), 10 << 20).unwrap() == body);

    // A network that swallows everything: the call ends by its deadline.
    let short = StoreSettings {
        patience: Patience { call: Duration::from_secs(1), ..Patience::default() },
        ..settings
    };
    let store = open(&server, proxy.port(), "d", &short);
    store.head(&key("before")).unwrap();
    proxy.set(Mode::BlackHole);
    let error = store.put_new(&key("late"), b"late").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{}", error.source);
}

#[test]
fn a_server_that_was_restarted_is_found_again() {
    let Some(server) = Sshd::start() else { return };
    let store = Retry::new(open(&server, server.port(), "d", &settings(&server)), Backoff::default());
    store.put_new(&key("one"), b"1").unwrap();
    let mut writer = store.create(&key("two")).unwrap();
    writer.write(&vec![2; 5 << 20]).unwrap();
    server.restart();
    // A session of sshd is a process of its own: only the listener was killed, and the object may be finished or not.
    let finished = writer.finish();
    store.put_new(&key("three"), b"3").unwrap();
    let mut expected = vec!["one", "three"];
    if finished.is_ok() {
        expected.push("two");
    }
    assert_eq!(names(&store), expected);
}

#[test]
fn what_writers_left_is_cleared_after_a_day() {
    let Some(server) = Sshd::start() else { return };
    let store = open(&server, server.port(), "d", &settings(&server));
    store.put_new(&key("a/b"), b"kept").unwrap();
    let place = server.directory("d").join("a");
    for (name, hours) in [(".refloat-sftp-1-old", 25), (".refloat-sftp-1-new", 1), ("old-object", 48)] {
        let file = std::fs::File::create(place.join(name)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the age of a file")]
        let time = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(time).unwrap();
    }
    assert_eq!(store.clear_abandoned(|_| true).unwrap(), 1);
    assert!(!place.join(".refloat-sftp-1-old").exists() && place.join(".refloat-sftp-1-new").exists());
    assert_eq!(names(&store), ["a/b", "a/old-object"]);
}
