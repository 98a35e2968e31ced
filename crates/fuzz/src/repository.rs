//! What lies in a repository. Whoever can write there can forge everything but a signature; so signatures and tags are
//! made right before the parsers behind them are run, and what is not encrypted is read as such.

use std::collections::BTreeMap;
use std::sync::Arc;

use refloat_repo::RepoError;
use refloat_repo::binary::Reader;
use refloat_repo::commit::{Commit, CommitNames, decode_packs, encode_packs};
use refloat_repo::compress::{Codec, Decompressor};
use refloat_repo::crypt::seal::{FrameInfo, ObjectSeal, TAG_BYTES};
use refloat_repo::crypt::sign::{SIGNATURE_BYTES, SigningKey};
use refloat_repo::kind::Kind;
use refloat_repo::layout::{self, Named};
use refloat_repo::manifest::leaf::{LEAF_SPAN, Leaf};
use refloat_repo::manifest::part;
use refloat_repo::manifest::root::Root;
use refloat_repo::object::{Document, HEADER_BYTES, Header, document};
use refloat_repo::pack::frame::{FrameTable, MAX_FRAME};
use refloat_repo::pack::reader::{FrameOpener, PackKeys};
use refloat_repo::pack::writer::{FOOTER_BYTES, Footer};
use refloat_repo::repository::{
    Generation, Invitation, ListedAgent, Marker, OperationClear, OperationRecord, OwnerRecord,
    SourceDescription, Token,
};
use refloat_repo::wal_object::{WalClear, read_body, read_facts, read_head};
use refloat_store::{Key, Store as _};
use refloat_testkit::memory_store::Memory;
use refloat_types::{Explain as _, ObjectId};

fn signing() -> SigningKey {
    SigningKey::from_seed([7; 32]).expect("any 32 bytes are a seed")
}

fn told(error: &RepoError) {
    let _ = (error.to_string(), error.advice());
}

fn kind_of(bytes: &[u8]) -> Kind {
    bytes.get(10).and_then(|number| Kind::from_number(*number)).unwrap_or(Kind::Commit)
}

