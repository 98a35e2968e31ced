//! Small objects as a whole, by one request.
//!
//! A range would need the size, which is another request: so all of it is asked for, and no more of the answer is taken than
//! may be.

use std::sync::Arc;

use futures::TryStreamExt as _;
use opendal::Buffer;

use super::Inner;
use super::failure::Told;
use crate::{Key, StoreError, StoreErrorKind};

/// All bytes of `key`, at most `limit`.
pub(super) fn read(inner: &Arc<Inner>, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
    let path = key.as_str().to_owned();
    let got = inner.call(("read", key.as_str()), limit, move |operator| {
        let path = path.clone();
        async move {
            let mut pieces = operator.reader(&path).await?.into_stream(..).await?;
            let (mut all, mut size) = (Vec::new(), 0);
            while let Some(piece) = pieces.try_next().await? {
                size += piece.len() as u64;
                if size > limit {
                    return Ok(None);
                }
                all.push(piece);
            }
            Ok(Some(all.into_iter().flatten().collect::<Buffer>()))
        }
    })?;
    got.map(|body| body.to_vec()).ok_or_else(|| {
        let why = Told::error(format!("it holds more than the {limit} bytes that are expected"), None);
        StoreError::new(StoreErrorKind::Other, "read", key.as_str(), &inner.url, why)
    })
}
