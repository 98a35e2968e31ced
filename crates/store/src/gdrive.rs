//! Objects as files in a folder of Google Drive.
//!
//! Drive knows files by ids, not by paths. All objects lie in one folder, each in a file whose name is the whole key; so
//! there is one folder to agree on, and not hundreds that two hosts could make twice. Properties of a file hold the
//! directories that its key would be in, and are what lists search for.
//!
//! Names are no condition there: of several files of one name the oldest is the object ([`create`]). The search lags
//! behind what was done, by others at least ([`known`]), so such a store is not [`Features::consistent_list`]. What a crash
//! leaves are an unfinished upload, which is visible to nobody and forgotten by the service, and perhaps a second file of a
//! name, which [`Store::clear_abandoned`] destroys after a day.
//!
//! OpenDAL's service for Drive is not used: it replaces what is there, and speaks to no other address than Google's own.

mod api;
mod create;
mod folder;
mod known;
mod writer;

use std::hash::Hasher as _;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use refloat_types::{Location, Timestamp};
use serde_json::Value as Json;

use self::api::{Api, FOLDER, File, quoted, within};
use self::create::property;
use self::known::{Known, Seen};
use self::writer::Writer;
use crate::open::OpenError;
use crate::posix::Options;
use crate::rest::{self, Failed, Places, Rest};
use crate::settings::StoreSettings;
use crate::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind};

/// A body up to this long is one request: Google asks for parts above 5 MB.
const WHOLE: usize = 5_000_000;

/// Names are dealt to so many locks.
const CREATING: usize = 16;

/// A second file of a name that is so much older than the newest of all has no writer any more.
const ABANDONED_AFTER: i64 = 24 * 60 * 60;

/// A store in a folder of Google Drive.
pub struct GdriveStore {
    inner: Arc<Inner>,
}

/// What calls and writers share.
struct Inner {
    api: Api,
    /// The names of the folder and those above it, from the top.
    parts: Vec<String>,
    options: Options,
    /// Whether creating what exists is refused.
    refuses: bool,
    folders: Mutex<Option<Vec<String>>>,
    making: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    /// Held while an object is created: one lock for some of all names.
    creating: [tokio::sync::Mutex<()>; CREATING],
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn creating(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(key.as_str().as_bytes());
        let [first, ..] = &self.creating;
        self.creating.get(hasher.finish() as usize % CREATING).unwrap_or(first)
    }
}

