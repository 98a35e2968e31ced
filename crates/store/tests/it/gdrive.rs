//! The store in a folder of Google Drive, against a double of its documented API.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use refloat_store::{
    Conditional, Credentials, GdriveStore, Key, Keys, Options, Store, StoreError, StoreErrorKind,
    StoreSettings, open, probe, read_whole,
};
use refloat_testkit::proxy::{Mode, Proxy};
use refloat_testkit::servers::GdriveDouble;
use refloat_testkit::store_contract::run;

fn settings(endpoint: String, double: &GdriveDouble) -> StoreSettings {
    let keys = Keys::default()
        .with("client_id", double.client_id())
        .with("client_secret", double.client_secret())
        .with("refresh_token", double.refresh_token());
    StoreSettings {
        endpoint: Some(endpoint),
        credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
        ..StoreSettings::default()
    }
}

fn store_at(url: &str, settings: &StoreSettings) -> GdriveStore {
    GdriveStore::open(&url.parse().unwrap(), settings, Options::default()).unwrap()
}

fn store(double: &GdriveDouble) -> GdriveStore {
    store_at("gdrive://backup/db1", &settings(double.endpoint(), double))
}

/// With retries and the breaker, as the program opens it.
fn resilient(double: &GdriveDouble) -> Box<dyn Store> {
    let settings = settings(double.endpoint(), double);
    open(&"gdrive://backup/db1".parse().unwrap(), &settings, Options::default()).unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn body(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ (n >> 16) as u8).collect()
}

fn stream(store: &dyn Store, name: &str, body: &[u8]) -> Result<(), StoreError> {
    let mut writer = store.create(&key(name))?;
    body.chunks(300_000).try_for_each(|piece| writer.write(piece))?;
    writer.finish()
}

fn listed(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    let collect = &mut |info: refloat_store::ObjectInfo| {
        names.push(info.key.to_string());
        ControlFlow::Continue(())
    };
    store.list(prefix, collect).unwrap();
    names.sort();
    names
}

#[test]
fn keeps_the_contract() {
    let double = GdriveDouble::start();
    let settings = settings(double.endpoint(), &double);
    let number = Cell::new(0);
    run(&|| {
        number.set(number.get() + 1);
        let store = store_at(&format!("gdrive://Some%20where/it's/{}", number.get()), &settings);
        let features = store.features();
        assert!(features.create_new && features.durable && !features.consistent_list, "{features:?}");
        Box::new(store)
    });
}

#[test]
fn keeps_the_contract_at_the_top_while_searches_lag() {
    let doubles = std::cell::RefCell::new(Vec::new());
    run(&|| {
        let double = GdriveDouble::start();
        double.lag(4);
        let store = store_at("gdrive://", &settings(double.endpoint(), &double));
        doubles.borrow_mut().push(double);
        Box::new(store)
    });
}

#[test]
fn it_can_what_the_probe_sees() {
    let double = GdriveDouble::start();
    let seen = probe(&store(&double), &key("check/1")).unwrap();
    // Its own objects it lists at once; what others have stored, later.
    assert_eq!((seen.conditional, seen.lists_at_once, seen.deletes), (Conditional::Refuses, false, true));
    assert_eq!(double.count(), 0, "nothing stays");
}

