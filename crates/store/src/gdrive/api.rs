//! Google Drive's HTTP API: the requests that are made, and what their errors mean.

use refloat_types::Timestamp;
use reqwest::{Method, Response};
use serde_json::{Value as Json, json};

use crate::StoreErrorKind;
use crate::object::web_identity::form;
use crate::rest::{Answered, Ask, Failed, Places, Rest};

/// What a folder's type is.
pub(super) const FOLDER: &str = "application/vnd.google-apps.folder";

/// What is asked for of each file.
pub(super) const FIELDS: &str = "id,name,size,createdTime,trashed,sha256Checksum";

/// Files of a page of a list; more than these are not given.
const PAGE: &str = "1000";

/// Drive with who we are there.
pub(super) struct Api {
    pub(super) rest: Rest,
    /// Without a slash at its end.
    pub(super) base: String,
}

/// A file or a folder, as Drive describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) created: Timestamp,
    pub(super) is_trashed: bool,
    /// Absent for folders, and for a moment after some uploads.
    pub(super) sha256: Option<String>,
}

impl File {
    pub(super) fn read(said: &Json) -> Result<Self, Failed> {
        let text = |name: &str| said.get(name).and_then(Json::as_str);
        let need = |name: &'static str| text(name).map(str::to_owned).ok_or_else(|| Failed::strange(name));
        // Numbers of 64 bits are text there; folders have no size.
        let size = text("size").map_or(Ok(0), |size| size.parse().map_err(|_| Failed::strange("size")))?;
        Ok(Self {
            id: need("id")?,
            name: need("name")?,
            size,
            created: need("createdTime")?.parse().map_err(|_| Failed::strange("createdTime"))?,
            is_trashed: said.get("trashed").and_then(Json::as_bool).unwrap_or(false),
            sha256: text("sha256Checksum").map(str::to_owned),
        })
    }

    /// What decides which of several files of one name is the object: the oldest, and of those the first by its id.
    pub(super) fn rank(&self) -> (Timestamp, &str) {
        (self.created, &self.id)
    }
}

/// A text as it stands in a search.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What is in one of these folders and not in the trash.
pub(super) fn within(folders: &[String]) -> String {
    let each: Vec<String> = folders.iter().map(|id| format!("{} in parents", quoted(id))).collect();
    format!("({}) and trashed = false", each.join(" or "))
}

impl Api {
    pub(super) fn address(&self, path: &str, query: &[(&str, &str)]) -> String {
        let question = if query.is_empty() { "" } else { "?" };
        format!("{}{path}{question}{}", self.base, form(query))
    }

