//! Objects as files of a WebDAV server.
//!
//! An object is sent to a temporary name in its directory and then moved to its own with `Overwrite: F`, so nothing half
//! is ever visible and, where the server obeys that header, nothing is replaced; whether it does is seen by trying, once.
//! Servers look and move in two steps, so of two hosts that create one name in the same instant the later one may win;
//! within a process that cannot happen.
//! HTTP has no way to ask for a sync: `Created` may live in the server's memory alone, so such a store is not
//! [`Features::durable`]. What a crash leaves are temporary files, which [`Store::clear_abandoned`] removes after a day.

mod client;
mod multistatus;
mod writer;

use std::collections::BTreeSet;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use refloat_types::{Location, Scheme, Timestamp, Wait};

use self::client::{Client, Failed, is_done, limited};
use self::multistatus::Resource;
use crate::object::runtime;
use crate::open::OpenError;
use crate::posix::Options;
use crate::settings::StoreSettings;
use crate::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind};

/// What temporary files begin with: no key does.
const PREFIX: &str = ".refloat-dav-";

/// A temporary file that was sent so long ago has no writer any more.
const ABANDONED_AFTER: i64 = 24 * 60 * 60;

/// Names are dealt to so many locks.
const MOVING: usize = 16;

/// A store in a directory of a WebDAV server.
pub struct WebdavStore {
    inner: Arc<Inner>,
}

/// What calls and writers share.
struct Inner {
    url: String,
    client: Client,
    /// The store's directory, decoded, without a slash at the end.
    root: String,
    settings: StoreSettings,
    options: Options,
    /// Directories that were seen to be there.
    directories: Mutex<BTreeSet<String>>,
    /// Held while an object gets its name: one lock for some of all names.
    moving: [tokio::sync::Mutex<()>; MOVING],
    /// Whether the server refuses to move onto what is there.
    obeys: OnceLock<bool>,
}

impl WebdavStore {
    /// Makes ready for calls; none is made.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn open(location: &Location, settings: &StoreSettings, options: Options) -> Result<Self, OpenError> {
        let fail = |why: String, hint: &str| OpenError::Settings {
            location: location.to_string(),
            why,
            hint: hint.to_owned(),
        };
        let Some(root) = location.path().to_str() else {
            return Err(fail("the path is not plain text".to_owned(), "Use a path in UTF-8."));
        };
        let protocol = if location.scheme() == Scheme::Webdavs { "https" } else { "http" };
        let port = location.port().map_or_else(String::new, |port| format!(":{port}"));
        let origin = format!("{protocol}://{}{port}", location.host());
        let client = Client::new(origin, settings).map_err(|why| {
            fail(why, "Correct ca_file, or leave it out where the system knows the certificate.")
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                url: location.to_string(),
                client,
                root: root.trim_end_matches('/').to_owned(),
                settings: settings.clone(),
                options,
                directories: Mutex::default(),
                moving: Default::default(),
                obeys: settings.conditional.map_or_else(OnceLock::new, OnceLock::from),
            }),
        })
    }

    fn refuse_writing(&self, action: &'static str, key: &Key) -> Result<(), StoreError> {
        if self.inner.options.read_only {
            let source = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);
            return Err(StoreError::from_io(action, key.as_str(), &self.inner.url, source));
        }
        Ok(())
    }
}

/// A path as it stands in a request.
fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The directory that holds `path`; "" for the server's root.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// 64 bits that differ from call to call and from process to process. Not secret.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

fn temporary(directory: &str) -> String {
    format!("{directory}/{PREFIX}{}-{:016x}", std::process::id(), random())
}

impl Inner {
    /// How long a call may take that moves this many bytes.
    fn limit(&self, bytes: u64) -> Duration {
        let patience = &self.settings.patience;
        patience.call + Duration::from_secs(bytes.checked_div(patience.least_rate).unwrap_or(0))
    }

    fn path(&self, key: &str) -> String {
        if key.is_empty() { self.root.clone() } else { format!("{}/{key}", self.root) }
    }

