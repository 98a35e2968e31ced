//! A double of Google Drive's documented HTTP API, as far as a store speaks it: one account, in memory. Files have ids and
//! may share names; searches are read and understood, come in pages, and lag behind on demand; what is in the trash is
//! still there. It answers wrong questions and tokens as Drive says that it does.

mod files;
mod query;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

use self::files::{File, Files};
use self::uploads::Upload;
use super::double::{self, Faults, Reply, Request, Server, Token, Tokens};

/// A running double.
pub struct GdriveDouble {
    server: Server,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    faults: Faults,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    tokens: Tokens,
    files: Files,
    uploads: BTreeMap<String, Upload>,
    /// Ids that were given out and not used.
    ids: BTreeSet<String>,
    /// What continues a search: ids that are still to come.
    pages: BTreeMap<String, Vec<String>>,
    /// Drawn for ids.
    last: u64,
    quota: Option<u64>,
    /// Names of files that are given only to whoever says that he knows.
    suspects: BTreeSet<String>,
    /// How many searches more don't know of what is done.
    lag: u64,
    /// What continues a search leads to itself.
    goes_round: bool,
}

double::is_a_double!(GdriveDouble);

/// Files of a page at most, so that tests see pages.
const PAGE: usize = 60;

impl GdriveDouble {
    /// Starts it.
    pub fn start() -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), faults: Faults::default() });
        let answering = Arc::clone(&shared);
        let server = Server::start(move |request| {
            answering.faults.around(request, || answering.state().answer(request))
        });
        Self { server, shared }
    }
    /// The next request whose method and path hold `what` is one too many for the user: 403, without a time to wait.
    pub fn limit_rate(&self, what: &str) {
        let told = "User Rate Limit Exceeded. Rate of requests for user exceed configured project quota.";
        self.shared.faults.refuse(what, move || refuse(403, "userRateLimitExceeded", told));
    }
    /// The next such request is one too many: 429, with so many seconds to wait.
    pub fn slow_down(&self, what: &str, seconds: u64) {
        self.shared.faults.refuse(what, move || {
            refuse(429, "rateLimitExceeded", "Too many requests.").with("Retry-After", seconds.to_string())
        });
    }
    /// Files of this name look like malware from now on.
    pub fn suspect(&self, name: &str) {
        self.shared.state().suspects.insert(name.to_owned());
    }
    /// What continues a search gives the same page from now on, and says that there are more.
    pub fn go_round(&self) {
        self.shared.state().goes_round = true;
    }
    /// Files may hold so many bytes together.
    pub fn limit_space(&self, bytes: u64) {
        self.shared.state().quota = Some(bytes);
    }
    /// What is created or destroyed from now on is known to searches only after so many of them.
    pub fn lag(&self, searches: u64) {
        self.shared.state().lag = searches;
    }
    /// The ids of all files of this name that are not in the trash, oldest first.
    pub fn ids_of(&self, name: &str) -> Vec<String> {
        let state = self.shared.state();
        let mut found: Vec<&File> =
            state.files.all().filter(|file| file.name == name && !file.is_trashed).collect();
        found.sort_by_key(|file| file.created);
        found.into_iter().map(|file| file.id.clone()).collect()
    }
    /// How many files there are that are no folders, in the trash or not.
    pub fn count(&self) -> usize {
        self.shared.state().files.all().filter(|file| !file.is_folder()).count()
    }
    /// Puts a file of this name beside those that have it, in the folder of the first, as somebody else would.
    pub fn put_beside(&self, name: &str, body: &[u8]) -> String {
        let mut state = self.shared.state();
        let first = state.files.all().find(|file| file.name == name).cloned();
        let first = first.unwrap_or_else(|| panic!("there is no {name}"));
        let id = state.draw("beside-");
        state.files.add(File { id: id.clone(), body: body.to_vec(), ..first }, 0);
        id
    }
    /// Moves a file into the trash, as its owner can.
    pub fn trash(&self, id: &str) {
        let mut state = self.shared.state();
        let file = state.files.get_mut(id);
        file.unwrap_or_else(|| panic!("there is no {id}")).is_trashed = true;
    }
    /// Makes all files whose name holds `part` so many seconds older.
    pub fn age(&self, part: &str, seconds: i64) {
        self.shared.state().files.age(|file| file.name.contains(part), seconds);
    }
    /// Makes one file so many seconds older.
    pub fn age_one(&self, id: &str, seconds: i64) {
        self.shared.state().files.age(|file| file.id == id, seconds);
    }
    /// Makes a folder, as somebody else would.
    pub fn folder(&self, name: &str) -> String {
        let mut state = self.shared.state();
        let id = state.draw("folder-");
        let what = json!({ "name": name, "mimeType": files::FOLDER, "parents": ["root"] });
        let made = File::new(id.clone(), &what, Vec::new());
        state.files.add(made, 0);
        id
    }
}