/// The 64 bytes that every object begins with.
pub fn object_header(bytes: &[u8]) {
    match Header::decode("x", bytes, kind_of(bytes)) {
        Err(error) => told(&error),
        Ok(header) => assert_eq!(header.encode(), bytes[..HEADER_BYTES], "a header has one spelling"),
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = text.parse::<Key>()
        && let Some(named) = Named::parse(&key)
    {
        assert_eq!(named.key(), key);
    }
    // What somebody pastes as a token.
    if let Some(token) = std::str::from_utf8(bytes).ok().and_then(Token::parse) {
        assert!(Token::parse(&token.expose()).is_some());
    }
}

/// A signed document of any kind, and what its sections say.
pub fn document(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(signed) = bytes.len().checked_sub(SIGNATURE_BYTES) {
        let signature = signing().sign(&[&bytes[..signed]]);
        bytes[signed..].copy_from_slice(&signature);
    }
    let kind = kind_of(&bytes);
    let opened = match Document::decode("x", bytes, kind) {
        Err(error) => return told(&error),
        Ok(document) => document,
    };
    let sections = opened.verify(&signing().public()).expect("it was signed just now");
    json(sections.clear);
    json(sections.body);
    commit_packs(sections.table);
    match opened.open_body(None) {
        Err(error) => told(&error),
        Ok(plain) => json(&plain),
    }
}

/// Whatever JSON the format has.
fn json(bytes: &[u8]) {
    fn as_one<T: serde::de::DeserializeOwned>(bytes: &[u8]) {
        let _ = document::parse::<T>("x", bytes);
    }
    as_one::<Commit>(bytes);
    as_one::<CommitNames>(bytes);
    as_one::<Generation>(bytes);
    as_one::<Invitation>(bytes);
    as_one::<ListedAgent>(bytes);
    as_one::<Marker>(bytes);
    as_one::<OperationClear>(bytes);
    as_one::<OperationRecord>(bytes);
    as_one::<OwnerRecord>(bytes);
    as_one::<Root>(bytes);
    as_one::<SourceDescription>(bytes);
    as_one::<WalClear>(bytes);
}

/// A map leaf.
pub fn leaf(bytes: &[u8]) {
    if let Ok(leaf) = Leaf::decode(bytes) {
        assert!(leaf.length <= LEAF_SPAN);
        let mut again = Vec::new();
        leaf.encode(&mut again);
        assert_eq!(Leaf::decode(&again), Ok(leaf), "what was read can be written");
    }
}

/// A manifest part.
pub fn manifest_part(bytes: &[u8]) {
    for entry in part::decode(bytes).unwrap_or_default() {
        let path = entry.path.as_slice();
        assert!(!path.starts_with(b"/"), "a path must stay inside");
        assert!(path.split(|byte| *byte == b'/').all(|part| part != b".."), "a path must stay inside");
    }
    let _ = FrameTable::decode(&mut Reader::new(bytes));
}

/// A whole pack: header, frames, table, footer.
pub fn pack(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let id = bytes.get(16..32).and_then(|id| id.try_into().ok()).map_or(ObjectId::NONE, ObjectId);
    seal_table(&mut bytes, id);
    let store = Memory::new();
    let size = bytes.len() as u64;
    store.put_new(&layout::pack(id), &bytes).expect("it is empty");
    let keys = PackKeys { packs: BTreeMap::from([(id, ObjectId::NONE)]), keys: BTreeMap::new() };
    let mut opener = FrameOpener::new(Arc::new(keys)).expect("there is memory");
    let read = opener.read_pack(&store, id, &mut |frame, _, plain| {
        assert!(frame.end() <= size, "a frame lies within its pack");
        if let Ok(plain) = plain {
            assert_eq!(plain.len(), frame.plain as usize);
        }
        Ok(())
    });
    if let Err(error) = read {
        told(&error);
    }
}

/// Makes the tag of a pack's table right, where its footer says where that is.
fn seal_table(bytes: &mut [u8], id: ObjectId) {
    let Some(end) = bytes.len().checked_sub(FOOTER_BYTES) else { return };
    let Ok(footer) = Footer::decode(&bytes[end..]) else { return };
    let Some(table) = usize::try_from(footer.table_offset).ok().and_then(|from| bytes.get_mut(from..end))
    else {
        return;
    };
    let Some(plain) = table.len().checked_sub(TAG_BYTES) else { return };
    let (payload, tag) = table.split_at_mut(plain);
    let info = FrameInfo { index: footer.frames, last: true, codec: Codec::None, plain: footer.table_plain };
    tag.copy_from_slice(&ObjectSeal::new(Kind::Pack, id, None).seal(info, payload));
}

/// What is inside a frame that was opened: codec, length, compressed bytes.
pub fn frame(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (Ok(codec), Ok(plain)) = (reader.u8(), reader.u32()) else { return };
    let Some(codec) = Codec::from_number(codec % 3) else { return };
    // Longer ones are refused before they are opened.
    let plain = plain % (MAX_FRAME / 16 + 1);
    let payload = reader.take(reader.remaining()).unwrap_or_default();
    let mut out = Vec::new();
    let mut decompressor = Decompressor::new().expect("there is memory");
    if decompressor.decompress(codec, payload, plain, &mut out).is_some() {
        assert_eq!(out.len(), plain as usize, "a frame has the length that was signed");
    }
}

/// The table of packs in a commit.
pub fn commit_packs(bytes: &[u8]) {
    match decode_packs("x", bytes) {
        Err(error) => told(&error),
        Ok(packs) => assert_eq!(encode_packs(&packs), bytes),
    }
}

/// A WAL file in the repository: its head, its facts, its bytes.
pub fn wal_object(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let header = Header::decode("x", &bytes, Kind::Wal).ok();
    let clear_end = header.map_or(HEADER_BYTES, |header| HEADER_BYTES.saturating_add(header.clear as usize));
    let clear: Option<WalClear> =
        bytes.get(HEADER_BYTES..clear_end).and_then(|clear| document::parse("x", clear).ok());
    if let Some(stored) = clear_end.checked_add(SIGNATURE_BYTES).and_then(|end| bytes.get(..end)) {
        let signature = signing().sign(&[&stored[..clear_end]]);
        bytes[clear_end..clear_end + SIGNATURE_BYTES].copy_from_slice(&signature);
    }
    // Under the name that it claims; under another one it is refused at once.
    let named = clear.and_then(|clear| {
        let digest = refloat_repo::wal_object::name_digest(&clear.digest);
        Some(layout::wal(clear.system, clear.name.parse().ok()?, &digest))
    });
    let key = named.unwrap_or_else(|| "wal/x".parse().expect("a key"));
    let store = Memory::new();
    store.put_new(&key, &bytes).expect("it is empty");
    let head = match read_head(&store, &key, bytes.len() as u64, &|_| Ok(signing().public())) {
        Err(error) => return told(&error),
        Ok(head) => head,
    };
    if let Err(error) = read_facts(&store, &head, None) {
        told(&error);
    }
    let mut length = 0;
    let read = read_body(&store, &head, None, &[0; 32], &mut |piece| {
        length += piece.len() as u64;
        Ok(())
    });
    match read {
        Err(error) => told(&error),
        Ok(_) => assert_eq!(length, head.clear.size),
    }
}
