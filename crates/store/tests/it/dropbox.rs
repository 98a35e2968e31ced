//! The store in a folder of Dropbox, against a double of its documented API.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use refloat_store::{
    Assurance, Conditional, Confirmed, Credentials, DropboxStore, Key, Keys, Options, Store, StoreErrorKind,
    StoreSettings, open, probe, put_confirmed, read_whole,
};
use refloat_testkit::proxy::{Mode, Proxy};
use refloat_testkit::servers::DropboxDouble;
use refloat_testkit::store_contract::run;

fn settings(endpoint: String, keys: &[(&str, &str)]) -> StoreSettings {
    let keys = keys.iter().fold(Keys::default(), |keys, (name, value)| keys.with(name, *value));
    StoreSettings {
        endpoint: Some(endpoint),
        credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
        ..StoreSettings::default()
    }
}

fn app(double: &DropboxDouble) -> [(&'static str, &'static str); 3] {
    [
        ("client_id", double.client_id()),
        ("client_secret", double.client_secret()),
        ("refresh_token", double.refresh_token()),
    ]
}

fn store_at(url: &str, settings: &StoreSettings) -> DropboxStore {
    DropboxStore::open(&url.parse().unwrap(), settings, Options::default()).unwrap()
}

fn store(double: &DropboxDouble) -> DropboxStore {
    store_at("dropbox://backup/db1", &settings(double.endpoint(), &app(double)))
}

/// With retries and the breaker, as the program opens it.
fn resilient(double: &DropboxDouble) -> Box<dyn Store> {
    let settings = settings(double.endpoint(), &app(double));
    open(&"dropbox://backup/db1".parse().unwrap(), &settings, Options::default()).unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Bytes of which no two parts are the same.
fn body(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ (n >> 16) as u8).collect()
}

fn stream(store: &dyn Store, name: &str, body: &[u8]) -> Result<(), refloat_store::StoreError> {
    let mut writer = store.create(&key(name))?;
    body.chunks(300_000).try_for_each(|piece| writer.write(piece))?;
    writer.finish()
}

#[test]
fn keeps_the_contract() {
    let double = DropboxDouble::start();
    let settings = settings(double.endpoint(), &app(&double));
    let number = Cell::new(0_u32);
    run(&|| {
        number.set(number.get() + 1);
        let store = store_at(&format!("dropbox://Some%20where/Ü/{}", number.get()), &settings);
        let features = store.features();
        assert!(features.create_new && features.durable && features.consistent_list, "{features:?}");
        Box::new(store)
    });
    assert_eq!(double.tokens_given(), u64::from(number.get()), "one token serves a store");
}

#[test]
fn the_top_of_an_account_keeps_the_contract() {
    // Each clause gets an account of its own.
    let doubles = std::cell::RefCell::new(Vec::new());
    run(&|| {
        let double = DropboxDouble::start();
        let store = store_at("dropbox://", &settings(double.endpoint(), &app(&double)));
        doubles.borrow_mut().push(double);
        Box::new(store)
    });
}

#[test]
fn it_can_what_the_probe_sees() {
    let double = DropboxDouble::start();
    let seen = probe(&store(&double), &key("check/1")).unwrap();
    assert_eq!((seen.conditional, seen.lists_at_once, seen.deletes), (Conditional::Refuses, true, true));
    assert!(double.paths().is_empty(), "nothing stays: {:?}", double.paths());
}

#[test]
fn a_token_that_expires_is_renewed_in_the_middle_of_an_object() {
    let double = DropboxDouble::start();
    let store = store(&double);
    let body = body(40 << 20);
    let mut writer = store.create(&key("packs/1")).unwrap();
    for piece in body.chunks(10 << 20) {
        double.expire_tokens();
        writer.write(piece).unwrap();
    }
    double.expire_tokens();
    writer.finish().unwrap();
    double.expire_tokens();
    assert!(read_whole(&store, &key("packs/1"), 1 << 30).unwrap() == body);
    let given = double.tokens_given();
    // Many calls that find out at once renew it once.
    double.expire_tokens();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.head(&key("packs/1")).unwrap().unwrap());
        }
    });
    assert_eq!(double.tokens_given(), given + 1);
}

