//! How a file comes into being.
//!
//! Drive creates any number of files of one name. So it is looked whether the name is taken, the file is created, and then
//! it is looked again: of several the oldest is the object, and whoever made a younger one destroys it and says that the
//! name was taken. A file is created with an id that was drawn before, so that an attempt whose answer did not come is
//! known again, by whoever makes it again here.

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Map, Value as Json, json};

use super::Inner;
use super::api::{FIELDS, File, judge, quoted, within};
use super::folder::{folder_is_gone, without_folder};
use crate::rest::{Answered, Ask, Failed};
use crate::{Key, StoreErrorKind};

/// Ids that are drawn at once.
const IDS: &str = "10";

/// Most bytes that a property has, its name and its value together.
const LONGEST_PROPERTY: usize = 124;

/// The property that holds the first `depth` parts of a key; `None` where they are too long for one.
pub(super) fn property(depth: usize, directory: &str) -> Option<(String, String)> {
    let name = format!("refloat{depth}");
    (name.len() + directory.len() <= LONGEST_PROPERTY).then(|| (name, directory.to_owned()))
}

/// One property for each directory that a key would be in: a search finds them, and finds no parts of names.
fn properties(key: &Key) -> Json {
    let text = key.as_str();
    let ends = text.match_indices('/').map(|(at, _)| at).enumerate();
    let each = ends.filter_map(|(number, at)| property(number + 1, text.get(..at)?));
    // No more than these has a file of ours.
    Json::Object(each.take(30).map(|(name, value)| (name, Json::from(value))).collect::<Map<_, _>>())
}

