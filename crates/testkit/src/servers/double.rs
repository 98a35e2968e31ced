//! What doubles of HTTP APIs have in common: an HTTP/1.1 server on loopback with a thread for each connection, tokens of
//! OAuth 2, and what goes wrong on demand.

mod faults;
mod http;

use serde_json::{Value as Json, json};

pub(super) use self::faults::Faults;
pub(super) use self::http::{Reply, Request, Server};

/// The only app that a double knows, and what its owner has given it.
pub(super) const CLIENT: &str = "refloat-app";
pub(super) const CLIENT_SECRET: &str = "a secret of the tests' app";
pub(super) const REFRESH: &str = "a refresh token of tests alone";

/// Access tokens that were given.
#[derive(Default)]
pub(super) struct Tokens {
    given: u64,
    /// All up to this one have expired.
    expired: u64,
    is_revoked: bool,
}

/// What a token is.
pub(super) enum Token {
    Good,
    Expired,
    Wrong,
}

impl Tokens {
    /// All that were given so far hold no longer.
    pub(super) fn expire(&mut self) {
        self.expired = self.given;
    }
    /// The owner has taken back what he has given.
    pub(super) fn revoke(&mut self) {
        self.expire();
        self.is_revoked = true;
    }
    /// How many were given.
    pub(super) const fn given(&self) -> u64 {
        self.given
    }
    /// A new access token.
    pub(super) fn give(&mut self) -> String {
        self.given += 1;
        format!("access-{}", self.given)
    }
    /// What the token of a request is.
    pub(super) fn judge(&self, request: &Request) -> Token {
        let bearer = request.header("authorization").and_then(|text| text.strip_prefix("Bearer access-"));
        match bearer.and_then(|number| number.parse::<u64>().ok()) {
            Some(number) if (1..=self.expired).contains(&number) => Token::Expired,
            Some(number) if (1..=self.given).contains(&number) => Token::Good,
            _ => Token::Wrong,
        }
    }
    /// What was sent where a token should stand, if it cannot be one by its characters.
    pub(super) fn unreadable(request: &Request) -> Option<&str> {
        let sent = request.header("authorization").unwrap_or_default();
        let token = sent.strip_prefix("Bearer ").unwrap_or_default();
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        (token.is_empty() || !token.bytes().all(is_good)).then_some(sent)
    }
    /// Exchanges a refresh token, as RFC 6749 has it.
    pub(super) fn exchange(&mut self, request: &Request) -> Reply {
        let refuse = |error: &str, status| {
            // Like some services, it repeats what it was sent.
            let told = format!("{error}: {}", String::from_utf8_lossy(&request.body));
            Reply::json(status, &json!({ "error": error, "error_description": told }))
        };
        let form = http::pairs(&String::from_utf8_lossy(&request.body));
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if request.method != "POST"
            || request.header("content-type") != Some("application/x-www-form-urlencoded")
        {
            return refuse("invalid_request", 400);
        }
        if field("grant_type") != Some("refresh_token") {
            return refuse("unsupported_grant_type", 400);
        }
        if field("client_id") != Some(CLIENT) || field("client_secret") != Some(CLIENT_SECRET) {
            return refuse("invalid_client", 401);
        }
        if field("refresh_token") != Some(REFRESH) || self.is_revoked {
            return refuse("invalid_grant", 400);
        }
        let token = self.give();
        Reply::json(200, &json!({ "access_token": token, "token_type": "bearer", "expires_in": 14400 }))
    }
}

/// A number of JSON, where one is said.
pub(super) fn number(said: &Json, name: &str) -> Option<u64> {
    said.get(name).and_then(Json::as_u64)
}

/// A time as both services write it.
pub(super) fn time(time: jiff::Timestamp, fraction: usize) -> String {
    format!("{time:.fraction$}")
}

/// Gives a double the calls that every one has.
macro_rules! is_a_double {
    ($double:ident) => {
        impl $double {
            /// `http://127.0.0.1:PORT`.
            pub fn endpoint(&self) -> String {
                format!("http://127.0.0.1:{}", self.port())
            }
            /// Its port on 127.0.0.1.
            pub const fn port(&self) -> u16 {
                self.server.port()
            }
            /// The id of the only app that it knows.
            pub const fn client_id(&self) -> &'static str {
                double::CLIENT
            }
            /// That app's secret.
            pub const fn client_secret(&self) -> &'static str {
                double::CLIENT_SECRET
            }
            /// What the account's owner has given that app.
            pub const fn refresh_token(&self) -> &'static str {
                double::REFRESH
            }
            /// A new access token.
            pub fn access_token(&self) -> String {
                self.shared.state().tokens.give()
            }
            /// How many access tokens were given so far.
            pub fn tokens_given(&self) -> u64 {
                self.shared.state().tokens.given()
            }
            /// All access tokens hold no longer.
            pub fn expire_tokens(&self) {
                self.shared.state().tokens.expire();
            }
            /// The account's owner takes back what he has given.
            pub fn revoke(&self) {
                self.shared.state().tokens.revoke();
            }
            /// The next request whose method and path hold `what` ("POST /2/files/upload") is done, and its answer is lost.
            pub fn lose_answer(&self, what: &str) {
                self.shared.faults.lose_answer(what);
            }
            /// The next such request breaks before it is done.
            pub fn lose_request(&self, what: &str) {
                self.shared.faults.lose_request(what);
            }
            /// How many such requests came so far.
            pub fn requests(&self, what: &str) -> usize {
                self.shared.faults.count(what)
            }
            /// Whether something that was to go wrong has not yet.
            pub fn has_faults_left(&self) -> bool {
                self.shared.faults.is_waiting()
            }
        }
    };
}
pub(super) use is_a_double;
