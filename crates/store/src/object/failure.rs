//! What an object store's answer means to the caller.
//!
//! opendal's errors carry URLs, which may hold a signature: only the store's own code and message, and the cause of a
//! broken connection, go into ours.

use std::fmt;
use std::io;
use std::time::Duration;

use opendal::ErrorKind;

use super::transport::Answer;
use crate::{StoreError, StoreErrorKind};

/// The cause of a [`StoreError`]: what the store said, and how long it asks to be left alone.
#[derive(Debug)]
pub(crate) struct Told {
    text: String,
    pub(crate) retry_after: Option<Duration>,
    /// The HTTP status; 0 where there was no answer.
    status: u16,
}

impl Told {
    pub(crate) fn error(text: impl Into<String>, retry_after: Option<Duration>) -> io::Error {
        io::Error::other(Self { text: text.into(), retry_after, status: 0 })
    }
    /// Whether the store said something.
    pub(crate) const fn is_answer(&self) -> bool {
        self.status != 0 || self.retry_after.is_some()
    }
    /// Whether the store does not know such a request.
    pub(crate) fn is_unimplemented(error: &StoreError) -> bool {
        let told = error.source.get_ref().and_then(|source| source.downcast_ref::<Self>());
        told.is_some_and(|told| matches!(told.status, 405 | 501))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Told {}

/// Longest message of a store that is repeated.
const LONGEST: usize = 300;

/// One line of at most [`LONGEST`] characters.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    line.chars().take(LONGEST).chain("…".chars()).collect()
}

/// The value of a field as Rust's `Debug` prints it in opendal's message: `code: "NoSuchKey"`.
fn field<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(&format!("{name}: \""))?;
    rest.split_once('"').map(|(value, _)| value).filter(|value| !value.is_empty())
}

/// Whether text that is no answer of a store may hold what a request was sent with: a token, or a signature in an address.
fn repeats_a_request(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["authorization", "bearer ", "x-amz-security-token", "sig="].iter().any(|part| text.contains(part))
}

/// What the store said, in words.
fn told(error: &opendal::Error, answer: &Answer) -> String {
    if let Some((why, _)) = &answer.trouble {
        return format!("credentials cannot be had: {}", shorten(why));
    }
    let message = error.message();
    let said = match (field(message, "code").or(field(message, "Code")), field(message, "message")) {
        (Some(code), Some(text)) => shorten(&format!("{code}: {text}")),
        (Some(code), None) => code.to_owned(),
        (None, Some(text)) => shorten(text),
        // Pages of proxies and the like tell nothing.
        (None, None) if message.trim_start().starts_with('<') => String::new(),
        // What is between repeats a request here and there, and with it a token.
        (None, None) if repeats_a_request(message) => String::new(),
        (None, None) => shorten(message),
    };
    let cause = std::error::Error::source(error).map(super::transport::chain).map(|text| shorten(&text));
    match (answer.status, said.as_str(), cause) {
        (0, _, Some(cause)) => cause,
        (0, said, None) => said.to_owned(),
        (status, "", _) => format!("the store answered {status}"),
        (status, said, _) => format!("the store answered {status}: {said}"),
    }
}

/// Codes of stores that say that credentials were right and are no more.
pub(crate) const EXPIRED: [&str; 5] =
    ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken"];

/// Whether the store says that the credentials have expired. Google's and Azure's answer to a token that is no more is 401;
/// S3's answer to a HEAD has no body that could hold a code.
pub(crate) fn is_expired(error: &opendal::Error, answer: &Answer) -> bool {
    let code = field(error.message(), "code").or(field(error.message(), "Code"));
    match code {
        Some(code) if EXPIRED.contains(&code) => true,
        Some(_) => answer.status == 401,
        None => matches!(answer.status, 400 | 401),
    }
}

