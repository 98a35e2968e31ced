//! Answers that get lost or say that keys have expired, in the middle of what takes more than one request.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use refloat_store::{
    Credentials, Key, Keys, ObjectInfo, Patience, Store, StoreErrorKind, StoreSettings, Version, open,
    read_whole,
};
use refloat_testkit::between::{Act, Between, Seen};
use refloat_testkit::servers::{GcsEmulator, Moto, S3sFs};
use serde_json::{Value, json};

use crate::buckets::settings;

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn store(url: &str, settings: &StoreSettings) -> Box<dyn Store> {
    open(&url.parse().unwrap(), settings, Default::default()).unwrap()
}

/// What a list delivers, in its order, and how it ends.
fn listed(store: &dyn Store, prefix: &str) -> (Vec<String>, Result<(), StoreErrorKind>) {
    let mut keys = Vec::new();
    let ended = store.list(prefix, &mut |object: ObjectInfo| {
        keys.push(object.key.to_string());
        ControlFlow::Continue(())
    });
    (keys, ended.map_err(|error| error.kind))
}

fn is_list(seen: &Seen<'_>) -> bool {
    seen.method == "GET" && seen.target.contains("list-type=2")
}

const BUSY: &str = "<Error><Code>SlowDown</Code><Message>slow down</Message></Error>";

#[test]
fn a_page_that_does_not_come_costs_only_itself() {
    let Some(server) = S3sFs::start() else { return };
    let bucket = server.bucket("pages");
    let directory = server.root().join(&bucket).join("x/packs");
    std::fs::create_dir_all(&directory).unwrap();
    let all: Vec<String> = (0..2500).map(|number| format!("packs/{number:04}")).collect();
    for name in &all {
        std::fs::write(server.root().join(&bucket).join("x").join(name), b"x").unwrap();
    }
    // The second page is refused twice and then lost; the third has its connection end.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let between = Between::before(server.port(), move |seen| {
        if !is_list(seen) {
            return Act::Pass;
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            1 | 2 => Act::Answer(503, BUSY.to_owned()),
            3 => Act::Lose,
            5 => Act::Drop,
            _ => Act::Pass,
        }
    });
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    let url = format!("s3://{bucket}/x");
    let (delivered, ended) = listed(&*store(&url, &settings(&between.endpoint(), &keys)), "packs/");
    assert_eq!(ended, Ok(()));
    assert!(delivered == all, "{} delivered, each once and in order", delivered.len());
    assert_eq!(asked.load(Ordering::SeqCst), 7, "three pages, and four that did not come");

    // One that never comes ends the list with an error, and nothing is delivered twice.
    let between = Between::before(server.port(), |seen| {
        let is_later =
            is_list(seen) && (seen.target.contains("start-after") || seen.target.contains("continuation"));
        if is_later { Act::Answer(503, BUSY.to_owned()) } else { Act::Pass }
    });
    let patience = Patience { call: Duration::from_millis(400), ..Patience::default() };
    let impatient = StoreSettings { patience, ..settings(&between.endpoint(), &keys) };
    let (delivered, ended) = listed(&*store(&url, &impatient), "packs/");
    assert_eq!(ended, Err(StoreErrorKind::Unreachable));
    assert!(delivered == all[..1000], "{}", delivered.len());
}

/// Makes two pages of each list of the emulator, which knows none: the first object, then a page that does not come, then,
/// asked from its beginning again, what `again` makes of all.
fn in_pages(port: u16, again: fn(Vec<Value>) -> Vec<Value>) -> Between {
    let asked = AtomicUsize::new(0);
    Between::before(port, move |seen| {
        let is_list = seen.method == "GET" && seen.target.contains("/o?prefix=x");
        if !is_list || seen.target.contains("maxResults") {
            return Act::Pass;
        }
        let items = |body: &[u8]| -> Vec<Value> {
            let all: Value = serde_json::from_slice(body).unwrap();
            all["items"].as_array().unwrap().clone()
        };
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Act::Change(Box::new(move |body| {
                json!({ "items": again(items(&body))[..1], "nextPageToken": "2" }).to_string().into()
            })),
            1 => Act::Answer(503, "{}".to_owned()),
            _ => {
                Act::Change(Box::new(move |body| json!({ "items": again(items(&body)) }).to_string().into()))
            }
        }
    })
}

