//! A file that is written in pieces.
//!
//! A small one is one call. A larger one goes into an upload session, part by part; only the call that ends the session
//! gives it a name. A part whose answer did not come is sent again: the service says how far it is. A session that nobody
//! ends is visible to nobody, and the service forgets it after some days.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::Inner;
use super::api::File;
use super::hash::ContentHash;
use crate::rest::Failed;
use crate::{Key, ObjectWriter, StoreError, StoreErrorKind};

/// Bytes of a part: as Dropbox wants it, a multiple of its blocks, and far below the 150 MB that a request may have.
const PART: usize = 16 << 20;

pub(super) struct Writer {
    inner: Arc<Inner>,
    key: Key,
    buffer: Vec<u8>,
    hash: ContentHash,
    /// The session, and how many bytes it holds.
    session: Option<(String, u64)>,
    is_spoilt: bool,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, key: Key) -> Self {
        Self { inner, key, buffer: Vec::new(), hash: ContentHash::new(), session: None, is_spoilt: false }
    }

    fn call<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.api.rest.call(("create", self.key.as_str()), bytes, work)
    }

    /// Sends what is in the buffer as the next part.
    fn send_part(&mut self) -> Result<(), StoreError> {
        let part = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PART)));
        self.hash.add(&part);
        let length = part.len() as u64;
        let known = self.session.take();
        let session = self.inner.api.rest.persist(|_| {
            let (inner, part, known) = (Arc::clone(&self.inner), part.clone(), known.clone());
            self.call(length, async move {
                match known {
                    None => inner.begin(part).await,
                    Some((session, offset)) => inner.append(&session, offset, part).await.map(|()| session),
                }
            })
        })?;
        let before = known.map_or(0, |(_, offset)| offset);
        self.session = Some((session, before + length));
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
        self.hash.add(&last);
        let end = End {
            path: self.inner.path(self.key.as_str()),
            size: self.session.as_ref().map_or(0, |(_, offset)| *offset) + last.len() as u64,
            hash: self.hash.clone().finish(),
            session: self.session.take(),
            last,
        };
        let end = Arc::new(end);
        self.inner.api.rest.persist(|attempt| {
            let (inner, end) = (Arc::clone(&self.inner), Arc::clone(&end));
            let bytes = end.last.len() as u64;
            self.call(bytes, async move { inner.end(&end, attempt > 1).await })
        })
    }
}

/// The last call for a file.
pub(super) struct End {
    pub(super) path: String,
    /// Of all of it.
    pub(super) size: u64,
    pub(super) hash: String,
    pub(super) session: Option<(String, u64)>,
    /// What the session has not yet.
    pub(super) last: Bytes,
}

impl Inner {
    /// Begins a session with its first part.
    async fn begin(&self, part: Bytes) -> Result<String, Failed> {
        let said = self.api.send("files/upload_session/start", &json!({ "close": false }), part).await?;
        let session = said.get("session_id").and_then(Json::as_str);
        session.map(str::to_owned).ok_or_else(|| Failed::strange("session_id"))
    }

    async fn append(&self, session: &str, offset: u64, part: Bytes) -> Result<(), Failed> {
        let end = offset + part.len() as u64;
        let argument = json!({ "cursor": { "session_id": session, "offset": offset }, "close": false });
        match self.api.send("files/upload_session/append_v2", &argument, part).await {
            // An earlier attempt came through, and its answer did not.
            Err(failed) if failed.correct_offset == Some(end) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Gives a file its name. `again`: an attempt before this one may have done it.
    pub(super) async fn end(&self, end: &End, again: bool) -> Result<(), Failed> {
        let commit = json!({
            "path": end.path, "mode": "add", "autorename": false, "mute": true, "strict_conflict": true,
        });
        let sent = match &end.session {
            None => self.api.send("files/upload", &commit, end.last.clone()).await,
            Some((session, offset)) => {
                let argument = |offset: u64| json!({ "cursor": { "session_id": session, "offset": offset }, "commit": commit });
                let finish = "files/upload_session/finish";
                match self.api.send(finish, &argument(*offset), end.last.clone()).await {
                    // The last part is there, and its name is not.
                    Err(failed) if failed.correct_offset == Some(end.size) && !end.last.is_empty() => {
                        self.api.send(finish, &argument(end.size), Bytes::new()).await
                    }
                    other => other,
                }
            }
        };
        match sent {
            Ok(said) => {
                let file = File::read(&said)?;
                if file.size == end.size && file.hash == end.hash {
                    return Ok(());
                }
                let text = format!("the service keeps {} of {} bytes, or others", file.size, end.size);
                Err(Failed::new(StoreErrorKind::Unconfirmed, text))
            }
            // The name is taken, or the session has ended: by that attempt, if the file is the one.
            Err(failed) if again && !failed.is(StoreErrorKind::Unreachable) => {
                match self.api.file(&end.path).await? {
                    Some(file) if file.size == end.size && file.hash == end.hash => Ok(()),
                    _ => Err(failed),
                }
            }
            Err(failed) => Err(failed),
        }
    }
}
