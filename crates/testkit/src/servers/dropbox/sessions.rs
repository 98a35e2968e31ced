//! What files hold: sent whole or in sessions, and got.

use serde_json::{Value as Json, json};

use super::super::double::Reply;
use super::files::content_hash;
use super::{Call, State, malformed, refuse, refuse_with};

/// An upload that has no name yet.
#[derive(Default)]
pub(super) struct Session {
    bytes: Vec<u8>,
    is_closed: bool,
}

/// What is to happen to a name.
struct Commit {
    path: String,
    overwrites: bool,
    renames: bool,
    is_strict: bool,
}

impl Commit {
    fn read(call: &Call<'_>, argument: &Json) -> Result<Self, Reply> {
        let flag = |name: &str| argument.get(name).and_then(Json::as_bool).unwrap_or(false);
        let mode = argument.get("mode").cloned().unwrap_or_else(|| json!("add"));
        let mode = mode.as_str().or_else(|| mode.get(".tag").and_then(Json::as_str));
        let overwrites = match mode {
            Some("add") => false,
            Some("overwrite") => true,
            _ => return Err(malformed(call.function, "request body: mode: unknown tag")),
        };
        let path = call.path(argument, false)?;
        Ok(Self { path, overwrites, renames: flag("autorename"), is_strict: flag("strict_conflict") })
    }
}

impl State {
    /// Gives bytes a name, by Dropbox's rules of conflicts.
    fn commit(&mut self, mut commit: Commit, bytes: Vec<u8>, outer: &[&str]) -> Result<Reply, Reply> {
        let refused = |tags: &[&str]| Err(refuse(&[outer, tags].concat()));
        if self.quota.is_some_and(|quota| self.tree.used() + bytes.len() as u64 > quota) {
            return refused(&["insufficient_space"]);
        }
        match self.tree.conflict(&commit.path) {
            None => {}
            Some("file") if commit.overwrites => {}
            // The same bytes are no conflict, unless it is to be strict.
            Some("file")
                if !commit.is_strict
                    && self.tree.file(&commit.path).is_some_and(|file| file.body == bytes) =>
            {
                let said = self.tree.metadata(&commit.path).unwrap_or_default();
                return Ok(Reply::json(200, &said));
            }
            Some("file") if commit.renames => {
                let free = (1..).map(|n| format!("{} ({n})", commit.path));
                commit.path =
                    free.into_iter().find(|path| self.tree.conflict(path).is_none()).unwrap_or_default();
            }
            Some(what) => return refused(&["conflict", what]),
        }
        match self.tree.write(&commit.path, bytes) {
            Ok(said) => Ok(Reply::json(200, &said)),
            Err(what) => refused(&["conflict", what]),
        }
    }

    /// Compares what came with the digest that was said, where one was.
    fn is_intact(call: &Call<'_>) -> Result<(), Reply> {
        let said = call.argument.get("content_hash").and_then(Json::as_str);
        if said.is_some_and(|said| said != content_hash(call.body)) {
            return Err(refuse(&["content_hash_mismatch"]));
        }
        Ok(())
    }

    pub(super) fn upload(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        let commit = Commit::read(call, &call.argument)?;
        Self::is_intact(call)?;
        self.commit(commit, call.body.to_vec(), &["path"])
    }

    pub(super) fn download(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        let path = call.path(&call.argument, false)?;
        let Some(file) = self.tree.file(&path) else {
            let what = if self.tree.metadata(&path).is_some() { "not_file" } else { "not_found" };
            return Err(refuse(&["path", what]));
        };
        let said = self.tree.metadata(&path).unwrap_or_default().to_string();
        let (body, all) = (&file.body, file.body.len());
        let reply = match call.request.header("range") {
            None => Reply::new(200, "application/octet-stream", body.clone()),
            Some(range) => match part(range, all) {
                Some((start, end)) => {
                    Reply::new(206, "application/octet-stream", body.get(start..end).unwrap_or_default())
                        .with("Content-Range", format!("bytes {start}-{}/{all}", end - 1))
                }
                None => Reply::new(416, "text/plain", "").with("Content-Range", format!("bytes */{all}")),
            },
        };
        Ok(reply.with("Dropbox-API-Result", said))
    }

    pub(super) fn start(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        Self::is_intact(call)?;
        let is_closed = call.argument.get("close").and_then(Json::as_bool).unwrap_or(false);
        let id = self.draw("session-");
        self.sessions.insert(id.clone(), Session { bytes: call.body.to_vec(), is_closed });
        Ok(Reply::json(200, &json!({ "session_id": id })))
    }

    /// The session of a call, which goes on where the session ends.
    fn session(&mut self, call: &Call<'_>, outer: &[&str]) -> Result<&mut Session, Reply> {
        let cursor = call.argument.get("cursor").cloned().unwrap_or_default();
        let id = cursor.get("session_id").and_then(Json::as_str).unwrap_or_default();
        let offset = cursor.get("offset").and_then(Json::as_u64);
        let offset =
            offset.ok_or_else(|| malformed(call.function, "request body: cursor: missing 'offset'"))?;
        let session = self.sessions.get_mut(id).ok_or_else(|| refuse(&[outer, &["not_found"]].concat()))?;
        let has = session.bytes.len() as u64;
        if has != offset {
            return Err(refuse_with(
                &[outer, &["incorrect_offset"]].concat(),
                &[("correct_offset", json!(has))],
            ));
        }
        Ok(session)
    }

    pub(super) fn append(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        Self::is_intact(call)?;
        let session = self.session(call, &[])?;
        if session.is_closed {
            return Err(refuse(&["closed"]));
        }
        session.bytes.extend_from_slice(call.body);
        session.is_closed = call.argument.get("close").and_then(Json::as_bool).unwrap_or(false);
        Ok(Reply::json(200, &Json::Null))
    }

    pub(super) fn finish(&mut self, call: &Call<'_>) -> Result<Reply, Reply> {
        let commit = Commit::read(call, call.argument.get("commit").unwrap_or(&Json::Null))?;
        Self::is_intact(call)?;
        let session = self.session(call, &["lookup_failed"])?;
        session.bytes.extend_from_slice(call.body);
        let bytes = session.bytes.clone();
        let done = self.commit(commit, bytes, &["path"])?;
        // Only a session whose file has its name is over.
        let id = call.argument.pointer("/cursor/session_id").and_then(Json::as_str);
        self.sessions.remove(id.unwrap_or_default());
        Ok(done)
    }
}

/// The part that `bytes=A-B` names of so many bytes; `None` when it names none.
pub(in super::super) fn part(range: &str, all: usize) -> Option<(usize, usize)> {
    let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: usize = start.parse().ok()?;
    let end = if last.is_empty() { all } else { last.parse::<usize>().ok()?.saturating_add(1).min(all) };
    (start < end).then_some((start, end))
}