    /// Makes one call with its deadline.
    fn call<T, Fut>(
        self: &Arc<Self>,
        (action, object): (&'static str, &str),
        bytes: u64,
        work: impl FnOnce(Arc<Self>) -> Fut + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, Failed>> + Send,
    {
        let (inner, limit) = (Arc::clone(self), self.limit(bytes));
        let done = runtime::run(async move {
            let late = || {
                let text = format!("no answer within {}", Wait(limit));
                Failed::new(StoreErrorKind::Unreachable, text)
            };
            runtime::within(limit, work(inner)).await.unwrap_or_else(|| Err(late()))
        });
        match done {
            Ok(done) => done.map_err(|failed| failed.into_error(action, object, &self.url)),
            Err(error) => Err(StoreError::from_io(action, object, &self.url, error)),
        }
    }

    /// Makes a directory with those above it, down from the store's own.
    async fn ensure_directory(&self, directory: &str) -> Result<(), Failed> {
        let known =
            |path: &str| self.directories.lock().unwrap_or_else(PoisonError::into_inner).contains(path);
        if known(directory) {
            return Ok(());
        }
        let below = directory.strip_prefix(self.root.as_str()).unwrap_or_default();
        let mut paths = vec![self.root.clone()];
        for part in below.split('/').filter(|part| !part.is_empty()) {
            paths.push(format!("{}/{part}", paths.last().map_or("", String::as_str)));
        }
        if self.options.create {
            let mut above = self.root.clone();
            while let Some(at) = above.rfind('/').filter(|&at| at > 0) {
                above.truncate(at);
                paths.insert(0, above.clone());
            }
        }
        for path in paths {
            if path.is_empty() || known(&path) {
                continue;
            }
            if self.client.find(&encode(&format!("{path}/")), "0").await?.is_empty() {
                if path == self.root && !self.options.create {
                    return Err(Failed::new(
                        StoreErrorKind::NotFound,
                        "the directory of the store is not there",
                    ));
                }
                let made = self.client.send("MKCOL", &encode(&format!("{path}/")), &[], Bytes::new()).await?;
                // Somebody else may have been faster, which servers tell in several ways.
                if !is_done(made.status())
                    && self.client.find(&encode(&format!("{path}/")), "0").await?.is_empty()
                {
                    return Err(Failed::answered(&made));
                }
            }
            self.directories.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        }
        Ok(())
    }

    /// Gives a temporary file its name; the temporary file is gone afterwards, as far as the server answers.
    async fn publish(&self, temporary: &str, path: &str) -> Result<(), Failed> {
        let obeys = self.obeys().await?;
        let overwrite = if obeys { "F" } else { "T" };
        // Servers look first and move then, in two steps: at least two of ours don't meet in between.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(path.as_bytes());
        let _alone = self.moving[hasher.finish() as usize % MOVING].lock().await;
        let moved = self.rename(temporary, path, overwrite).await;
        if let Err(failed) = &moved
            && failed.kind != StoreErrorKind::Unreachable
        {
            let _ = self.client.must("DELETE", &encode(temporary), &[]).await;
        }
        moved
    }

    async fn rename(&self, from: &str, to: &str, overwrite: &str) -> Result<(), Failed> {
        let destination = self.client.address(&encode(to));
        let headers = [("Destination", destination.as_str()), ("Overwrite", overwrite)];
        self.client.must("MOVE", &encode(from), &headers).await.map(drop)
    }

    /// Whether this server refuses to move onto what is there: tried once, on two files of our own.
    async fn obeys(&self) -> Result<bool, Failed> {
        if let Some(&known) = self.obeys.get() {
            return Ok(known);
        }
        self.ensure_directory(&self.root).await?;
        let (first, second) = (temporary(&self.root), temporary(&self.root));
        for path in [&first, &second] {
            self.send_file(path, Bytes::from_static(b"probe")).await?;
        }
        let moved = self.rename(&first, &second, "F").await;
        for path in [&first, &second] {
            let _ = self.client.must("DELETE", &encode(path), &[]).await;
        }
        match moved {
            Ok(()) => Ok(*self.obeys.get_or_init(|| false)),
            Err(failed) if failed.kind == StoreErrorKind::AlreadyExists => {
                Ok(*self.obeys.get_or_init(|| true))
            }
            Err(failed) => Err(failed),
        }
    }

    async fn send_file(&self, path: &str, body: impl Into<reqwest::Body>) -> Result<(), Failed> {
        let headers = [("Content-Type", "application/octet-stream")];
        let sent = self.client.send("PUT", &encode(path), &headers, body).await?;
        if is_done(sent.status()) { Ok(()) } else { Err(Failed::answered(&sent)) }
    }

    /// The file at `path`; `None` for a directory, and where nothing is.
    async fn file(&self, path: &str) -> Result<Option<Resource>, Failed> {
        let found = self.client.find(&encode(path), "0").await?;
        if found.is_empty() {
            self.know_absent().await?;
        }
        Ok(found.into_iter().next().filter(|resource| !resource.is_collection))
    }

    /// "Not found" is an answer about an object only where the store's own directory is there: behind a server that lost
    /// its disk nothing is found.
    async fn know_absent(&self) -> Result<(), Failed> {
        if !self.client.find(&encode(&format!("{}/", self.root)), "0").await?.is_empty() {
            return Ok(());
        }
        let was_there =
            self.directories.lock().unwrap_or_else(PoisonError::into_inner).contains(self.root.as_str());
        if self.options.create && !was_there {
            // A new store: its directory is made with the first object.
            return Ok(());
        }
        Err(Failed::new(StoreErrorKind::Unreachable, "the store's directory is not there"))
    }

    /// What is right below a directory: names with what they are.
    fn entries(
        self: &Arc<Self>,
        action: &'static str,
        directory: &str,
    ) -> Result<Vec<(String, Resource)>, StoreError> {
        let path = self.path(directory);
        let found = self.call((action, directory), 0, {
            let path = path.clone();
            async move |inner| {
                let found = inner.client.find(&encode(&format!("{path}/")), "1").await?;
                if found.is_empty() {
                    inner.know_absent().await?;
                }
                Ok(found)
            }
        })?;
        let below = found.into_iter().filter(|resource| resource.path != path);
        Ok(below
            .filter_map(|resource| Some((resource.path.rsplit('/').next()?.to_owned(), resource)))
            .collect())
    }
}

fn describe(key: &Key, resource: &Resource) -> ObjectInfo {
    let created = resource.modified.unwrap_or(Timestamp::UNIX_EPOCH);
    ObjectInfo { key: key.clone(), size: resource.size, created }
}

impl Store for WebdavStore {
    fn describe(&self) -> &str {
        &self.inner.url
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.refuse_writing("create", key)?;
        let (path, body) = (self.inner.path(key.as_str()), Bytes::copy_from_slice(body));
        self.inner.call(("create", key.as_str()), body.len() as u64, async move |inner| {
            inner.ensure_directory(parent(&path)).await?;
            let temporary = temporary(parent(&path));
            inner.send_file(&temporary, body).await?;
            inner.publish(&temporary, &path).await
        })
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.refuse_writing("create", key)?;
        Ok(Box::new(writer::Writer::new(Arc::clone(&self.inner), key.clone())))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let path = self.inner.path(key.as_str());
        let length = range.end.saturating_sub(range.start);
        let got = self.inner.call(("read", key.as_str()), length, async move |inner| {
            let fail = |kind, text: String| Failed::new(kind, text);
            // Offsets that no object has make some servers ignore the range and send the whole object.
            if length == 0 || range.end > 1 << 52 {
                return match inner.file(&path).await? {
                    None => Err(fail(StoreErrorKind::NotFound, "no such object".to_owned())),
                    Some(file) if file.size < range.end => {
                        let text = format!("it holds {} bytes where {} are needed", file.size, range.end);
                        Err(fail(StoreErrorKind::Truncated, text))
                    }
                    Some(_) => Ok(Vec::new()),
                };
            }
            let wanted = format!("bytes={}-{}", range.start, range.end - 1);
            let answer =
                inner.client.send("GET", &encode(&path), &[("Range", &wanted)], Bytes::new()).await?;
            match answer.status().as_u16() {
                206 => {}
                // Whole objects are fine where the part begins at their beginning; a longer rest is not read.
                200 if range.start == 0 => {}
                200 => {
                    let text = "the server sends whole objects where parts are asked for".to_owned();
                    return Err(fail(StoreErrorKind::Other, text));
                }
                404 | 410 => {
                    inner.know_absent().await?;
                    return Err(Failed::answered(&answer));
                }
                _ => return Err(Failed::answered(&answer)),
            }
            let bytes = taken(answer, usize::try_from(length).unwrap_or(usize::MAX)).await?;
            if (bytes.len() as u64) < length {
                let text = format!("{} bytes came where {length} are needed", bytes.len());
                return Err(fail(StoreErrorKind::Truncated, text));
            }
            Ok(bytes)
        })?;
        into.extend_from_slice(&got);
        Ok(())
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        match self.head(key)? {
            Some(_) => Ok(()),
            None => {
                let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                Err(StoreError::from_io("sync", key.as_str(), &self.inner.url, source))
            }
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.inner.path(key.as_str());
        let found =
            self.inner.call(("look up", key.as_str()), 0, async move |inner| inner.file(&path).await)?;
        Ok(found.map(|file| describe(key, &file)))
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let (top, mut first) = match prefix.rsplit_once('/') {
            // Text that begins no key has no objects; as a path it might lead out of the store.
            Some((top, _)) if top.parse::<Key>().is_err() => return Ok(()),
            Some(parts) => parts,
            None => ("", prefix),
        };
        let mut pending = vec![top.to_owned()];
        while let Some(directory) = pending.pop() {
            for (name, resource) in self.inner.entries("list", &directory)? {
                if !name.starts_with(first) {
                    continue;
                }
                let text = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                // Whatever is no key is not ours: temporary files, what a file manager leaves.
                let Ok(key) = text.parse::<Key>() else { continue };
                if resource.is_collection {
                    pending.push(text);
                } else if each(describe(&key, &resource)).is_break() {
                    return Ok(());
                }
            }
            first = "";
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.refuse_writing("delete", key)?;
        let path = self.inner.path(key.as_str());
        self.inner.call(("delete", key.as_str()), 0, async move |inner| {
            // DELETE takes a directory with all that is in it: only files are ours to delete.
            if inner.file(&path).await?.is_none() {
                return Ok(());
            }
            match inner.client.must("DELETE", &encode(&path), &[]).await {
                Err(failed) if failed.kind == StoreErrorKind::NotFound => Ok(()),
                other => other.map(drop),
            }
        })
    }

    fn features(&self) -> Features {
        let may_write = !self.inner.options.read_only;
        if may_write && self.inner.obeys.get().is_none() {
            // What cannot be asked now is asked again.
            let _ = self.inner.call(("ask", ""), 0, async move |inner| inner.obeys().await);
        }
        Features {
            create_new: self.inner.obeys.get().copied().unwrap_or(false),
            durable: false,
            consistent_list: true,
            remote: true,
        }
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }

    fn clear_abandoned(&self, _is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        let probe = temporary(&self.inner.root);
        let now = self.inner.call(("clean", ""), 0, async move |inner| {
            inner.send_file(&probe, Bytes::new()).await?;
            let made = inner.file(&probe).await;
            let _ = inner.client.must("DELETE", &encode(&probe), &[]).await;
            Ok(made?.and_then(|file| file.modified))
        })?;
        // A server that tells no times: nothing can be said of any file.
        let Some(now) = now else { return Ok(0) };
        let (mut removed, mut pending) = (0, vec![String::new()]);
        while let Some(directory) = pending.pop() {
            for (name, resource) in self.inner.entries("clean", &directory)? {
                let text = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
                let age = resource.modified.map_or(0, |time| now.duration_since(time).as_secs());
                if resource.is_collection && text.parse::<Key>().is_ok() {
                    pending.push(text);
                } else if !resource.is_collection && name.starts_with(PREFIX) && age >= ABANDONED_AFTER {
                    let path = self.inner.path(&text);
                    removed += self.inner.call(("clean", &text), 0, async move |inner| {
                        match inner.client.must("DELETE", &encode(&path), &[]).await {
                            Ok(_) => Ok(1),
                            Err(failed) if failed.kind == StoreErrorKind::NotFound => Ok(0),
                            Err(failed) => Err(failed),
                        }
                    })?;
                }
            }
        }
        Ok(removed)
    }
}

/// The first bytes of an answer; the rest is left, and the connection with it.
async fn taken(mut answer: reqwest::Response, length: usize) -> Result<Vec<u8>, Failed> {
    if answer.content_length().is_some_and(|all| all <= length as u64) {
        return limited(answer, length).await;
    }
    let mut all = Vec::new();
    while all.len() < length {
        let Some(piece) = answer.chunk().await? else { break };
        all.extend_from_slice(piece.get(..piece.len().min(length - all.len())).unwrap_or_default());
    }
    Ok(all)
}
