//! Tokens of OAuth 2: an access token as it was given, or one that a refresh token is exchanged for, again before it
//! expires and when the service says that it has.

use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{Answered, Failed};
use crate::StoreErrorKind;
use crate::object::transport::chain;
use crate::object::web_identity::form;
use crate::settings::{FetchKeys, Keys};

/// What stands before a token in `Authorization`.
pub(super) const SCHEME: &str = "Bearer ";

/// A token that holds no longer than this is not used for another call.
const BEFORE: Duration = Duration::from_secs(60);

/// The token of a store, shared by its calls.
pub(super) struct Tokens {
    http: reqwest::Client,
    /// Where a refresh token is exchanged.
    address: String,
    keys: FetchKeys,
    /// Locked while one is fetched: everybody else waits for that one.
    held: Mutex<Option<Held>>,
}

struct Held {
    value: HeaderValue,
    /// Until when it is used, where that is known.
    until: Option<Instant>,
}

fn denied(text: impl Into<String>) -> Failed {
    Failed::new(StoreErrorKind::Denied, text)
}

impl Tokens {
    pub(super) fn new(http: reqwest::Client, address: String, keys: FetchKeys) -> Self {
        Self { http, address, keys, held: Mutex::default() }
    }

    /// What stands in `Authorization`.
    pub(super) async fn bearer(&self) -> Result<HeaderValue, Failed> {
        let mut held = self.held.lock().await;
        match held.as_ref() {
            Some(one) if one.until.is_none_or(|until| Instant::now() < until) => Ok(one.value.clone()),
            _ => {
                let fetched = self.fetch().await?;
                let value = fetched.value.clone();
                *held = Some(fetched);
                Ok(value)
            }
        }
    }

    /// Another one than `refused`; `None` where there is none.
    pub(super) async fn renew(&self, refused: &HeaderValue) -> Result<Option<HeaderValue>, Failed> {
        let mut held = self.held.lock().await;
        if let Some(one) = held.as_ref()
            && one.value != refused
        {
            return Ok(Some(one.value.clone()));
        }
        // Forgotten first: what cannot be renewed now is asked for again by the next call.
        *held = None;
        let fetched = self.fetch().await?;
        let value = fetched.value.clone();
        let is_another = value != refused;
        *held = Some(fetched);
        Ok(is_another.then_some(value))
    }

    async fn fetch(&self) -> Result<Held, Failed> {
        let fetch = FetchKeys::clone(&self.keys);
        let keys =
            tokio::task::spawn_blocking(move || fetch()).await.map_err(|error| denied(error.to_string()))?;
        let keys = keys.map_err(|error| {
            Failed::new(StoreErrorKind::NoKeys, format!("credentials cannot be had: {}", chain(&error)))
        })?;
        if keys.get("refresh_token").is_some() {
            return self.exchange(&keys).await;
        }
        let token = keys.get("access_token").ok_or_else(|| denied("credentials lack refresh_token"))?;
        held(token, None)
    }

    async fn exchange(&self, keys: &Keys) -> Result<Held, Failed> {
        let trimmed = |name: &str| keys.get(name).map(str::trim);
        let (refresh, client) =
            (trimmed("refresh_token").unwrap_or_default(), trimmed("client_id").unwrap_or_default());
        let mut fields =
            vec![("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", client)];
        fields.extend(trimmed("client_secret").map(|secret| ("client_secret", secret)));
        let body = Zeroizing::new(form(&fields));
        let request = self.http.post(&self.address).body(body.as_bytes().to_vec());
        let sent = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").send().await?;
        let answered = Answered::read(sent).await?;
        let said = answered.json();
        if answered.status != 200 {
            let kind = match answered.status {
                408 | 429 | 500..=599 => StoreErrorKind::Unreachable,
                _ => StoreErrorKind::Denied,
            };
            // Its description is left out: some services repeat there what they were sent.
            let code = said.get("error").and_then(|code| code.as_str()).unwrap_or_default();
            return Err(Failed::answered(kind, &answered, "", &format!("no token is given: {code}")));
        }
        let token = said.get("access_token").and_then(|token| token.as_str());
        let seconds = said.get("expires_in").and_then(serde_json::Value::as_u64);
        held(token.ok_or_else(|| Failed::strange("access_token"))?, seconds)
    }
}

/// Takes a token for use. One that cannot be one is not sent: services repeat what they cannot read.
fn held(token: &str, seconds: Option<u64>) -> Result<Held, Failed> {
    let token = token.trim();
    if token.is_empty() {
        return Err(denied("the access token is empty: what should give one gives nothing"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = "the access token holds a space, a line break or a character that is not ASCII, and is not sent: \
                    what should give one gives more than the token alone";
        return Err(denied(text));
    }
    let text = Zeroizing::new(format!("{SCHEME}{token}"));
    let mut value = HeaderValue::from_str(&text).map_err(|_| denied("the access token is no text"))?;
    value.set_sensitive(true);
    let lasting = |seconds| {
        let all = Duration::from_secs(seconds);
        Instant::now().checked_add(all.saturating_sub(BEFORE).max(all / 2))
    };
    Ok(Held { value, until: seconds.and_then(lasting) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_token_is_refused_and_not_shown() {
        assert_eq!(held(" abc.d-e_f/g+h= \n", None).ok().unwrap().value, "Bearer abc.d-e_f/g+h=");
        for text in ["hunter2 hunter3", "hunter2\nhunter3", "hunter2\thunter3", "hunter2\u{e9}", " \n"] {
            let error = held(text, None).err().unwrap().into_error("read", "k", "x");
            assert_eq!(error.kind, StoreErrorKind::Denied, "{text:?}");
            assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
            assert!(error.source.to_string().starts_with("the access token "), "{error:?}");
        }
    }
}
