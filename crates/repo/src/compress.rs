//! Compressing frames. Contexts are made once and used again: making one costs more than a small frame.

use serde::{Deserialize, Serialize};

use crate::error::RepoError;

/// How a frame's payload is compressed; numbered in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// 0: as it is.
    None,
    /// 1: one zstd frame.
    Zstd,
    /// 2: one LZ4 block.
    Lz4,
}

impl Codec {
    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Lz4 => 2,
        }
    }
    /// The codec of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            2 => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// What a repository is configured to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    None,
    /// zstd at a level from −7 to 19.
    Zstd(i32),
    /// LZ4.
    Lz4,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

/// Compresses one frame after another.
pub struct Compressor {
    how: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// A compressor with its own context.
    ///
    /// # Errors
    /// When zstd cannot make one.
    pub fn new(how: Compression) -> Result<Self, RepoError> {
        let zstd = match how {
            Compression::Zstd(level) => {
                let mut context = zstd::bulk::Compressor::new(level).map_err(fail)?;
                // The frame's length is kept outside and everything is authenticated: both would be bytes twice.
                context.include_contentsize(false).map_err(fail)?;
                context.include_checksum(false).map_err(fail)?;
                Some(context)
            }
            _ => None,
        };
        Ok(Self { how, zstd })
    }

    /// Compresses `plain` into `out` (cleared first), or copies it where that would not make it smaller. Leaves room
    /// for a tag, so that sealing does not move the buffer.
    ///
    /// # Errors
    /// When zstd fails.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Codec, RepoError> {
        out.clear();
        let codec = match (&mut self.zstd, self.how) {
            (Some(context), _) => {
                out.reserve(zstd::zstd_safe::compress_bound(plain.len()) + crate::crypt::seal::TAG_BYTES);
                context.compress_to_buffer(plain, out).map_err(fail)?;
                Codec::Zstd
            }
            (None, Compression::Lz4) => {
                out.resize(lz4_flex::block::get_maximum_output_size(plain.len()), 0);
                let length = lz4_flex::block::compress_into(plain, out).map_err(fail)?;
                out.truncate(length);
                Codec::Lz4
            }
            _ => Codec::None,
        };
        if codec == Codec::None || out.len() >= plain.len() {
            out.clear();
            out.extend_from_slice(plain);
            return Ok(Codec::None);
        }
        Ok(codec)
    }
}

/// Opens one frame after another.
pub struct Decompressor {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decompressor {
    /// A decompressor with its own context.
    ///
    /// # Errors
    /// When zstd cannot make one.
    pub fn new() -> Result<Self, RepoError> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new().map_err(fail)? })
    }

    /// Puts exactly `plain` bytes into `out` (cleared first); `None` when `payload` is not what the codec made of them.
    pub fn decompress(&mut self, codec: Codec, payload: &[u8], plain: u32, out: &mut Vec<u8>) -> Option<()> {
        let length = plain as usize;
        out.clear();
        match codec {
            Codec::None => out.extend_from_slice(payload),
            Codec::Zstd => {
                out.reserve(length);
                self.zstd.decompress_to_buffer(payload, out).ok()?;
            }
            Codec::Lz4 => {
                out.resize(length, 0);
                let written = lz4_flex::block::decompress_into(payload, out).ok()?;
                out.truncate(written);
            }
        }
        (out.len() == length).then_some(())
    }
}

fn fail(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RepoError {
    RepoError::internal("compress a frame", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_round_trip(plain in prop::collection::vec(0_u8..4, 0..5000), level in -7..=19_i32) {
            for how in [Compression::None, Compression::Zstd(level), Compression::Lz4] {
                let mut out = Vec::new();
                let codec = Compressor::new(how).expect("a context").compress(&plain, &mut out).expect("compresses");
                let mut back = Vec::new();
                let mut decompressor = Decompressor::new().expect("a context");
                prop_assert!(decompressor.decompress(codec, &out, plain.len() as u32, &mut back).is_some());
                prop_assert_eq!(&back, &plain);
                prop_assert!(decompressor.decompress(codec, &out, plain.len() as u32 + 1, &mut back).is_none());
            }
        }

        #[test]
        fn foreign_bytes_never_panic(payload: Vec<u8>, plain in 0_u32..100_000) {
            let mut decompressor = Decompressor::new().expect("a context");
            let mut out = Vec::new();
            for codec in [Codec::None, Codec::Zstd, Codec::Lz4] {
                let _ = decompressor.decompress(codec, &payload, plain, &mut out);
            }
        }
    }
}
