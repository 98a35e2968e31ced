//! Objects as files in a folder of Dropbox.
//!
//! A key is a path below the folder; folders come into being with the first file in them. A file is created with the mode
//! that never replaces one, refused even where the same bytes are there, and its digest is compared with what was sent.
//! Dropbox takes paths that differ in case alone for one; keys of a repository never do. What a crash leaves is an
//! unfinished upload, which is visible to nobody and forgotten by the service.
//!
//! OpenDAL's service for Dropbox is not used: it overwrites, and speaks to no other address than Dropbox's own.

mod api;
mod hash;
mod writer;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use refloat_types::Location;
use serde_json::{Value as Json, json};

use self::api::{Api, File, tag};
use self::hash::ContentHash;
use self::writer::{End, Writer};
use crate::open::OpenError;
use crate::posix::Options;
use crate::rest::{self, Failed, Places, Rest};
use crate::settings::StoreSettings;
use crate::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind};

/// A body up to this long is one call.
const WHOLE: usize = 32 << 20;

/// Entries of a page of a list.
const PAGE: u32 = 2000;

/// The call with which a list begins.
const FIRST_PAGE: &str = "files/list_folder";

/// A store in a folder of Dropbox.
pub struct DropboxStore {
    inner: Arc<Inner>,
}

/// What calls and writers share.
struct Inner {
    api: Api,
    /// The folder's path, without a slash at its end; "" for the top.
    root: String,
    /// The names of folders in it.
    depth: usize,
    options: Options,
    /// Whether creating what exists is refused.
    refuses: bool,
}

impl DropboxStore {
    /// Makes ready for calls; none is made. An `endpoint` stands for both of Dropbox's addresses.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn open(location: &Location, settings: &StoreSettings, options: Options) -> Result<Self, OpenError> {
        let own = |text: &str| {
            settings.endpoint.as_deref().map_or(text, |other| other.trim_end_matches('/')).to_owned()
        };
        let (calls, content) = (own("https://api.dropboxapi.com"), own("https://content.dropboxapi.com"));
        let rest = Rest::new(location, settings, format!("{calls}/oauth2/token"))?;
        let parts = rest::folder(location)?;
        let root = parts.iter().map(|part| format!("/{part}")).collect();
        let api = Api { rest, calls, content };
        // Seen otherwise, it is not believed any more.
        let refuses = settings.conditional.unwrap_or(true);
        Ok(Self { inner: Arc::new(Inner { api, root, depth: parts.len(), options, refuses }) })
    }

    fn refuse_writing(&self, action: &'static str, key: &Key) -> Result<(), StoreError> {
        rest::refuse_writing(&self.inner.options, action, key, self.describe())
    }

    /// The next page of a list: what is in it, and how to get the one after it.
    fn page(&self, prefix: &str, function: &'static str, argument: Json) -> Result<Page, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.inner.api.rest.call(("list", prefix), 0, async move {
            let said = match inner.api.call(function, &argument).await {
                // Folders come with the first file in them.
                Err(failed) if failed.is(StoreErrorKind::NotFound) && function == FIRST_PAGE => {
                    return Ok(Page::default());
                }
                // In the middle of a list it is no end: what is still to come is there, or went with the folder.
                Err(failed) if failed.is(StoreErrorKind::NotFound) => {
                    let text = "the folder was deleted or moved while it was listed";
                    return Err(Failed::new(StoreErrorKind::Other, text));
                }
                other => other?,
            };
            let entries = said.get("entries").and_then(Json::as_array);
            let entries = entries.ok_or_else(|| Failed::strange("entries"))?;
            let files = entries.iter().filter(|entry| tag(entry) == "file").map(File::read);
            let files = files.collect::<Result<Vec<_>, _>>()?;
            let more = said.get("has_more").and_then(Json::as_bool);
            let cursor = said.get("cursor").and_then(Json::as_str).map(str::to_owned);
            let next = match more.ok_or_else(|| Failed::strange("has_more"))? {
                false => None,
                true => Some(cursor.ok_or_else(|| Failed::strange("cursor"))?),
            };
            Ok(Page { files, next })
        })
    }
}

#[derive(Default)]
struct Page {
    files: Vec<File>,
    next: Option<String>,
}

impl Inner {
    fn path(&self, key: &str) -> String {
        if key.is_empty() { self.root.clone() } else { format!("{}/{key}", self.root) }
    }

    /// The key of a path below the folder, whatever the case of the folder's own name.
    fn key(&self, path: &str) -> Option<Key> {
        let mut rest = path.strip_prefix('/')?;
        for _ in 0..self.depth {
            rest = rest.split_once('/')?.1;
        }
        rest.parse().ok()
    }

    async fn find(&self, key: &Key) -> Result<Option<File>, Failed> {
        let found = self.api.file(&self.path(key.as_str())).await?;
        Ok(found.filter(|file| file.name == key.file_name()))
    }
}

fn describe(key: Key, file: &File) -> ObjectInfo {
    ObjectInfo { key, size: file.size, created: file.created }
}

