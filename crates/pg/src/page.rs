//! Pages of relations: their checksum, their LSN, and whether a page is what PostgreSQL would read without complaint.
//!
//! The checksum is computed for every page of every backup, so it must keep up with memory, not with disks:
//! [`check_pages`] judges a whole buffer with the widest vectors the processor has, while the buffer is in cache.
//!
//! PostgreSQL: `src/include/storage/checksum_impl.h`, `src/include/storage/bufpage.h`, `PageIsVerified` in
//! `src/backend/storage/page/bufpage.c`; unchanged from 13 to 18.

use refloat_types::Lsn;

/// Columns that are hashed side by side: a row is 128 bytes.
const LANES: usize = 32;
const ROW: usize = LANES * 4;
/// The prime of 32-bit FNV-1a.
const PRIME: u32 = 16_777_619;
/// Where each column's hash begins; part of PostgreSQL's on-disk format.
const SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Bytes of the header of every page: LSN (8), checksum (2), flags (2), lower (2), upper (2), special (2), size and
/// version (2), prune xid (4).
const HEADER: usize = 24;

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// A page that PostgreSQL reads without complaint.
    Valid,
    /// All zero: allocated and never written. PostgreSQL reads it without complaint.
    Zero,
    /// Its checksum does not hold.
    BadChecksum {
        /// What the bytes and the block number give.
        computed: u16,
        /// What the page carries.
        stored: u16,
    },
    /// Its header is impossible: PostgreSQL refuses such a page whatever its checksum. A page that says it is new
    /// and is not all zero is one.
    BadHeader,
    /// Less than a block: a file that is being extended, or was cut.
    Partial {
        /// Bytes present.
        length: usize,
    },
}

impl PageState {
    /// Would PostgreSQL read it without complaint?
    pub const fn is_good(self) -> bool {
        match self {
            Self::Valid | Self::Zero => true,
            Self::BadChecksum { .. } | Self::BadHeader | Self::Partial { .. } => false,
        }
    }
}

/// Folds one row into the columns.
#[inline(always)]
fn mix(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    for (sum, word) in sums.iter_mut().zip(row.as_chunks::<4>().0) {
        let x = *sum ^ u32::from_le_bytes(*word);
        *sum = x.wrapping_mul(PRIME) ^ (x >> 17);
    }
}

/// The 32-bit hash of a page with its checksum field taken as 0, without the block number.
#[inline(always)]
fn hash(page: &[u8]) -> u32 {
    let mut rows = page.as_chunks::<ROW>().0.iter();
    let mut sums = SEEDS;
    if let Some(first) = rows.next() {
        let mut first = *first;
        first[8] = 0;
        first[9] = 0;
        mix(&mut sums, &first);
    }
    for row in rows {
        mix(&mut sums, row);
    }
    for _ in 0..2 {
        mix(&mut sums, &[0; ROW]);
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn hash_avx2(page: &[u8]) -> u32 {
    hash(page)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn hash_avx512(page: &[u8]) -> u32 {
    hash(page)
}

/// One way to compute the hash; all give the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Plain code, on every processor.
    Portable,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Engine {
    /// Every engine this processor can run, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
            if has_avx512() {
                all.push(Self::Avx512);
            }
        }
        all
    }
    /// The fastest engine of this processor. The question is answered from a cache: ask it as often as you like.
    #[inline]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The hash; falls back to plain code on a processor that lacks what the engine needs.
    #[inline]
    fn hash(self, page: &[u8]) -> u32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if is_x86_feature_detected!("avx2") => {
                // SAFETY: the processor was just seen to have the feature.
                #[expect(unsafe_code, reason = "calling code compiled for a feature that was detected")]
                unsafe {
                    hash_avx2(page)
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if has_avx512() => {
                // SAFETY: the processor was just seen to have the features.
                #[expect(unsafe_code, reason = "calling code compiled for features that were detected")]
                unsafe {
                    hash_avx512(page)
                }
            }
            _ => hash(page),
        }
    }

    /// The checksum of a page; see [`checksum`].
    #[inline]
    pub fn checksum(self, page: &[u8], block: u32) -> u16 {
        // Never 0, so that 0 can mean "never computed".
        ((self.hash(page) ^ block) % 65535 + 1) as u16
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
}

/// The checksum PostgreSQL gives to `page` as block `block` of a relation fork; what the page carries in its checksum
/// field does not matter. The block counts from the fork's first relation segment.
///
/// `page` is a whole block (a multiple of 128 bytes; what is beyond is not looked at).
#[inline]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    Engine::best().checksum(page, block)
}

fn field(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

/// The LSN of the last change to a page; `None` for bytes shorter than a page header. Means nothing in a bad page.
pub fn page_lsn(page: &[u8]) -> Option<Lsn> {
    let high = u32::from_le_bytes(page.get(0..4)?.try_into().ok()?);
    let low = u32::from_le_bytes(page.get(4..8)?.try_into().ok()?);
    Some(Lsn(u64::from(high) << 32 | u64::from(low)))
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

/// What PostgreSQL asks of a header before it uses a page.
fn header_is_sane(page: &[u8]) -> bool {
    /// has free lines, page full, all visible
    const KNOWN_FLAGS: u16 = 0x0007;
    let (flags, lower, upper, special) = (field(page, 10), field(page, 12), field(page, 14), field(page, 16));
    flags & !KNOWN_FLAGS == 0
        && lower <= upper
        && upper <= special
        && usize::from(special) <= page.len()
        && special.is_multiple_of(8)
}

/// Judges one whole block of a cluster with checksums.
#[inline]
pub fn check_page(page: &[u8], block: u32) -> PageState {
    judge(page, Some((Engine::best(), block)))
}

/// Judges one whole block of a cluster without checksums: only its header tells.
pub fn check_page_header(page: &[u8]) -> PageState {
    judge(page, None)
}

#[inline]
fn judge(page: &[u8], checksum: Option<(Engine, u32)>) -> PageState {
    if page.len() < ROW.max(HEADER) {
        return PageState::Partial { length: page.len() };
    }
    // PostgreSQL calls a page new when its upper bound is 0; then it must be nothing but zeros.
    if field(page, 14) == 0 {
        return if is_zero(page) { PageState::Zero } else { PageState::BadHeader };
    }
    if let Some((engine, block)) = checksum {
        let (computed, stored) = (engine.checksum(page, block), field(page, 8));
        if computed != stored {
            return PageState::BadChecksum { computed, stored };
        }
    }
    if header_is_sane(page) { PageState::Valid } else { PageState::BadHeader }
}

/// Judges every block of `data`, whose first is block `first_block` of the relation fork, and calls `bad` with the
/// number and state of each that is not good, a partial one at the end included. With `checksums` off only headers are
/// judged. Returns how many whole blocks there were.
pub fn check_pages(
    data: &[u8],
    first_block: u32,
    block_size: usize,
    checksums: bool,
    mut bad: impl FnMut(u32, PageState),
) -> u32 {
    let engine = Engine::best();
    let mut block = first_block;
    for page in data.chunks(block_size.max(ROW)) {
        let state = if page.len() < block_size {
            PageState::Partial { length: page.len() }
        } else {
            judge(page, checksums.then_some((engine, block)))
        };
        if !state.is_good() {
            bad(block, state);
        }
        if page.len() >= block_size {
            block = block.wrapping_add(1);
        }
    }
    block.wrapping_sub(first_block)
}

#[cfg(test)]
mod tests;
