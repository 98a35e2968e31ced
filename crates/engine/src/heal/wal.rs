//! WAL files: sealed anew. The object's name holds the keyed digest of the bytes, which only the same bytes have.

use refloat_repo::repository::StoredWal;
use refloat_repo::wal_object::{NewWal, WalDigest, WalFrames, WalHead, name_digest};
use refloat_repo::{RepoError, Repository, layout};
use refloat_store::Key;
use refloat_types::{SystemIdentifier, WalFileName};

use super::{Better, HealError, HealRequest};

/// The bytes of a WAL file and what is known of it.
struct Copy {
    head: WalHead,
    bytes: Vec<u8>,
    sealed_facts: serde_json::Value,
}

/// Whether it is right here.
pub(super) fn look(
    repository: &Repository,
    system: SystemIdentifier,
    name: WalFileName,
    digest: &[u8; 16],
) -> Result<(), RepoError> {
    let key = layout::wal(system, name, digest);
    let missing = || RepoError::Missing { object: key.to_string() };
    let size = repository.store().head(&key)?.ok_or_else(missing)?.size;
    let head = repository.read_wal_head(&StoredWal { key: key.clone(), name, digest: *digest, size })?;
    match repository.read_wal(&head, &mut |_| Ok(())) {
        // A host that cannot read believes the signed head.
        Err(RepoError::NoKey { source: refloat_repo::KeyError::NoIdentity, .. }) => Ok(()),
        other => other.map(drop),
    }
}

/// A copy that is right.
pub(super) fn better<'a>(
    request: &'a HealRequest<'a>,
    key: &Key,
    system: SystemIdentifier,
    name: WalFileName,
    digest: &[u8; 16],
) -> Result<Option<Better<'a>>, HealError> {
    for other in request.others.iter().copied() {
        let found = match other.find_wal(system, name) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(store = other.store().describe(), %error, "it does not answer");
                continue;
            }
        };
        for stored in found {
            let copy = match read(other, &stored) {
                Ok(copy) => copy,
                Err(error) => {
                    tracing::debug!(key = %stored.key, %error, "no right copy of the WAL file");
                    continue;
                }
            };
            let mut own = WalDigest::new(request.repository.naming_key());
            own.update(&copy.bytes);
            let own = own.finish();
            if name_digest(&own) != *digest {
                // Another file of that name: which of the two is right is a person's decision.
                tracing::warn!(%key, store = other.store().describe(), "another WAL file of that name");
                continue;
            }
            let put = move || put(request, system, name, own, &copy);
            return Ok(Some(Better { from: other.store().describe().to_owned(), put: Box::new(put) }));
        }
    }
    Ok(None)
}

fn read(repository: &Repository, stored: &StoredWal) -> Result<Copy, RepoError> {
    let head = repository.read_wal_head(stored)?;
    let mut bytes = Vec::new();
    let sealed_facts = repository.read_wal(&head, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(Copy { head, bytes, sealed_facts })
}

fn put(
    request: &HealRequest<'_>,
    system: SystemIdentifier,
    name: WalFileName,
    digest: [u8; 32],
    copy: &Copy,
) -> Result<(), RepoError> {
    let repository = request.repository;
    let key = repository.writer_key(request.now)?;
    let wal = NewWal {
        name,
        system,
        size: copy.bytes.len() as u64,
        digest,
        stored: request.now,
        facts: copy.head.clear.facts.clone(),
        sealed_facts: copy.sealed_facts.clone(),
        compression: request.compression,
        key: key.as_deref(),
        signing: repository.signing(),
    };
    repository.put_wal(&wal, &WalFrames::of(request.compression, &copy.bytes)?)?;
    Ok(())
}
