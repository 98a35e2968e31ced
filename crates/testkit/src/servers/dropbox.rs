//! A double of Dropbox's documented HTTP API, as far as a store speaks it: files of one account, in memory, at one address
//! for what Dropbox keeps at two. It answers wrong arguments, headers and tokens as Dropbox says that it does.

mod files;
mod sessions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

use self::files::Tree;
use self::sessions::Session;
pub(super) use self::sessions::part;
use super::double::{self, Faults, Reply, Request, Server, Token, Tokens};

/// A running double.
pub struct DropboxDouble {
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
    tree: Tree,
    sessions: BTreeMap<String, Session>,
    /// What continues a list: its folder, and paths in lower case that are still to come.
    cursors: BTreeMap<String, (String, Vec<String>)>,
    /// Drawn for ids.
    last: u64,
    quota: Option<u64>,
    /// What continues a list leads to itself.
    goes_round: bool,
}

double::is_a_double!(DropboxDouble);

/// Entries of a page at most, so that tests see pages.
const PAGE: usize = 50;

/// Largest body of a request.
const LARGEST: usize = 150 << 20;

impl DropboxDouble {
    /// Starts it.
    pub fn start() -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), faults: Faults::default() });
        let answering = Arc::clone(&shared);
        let server = Server::start(move |request| {
            answering.faults.around(request, || answering.state().answer(request))
        });
        Self { server, shared }
    }
    /// The next request whose method and path hold `what` is asked to wait so many seconds: 429, as for too many writes.
    pub fn slow_down(&self, what: &str, seconds: u64) {
        self.shared.faults.refuse(what, move || {
            let reason = json!({ ".tag": "too_many_write_operations" });
            let error = json!({ "reason": reason, "retry_after": seconds });
            let body = json!({ "error_summary": "too_many_write_operations/..", "error": error });
            Reply::json(429, &body).with("Retry-After", seconds.to_string())
        });
    }
    /// The next such request is refused because another one writes: 409 with `too_many_write_operations`.
    pub fn contend(&self, what: &str) {
        self.shared.faults.refuse(what, || refuse(&["path", "too_many_write_operations"]));
    }
    /// What continues a list gives the same page from now on, and says that there are more.
    pub fn go_round(&self) {
        self.shared.state().goes_round = true;
    }
    /// Files may hold so many bytes together.
    pub fn limit_space(&self, bytes: u64) {
        self.shared.state().quota = Some(bytes);
    }
    /// The paths of all files, in the case in which they were made.
    pub fn paths(&self) -> Vec<String> {
        self.shared.state().tree.paths()
    }
    /// Makes all files whose path holds `part` so many seconds older.
    pub fn age(&self, part: &str, seconds: i64) {
        self.shared.state().tree.age(part, seconds);
    }
    /// Deletes a file, or a folder with all that is in it, as somebody else would.
    pub fn delete(&self, path: &str) {
        self.shared.state().tree.remove(path);
    }
    /// Puts a file there as somebody else would.
    pub fn put(&self, path: &str, body: &[u8]) {
        let mut state = self.shared.state();
        let made = state.tree.write(path, body.to_vec());
        assert!(made.is_ok(), "{path} can be made");
    }
}

/// What Dropbox answers that refuses: tags from the outermost to the innermost.
fn refuse(tags: &[&str]) -> Reply {
    refuse_with(tags, &[])
}

fn refuse_with(tags: &[&str], more: &[(&str, Json)]) -> Reply {
    let mut error = Json::Null;
    for (depth, tag) in tags.iter().enumerate().rev() {
        let mut one = json!({ ".tag": tag });
        if depth + 1 == tags.len() {
            more.iter().for_each(|(name, value)| one[*name] = value.clone());
        } else {
            one[*tag] = error;
        }
        error = one;
    }
    let summary = format!("{}/...", tags.join("/"));
    Reply::json(409, &json!({ "error_summary": summary, "error": error }))
}

fn malformed(function: &str, what: &str) -> Reply {
    Reply::new(400, "text/plain", format!("Error in call to API function \"{function}\": {what}"))
}

/// A call with its argument, which has no other fields than those of its function.
struct Call<'a> {
    function: &'a str,
    argument: Json,
    body: &'a [u8],
    request: &'a Request,
}

