//! Objects as files of a host behind SSH.
//!
//! The promise is the one of the POSIX store: an object is written aside, `fsync@openssh.com` brings it to the server's
//! disk, a hard link gives it its name only if nothing is there, and the directory is synced too. A server without that
//! extension keeps objects as well, but promises nothing: [`Features::durable`] says so.
//!
//! Each call takes a connection of its own from a pool, so that a sync that takes long delays nobody else. What a crash
//! leaves are temporary files without an object's name, which [`Store::clear_abandoned`] removes after a day.

mod failure;
mod files;
mod session;
mod writer;

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join;
use refloat_types::{Location, Timestamp, Wait};
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use self::failure::Failed;
use self::files::{Naming, PREFIX};
use self::session::{Session, Target};
use crate::object::runtime;
use crate::open::OpenError;
use crate::posix::Options;
use crate::settings::{Credentials, StoreSettings};
use crate::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind};

/// Connections that are kept when nobody needs them.
const IDLE: usize = 8;

/// A temporary file that nobody has written to for so long has no writer any more.
const ABANDONED_AFTER: u32 = 24 * 60 * 60;

/// A store in a directory of a host behind SSH.
pub struct SftpStore {
    inner: Arc<Inner>,
}

/// What calls and writers share.
struct Inner {
    url: String,
    target: Target,
    /// The store's directory, absolute.
    root: String,
    settings: StoreSettings,
    options: Options,
    idle: Mutex<Vec<Arc<Session>>>,
    /// Directories that are known to be durable.
    settled: Mutex<BTreeSet<String>>,
    naming: OnceLock<Naming>,
    /// The server has no way to bring things to its disk.
    not_durable: AtomicBool,
    /// The server makes hard links.
    can_link: AtomicBool,
    /// A connection has shown what the server can do.
    was_connected: AtomicBool,
}