#[test]
fn a_store_that_begins_anew_delivers_nothing_twice_and_skips_nothing() {
    let Some(server) = GcsEmulator::start() else { return };
    let url = format!("gs://{}/x", server.bucket("pages"));
    let anonymous = [("anonymous", "yes")];
    let plain = StoreSettings { conditional: Some(false), ..settings(&server.endpoint(), &anonymous) };
    for name in ["a", "b", "c"] {
        store(&url, &plain).put_new(&key(name), b"x").unwrap();
    }
    let between = in_pages(server.port(), |items| items);
    let seen = listed(&*store(&url, &settings(&between.endpoint(), &anonymous)), "");
    assert_eq!(seen, (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], Ok(())));

    // Where the order turns out to be another one nobody knows what was passed over.
    let between = in_pages(server.port(), |items| items.into_iter().rev().collect());
    let (delivered, ended) = listed(&*store(&url, &settings(&between.endpoint(), &anonymous)), "");
    assert_eq!((delivered, ended), (vec!["c".to_owned()], Err(StoreErrorKind::Unreachable)));
}

#[test]
fn a_store_that_begins_anew_and_fails_at_the_same_page_each_time_is_given_up() {
    let Some(server) = GcsEmulator::start() else { return };
    let url = format!("gs://{}/x", server.bucket("pages"));
    let anonymous = [("anonymous", "yes")];
    let plain = StoreSettings { conditional: Some(false), ..settings(&server.endpoint(), &anonymous) };
    for name in ["a", "b", "c"] {
        store(&url, &plain).put_new(&key(name), b"x").unwrap();
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let between = Between::before(server.port(), move |seen| {
        if seen.method != "GET" || !seen.target.contains("/o?prefix=x") || seen.target.contains("maxResults")
        {
            return Act::Pass;
        }
        // Whoever never gives up comes to an end all the same.
        if count.fetch_add(1, Ordering::SeqCst) >= 30 {
            return Act::Pass;
        }
        match seen.target.contains("pageToken") {
            true => Act::Answer(503, "{}".to_owned()),
            false => Act::Change(Box::new(|body| {
                let all: Value = serde_json::from_slice(&body).unwrap();
                json!({ "items": all["items"].as_array().unwrap()[..2], "nextPageToken": "2" })
                    .to_string()
                    .into()
            })),
        }
    });
    let patience = Patience { call: Duration::from_millis(500), ..Patience::default() };
    let impatient = StoreSettings { patience, ..settings(&between.endpoint(), &anonymous) };
    let (delivered, ended) = listed(&*store(&url, &impatient), "");
    assert_eq!((delivered, ended), (vec!["a".to_owned(), "b".to_owned()], Err(StoreErrorKind::Unreachable)));
    assert!(asked.load(Ordering::SeqCst) <= 12, "{asked:?}");
}

#[test]
fn a_page_of_versions_is_asked_for_again() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.versioned_bucket("versions");
    for name in ["x/a", "x/b", "x/c"] {
        server.must("PUT", &format!("/{bucket}/{name}"), &[], "");
    }
    // The first page has one version; the second is refused twice.
    let later = AtomicUsize::new(0);
    let between = Between::before(server.port(), move |seen| match seen.target.contains("?versions") {
        false if seen.target.contains("key-marker") && later.fetch_add(1, Ordering::SeqCst) < 2 => {
            Act::Answer(503, BUSY.to_owned())
        }
        false if seen.target.contains("key-marker") || !seen.target.contains("versions") => Act::Pass,
        _ => Act::Change(Box::new(|body| {
            let text = String::from_utf8(body).unwrap();
            let (first, _) = text.split_once("</Version>").unwrap();
            let (_, id) = first.split_once("<VersionId>").unwrap();
            let (id, _) = id.split_once("</VersionId>").unwrap();
            format!(
                "{}</Version><NextKeyMarker>x/a</NextKeyMarker><NextVersionIdMarker>{id}</NextVersionIdMarker>\
                 </ListVersionsResult>",
                first.replace("<IsTruncated>false<", "<IsTruncated>true<")
            )
            .into()
        })),
    });
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    let mut seen = Vec::new();
    let store = store(&format!("s3://{bucket}"), &settings(&between.endpoint(), &keys));
    let ended = store.versions("x/", &mut |version: Version| {
        seen.push(version.key.to_string());
        ControlFlow::Continue(())
    });
    ended.unwrap();
    assert_eq!(seen, ["x/a", "x/b", "x/c"]);
}

