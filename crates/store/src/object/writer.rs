//! An object that is written in pieces.
//!
//! A small one is put as a whole. A larger one goes out in parts of [`PART`], one on its way while the next one fills, so
//! that memory is bounded by three parts; a part whose answer did not come is sent again. Only the last call makes the
//! object visible. A store that knows no parts gets the object as a whole, from memory. When the answer to that one is lost, the object itself tells whose it is, by a mark in its metadata.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use opendal::Buffer;
use opendal::raw::{OpWrite, Service as _, oio};

use super::failure::{self, Told};
use super::{Failed, Inner, guarded, late, observed, runtime};
use crate::{Key, ObjectWriter, StoreError, StoreErrorKind};

/// Bytes of a part. S3 wants 5 MiB at least and takes 10,000 parts; fewer and larger requests are cheaper.
const PART: usize = 16 << 20;
/// Most parts of an object, in every store that this speaks to.
const MOST_PARTS: u32 = 10_000;
/// Largest object for a store that knows no parts: as many as are held in memory.
const MOST_WHOLE: u64 = 256 << 20;
/// Attempts for each part and for the last call.
const ATTEMPTS: u32 = 5;
/// Name of the metadata by which an upload knows itself again. Azure takes only letters and digits.
pub(super) const MARK: &str = "refloatupload";

/// The upload as it travels between the caller and the runtime.
type Upload = oio::Writer;
type Sent = Result<Upload, StoreError>;

pub(super) struct Writer {
    inner: Arc<Inner>,
    key: Key,
    mark: String,
    buffer: Vec<u8>,
    size: u64,
    parts: u32,
    /// All parts so far, as long as it is not known whether the store takes parts.
    held: Vec<Buffer>,
    state: State,
}

/// How far the upload is.
enum State {
    /// Not begun: all bytes are in the buffer.
    Small,
    /// A part is on its way.
    Sending(Receiver<Sent>),
    /// The store knows no parts: all are held.
    Whole,
    /// Ended, or it cannot be finished any more.
    Failed,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, key: Key) -> Self {
        let mark = draw_mark();
        Self {
            inner,
            key,
            mark,
            buffer: Vec::new(),
            size: 0,
            parts: 0,
            held: Vec::new(),
            state: State::Small,
        }
    }

    fn error(&self, kind: StoreErrorKind, text: impl Into<String>) -> StoreError {
        StoreError::new(kind, "create", self.key.as_str(), &self.inner.url, Told::error(text, None))
    }

    /// The upload, begun where it is not, when the part before is through; `None` where the store knows no parts.
    fn upload(&mut self) -> Result<Option<Upload>, StoreError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Whole => {
                self.state = State::Whole;
                Ok(None)
            }
            State::Small => {
                let (context, service) = self.inner.operator(self.key.as_str()).into_parts();
                let refused = |error: opendal::Error| {
                    let (object, url) = (self.key.as_str(), &self.inner.url);
                    failure::sort("create", object, url, &error, &Default::default())
                };
                let options = self.inner.write_options(Some(&self.mark));
                let (args, _) = OpWrite::from_options(&service.capability(), options).map_err(refused)?;
                service.write(&context, self.key.as_str(), args).map(Some).map_err(refused)
            }
            State::Sending(receive) => {
                let sent = receive.recv();
                match sent.unwrap_or_else(|_| Err(self.error(StoreErrorKind::Other, "sending a part died"))) {
                    Ok(upload) => {
                        // The first part waits in the library until there is a second: then the store was asked.
                        if self.parts >= 2 {
                            self.held = Vec::new();
                        }
                        Ok(Some(upload))
                    }
                    Err(error) if Told::is_unimplemented(&error) && !self.held.is_empty() => {
                        self.state = State::Whole;
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
            State::Failed => Err(self.error(StoreErrorKind::Other, "an earlier part failed")),
        }
    }

    /// Sends what is in the buffer as the next part, without waiting for it.
    fn send_part(&mut self) -> Result<(), StoreError> {
        let upload = self.upload()?;
        self.parts += 1;
        let too_large = upload.is_none() && self.size > MOST_WHOLE;
        if self.parts >= MOST_PARTS || too_large {
            self.state = State::Failed;
            return Err(self.error(StoreErrorKind::Other, "the object is larger than the store takes"));
        }
        let next = Vec::with_capacity(PART);
        let part = Buffer::from(std::mem::replace(&mut self.buffer, next));
        if self.parts <= 2 || upload.is_none() {
            self.held.push(part.clone());
        }
        let Some(upload) = upload else { return Ok(()) };
        let (done, receive) = sync_channel(1);
        let (inner, key) = (Arc::clone(&self.inner), self.key.clone());
        runtime::start(async move {
            let _ = done.send(send(&inner, &key, upload, part).await);
        });
        self.state = State::Sending(receive);
        Ok(())
    }
}