/// Functions with the fields that they know. The first part sends or gets what files hold.
const CONTENT: &[(&str, &[&str])] = &[
    (
        "files/upload",
        &[
            "path",
            "mode",
            "autorename",
            "client_modified",
            "mute",
            "property_groups",
            "strict_conflict",
            "content_hash",
        ],
    ),
    ("files/download", &["path", "rev"]),
    ("files/upload_session/start", &["close", "session_type", "content_hash"]),
    ("files/upload_session/append_v2", &["cursor", "close", "content_hash"]),
    ("files/upload_session/finish", &["cursor", "commit", "content_hash"]),
];
const CALLS: &[(&str, &[&str])] = &[
    ("files/get_metadata", &["path", "include_media_info", "include_deleted"]),
    ("files/list_folder", &["path", "recursive", "include_deleted", "limit"]),
    ("files/list_folder/continue", &["cursor"]),
    ("files/delete_v2", &["path", "parent_rev"]),
    ("users/get_space_usage", &[]),
];

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.path == "/oauth2/token" {
            return self.tokens.exchange(request);
        }
        let Some(function) = request.path.strip_prefix("/2/") else {
            return Reply::new(404, "text/html", "<html>Not Found</html>");
        };
        if request.method != "POST" {
            return malformed(function, "your request must be a POST");
        }
        // As Dropbox does, it repeats what it cannot read.
        if let Some(sent) = Tokens::unreadable(request) {
            let told = format!(
                "Invalid authorization value in HTTP header \"Authorization\": \"{sent}\". \
                 Expecting \"Bearer <access token>\"."
            );
            return malformed(function, &told);
        }
        let unauthorised = |tag: &str| {
            Reply::json(401, &json!({ "error_summary": format!("{tag}/.."), "error": { ".tag": tag } }))
        };
        match self.tokens.judge(request) {
            Token::Good => {}
            Token::Expired => return unauthorised("expired_access_token"),
            Token::Wrong => return unauthorised("invalid_access_token"),
        }
        match self.read(function, request) {
            Ok(call) => self.call(&call).unwrap_or_else(|refused| refused),
            Err(refused) => refused,
        }
    }

    /// Reads the argument, from where the kind of function has it.
    fn read<'a>(&self, function: &'a str, request: &'a Request) -> Result<Call<'a>, Reply> {
        let find = |all: &'static [(&str, &[&str])]| all.iter().find(|(name, _)| *name == function);
        let content_type = request.header("content-type");
        let bad_type = || malformed(function, &format!("Bad HTTP \"Content-Type\" header: {content_type:?}"));
        let (fields, text) = if let Some((_, fields)) = find(CONTENT) {
            let is_download = function == "files/download";
            if !is_download && content_type != Some("application/octet-stream") {
                return Err(bad_type());
            }
            if is_download && (!request.body.is_empty() || content_type.is_some()) {
                return Err(malformed(function, "request body: must be empty, and without a type"));
            }
            if request.body.len() > LARGEST {
                return Err(Reply::new(413, "text/plain", "payload too large"));
            }
            let header = request.header("dropbox-api-arg");
            let header =
                header.ok_or_else(|| malformed(function, "Must provide HTTP header \"Dropbox-API-Arg\""))?;
            if !header.is_ascii() {
                return Err(malformed(function, "HTTP header \"Dropbox-API-Arg\": not ASCII"));
            }
            (*fields, header.as_bytes())
        } else if let Some((_, fields)) = find(CALLS) {
            if content_type != Some("application/json") {
                return Err(bad_type());
            }
            (*fields, request.body.as_slice())
        } else {
            return Err(malformed(function, "Unknown API function"));
        };
        let argument: Json = serde_json::from_slice(text)
            .map_err(|_| malformed(function, "request body: could not decode input as JSON"))?;
        if fields.is_empty() != argument.is_null() {
            return Err(malformed(function, "request body: expected object or null"));
        }
        let named = argument.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
        if let Some(unknown) = named.unwrap_or_default().iter().find(|name| !fields.contains(&name.as_str()))
        {
            return Err(malformed(function, &format!("request body: unknown field '{unknown}'")));
        }
        Ok(Call { function, argument, body: &request.body, request })
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        match call.function {
            "files/upload" => self.upload(call),
            "files/download" => self.download(call),
            "files/upload_session/start" => self.start(call),
            "files/upload_session/append_v2" => self.append(call),
            "files/upload_session/finish" => self.finish(call),
            "files/get_metadata" => {
                let path = call.path(&call.argument, false)?;
                self.tree
                    .metadata(&path)
                    .map(|said| Reply::json(200, &said))
                    .ok_or_else(|| refuse(&["path", "not_found"]))
            }
            "files/list_folder" => self.list(call),
            "files/list_folder/continue" => {
                let cursor = call.argument.get("cursor").and_then(Json::as_str).unwrap_or_default();
                let known = self.cursors.get(cursor).cloned();
                let (folder, rest) = known.ok_or_else(|| refuse(&["reset"]))?;
                self.tree.below(&folder, false).map_err(|tag| refuse(&["path", tag]))?;
                let page = self.page(folder, rest, PAGE);
                if !self.goes_round {
                    return Ok(page);
                }
                let mut said: Json = serde_json::from_slice(&page.body).unwrap_or_default();
                (said["cursor"], said["has_more"]) = (json!(cursor), json!(true));
                Ok(Reply::json(200, &said))
            }
            "files/delete_v2" => self.delete(call),
            _ => {
                let allocated = self.quota.unwrap_or(2 << 40);
                let allocation = json!({ ".tag": "individual", "allocated": allocated });
                Ok(Reply::json(200, &json!({ "used": self.tree.used(), "allocation": allocation })))
            }
        }
    }

    fn draw(&mut self, what: &str) -> String {
        self.last += 1;
        format!("{what}{:032x}", self.last)
    }

    fn list(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        let path = call.path(&call.argument, true)?;
        let is_recursive = call.argument.get("recursive").and_then(Json::as_bool).unwrap_or(false);
        let limit = double::number(&call.argument, "limit");
        if limit.is_some_and(|limit| !(1..=2000).contains(&limit)) {
            return Err(malformed(call.function, "request body: limit: not within range"));
        }
        let below = self.tree.below(&path, is_recursive).map_err(|tag| refuse(&["path", tag]))?;
        Ok(self.page(path, below, limit.map_or(PAGE, |limit| PAGE.min(limit as usize))))
    }

    /// The first entries of `rest` below a folder, and a cursor for the others. What was deleted meanwhile is told as such.
    fn page(&mut self, folder: String, mut rest: Vec<String>, limit: usize) -> Reply {
        let later = rest.split_off(limit.min(rest.len()));
        let entries: Vec<Json> = rest
            .iter()
            .map(|path| {
                let gone = || {
                    let name = path.rsplit('/').next();
                    json!({ ".tag": "deleted", "name": name, "path_lower": path, "path_display": path })
                };
                self.tree.metadata(path).unwrap_or_else(gone)
            })
            .collect();
        let (cursor, has_more) = (self.draw("cursor-"), !later.is_empty());
        self.cursors.insert(cursor.clone(), (folder, later));
        Reply::json(200, &json!({ "entries": entries, "cursor": cursor, "has_more": has_more }))
    }

    fn delete(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        let path = call.path(&call.argument, false)?;
        let said = self.tree.metadata(&path).ok_or_else(|| refuse(&["path_lookup", "not_found"]))?;
        if let Some(revision) = call.argument.get("parent_rev").and_then(Json::as_str)
            && said.get("rev").and_then(Json::as_str) != Some(revision)
        {
            let what = if said[".tag"] == "folder" { "folder" } else { "file" };
            return Err(refuse(&["path_write", "conflict", what]));
        }
        self.tree.remove(&path);
        Ok(Reply::json(200, &json!({ "metadata": said })))
    }
}

impl Call<'_> {
    /// The path of an argument: "" for the top where that is allowed.
    fn path(&self, argument: &Json, may_be_top: bool) -> Result<String, Reply> {
        let path = argument.get("path").and_then(Json::as_str);
        let path =
            path.ok_or_else(|| malformed(self.function, "request body: missing required field 'path'"))?;
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let is_good = path.starts_with('/') && parts.iter().all(|part| !part.is_empty());
        if !(is_good || (path.is_empty() && may_be_top)) {
            return Err(malformed(self.function, "request body: path: did not match pattern"));
        }
        if parts.iter().any(|part| part.len() > 255 || *part == "." || *part == "..") {
            return Err(refuse(&["path", "malformed_path"]));
        }
        Ok(path.to_owned())
    }
}