#[test]
fn a_page_of_classes_is_asked_for_again() {
    let page = |name: &str, next: Option<&str>| {
        let next = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        format!(
            "<ListBucketResult><IsTruncated>{}</IsTruncated>{}<Contents><Key>{name}</Key>\
             <StorageClass>GLACIER</StorageClass></Contents></ListBucketResult>",
            next.is_some(),
            next.unwrap_or_default()
        )
    };
    // No server of tests keeps anything cold in pages: nothing passes. The second page is refused twice, the third is lost.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let between = Between::before(9, move |seen| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        match (
            seen.target.split("continuation-token=").nth(1).and_then(|rest| rest.split('&').next()),
            number,
        ) {
            (None, _) => Act::Answer(200, page("x/packs/a", Some("2"))),
            (Some("2"), 1 | 2) => Act::Answer(503, BUSY.to_owned()),
            (Some("2"), _) => Act::Answer(200, page("x/packs/b", Some("3"))),
            (_, 4) => Act::Drop,
            _ => Act::Answer(200, page("x/packs/c", None)),
        }
    });
    let keys = [("access_key_id", "k"), ("secret_access_key", "s")];
    let mut seen = Vec::new();
    let ended =
        store("s3://bucket/x", &settings(&between.endpoint(), &keys)).list_cold("packs/", &mut |key| {
            seen.push(key.to_string());
            ControlFlow::Continue(())
        });
    ended.unwrap();
    assert_eq!(seen, ["packs/a", "packs/b", "packs/c"]);
    assert_eq!(asked.load(Ordering::SeqCst), 6);
}

/// A server that says of the first keys that they have expired, as soon as `expired` is set; how often keys were fetched.
fn expiring(server: &Moto, expired: &Arc<AtomicBool>) -> (Between, StoreSettings, Arc<AtomicUsize>) {
    let expired = Arc::clone(expired);
    let between = Between::before(server.port(), move |seen| {
        let is_first = seen.header("authorization").is_some_and(|text| text.contains("Credential=FIRST"));
        if !is_first || !expired.load(Ordering::SeqCst) {
            return Act::Pass;
        }
        let code =
            "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
        Act::Answer(400, code.to_owned())
    });
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetched);
    let mut settings = settings(&between.endpoint(), &[]);
    settings.credentials = Credentials::Keys(Arc::new(move || {
        let name = if count.fetch_add(1, Ordering::SeqCst) == 0 { "FIRST" } else { "SECOND" };
        Ok(Keys::default()
            .with("access_key_id", name)
            .with("secret_access_key", "s")
            .with("session_token", "t"))
    }));
    (between, settings, fetched)
}

type Call = fn(&dyn Store) -> Result<(), refloat_store::StoreError>;

