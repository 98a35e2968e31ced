//! What the bucket clears by itself: only what no backup can ever need.

use serde_json::{Value, json};

use super::{Bucket, DAY, days};

/// Unfinished uploads are nobody's after so many days: no backup takes longer.
pub(crate) const ABORT_DAYS: u32 = 7;
/// Hidden versions stay so long at least: time to notice that somebody has hidden them.
const LEAST_HIDDEN_DAYS: u32 = 30;

/// Days after which a version that was hidden is destroyed: when everything that was stored together with it has expired
/// and no lock holds it.
pub(crate) fn noncurrent_days(bucket: &Bucket) -> u32 {
    let kept = bucket.keep().map_or(0, days);
    let locked = bucket.lock_days.unwrap_or(0);
    kept.max(locked).max(LEAST_HIDDEN_DAYS).saturating_add(1)
}

/// The lifecycle of the bucket. There is no rule that deletes or moves what is current: what is in use is known to
/// `refloat expire` alone, and each object is stored in its class at once.
pub(crate) fn lifecycle(bucket: &Bucket) -> Value {
    let hidden = noncurrent_days(bucket);
    let rules: Vec<Value> = bucket
        .places
        .iter()
        .flat_map(|place| {
            [
                json!({
                    "ID": format!("refloat-{}-unfinished-uploads", place.name),
                    "Status": "Enabled",
                    "Filter": { "Prefix": place.prefix },
                    "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": ABORT_DAYS },
                }),
                json!({
                    "ID": format!("refloat-{}-hidden-versions", place.name),
                    "Status": "Enabled",
                    "Filter": { "Prefix": place.prefix },
                    "NoncurrentVersionExpiration": { "NoncurrentDays": hidden },
                    // Markers that hide nothing any more.
                    "Expiration": { "ExpiredObjectDeleteMarker": true },
                }),
            ]
        })
        .collect();
    json!({ "Rules": rules })
}

/// A number of days in words.
pub(crate) fn in_days(seconds: u64) -> String {
    match seconds.div_ceil(DAY) {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}