impl Store for DropboxStore {
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
        let end = End {
            path: self.inner.path(key.as_str()),
            size: body.len() as u64,
            hash: ContentHash::of(body),
            session: None,
            last: Bytes::copy_from_slice(body),
        };
        let inner = Arc::clone(&self.inner);
        let about = ("create", key.as_str());
        self.inner.api.rest.call(about, end.size, async move { inner.end(&end, false).await })
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.refuse_writing("create", key)?;
        Ok(Box::new(Writer::new(Arc::clone(&self.inner), key.clone())))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let length = range.end.saturating_sub(range.start);
        let (inner, owned) = (Arc::clone(&self.inner), key.clone());
        let got = self.inner.api.rest.call(("read", key.as_str()), length, async move {
            // No bytes at all, and bytes that no object has, cannot be asked for as a range.
            if length == 0 || range.end > 1 << 52 {
                return match inner.find(&owned).await? {
                    None => Err(Failed::absent()),
                    Some(file) if file.size < range.end => {
                        let text = format!("it holds {} bytes where {} are needed", file.size, range.end);
                        Err(Failed::new(StoreErrorKind::Truncated, text))
                    }
                    Some(_) => Ok(Vec::new()),
                };
            }
            let path = inner.path(owned.as_str());
            let response = inner.api.download(&path, range.start, range.end).await?;
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
        let found = self.inner.api.rest.call(about, 0, async move { inner.find(&owned).await })?;
        Ok(found.map(|file| describe(key.clone(), &file)))
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let above = match prefix.rsplit_once('/') {
            // Text that begins no key has no objects; as a path it might lead out of the folder.
            Some((above, _)) if above.parse::<Key>().is_err() => return Ok(()),
            Some((above, _)) => above,
            None => "",
        };
        let first = json!({ "path": self.inner.path(above), "recursive": true, "limit": PAGE });
        let (mut page, mut places) = (self.page(prefix, FIRST_PAGE, first)?, Places::default());
        loop {
            for file in &page.files {
                // Whatever is no key is not ours.
                let Some(key) = self.inner.key(&file.path) else { continue };
                if key.as_str().starts_with(prefix) && each(describe(key, file)).is_break() {
                    return Ok(());
                }
            }
            let Some(cursor) = page.next else { return Ok(()) };
            places.go_on(&cursor).map_err(|failed| failed.into_error("list", prefix, self.describe()))?;
            // Asked again here: whoever lists would have to begin anew, with what was delivered already.
            page =
                self.inner.api.rest.persist(|_| {
                    self.page(prefix, "files/list_folder/continue", json!({ "cursor": cursor }))
                })?;
        }
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.refuse_writing("delete", key)?;
        let (inner, owned) = (Arc::clone(&self.inner), key.clone());
        self.inner.api.rest.call(("delete", key.as_str()), 0, async move {
            // A path alone would take a folder with all that is in it; a revision is of a file.
            let Some(file) = inner.find(&owned).await? else { return Ok(()) };
            let argument = json!({ "path": inner.path(owned.as_str()), "parent_rev": file.revision });
            match inner.api.call("files/delete_v2", &argument).await {
                Err(failed) if failed.is(StoreErrorKind::NotFound) => Ok(()),
                // Deleted and created by others meanwhile: asked again, it is another file.
                Err(failed) if failed.is(StoreErrorKind::AlreadyExists) => {
                    let text = "it has changed while it was being deleted";
                    Err(Failed::new(StoreErrorKind::Unreachable, text))
                }
                other => other.map(drop),
            }
        })
    }

    fn features(&self) -> Features {
        Features { create_new: self.inner.refuses, durable: true, consistent_list: true, remote: true }
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.inner.api.rest.call(("measure the space of", ""), 0, async move {
            let said = match inner.api.call("users/get_space_usage", &Json::Null).await {
                // It is a right of its own, which an app need not have.
                Err(failed) if failed.is(StoreErrorKind::Denied) => return Ok(None),
                other => other?,
            };
            let number = |at: &str| said.pointer(at).and_then(Json::as_u64);
            // A member of a team shares what the team has used.
            let used = number("/allocation/used").or_else(|| number("/used"));
            let space = number("/allocation/allocated").zip(used).filter(|(total, _)| *total > 0);
            Ok(space.map(|(total, used)| Space { free: total.saturating_sub(used), total }))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Credentials, Keys};

    #[test]
    fn keys_are_what_stands_below_the_folder_in_any_case() {
        let keys = Keys::default().with("access_token", "x");
        let settings = StoreSettings {
            credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
            ..StoreSettings::default()
        };
        let open =
            |url: &str| DropboxStore::open(&url.parse().unwrap(), &settings, Options::default()).unwrap();
        let store = open("dropbox://Backup/db%201");
        assert_eq!(store.inner.path("a/b"), "/Backup/db 1/a/b");
        assert_eq!(store.inner.key("/BACKUP/DB 1/wal/0A").unwrap().as_str(), "wal/0A");
        assert_eq!(store.inner.key("/backup/db 1"), None);
        assert_eq!(store.inner.key("/backup/db 1/no key"), None);
        let top = open("dropbox://");
        assert_eq!((top.inner.path(""), top.inner.path("a")), (String::new(), "/a".to_owned()));
        assert_eq!(top.inner.key("/a/b").unwrap().as_str(), "a/b");
        let location = "dropbox://x".parse().unwrap();
        let error = DropboxStore::open(&location, &StoreSettings::default(), Options::default()).err();
        assert_eq!(
            error.unwrap().to_string(),
            "dropbox://x cannot be opened: Dropbox takes nobody without credentials"
        );
    }
}
