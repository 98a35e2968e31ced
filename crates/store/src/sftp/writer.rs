//! An object that is written in pieces. It has a connection of its own, because a server's handle belongs to one.

use std::sync::Arc;

use super::Inner;
use super::failure::Failed;
use super::files::Temporary;
use super::session::Session;
use crate::object::runtime;
use crate::{Key, ObjectWriter, StoreError, StoreErrorKind};

/// As much is collected before it is sent.
const COLLECT: usize = 4 << 20;

pub(super) struct Writer {
    inner: Arc<Inner>,
    key: Key,
    collected: Vec<u8>,
    /// Begun with the first bytes that are sent.
    open: Option<(Arc<Session>, Temporary)>,
    is_spoilt: bool,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, key: Key) -> Self {
        Self { inner, key, collected: Vec::new(), open: None, is_spoilt: false }
    }

    /// Sends what was collected; with `finish` the object gets its name.
    fn send(&mut self, finish: bool) -> Result<(), StoreError> {
        let about = ("create", self.key.as_str());
        if std::mem::replace(&mut self.is_spoilt, true) {
            let failed = Failed::new(StoreErrorKind::Other, "it was given up after an error");
            return Err(failed.into_error(about.0, about.1, &self.inner.url));
        }
        let bytes = std::mem::take(&mut self.collected);
        let (inner, key, open) = (Arc::clone(&self.inner), self.key.clone(), self.open.take());
        let open = self.inner.run(about, bytes.len() as u64, async move {
            let (session, mut file) = match open {
                Some(open) => open,
                None => {
                    let session = inner.session().await?;
                    let file = inner.begin(&session, &key).await?;
                    (session, file)
                }
            };
            session.alive(inner.append(&session, &mut file, bytes)).await?;
            if !finish {
                return Ok(Some((session, file)));
            }
            let done = session.alive(inner.publish(&session, file, &key)).await;
            if !done.as_ref().is_err_and(|failed| failed.is_broken) {
                inner.give_back(session);
            }
            done.map(|()| None)
        })?;
        self.open = open;
        self.is_spoilt = false;
        Ok(())
    }
}

impl ObjectWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.collected.extend_from_slice(bytes);
        if self.collected.len() >= COLLECT { self.send(false) } else { Ok(()) }
    }
    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.send(true)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody waits for it; what stays after all is found by its age.
        if let Some((session, file)) = self.open.take() {
            runtime::start(async move { drop(session.sftp.remove(file.path).await) });
        }
    }
}
