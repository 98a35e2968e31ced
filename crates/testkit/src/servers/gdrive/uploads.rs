//! How content comes: with its description in one request, or in parts to a place of its own.

use serde_json::{Value as Json, json};

use super::super::double::{Reply, Request};
use super::{State, refuse};

/// Parts but the last are of so many bytes, or of a multiple.
const STEP: usize = 256 << 10;

/// An upload whose file is not there yet.
pub(super) struct Upload {
    what: Json,
    id: String,
    bytes: Vec<u8>,
    /// It is done.
    is_done: bool,
}

fn bad(message: &str) -> Reply {
    refuse(400, "badRequest", message)
}

/// What a file is to be.
pub(super) fn metadata(body: &[u8], content_type: Option<&str>) -> Result<Json, Reply> {
    if !content_type.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(bad("Bad content type. Please use application/json."));
    }
    let what: Json = serde_json::from_slice(body).map_err(|_| refuse(400, "parseError", "Parse Error"))?;
    if what.is_object() { Ok(what) } else { Err(refuse(400, "parseError", "Parse Error")) }
}

/// The two parts of a multipart body: the description and the content.
fn parts<'a>(content_type: &str, body: &'a [u8]) -> Option<(Json, &'a [u8])> {
    let boundary = content_type.strip_prefix("multipart/related; boundary=")?;
    let open = format!("--{boundary}\r\n");
    let between = format!("\r\n--{boundary}\r\n");
    let close = format!("\r\n--{boundary}--");
    let body = body.strip_prefix(open.as_bytes())?.strip_suffix(close.as_bytes())?;
    let at = body.windows(between.len()).position(|part| part == between.as_bytes())?;
    let split = |part: &'a [u8]| {
        let end = part.windows(4).position(|four| four == b"\r\n\r\n")?;
        Some((std::str::from_utf8(part.get(..end)?).ok()?, part.get(end + 4..)?))
    };
    let (first, what) = split(body.get(..at)?)?;
    let (second, content) = split(body.get(at + between.len()..)?)?;
    let is_good = first.contains("application/json") && second.starts_with("Content-Type: ");
    is_good.then_some((serde_json::from_slice(what).ok()?, content))
}

impl State {
    pub(super) fn upload(&mut self, request: &Request) -> Result<Reply, Reply> {
        let content_type = request.header("content-type").unwrap_or_default();
        match request.query("uploadType") {
            Some("multipart") => {
                let read = parts(content_type, &request.body);
                let (what, content) = read.ok_or_else(|| bad("Malformed multipart body."))?;
                if content.len() > 5 << 20 {
                    return Err(refuse(413, "uploadTooLarge", "Use a resumable upload."));
                }
                let content = content.to_vec();
                self.create(&what, content, request)
            }
            Some("resumable") => {
                let what = metadata(&request.body, Some(content_type))?;
                self.is_possible(&what, 0)?;
                let id = self.id_for(&what)?;
                let place = self.draw("upload-");
                self.uploads.insert(place.clone(), Upload { what, id, bytes: Vec::new(), is_done: false });
                let host = request.header("host").unwrap_or("127.0.0.1");
                let fields = request.query("fields").unwrap_or("kind,id,name,mimeType");
                let location = format!(
                    "http://{host}/upload/drive/v3/files?uploadType=resumable&upload_id={place}&fields={fields}"
                );
                Ok(Reply::json(200, &Json::Null).with("Location", location))
            }
            _ => Err(bad("uploadType")),
        }
    }

    /// A part of an upload, or the question how far it is.
    pub(super) fn go_on(&mut self, request: &Request) -> Result<Reply, Reply> {
        let place = request.query("upload_id").unwrap_or_default().to_owned();
        let mut upload = self.uploads.remove(&place).ok_or_else(|| refuse(404, "notFound", "Not Found"))?;
        let answered = self.part(&mut upload, request);
        self.uploads.insert(place, upload);
        answered
    }

    fn part(&mut self, upload: &mut Upload, request: &Request) -> Result<Reply, Reply> {
        let fields = request.query("fields").unwrap_or("kind,id,name,mimeType");
        if upload.is_done {
            let said = self.files.describe(&upload.id, fields);
            return Ok(Reply::json(200, &said.unwrap_or_default()));
        }
        let range = request.header("content-range").and_then(|range| range.strip_prefix("bytes "));
        let (span, all) =
            range.and_then(|range| range.split_once('/')).ok_or_else(|| bad("Content-Range"))?;
        let all: Option<usize> = match all {
            "*" => None,
            all => Some(all.parse().map_err(|_| bad("Content-Range"))?),
        };
        if span != "*" {
            let ends = span.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let (start, last): (usize, usize) = ends.ok_or_else(|| bad("Content-Range"))?;
            if last + 1 - start.min(last + 1) != request.body.len() {
                return Err(bad("The length of the body is not that of Content-Range."));
            }
            let is_last = all == Some(last + 1);
            if !is_last && !request.body.len().is_multiple_of(STEP) {
                return Err(bad("Parts are of a multiple of 256 KiB."));
            }
            // What does not begin where the upload is, is not taken.
            if start == upload.bytes.len() {
                upload.bytes.extend_from_slice(&request.body);
            }
        }
        if all == Some(upload.bytes.len()) {
            let what = std::mem::take(&mut upload.what);
            let mut what = what.as_object().cloned().unwrap_or_default();
            // An id that Drive has drawn itself.
            if !what.contains_key("id") {
                self.ids.insert(upload.id.clone());
                what.insert("id".to_owned(), json!(upload.id));
            }
            let done = self.create(&Json::Object(what), std::mem::take(&mut upload.bytes), request);
            upload.is_done = done.is_ok();
            return done;
        }
        let reply = Reply::new(308, "text/plain", "");
        Ok(match upload.bytes.len() {
            0 => reply,
            length => reply.with("Range", format!("bytes=0-{}", length - 1)),
        })
    }
}
