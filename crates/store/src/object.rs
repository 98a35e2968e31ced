//! Objects in a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage, through OpenDAL.
//!
//! The calls are synchronous, as [`Store`] has it, and each has its deadline; one runtime of the process drives them all
//! ([`runtime`]). What a crash leaves are parts of an unfinished upload, which are visible to nobody: in a store that speaks
//! S3 they are cleared when they are a day old ([`abandoned`]), elsewhere a lifecycle rule does it.

mod abandoned;
mod cold;
mod credentials;
pub(crate) mod failure;
mod guarded;
mod kept;
mod list;
pub(crate) mod runtime;
mod services;
mod signed;
mod small;
mod stream;
pub(crate) mod transport;
pub(crate) mod web_identity;
mod writer;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::TryStreamExt as _;
use opendal::options::{ListOptions, ReadOptions, WriteOptions};
use opendal::{Buffer, Operator};
use refloat_types::{Location, Scheme, Timestamp, Wait};

use self::failure::Told;
use self::transport::{ANSWER, Answer};
use crate::open::OpenError;
use crate::posix::Options;
use crate::settings::{ServerSideEncryption, StoreSettings};
use crate::store;
use crate::{
    BucketSettings, Features, Immutability, Key, ObjectInfo, ObjectWriter, Readiness, Space, Store,
    StoreError, StoreErrorKind, Version,
};

/// A store in a bucket.
pub struct ObjectStore {
    inner: Arc<Inner>,
}

/// What calls and writers share.
pub(crate) struct Inner {
    url: String,
    location: Location,
    settings: StoreSettings,
    options: Options,
    operators: RwLock<Operators>,
    /// Keys of S3.
    kept: Option<kept::Kept>,
    /// Requests that opendal does not make; none where the store does not speak S3.
    signed: Option<Arc<signed::Signed>>,
    /// The store has asked for the algorithm of sums.
    wants_algorithm: AtomicBool,
    /// Whether the store is asked to create only what is new.
    asks: bool,
    /// Whether that can be relied on.
    refuses: bool,
    /// The bucket was seen to be there: "no such object" is an answer.
    bucket_is_there: AtomicBool,
}

/// One operator stores in one class.
struct Operators {
    usual: Operator,
    /// For objects whose key begins with this.
    below: Option<(String, Operator)>,
}

impl Operators {
    fn new(
        location: &Location,
        settings: &StoreSettings,
        kept: Option<&kept::Kept>,
    ) -> Result<Self, OpenError> {
        let build = |class: Option<&str>| services::operator(location, settings, class, kept.cloned());
        Ok(match &settings.storage_class {
            None => Self { usual: build(None)?, below: None },
            Some(class) if class.below.is_empty() => Self { usual: build(Some(&class.name))?, below: None },
            Some(class) => {
                let below = Some((class.below.clone(), build(Some(&class.name))?));
                Self { usual: build(None)?, below }
            }
        })
    }

    fn of(&self, key: &str) -> &Operator {
        match &self.below {
            Some((below, operator)) if key.starts_with(below) => operator,
            _ => &self.usual,
        }
    }
}

