//! An object that is written in pieces: one PUT to a temporary name whose body grows, with a bounded number of pieces on
//! their way.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use refloat_types::Wait;
use tokio::sync::mpsc::{Sender, channel};

use super::client::Failed;
use super::{Inner, encode, parent, temporary};
use crate::object::runtime;
use crate::{Key, ObjectWriter, StoreError, StoreErrorKind};

/// Pieces that wait to be sent.
const WAITING: usize = 4;

/// As much is collected before it is sent.
const COLLECT: usize = 1 << 20;

pub(super) struct Writer {
    inner: Arc<Inner>,
    key: Key,
    collected: Vec<u8>,
    written: u64,
    upload: Option<Upload>,
    is_spoilt: bool,
}

/// A PUT that is under way.
struct Upload {
    temporary: String,
    body: Sender<io::Result<Bytes>>,
    done: Receiver<Result<(), Failed>>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, key: Key) -> Self {
        Self { inner, key, collected: Vec::new(), written: 0, upload: None, is_spoilt: false }
    }

    fn begin(&self) -> Result<Upload, StoreError> {
        let path = self.inner.path(self.key.as_str());
        let temporary = temporary(parent(&path));
        self.inner.call(("create", self.key.as_str()), 0, async move |inner| {
            inner.ensure_directory(parent(&path)).await
        })?;
        let (body, pieces) = channel::<io::Result<Bytes>>(WAITING);
        let (answer, done) = std::sync::mpsc::sync_channel(1);
        let (inner, name) = (Arc::clone(&self.inner), temporary.clone());
        runtime::start(async move {
            let stream =
                futures::stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
            let _ = answer.send(inner.send_file(&name, reqwest::Body::wrap_stream(stream)).await);
        });
        Ok(Upload { temporary, body, done })
    }

    /// Hands over what was collected.
    fn hand_over(&mut self) -> Result<(), StoreError> {
        let bytes = Bytes::from(std::mem::take(&mut self.collected));
        let upload = match self.upload.take() {
            Some(upload) => upload,
            None => self.begin()?,
        };
        let (body, length) = (upload.body.clone(), bytes.len() as u64);
        self.inner.call(("create", self.key.as_str()), length * (WAITING as u64 + 1), async move |_| {
            // Whoever does not take it any more has answered: that is looked at when the object is finished.
            let _ = body.send(Ok(bytes)).await;
            Ok(())
        })?;
        self.written += length;
        self.upload = Some(upload);
        Ok(())
    }

    fn refuse_spoilt(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.is_spoilt, true) {
            let failed = Failed::new(StoreErrorKind::Other, "it was given up after an error");
            return Err(failed.into_error("create", self.key.as_str(), &self.inner.url));
        }
        Ok(())
    }
}

impl ObjectWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.refuse_spoilt()?;
        self.collected.extend_from_slice(bytes);
        if self.collected.len() >= COLLECT {
            self.hand_over()?;
        }
        self.is_spoilt = false;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.refuse_spoilt()?;
        let path = self.inner.path(self.key.as_str());
        let about = ("create", self.key.as_str().to_owned());
        let about = (about.0, about.1.as_str());
        if self.upload.is_none() {
            // All of it fits one request with a length.
            let body = Bytes::from(std::mem::take(&mut self.collected));
            return self.inner.call(about, body.len() as u64, async move |inner| {
                inner.ensure_directory(parent(&path)).await?;
                let temporary = temporary(parent(&path));
                inner.send_file(&temporary, body).await?;
                inner.publish(&temporary, &path).await
            });
        }
        if !self.collected.is_empty() {
            self.hand_over()?;
        }
        let Some(Upload { temporary, body, done }) = self.upload.take() else { return Ok(()) };
        drop(body);
        let written = self.written;
        let limit = self.inner.limit(written.min(COLLECT as u64 * WAITING as u64));
        let sent = done.recv_timeout(limit).unwrap_or_else(|_| {
            let text = format!("no answer within {}", Wait(limit));
            Err(Failed::new(StoreErrorKind::Unreachable, text))
        });
        sent.map_err(|failed| failed.into_error(about.0, about.1, &self.inner.url))?;
        self.inner.call(about, 0, async move |inner| {
            // Some servers drop a body whose length was not said before, and answer "created".
            let size = inner.file(&temporary).await?.map_or(0, |file| file.size);
            if size != written {
                let text = format!("the server keeps {size} of {written} bytes that it answered to have");
                return Err(Failed::new(StoreErrorKind::Unconfirmed, text));
            }
            inner.publish(&temporary, &path).await
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The body ends in an error, so that the server does not take it for whole; what it keeps is removed.
        if let Some(Upload { temporary, body, .. }) = self.upload.take() {
            let inner = Arc::clone(&self.inner);
            runtime::start(async move {
                let _ = body.send(Err(io::Error::other("given up"))).await;
                drop(body);
                let _ = inner.client.must("DELETE", &encode(&temporary), &[]).await;
            });
        }
    }
}