#[test]
fn of_several_files_of_one_name_the_oldest_is_the_object() {
    let double = GdriveDouble::start();
    let store = store(&double);
    store.put_new(&key("a/x"), b"first").unwrap();
    double.put_beside("a/x", b"a second, longer one");
    let other = self::store(&double);
    for store in [&store, &other] {
        assert_eq!(read_whole(store, &key("a/x"), 100).unwrap(), b"first");
        assert_eq!(store.head(&key("a/x")).unwrap().unwrap().size, 5);
        assert_eq!(listed(store, ""), ["a/x"]);
        assert_eq!(store.put_new(&key("a/x"), b"third").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    }
    assert_eq!(double.count(), 2);
    // With the object all that hides behind it goes.
    other.delete(&key("a/x")).unwrap();
    assert_eq!(double.count(), 0);
    assert_eq!(store.head(&key("a/x")).unwrap(), None);
    assert_eq!(store.read(&key("a/x"), 0..1, &mut Vec::new()).unwrap_err().kind, StoreErrorKind::NotFound);
}

#[test]
fn of_two_hosts_that_create_one_name_the_later_one_withdraws() {
    let double = GdriveDouble::start();
    let (first, second) = (store(&double), store(&double));
    first.put_new(&key("begun"), b"").unwrap();
    second.head(&key("begun")).unwrap().unwrap();
    // The second one looks before the first has created, and creates after it: its search lags by one.
    double.lag(1);
    first.put_new(&key("owner/1"), b"first").unwrap();
    // The first host's own look has used its lag up; a file that nobody knows yet is made for the second.
    assert_eq!(second.put_new(&key("owner/1"), b"second").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    double.lag(2);
    first.put_new(&key("owner/2"), b"first").unwrap();
    assert_eq!(second.put_new(&key("owner/2"), b"second").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    assert_eq!(double.requests("DELETE"), 1, "the second was created and withdrawn");
    assert_eq!(double.ids_of("owner/2").len(), 1);
    for store in [&first, &second] {
        assert_eq!(read_whole(store, &key("owner/2"), 100).unwrap(), b"first");
    }
    // Streamed as well.
    double.lag(2);
    let large = body(20 << 20);
    stream(&first, "packs/1", &large).unwrap();
    assert_eq!(stream(&second, "packs/1", &large[1..]).unwrap_err().kind, StoreErrorKind::AlreadyExists);
    double.lag(0);
    assert_eq!(double.ids_of("packs/1").len(), 1);
}

#[test]
fn many_hosts_at_once_have_one_winner_and_one_folder_serves_all() {
    let double = GdriveDouble::start();
    for round in 0..10 {
        let name = format!("race/{round}");
        let start = std::sync::Barrier::new(4);
        let won = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u8)
                .map(|number| {
                    let (name, start, store) = (&name, &start, store(&double));
                    scope.spawn(move || {
                        start.wait();
                        store.put_new(&key(name), &[number; 1000]).is_ok()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1, "round {round}");
        assert_eq!(double.ids_of(&name).len(), 1);
    }
    // Whatever folders of the name came into being at the first moment: all are read.
    assert_eq!(listed(&store(&double), "race/").len(), 10);
}

#[test]
fn folders_of_one_name_are_one() {
    let double = GdriveDouble::start();
    let settings = settings(double.endpoint(), &double);
    let before = store_at("gdrive://twice", &settings);
    before.put_new(&key("a"), b"in the first").unwrap();
    double.folder("twice");
    let after = store_at("gdrive://twice", &settings);
    after.put_new(&key("b"), b"in the oldest").unwrap();
    assert_eq!(
        (listed(&before, ""), listed(&after, "")),
        (vec!["a".into(), "b".into()], vec!["a".into(), "b".into()])
    );
    assert_eq!(after.put_new(&key("a"), b"").unwrap_err().kind, StoreErrorKind::AlreadyExists);
}

#[test]
fn what_lies_in_the_trash_is_absent() {
    let double = GdriveDouble::start();
    let store = store(&double);
    store.put_new(&key("a"), b"a").unwrap();
    let id = double.ids_of("a").remove(0);
    double.trash(&id);
    assert_eq!(store.head(&key("a")).unwrap(), None);
    assert!(listed(&store, "").is_empty());
    store.put_new(&key("a"), b"anew").unwrap();
    assert_eq!(read_whole(&store, &key("a"), 10).unwrap(), b"anew");
}

#[test]
fn a_creation_whose_answer_was_lost_is_known_again_by_its_id() {
    let double = GdriveDouble::start();
    let store = resilient(&double);
    store.put_new(&key("first"), b"").unwrap();
    for lag in [0, 3] {
        double.lag(lag);
        let name = format!("wal/{lag}");
        double.lose_answer("POST /upload");
        store.put_new(&key(&name), b"a segment").unwrap();
        double.lose_answer("POST /upload");
        stream(&*store, &format!("{name}-streamed"), b"a segment").unwrap();
        assert!(!double.has_faults_left());
        double.lag(0);
        assert_eq!(double.ids_of(&name).len(), 1, "lag {lag}");
        assert_eq!(double.ids_of(&format!("{name}-streamed")).len(), 1, "lag {lag}");
    }
    assert_eq!(store.put_new(&key("wal/0"), b"a segment").unwrap_err().kind, StoreErrorKind::AlreadyExists);
}

#[test]
fn an_upload_that_is_interrupted_anywhere_goes_on() {
    let double = GdriveDouble::start();
    let store = store(&double);
    let body = body(40 << 20);
    let mut number = 0;
    for what in ["POST /upload", "PUT /upload"] {
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
    // The last part: done, and not answered.
    let mut writer = store.create(&key("packs/last")).unwrap();
    writer.write(&body[..20 << 20]).unwrap();
    double.lose_answer("PUT /upload");
    writer.finish().unwrap();
    assert!(read_whole(&store, &key("packs/last"), 1 << 30).unwrap() == body[..20 << 20]);
    assert_eq!(double.ids_of("packs/last").len(), 1);
}

#[test]
fn it_waits_where_it_is_asked_to_and_where_a_limit_is_reached() {
    let double = GdriveDouble::start();
    let store = resilient(&double);
    store.put_new(&key("first"), b"").unwrap();
    double.slow_down("POST /upload", 1);
    let began = Instant::now();
    store.put_new(&key("x"), b"x").unwrap();
    assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());
    double.limit_rate("GET /drive/v3/files");
    assert_eq!(store.head(&key("y")).unwrap(), None);
    double.limit_rate("PUT /upload");
    let body = body(20 << 20);
    stream(&*store, "large", &body).unwrap();
    double.suspect("x");
    assert!(read_whole(&*store, &key("x"), 10).unwrap() == b"x");
    assert!(!double.has_faults_left());
    double.limit_space(1000);
    assert_eq!(store.put_new(&key("z"), &[1; 2000]).unwrap_err().kind, StoreErrorKind::NoSpace);
    let space = store.space().unwrap().unwrap();
    assert_eq!((space.total, space.free), (1000, 0));
}

#[test]
fn a_token_that_expires_is_renewed_in_the_middle_of_an_object() {
    let double = GdriveDouble::start();
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
    double.revoke();
    let error = store.head(&key("packs/1")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(!format!("{error:?}").contains(double.refresh_token()), "{error:?}");
}

#[test]
fn a_second_file_that_its_writer_left_is_destroyed_after_a_day() {
    let double = GdriveDouble::start();
    let store = store(&double);
    store.put_new(&key("a"), b"a").unwrap();
    store.put_new(&key("b"), b"b").unwrap();
    store.put_new(&key("notes"), b"another's").unwrap();
    let (old, young) = (double.put_beside("a", b"left"), double.put_beside("b", b"left"));
    let foreign = double.put_beside("notes", b"another's as well");
    let objects = [double.ids_of("a").remove(0), double.ids_of("b").remove(0)];
    objects.iter().chain([&double.ids_of("notes")[0]]).for_each(|id| double.age_one(id, 200_000));
    double.age_one(&old, 90_000);
    double.age_one(&foreign, 90_000);
    assert_eq!(store.clear_abandoned(|key| key.as_str() != "notes").unwrap(), 1);
    assert_eq!(double.ids_of("notes").len(), 2, "what cannot be ours stays");
    assert_eq!(double.ids_of("a"), [objects[0].clone()]);
    assert_eq!(double.ids_of("b"), [objects[1].clone(), young]);
}

#[test]
fn it_works_through_another_address_and_a_broken_connection_leaves_nothing_half() {
    let double = GdriveDouble::start();
    let proxy = Proxy::before(double.port());
    let store = store_at("gdrive://backup", &settings(proxy.endpoint(), &double));
    // Uploads in parts go to a place that the service names.
    let body = body(20 << 20);
    stream(&store, "large", &body).unwrap();
    assert!(proxy.bytes().0 > 20 << 20);
    for mode in [Mode::CutRequests(1 << 20), Mode::Reset] {
        proxy.set(mode);
        let put = store.put_new(&key("other"), &body[..3 << 20]).unwrap_err();
        assert_eq!(put.kind, StoreErrorKind::Unreachable, "{mode:?}: {}", put.source);
        proxy.set(Mode::Pass);
        assert_eq!(store.head(&key("other")).unwrap(), None, "{mode:?}");
    }
    proxy.set(Mode::CutAnswers(1 << 20));
    assert_eq!(read_whole(&store, &key("large"), 1 << 30).unwrap_err().kind, StoreErrorKind::Unreachable);
    proxy.set(Mode::Pass);
    assert!(read_whole(&store, &key("large"), 1 << 30).unwrap() == body);
}

#[test]
fn a_list_of_many_pages_survives_a_page_that_is_refused_or_lost() {
    let double = GdriveDouble::start();
    let store = resilient(&double);
    for number in 0..170 {
        store.put_new(&key(&format!("m/{number:03}")), b"x").unwrap();
    }
    let mut seen = 0;
    resilient(&double)
        .list("m/", &mut |_| {
            match seen {
                0 => double.limit_rate("GET /drive/v3/files"),
                70 => double.lose_answer("GET /drive/v3/files"),
                _ => {}
            }
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 170);
    assert!(!double.has_faults_left());
}

#[test]
fn a_folder_that_is_gone_below_us_is_no_empty_store() {
    let double = GdriveDouble::start();
    let store = store(&double);
    store.put_new(&key("a"), b"a").unwrap();
    double.trash(&double.ids_of("db1")[0]);
    // Drive would take the file, and throw it away with the folder.
    let large = body(6 << 20);
    for error in [store.put_new(&key("b"), b"b").unwrap_err(), stream(&store, "c", &large).unwrap_err()] {
        assert_eq!(error.kind, StoreErrorKind::Other);
        let text = "the folder of the store was there, and is deleted or in the trash";
        assert_eq!(error.source.to_string(), text);
    }
    assert_eq!(store.head(&key("a")).unwrap(), None);
    assert_eq!(double.count(), 1, "nothing of it stays");
}

#[test]
fn a_search_that_goes_round_in_a_circle_ends_with_an_error() {
    let double = GdriveDouble::start();
    for number in 0..170 {
        store(&double).put_new(&key(&format!("m/{number:03}")), b"x").unwrap();
    }
    for _ in 0..170 {
        double.put_beside("m/000", b"one more");
    }
    double.go_round();
    let mut seen = 0;
    let ended = resilient(&double).list("m/", &mut |_| {
        seen += 1;
        if seen < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let mut impatient = settings(double.endpoint(), &double);
    impatient.patience.call = std::time::Duration::from_secs(10);
    // A new process, which has to ask for all of a name.
    let another = store_at("gdrive://backup/db1", &impatient);
    for error in [ended.unwrap_err(), another.head(&key("m/000")).unwrap_err()] {
        assert_eq!(error.kind, StoreErrorKind::Other, "{}", error.source);
        assert_eq!(error.source.to_string(), "the service gives the same page of the list again and again");
    }
}