impl SftpStore {
    /// Makes ready for calls; none is made.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn open(location: &Location, settings: &StoreSettings, options: Options) -> Result<Self, OpenError> {
        let fail = |why: &str, hint: &str| OpenError::Settings {
            location: location.to_string(),
            why: why.to_owned(),
            hint: hint.to_owned(),
        };
        let Some(known_hosts) = settings.known_hosts.clone() else {
            let hint = "Write known_hosts = \"/path\" into its [repository.NAME].";
            return Err(fail("nothing says how the server is recognised", hint));
        };
        let Some(user) = location.user() else {
            return Err(fail("the URL names no user", "Write it as sftp://user@host/path."));
        };
        let Some(root) = location.path().to_str() else {
            return Err(fail("the path is not plain text", "Use a path in UTF-8."));
        };
        let target = Target {
            user: user.to_owned(),
            host: location.host().to_owned(),
            port: location.port().unwrap_or(22),
            known_hosts,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                url: location.to_string(),
                target,
                root: root.to_owned(),
                settings: settings.clone(),
                options,
                idle: Mutex::default(),
                settled: Mutex::default(),
                naming: OnceLock::new(),
                not_durable: AtomicBool::new(false),
                can_link: AtomicBool::new(false),
                was_connected: AtomicBool::new(false),
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

impl Inner {
    /// How long a call may take that moves this many bytes.
    fn limit(&self, bytes: u64) -> Duration {
        let patience = &self.settings.patience;
        patience.call + Duration::from_secs(bytes.checked_div(patience.least_rate).unwrap_or(0))
    }

    fn is_settled(&self, directory: &str) -> bool {
        lock(&self.settled).contains(directory)
    }
    fn settled(&self, directory: &str) {
        lock(&self.settled).insert(directory.to_owned());
    }

    /// A connection that nobody uses, or a new one.
    async fn session(&self) -> Result<Arc<Session>, Failed> {
        if let Some(idle) = lock(&self.idle).pop() {
            return Ok(idle);
        }
        let Credentials::Keys(fetch) = &self.settings.credentials else {
            return Err(Failed::new(StoreErrorKind::Denied, "there is no private key in `credentials`"));
        };
        let fetch = Arc::clone(fetch);
        // A key may come from a command: that blocks.
        let keys = tokio::task::spawn_blocking(move || fetch()).await;
        let keys = keys.map_err(|_| Failed::broken("the credentials could not be fetched"))?;
        let keys = keys.map_err(|error| {
            let why = crate::object::transport::chain(&error);
            Failed::new(StoreErrorKind::NoKeys, format!("credentials cannot be had: {why}"))
        })?;
        let session = Session::connect(&self.target, &keys, self.settings.patience.call).await?;
        if !session.can_sync {
            self.not_durable.store(true, Ordering::Relaxed);
        }
        self.can_link.store(session.can_link, Ordering::Relaxed);
        self.was_connected.store(true, Ordering::Relaxed);
        Ok(Arc::new(session))
    }

    /// Keeps a connection for the next call.
    fn give_back(&self, session: Arc<Session>) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE {
            idle.push(session);
        }
    }

    /// The other connections have probably broken too: the next call makes a new one.
    fn forget_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Makes one call with its deadline, on a connection of its own.
    fn call<T, Fut>(
        self: &Arc<Self>,
        (action, object): (&'static str, &str),
        bytes: u64,
        work: impl FnOnce(Arc<Self>, Arc<Session>) -> Fut + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, Failed>> + Send,
    {
        let inner = Arc::clone(self);
        self.run((action, object), bytes, async move {
            let session = inner.session().await?;
            let done = session.alive(work(Arc::clone(&inner), Arc::clone(&session))).await;
            if !done.as_ref().is_err_and(|failed| failed.is_broken) {
                inner.give_back(session);
            }
            done
        })
    }

    /// Runs a future with the deadline of a call.
    fn run<T: Send + 'static>(
        self: &Arc<Self>,
        (action, object): (&'static str, &str),
        bytes: u64,
        future: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (inner, limit) = (Arc::clone(self), self.limit(bytes));
        let done = runtime::run(async move {
            let done = runtime::within(limit, future).await;
            let late = || Failed::broken(format!("no answer within {}", Wait(limit)));
            let done = done.unwrap_or_else(|| Err(late()));
            if done.as_ref().is_err_and(|failed| failed.is_broken) {
                inner.forget_idle();
            }
            done
        });
        match done {
            Ok(done) => done.map_err(|failed| failed.into_error(action, object, &self.url)),
            Err(error) => Err(StoreError::from_io(action, object, &self.url, error)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a file's attributes say; `None` for what is no file.
fn describe(key: &Key, attributes: &FileAttributes) -> Option<ObjectInfo> {
    if !attributes.file_type().is_file() {
        return None;
    }
    let created = Timestamp::from_second(i64::from(attributes.mtime.unwrap_or(0)));
    Some(ObjectInfo {
        key: key.clone(),
        size: attributes.size.unwrap_or(0),
        created: created.unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

fn no_such_object() -> Failed {
    Failed::new(StoreErrorKind::NotFound, "no such object")
}

impl Store for SftpStore {
    fn describe(&self) -> &str {
        &self.inner.url
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.refuse_writing("create", key)?;
        let (name, body) = (key.clone(), body.to_vec());
        self.inner.call(("create", key.as_str()), body.len() as u64, async move |inner, session| {
            let mut file = inner.begin(&session, &name).await?;
            inner.append(&session, &mut file, body).await?;
            inner.publish(&session, file, &name).await
        })
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.refuse_writing("create", key)?;
        Ok(Box::new(writer::Writer::new(Arc::clone(&self.inner), key.clone())))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let path = self.inner.path(key.as_str());
        let name = key.clone();
        let length = range.end.saturating_sub(range.start);
        let got = self.inner.call(("read", key.as_str()), length, async move |inner, session| {
            let sftp = &session.sftp;
            let open = sftp.open(path.as_str(), OpenFlags::READ, FileAttributes::empty());
            let (found, opened) = join(sftp.lstat(path.as_str()), open).await;
            let handle = opened.map(|opened| opened.handle);
            let got = match (found, &handle) {
                (Err(error), _) => Err(error.into()),
                (Ok(found), handle) => match (describe(&name, &found.attrs), handle) {
                    (None, _) => Err(no_such_object()),
                    (Some(info), _) if info.size < range.end => {
                        let text = format!("it holds {} bytes where {} are needed", info.size, range.end);
                        Err(Failed::new(StoreErrorKind::Truncated, text))
                    }
                    (Some(_), Ok(handle)) => files::read(&session, handle, range.start, range.end).await,
                    (Some(_), Err(error)) => Err(error.clone().into()),
                },
            };
            if let Ok(handle) = handle {
                let _ = sftp.close(handle).await;
            }
            if got.as_ref().is_err_and(|failed| failed.kind == StoreErrorKind::NotFound) {
                inner.know_absent(&session).await?;
            }
            got
        })?;
        into.extend_from_slice(&got);
        Ok(())
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.inner.path(key.as_str());
        let name = key.clone();
        self.inner.call(("sync", key.as_str()), 0, async move |inner, session| {
            let found = session.sftp.lstat(path.as_str()).await?;
            describe(&name, &found.attrs).ok_or_else(no_such_object)?;
            inner.settle(&session, &path).await
        })
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.inner.path(key.as_str());
        let name = key.clone();
        self.inner.call(("look up", key.as_str()), 0, async move |inner, session| {
            match session.sftp.lstat(path.as_str()).await.map_err(Failed::from) {
                Ok(found) => Ok(describe(&name, &found.attrs)),
                Err(failed) if failed.kind == StoreErrorKind::NotFound => {
                    inner.know_absent(&session).await.map(|()| None)
                }
                Err(failed) => Err(failed),
            }
        })
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
            for (name, attributes) in self.inner.entries("list", &directory)? {
                if !name.starts_with(first) {
                    continue;
                }
                let text = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                // Whatever is no key is not ours: temporary files, `lost+found`.
                let Ok(key) = text.parse::<Key>() else { continue };
                if attributes.file_type().is_dir() {
                    pending.push(text);
                } else if let Some(info) = describe(&key, &attributes)
                    && each(info).is_break()
                {
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
        self.inner.call(("delete", key.as_str()), 0, async move |inner, session| {
            match session.sftp.remove(path.as_str()).await.map_err(Failed::from) {
                Ok(_) => inner.sync_directory(&session, files::parent(&path)).await,
                Err(failed) if failed.kind == StoreErrorKind::NotFound => inner.know_absent(&session).await,
                Err(failed) => match session.sftp.lstat(path.as_str()).await {
                    Ok(found) if found.attrs.file_type().is_dir() => Ok(()),
                    _ => Err(failed),
                },
            }
        })
    }

    fn features(&self) -> Features {
        let conditional = self.inner.settings.conditional;
        let links = || conditional == Some(true) && self.inner.can_link.load(Ordering::Relaxed);
        let is_known = self.inner.naming.get().is_some() || conditional == Some(false) || links();
        if !self.inner.was_connected.load(Ordering::Relaxed) || !is_known {
            // What cannot be asked now is asked again; until then nothing is promised.
            let _ = self.inner.call(("ask", ""), 0, async move |inner, session| {
                inner.sync_directory(&session, &inner.root).await?;
                let is_known = match inner.settings.conditional {
                    Some(refuses) => !refuses || session.can_link,
                    None => false,
                };
                if inner.options.read_only || is_known {
                    Ok(())
                } else {
                    inner.naming(&session).await.map(drop)
                }
            });
        }
        let refuses = match self.inner.naming.get() {
            Some(Naming::Link | Naming::Rename) => true,
            Some(Naming::Replace) => false,
            // Tried by an earlier process: a link is what it found.
            None => links(),
        };
        let was_connected = self.inner.was_connected.load(Ordering::Relaxed);
        Features {
            create_new: conditional != Some(false) && refuses,
            durable: was_connected && !self.inner.not_durable.load(Ordering::Relaxed),
            consistent_list: true,
            remote: true,
        }
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.inner.call(("ask", ""), 0, async move |inner, session| {
            if !session.can_tell_space {
                return Ok(None);
            }
            let told = session.sftp.statvfs(inner.root.as_str()).await?;
            let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size);
            Ok(Some(Space { free: bytes(told.blocks_avail), total: bytes(told.blocks) }))
        })
    }

    fn clear_abandoned(&self, _is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        let now = self.inner.call(("clean", ""), 0, async move |inner, session| inner.now(&session).await)?;
        let (mut removed, mut pending) = (0, vec![String::new()]);
        while let Some(directory) = pending.pop() {
            for (name, attributes) in self.inner.entries("clean", &directory)? {
                let text = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
                if attributes.file_type().is_dir() && text.parse::<Key>().is_ok() {
                    pending.push(text);
                } else if name.starts_with(PREFIX)
                    && attributes.file_type().is_file()
                    && attributes.mtime.is_some_and(|time| now.saturating_sub(time) >= ABANDONED_AFTER)
                {
                    let path = self.inner.path(&text);
                    removed +=
                        self.inner.call(("clean", &text), 0, async move |_, session| {
                            match session.sftp.remove(path).await.map_err(Failed::from) {
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

impl Inner {
    /// "No such file" is an answer about an object only where the store's own directory is there: below a mount point
    /// that lost its disk nothing is found.
    async fn know_absent(&self, session: &Session) -> Result<(), Failed> {
        match session.sftp.lstat(self.root.as_str()).await.map_err(Failed::from) {
            Ok(_) => Ok(()),
            Err(failed) if failed.kind != StoreErrorKind::NotFound => Err(failed),
            // A new store: its directory is made with the first object.
            Err(_) if self.options.create && !self.is_settled(&self.root) => Ok(()),
            Err(_) => Err(Failed::new(StoreErrorKind::Unreachable, "the store's directory is not there")),
        }
    }

    /// What is in a directory; nothing in one that is not there.
    fn entries(
        self: &Arc<Self>,
        action: &'static str,
        directory: &str,
    ) -> Result<Vec<(String, FileAttributes)>, StoreError> {
        let path = self.path(directory);
        let read = self.call((action, directory), 0, async move |_, session| {
            let handle = session.sftp.opendir(path).await?.handle;
            let mut all = Vec::new();
            let ended = loop {
                match session.sftp.readdir(handle.as_str()).await.map_err(Failed::from) {
                    Ok(page) => all.extend(page.files.into_iter().map(|file| (file.filename, file.attrs))),
                    // The end of a list is told as the end of a file.
                    Err(failed) if failed.kind == StoreErrorKind::Truncated => break Ok(all),
                    Err(failed) => break Err(failed),
                }
            };
            let _ = session.sftp.close(handle).await;
            ended
        });
        match read {
            // Gone meanwhile, or a file.
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                self.call((action, directory), 0, async move |inner, session| {
                    inner.know_absent(&session).await
                })?;
                Ok(Vec::new())
            }
            other => other,
        }
    }
}