impl GdriveStore {
    /// Makes ready for calls; none is made.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn open(location: &Location, settings: &StoreSettings, options: Options) -> Result<Self, OpenError> {
        let own = |text: &str| {
            settings.endpoint.as_deref().map_or(text, |other| other.trim_end_matches('/')).to_owned()
        };
        let tokens = format!("{}/token", own("https://oauth2.googleapis.com"));
        let api =
            Api { rest: Rest::new(location, settings, tokens)?, base: own("https://www.googleapis.com") };
        Ok(Self {
            inner: Arc::new(Inner {
                api,
                parts: rest::folder(location)?,
                options,
                // Seen otherwise, it is not believed any more.
                refuses: settings.conditional.unwrap_or(true),
                folders: Mutex::default(),
                making: tokio::sync::Mutex::default(),
                known: Mutex::default(),
                creating: Default::default(),
            }),
        })
    }

    fn refuse_writing(&self, action: &'static str, key: &Key) -> Result<(), StoreError> {
        rest::refuse_writing(&self.inner.options, action, key, self.describe())
    }

    /// What finds the objects below a prefix, and more: the last directory in it that has a property.
    fn search(folders: &[String], prefix: &str) -> String {
        let mut search = format!("{} and mimeType != '{FOLDER}'", within(folders));
        let ends: Vec<usize> = prefix.match_indices('/').map(|(at, _)| at).collect();
        let deepest =
            ends.iter().enumerate().rev().find_map(|(number, &at)| property(number + 1, prefix.get(..at)?));
        if let Some((name, value)) = deepest {
            let (name, value) = (quoted(&name), quoted(&value));
            search += &format!(" and properties has {{ key={name} and value={value} }}");
        }
        search
    }

    /// Walks what lies below a prefix, one page a call.
    fn walk(
        &self,
        action: &'static str,
        prefix: &str,
        each: &mut dyn FnMut(Key, File) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let folders = {
            let inner = Arc::clone(&self.inner);
            self.inner.api.rest.call((action, prefix), 0, async move { inner.folders().await })?
        };
        if folders.is_empty() {
            return Ok(());
        }
        let (search, mut next) = (Self::search(&folders, prefix), None::<String>);
        let mut places = Places::default();
        loop {
            let token = next.take();
            let page = || {
                let (inner, search, token) = (Arc::clone(&self.inner), search.clone(), token.clone());
                self.inner
                    .api
                    .rest
                    .call((action, prefix), 0, async move { inner.api.page(&search, token.as_deref()).await })
            };
            // Asked again here: whoever lists would have to begin anew, with what was delivered already.
            let (files, following) = match &token {
                None => page()?,
                Some(_) => self.inner.api.rest.persist(|_| page())?,
            };
            for file in files {
                // Whatever is no key is not ours.
                let Ok(key) = file.name.parse::<Key>() else { continue };
                let is_meant = key.as_str().starts_with(prefix) && !self.inner.known().is_gone(&file.id);
                if is_meant && each(key, file).is_break() {
                    return Ok(());
                }
            }
            let Some(at) = following else { return Ok(()) };
            places.go_on(&at).map_err(|failed| failed.into_error(action, prefix, self.describe()))?;
            next = Some(at);
        }
    }
}

fn describe(key: Key, file: &File) -> ObjectInfo {
    ObjectInfo { key, size: file.size, created: file.created }
}

