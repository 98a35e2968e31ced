//! Limits, the breaker and what a store says of itself, around stores that misbehave; and real servers that die.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use refloat_store::{
    Around, Backoff, Breaker, Conditional, Credentials, Key, Keys, Limit, Patience, Retry, StorageClass,
    Store, StoreErrorKind, StoreSettings, open, probe, read_whole,
};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;
use refloat_testkit::proxy::{Mode, Proxy};
use refloat_testkit::servers::{GcsEmulator, Moto, S3sFs};
use refloat_testkit::store_contract::run;

use crate::buckets::settings;

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

#[test]
fn wrappers_keep_the_contract() {
    run(&|| Box::new(refloat_store::resilient(Memory::new(), &Patience::default())));
    run(&|| {
        let limit = Arc::new(Limit::new(1, None, None));
        Box::new(Around::new(Memory::new(), limit))
    });
}

#[test]
fn no_more_calls_at_once_than_allowed() {
    let plan = FaultPlan::new();
    plan.add(Rule::new(On::Any, Effect::Delay(Duration::from_millis(100))));
    let store = Around::new(Faulty::new(Memory::new(), &plan), Arc::new(Limit::new(2, None, None)));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| store.head(&key("x")).unwrap());
        }
    });
    let taken = began.elapsed();
    assert!(taken >= Duration::from_millis(300), "six calls of 100 ms, two at once: {taken:?}");
}

#[test]
fn bytes_are_paced_in_each_direction() {
    let memory = Memory::new();
    let store = Around::new(memory.clone(), Arc::new(Limit::new(4, Some(4 << 20), Some(8 << 20))));
    let began = Instant::now();
    for name in ["a", "b", "c"] {
        store.put_new(&key(name), &vec![7; 1 << 20]).unwrap();
    }
    let mut writer = store.create(&key("d")).unwrap();
    writer.write(&vec![7; 1 << 20]).unwrap();
    writer.finish().unwrap();
    let sent = began.elapsed();
    // Of four MiB at 4 MiB/s the first quarter of a second is free.
    assert!(sent >= Duration::from_millis(700), "{sent:?}");
    let began = Instant::now();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(read_whole(&store, &key(name), 1 << 20).unwrap().len(), 1 << 20);
    }
    let received = began.elapsed();
    assert!(received >= Duration::from_millis(200), "{received:?}");
}

