//! The bytes of an object, handed on while the rest is on its way.

use std::ops::{ControlFlow, Range};
use std::sync::PoisonError;
use std::sync::mpsc::{Sender, channel};

use futures::TryStreamExt as _;

use super::failure::Told;
use super::{ANSWER, Failed, Inner, failure, late, observed, runtime};
use crate::{Key, StoreError, StoreErrorKind};

/// Bytes that are handed on together, but for the last: waking whoever waits costs more than a few pieces more.
const TOGETHER: usize = 96 << 10;
/// Room for them and for what comes with the last of them, mostly.
const ROOM: usize = 128 << 10;

/// What comes of a request.
enum Step {
    Bytes(Vec<u8>),
    End(Result<(), Failed>),
}

/// Why it ended before all was there.
enum Ended {
    /// Nothing was handed on, and the credentials have expired.
    Expired(StoreError),
    Otherwise(StoreError),
}

/// Gives the bytes `range` of `key`, which are some, to `each`.
pub(super) fn stream(
    inner: &Inner,
    key: &Key,
    range: Range<u64>,
    each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    match attempt(inner, key, range.clone(), each) {
        Err(Ended::Expired(_)) => {
            inner.renew();
            attempt(inner, key, range, each).map_err(|ended| match ended {
                Ended::Expired(error) | Ended::Otherwise(error) => error,
            })
        }
        Err(Ended::Otherwise(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

fn attempt(
    inner: &Inner,
    key: &Key,
    range: Range<u64>,
    each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<(), Ended> {
    let length = range.end - range.start;
    let limit = inner.limit(length);
    let (send, receive) = channel();
    let (operator, path) = (inner.operator(key.as_str()), key.as_str().to_owned());
    runtime::start(async move {
        let ended = observed(limit, bring(operator, path, range, &send)).await;
        // Nobody may be waiting any more.
        let _ = send.send(Step::End(ended));
    });
    let mut handed = 0;
    let fail = |kind, why: String| {
        let error = StoreError::new(kind, "read", key.as_str(), &inner.url, Told::error(why, None));
        Err(Ended::Otherwise(error))
    };
    loop {
        match receive.recv().ok() {
            Some(Step::Bytes(mut bytes)) => {
                // More than was asked for is nobody's.
                bytes.truncate(usize::try_from(length - handed).unwrap_or(usize::MAX));
                handed += bytes.len() as u64;
                if !bytes.is_empty() && each(bytes).is_break() {
                    return Ok(());
                }
            }
            Some(Step::End(Ok(()))) if handed == length => return Ok(()),
            Some(Step::End(Ok(()))) => {
                return fail(
                    StoreErrorKind::Truncated,
                    format!("{handed} bytes came where {length} are needed"),
                );
            }
            Some(Step::End(Err(Failed::Late))) => {
                return Err(Ended::Otherwise(late("read", key.as_str(), &inner.url, limit)));
            }
            Some(Step::End(Err(Failed::Answered(error, answer)))) => {
                let expired = handed == 0 && failure::is_expired(&error, &answer);
                let error = failure::sort("read", key.as_str(), &inner.url, &error, &answer);
                return Err(if expired { Ended::Expired(error) } else { Ended::Otherwise(error) });
            }
            None => return fail(StoreErrorKind::Other, "a call to the store died".to_owned()),
        }
    }
}

/// Asks for the range and sends on what comes. All of it may wait to be taken: whoever asks bounds it.
async fn bring(
    operator: opendal::Operator,
    path: String,
    range: Range<u64>,
    send: &Sender<Step>,
) -> opendal::Result<()> {
    let begins = range.start;
    let mut pieces = operator.reader(&path).await?.into_stream(range).await?;
    let (mut together, mut is_first) = (Vec::with_capacity(ROOM), true);
    while let Some(buffer) = pieces.try_next().await? {
        if std::mem::take(&mut is_first) && begins > 0 {
            let status = ANSWER.with(|noted| noted.lock().unwrap_or_else(PoisonError::into_inner).status);
            if status == 200 {
                let what = "the store sends whole objects where parts are asked for";
                return Err(opendal::Error::new(opendal::ErrorKind::Unexpected, what));
            }
        }
        for piece in buffer {
            together.extend_from_slice(&piece);
        }
        if together.len() >= TOGETHER
            && send.send(Step::Bytes(std::mem::replace(&mut together, Vec::with_capacity(ROOM)))).is_err()
        {
            return Ok(());
        }
    }
    let _ = send.send(Step::Bytes(together));
    Ok(())
}
