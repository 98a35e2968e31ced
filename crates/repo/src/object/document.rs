//! Small signed objects: a header, a clear JSON section, a clear binary table, a sealed body, a signature.
//!
//! Commits, envelopes, enrolments, operation records and generations are documents. The signature covers every byte
//! before it, so a document is whole and from a known agent, or it is refused.

use refloat_types::ObjectId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::header::{HEADER_BYTES, Header};
use crate::binary::Reader;
use crate::compress::Codec;
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal, TAG_BYTES};
use crate::crypt::sign::{PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::error::RepoError;
use crate::kind::{Kind, Suite};

/// What goes into a document besides its clear section.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// Bytes that are protected by themselves, such as an age file.
    Raw(&'a [u8]),
    /// Bytes to be sealed with this data key; stored as they are where there is none.
    Sealed(&'a [u8], Option<&'a DataKey>),
}

/// A document that was read and whose sections were found; nothing is believed before [`Document::verify`].
#[derive(Debug)]
pub struct Document {
    object: String,
    /// Its header.
    pub header: Header,
    bytes: Vec<u8>,
    table: std::ops::Range<usize>,
    body: std::ops::Range<usize>,
}

/// A document whose signature holds.
pub struct Sections<'a> {
    /// The JSON section.
    pub clear: &'a [u8],
    /// The binary table.
    pub table: &'a [u8],
    /// The body as stored.
    pub body: &'a [u8],
}

/// Who signs: an agent, or the root key (agent id zero).
pub enum Signer<'a> {
    /// The repository's root key.
    Root(&'a SigningKey),
    /// An enrolled agent's key.
    Agent(&'a SigningKey),
}

impl Document {
    /// The bytes of a new document.
    ///
    /// # Errors
    /// When `clear` cannot be written as JSON, or a section is larger than the format allows.
    pub fn encode(
        kind: Kind,
        suite: Suite,
        id: ObjectId,
        signer: &Signer<'_>,
        clear: &impl Serialize,
        table: &[u8],
        body: Body<'_>,
    ) -> Result<Vec<u8>, RepoError> {
        let clear = serde_json::to_vec(clear).map_err(|e| RepoError::internal("write a document", e))?;
        let length = u32::try_from(clear.len())
            .map_err(|e| RepoError::internal("write a document's clear section", e))?;
        let key = match &body {
            Body::Sealed(_, Some(key)) => key.id(),
            _ => ObjectId::NONE,
        };
        let (signing, agent) = match signer {
            Signer::Root(key) => (key, ObjectId::NONE),
            Signer::Agent(key) => (key, key.public().agent_id()),
        };
        let header = Header { kind, suite, clear: length, id, key, agent };
        let body = match body {
            Body::Empty => Vec::new(),
            Body::Raw(bytes) => bytes.to_vec(),
            Body::Sealed(plain, key) => seal_body(kind, id, plain, key)?,
        };
        let mut out =
            Vec::with_capacity(HEADER_BYTES + 16 + clear.len() + table.len() + body.len() + SIGNATURE_BYTES);
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&(table.len() as u64).to_le_bytes());
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&clear);
        out.extend_from_slice(table);
        out.extend_from_slice(&body);
        let signature = signing.sign(&[&out]);
        out.extend_from_slice(&signature);
        Ok(out)
    }

    /// Finds the sections of `bytes`.
    ///
    /// # Errors
    /// `Damaged` or `NewerFormat`.
    pub fn decode(object: &str, bytes: Vec<u8>, kind: Kind) -> Result<Self, RepoError> {
        let header = Header::decode(object, &bytes, kind)?;
        let damaged = || RepoError::damaged(object, "the lengths of its sections do not fit its size");
        let mut reader = Reader::new(bytes.get(HEADER_BYTES..).ok_or_else(damaged)?);
        let mut length = || reader.u64().ok().and_then(|n| usize::try_from(n).ok()).ok_or_else(damaged);
        let (table_length, body_length) = (length()?, length()?);
        let table_start = HEADER_BYTES + 16 + header.clear as usize;
        let body_start = table_start.checked_add(table_length).ok_or_else(damaged)?;
        let body_end = body_start.checked_add(body_length).ok_or_else(damaged)?;
        if body_end.checked_add(SIGNATURE_BYTES) != Some(bytes.len()) {
            return Err(damaged());
        }
        let object = object.to_owned();
        Ok(Self { object, header, bytes, table: table_start..body_start, body: body_start..body_end })
    }

    /// The sections, if `key` signed them.
    ///
    /// # Errors
    /// `UnknownOrigin` when the signature does not hold.
    pub fn verify(&self, key: &PublicKey) -> Result<Sections<'_>, RepoError> {
        let (signed, signature) = self.bytes.split_at(self.body.end);
        if !key.verifies(&[signed], signature) {
            let why = "its signature does not hold".to_owned();
            return Err(RepoError::UnknownOrigin { object: self.object.clone(), why });
        }
        Ok(self.unverified())
    }

    /// BLAKE3 of all its bytes.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// The sections, believed by nobody: only for what proves itself otherwise.
    pub fn unverified(&self) -> Sections<'_> {
        Sections {
            clear: &self.bytes[HEADER_BYTES + 16..self.table.start],
            table: &self.bytes[self.table.clone()],
            body: &self.bytes[self.body.clone()],
        }
    }

    /// Opens a body that a data key seals.
    ///
    /// # Errors
    /// `Damaged` when it is not what was sealed.
    pub fn open_body(&self, key: Option<&DataKey>) -> Result<Vec<u8>, RepoError> {
        let mut stored = self.bytes[self.body.clone()].to_vec();
        let damaged = || RepoError::damaged(&self.object, "its body cannot be opened");
        let plain =
            stored.len().checked_sub(TAG_BYTES).and_then(|n| u32::try_from(n).ok()).ok_or_else(damaged)?;
        let seal = ObjectSeal::new(self.header.kind, self.header.id, key);
        Ok(seal.open(body_frame(plain), &mut stored).ok_or_else(damaged)?.to_vec())
    }
}