/// SHA-256 as Drive tells it.
pub(super) fn hex(digest: &aws_lc_rs::digest::Digest) -> String {
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

impl Inner {
    /// All files of this name, the object first.
    pub(super) async fn find(&self, key: &Key) -> Result<Vec<File>, Failed> {
        let folders = self.folders().await?;
        if folders.is_empty() {
            return Ok(Vec::new());
        }
        let search = format!("{} and name = {}", within(&folders), quoted(key.as_str()));
        let mut found = self.api.search(&search).await?;
        let own = {
            let known = self.known();
            // What a search finds may be another case of the name, or what is destroyed already.
            found.retain(|file| file.name == key.as_str() && !known.is_gone(&file.id));
            known.own(key).filter(|own| found.iter().all(|one| one.id != own.id))
        };
        if let Some(own) = own {
            found.extend(self.api.by_id(&own.id).await?);
        }
        found.sort_by(|one, other| one.rank().cmp(&other.rank()));
        Ok(found)
    }

    /// The object of this name.
    pub(super) async fn lookup(&self, key: &Key) -> Result<Option<File>, Failed> {
        let id = self.known().id(key);
        if let Some(id) = id {
            // Somebody may have renamed it, or moved it into the trash.
            if let Some(file) = self.api.by_id(&id).await?.filter(|file| file.name == key.as_str()) {
                return Ok(Some(file));
            }
            self.known().forget(key);
        }
        let found = self.find(key).await?.into_iter().next();
        if let Some(file) = &found {
            self.known().learn(key, &file.id);
        }
        Ok(found)
    }

    pub(super) async fn new_id(&self) -> Result<String, Failed> {
        if let Some(id) = self.known().take_id() {
            return Ok(id);
        }
        let mut ids = self.api.ids(IDS).await?;
        let id = ids.pop().ok_or_else(|| Failed::strange("ids"))?;
        self.known().keep_ids(ids);
        Ok(id)
    }

    /// What a new file is to be.
    pub(super) fn metadata(key: &Key, id: &str, folder: &str) -> Json {
        json!({
            "id": id, "name": key.as_str(), "parents": [folder], "mimeType": "application/octet-stream",
            "properties": properties(key),
        })
    }

    /// Creates a small file with one request.
    pub(super) async fn put(&self, key: &Key, body: &Bytes) -> Result<(), Failed> {
        let digest = hex(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body));
        let _alone = self.creating(key).lock().await;
        let folders = self.made_folders().await?;
        let earlier = self.known().unanswered(key, &digest);
        let found = self.find(key).await?;
        if let Some(file) = found.iter().find(|file| earlier.as_ref() == Some(&file.id)) {
            return self.settle_race(key, file.clone(), body.len() as u64, &digest).await;
        }
        if !found.is_empty() {
            return Err(Failed::exists());
        }
        let id = match earlier {
            Some(id) => id,
            None => self.new_id().await?,
        };
        self.known().attempt(key, &id, &digest);
        let folder = folders.first().map_or("", String::as_str);
        let file = match self.multipart(&Self::metadata(key, &id, folder), &digest, body).await {
            Ok(file) => file,
            // The attempt before this one.
            Err(failed) if failed.is(StoreErrorKind::AlreadyExists) => {
                self.api.by_id(&id).await?.ok_or(failed)?
            }
            Err(failed) if failed.is(StoreErrorKind::Unreachable) => return Err(failed),
            Err(failed) => {
                self.known().answered(key);
                return Err(without_folder(failed));
            }
        };
        self.settle_race(key, file, body.len() as u64, &digest).await
    }

    async fn multipart(&self, metadata: &Json, digest: &str, body: &Bytes) -> Result<File, Failed> {
        // No bytes hold their own digest.
        let boundary = format!("refloat-{digest}");
        let mut all = format!(
            "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n--{boundary}\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        all.extend_from_slice(body);
        all.extend_from_slice(format!("\r\n--{boundary}--").as_bytes());
        let query = [("uploadType", "multipart"), ("fields", FIELDS)];
        let ask = Ask::new(Method::POST, self.api.address("/upload/drive/v3/files", &query))
            .header("Content-Type", format!("multipart/related; boundary={boundary}"))
            .body(all);
        File::read(&self.api.json(&ask).await?)
    }

    /// Looks whether a file that was just created is the object of its name, and whole.
    pub(super) async fn settle_race(
        &self,
        key: &Key,
        file: File,
        size: u64,
        digest: &str,
    ) -> Result<(), Failed> {
        if file.size != size || file.sha256.as_ref().is_some_and(|sha256| sha256 != digest) {
            self.withdraw(key, &file).await;
            let text = format!("the service keeps {} of {size} bytes, or others", file.size);
            return Err(Failed::new(StoreErrorKind::Unconfirmed, text));
        }
        if file.is_trashed {
            // Drive puts files into a folder in the trash as well.
            self.withdraw(key, &file).await;
            return Err(folder_is_gone());
        }
        let found = self.find(key).await?;
        if found.iter().any(|other| other.rank() < file.rank()) {
            self.withdraw(key, &file).await;
            return Err(Failed::exists());
        }
        self.known().created(key, file);
        Ok(())
    }

    /// Destroys a file that is no object. One that stays is seen by nobody as long as an older one has its name, and goes
    /// with that one.
    async fn withdraw(&self, key: &Key, file: &File) {
        self.known().answered(key);
        match self.api.destroy(&file.id).await {
            Ok(()) => self.known().destroyed(key, &file.id),
            Err(failed) => {
                let error = failed.into_error("delete", key.as_str(), &self.api.rest.url);
                tracing::debug!(%key, cause = %error.source, "a second file of this name stays");
            }
        }
    }

    /// Begins an upload in parts; answers where they go.
    pub(super) async fn begin(&self, key: &Key, id: &str) -> Result<String, Failed> {
        let folders = self.made_folders().await?;
        let folder = folders.first().map_or("", String::as_str);
        let query = [("uploadType", "resumable"), ("fields", FIELDS)];
        let ask = Ask::new(Method::POST, self.api.address("/upload/drive/v3/files", &query))
            .header("X-Upload-Content-Type", "application/octet-stream")
            .json(&Self::metadata(key, id, folder));
        let response = self.api.rest.send(&ask).await?;
        if response.status() != http::StatusCode::OK {
            return Err(without_folder(judge(&Answered::read(response).await?)));
        }
        let place = response.headers().get(http::header::LOCATION).and_then(|place| place.to_str().ok());
        let place: Option<http::Uri> = place.and_then(|place| place.parse().ok());
        // Only what stands behind the host: our token goes nowhere else.
        let path = place.as_ref().and_then(http::Uri::path_and_query);
        Ok(format!("{}{}", self.api.base, path.ok_or_else(|| Failed::strange("the place of the upload"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_property_for_each_directory() {
        let of = |text: &str| properties(&text.parse().unwrap());
        assert_eq!(of("repository"), json!({}));
        assert_eq!(of("packs/3f/3fa9"), json!({ "refloat1": "packs", "refloat2": "packs/3f" }));
        let long = "x".repeat(200);
        assert_eq!(of(&format!("a/{long}/b")), json!({ "refloat1": "a" }));
        let (name, value) = property(3, &"y".repeat(116)).unwrap();
        assert_eq!(name.len() + value.len(), LONGEST_PROPERTY);
        assert_eq!(property(3, &"y".repeat(117)), None);
    }
}
