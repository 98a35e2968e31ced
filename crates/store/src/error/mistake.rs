//! What a person has to correct, where what the store or the network said tells it: asking again does not mend a wrong name.
//!
//! Only words are looked at that say one thing alone. Where none is known the kind of the error says what can be said.

/// Words of a cause, in lower case, and what they mean for whoever wrote the settings.
const MEANINGS: [(&[&str], &str); 9] = [
    (
        // rustls of a server that answers in plain text, OpenSSL's words for the same.
        &["invalidcontenttype", "wrong version number", "packet length too long"],
        "The server does not speak TLS on this port: correct the port, or write http:// in `endpoint` (webdav:// in the url), if \
         it shall be reached without.",
    ),
    (
        &["http request to an https server", "plain http request was sent to https"],
        "The server wants TLS on this port: write https:// in `endpoint` (webdavs:// in the url).",
    ),
    (
        &["unknownissuer", "self-signed certificate", "selfsigned", "caused by: unknown issuer"],
        "This host does not believe the server's certificate: name the certificate of its authority in `ca_file`.",
    ),
    (
        &["notvalidforname", "certificate not valid for name"],
        "The server's certificate is for another name: write that name in `endpoint` or in the url.",
    ),
    (
        &["name or service not known", "no address associated with hostname", "nodename nor servname"],
        "No such host is known here: correct the name in the repository's url or `endpoint`, or this host's name service.",
    ),
    (
        &["nosuchbucket", "containernotfound", "the specified bucket does not exist"],
        "Make the bucket at the store first, or correct its name in the repository's url (and `region`, `endpoint`).",
    ),
    (
        &["invalidstorageclass", "storage class you specified is not valid"],
        "Correct `storage_class` of this repository: the store does not know that class.",
    ),
    (
        &["requesttimetooskewed"],
        "Set the clock of this host right: the store refuses requests whose time is far from its own.",
    ),
    (
        &["authorizationheadermalformed", "permanentredirect", "illegallocationconstraint"],
        "Correct `region` of this repository, or `endpoint`: the bucket is elsewhere.",
    ),
];

/// What to correct, where the cause tells.
pub(super) fn correction(cause: &str) -> Option<&'static str> {
    let cause = cause.to_ascii_lowercase();
    let means = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    MEANINGS.iter().find(|(words, _)| means(words)).map(|(_, correct)| *correct)
}

#[cfg(test)]
mod tests {
    use std::io;

    use refloat_types::{Explain as _, Severity};

    use crate::{StoreError, StoreErrorKind};

    fn hint(kind: StoreErrorKind, cause: &str) -> String {
        let error = StoreError::new(kind, "read", "k", "s3://b", io::Error::other(cause.to_owned()));
        error.advice().hints.concat()
    }

    #[test]
    fn what_is_wrong_for_good_is_said_to_be_corrected() {
        use StoreErrorKind as K;
        for (kind, cause, said) in [
            (
                K::Unreachable,
                "client error (Connect): received corrupt message of type InvalidContentType",
                "does not speak TLS",
            ),
            (
                K::Other,
                "the store answered 400: Client sent an HTTP request to an HTTPS server.",
                "wants TLS",
            ),
            (K::Unreachable, "invalid peer certificate: UnknownIssuer", "`ca_file`"),
            (
                K::Unreachable,
                "dns error: failed to lookup address information: Name or service not known",
                "No such host",
            ),
            (
                K::Unreachable,
                "ssh: Could not resolve hostname box: Name or service not known",
                "No such host",
            ),
            (
                K::Other,
                "the store answered 404: NoSuchBucket: The specified bucket does not exist",
                "Make the bucket",
            ),
            (
                K::Other,
                "the store answered 400: InvalidStorageClass: The storage class you specified is not valid",
                "Correct `storage_class`",
            ),
            (K::Other, "the store answered 403: RequestTimeTooSkewed: The difference is too large", "clock"),
            (
                K::Unreachable,
                "dns error: failed to lookup address information: Temporary failure in name resolution",
                "Try again",
            ),
            (K::Unreachable, "connection refused", "Try again"),
            (K::Other, "the store answered 400", "See the cause"),
        ] {
            let hint = hint(kind, cause);
            assert!(hint.contains(said), "{cause}: {hint}");
            assert_eq!(
                hint.contains("Try again") || hint.contains("See the cause"),
                said.starts_with("Try") || said.starts_with("See")
            );
        }
    }

    #[test]
    fn keys_that_cannot_be_had_are_a_mistake_in_the_settings() {
        let cause = io::Error::other("credentials cannot be had: could not read /etc/refloat/key");
        let error = StoreError::new(StoreErrorKind::NoKeys, "read", "k", "s3://b", cause);
        let advice = error.advice();
        assert_eq!((advice.code, advice.severity), ("STO-024", Severity::Usage));
        assert!(!error.is_retryable());
    }
}
