//! Requests of S3 that opendal does not make, signed as it signs its own.
//!
//! They are few and small: what a bucket is set to, versions of objects, locks. Each is one call with its deadline; what it
//! answers is taken whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode, Uri};
use opendal::{Buffer, HttpTransporter};
use refloat_types::Location;
use reqsign_core::{Context, HttpSend, Signer};

use super::failure::{self, Told};
use super::kept::Kept;
use super::transport::{self, Answer};
use super::{runtime, services};
use crate::open::OpenError;
use crate::settings::{StoreSettings, Style};
use crate::{Key, StoreError, StoreErrorKind};

/// Longest answer that is read: a page of a list of versions is below a megabyte.
const LONGEST: usize = 16 << 20;

/// Makes requests of one bucket.
pub(super) struct Signed {
    transport: HttpTransporter,
    signer: Signer<reqsign_aws_v4::Credential>,
    kept: Kept,
    /// `https://host` or `https://host/bucket`, without a slash behind it.
    base: String,
    /// What stands before every key: "" or text that ends in `/`.
    prefix: String,
    limit: Duration,
    /// Bytes a second that count as slow.
    least_rate: u64,
    url: String,
}

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) action: &'static str,
    pub(super) method: Method,
    /// An object; the bucket itself without.
    pub(super) key: Option<&'a Key>,
    /// Names and values, plain.
    pub(super) query: Vec<(&'a str, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl<'a> Asked<'a> {
    /// A question about the bucket, or about an object of it.
    pub(super) fn get(action: &'static str, key: Option<&'a Key>, query: Vec<(&'a str, String)>) -> Self {
        Self { action, method: Method::GET, key, query, headers: Vec::new(), body: Vec::new() }
    }
}

/// An answer as it came.
type Answered = (StatusCode, HeaderMap, String);

/// What a bucket answers.
pub(super) enum Told200 {
    /// It did what was asked: the body, and what stands before it.
    Done(String, HeaderMap),
    /// There is no such thing, and this is the store's code for it.
    Absent,
    /// This store has no such request.
    NotBuilt,
}

/// Sends what fetching credentials needs over the client that is there.
#[derive(Debug)]
struct Client(HttpTransporter);

impl HttpSend for Client {
    async fn http_send(
        &self,
        request: Request<bytes::Bytes>,
    ) -> reqsign_core::Result<http::Response<bytes::Bytes>> {
        let sent = self.0.send(request.map(Buffer::from)).await;
        let answer = sent.map_err(|error| reqsign_core::Error::unexpected(transport::chain(&error)))?;
        Ok(answer.map(|body| body.to_bytes()))
    }
}

impl Signed {
    /// Makes ready; nothing is sent.
    pub(super) fn new(location: &Location, settings: &StoreSettings, kept: Kept) -> Result<Self, OpenError> {
        let region = services::region(location, settings)?;
        let transport =
            transport::client(settings.ca_file.as_deref()).map_err(|why| OpenError::Settings {
                location: location.to_string(),
                why,
                hint: "Correct ca_file of this repository.".to_owned(),
            })?;
        let context = Context::new().with_http_send(Client(transport.clone()));
        let signer = Signer::new(context, kept.clone(), reqsign_aws_v4::RequestSigner::new("s3", &region));
        let path = location.path().to_string_lossy();
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let url = location.to_string();
        let base = base(location.host(), settings, &region);
        let (limit, least_rate) = (settings.patience.call, settings.patience.least_rate);
        Ok(Self { transport, signer, kept, base, prefix, limit, least_rate, url })
    }

    /// What stands before every key.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Longest time for one call without the bytes it moves.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    fn fail(&self, asked: &Asked<'_>, kind: StoreErrorKind, text: String) -> StoreError {
        let object = asked.key.map_or("", Key::as_str);
        StoreError::new(kind, asked.action, object, &self.url, Told::error(text, None))
    }

    fn request(&self, asked: &Asked<'_>) -> Result<Request<Buffer>, StoreError> {
        let mut uri = self.base.clone();
        uri.push('/');
        if let Some(key) = asked.key {
            encode(&format!("{}{key}", self.prefix), true, &mut uri);
        }
        for (at, (name, value)) in asked.query.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            uri.push_str(name);
            if !value.is_empty() {
                uri.push('=');
                encode(value, false, &mut uri);
            }
        }
        let fail = |_| self.fail(asked, StoreErrorKind::Other, "its address is none".to_owned());
        let uri: Uri = uri.parse().map_err(fail)?;
        let mut builder = Request::builder().method(asked.method.clone()).uri(uri);
        for (name, value) in &asked.headers {
            builder = builder.header(name, value);
        }
        let bad = |_| self.fail(asked, StoreErrorKind::Other, "its request is none".to_owned());
        builder.body(Buffer::from(asked.body.clone())).map_err(bad)
    }

    /// Asks, and once more with new keys where the store says that they have expired.
    ///
    /// # Errors
    /// As the calls of a store; what is absent or not built is an answer.
    pub(super) fn ask(self: &Arc<Self>, asked: &Asked<'_>) -> Result<Told200, StoreError> {
        let (status, headers, text) = match self.answer(asked)? {
            (status, _, text) if has_expired(status, &text) => {
                self.kept.forget();
                self.answer(asked)?
            }
            answer => answer,
        };
        if status.is_success() { Ok(Told200::Done(text, headers)) } else { self.judge(asked, status, &text) }
    }

    /// Makes one request.
    fn answer(self: &Arc<Self>, asked: &Asked<'_>) -> Result<Answered, StoreError> {
        let request = self.request(asked)?;
        let bytes = asked.body.len() as u64;
        let limit = self.limit + Duration::from_secs(bytes.checked_div(self.least_rate).unwrap_or(0));
        let this = Arc::clone(self);
        let answered = runtime::run(async move { runtime::within(limit, this.send(request)).await });
        let object = asked.key.map_or("", Key::as_str);
        let io = |error: io::Error| StoreError::from_io(asked.action, object, &self.url, error);
        let Some(answer) = answered.map_err(io)? else {
            return Err(super::late(asked.action, object, &self.url, limit));
        };
        answer.map_err(|error| failure::sort(asked.action, object, &self.url, &error, &Answer::default()))
    }

    async fn send(&self, request: Request<Buffer>) -> opendal::Result<Answered> {
        let (mut parts, body) = request.into_parts();
        self.signer.sign(&mut parts, None).await.map_err(|error| {
            let text = transport::chain(&error);
            opendal::Error::new(opendal::ErrorKind::PermissionDenied, "the request cannot be signed")
                .set_source(io::Error::other(text))
        })?;
        let answer = self.transport.send(Request::from_parts(parts, body)).await?;
        let (head, body) = answer.into_parts();
        let bytes = body.to_bytes();
        let text = String::from_utf8_lossy(bytes.get(..LONGEST.min(bytes.len())).unwrap_or_default());
        Ok((head.status, head.headers, text.into_owned()))
    }

    fn judge(&self, asked: &Asked<'_>, status: StatusCode, text: &str) -> Result<Told200, StoreError> {
        let asks = matches!(asked.method, Method::GET | Method::HEAD);
        let code = element(text, "Code").unwrap_or_default();
        match (status.as_u16(), code.as_str()) {
            (404, "NoSuchBucket") => {}
            (404, _) | (400, "InvalidRequest") if asks => return Ok(Told200::Absent),
            (404, _) => {
                return Err(self.fail(asked, StoreErrorKind::NotFound, "no such object".to_owned()));
            }
            (405 | 501, _) | (400, "NotImplemented" | "XNotImplemented") => return Ok(Told200::NotBuilt),
            _ => {}
        }
        let kind = match status.as_u16() {
            _ if failure::EXPIRED.contains(&code.as_str()) => StoreErrorKind::Denied,
            401 | 403 => StoreErrorKind::Denied,
            412 => StoreErrorKind::AlreadyExists,
            408 | 409 | 429 | 500..=599 => StoreErrorKind::Unreachable,
            _ => StoreErrorKind::Other,
        };
        let said = element(text, "Message").unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        Err(self.fail(asked, kind, format!("the store answered {}: {code}: {said}", status.as_u16())))
    }
}