#[test]
fn nobody_gets_in_without_the_account() {
    let double = DropboxDouble::start();
    let wrong =
        [("client_id", double.client_id()), ("client_secret", "hunter2"), ("refresh_token", "hunter3")];
    let error = store_at("dropbox://x", &settings(double.endpoint(), &wrong)).head(&key("x")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert_eq!(error.source.to_string(), "the service answered 401: no token is given: invalid_client");
    assert!(!format!("{error:?}").contains("hunter"), "{error:?}");

    let store = store(&double);
    store.put_new(&key("x"), b"x").unwrap();
    double.revoke();
    let error = store.head(&key("x")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert_eq!(error.source.to_string(), "the service answered 400: no token is given: invalid_grant");
    assert!(!format!("{error:?}").contains(double.refresh_token()), "{error:?}");
}

#[test]
fn an_access_token_alone_is_read_again_when_it_has_expired() {
    let double = Arc::new(DropboxDouble::start());
    let (token, issuing) = (double.access_token(), Arc::clone(&double));
    let fixed = store_at("dropbox://x", &settings(double.endpoint(), &[("access_token", &token)]));
    let mut renewed = settings(double.endpoint(), &[]);
    renewed.credentials =
        Credentials::Keys(Arc::new(move || Ok(Keys::default().with("access_token", issuing.access_token()))));
    let renewed = store_at("dropbox://x", &renewed);
    for store in [&fixed, &renewed] {
        assert_eq!(store.head(&key("x")).unwrap(), None);
    }
    double.expire_tokens();
    assert_eq!(renewed.head(&key("x")).unwrap(), None);
    let error = fixed.head(&key("x")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert_eq!(error.source.to_string(), "the service answered 401: expired_access_token");
}

#[test]
fn what_is_no_token_is_refused_and_never_shown() {
    let double = DropboxDouble::start();
    let refused = |token: &str| {
        let store = store_at("dropbox://x", &settings(double.endpoint(), &[("access_token", token)]));
        let error = store.head(&key("x")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{}", error.source);
        assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
        error.source.to_string()
    };
    // Dropbox repeats what it cannot read.
    let said = refused("{\"access_token\":\"hunter2\"}");
    assert_eq!(said, "the service answered 400: it takes the access token for none");
    assert_eq!(double.requests("POST /2/"), 1);
    for token in ["hunter2 hunter3", "# a comment\nhunter2"] {
        let said = refused(token);
        assert!(said.starts_with("the access token holds a space, a line break or "), "{said}");
    }
    assert_eq!(double.requests("POST /2/"), 1, "nothing was sent");
}

#[test]
fn it_waits_as_long_as_it_is_asked_to() {
    let double = DropboxDouble::start();
    let store = resilient(&double);
    double.slow_down("files/upload", 1);
    let began = Instant::now();
    store.put_new(&key("x"), b"x").unwrap();
    assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());
    // A writer asks again by itself: nobody else has the pieces.
    double.slow_down("upload_session/append_v2", 1);
    double.contend("upload_session/finish");
    let (body, began) = (body(40 << 20), Instant::now());
    stream(&*store, "large", &body).unwrap();
    assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());
    assert!(read_whole(&*store, &key("large"), 1 << 30).unwrap() == body);
    assert!(!double.has_faults_left());
}

#[test]
fn an_upload_that_is_interrupted_anywhere_goes_on() {
    let double = DropboxDouble::start();
    let store = store(&double);
    let body = body(40 << 20);
    let mut number = 0;
    for what in ["upload_session/start", "upload_session/append_v2", "upload_session/finish"] {
        for answered in [false, true] {
            if answered {
                double.lose_answer(what)
            } else {
                double.lose_request(what)
            }
            number += 1;
            let name = format!("packs/{number}");
            stream(&store, &name, &body).unwrap_or_else(|e| panic!("{what} {answered}: {e}: {}", e.source));
            assert!(!double.has_faults_left(), "{what}");
            assert!(read_whole(&store, &key(&name), 1 << 30).unwrap() == body, "{what} {answered}");
        }
    }
    // Whoever finds another's file there after a lost answer says so.
    double.put("/backup/db1/packs/other", b"another's");
    double.lose_request("upload_session/finish");
    assert_eq!(stream(&store, "packs/other", &body).unwrap_err().kind, StoreErrorKind::AlreadyExists);
    assert_eq!(read_whole(&store, &key("packs/other"), 100).unwrap(), b"another's");
}

#[test]
fn a_creation_whose_answer_was_lost_is_known_again() {
    let double = DropboxDouble::start();
    let store = resilient(&double);
    double.lose_answer("files/upload");
    store.put_new(&key("wal/1"), b"a segment").unwrap();
    double.lose_answer("files/upload");
    let confirmed = put_confirmed(&*store, &key("wal/2"), b"a segment", Assurance::Size).unwrap();
    assert_eq!(confirmed, Confirmed::Created);
    // The same bytes of somebody else are a conflict, and no success without a word.
    let again = store.put_new(&key("wal/1"), b"a segment").unwrap_err();
    assert_eq!(again.kind, StoreErrorKind::AlreadyExists);
    assert_eq!(double.requests("files/upload"), 5);
}

#[test]
fn a_full_account_and_strange_files_are_told_for_what_they_are() {
    let double = DropboxDouble::start();
    let store = store(&double);
    double.put("/Backup/DB1/a note.txt", b"not ours");
    double.put("/backup/db1/wal/1", b"in another case of the folder");
    let mut listed = Vec::new();
    store
        .list("", &mut |info| {
            listed.push(info.key.to_string());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(listed, ["wal/1"]);
    assert_eq!(store.head(&key("WAL/1")).unwrap().unwrap().size, 29, "folders have no case");
    assert_eq!(store.head(&key("a")).unwrap(), None);
    // A folder is no object: neither found, nor replaced, nor deleted.
    assert_eq!(store.head(&key("wal")).unwrap(), None);
    store.delete(&key("wal")).unwrap();
    assert_eq!(store.put_new(&key("wal"), b"").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    assert_eq!(double.paths().len(), 2);
    double.limit_space(1000);
    assert_eq!(store.put_new(&key("x"), &[1; 2000]).unwrap_err().kind, StoreErrorKind::NoSpace);
    let space = store.space().unwrap().unwrap();
    assert_eq!((space.total, space.free), (1000, 1000 - 8 - 29));
}

#[test]
fn a_broken_connection_leaves_nothing_half() {
    let double = DropboxDouble::start();
    let proxy = Proxy::before(double.port());
    let mut settings = settings(proxy.endpoint(), &app(&double));
    settings.patience.call = std::time::Duration::from_millis(700);
    settings.patience.least_rate = 64 << 20;
    let store = store_at("dropbox://backup", &settings);
    store.put_new(&key("before"), b"before").unwrap();
    let body = body(3 << 20);
    for mode in [Mode::CutRequests(1 << 20), Mode::Reset, Mode::BlackHole] {
        proxy.set(mode);
        let put = store.put_new(&key("large"), &body).unwrap_err();
        assert_eq!(put.kind, StoreErrorKind::Unreachable, "{mode:?}: {}", put.source);
        proxy.set(Mode::Pass);
        if mode != Mode::BlackHole {
            assert_eq!(store.head(&key("large")).unwrap(), None, "{mode:?}");
        }
    }
    let error = store.put_new(&key("before"), b"other").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    proxy.set(Mode::CutAnswers(3));
    assert_eq!(
        store.read(&key("before"), 0..6, &mut Vec::new()).unwrap_err().kind,
        StoreErrorKind::Unreachable
    );
}

#[test]
fn a_list_of_many_pages_survives_a_page_that_is_refused_or_lost() {
    let double = DropboxDouble::start();
    for number in 0..170 {
        double.put(&format!("/backup/db1/m/{number:03}"), b"x");
    }
    let mut seen = 0;
    resilient(&double)
        .list("m/", &mut |_| {
            match seen {
                0 => double.slow_down("list_folder/continue", 1),
                60 => double.lose_answer("list_folder/continue"),
                _ => {}
            }
            seen += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 170);
    assert!(!double.has_faults_left());
}

#[test]
fn a_list_that_goes_round_in_a_circle_ends_with_an_error() {
    let double = DropboxDouble::start();
    for number in 0..170 {
        double.put(&format!("/backup/db1/m/{number:03}"), b"x");
    }
    double.go_round();
    let mut seen = 0;
    let ended = resilient(&double).list("m/", &mut |_| {
        seen += 1;
        if seen < 1000 { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
    });
    let error = ended.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Other);
    assert_eq!(error.source.to_string(), "the service gives the same page of the list again and again");
    assert!(seen <= 100, "{seen}");
}

#[test]
fn a_folder_that_goes_while_it_is_listed_is_no_end_of_the_list() {
    let double = DropboxDouble::start();
    let listed = || {
        let mut seen = 0;
        let ended = resilient(&double).list("m/", &mut |_| {
            seen += 1;
            double.delete("/backup/db1/m");
            std::ops::ControlFlow::Continue(())
        });
        (seen, ended)
    };
    assert_eq!(listed().0, 0, "no folder yet is an empty list");
    assert!(listed().1.is_ok());
    for number in 0..170 {
        double.put(&format!("/backup/db1/m/{number:03}"), b"x");
    }
    let (seen, ended) = listed();
    let error = ended.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Other);
    assert_eq!(error.source.to_string(), "the folder was deleted or moved while it was listed");
    assert!((1..170).contains(&seen), "{seen}");
}
