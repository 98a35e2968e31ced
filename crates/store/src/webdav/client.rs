//! Requests to a WebDAV server, and what their answers mean.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Body, Method, Response, StatusCode};

use super::multistatus::{self, Resource};
use crate::object::failure::Told;
use crate::object::transport::{chain, retry_after};
use crate::settings::{Credentials, StoreSettings};
use crate::{StoreError, StoreErrorKind};

/// Longest answer to PROPFIND that is read: some hundred thousand objects in one directory.
const LONGEST: usize = 256 << 20;

const PROPERTIES: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
    <getcontentlength/><getlastmodified/></prop></propfind>";

/// One request that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: StoreErrorKind,
    text: String,
    retry_after: Option<Duration>,
}

impl Failed {
    pub(super) fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), retry_after: None }
    }
    /// What a status means that is not what was wanted.
    pub(super) fn answered(response: &Response) -> Self {
        let status = response.status();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let text = format!("the server answered {status}");
        Self { kind: Self::kind_of(status.as_u16()), text, retry_after: wait.and_then(retry_after) }
    }
    /// What a status means that an answer tells of one resource.
    fn told(status: u16) -> Self {
        Self::new(Self::kind_of(status), format!("the server answered {status} for a part of what was asked"))
    }
    fn kind_of(status: u16) -> StoreErrorKind {
        match status {
            401 | 403 | 407 => StoreErrorKind::Denied,
            404 | 410 => StoreErrorKind::NotFound,
            412 => StoreErrorKind::AlreadyExists,
            413 | 507 => StoreErrorKind::NoSpace,
            416 => StoreErrorKind::Truncated,
            // Locked by somebody: later it is not.
            408 | 423 | 425 | 429 | 500 | 502..=504 => StoreErrorKind::Unreachable,
            _ => StoreErrorKind::Other,
        }
    }
    pub(super) fn into_error(self, action: &'static str, object: &str, store: &str) -> StoreError {
        StoreError::new(self.kind, action, object, store, Told::error(self.text, self.retry_after))
    }
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        // The URL says nothing new, and whatever may be in it stays out of messages.
        Self::new(StoreErrorKind::Unreachable, chain(&error.without_url()))
    }
}

/// A server with who we are there.
pub(super) struct Client {
    http: reqwest::Client,
    /// `http://host:port`.
    origin: String,
    credentials: Credentials,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Client {
    pub(super) fn new(origin: String, settings: &StoreSettings) -> Result<Self, String> {
        let http = crate::object::transport::plain_client(settings.ca_file.as_deref())?;
        Ok(Self { http, origin, credentials: settings.credentials.clone(), authorization: Mutex::default() })
    }

    /// Basic authentication: fetched when it is first needed.
    async fn authorization(&self) -> Result<Option<HeaderValue>, Failed> {
        let Credentials::Keys(fetch) = &self.credentials else { return Ok(None) };
        if let Some(known) = self.known().clone() {
            return Ok(Some(known));
        }
        let fetch = std::sync::Arc::clone(fetch);
        let denied = |text: String| Failed::new(StoreErrorKind::Denied, text);
        let keys =
            tokio::task::spawn_blocking(move || fetch()).await.map_err(|error| denied(error.to_string()))?;
        let keys = keys.map_err(|error| {
            Failed::new(StoreErrorKind::NoKeys, format!("credentials cannot be had: {}", chain(&error)))
        })?;
        let (user, password) =
            (keys.get("user").unwrap_or_default(), keys.get("password").unwrap_or_default());
        let text = zeroize::Zeroizing::new(format!("{user}:{password}"));
        let basic = format!("Basic {}", data_encoding::BASE64.encode(text.as_bytes()));
        let mut value =
            HeaderValue::from_str(&basic).map_err(|_| denied("the password is no text".into()))?;
        value.set_sensitive(true);
        *self.known() = Some(value.clone());
        Ok(Some(value))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of an encoded path.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// Sends one request. A password that is refused is fetched again for the next one.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Body>,
    ) -> Result<Response, Failed> {
        let unknown = |_| Failed::new(StoreErrorKind::Other, "no such method");
        let method = Method::from_bytes(method.as_bytes()).map_err(unknown)?;
        let mut request = self.http.request(method, self.address(path)).body(body);
        if let Some(authorization) = self.authorization().await? {
            request = request.header(AUTHORIZATION, authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            *self.known() = None;
        }
        Ok(response)
    }

    /// Sends a request without a body that is to be done.
    pub(super) async fn must(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<StatusCode, Failed> {
        let response = self.send(method, path, headers, Bytes::new()).await?;
        if is_done(response.status()) { Ok(response.status()) } else { Err(Failed::answered(&response)) }
    }

    /// What is at a path, with what is right below it where `depth` is "1"; nothing where nothing is.
    pub(super) async fn find(&self, path: &str, depth: &str) -> Result<Vec<Resource>, Failed> {
        let headers = [("Depth", depth), ("Content-Type", "application/xml; charset=utf-8")];
        let mut response = self.send("PROPFIND", path, &headers, PROPERTIES).await?;
        if leads_into(&response, path) {
            // Some servers answer for a directory only where its name ends in a slash.
            response = self.send("PROPFIND", &format!("{path}/"), &headers, PROPERTIES).await?;
        }
        match response.status().as_u16() {
            207 => {}
            404 | 410 => return Ok(Vec::new()),
            _ => return Err(Failed::answered(&response)),
        }
        let document = limited(response, LONGEST).await?;
        let foreign = || Failed::new(StoreErrorKind::Other, "the server's answer is not WebDAV");
        let all = multistatus::parse(&document).ok_or_else(foreign)?;
        if all.is_empty() {
            // Not even what was asked for: that is no way to say that it is absent.
            return Err(Failed::new(StoreErrorKind::Other, "the server's answer tells of no resource"));
        }
        let mut found = Vec::with_capacity(all.len());
        for resource in all {
            match resource.status {
                None | Some(200..=299) => found.push(resource),
                Some(404 | 410) => {}
                Some(status) => return Err(Failed::told(status)),
            }
        }
        Ok(found)
    }
}

/// Whether something was done: "accepted" is not done yet, and a multistatus tells what was not.
pub(super) fn is_done(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 201 | 204)
}

/// Whether an answer sends to the same path with a slash at its end.
fn leads_into(response: &Response, path: &str) -> bool {
    let place = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    matches!(response.status().as_u16(), 301 | 302 | 307 | 308)
        && !path.ends_with('/')
        && place.is_some_and(|place| place.ends_with(&format!("{path}/")))
}

/// The body of an answer, up to a limit.
pub(super) async fn limited(mut response: Response, limit: usize) -> Result<Vec<u8>, Failed> {
    let mut all = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if all.len() + piece.len() > limit {
            return Err(Failed::new(StoreErrorKind::Other, "the server sends more than was asked for"));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
