//! Reading a WAL object: its head alone, its facts, or every byte.

mod body;
mod frames;

use refloat_store::{Key, Store};
use refloat_types::ObjectId;

pub use body::read_body;
pub(crate) use body::{READ_AT_ONCE, place_body};

use self::frames::Frames;
use super::{MAX_CLEAR, WalClear, name_digest};
use crate::crypt::seal::DataKey;
use crate::crypt::sign::{PublicKey, SIGNATURE_BYTES};
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::{HEADER_BYTES, Header, document};

/// How much is read where only the head or the facts are wanted.
const FACTS: u64 = 4096;

/// The verified head of a stored WAL file.
#[derive(Debug, Clone)]
pub struct WalHead {
    /// Where it is.
    pub key: Key,
    /// Its header.
    pub header: Header,
    /// Its clear section.
    pub clear: WalClear,
    /// Where its frames begin.
    body: u64,
    /// Its size in the store.
    size: u64,
}

/// Reads the head of the object at `key` of `size` bytes; `agent` finds the public key of the agent that signed it.
///
/// # Errors
/// `Damaged`, `UnknownOrigin`, or what the store says.
pub fn read_head(
    store: &dyn Store,
    key: &Key,
    size: u64,
    agent: &dyn Fn(ObjectId) -> Result<PublicKey, RepoError>,
) -> Result<WalHead, RepoError> {
    read_start(store, key, size, FACTS, agent).map(|(head, _)| head)
}

/// As [`read_head`], by reading the first `ahead` bytes; those behind the head are answered too.
pub(crate) fn read_start(
    store: &dyn Store,
    key: &Key,
    size: u64,
    ahead: u64,
    agent: &dyn Fn(ObjectId) -> Result<PublicKey, RepoError>,
) -> Result<(WalHead, Vec<u8>), RepoError> {
    let damaged = |what: &str| RepoError::damaged(key, what);
    let mut bytes = Vec::new();
    store.read(key, 0..size.min(ahead), &mut bytes)?;
    let header = Header::decode(key.as_str(), &bytes, Kind::Wal)?;
    if header.clear > MAX_CLEAR {
        return Err(damaged("its header is too long"));
    }
    let clear_end = HEADER_BYTES + header.clear as usize;
    let body = clear_end + SIGNATURE_BYTES;
    if bytes.len() < body {
        if size < body as u64 {
            return Err(damaged("it ends within its header"));
        }
        bytes.clear();
        store.read(key, 0..body as u64, &mut bytes)?;
    }
    if !agent(header.agent)?.verifies(&[&bytes[..clear_end]], &bytes[clear_end..body]) {
        let why = "its signature does not hold".to_owned();
        return Err(RepoError::UnknownOrigin { object: key.to_string(), why });
    }
    let clear: WalClear = document::parse(key.as_str(), &bytes[HEADER_BYTES..clear_end])?;
    let named = layout::parse_wal(key);
    let belongs = named.is_some_and(|(name, digest)| {
        clear.name == name.to_string()
            && digest == name_digest(&clear.digest)
            && *key == layout::wal(clear.system, name, &digest)
    });
    if !belongs {
        return Err(damaged("it lies under another file's name"));
    }
    let head = WalHead { key: key.clone(), header, clear, body: body as u64, size };
    bytes.drain(..body);
    Ok((head, bytes))
}

/// Reads the sealed facts behind a head, and nothing else of it.
///
/// # Errors
/// `Damaged` when they are not what was written.
pub fn read_facts(
    store: &dyn Store,
    head: &WalHead,
    key: Option<&DataKey>,
) -> Result<serde_json::Value, RepoError> {
    Frames::behind(store, head, key, Vec::new(), FACTS).opener()?.facts()
}
