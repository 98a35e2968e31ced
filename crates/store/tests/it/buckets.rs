//! The contract on object stores, against real servers on loopback.

use std::cell::Cell;
use std::sync::Arc;

use refloat_store::{
    Conditional, Credentials, Keys, Known, ObjectStore, Options, Store, StoreErrorKind, StoreSettings, probe,
};
use refloat_testkit::servers::{Azurite, Garage, GcsEmulator, Moto, S3sFs};
use refloat_testkit::store_contract::run_without;

use crate::between::begun_before;

/// Settings for a server on loopback, with keys by their names.
pub(crate) fn settings(endpoint: &str, keys: &[(&str, &str)]) -> StoreSettings {
    let keys = keys.iter().fold(Keys::default(), |keys, (name, value)| keys.with(name, *value));
    StoreSettings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
        conditional: Some(true),
        ..StoreSettings::default()
    }
}

pub(crate) fn open(url: &str, settings: &StoreSettings) -> ObjectStore {
    ObjectStore::open(&url.parse().unwrap(), settings, Options::default()).unwrap()
}

fn contract(bucket: &str, settings: &StoreSettings) {
    contract_without(&[], bucket, settings);
}

/// Each clause gets a prefix of its own in one bucket.
fn contract_without(clauses: &[&str], bucket: &str, settings: &StoreSettings) {
    let number = Cell::new(0);
    run_without(clauses, &|| {
        number.set(number.get() + 1);
        Box::new(open(&format!("{bucket}/clause {}", number.get()).replace(' ', "%20"), settings))
            as Box<dyn Store>
    });
}

#[test]
fn s3_of_s3s_fs() {
    let Some(server) = S3sFs::start() else { return };
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    let (bucket, settings) = (server.bucket("contract"), settings(&server.endpoint(), &keys));
    // It answers 500 when it is asked for a name that is a directory on its disk, which no bucket has.
    let store = open(&format!("s3://{bucket}/directories"), &settings);
    store.put_new(&"d/object".parse().unwrap(), b"x").unwrap();
    assert_eq!(store.head(&"d".parse().unwrap()).unwrap_err().kind, StoreErrorKind::Unreachable);
    assert_eq!(store.head(&"e".parse().unwrap()).unwrap(), None);
    let absent = "what is absent is known to be absent";
    // It looks whether an object is there and then writes, so of two at the same moment both succeed.
    let race = "of many who create one object exactly one succeeds";
    contract_without(&[absent, race], &format!("s3://{bucket}"), &settings);
    let settings = StoreSettings { conditional: Some(false), ..settings };
    contract_without(&[absent], &format!("s3://{bucket}/overwriting"), &settings);
}

#[test]
fn s3_of_moto() {
    let Some(server) = Moto::start() else { return };
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    contract(&format!("s3://{}", server.bucket("contract")), &settings(&server.endpoint(), &keys));
}

/// It takes the condition, answers that it is done, and has overwritten.
#[test]
fn s3_of_garage_that_ignores_conditions() {
    let Some(server) = Garage::start() else { return };
    let keys = [("access_key_id", server.access_key()), ("secret_access_key", server.secret_key())];
    let bucket = format!("s3://{}", server.bucket("contract"));
    let region = Some(server.region().to_owned());
    let settings = StoreSettings { conditional: None, region, ..settings(&server.endpoint(), &keys) };
    contract(&format!("{bucket}/contract"), &settings);
    for (place, conditional) in [("asked", None), ("plain", Some(false))] {
        let settings = StoreSettings { conditional, ..settings.clone() };
        let store = open(&format!("{bucket}/{place}"), &settings);
        assert!(!store.features().create_new, "it is not believed before it is tried");
        let seen = probe(&store, &"check/1".parse().unwrap()).unwrap();
        assert_eq!(
            (seen.conditional, seen.lists_at_once, seen.deletes),
            (Conditional::Overwrites, true, true)
        );
        let immutability = store.immutability().unwrap();
        assert!(!matches!(immutability.versions, Known::Yes(())) && immutability.lock.yes().is_none());
        // A lock that is asked for and not kept is no success.
        let key = "locked".parse().unwrap();
        store.put_new(&key, b"x").unwrap();
        let until =
            refloat_types::Clock::now(&refloat_types::SystemClock) + std::time::Duration::from_secs(60);
        store.extend_lock(&key, until).unwrap_err();
        assert_eq!(store.lock_end(&key, None).unwrap_or(None), None);
    }
    // An upload whose process died. Its signatures are looked at.
    let mut writer =
        open(&format!("{bucket}/dead"), &settings).create(&"packs/aa/1".parse().unwrap()).unwrap();
    writer.write(&vec![7; 40 << 20]).unwrap();
    std::mem::forget(writer);
    for (hours, cleared) in [(|_| 23, 0), (|_| 25, 1), (|_| 25, 0)] as [(fn(usize) -> u64, u64); 3] {
        let late = begun_before(server.port(), hours);
        let settings = StoreSettings { endpoint: Some(late.endpoint()), ..settings.clone() };
        assert_eq!(open(&format!("{bucket}/dead"), &settings).clear_abandoned(|_| true).unwrap(), cleared);
    }
}

#[test]
fn azure_of_azurite() {
    let Some(server) = Azurite::start() else { return };
    let keys = [("account_name", server.account()), ("account_key", server.account_key())];
    contract(&format!("azblob://{}", server.container("contract")), &settings(&server.endpoint(), &keys));
}

#[test]
fn gcs_of_an_emulator() {
    let Some(server) = GcsEmulator::start() else { return };
    let keys = [("anonymous", "yes")];
    let settings = StoreSettings { conditional: Some(false), ..settings(&server.endpoint(), &keys) };
    contract(&format!("gs://{}", server.bucket("contract")), &settings);
}