    /// Sends a request whose answer is JSON.
    pub(super) async fn json(&self, ask: &Ask) -> Result<Json, Failed> {
        let answered = Answered::read(self.rest.send(ask).await?).await?;
        match answered.status {
            200 | 201 => serde_json::from_slice(&answered.body).map_err(|_| Failed::strange("JSON")),
            _ => Err(judge(&answered)),
        }
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Json, Failed> {
        self.json(&Ask::new(Method::GET, self.address(path, query))).await
    }

    /// One page of what a search finds, oldest first, and the token of the next one.
    pub(super) async fn page(
        &self,
        search: &str,
        token: Option<&str>,
    ) -> Result<(Vec<File>, Option<String>), Failed> {
        let fields = format!("nextPageToken,incompleteSearch,files({FIELDS})");
        let mut query = vec![
            ("q", search),
            ("fields", &fields),
            ("pageSize", PAGE),
            ("orderBy", "createdTime"),
            ("spaces", "drive"),
        ];
        query.extend(token.map(|token| ("pageToken", token)));
        let said = self.get("/drive/v3/files", &query).await?;
        if said.get("incompleteSearch").and_then(Json::as_bool).unwrap_or(false) {
            let text = "the service has not searched all of it";
            return Err(Failed::new(StoreErrorKind::Unreachable, text));
        }
        let files = said.get("files").and_then(Json::as_array).ok_or_else(|| Failed::strange("files"))?;
        let files = files.iter().map(File::read).collect::<Result<_, _>>()?;
        Ok((files, said.get("nextPageToken").and_then(Json::as_str).map(str::to_owned)))
    }

    /// All that a search finds: of one name there are few.
    pub(super) async fn search(&self, search: &str) -> Result<Vec<File>, Failed> {
        let (mut found, mut next) = self.page(search, None).await?;
        let mut places = Places::default();
        while let Some(token) = next {
            places.go_on(&token)?;
            let page;
            (page, next) = self.page(search, Some(&token)).await?;
            found.extend(page);
        }
        Ok(found)
    }

    /// The file with this id; `None` where there is none, or it is in the trash.
    pub(super) async fn by_id(&self, id: &str) -> Result<Option<File>, Failed> {
        match self.get(&format!("/drive/v3/files/{id}"), &[("fields", FIELDS)]).await {
            Ok(said) => Ok(Some(File::read(&said)?).filter(|file| !file.is_trashed)),
            Err(failed) if failed.is(StoreErrorKind::NotFound) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Ids that files may be created with.
    pub(super) async fn ids(&self, count: &str) -> Result<Vec<String>, Failed> {
        let query = [("count", count), ("space", "drive"), ("type", "files")];
        let said = self.get("/drive/v3/files/generateIds", &query).await?;
        let ids = said.get("ids").and_then(Json::as_array).ok_or_else(|| Failed::strange("ids"))?;
        Ok(ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect())
    }

    /// Creates a folder.
    pub(super) async fn folder(&self, name: &str, parent: &str) -> Result<File, Failed> {
        let what = json!({ "name": name, "mimeType": FOLDER, "parents": [parent] });
        let address = self.address("/drive/v3/files", &[("fields", FIELDS)]);
        File::read(&self.json(&Ask::new(Method::POST, address).json(&what)).await?)
    }

    /// A part of what a file holds.
    pub(super) async fn download(&self, id: &str, start: u64, end: u64) -> Result<Response, Failed> {
        match self.media(id, start, end, &[("alt", "media")]).await {
            // What is sealed looks like anything, and here and there like something bad.
            Err(failed) if failed.tag == "cannotDownloadAbusiveFile" => {
                self.media(id, start, end, &[("alt", "media"), ("acknowledgeAbuse", "true")]).await
            }
            other => other,
        }
    }

    async fn media(
        &self,
        id: &str,
        start: u64,
        end: u64,
        query: &[(&str, &str)],
    ) -> Result<Response, Failed> {
        let address = self.address(&format!("/drive/v3/files/{id}"), query);
        let range = format!("bytes={start}-{}", end.saturating_sub(1));
        let response = self.rest.send(&Ask::new(Method::GET, address).header("Range", range)).await?;
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            _ => Err(judge(&Answered::read(response).await?)),
        }
    }

    /// Destroys a file, past the trash; absent already is `Ok`.
    pub(super) async fn destroy(&self, id: &str) -> Result<(), Failed> {
        let ask = Ask::new(Method::DELETE, self.address(&format!("/drive/v3/files/{id}"), &[]));
        let answered = Answered::read(self.rest.send(&ask).await?).await?;
        match answered.status {
            200 | 204 | 404 => Ok(()),
            _ => Err(judge(&answered)),
        }
    }
}

/// What an answer means that is no success.
pub(super) fn judge(answered: &Answered) -> Failed {
    use StoreErrorKind as K;
    let said = answered.json();
    let text = |at: &str| said.pointer(at).and_then(Json::as_str).unwrap_or_default();
    let reason = text("/error/errors/0/reason");
    let kind = match (answered.status, reason) {
        (
            403,
            "rateLimitExceeded"
            | "userRateLimitExceeded"
            | "dailyLimitExceeded"
            | "quotaExceeded"
            | "backendError",
        ) => K::Unreachable,
        (
            403,
            "storageQuotaExceeded"
            | "numChildrenInNonRootLimitExceeded"
            | "teamDriveFileLimitExceeded"
            | "activeItemCreationLimitExceeded",
        ) => K::NoSpace,
        (401 | 403, _) => K::Denied,
        (404, _) => K::NotFound,
        (409, _) => K::AlreadyExists,
        (416, _) => K::Truncated,
        (408 | 425 | 429 | 500..=599, _) => K::Unreachable,
        _ => K::Other,
    };
    Failed::answered(kind, answered, reason, text("/error/message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind as K;

    #[test]
    fn answers_are_sorted() {
        let judged = |status: u16, reason: &str| {
            let errors = json!([{ "domain": "global", "reason": reason, "message": "No." }]);
            let body = json!({ "error": { "code": status, "message": "No.", "errors": errors } });
            judge(&Answered { status, body: body.to_string().into_bytes(), ..Answered::default() })
        };
        for (status, reason, kind) in [
            (403, "userRateLimitExceeded", K::Unreachable),
            (403, "rateLimitExceeded", K::Unreachable),
            (429, "rateLimitExceeded", K::Unreachable),
            (403, "storageQuotaExceeded", K::NoSpace),
            (403, "insufficientFilePermissions", K::Denied),
            (401, "authError", K::Denied),
            (404, "notFound", K::NotFound),
            (409, "fileIdInUse", K::AlreadyExists),
            (416, "requestedRangeNotSatisfiable", K::Truncated),
            (400, "invalid", K::Other),
            (503, "backendError", K::Unreachable),
        ] {
            assert_eq!(judged(status, reason).kind, kind, "{status} {reason}");
        }
        let said = judged(403, "accessNotConfigured").into_error("read", "k", "x").source.to_string();
        assert_eq!(said, "the service answered 403: accessNotConfigured: No.");
    }

    #[test]
    fn a_name_cannot_end_a_search() {
        assert_eq!(quoted("a'b\\c"), "'a\\'b\\\\c'");
        let folders = ["1".to_owned(), "2".to_owned()];
        assert_eq!(within(&folders), "('1' in parents or '2' in parents) and trashed = false");
    }
}
