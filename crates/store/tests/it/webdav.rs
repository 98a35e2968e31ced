//! The store on a WebDAV server.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use refloat_store::{
    Credentials, Key, Keys, Options, Patience, Store, StoreErrorKind, StoreSettings, WebdavStore, read_whole,
};
use refloat_testkit::proxy::{Mode, Proxy};
use refloat_testkit::servers::WebDav;
use refloat_testkit::store_contract::run;

const CREATE: Options = Options { create: true, read_only: false, owner: None };

fn settings(user: &str, password: &str) -> StoreSettings {
    let keys = Keys::default().with("user", user).with("password", password);
    StoreSettings {
        credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
        patience: Patience { call: Duration::from_secs(20), ..Patience::default() },
        ..StoreSettings::default()
    }
}

fn open(port: u16, name: &str, settings: &StoreSettings) -> WebdavStore {
    let url = format!("webdav://127.0.0.1:{port}/{name}");
    WebdavStore::open(&url.parse().unwrap(), settings, CREATE).unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

#[test]
fn keeps_the_contract() {
    let Some(server) = WebDav::start() else { return };
    let settings = settings(server.user(), server.password());
    let number = Cell::new(0);
    run(&|| {
        number.set(number.get() + 1);
        let store = open(server.port(), &format!("some%20where/{}", number.get()), &settings);
        let features = store.features();
        assert!(features.create_new && !features.durable, "{features:?}");
        Box::new(store)
    });
}

#[test]
fn nobody_gets_in_without_the_password() {
    let Some(server) = WebDav::start() else { return };
    let wrong = open(server.port(), "d", &settings(server.user(), "hunter2"));
    let error = wrong.put_new(&key("x"), b"x").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!(wrong.head(&key("x")).unwrap_err().kind, StoreErrorKind::Denied);
}

#[test]
fn a_directory_is_never_deleted_for_an_object() {
    let Some(server) = WebDav::start() else { return };
    let store = open(server.port(), "d", &settings(server.user(), server.password()));
    store.put_new(&key("a/b"), b"kept").unwrap();
    store.delete(&key("a")).unwrap();
    assert_eq!(read_whole(&store, &key("a/b"), 10).unwrap(), b"kept");
}

#[test]
fn a_broken_connection_leaves_nothing_half() {
    let Some(server) = WebDav::start() else { return };
    let proxy = Proxy::before(server.port());
    let store = open(proxy.port(), "d", &settings(server.user(), server.password()));
    store.put_new(&key("before"), b"before").unwrap();
    let body = vec![7; 3 << 20];
    for mode in [Mode::CutRequests(1 << 20), Mode::Reset] {
        proxy.set(mode);
        let put = store.put_new(&key("large"), &body).unwrap_err();
        assert_eq!(put.kind, StoreErrorKind::Unreachable, "{mode:?}: {}", put.source);
        let written = store.create(&key("large")).and_then(|mut writer| {
            body.chunks(100_000).try_for_each(|piece| writer.write(piece))?;
            writer.finish()
        });
        assert_eq!(written.unwrap_err().kind, StoreErrorKind::Unreachable, "{mode:?}");
        proxy.set(Mode::Pass);
        assert_eq!(store.head(&key("large")).unwrap(), None, "{mode:?}");
    }
    store.put_new(&key("large"), &body).unwrap();
    proxy.set(Mode::CutAnswers(1 << 20));
    let error = read_whole(&store, &key("large"), 10 << 20).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{}", error.source);
    proxy.set(Mode::Pass);
    assert!(read_whole(&store, &key("large"), 10 << 20).unwrap() == body);
}

#[test]
fn what_writers_left_is_cleared_after_a_day() {
    let Some(server) = WebDav::start() else { return };
    let store = open(server.port(), "d", &settings(server.user(), server.password()));
    store.put_new(&key("a/b"), b"kept").unwrap();
    let place = server.root().join("d/a");
    for (name, hours) in [(".refloat-dav-1-old", 25), (".refloat-dav-1-new", 1)] {
        let file = std::fs::File::create(place.join(name)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the age of a file")]
        let time = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(time).unwrap();
        std::os::unix::fs::chown(
            place.join(name),
            Some(std::os::unix::fs::MetadataExt::uid(&place.metadata().unwrap())),
            None,
        )
        .unwrap();
    }
    assert_eq!(store.clear_abandoned(|_| true).unwrap(), 1);
    assert!(!place.join(".refloat-dav-1-old").exists() && place.join(".refloat-dav-1-new").exists());
}
