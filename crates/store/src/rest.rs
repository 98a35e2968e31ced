//! Calls to the HTTP API of a service: a token that is renewed while the process runs, a deadline for each call, answers in
//! JSON. What an answer means is the business of the store that asks.

mod places;
mod tokens;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use refloat_types::{Location, Scheme, Wait};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value as Json;

pub(crate) use self::places::Places;
use self::tokens::Tokens;
use crate::object::failure::{Told, shorten};
use crate::object::runtime;
use crate::object::transport::{chain, plain_client, retry_after};
use crate::open::OpenError;
use crate::settings::{Credentials, Patience, StoreSettings};
use crate::{Backoff, Key, StoreError, StoreErrorKind};

/// Longest answer that is read, beside what an object holds: a page of a list is below a megabyte.
const LONGEST: usize = 16 << 20;

/// A request that did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: StoreErrorKind,
    /// The service's own word for it; "" where it has none.
    pub(crate) tag: String,
    /// How far an upload is, where the service says so.
    pub(crate) correct_offset: Option<u64>,
    text: String,
    retry_after: Option<Duration>,
}

impl Failed {
    pub(crate) fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        Self { kind, tag: String::new(), correct_offset: None, text: text.into(), retry_after: None }
    }
    /// What a service answered, in its own words, unless they repeat who we are.
    pub(crate) fn answered(kind: StoreErrorKind, told: &Answered, tag: &str, said: &str) -> Self {
        let said =
            if tag.is_empty() || said.contains(tag) { said.to_owned() } else { format!("{tag}: {said}") };
        let said = if told.repeats_who_we_are(&said) { String::new() } else { said };
        let said = shorten(&said);
        let said = said.trim_end_matches([':', ' ']);
        let text = match said {
            "" => format!("the service answered {}", told.status),
            said => format!("the service answered {}: {said}", told.status),
        };
        Self { kind, tag: tag.to_owned(), correct_offset: None, text, retry_after: told.retry_after }
    }
    /// An answer that is not what the service's documents say.
    pub(crate) fn strange(what: &str) -> Self {
        Self::new(StoreErrorKind::Other, format!("the service's answer lacks {what}"))
    }
    pub(crate) fn absent() -> Self {
        Self::new(StoreErrorKind::NotFound, "no such object")
    }
    pub(crate) fn exists() -> Self {
        Self::new(StoreErrorKind::AlreadyExists, "an object of that name is there")
    }
    pub(crate) fn is(&self, kind: StoreErrorKind) -> bool {
        self.kind == kind
    }
    pub(crate) fn into_error(self, action: &'static str, object: &str, store: &str) -> StoreError {
        StoreError::new(self.kind, action, object, store, Told::error(self.text, self.retry_after))
    }
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        // A URL may hold the right to go on with an upload.
        Self::new(StoreErrorKind::Unreachable, chain(&error.without_url()))
    }
}

/// The token that a request was sent with, for its answer.
#[derive(Clone)]
pub(crate) struct SentAs(HeaderValue);

/// Whether a text is about the header that says who we are. Some services repeat there what it held.
pub(crate) fn is_about_authorization(text: &str) -> bool {
    text.to_ascii_lowercase().contains("authorization")
}

/// An answer, read whole.
#[derive(Default)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
    /// What stood in `Authorization`, where a token of ours did.
    pub(crate) sent: Option<SentAs>,
}