impl ObjectWriter for Writer {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            if self.buffer.len() >= PART {
                self.send_part()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.size += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let is_small = matches!(self.state, State::Small);
        if is_small && self.inner.wants_algorithm.load(Ordering::Relaxed) {
            let body = std::mem::take(&mut self.buffer);
            return self.inner.put_summed(&self.key, body, Some(&self.mark));
        }
        let upload = self.upload()?;
        let last = Buffer::from(std::mem::take(&mut self.buffer));
        let again = is_small.then(|| last.clone());
        let mut held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            held.push(last.clone());
        }
        self.state = State::Failed;
        let (inner, key, mark, size) =
            (Arc::clone(&self.inner), self.key.clone(), self.mark.clone(), self.size);
        let finished = runtime::run(async move {
            let Some(upload) = upload else { return put_whole(&inner, &key, &mark, held).await };
            let ended = match send(&inner, &key, upload, last).await {
                Ok(upload) => complete(&inner, &key, upload, &mark, size).await,
                Err(error) => Err(error),
            };
            match ended {
                Err(error) if Told::is_unimplemented(&error) && !held.is_empty() => {
                    put_whole(&inner, &key, &mark, held).await
                }
                other => other,
            }
        });
        let done = finished
            .map_err(|error| StoreError::from_io("create", self.key.as_str(), &self.inner.url, error))?;
        match (done, again) {
            (Err(error), Some(body)) if guarded::wants_algorithm(&error) => {
                self.inner.put_summed(&self.key, body.to_vec(), Some(&self.mark))
            }
            (done, _) => done,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Failed) {
            // Waited for: whoever drops a writer may look at the store next.
            State::Sending(receive) => {
                if let Ok(Ok(upload)) = receive.recv() {
                    let inner = Arc::clone(&self.inner);
                    drop(runtime::run(async move { give_up(&inner, upload).await }));
                }
            }
            State::Small | State::Whole | State::Failed => {}
        }
    }
}

/// Sends one part, again where its answer did not come. On failure what was sent is taken back.
async fn send(inner: &Inner, key: &Key, mut upload: Upload, part: Buffer) -> Sent {
    let limit = inner.limit(2 * part.len() as u64);
    let mut number = 1;
    loop {
        let answered = observed(limit, upload.write_dyn(part.clone())).await;
        let Err(failed) = answered else { return Ok(upload) };
        let error = told(inner, key, failed, limit);
        if !error.is_retryable() || number >= ATTEMPTS {
            give_up(inner, upload).await;
            return Err(error);
        }
        tracing::debug!(%key, cause = %error.source, attempt = number, "sending a part again");
        pause(number, &error).await;
        number += 1;
    }
}

/// Makes the object visible.
async fn complete(
    inner: &Inner,
    key: &Key,
    mut upload: Upload,
    mark: &str,
    size: u64,
) -> Result<(), StoreError> {
    let limit = inner.limit(2 * PART as u64);
    let mut number = 1;
    loop {
        let Err(failed) = observed(limit, upload.close_dyn()).await else { return Ok(()) };
        let error = told(inner, key, failed, limit);
        let doubtful = number > 1 || error.is_retryable();
        // The attempt whose answer was lost may have made it: then the upload is no more, or the name is taken.
        if doubtful && is_ours(inner, key, mark, size).await {
            return Ok(());
        }
        if !error.is_retryable() || number >= ATTEMPTS {
            give_up(inner, upload).await;
            return Err(error);
        }
        tracing::debug!(%key, cause = %error.source, attempt = number, "finishing an object again");
        pause(number, &error).await;
        number += 1;
    }
}

/// Puts all parts as one object.
async fn put_whole(inner: &Inner, key: &Key, mark: &str, parts: Vec<Buffer>) -> Result<(), StoreError> {
    let body = Buffer::from(parts.into_iter().flatten().collect::<Vec<bytes::Bytes>>());
    let limit = inner.limit(body.len() as u64);
    let mut number = 1;
    loop {
        let operator = inner.operator(key.as_str());
        let put = operator.write_options(key.as_str(), body.clone(), inner.write_options(Some(mark)));
        let Err(failed) = observed(limit, put).await else { return Ok(()) };
        let error = told(inner, key, failed, limit);
        let doubtful = number > 1 || error.is_retryable();
        if doubtful && is_ours(inner, key, mark, body.len() as u64).await {
            return Ok(());
        }
        if !error.is_retryable() || number >= ATTEMPTS {
            return Err(error);
        }
        pause(number, &error).await;
        number += 1;
    }
}

/// Whether `key` is what this upload has made.
async fn is_ours(inner: &Inner, key: &Key, mark: &str, size: u64) -> bool {
    let operator = inner.operator(key.as_str());
    let stat = observed(inner.limit(0), operator.stat(key.as_str())).await;
    stat.is_ok_and(|metadata| {
        let marked = metadata.user_metadata().and_then(|all| all.get(MARK));
        metadata.content_length() == size && marked == Some(mark)
    })
}

/// Takes back what was sent. What cannot be taken back now is cleared away later.
async fn give_up(inner: &Inner, mut upload: Upload) {
    let _ = observed(inner.limit(0), upload.abort_dyn()).await;
}

fn told(inner: &Inner, key: &Key, failed: Failed, limit: Duration) -> StoreError {
    match failed {
        Failed::Late => late("create", key.as_str(), &inner.url, limit),
        Failed::Answered(error, answer) => failure::sort("create", key.as_str(), &inner.url, &error, &answer),
    }
}

async fn pause(number: u32, error: &StoreError) {
    let backoff = crate::Backoff::default();
    let asked = error.retry_after().unwrap_or_default();
    tokio::time::sleep(backoff.pause(number).max(asked)).await;
}

/// 128 random bits in hex.
fn draw_mark() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // A mark is no secret and protects nothing: it only has to be another one each time.
    let draw = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", draw(), draw())
}
