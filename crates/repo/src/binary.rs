//! Reading and writing the binary parts of the format: little-endian integers and varints.
//!
//! A varint is unsigned LEB128: seven bits a byte, least significant first, at most ten bytes, no padding checks.

/// Bytes that end early or hold an impossible value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadBytes(pub &'static str);

/// Appends `value` as a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number as a varint, zigzag: 0, −1, 1, −2 become 0, 1, 2, 3.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a varint length, then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A place in foreign bytes; every read is checked.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
    /// The next `n` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], BadBytes> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(BadBytes("it ends early"))?;
        self.rest = rest;
        Ok(head)
    }
    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadBytes> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(BadBytes("it ends early"))?;
        self.rest = rest;
        Ok(*head)
    }
    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn u8(&mut self) -> Result<u8, BadBytes> {
        self.array::<1>().map(|[b]| b)
    }
    /// A little-endian number.
    ///
    /// # Errors
    /// When the bytes end.
    pub fn u16(&mut self) -> Result<u16, BadBytes> {
        self.array().map(u16::from_le_bytes)
    }
    /// A little-endian number.
    ///
    /// # Errors
    /// When the bytes end.
    pub fn u32(&mut self) -> Result<u32, BadBytes> {
        self.array().map(u32::from_le_bytes)
    }
    /// A little-endian number.
    ///
    /// # Errors
    /// When the bytes end.
    pub fn u64(&mut self) -> Result<u64, BadBytes> {
        self.array().map(u64::from_le_bytes)
    }
    /// A varint.
    ///
    /// # Errors
    /// When the bytes end or the number has more than 64 bits.
    pub fn varint(&mut self) -> Result<u64, BadBytes> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadBytes("a number is too large"))
    }
    /// A varint that must fit `u32`.
    ///
    /// # Errors
    /// When the bytes end or it does not fit.
    pub fn varint32(&mut self) -> Result<u32, BadBytes> {
        u32::try_from(self.varint()?).map_err(|_| BadBytes("a number is too large"))
    }
    /// A signed varint, zigzag.
    ///
    /// # Errors
    /// When the bytes end or the number has more than 64 bits.
    pub fn signed(&mut self) -> Result<i64, BadBytes> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
    /// A varint that counts items of at least `least` bytes each, so that it can be trusted for an allocation.
    ///
    /// # Errors
    /// When that many items cannot follow.
    pub fn count(&mut self, least: usize) -> Result<usize, BadBytes> {
        let n = self.varint()?;
        let fits =
            usize::try_from(n).ok().filter(|n| n.checked_mul(least).is_some_and(|b| b <= self.rest.len()));
        fits.ok_or(BadBytes("it counts more items than it can hold"))
    }
    /// A varint length and that many bytes.
    ///
    /// # Errors
    /// When the bytes end.
    pub fn bytes(&mut self) -> Result<&'a [u8], BadBytes> {
        let n = self.count(1)?;
        self.take(n)
    }
    /// Nothing may be left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(&self) -> Result<(), BadBytes> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadBytes("bytes follow its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(a: u64, b: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_signed(&mut out, b);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(a));
            prop_assert_eq!(reader.signed(), Ok(b));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.varint().is_ok() && reader.bytes().is_ok() {}
            let _ = Reader::new(&bytes).count(16);
        }
    }
}