impl Answered {
    /// Reads an answer to its end.
    pub(crate) async fn read(response: Response) -> Result<Self, Failed> {
        let status = response.status().as_u16();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = wait.and_then(retry_after);
        let sent = response.extensions().get::<SentAs>().cloned();
        Ok(Self { status, retry_after, body: limited(response, LONGEST).await?, sent })
    }
    /// Whether showing `said`, which was taken from this answer, might show the token that was sent. A part of one is told
    /// from other text by nobody, so of an answer that holds it nothing is shown.
    fn repeats_who_we_are(&self, said: &str) -> bool {
        let token = self.sent.as_ref().and_then(|sent| sent.0.to_str().ok());
        let token = token.map(|text| text.strip_prefix(tokens::SCHEME).unwrap_or(text).trim());
        let is_in = |token: &&str| {
            !token.is_empty()
                && (said.contains(*token) || String::from_utf8_lossy(&self.body).contains(*token))
        };
        token.as_ref().is_some_and(is_in) || is_about_authorization(said)
    }
    /// The body as JSON; `Null` where it is none.
    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or(Json::Null)
    }
    /// The body as text, where it is no page of some proxy.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        if text.trim_start().starts_with('<') { String::new() } else { text.into_owned() }
    }
}

/// The body of an answer, up to a limit.
async fn limited(mut response: Response, limit: usize) -> Result<Vec<u8>, Failed> {
    let mut all = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if all.len() + piece.len() > limit {
            return Err(Failed::new(StoreErrorKind::Other, "the service sends more than was asked for"));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// The bytes of a part that was asked for and answered with `206`, or with `200` where it begins at the beginning.
///
/// # Errors
/// `Truncated` where fewer came.
pub(crate) async fn part(mut response: Response, start: u64, length: u64) -> Result<Vec<u8>, Failed> {
    if response.status() == StatusCode::OK && start > 0 {
        let text = "the service sends whole objects where parts are asked for";
        return Err(Failed::new(StoreErrorKind::Other, text));
    }
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    let mut all = Vec::with_capacity(wanted.min(LONGEST));
    // A longer rest is left, and the connection with it.
    while all.len() < wanted {
        let Some(piece) = response.chunk().await? else { break };
        all.extend_from_slice(piece.get(..piece.len().min(wanted - all.len())).unwrap_or_default());
    }
    if (all.len() as u64) < length {
        let text = format!("{} bytes came where {length} are needed", all.len());
        return Err(Failed::new(StoreErrorKind::Truncated, text));
    }
    Ok(all)
}

/// A request.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) address: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, address: String) -> Self {
        Self { method, address, headers: Vec::new(), body: Bytes::new() }
    }
    #[must_use]
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    #[must_use]
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
    /// With JSON as its body.
    #[must_use]
    pub(crate) fn json(self, body: &Json) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }
}

/// A service with who we are there.
pub(crate) struct Rest {
    http: reqwest::Client,
    tokens: Tokens,
    patience: Patience,
    /// How messages name the store.
    pub(crate) url: String,
}

