//! Reading a WAL object: its head alone, its facts, or every byte.

mod body;
mod frames;
mod input;

use std::io;
use std::sync::Arc;

use refloat_store::{Key, Store};
use refloat_types::ObjectId;

pub use body::read_body;

use self::frames::Frames;
use self::input::Input;
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
    let mut input = Input::asked(store, key, 0, size, FACTS);
    head_of(&mut input, key, size, agent).map(|(head, _)| head)
}

/// The key to a WAL file; none where nothing is encrypted.
type WalKey = Option<Arc<DataKey>>;

/// When a WAL file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Somebody waits for it: it comes over several connections, and is opened by several threads, where that is sooner.
    Now,
    /// Others are read at the same time: one request and one thread cost least.
    Soon,
}

/// Reads every byte of the object at `key` of `size` bytes: gives each piece of the file, with its offset, to `place`, in no order
/// and, where it is wanted now, on several threads. `agent` finds the public key of the agent that signed it, `open`
/// the key to what is behind the head.
///
/// # Errors
/// `Damaged` when anything is not what was written, and as [`read_head`]. `place` may have got some bytes by then: nothing may
/// be used before this is `Ok`.
pub(crate) fn place_all(
    store: &dyn Store,
    (key, size): (&Key, u64),
    wanted: Wanted,
    agent: &dyn Fn(ObjectId) -> Result<PublicKey, RepoError>,
    open: &dyn Fn(&WalHead) -> Result<WalKey, RepoError>,
    naming_key: &[u8; 32],
    place: &(dyn Fn(u64, &[u8]) -> io::Result<()> + Sync),
) -> Result<WalHead, RepoError> {
    std::thread::scope(|scope| {
        // Whoever brings the bytes ends when `input` is gone.
        let mut input = match wanted {
            Wanted::Now => Input::waited_for(scope, store, key, size),
            Wanted::Soon => Input::at_once(store, key, size),
        };
        let (head, start) = head_of(&mut input, key, size, agent)?;
        let opened = open(&head)?;
        let frames = Frames::behind(&head, opened.as_deref(), start, input);
        body::place_body(&frames, &head, wanted, naming_key, place)?;
        drop(frames);
        Ok(head)
    })
}

/// Reads the head of an object from its beginning; answers all that came, which it begins.
fn head_of(
    input: &mut Input<'_>,
    key: &Key,
    size: u64,
    agent: &dyn Fn(ObjectId) -> Result<PublicKey, RepoError>,
) -> Result<(WalHead, Vec<u8>), RepoError> {
    let damaged = |what: &str| RepoError::damaged(key, what);
    let mut bytes = Vec::new();
    input.more(size.min(HEADER_BYTES as u64), &mut bytes)?;
    let header = Header::decode(key.as_str(), &bytes, Kind::Wal)?;
    if header.clear > MAX_CLEAR {
        return Err(damaged("its header is too long"));
    }
    let clear_end = HEADER_BYTES + header.clear as usize;
    let body = clear_end + SIGNATURE_BYTES;
    if size < body as u64 {
        return Err(damaged("it ends within its header"));
    }
    if bytes.len() < body {
        let missing = (body - bytes.len()) as u64;
        input.more(missing, &mut bytes)?;
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
    Ok((WalHead { key: key.clone(), header, clear, body: body as u64, size }, bytes))
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
    let input = Input::asked(store, &head.key, head.body, head.size, FACTS);
    Frames::of_body(head, key, input).opener()?.facts()
}