#[test]
fn a_store_that_is_gone_is_left_alone_and_found_again() {
    let (plan, memory) = (FaultPlan::new(), Memory::new());
    plan.add(Rule::new(On::Any, Effect::Refuse(StoreErrorKind::Unreachable)));
    let breaker = Arc::new(Breaker::new(Duration::from_millis(200), Duration::from_secs(1)));
    let store = Around::new(Faulty::new(memory.clone(), &plan), breaker);
    for _ in 0..40 {
        assert_eq!(store.head(&key("x")).unwrap_err().kind, StoreErrorKind::Unreachable);
    }
    assert_eq!(plan.calls(), 8, "the others were not made");
    let refused = store.head(&key("x")).unwrap_err().source.to_string();
    assert!(refused.starts_with("not asked: 8 calls in a row had no answer; asked again in 0."), "{refused}");
    // One call finds out after the pause.
    let wait_for = |done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(&|| store.head(&key("x")).is_err() && plan.calls() == 9);
    plan.clear();
    wait_for(&|| store.head(&key("x")).is_ok());
    store.put_new(&key("x"), b"x").unwrap();
    // What the store knows is an answer, however bad.
    for _ in 0..20 {
        assert_eq!(store.put_new(&key("x"), b"y").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    }
    assert_eq!(store.head(&key("x")).unwrap().unwrap().size, 1);
}

#[test]
fn what_a_store_can_do_is_seen_and_not_believed() {
    let seen = probe(&Memory::new(), &key("check/1")).unwrap();
    assert_eq!((seen.conditional, seen.lists_at_once, seen.deletes), (Conditional::Refuses, true, true));
    let memory = Memory::new().overwriting();
    let seen = probe(&memory, &key("check/1")).unwrap();
    assert_eq!(seen.conditional, Conditional::Overwrites);
    assert_eq!(memory.head(&key("check/1")).unwrap(), None, "nothing stays");

    let Some(server) = GcsEmulator::start() else { return };
    // Conditions are asked for, and ignored.
    let settings =
        StoreSettings { conditional: None, ..settings(&server.endpoint(), &[("anonymous", "yes")]) };
    let location = format!("gs://{}/x", server.bucket("probe")).parse().unwrap();
    let store = open(&location, &settings, Default::default()).unwrap();
    assert_eq!(probe(&store, &key("check/1")).unwrap().conditional, Conditional::Overwrites);
    assert!(!store.features().create_new, "it is not believed before it is tried either");
}

fn on_s3s(server: &S3sFs, endpoint: &str) -> Box<dyn Store> {
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    let patience = Patience { call: Duration::from_secs(20), ..Patience::default() };
    let settings = StoreSettings { patience, ..settings(endpoint, &keys) };
    open(&"s3://resilience/x".parse().unwrap(), &settings, Default::default()).unwrap()
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_an_object_costs_only_time() {
    let Some(server) = S3sFs::start() else { return };
    server.bucket("resilience");
    let store = on_s3s(&server, &server.endpoint());
    let body: Vec<u8> = (0..40_u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut writer = store.create(&key("large")).unwrap();
    let (first, rest) = body.split_at(20 << 20);
    writer.write(first).unwrap();
    server.kill();
    std::thread::scope(|scope| {
        scope.spawn(|| server.restart());
        writer.write(rest).unwrap();
        writer.finish().unwrap();
    });
    assert!(read_whole(&store, &key("large"), 1 << 30).unwrap() == body);
    // A refused connection is known at once for what it is.
    server.kill();
    let quick = Retry::new(on_s3s(&server, &server.endpoint()), Backoff::default());
    drop(quick);
    let settings = StoreSettings {
        patience: Patience { call: Duration::from_millis(300), ..Patience::default() },
        ..settings(&server.endpoint(), &[("access_key_id", "x"), ("secret_access_key", "y")])
    };
    let gone = open(&"s3://resilience/x".parse().unwrap(), &settings, Default::default()).unwrap();
    let error = gone.head(&key("large")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    assert!(error.source.to_string().contains("onnection refused"), "{}", error.source);
}

#[test]
fn what_came_before_a_connection_broke_is_not_asked_for_again() {
    let Some(server) = S3sFs::start() else { return };
    server.bucket("resilience");
    let body: Vec<u8> = (0..8_u32 << 20).map(|n| (n % 251) as u8).collect();
    on_s3s(&server, &server.endpoint()).put_new(&key("large"), &body).unwrap();
    let proxy = Proxy::before(server.port());
    let store = on_s3s(&server, &proxy.endpoint());
    // No connection lives long enough for all of it.
    proxy.set(Mode::CutAnswers(3 << 20));
    let mut got = Vec::new();
    let streamed = store.stream(&key("large"), 0..body.len() as u64, &mut |piece| {
        got.extend_from_slice(&piece);
        ControlFlow::Continue(())
    });
    streamed.unwrap();
    assert!(got == body);
    let (_, received) = proxy.bytes();
    assert!(received < 12 << 20, "{received} bytes for 8 MiB");
    assert!(proxy.connections() >= 3);
}

#[test]
fn few_requests_write_much() {
    let Some(server) = S3sFs::start() else { return };
    server.bucket("resilience");
    let proxy = Proxy::before(server.port());
    let store = on_s3s(&server, &proxy.endpoint());
    let pack = vec![9_u8; 48 << 20];
    for number in 0..2 {
        let mut writer = store.create(&key(&format!("packs/{number}"))).unwrap();
        for piece in pack.chunks(200_000) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap();
    }
    store.put_new(&key("commit"), b"small").unwrap();
    // Begin, three parts, end; and one for the small object. 300 MB are so about 35 requests.
    assert_eq!(proxy.writes(), 11, "{:?}", proxy.requests());
}

#[test]
fn keys_that_expire_are_fetched_again() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("expiring");
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetched);
    let mut settings = settings(&server.endpoint(), &[]);
    settings.credentials = Credentials::Keys(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let mut keys = Keys::default()
            .with("access_key_id", "ASIA")
            .with("secret_access_key", "secret")
            .with("session_token", "token");
        // Within the two minutes before their end keys are not used any more where others can be had.
        let soon = refloat_types::Clock::now(&refloat_types::SystemClock) + Duration::from_secs(60);
        keys.expires = Some(soon);
        Ok(keys)
    }));
    let store = open(&format!("s3://{bucket}").parse().unwrap(), &settings, Default::default()).unwrap();
    for number in 0..3 {
        store.put_new(&key(&format!("x/{number}")), b"x").unwrap();
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 3);

    settings.credentials = Credentials::Keys(Arc::new(|| Err(std::io::Error::other("the file is gone"))));
    let store = open(&format!("s3://{bucket}").parse().unwrap(), &settings, Default::default()).unwrap();
    let error = store.head(&key("x/0")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoKeys);
    assert!(error.source.to_string().contains("the file is gone"), "{}", error.source);
}

#[test]
fn a_role_is_taken_for_a_token() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("identity");
    let place = tempfile::tempdir().unwrap();
    let token_file = place.path().join("token");
    std::fs::write(&token_file, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZWZsb2F0In0.\n").unwrap();
    let mut settings = settings(&server.endpoint(), &[]);
    settings.credentials = Credentials::WebIdentity {
        role: "arn:aws:iam::123456789012:role/refloat".to_owned(),
        token_file: token_file.clone(),
        endpoint: Some(server.endpoint()),
    };
    let store = open(&format!("s3://{bucket}").parse().unwrap(), &settings, Default::default()).unwrap();
    store.put_new(&key("x"), b"x").unwrap();
    assert!(server.log().contains("POST / "), "{}", server.log());
    std::fs::remove_file(&token_file).unwrap();
    let other = open(&format!("s3://{bucket}").parse().unwrap(), &settings, Default::default()).unwrap();
    let error = other.head(&key("x")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(error.source.to_string().contains("could not read"), "{}", error.source);
}

/// What a store says of a class that it does not know leads to the setting.
#[test]
fn a_storage_class_that_is_none_is_told_as_such() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("classes");
    let keys = [("access_key_id", "x"), ("secret_access_key", "y")];
    let mut settings = settings(&server.endpoint(), &keys);
    settings.storage_class = Some(StorageClass { name: "NO_SUCH_CLASS".to_owned(), below: String::new() });
    let store = open(&format!("s3://{bucket}").parse().unwrap(), &settings, Default::default()).unwrap();
    let error = store.put_new(&key("x"), b"x").unwrap_err();
    let hints = refloat_types::Explain::advice(&error).hints.concat();
    assert!(hints.starts_with("Correct `storage_class`"), "{hints}: {}", error.source);
}