#[test]
fn keys_that_the_store_takes_for_expired_are_fetched_again_by_each_call() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("expired");
    let calls: [(&str, Call); 7] = [
        ("put", |store| store.put_new(&key("new"), b"x")),
        ("head", |store| store.head(&key("old")).map(|found| assert_eq!(found.unwrap().size, 3))),
        ("read", |store| store.read(&key("old"), 0..3, &mut Vec::new())),
        ("list", |store| store.list("", &mut |_| ControlFlow::Continue(()))),
        ("delete", |store| store.delete(&key("new"))),
        ("settings", |store| store.bucket_settings().map(|found| assert!(found.is_some()))),
        ("versions", |store| store.versions("", &mut |_| ControlFlow::Continue(()))),
    ];
    for (name, call) in calls {
        let expired = Arc::new(AtomicBool::new(false));
        let (_between, settings, fetched) = expiring(&server, &expired);
        let store = store(&format!("s3://{bucket}"), &settings);
        if store.head(&key("old")).unwrap().is_none() {
            store.put_new(&key("old"), b"old").unwrap();
        }
        expired.store(true, Ordering::SeqCst);
        call(&*store).unwrap_or_else(|error| panic!("{name}: {error}: {}", error.source));
        assert_eq!(fetched.load(Ordering::SeqCst), 2, "{name}");
    }
}

#[test]
fn keys_that_expire_while_parts_are_sent_are_fetched_again() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("expired");
    let expired = Arc::new(AtomicBool::new(false));
    let (_between, settings, fetched) = expiring(&server, &expired);
    let store = store(&format!("s3://{bucket}"), &settings);
    let body: Vec<u8> = (0..52_u32 << 20).map(|n| (n % 251) as u8).collect();
    let (first, rest) = body.split_at(36 << 20);
    let mut writer = store.create(&key("large")).unwrap();
    writer.write(first).unwrap();
    expired.store(true, Ordering::SeqCst);
    writer.write(rest).unwrap();
    writer.finish().unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
    assert!(read_whole(&*store, &key("large"), 1 << 30).unwrap() == body);
}

/// A metadata service of a machine, of the second version: nothing without a token.
fn metadata_service(fetched: &Arc<AtomicUsize>) -> Between {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let fetched = Arc::clone(fetched);
    // Nothing passes, so nothing has to listen.
    Between::before(9, move |seen| match (seen.method, seen.target) {
        ("PUT", "/latest/api/token") if seen.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() => {
            Act::Answer(200, "a token".to_owned())
        }
        ("GET", _) if seen.header("x-aws-ec2-metadata-token") != Some("a token") => {
            Act::Answer(401, String::new())
        }
        ("GET", ROLES) => Act::Answer(200, "backup".to_owned()),
        ("GET", target) if target.strip_prefix(ROLES) == Some("backup") => {
            let number = fetched.fetch_add(1, Ordering::SeqCst);
            // The first ones are within their last two minutes.
            let seconds = if number == 0 { 90 } else { 3600 };
            let end = refloat_types::Clock::now(&refloat_types::SystemClock) + Duration::from_secs(seconds);
            let keys = json!({
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": format!("ASIA{number}"),
                "SecretAccessKey": "s", "Token": "t", "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "LastUpdated": "2026-01-01T00:00:00Z",
            });
            Act::Answer(200, keys.to_string())
        }
        _ => Act::Answer(404, String::new()),
    })
}

#[test]
fn a_machine_is_who_its_metadata_service_says() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("machine");
    let fetched = Arc::new(AtomicUsize::new(0));
    let service = metadata_service(&fetched);
    let names = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&names);
    let between = Between::before(server.port(), move |request| {
        let text = request.header("authorization").unwrap_or_default();
        let name = text.split("Credential=").nth(1).and_then(|rest| rest.split('/').next());
        seen.lock().unwrap().insert(name.unwrap_or_default().to_owned());
        Act::Pass
    });
    let machine = StoreSettings {
        credentials: Credentials::Machine,
        metadata_endpoint: Some(service.endpoint()),
        ..settings(&between.endpoint(), &[])
    };
    let first = store(&format!("s3://{bucket}"), &machine);
    for number in 0..4 {
        first.put_new(&key(&format!("x/{number}")), b"x").unwrap();
    }
    // Before the first keys end others are asked for, once.
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
    assert_eq!(names.lock().unwrap().iter().collect::<Vec<_>>(), ["ASIA0", "ASIA1"]);

    let gone = service.endpoint();
    drop(service);
    let machine = StoreSettings { metadata_endpoint: Some(gone), ..machine };
    let nobody = Between::before(9, |_| Act::Answer(404, String::new()));
    let without = StoreSettings { metadata_endpoint: Some(nobody.endpoint()), ..machine };
    let error = store(&format!("s3://{bucket}"), &without).head(&key("x/0")).unwrap_err();
    assert!(error.source.to_string().starts_with("credentials cannot be had: "), "{}", error.source);
}

