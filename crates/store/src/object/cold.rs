//! What is in a cold class, as S3 tells it.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::Method;

use super::list::Again;
use super::signed::{Asked, Signed, Told200, element, elements};
use crate::cold::{Readiness, is_cold_class, may_be_cold};
use crate::{Key, StoreError};

/// Objects below `prefix` whose class may be a cold one.
pub(super) fn list(
    signed: &Arc<Signed>,
    prefix: &str,
    each: &mut dyn FnMut(Key) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    let mut again = Again::new(signed.limit());
    loop {
        let mut query =
            vec![("list-type", "2".to_owned()), ("prefix", format!("{}{prefix}", signed.prefix()))];
        query.extend(after.iter().map(|token| ("continuation-token", token.clone())));
        query.sort();
        let text = match signed.ask(&Asked::get("list the classes of", None, query)) {
            Ok(Told200::Done(text, _)) => text,
            Ok(Told200::Absent | Told200::NotBuilt) => return Ok(()),
            Err(error) if after.is_some() && again.pause(&error) => continue,
            Err(error) => return Err(error),
        };
        again.came();
        for entry in elements(&text, "Contents") {
            if let Some(key) = cold(entry, signed.prefix())
                && each(key).is_break()
            {
                return Ok(());
            }
        }
        let next = element(&text, "NextContinuationToken");
        match next.filter(|_| element(&text, "IsTruncated").as_deref() == Some("true")) {
            Some(next) if Some(&next) != after.as_ref() => after = Some(next),
            _ => return Ok(()),
        }
    }
}

fn cold(entry: &str, prefix: &str) -> Option<Key> {
    let class = element(entry, "StorageClass").filter(|class| may_be_cold(class))?;
    let key = element(entry, "Key")?.strip_prefix(prefix)?.parse().ok();
    key.inspect(|key| tracing::debug!(%key, class, "it may have to be thawed"))
}

/// Whether an object can be read now. What is not there can: reading it says so.
pub(super) fn readiness(signed: &Arc<Signed>, key: &Key) -> Result<Readiness, StoreError> {
    let asked = Asked { method: Method::HEAD, ..Asked::get("look at the class of", Some(key), Vec::new()) };
    let Told200::Done(_, headers) = signed.ask(&asked)? else { return Ok(Readiness::Ready) };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Ok(judge(header("x-amz-storage-class"), header("x-amz-archive-status"), header("x-amz-restore")))
}

/// What the headers of an object mean.
fn judge(class: Option<&str>, archived: Option<&str>, restore: Option<&str>) -> Readiness {
    let class = class.unwrap_or("STANDARD");
    if !is_cold_class(class) && archived.is_none() {
        return Readiness::Ready;
    }
    let class = archived.unwrap_or(class).to_owned();
    match restore {
        Some(told) if told.contains("ongoing-request=\"false\"") => Readiness::Ready,
        Some(_) => Readiness::Thawing(class),
        None => Readiness::Cold(class),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_cold_until_it_is_asked_for_and_there() {
        let cold = |class: &str| Readiness::Cold(class.to_owned());
        assert_eq!(judge(None, None, None), Readiness::Ready);
        assert_eq!(judge(Some("GLACIER_IR"), None, None), Readiness::Ready);
        assert_eq!(judge(Some("GLACIER"), None, None), cold("GLACIER"));
        assert_eq!(
            judge(Some("DEEP_ARCHIVE"), None, Some("ongoing-request=\"true\"")),
            Readiness::Thawing("DEEP_ARCHIVE".to_owned())
        );
        let there = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2029 00:00:00 GMT\"";
        assert_eq!(judge(Some("GLACIER"), None, Some(there)), Readiness::Ready);
        assert_eq!(judge(Some("INTELLIGENT_TIERING"), None, None), Readiness::Ready);
        assert_eq!(judge(Some("INTELLIGENT_TIERING"), Some("ARCHIVE_ACCESS"), None), cold("ARCHIVE_ACCESS"));
    }

    #[test]
    fn only_objects_of_ours_in_a_cold_class_are_told() {
        let entry = |key: &str, class: &str| format!("<Key>{key}</Key><StorageClass>{class}</StorageClass>");
        assert_eq!(cold(&entry("db1/packs/00/a", "GLACIER"), "db1/").expect("it").as_str(), "packs/00/a");
        assert_eq!(cold(&entry("db1/packs/00/a", "STANDARD"), "db1/"), None);
        assert_eq!(cold(&entry("db2/packs/00/a", "GLACIER"), "db1/"), None);
        assert_eq!(cold("<Key>db1/a</Key>", "db1/"), None);
    }
}
