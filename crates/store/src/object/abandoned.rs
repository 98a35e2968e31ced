//! Uploads that were begun and never ended, in stores that speak S3: their parts are visible to nobody and are paid for.
//!
//! Only what is a day old by the store's clock is cleared: no upload of ours lives that long, and one whose process was
//! stopped in between fails, which it reports. What credentials may not list or abort is left to the bucket's lifecycle.
//!
//! Other programs may use the bucket, and our prefix too, above all where we have none; nothing of an upload but its key tells
//! whose it is. So the caller says which keys can be ours.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use refloat_types::Timestamp;

use super::list::Again;
use super::signed::{Asked, Signed, Told200, element, elements};
use crate::{Key, StoreError, StoreErrorKind};

/// Age from which nobody goes on with an upload.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// An upload that was begun.
#[derive(Debug, PartialEq, Eq)]
struct Upload {
    key: Key,
    id: String,
    begun: Timestamp,
}

/// Clears them below our prefix, of objects that `is_ours` knows; answers how many.
pub(super) fn clear(signed: &Arc<Signed>, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
    let mut cleared = 0;
    let mut after: Option<(String, String)> = None;
    let mut again = Again::new(signed.limit());
    loop {
        let mut query = vec![("uploads", String::new()), ("prefix", signed.prefix().to_owned())];
        if let Some((key, id)) = &after {
            query.push(("key-marker", key.clone()));
            query.push(("upload-id-marker", id.clone()));
        }
        query.sort();
        let (text, headers) = match signed.ask(&Asked::get("list the uploads of", None, query)) {
            Ok(Told200::Done(text, headers)) => (text, headers),
            Ok(Told200::Absent | Told200::NotBuilt) => return Ok(cleared),
            Err(error) if after.is_some() && again.pause(&error) => continue,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                leave(&error);
                return Ok(cleared);
            }
        };
        again.came();
        // Without the store's clock nothing is known to be old.
        let Some(now) = date(&headers) else { return Ok(cleared) };
        let uploads = elements(&text, "Upload").into_iter().filter_map(|one| upload(one, signed.prefix()));
        let is_old = |upload: &Upload| now.duration_since(upload.begun).as_secs() >= DAY;
        for upload in uploads.filter(|upload| is_ours(&upload.key) && is_old(upload)) {
            match abort(signed, &upload) {
                Ok(was_there) => cleared += u64::from(was_there),
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    leave(&error);
                    return Ok(cleared);
                }
            }
        }
        let next = element(&text, "NextKeyMarker")
            .map(|key| (key, element(&text, "NextUploadIdMarker").unwrap_or_default()));
        match next.filter(|_| element(&text, "IsTruncated").as_deref() == Some("true")) {
            Some(next) if Some(&next) != after.as_ref() => after = Some(next),
            _ => return Ok(cleared),
        }
    }
}

const DAY: i64 = ABANDONED.as_secs() as i64;

/// They are no reason to fail what wants to begin.
fn leave(error: &StoreError) {
    tracing::debug!(%error, cause = %error.source, "unfinished uploads are left to the bucket's lifecycle");
}

/// Throws one away; `false` for one that somebody has ended meanwhile.
fn abort(signed: &Arc<Signed>, upload: &Upload) -> Result<bool, StoreError> {
    let query = vec![("uploadId", upload.id.clone())];
    let asked =
        Asked { method: Method::DELETE, ..Asked::get("clear the upload of", Some(&upload.key), query) };
    match signed.ask(&asked) {
        Ok(told) => Ok(matches!(told, Told200::Done(..))),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What one entry says; `None` for what is none of ours.
fn upload(entry: &str, prefix: &str) -> Option<Upload> {
    Some(Upload {
        key: element(entry, "Key")?.strip_prefix(prefix)?.parse().ok()?,
        id: element(entry, "UploadId").filter(|id| !id.is_empty())?,
        begun: element(entry, "Initiated")?.parse().ok()?,
    })
}

/// The store's clock.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uploads_of_ours_are_looked_at() {
        let entry =
            "<Key>db1/packs/00/a</Key><UploadId>u1</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated>";
        let found = upload(entry, "db1/").unwrap();
        assert_eq!((found.key.as_str(), found.id.as_str()), ("packs/00/a", "u1"));
        assert_eq!(upload(entry, "db2/"), None);
        assert_eq!(upload(&entry.replace("2026-01-01T00:00:00.000Z", "once"), "db1/"), None);
        assert_eq!(upload("<Key>db1/a b</Key><UploadId>u</UploadId>", "db1/"), None);
    }

    #[test]
    fn the_stores_clock_is_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(http::header::DATE, http::HeaderValue::from_static("Fri, 02 Jan 2026 03:04:05 GMT"));
        assert_eq!(date(&headers), "2026-01-02T03:04:05Z".parse().ok());
        headers.insert(http::header::DATE, http::HeaderValue::from_static("yesterday"));
        assert_eq!(date(&headers), None);
    }
}