/// What a store means by a conflict; `None` where its code says nothing special. Not all are about two writers.
fn conflict(code: &str, status: u16) -> Option<StoreErrorKind> {
    if !matches!(status, 409 | 412) {
        return None;
    }
    let says = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if says(&["Immutable", "LegalHold", "Locked", "ObjectLock"]) {
        return Some(StoreErrorKind::Denied);
    }
    // Neither is an object of that name, nor gone when it is asked again.
    if code.starts_with("Lease") {
        return Some(StoreErrorKind::Other);
    }
    match (status, code) {
        // Two conditional writes at once: the other one may have won, or both were sent away.
        (409, "ConditionalRequestConflict" | "OperationAborted") => Some(StoreErrorKind::Unreachable),
        _ => None,
    }
}

/// What the caller can do.
fn kind(error: &opendal::Error, answer: &Answer) -> StoreErrorKind {
    // Credentials that cannot be had now may be had later, where a service hands them out.
    if let Some((_, kind)) = answer.trouble {
        return kind;
    }
    let code = field(error.message(), "code").or(field(error.message(), "Code")).unwrap_or_default();
    match code {
        "NoSuchBucket" | "ContainerNotFound" => return StoreErrorKind::Other,
        "InvalidObjectState" | "BlobArchived" => return StoreErrorKind::Cold,
        "QuotaExceeded" | "InsufficientStorage" | "EntityTooLarge" => return StoreErrorKind::NoSpace,
        // The date of a request is looked at: a clock is wrong, and asking again does not mend it.
        "RequestTimeTooSkewed" => return StoreErrorKind::Other,
        code if EXPIRED.contains(&code) => return StoreErrorKind::Denied,
        code => {
            if let Some(kind) = conflict(code, answer.status) {
                return kind;
            }
        }
    }
    match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::NotFound,
        ErrorKind::AlreadyExists | ErrorKind::ConditionNotMatch => StoreErrorKind::AlreadyExists,
        ErrorKind::PermissionDenied => StoreErrorKind::Denied,
        ErrorKind::RangeNotSatisfied => StoreErrorKind::Truncated,
        ErrorKind::RateLimited => StoreErrorKind::Unreachable,
        _ => match answer.status {
            401 | 403 | 407 => StoreErrorKind::Denied,
            404 => StoreErrorKind::NotFound,
            // The store does not know such a request, today and tomorrow.
            405 | 501 | 505 => StoreErrorKind::Other,
            408 | 425 | 429 | 499..=506 | 509..=599 => StoreErrorKind::Unreachable,
            // A conflict without a name: for all that is known, of two writers.
            409 if code.is_empty() => StoreErrorKind::Unreachable,
            412 => StoreErrorKind::AlreadyExists,
            416 => StoreErrorKind::Truncated,
            507 => StoreErrorKind::NoSpace,
            // No answer at all, or half of one; or the store asks for patience with the status of a mistake
            // (`RequestTimeout`, `Throttling`).
            0 | 200..=299 | 400 if error.is_temporary() => StoreErrorKind::Unreachable,
            _ => StoreErrorKind::Other,
        },
    }
}