impl Rest {
    /// Makes ready; nothing is sent. Tokens are renewed at `tokens`.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub(crate) fn new(
        location: &Location,
        settings: &StoreSettings,
        tokens: String,
    ) -> Result<Self, OpenError> {
        let fail = |why: String, hint: &str| OpenError::Settings {
            location: location.to_string(),
            why,
            hint: hint.to_owned(),
        };
        let Credentials::Keys(keys) = &settings.credentials else {
            let why = format!("{} takes nobody without credentials", location.scheme().name());
            let variables = match location.scheme() {
                Scheme::Dropbox => "DROPBOX_APP_KEY and DROPBOX_REFRESH_TOKEN",
                _ => "GDRIVE_CLIENT_ID, GDRIVE_CLIENT_SECRET and GDRIVE_REFRESH_TOKEN",
            };
            let hint = format!(
                "Write credentials = {{ client_id = \"…\", refresh_token = {{ file = … }} }} into its [repository.NAME]; with -r URL set {variables}."
            );
            return Err(fail(why, &hint));
        };
        let http = plain_client(settings.ca_file.as_deref()).map_err(|why| {
            fail(why, "Correct ca_file, or leave it out where the system knows the certificate.")
        })?;
        let tokens = Tokens::new(http.clone(), tokens, keys.clone());
        Ok(Self { http, tokens, patience: settings.patience, url: location.to_string() })
    }

    /// Sends one request. A token that is refused is renewed once, whoever else waits for that.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Response, Failed> {
        let bearer = self.tokens.bearer().await?;
        let response = self.send_as(ask, &bearer).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.tokens.renew(&bearer).await? {
            Some(renewed) => self.send_as(ask, &renewed).await,
            None => Ok(response),
        }
    }

    async fn send_as(&self, ask: &Ask, bearer: &HeaderValue) -> Result<Response, Failed> {
        let mut request = self.http.request(ask.method.clone(), &ask.address).body(ask.body.clone());
        request = request.header(AUTHORIZATION, bearer.clone());
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let mut response = request.send().await?;
        response.extensions_mut().insert(SentAs(bearer.clone()));
        Ok(response)
    }

    /// Makes one call, of any number of requests, with its deadline.
    ///
    /// # Errors
    /// What the call answers, and `Unreachable` when its time is over.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        (action, object): (&'static str, &str),
        bytes: u64,
        work: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slow = bytes.checked_div(self.patience.least_rate).unwrap_or(0);
        let limit = self.patience.call + Duration::from_secs(slow);
        let done = runtime::run(async move {
            let late = || {
                let text = format!("no answer within {}", Wait(limit));
                Failed::new(StoreErrorKind::Unreachable, text)
            };
            runtime::within(limit, work).await.unwrap_or_else(|| Err(late()))
        });
        match done {
            Ok(done) => done.map_err(|failed| failed.into_error(action, object, &self.url)),
            Err(error) => Err(StoreError::from_io(action, object, &self.url, error)),
        }
    }

    /// Makes calls for a writer until one answers: nobody above it can repeat pieces that are gone. `attempt` hears its
    /// number, from 1.
    ///
    /// # Errors
    /// The last one's.
    pub(crate) fn persist<T>(
        &self,
        attempt: impl FnMut(u32) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        Backoff { budget: self.patience.call * 3, ..Backoff::default() }.run(attempt)
    }

    /// An error of our own making.
    pub(crate) fn error(&self, kind: StoreErrorKind, key: &Key, text: &str) -> StoreError {
        Failed::new(kind, text).into_error("create", key.as_str(), &self.url)
    }
}

/// What refuses to write where a store was opened for reading only.
pub(crate) fn refuse_writing(
    options: &crate::Options,
    action: &'static str,
    key: &Key,
    store: &str,
) -> Result<(), StoreError> {
    if options.read_only {
        let source = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);
        return Err(StoreError::from_io(action, key.as_str(), store, source));
    }
    Ok(())
}

/// The parts of a folder's path, plain text.
///
/// # Errors
/// A path that is no text.
pub(crate) fn folder(location: &Location) -> Result<Vec<String>, OpenError> {
    let text = location.path().to_str().ok_or_else(|| OpenError::Settings {
        location: location.to_string(),
        why: "the path is not plain text".to_owned(),
        hint: "Use a path in UTF-8.".to_owned(),
    })?;
    Ok(text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_of_an_answer_that_repeats_the_token() {
        let shown = |body: &str, said: &str| {
            let sent = Some(SentAs(HeaderValue::from_static("Bearer hunter2/hunter3")));
            let told = Answered { status: 502, body: body.as_bytes().to_vec(), sent, ..Answered::default() };
            Failed::answered(StoreErrorKind::Unreachable, &told, "", said).text
        };
        assert_eq!(shown("no upstream", "no upstream"), "the service answered 502: no upstream");
        let nothing = "the service answered 502";
        assert_eq!(shown("no upstream for hunter2/hunter3", "no upstream for hunter2/hun"), nothing);
        // JSON may write it otherwise than it was sent.
        assert_eq!(shown("\"hunter2\\/hunter3\"", "hunter2/hunter3"), nothing);
        assert_eq!(shown("", "Authorization: Basic aHVudGVyMg=="), nothing);
        let unsent = Answered { status: 502, ..Answered::default() };
        let told = Failed::answered(StoreErrorKind::Unreachable, &unsent, "busy", "");
        assert_eq!(told.text, "the service answered 502: busy");
    }
}