impl Store for GdriveStore {
    fn describe(&self) -> &str {
        &self.inner.api.rest.url
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        if body.len() > WHOLE {
            let mut writer = self.create(key)?;
            writer.write(body)?;
            return writer.finish();
        }
        self.refuse_writing("create", key)?;
        let (inner, owned, body) = (Arc::clone(&self.inner), key.clone(), Bytes::copy_from_slice(body));
        let about = ("create", key.as_str());
        self.inner.api.rest.call(about, body.len() as u64, async move { inner.put(&owned, &body).await })
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.refuse_writing("create", key)?;
        Ok(Box::new(Writer::new(Arc::clone(&self.inner), key.clone())))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let length = range.end.saturating_sub(range.start);
        let (inner, owned) = (Arc::clone(&self.inner), key.clone());
        let got = self.inner.api.rest.call(("read", key.as_str()), length, async move {
            let known = inner.known().id(&owned);
            if let Some(id) = known.filter(|_| length > 0 && range.end <= 1 << 52) {
                match inner.api.download(&id, range.start, range.end).await {
                    // Another host may have destroyed it, and created it anew.
                    Err(failed) if failed.is(StoreErrorKind::NotFound) => inner.known().forget(&owned),
                    other => return rest::part(other?, range.start, length).await,
                }
            }
            let file = inner.lookup(&owned).await?.ok_or_else(Failed::absent)?;
            if file.size < range.end {
                let text = format!("it holds {} bytes where {} are needed", file.size, range.end);
                return Err(Failed::new(StoreErrorKind::Truncated, text));
            }
            if length == 0 {
                return Ok(Vec::new());
            }
            let response = inner.api.download(&file.id, range.start, range.end).await?;
            rest::part(response, range.start, length).await
        })?;
        into.extend_from_slice(&got);
        Ok(())
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        match self.head(key)? {
            Some(_) => Ok(()),
            None => Err(Failed::absent().into_error("sync", key.as_str(), self.describe())),
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let (inner, owned) = (Arc::clone(&self.inner), key.clone());
        let about = ("look up", key.as_str());
        let found = self.inner.api.rest.call(about, 0, async move { inner.lookup(&owned).await })?;
        Ok(found.map(|file| describe(key.clone(), &file)))
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut seen = Seen::default();
        let mut is_enough = false;
        self.walk("list", prefix, &mut |key, file| {
            // The oldest of a name comes first.
            if !seen.insert(&key) {
                return ControlFlow::Continue(());
            }
            self.inner.known().learn(&key, &file.id);
            let answer = each(describe(key, &file));
            is_enough |= answer.is_break();
            answer
        })?;
        let recent = if is_enough { Vec::new() } else { self.inner.known().recent(prefix) };
        // What was created here, and the search does not know yet.
        for key in recent.into_iter().filter(|key| !seen.contains(key)) {
            if let Some(info) = self.head(&key)?
                && each(info).is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.refuse_writing("delete", key)?;
        let (inner, owned) = (Arc::clone(&self.inner), key.clone());
        self.inner.api.rest.call(("delete", key.as_str()), 0, async move {
            let _alone = inner.creating(&owned).lock().await;
            // All of the name, the youngest first: else one that was never the object would become it.
            for file in inner.find(&owned).await?.into_iter().rev() {
                inner.api.destroy(&file.id).await?;
                inner.known().destroyed(&owned, &file.id);
            }
            Ok(())
        })
    }

    fn features(&self) -> Features {
        Features { create_new: self.inner.refuses, durable: true, consistent_list: false, remote: true }
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.inner.api.rest.call(("measure the space of", ""), 0, async move {
            let said = match inner.api.get("/drive/v3/about", &[("fields", "storageQuota")]).await {
                Err(failed) if failed.is(StoreErrorKind::Denied) => return Ok(None),
                other => other?,
            };
            let number = |name: &str| {
                said.pointer(&format!("/storageQuota/{name}")).and_then(Json::as_str)?.parse::<u64>().ok()
            };
            // Without a limit nothing is said.
            let space = number("limit").zip(number("usage")).filter(|(total, _)| *total > 0);
            Ok(space.map(|(total, used)| Space { free: total.saturating_sub(used), total }))
        })
    }

    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        let (mut seen, mut others, mut newest) = (Seen::default(), Vec::new(), Timestamp::UNIX_EPOCH);
        self.walk("clean", "", &mut |key, file| {
            newest = newest.max(file.created);
            // Two files of one name are no mistake of whoever else uses the folder.
            if is_ours(&key) && !seen.insert(&key) {
                others.push((key, file));
            }
            ControlFlow::Continue(())
        })?;
        others.retain(|(_, file)| newest.duration_since(file.created).as_secs() >= ABANDONED_AFTER);
        let mut removed = 0;
        for (key, file) in others {
            let inner = Arc::clone(&self.inner);
            let owned = key.clone();
            removed += self.inner.api.rest.call(("clean", key.as_str()), 0, async move {
                let _alone = inner.creating(&owned).lock().await;
                // Looked at once more: the object itself stays, whatever order a list has.
                if inner.find(&owned).await?.first().is_none_or(|object| object.id == file.id) {
                    return Ok(0);
                }
                inner.api.destroy(&file.id).await?;
                inner.known().destroyed(&owned, &file.id);
                Ok(1)
            })?;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_as_narrow_as_properties_allow() {
        let folders = ["f".to_owned()];
        let search = |prefix: &str| GdriveStore::search(&folders, prefix);
        let all = "('f' in parents) and trashed = false and mimeType != 'application/vnd.google-apps.folder'";
        for prefix in ["", "packs", "rep"] {
            assert_eq!(search(prefix), all);
        }
        let of = |prefix: &str| search(prefix).strip_prefix(all).unwrap().to_owned();
        assert_eq!(of("packs/"), " and properties has { key='refloat1' and value='packs' }");
        assert_eq!(of("wal/7/0000"), " and properties has { key='refloat2' and value='wal/7' }");
        let long = format!("a/{}/b", "x".repeat(200));
        assert_eq!(of(&long), " and properties has { key='refloat1' and value='a' }");
        assert_eq!(of("a'/"), " and properties has { key='refloat1' and value='a\\'' }");
    }
}