/// Stands before a store whose unfinished uploads are told to have been begun so many hours ago, each by its place.
pub(crate) fn begun_before(port: u16, hours: fn(usize) -> u64) -> Between {
    let now = refloat_types::Clock::now(&refloat_types::SystemClock);
    Between::before(port, move |seen| match seen.method == "GET" && seen.target.contains("uploads") {
        false => Act::Pass,
        true => Act::Change(Box::new(move |body| {
            let text = String::from_utf8(body).unwrap();
            let mut parts = text.split("<Initiated>");
            let mut out = parts.next().unwrap_or_default().to_owned();
            for (number, part) in parts.enumerate() {
                let (_, rest) = part.split_once("</Initiated>").unwrap();
                let begun = now - Duration::from_secs(hours(number) * 3600);
                out += &format!("<Initiated>{begun}</Initiated>{rest}");
            }
            out.into()
        })),
    })
}

#[test]
fn unfinished_uploads_of_ours_that_are_old_are_cleared() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("uploads");
    let begin = |name: &str| server.must("POST", &format!("/{bucket}/{name}?uploads"), &[], "");
    for name in ["x/packs/aa/1", "x/packs/bb/2", "x/no%20key", "xy/packs/aa/1", "x/dumps/1", "packs/cc/3"] {
        begin(name);
    }
    let is_ours = |key: &Key| key.as_str().starts_with("packs/");
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    let url = format!("s3://{bucket}/x");
    let young = begun_before(server.port(), |_| 23);
    let old = begun_before(server.port(), |_| 25);
    let left = || {
        let text = server.must("GET", &format!("/{bucket}?uploads"), &[], "");
        let mut keys: Vec<String> = text
            .split("<Key>")
            .skip(1)
            .map(|part| part.split("</Key>").next().unwrap_or_default().to_owned())
            .collect();
        keys.sort();
        keys
    };
    assert_eq!(store(&url, &settings(&young.endpoint(), &keys)).clear_abandoned(is_ours).unwrap(), 0);
    assert_eq!(left().len(), 6, "what may still be written stays");
    assert_eq!(store(&url, &settings(&old.endpoint(), &keys)).clear_abandoned(is_ours).unwrap(), 2);
    assert_eq!(
        left(),
        ["packs/cc/3", "x/dumps/1", "x/no key", "xy/packs/aa/1"],
        "of others, or none of ours"
    );
    // At the top of the bucket, whose other uploads are none of a repository's.
    let top = format!("s3://{bucket}");
    assert_eq!(store(&top, &settings(&old.endpoint(), &keys)).clear_abandoned(is_ours).unwrap(), 1);
    assert_eq!(left(), ["x/dumps/1", "x/no key", "xy/packs/aa/1"]);
    // Whoever may not look leaves it.
    let denied = Between::before(server.port(), |seen| match seen.target.contains("uploads") {
        true => Act::Answer(403, "<Error><Code>AccessDenied</Code></Error>".to_owned()),
        false => Act::Pass,
    });
    let whole = store(&format!("s3://{bucket}"), &settings(&denied.endpoint(), &keys));
    assert_eq!(whole.clear_abandoned(is_ours).unwrap(), 0);
}