impl ObjectStore {
    /// Makes ready for calls; none is made.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn open(location: &Location, settings: &StoreSettings, options: Options) -> Result<Self, OpenError> {
        let kept = services::kept(location, settings)?;
        let operators = Operators::new(location, settings, kept.as_ref())?;
        let signed = match &kept {
            Some(kept) => Some(Arc::new(signed::Signed::new(location, settings, kept.clone())?)),
            None => None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                url: location.to_string(),
                location: location.clone(),
                settings: settings.clone(),
                options,
                operators: RwLock::new(operators),
                kept,
                signed,
                wants_algorithm: AtomicBool::new(false),
                asks: settings.conditional != Some(false),
                // The providers' own stores document it; whatever else speaks their protocol has to be tried.
                refuses: settings.conditional.unwrap_or(settings.endpoint.is_none()),
                bucket_is_there: AtomicBool::new(false),
            }),
        })
    }

    fn refuse_writing(&self, action: &'static str, key: &Key) -> Result<(), StoreError> {
        if self.inner.options.read_only {
            let source = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
            return Err(StoreError::from_io(action, key.as_str(), &self.inner.url, source));
        }
        Ok(())
    }

    /// What makes requests about versions and locks.
    fn signed(&self, action: &'static str, key: &Key) -> Result<&Arc<signed::Signed>, StoreError> {
        self.inner.signed.as_ref().ok_or_else(|| {
            let source = Told::error("this kind of store is not asked for versions and locks", None);
            StoreError::new(StoreErrorKind::Other, action, key.as_str(), &self.inner.url, source)
        })
    }

    /// Size and age of `key`, without a doubt about the bucket.
    fn stat(&self, action: &'static str, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let path = key.as_str().to_owned();
        let stat = self.inner.call((action, key.as_str()), 0, move |operator| {
            let path = path.clone();
            async move { operator.stat(&path).await }
        });
        match stat {
            Ok(metadata) => Ok(Some(ObjectInfo {
                key: key.clone(),
                size: metadata.content_length(),
                created: created(&metadata),
            })),
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                self.know_bucket(action, key.as_str())?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What a failed read of the bytes before `end` comes from: an object that ends early is told in many ways; its size is
    /// the same in all of them.
    fn ended_early<T>(&self, key: &Key, end: u64, error: StoreError) -> Result<T, StoreError> {
        if !matches!(error.kind, StoreErrorKind::Other | StoreErrorKind::Truncated) {
            return Err(error);
        }
        match self.stat("read", key)? {
            Some(info) if info.size < end => {
                let text = Told::error(format!("it holds {} bytes where {end} are needed", info.size), None);
                Err(StoreError::new(StoreErrorKind::Truncated, "read", key.as_str(), &self.inner.url, text))
            }
            _ => Err(error),
        }
    }

    /// An answer to a HEAD has no body: a bucket that is not there looks like an object that is not there. So the bucket is
    /// asked for once.
    fn know_bucket(&self, action: &'static str, object: &str) -> Result<(), StoreError> {
        if self.inner.bucket_is_there.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.call((action, object), 0, |operator| async move {
            let options = ListOptions { limit: Some(1), ..ListOptions::default() };
            operator.lister_options("", options).await?.try_next().await.map(drop)
        })?;
        self.inner.bucket_is_there.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Inner {
    /// How long a call may take that moves this many bytes.
    fn limit(&self, bytes: u64) -> Duration {
        let patience = &self.settings.patience;
        patience.call + Duration::from_secs(bytes.checked_div(patience.least_rate).unwrap_or(0))
    }

    fn operator(&self, key: &str) -> Operator {
        self.operators.read().unwrap_or_else(PoisonError::into_inner).of(key).clone()
    }

    /// Fetches credentials anew: the store has said that they have expired.
    fn renew(&self) {
        if let Some(kept) = &self.kept {
            return kept.forget();
        }
        match Operators::new(&self.location, &self.settings, None) {
            Ok(operators) => *self.operators.write().unwrap_or_else(PoisonError::into_inner) = operators,
            Err(error) => tracing::debug!(%error, "credentials could not be renewed"),
        }
    }

    /// Makes one call with its deadline, and once more with new credentials where the store says that they have expired.
    fn call<T, F, Fut>(
        self: &Arc<Self>,
        about: (&'static str, &str),
        bytes: u64,
        call: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(Operator) -> Fut,
        Fut: Future<Output = opendal::Result<T>> + Send + 'static,
    {
        let limit = self.limit(bytes);
        let first = self.attempt(about, limit, call(self.operator(about.1)));
        match first {
            Err((_, true)) => {
                self.renew();
                self.attempt(about, limit, call(self.operator(about.1))).map_err(|(error, _)| error)
            }
            other => other.map_err(|(error, _)| error),
        }
    }

    /// Makes one attempt; an error comes with whether credentials have expired.
    fn attempt<T: Send + 'static>(
        &self,
        (action, object): (&'static str, &str),
        limit: Duration,
        future: impl Future<Output = opendal::Result<T>> + Send + 'static,
    ) -> Result<T, (StoreError, bool)> {
        let answered = runtime::run(observed(limit, future));
        let fail = |error| (StoreError::from_io(action, object, &self.url, error), false);
        match answered.map_err(fail)? {
            Ok(value) => Ok(value),
            Err(Failed::Late) => Err((late(action, object, &self.url, limit), false)),
            Err(Failed::Answered(error, answer)) => {
                let expired = failure::is_expired(&error, &answer);
                Err((failure::sort(action, object, &self.url, &error, &answer), expired))
            }
        }
    }
}

/// How an attempt failed.
pub(crate) enum Failed {
    Late,
    Answered(Box<opendal::Error>, Answer),
}

/// Runs a call with its deadline and notes what the store answers.
pub(crate) async fn observed<T>(
    limit: Duration,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, Failed> {
    let answer = Arc::new(Mutex::new(Answer::default()));
    match runtime::within(limit, ANSWER.scope(Arc::clone(&answer), future)).await {
        None => Err(Failed::Late),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => {
            let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Err(Failed::Answered(Box::new(error), answer))
        }
    }
}

/// The error of a call that had no answer in time.
pub(crate) fn late(action: &'static str, object: &str, store: &str, limit: Duration) -> StoreError {
    let source = Told::error(format!("no answer within {}", Wait(limit)), None);
    StoreError::new(StoreErrorKind::Unreachable, action, object, store, source)
}

/// When it was created, by the store's clock. Some answers have fractions of a second and some have not.
fn created(metadata: &opendal::Metadata) -> Timestamp {
    let time = metadata.last_modified().map(opendal::raw::Timestamp::into_inner);
    time.and_then(|time| Timestamp::from_second(time.as_second()).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether any key can begin with this; what opendal would make of another text is not what was asked.
fn can_begin_a_key(prefix: &str) -> bool {
    let whole = prefix.strip_suffix('/').unwrap_or(prefix);
    prefix.is_empty() || whole.parse::<Key>().is_ok()
}

/// Offsets that no object has make some stores ignore the range and send the whole object.
const FARTHEST: u64 = 1 << 52;

impl Store for ObjectStore {
    fn describe(&self) -> &str {
        &self.inner.url
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.refuse_writing("create", key)?;
        if self.inner.wants_algorithm.load(Ordering::Relaxed) {
            return self.inner.put_summed(key, body.to_vec(), None);
        }
        let plain = body;
        let (path, body) = (key.as_str().to_owned(), Buffer::from(body.to_vec()));
        let options = self.inner.write_options(None);
        let bytes = body.len() as u64;
        let put = self.inner.call(("create", key.as_str()), bytes, move |operator| {
            let (path, body, options) = (path.clone(), body.clone(), options.clone());
            async move { operator.write_options(&path, body, options).await.map(drop) }
        });
        match put {
            Err(error) if guarded::wants_algorithm(&error) => {
                self.inner.put_summed(key, plain.to_vec(), None)
            }
            other => other,
        }
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.refuse_writing("create", key)?;
        Ok(Box::new(writer::Writer::new(Arc::clone(&self.inner), key.clone())))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let fail = |kind, text: String| {
            StoreError::new(kind, "read", key.as_str(), &self.inner.url, Told::error(text, None))
        };
        let length = range.end.saturating_sub(range.start);
        if length == 0 || range.end > FARTHEST {
            return match self.stat("read", key)? {
                None => Err(fail(StoreErrorKind::NotFound, "no such object".to_owned())),
                Some(info) if info.size < range.end => {
                    let text = format!("it holds {} bytes where {} are needed", info.size, range.end);
                    Err(fail(StoreErrorKind::Truncated, text))
                }
                Some(_) => Ok(()),
            };
        }
        let path = key.as_str().to_owned();
        let wanted = range.clone();
        let answer = self.inner.call(("read", key.as_str()), length, move |operator| {
            let (path, range) = (path.clone(), wanted.clone());
            async move {
                let options = ReadOptions { range: range.into(), ..ReadOptions::default() };
                let got = operator.read_options(&path, options).await?;
                let status = ANSWER.with(|noted| noted.lock().unwrap_or_else(PoisonError::into_inner).status);
                Ok((got, status))
            }
        });
        let (got, status) = answer.or_else(|error| self.ended_early(key, range.end, error))?;
        if range.start > 0 && status == 200 {
            let text = "the store sends whole objects where parts are asked for".to_owned();
            return Err(fail(StoreErrorKind::Other, text));
        }
        let bytes = got.len() as u64;
        if bytes < length {
            let text = format!("{bytes} bytes came where {length} are needed");
            return Err(fail(StoreErrorKind::Truncated, text));
        }
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        into.reserve(wanted);
        for piece in got.slice(..wanted) {
            into.extend_from_slice(&piece);
        }
        Ok(())
    }

    fn stream(
        &self,
        key: &Key,
        range: Range<u64>,
        each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if range.is_empty() || range.end > FARTHEST {
            return store::whole(self, key, range, each);
        }
        let end = range.end;
        stream::stream(&self.inner, key, range, each).or_else(|error| self.ended_early(key, end, error))
    }

    fn read_small(&self, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
        small::read(&self.inner, key, limit)
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        match self.stat("sync", key)? {
            Some(_) => Ok(()),
            None => {
                let source = io::Error::from(io::ErrorKind::NotFound);
                Err(StoreError::from_io("sync", key.as_str(), &self.inner.url, source))
            }
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.stat("look up", key)
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if !can_begin_a_key(prefix) {
            return Ok(());
        }
        self.inner.list(prefix, each)
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.refuse_writing("delete", key)?;
        let path = key.as_str().to_owned();
        let deleted = self.inner.call(("delete", key.as_str()), 0, move |operator| {
            let path = path.clone();
            async move { operator.delete(&path).await }
        });
        match deleted {
            Err(error) if error.kind == StoreErrorKind::NotFound => self.know_bucket("delete", key.as_str()),
            other => other,
        }
    }

    fn features(&self) -> Features {
        Features { create_new: self.inner.refuses, durable: true, consistent_list: true, remote: true }
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }

    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        match &self.inner.signed {
            Some(signed) if !self.inner.options.read_only => abandoned::clear(signed, is_ours),
            _ => Ok(0),
        }
    }

    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.inner.signed.as_ref().map_or(Ok(Immutability::UNKNOWN), guarded::immutability)
    }

    fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
        self.inner.signed.as_ref().map(guarded::settings).transpose()
    }

    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        self.inner.signed.as_ref().map_or(Ok(None), |signed| guarded::lock_end(signed, key, version))
    }

    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        self.refuse_writing("lock", key)?;
        guarded::extend(self.signed("lock", key)?, key, until)
    }

    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.signed.as_ref().map_or(Ok(()), |signed| guarded::versions(signed, prefix, each))
    }

    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.refuse_writing("destroy", key)?;
        guarded::destroy(self.signed("destroy", key)?, key, version)
    }

    fn list_cold(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Key) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.signed.as_ref().map_or(Ok(()), |signed| cold::list(signed, prefix, each))
    }

    fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
        self.inner.signed.as_ref().map_or(Ok(Readiness::Ready), |signed| cold::readiness(signed, key))
    }
}