impl Sections<'_> {
    /// The clear section as `T`.
    ///
    /// # Errors
    /// `Damaged` when it is no such document.
    pub fn clear_as<T: DeserializeOwned>(&self, object: &str) -> Result<T, RepoError> {
        parse(object, self.clear)
    }
}

/// JSON of `object` as `T`.
///
/// # Errors
/// `Damaged` when it is no such document.
pub fn parse<T: DeserializeOwned>(object: &str, json: &[u8]) -> Result<T, RepoError> {
    serde_json::from_slice(json).map_err(|error| RepoError::damaged(object, error))
}

fn body_frame(plain: u32) -> FrameInfo {
    FrameInfo { index: 0, last: true, codec: Codec::None, plain }
}

fn seal_body(kind: Kind, id: ObjectId, plain: &[u8], key: Option<&DataKey>) -> Result<Vec<u8>, RepoError> {
    let length = u32::try_from(plain.len()).map_err(|e| RepoError::internal("write a document's body", e))?;
    let mut out = plain.to_vec();
    let tag = ObjectSeal::new(kind, id, key).seal(body_frame(length), &mut out);
    out.extend_from_slice(&tag);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::random;

    #[test]
    fn every_byte_is_covered() {
        let signing = SigningKey::draw();
        let key = DataKey::draw();
        let clear = serde_json::json!({ "number": 7 });
        let body = Body::Sealed(b"secret", Some(&key));
        let id = random::object_id();
        let bytes = Document::encode(
            Kind::Commit,
            Suite::Standard,
            id,
            &Signer::Agent(&signing),
            &clear,
            b"table",
            body,
        )
        .expect("encodes");
        let read = |bytes: Vec<u8>| {
            let document = Document::decode("x", bytes, Kind::Commit)?;
            document.verify(&signing.public())?;
            document.open_body(Some(&key))
        };
        assert_eq!(read(bytes.clone()).expect("whole"), b"secret");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(read(bad).is_err(), "byte {at}");
            assert!(read(bytes[..at].to_vec()).is_err(), "cut at {at}");
        }
        assert!(!bytes.windows(6).any(|w| w == b"secret"));
    }

    #[test]
    fn a_newer_format_is_refused_politely() {
        let signing = SigningKey::draw();
        let id = random::object_id();
        let mut bytes =
            Document::encode(Kind::Owner, Suite::Plain, id, &Signer::Root(&signing), &(), &[], Body::Empty)
                .expect("encodes");
        bytes[8] = 2;
        let error = Document::decode("x", bytes, Kind::Owner).expect_err("newer");
        assert_eq!(error.to_string(), "\"x\" has format 2; this release reads formats up to 1");
    }
}
