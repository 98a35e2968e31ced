//! Stores that answer in time, or are said not to.

use std::sync::Arc;
use std::time::Duration;

use refloat_store::posix::Options;
use refloat_store::{Backoff, Deadline, Limits, Retry, Store, StoreSettings, open};
use refloat_types::{Location, Wait};

use crate::error::{CliError, Failure};

/// Asks again within `limit` what was not answered.
pub(super) fn patient(store: Box<dyn Store>, limit: Duration) -> Retry<Deadline<Box<dyn Store>>> {
    let call = (limit / 3).max(Duration::from_millis(500));
    let backoff =
        Backoff { first: Duration::from_millis(100), longest: limit / 10, attempts: 4, budget: limit };
    Retry::new(Deadline::new(store, Limits { call, ..Limits::default() }), backoff)
}

/// A store with deadlines of its own, whose first answer has to come sooner.
pub(super) fn soon(store: Arc<dyn Store>, first: Duration) -> Deadline<Arc<dyn Store>> {
    Deadline::new(store, Limits { call: Duration::MAX, first, ..Limits::default() })
}

/// Opening a directory can hang as well.
pub(super) fn open_within(
    location: &Location,
    settings: &StoreSettings,
    options: Options,
    limit: Duration,
) -> Result<Box<dyn Store>, Failure> {
    let url = location.to_string();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let (location, settings) = (location.clone(), settings.clone());
    let opener = std::thread::Builder::new().name("open store".to_owned());
    let started = opener.spawn(move || drop(send.send(open(&location, &settings, options))));
    if let Err(source) = started {
        return Err(CliError::System { action: "start a thread".to_owned(), source }.into());
    }
    match receive.recv_timeout(limit) {
        Ok(opened) => opened.map_err(|error| super::opening::unopened(&url, error)),
        Err(_) => {
            let source = std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {}", Wait(limit)),
            );
            Err(refloat_store::StoreError::from_io("open", "", &url, source).into())
        }
    }
}
