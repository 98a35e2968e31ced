//! The 64 bytes that every object begins with. See `docs/src/format/objects.md`.

use refloat_types::ObjectId;

use crate::binary::Reader;
use crate::error::RepoError;
use crate::kind::{FORMAT, Kind, Suite};

/// Length of a header.
pub const HEADER_BYTES: usize = 64;

/// As PNG's: a byte that is no ASCII, a name, and line ends that a text transfer would change.
pub(crate) const MAGIC: [u8; 8] = *b"\x89RFLT\r\n\x1a";

/// The first 64 bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// How it is sealed.
    pub suite: Suite,
    /// Length of its clear section.
    pub clear: u32,
    /// Its id; salt of its key.
    pub id: ObjectId,
    /// Id of the data key that seals it; none where nothing is sealed by one.
    pub key: ObjectId,
    /// Who signed it; none for packs (a signed commit names them) and for what the root key signs.
    pub agent: ObjectId,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        out[10] = self.kind.number();
        out[11] = self.suite.number();
        out[12..16].copy_from_slice(&self.clear.to_le_bytes());
        out[16..32].copy_from_slice(&self.id.0);
        out[32..48].copy_from_slice(&self.key.0);
        out[48..64].copy_from_slice(&self.agent.0);
        out
    }

    /// Reads the header of `object`, which must be of `kind`.
    ///
    /// # Errors
    /// `NewerFormat` for what a later release wrote; `Damaged` for anything that is no such header.
    pub fn decode(object: &str, bytes: &[u8], kind: Kind) -> Result<Self, RepoError> {
        let damaged = |what: &str| RepoError::damaged(object, what);
        let mut reader = Reader::new(bytes);
        let short = |_| damaged("it ends within its header");
        if reader.array().map_err(short)? != MAGIC {
            return Err(damaged("it does not begin as an object of Refloat does"));
        }
        let format = reader.u16().map_err(short)?;
        if format > FORMAT {
            return Err(RepoError::NewerFormat { object: object.to_owned(), found: format, newest: FORMAT });
        }
        if format == 0 || Kind::from_number(reader.u8().map_err(short)?) != Some(kind) {
            return Err(damaged("its header says that it is something else"));
        }
        let suite = Suite::try_from(reader.u8().map_err(short)?).map_err(|text| damaged(&text))?;
        Ok(Self {
            kind,
            suite,
            clear: reader.u32().map_err(short)?,
            id: ObjectId(reader.array().map_err(short)?),
            key: ObjectId(reader.array().map_err(short)?),
            agent: ObjectId(reader.array().map_err(short)?),
        })
    }
}
