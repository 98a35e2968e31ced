//! Dropbox's HTTP API: its three kinds of requests, and what its errors mean.

use bytes::Bytes;
use refloat_types::Timestamp;
use reqwest::{Method, Response};
use serde_json::{Value as Json, json};

use crate::StoreErrorKind;
use crate::rest::{Answered, Ask, Failed, Rest, is_about_authorization};

/// The account's API and its files, which Dropbox keeps at two addresses.
pub(super) struct Api {
    pub(super) rest: Rest,
    /// Of calls that are JSON on both ways.
    pub(super) calls: String,
    /// Of calls that send or get what files hold.
    pub(super) content: String,
}

/// A file, as Dropbox describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its path in the case in which it was made.
    pub(super) path: String,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) created: Timestamp,
    pub(super) revision: String,
    pub(super) hash: String,
}

impl File {
    /// Reads a file's metadata.
    pub(super) fn read(said: &Json) -> Result<Self, Failed> {
        let text = |name: &str| said.get(name).and_then(Json::as_str);
        let need = |name: &'static str| text(name).map(str::to_owned).ok_or_else(|| Failed::strange(name));
        let created = need("server_modified")?;
        Ok(Self {
            path: need("path_display")?,
            name: need("name")?,
            size: said.get("size").and_then(Json::as_u64).ok_or_else(|| Failed::strange("size"))?,
            created: created.parse().map_err(|_| Failed::strange("server_modified"))?,
            revision: need("rev")?,
            // Files of other apps need not have one.
            hash: text("content_hash").unwrap_or_default().to_owned(),
        })
    }
}

/// What stands in `.tag`.
pub(super) fn tag(said: &Json) -> &str {
    said.get(".tag").and_then(Json::as_str).unwrap_or_default()
}

/// JSON as it may stand in a header: plain ASCII.
fn in_header(argument: &Json) -> String {
    let mut out = String::new();
    for c in argument.to_string().chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

impl Api {
    /// A call that is JSON on both ways.
    pub(super) async fn call(&self, function: &str, argument: &Json) -> Result<Json, Failed> {
        let ask = Ask::new(Method::POST, format!("{}/2/{function}", self.calls)).json(argument);
        self.json(&ask).await
    }

    /// A call that sends what a file holds.
    pub(super) async fn send(&self, function: &str, argument: &Json, body: Bytes) -> Result<Json, Failed> {
        let ask = Ask::new(Method::POST, format!("{}/2/{function}", self.content))
            .header("Dropbox-API-Arg", in_header(argument))
            .header("Content-Type", "application/octet-stream")
            .body(body);
        self.json(&ask).await
    }

    /// A part of what the file at `path` holds.
    pub(super) async fn download(&self, path: &str, start: u64, end: u64) -> Result<Response, Failed> {
        let ask = Ask::new(Method::POST, format!("{}/2/files/download", self.content))
            .header("Dropbox-API-Arg", in_header(&json!({ "path": path })))
            .header("Range", format!("bytes={start}-{}", end.saturating_sub(1)));
        let response = self.rest.send(&ask).await?;
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            _ => Err(judge(&Answered::read(response).await?)),
        }
    }

    async fn json(&self, ask: &Ask) -> Result<Json, Failed> {
        let answered = Answered::read(self.rest.send(ask).await?).await?;
        match answered.status {
            // Some calls answer "null".
            200 => serde_json::from_slice(&answered.body).map_err(|_| Failed::strange("JSON")),
            _ => Err(judge(&answered)),
        }
    }

    /// The file at a path; `None` for a folder, and where nothing is.
    pub(super) async fn file(&self, path: &str) -> Result<Option<File>, Failed> {
        match self.call("files/get_metadata", &json!({ "path": path })).await {
            Ok(said) if tag(&said) == "file" => File::read(&said).map(Some),
            Ok(_) => Ok(None),
            Err(failed) if failed.is(StoreErrorKind::NotFound) => Ok(None),
            Err(failed) => Err(failed),
        }
    }
}