/// Sorts what opendal answers.
pub(crate) fn sort(
    action: &'static str,
    object: &str,
    store: &str,
    error: &opendal::Error,
    answer: &Answer,
) -> StoreError {
    let told = Told { text: told(error, answer), retry_after: answer.retry_after, status: answer.status };
    let source = io::Error::other(told);
    StoreError::new(kind(error, answer), action, object, store, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind, message: &str) -> opendal::Error {
        opendal::Error::new(kind, message).with_context("uri", "https://a/b?sig=hunter2")
    }

    fn sorted(error: &opendal::Error, status: u16) -> (StoreErrorKind, String) {
        let answer = Answer { status, retry_after: Some(Duration::from_secs(3)), trouble: None };
        let sorted = sort("read", "k", "s3://b", error, &answer);
        assert_eq!(sorted.retry_after(), Some(Duration::from_secs(3)));
        (sorted.kind, sorted.source.to_string())
    }

    #[test]
    fn answers_are_sorted_and_told_without_their_url() {
        use StoreErrorKind as K;
        let denied = "S3Error { code: \"AccessDenied\", message: \"Access\n Denied.\", resource: \"/b/k\", request_id: \"\" }";
        let said = |kind, message, status| sorted(&error(kind, message), status);
        assert_eq!(
            said(ErrorKind::PermissionDenied, denied, 403),
            (K::Denied, "the store answered 403: AccessDenied: Access Denied.".to_owned())
        );
        assert_eq!(
            said(ErrorKind::Unexpected, "<html><body>Bad Gateway</body></html>", 502),
            (K::Unreachable, "the store answered 502".to_owned())
        );
        for body in ["bad header Authorization: Bearer hunter2", "no route to /c/k?sv=2&sig=hunter2"] {
            assert_eq!(
                said(ErrorKind::Unexpected, body, 400),
                (K::Other, "the store answered 400".to_owned())
            );
        }
        for (status, kind) in [
            (429, K::Unreachable),
            (408, K::Unreachable),
            (500, K::Unreachable),
            (503, K::Unreachable),
            (412, K::AlreadyExists),
            (416, K::Truncated),
            (404, K::NotFound),
            (401, K::Denied),
            (507, K::NoSpace),
            (400, K::Other),
            (501, K::Other),
        ] {
            assert_eq!(said(ErrorKind::Unexpected, "", status).0, kind, "{status}");
        }
        let expired = "S3Error { code: \"ExpiredToken\", message: \"The provided token has expired.\" }";
        let is_expired = |message, status| {
            let answer = Answer { status, ..Answer::default() };
            is_expired(&error(ErrorKind::Unexpected, message), &answer)
        };
        assert!(is_expired(expired, 400) && is_expired("", 400) && is_expired("", 401));
        assert!(!is_expired(denied, 403) && !is_expired("", 403) && !is_expired(denied, 400));
        assert_eq!(said(ErrorKind::Unexpected, expired, 400).0, K::Denied);
        // A bucket that is not there says nothing about an object.
        let bucket = "S3Error { code: \"NoSuchBucket\", message: \"The specified bucket does not exist\" }";
        assert_eq!(said(ErrorKind::ConfigInvalid, bucket, 404).0, K::Other);
    }

    #[test]
    fn only_conflicts_of_writers_are_worth_another_attempt() {
        use StoreErrorKind as K;
        for (code, kind) in [
            ("ConditionalRequestConflict", K::Unreachable),
            ("OperationAborted", K::Unreachable),
            ("BlobImmutableDueToPolicy", K::Denied),
            ("BlobImmutableDueToLegalHold", K::Denied),
            ("BlobArchived", K::Cold),
            ("LeaseAlreadyPresent", K::Other),
            ("InvalidBucketState", K::Other),
        ] {
            let message = format!("Error {{ code: \"{code}\", message: \"no\" }}");
            assert_eq!(sorted(&error(ErrorKind::Unexpected, &message), 409).0, kind, "{code}");
        }
        assert_eq!(sorted(&error(ErrorKind::Unexpected, ""), 409).0, K::Unreachable);
        // Azure's word for an object that is there, and what opendal makes of every conflict there.
        let exists = "Error { code: \"BlobAlreadyExists\", message: \"no\" }";
        assert_eq!(sorted(&error(ErrorKind::ConditionNotMatch, exists), 409).0, K::AlreadyExists);
        let locked = "Error { code: \"BlobImmutableDueToPolicy\", message: \"no\" }";
        assert_eq!(sorted(&error(ErrorKind::ConditionNotMatch, locked), 409).0, K::Denied);
        let slow = error(ErrorKind::Unexpected, "Error { code: \"RequestTimeout\", message: \"idle\" }");
        assert_eq!(sorted(&slow.set_temporary(), 400).0, K::Unreachable);
    }

    #[test]
    fn a_broken_connection_may_be_tried_again_and_its_cause_is_told() {
        let broken = error(ErrorKind::Unexpected, "send http request")
            .set_temporary()
            .set_source(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        assert_eq!(sorted(&broken, 0), (StoreErrorKind::Unreachable, "connection refused".to_owned()));
        // An answer whose body broke off.
        assert_eq!(sorted(&broken, 200).0, StoreErrorKind::Unreachable);
    }
}
