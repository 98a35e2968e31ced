//! A file that is written in pieces.
//!
//! A small one is one request. A larger one goes up in parts, to an address that Drive gives for it; with the last part it
//! gets its name. A part whose answer did not come is asked after: the service says how far it is. An upload that nobody
//! ends is visible to nobody, and forgotten by the service after a week.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::header::RANGE;
use reqwest::{Method, Response};

use super::Inner;
use super::api::{File, judge};
use super::create::hex;
use crate::rest::{Answered, Ask, Failed};
use crate::{Key, ObjectWriter, StoreError, StoreErrorKind};

/// Bytes of a part: as Drive wants it, a multiple of 256 KiB.
const PART: usize = 16 << 20;

pub(super) struct Writer {
    inner: Arc<Inner>,
    key: Key,
    buffer: Vec<u8>,
    digest: Context,
    upload: Option<Upload>,
    is_spoilt: bool,
}

/// An upload that is under way.
#[derive(Clone)]
struct Upload {
    address: String,
    id: String,
    offset: u64,
}

/// How far an upload is.
enum Far {
    Until(u64),
    Done(File),
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, key: Key) -> Self {
        let digest = Context::new(&SHA256);
        Self { inner, key, buffer: Vec::new(), digest, upload: None, is_spoilt: false }
    }

    fn call<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.api.rest.call(("create", self.key.as_str()), bytes, work)
    }

    fn upload(&mut self) -> Result<Upload, StoreError> {
        if let Some(upload) = self.upload.take() {
            return Ok(upload);
        }
        self.inner.api.rest.persist(|_| {
            let (inner, key) = (Arc::clone(&self.inner), self.key.clone());
            self.call(0, async move {
                let id = inner.new_id().await?;
                Ok(Upload { address: inner.begin(&key, &id).await?, id, offset: 0 })
            })
        })
    }

    /// Sends what is in the buffer as the next part.
    fn send_part(&mut self) -> Result<(), StoreError> {
        let part = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PART)));
        self.digest.update(&part);
        let upload = self.upload()?;
        let end = upload.offset + part.len() as u64;
        self.inner.api.rest.persist(|attempt| {
            let (inner, upload, part) = (Arc::clone(&self.inner), upload.clone(), part.clone());
            self.call(part.len() as u64, async move {
                match inner.send(&upload, &part, None, attempt > 1).await? {
                    Far::Until(far) if far == end => Ok(()),
                    Far::Until(_) => Err(Failed::new(StoreErrorKind::Unreachable, "a part was not taken")),
                    Far::Done(_) => Err(Failed::strange("the rest of the upload")),
                }
            })
        })?;
        self.upload = Some(Upload { offset: end, ..upload });
        Ok(())
    }

    fn refuse_spoilt(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.is_spoilt, true) {
            let text = "it was given up after an error";
            return Err(self.inner.api.rest.error(StoreErrorKind::Other, &self.key, text));
        }
        Ok(())
    }
}

impl ObjectWriter for Writer {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.refuse_spoilt()?;
        while !bytes.is_empty() {
            // The last part, which is never empty so, waits for the end.
            if self.buffer.len() >= PART {
                self.send_part()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        self.is_spoilt = false;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.refuse_spoilt()?;
        let last = Bytes::from(std::mem::take(&mut self.buffer));
        if self.upload.is_none() && last.len() <= super::WHOLE {
            return self.inner.api.rest.persist(|_| {
                let (inner, key, last) = (Arc::clone(&self.inner), self.key.clone(), last.clone());
                self.call(last.len() as u64, async move { inner.put(&key, &last).await })
            });
        }
        self.digest.update(&last);
        let digest = hex(&self.digest.clone().finish());
        let upload = self.upload()?;
        self.inner.api.rest.persist(|attempt| {
            let (inner, upload, key) = (Arc::clone(&self.inner), upload.clone(), self.key.clone());
            let (last, digest) = (last.clone(), digest.clone());
            self.call(last.len() as u64, async move {
                let _alone = inner.creating(&key).lock().await;
                let size = upload.offset + last.len() as u64;
                if attempt == 1 && !inner.find(&key).await?.is_empty() {
                    return Err(Failed::exists());
                }
                match inner.send(&upload, &last, Some(size), attempt > 1).await? {
                    Far::Done(file) => inner.settle_race(&key, file, size, &digest).await,
                    Far::Until(_) => {
                        Err(Failed::new(StoreErrorKind::Unreachable, "the last part was not taken"))
                    }
                }
            })
        })
    }
}

impl Inner {
    /// Sends a part of an upload, the last one where the whole size is said. `again`: parts of it may be there.
    async fn send(
        &self,
        upload: &Upload,
        part: &Bytes,
        size: Option<u64>,
        again: bool,
    ) -> Result<Far, Failed> {
        let end = upload.offset + part.len() as u64;
        let mut from = upload.offset;
        if again {
            match self.ask_how_far(upload, size).await? {
                Far::Until(far) if far == end && size.is_none() => return Ok(Far::Until(far)),
                Far::Until(far) if (upload.offset..end).contains(&far) => from = far,
                Far::Until(_) => {
                    return Err(Failed::new(StoreErrorKind::Other, "the service has lost what it had"));
                }
                done => return Ok(done),
            }
        }
        let rest = part.slice(usize::try_from(from - upload.offset).unwrap_or(usize::MAX).min(part.len())..);
        let all = size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        let ask = Ask::new(Method::PUT, upload.address.clone())
            .header("Content-Range", format!("bytes {from}-{}/{all}", end.saturating_sub(1)))
            .body(rest);
        self.far(upload, self.api.rest.send(&ask).await?).await
    }

    async fn ask_how_far(&self, upload: &Upload, size: Option<u64>) -> Result<Far, Failed> {
        let all = size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        let ask = Ask::new(Method::PUT, upload.address.clone())
            .header("Content-Range", format!("bytes */{all}"))
            .header("Content-Length", "0");
        self.far(upload, self.api.rest.send(&ask).await?).await
    }

    async fn far(&self, upload: &Upload, response: Response) -> Result<Far, Failed> {
        let range = response.headers().get(RANGE).and_then(|range| range.to_str().ok());
        let last = range.and_then(|range| range.rsplit_once('-')?.1.trim().parse::<u64>().ok());
        let answered = Answered::read(response).await?;
        match answered.status {
            200 | 201 => File::read(&answered.json()).map(Far::Done),
            // Without a range nothing is there yet.
            308 => Ok(Far::Until(last.map_or(0, |last| last + 1))),
            // It has ended: done, or forgotten.
            404 | 410 => match self.api.by_id(&upload.id).await? {
                Some(file) => Ok(Far::Done(file)),
                None => Err(Failed::new(StoreErrorKind::Other, "the service has forgotten the upload")),
            },
            _ => Err(judge(&answered)),
        }
    }
}