/// What an answer means that is no success.
pub(super) fn judge(answered: &Answered) -> Failed {
    use StoreErrorKind as K;
    let said = answered.json();
    let summary = said.get("error_summary").and_then(Json::as_str).unwrap_or_default();
    // It ends in dots, of which there may be any number.
    let summary = summary.trim_end_matches(['.', '/']);
    let has = |words: &[&str]| summary.split('/').any(|part| words.contains(&part));
    // A token that is none is a mistake in the request, there; the text repeats it.
    let plain = if summary.is_empty() { answered.text() } else { String::new() };
    if answered.status == 400 && (is_about_authorization(&plain) || plain.contains("access token")) {
        return Failed::new(K::Denied, "the service answered 400: it takes the access token for none");
    }
    let kind = match answered.status {
        401 | 403 => K::Denied,
        // Answers of the function that was called.
        409 if has(&["too_many_write_operations", "too_many_requests", "internal_error", "reset"]) => {
            K::Unreachable
        }
        409 if has(&["insufficient_space"]) => K::NoSpace,
        409 if has(&[
            "no_write_permission",
            "access_error",
            "operation_suppressed",
            "restricted_content",
        ]) =>
        {
            K::Denied
        }
        409 if has(&["file_ancestor"]) => K::Other,
        409 if has(&["conflict"]) => K::AlreadyExists,
        // "lookup_failed" is about an unfinished upload.
        409 if has(&["not_found", "not_file", "not_folder"]) && !has(&["lookup_failed"]) => K::NotFound,
        409 => K::Other,
        416 => K::Truncated,
        408 | 425 | 429 | 500..=599 => K::Unreachable,
        _ => K::Other,
    };
    // Which right the app lacks.
    let scope = said.pointer("/error/required_scope").and_then(Json::as_str).unwrap_or_default();
    let text = if summary.is_empty() { plain } else { scope.to_owned() };
    let number = |at: &str| said.pointer(at).and_then(Json::as_u64);
    let correct_offset =
        number("/error/correct_offset").or_else(|| number("/error/lookup_failed/correct_offset"));
    let mut failed = Failed::answered(kind, answered, summary, &text);
    failed.correct_offset = correct_offset;
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind as K;

    fn judged(status: u16, summary: &str) -> (K, String) {
        let body = json!({ "error_summary": summary, "error": {} }).to_string().into_bytes();
        let failed = judge(&Answered { status, body, ..Answered::default() });
        let error = failed.into_error("read", "k", "dropbox://x");
        (error.kind, error.source.to_string())
    }

    #[test]
    fn answers_are_sorted() {
        for (status, summary, kind) in [
            (409, "path/not_found/...", K::NotFound),
            (409, "path_lookup/not_found/.", K::NotFound),
            (409, "path/not_folder/", K::NotFound),
            (409, "path/conflict/file/...", K::AlreadyExists),
            (409, "path/conflict/file_ancestor/.", K::Other),
            (409, "path/insufficient_space/.", K::NoSpace),
            (409, "path/no_write_permission/", K::Denied),
            (409, "too_many_write_operations/..", K::Unreachable),
            (409, "lookup_failed/not_found/", K::Other),
            (409, "reset/", K::Unreachable),
            (401, "expired_access_token/.", K::Denied),
            (401, "missing_scope/.", K::Denied),
            (429, "too_many_requests/", K::Unreachable),
            (503, "", K::Unreachable),
        ] {
            assert_eq!(judged(status, summary).0, kind, "{status} {summary}");
        }
        assert_eq!(judged(401, "missing_scope/..").1, "the service answered 401: missing_scope");
        let body = b"{\"error_summary\":\"missing_scope/..\",\"error\":{\"required_scope\":\"files.content.write\"}}";
        let lacking = Answered { status: 401, body: body.to_vec(), ..Answered::default() };
        let said = judge(&lacking).into_error("read", "k", "x").source.to_string();
        assert_eq!(said, "the service answered 401: missing_scope: files.content.write");
        let body = b"<html>hunter2</html>".to_vec();
        let page = Answered { status: 502, body, ..Answered::default() };
        let said = judge(&page).into_error("read", "k", "x").source.to_string();
        assert_eq!(said, "the service answered 502");
        let body = b"Error in call to\n API".to_vec();
        let plain = Answered { status: 400, body, ..Answered::default() };
        let said = judge(&plain).into_error("read", "k", "x").source.to_string();
        assert_eq!(said, "the service answered 400: Error in call to API");
        for body in [
            "Error in call to API function \"files/upload\": Invalid authorization value in HTTP header \
             \"Authorization\": \"Bearer hunter2\". Expecting \"Bearer <access token>\".",
            "Error in call to API function \"files/upload\": The given OAuth 2 access token is malformed.",
        ] {
            let body = body.as_bytes().to_vec();
            let error = judge(&Answered { status: 400, body, ..Answered::default() });
            let error = error.into_error("read", "k", "x");
            assert_eq!(error.kind, K::Denied);
            assert_eq!(
                error.source.to_string(),
                "the service answered 400: it takes the access token for none"
            );
        }
    }

    #[test]
    fn an_argument_in_a_header_is_ascii() {
        let text = in_header(&json!({ "path": "/é/𝄞\u{7f}" }));
        assert_eq!(text, "{\"path\":\"/\\u00e9/\\ud834\\udd1e\\u007f\"}");
        assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), json!({ "path": "/é/𝄞\u{7f}" }));
    }
}