/// Whether the store says that keys were right and are no more. An answer to a HEAD has no body that could say it.
fn has_expired(status: StatusCode, text: &str) -> bool {
    match element(text, "Code") {
        Some(code) => failure::EXPIRED.contains(&code.as_str()),
        None => matches!(status.as_u16(), 400 | 401) && text.is_empty(),
    }
}

/// Where a bucket is.
fn base(bucket: &str, settings: &StoreSettings, region: &str) -> String {
    let default = || {
        let ending = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://s3.{region}.{ending}")
    };
    let endpoint = settings.endpoint.clone().unwrap_or_else(default);
    let endpoint = endpoint.trim_end_matches('/');
    let in_host = match settings.style {
        Style::Path => false,
        Style::Virtual => true,
        Style::Auto => settings.endpoint.is_none() && !bucket.contains('.'),
    };
    match (in_host, endpoint.split_once("://")) {
        (true, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
        (true, None) => format!("https://{bucket}.{endpoint}"),
        (false, Some(_)) => format!("{endpoint}/{bucket}"),
        (false, None) => format!("https://{endpoint}/{bucket}"),
    }
}

/// Appends text percent-encoded once, as signing expects it.
fn encode(text: &str, is_path: bool, into: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if plain || (is_path && byte == b'/') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The text of the first element of this name.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = value.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    Some(plain.replace("&apos;", "'").replace("&amp;", "&"))
}

/// The texts between each pair of tags of this name, in their order. S3's answers nest no element in one of its own name.
pub(super) fn elements<'x>(xml: &'x str, name: &str) -> Vec<&'x str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some((_, behind)) = rest.split_once(&open) {
        let Some((inside, behind)) = behind.split_once(&close) else { break };
        found.push(inside);
        rest = behind;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_addressed_as_configured() {
        let mut settings = StoreSettings::default();
        assert_eq!(base("b", &settings, "eu-central-1"), "https://b.s3.eu-central-1.amazonaws.com");
        assert_eq!(base("b.c", &settings, "eu-central-1"), "https://s3.eu-central-1.amazonaws.com/b.c");
        assert_eq!(base("b", &settings, "cn-north-1"), "https://b.s3.cn-north-1.amazonaws.com.cn");
        settings.endpoint = Some("http://127.0.0.1:9000/".to_owned());
        assert_eq!(base("b", &settings, "x"), "http://127.0.0.1:9000/b");
        settings.style = Style::Virtual;
        assert_eq!(base("b", &settings, "x"), "http://b.127.0.0.1:9000");
    }

    #[test]
    fn texts_are_encoded_once() {
        let mut out = String::new();
        encode("a b/ü+c", true, &mut out);
        assert_eq!(out, "a%20b/%C3%BC%2Bc");
        out.clear();
        encode("a/b=", false, &mut out);
        assert_eq!(out, "a%2Fb%3D");
    }

    #[test]
    fn elements_are_found_in_any_bytes() {
        let xml = "<R><V><K>a&amp;b</K></V><V><K>c</K></V></R>";
        assert_eq!(elements(xml, "V"), ["<K>a&amp;b</K>", "<K>c</K>"]);
        assert_eq!(element(xml, "K").as_deref(), Some("a&b"));
        assert!(elements("<V><V>", "V").is_empty() && element("<V>", "V").is_none());
    }
}