impl Inner {
    /// Creates an object where the store has to be told the algorithm of its sum.
    fn put_summed(&self, key: &Key, body: Vec<u8>, mark: Option<&str>) -> Result<(), StoreError> {
        let Some(signed) = &self.signed else {
            let source = Told::error("this kind of store has no such request", None);
            return Err(StoreError::new(StoreErrorKind::Other, "create", key.as_str(), &self.url, source));
        };
        self.wants_algorithm.store(true, Ordering::Relaxed);
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        if self.asks {
            add("if-none-match", "*");
        }
        if let Some(class) = self.settings.storage_class.as_ref().filter(|class| class.is_for(key)) {
            add("x-amz-storage-class", &class.name);
        }
        match &self.settings.sse {
            None => {}
            Some(ServerSideEncryption::Aes256) => add("x-amz-server-side-encryption", "AES256"),
            Some(ServerSideEncryption::Kms(key)) => {
                add("x-amz-server-side-encryption", "aws:kms");
                add("x-amz-server-side-encryption-aws-kms-key-id", key);
            }
        }
        for (name, value) in self.write_options(mark).user_metadata.into_iter().flatten() {
            add(&format!("x-amz-meta-{name}"), &value);
        }
        guarded::put(signed, key, body, headers)
    }

    /// How new objects are written; `mark` is kept with the object and tells whose it is.
    fn write_options(&self, mark: Option<&str>) -> WriteOptions {
        let mut metadata: HashMap<String, String> =
            self.settings.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(mark) = mark {
            metadata.insert(writer::MARK.to_owned(), mark.to_owned());
        }
        WriteOptions {
            if_not_exists: self.asks,
            user_metadata: (!metadata.is_empty()).then_some(metadata),
            content_type: (self.location.scheme() == Scheme::Gs)
                .then(|| "application/octet-stream".to_owned()),
            ..WriteOptions::default()
        }
    }
}