/// What Drive answers that refuses.
fn refuse(status: u16, reason: &str, message: &str) -> Reply {
    let errors = json!([{ "domain": "global", "reason": reason, "message": message }]);
    Reply::json(status, &json!({ "error": { "code": status, "message": message, "errors": errors } }))
}

fn not_found(id: &str) -> Reply {
    refuse(404, "notFound", &format!("File not found: {id}."))
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.path == "/token" {
            return self.tokens.exchange(request);
        }
        if !matches!(self.tokens.judge(request), Token::Good) {
            let told = "Request had invalid authentication credentials.";
            return refuse(401, "authError", told)
                .with("WWW-Authenticate", "Bearer realm=\"https://accounts.google.com/\"");
        }
        let path = request.path.as_str();
        let id = path.strip_prefix("/drive/v3/files/");
        let done = match (request.method.as_str(), path, id) {
            ("GET", "/drive/v3/about", _) => self.about(request),
            ("GET", "/drive/v3/files", _) => self.list(request),
            ("POST", "/drive/v3/files", _) => self.create_empty(request),
            ("GET", "/drive/v3/files/generateIds", _) => self.generate(request),
            ("GET", _, Some(id)) => self.get(id, request),
            ("DELETE", _, Some(id)) => self.destroy(id),
            ("POST", "/upload/drive/v3/files", _) => self.upload(request),
            ("PUT", "/upload/drive/v3/files", _) => self.go_on(request),
            _ => Err(refuse(404, "notFound", "Not Found")),
        };
        done.unwrap_or_else(|refused| refused)
    }

    fn draw(&mut self, what: &str) -> String {
        self.last += 1;
        format!("{what}{:024x}", self.last)
    }

    fn about(&self, request: &Request) -> Result<Reply, Reply> {
        if request.query("fields").is_none() {
            let told = "The 'fields' parameter is required for this method.";
            return Err(refuse(400, "required", told));
        }
        let used = self.files.all().map(|file| file.body.len() as u64).sum::<u64>();
        let limit = self.quota.unwrap_or(15 << 30);
        let quota = json!({ "limit": limit.to_string(), "usage": used.to_string() });
        Ok(Reply::json(200, &json!({ "storageQuota": quota })))
    }

    fn generate(&mut self, request: &Request) -> Result<Reply, Reply> {
        let count: u64 = request.query("count").map_or(Ok(10), str::parse).unwrap_or(0);
        if !(1..=1000).contains(&count) {
            return Err(refuse(
                400,
                "invalidParameter",
                "Invalid value. Values must be within the range: [1, 1000]",
            ));
        }
        let ids: Vec<String> = (0..count).map(|_| self.draw("id-")).collect();
        self.ids.extend(ids.iter().cloned());
        Ok(Reply::json(200, &json!({ "kind": "drive#generatedIds", "space": "drive", "ids": ids })))
    }

    /// A page of a search.
    fn list(&mut self, request: &Request) -> Result<Reply, Reply> {
        let invalid = |what: &str| refuse(400, "invalid", &format!("Invalid Value: {what}"));
        let size = request.query("pageSize").map_or(Ok(100), str::parse).unwrap_or(0_usize);
        if !(1..=1000).contains(&size) {
            return Err(invalid("pageSize"));
        }
        let mut rest = match request.query("pageToken") {
            Some(token) => self.pages.get(token).cloned().ok_or_else(|| invalid("pageToken"))?,
            None => {
                let search =
                    query::parse(request.query("q").unwrap_or_default()).ok_or_else(|| invalid("q"))?;
                match request.query("orderBy") {
                    None | Some("createdTime") => {}
                    Some(_) => return Err(invalid("orderBy")),
                }
                self.files.search(&search)
            }
        };
        let later = rest.split_off(size.min(PAGE).min(rest.len()));
        let fields = request.query("fields").unwrap_or("files(kind,id,name,mimeType)");
        // What was destroyed meanwhile is not told any more.
        let files: Vec<Json> = rest.iter().filter_map(|id| self.files.listed(id, fields)).collect();
        let mut said = json!({ "files": files });
        if fields.contains("incompleteSearch") {
            said["incompleteSearch"] = json!(false);
        }
        if !later.is_empty() && fields.contains("nextPageToken") {
            let token = match request.query("pageToken").filter(|_| self.goes_round) {
                Some(token) => token.to_owned(),
                None => self.draw("page-"),
            };
            said["nextPageToken"] = json!(token);
            self.pages.entry(token).or_insert(later);
        }
        Ok(Reply::json(200, &said))
    }

    fn get(&mut self, id: &str, request: &Request) -> Result<Reply, Reply> {
        let file = self.files.get(id).ok_or_else(|| not_found(id))?;
        if request.query("alt") != Some("media") {
            let fields = request.query("fields").unwrap_or("kind,id,name,mimeType");
            return Ok(Reply::json(200, &self.files.describe(id, fields).unwrap_or_default()));
        }
        if file.is_folder() {
            let told = "Only files with binary content can be downloaded.";
            return Err(refuse(403, "fileNotDownloadable", told));
        }
        if self.suspects.contains(&file.name) && request.query("acknowledgeAbuse") != Some("true") {
            let told = "This file has been identified as malware or spam and cannot be downloaded.";
            return Err(refuse(403, "cannotDownloadAbusiveFile", told));
        }
        let all = file.body.len();
        let Some(range) = request.header("range") else {
            return Ok(Reply::new(200, "application/octet-stream", file.body.clone()));
        };
        let Some((start, end)) = super::dropbox::part(range, all) else {
            let told = "Request range not satisfiable";
            return Err(refuse(416, "requestedRangeNotSatisfiable", told));
        };
        let body = file.body.get(start..end).unwrap_or_default();
        Ok(Reply::new(206, "application/octet-stream", body)
            .with("Content-Range", format!("bytes {start}-{}/{all}", end - 1)))
    }

    fn destroy(&mut self, id: &str) -> Result<Reply, Reply> {
        let lag = self.lag;
        if !self.files.remove(id, lag) {
            return Err(not_found(id));
        }
        Ok(Reply { status: 204, headers: Vec::new(), body: Vec::new() })
    }

    /// Creates what has no content: a folder, for a store.
    fn create_empty(&mut self, request: &Request) -> Result<Reply, Reply> {
        let what = uploads::metadata(&request.body, request.header("content-type"))?;
        self.create(&what, Vec::new(), request)
    }

    /// The id that a new file is to have.
    fn id_for(&mut self, what: &Json) -> Result<String, Reply> {
        let Some(id) = what.get("id").and_then(Json::as_str) else { return Ok(self.draw("own-")) };
        if self.files.was_used(id) {
            return Err(refuse(409, "fileIdInUse", "A file already exists with the provided ID."));
        }
        if !self.ids.contains(id) {
            return Err(refuse(400, "invalid", "The provided file ID is not usable."));
        }
        Ok(id.to_owned())
    }

    /// What keeps a file from being created.
    fn is_possible(&self, what: &Json, more: usize) -> Result<(), Reply> {
        let parents = what.get("parents").and_then(Json::as_array).cloned().unwrap_or_default();
        if parents.len() > 1 {
            return Err(refuse(400, "invalid", "A shared drive item must have exactly one parent."));
        }
        for parent in parents.iter().filter_map(Json::as_str).filter(|parent| *parent != "root") {
            if !self.files.get(parent).is_some_and(File::is_folder) {
                return Err(not_found(parent));
            }
        }
        for (name, value) in what.get("properties").and_then(Json::as_object).into_iter().flatten() {
            if name.len() + value.as_str().unwrap_or_default().len() > 124 {
                return Err(refuse(400, "propertyTooLong", "A property is longer than 124 bytes."));
            }
        }
        let used: usize = self.files.all().map(|file| file.body.len()).sum();
        if self.quota.is_some_and(|quota| (used + more) as u64 > quota) {
            return Err(refuse(
                403,
                "storageQuotaExceeded",
                "The user's Drive storage quota has been exceeded.",
            ));
        }
        Ok(())
    }

    fn create(&mut self, what: &Json, body: Vec<u8>, request: &Request) -> Result<Reply, Reply> {
        self.is_possible(what, body.len())?;
        let id = self.id_for(what)?;
        self.ids.remove(&id);
        let lag = self.lag;
        self.files.add(File::new(id.clone(), what, body), lag);
        let fields = request.query("fields").unwrap_or("kind,id,name,mimeType");
        let said = self.files.describe(&id, fields);
        Ok(Reply::json(200, &said.unwrap_or_default()))
    }
}
