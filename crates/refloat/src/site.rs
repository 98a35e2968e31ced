//! From the configuration to the bucket that its repositories are in.

use refloat_config::{RepositoryConfig, Sse};
use refloat_store::ServerSideEncryption;
use refloat_types::Scheme;

use crate::bucket::{Bucket, Place};
use crate::context::Context;
use crate::error::Failure;
use crate::retention::{longest, policy_of};

/// The bucket of this name, with everything that the configuration has in it.
///
/// # Errors
/// There is no configuration.
pub(crate) fn bucket_of(context: &Context, name: &str, lock_days: Option<u32>) -> Result<Bucket, Failure> {
    let config = context.config()?;
    let in_it: Vec<&RepositoryConfig> = config
        .repositories
        .values()
        .filter(|one| one.url.location().scheme() == Scheme::S3 && one.url.location().host() == name)
        .collect();
    Ok(Bucket {
        name: name.to_owned(),
        region: in_it.iter().find_map(|one| one.store.region.clone()),
        has_endpoint: in_it.iter().any(|one| one.store.endpoint.is_some()),
        places: in_it.into_iter().map(|one| place(context, one)).collect::<Result<_, _>>()?,
        lock_days,
    })
}

/// A repository as its bucket sees it.
///
/// # Errors
/// There is no configuration.
pub(crate) fn place(context: &Context, config: &RepositoryConfig) -> Result<Place, Failure> {
    let path = config.url.location().path().to_string_lossy().into_owned();
    let sources = context.config()?.sources.values();
    let policies = sources.filter_map(|source| policy_of(source, config.name.as_str()));
    Ok(Place {
        name: config.name.to_string(),
        prefix: if path.is_empty() { path } else { format!("{path}/") },
        sse: config.store.sse.as_ref().map(|sse| match sse {
            Sse::Aes256 => ServerSideEncryption::Aes256,
            Sse::Kms(key) => ServerSideEncryption::Kms(key.clone()),
        }),
        keep: policies
            .map(|policy| longest(&policy, None))
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
    })
}
