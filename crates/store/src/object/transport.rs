//! The HTTP client of object stores.
//!
//! One client is shared by all stores of a process that believe the same certificates, and so are its connections. It
//! follows no environment: no proxy that a variable names, no other certificates than the system's and those that are
//! configured. What the store answered beside the body is noted for whoever made the call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{Request, Response, header::RETRY_AFTER};
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::task_local;

use crate::StoreErrorKind;

/// Longest time until a connection is there.
const CONNECT: Duration = Duration::from_secs(10);
/// Idle connections are closed before servers and firewalls forget them.
const IDLE: Duration = Duration::from_secs(50);
/// Longest silence while something is being received.
const SILENCE: Duration = Duration::from_secs(30);

/// What a call's last answer said beside its body.
#[derive(Debug, Default, Clone)]
pub(crate) struct Answer {
    /// The HTTP status; 0 before any answer.
    pub(crate) status: u16,
    /// How long the store asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// Why credentials could not be had, and what that is for the caller.
    pub(crate) trouble: Option<(String, StoreErrorKind)>,
}

task_local! {
    /// Where the answers of the call that runs in this task are noted.
    pub(crate) static ANSWER: Arc<Mutex<Answer>>;
}

/// A client as opendal wants it.
struct Client(ReqwestTransport);

impl HttpTransport for Client {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        note(Answer::default());
        let response = self.0.fetch(request).await?;
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        note(Answer {
            status: response.status().as_u16(),
            retry_after: wait.and_then(retry_after),
            trouble: None,
        });
        Ok(response)
    }
}

/// Notes what the call that runs in this task was answered.
pub(crate) fn note(answer: Answer) {
    // Outside of a call (a test, a background abort) nobody listens.
    let _ = ANSWER.try_with(|noted| *noted.lock().unwrap_or_else(PoisonError::into_inner) = answer);
}

/// Seconds, which is what stores send; a date is left to the usual pauses. A mistaken hour is cut to five minutes.
pub(crate) fn retry_after(text: &str) -> Option<Duration> {
    let seconds: u64 = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(300)))
}

/// Clients by the certificates that they believe.
static CLIENTS: OnceLock<Mutex<BTreeMap<Option<PathBuf>, HttpTransporter>>> = OnceLock::new();

/// The client that believes the system's certificates and those in `ca_file`.
///
/// # Errors
/// Why certificates cannot be read, in words.
pub(crate) fn client(ca_file: Option<&Path>) -> Result<HttpTransporter, String> {
    let clients = CLIENTS.get_or_init(Mutex::default);
    let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = clients.get(&ca_file.map(Path::to_owned)) {
        return Ok(known.clone());
    }
    let transporter = HttpTransporter::new(Client(ReqwestTransport::new(plain_client(ca_file)?)));
    clients.insert(ca_file.map(Path::to_owned), transporter.clone());
    Ok(transporter)
}

/// Where systems keep all certificates that they believe in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The variables that say where the system's certificates are, where they lie in none of [`BUNDLES`]: the TLS library reads them
/// itself. A process that is started for the same stores needs them too.
pub const CERTIFICATE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// A client of its own that believes the system's certificates and those in `ca_file`.
///
/// # Errors
/// Why certificates cannot be read, in words.
pub(crate) fn plain_client(ca_file: Option<&Path>) -> Result<reqwest::Client, String> {
    let mut own = Vec::new();
    if let Some(file) = ca_file {
        let text = std::fs::read(file).map_err(|e| format!("could not read {}: {e}", file.display()))?;
        own = reqwest::Certificate::from_pem_bundle(&text)
            .map_err(|_| format!("{} holds no certificates in PEM", file.display()))?;
        if own.is_empty() {
            return Err(format!("{} holds no certificates in PEM", file.display()));
        }
    }
    // The directory beside the bundle holds the same again, in a file for each: to read it too takes longer than anything
    // else that a process does before its first request. It is read where there is no bundle, or none that can be used.
    if let Some(bundle) = bundle()
        && let Ok(client) = builder().tls_certs_only(own.iter().cloned().chain(bundle)).build()
    {
        return Ok(client);
    }
    let client = builder().tls_certs_merge(own).build();
    client.map_err(|e| format!("could not set up TLS: {}", chain(&e)))
}

fn bundle() -> Option<Vec<reqwest::Certificate>> {
    let read = |file: &&str| {
        let text = std::fs::read(file).ok()?;
        reqwest::Certificate::from_pem_bundle(&text).ok().filter(|all| !all.is_empty())
    };
    BUNDLES.iter().find_map(read)
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        // A redirect makes other requests than were meant (after 303, a GET of what was to be put), and none is signed.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("refloat/", env!("CARGO_PKG_VERSION")))
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_taken_from_seconds_only() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("86400"), Some(Duration::from_secs(300)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("ca.pem");
        std::fs::write(&file, b"no certificate").unwrap();
        let why = client(Some(&file)).map(drop).unwrap_err();
        assert_eq!(why, format!("{} holds no certificates in PEM", file.display()));
        assert!(client(Some(&place.path().join("absent"))).is_err());
        client(None).map(drop).unwrap();
    }
}
