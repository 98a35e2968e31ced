//! CRC-32C of a range from the CRCs of its pieces, whatever order they come in.
//!
//! A CRC is linear: the CRC of `A B` is that of `A`, moved on by the length of `B`, XOR that of `B`. So each piece adds its
//! CRC, moved on by the bytes behind it, and XOR takes them in any order: threads need no lock and no order.

/// The polynomial, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `a` times `b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & 0_u32.wrapping_sub((a >> bit) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
    }
    product
}

/// x to the power of 8 · byte · 256^place: moves a CRC on by `byte` · 256^place bytes.
static POWERS: [[u32; 256]; 8] = powers();

const fn powers() -> [[u32; 256]; 8] {
    let mut table = [[0x8000_0000; 256]; 8];
    let mut step = 0x0080_0000;
    let mut place = 0;
    while place < 8 {
        let mut byte = 1;
        while byte < 256 {
            table[place][byte] = multiply(table[place][byte - 1], step);
            byte += 1;
        }
        step = multiply(table[place][255], step);
        place += 1;
    }
    table
}

/// What a piece with this CRC adds to the CRC of its range, `behind` bytes before the range's end.
pub(crate) fn contribution(mut crc: u32, behind: u64) -> u32 {
    for (powers, byte) in POWERS.iter().zip(behind.to_le_bytes()) {
        if byte != 0 {
            crc = multiply(powers[usize::from(byte)], crc);
        }
    }
    crc
}

/// CRC-32C of so many zero bytes.
pub(crate) fn of_zeros(length: u64) -> u32 {
    !contribution(!0, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_add_up_in_any_order(bytes: Vec<u8>, cuts: Vec<prop::sample::Index>, zeros in 0_usize..100_000) {
            let mut bytes = bytes;
            let before = bytes.len();
            bytes.extend(std::iter::repeat_n(0, zeros));
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(before + 1)).collect();
            cuts.extend([0, before]);
            cuts.sort_unstable();
            let mut found = contribution(of_zeros(zeros as u64), 0);
            for pair in cuts.windows(2).rev() {
                let piece = &bytes[pair[0]..pair[1]];
                found ^= contribution(crc32c::crc32c(piece), (bytes.len() - pair[1]) as u64);
            }
            prop_assert_eq!(found, crc32c::crc32c(&bytes));
        }

        #[test]
        fn moving_on_is_what_the_library_does(crc: u32, behind in 1_usize..1 << 40) {
            prop_assert_eq!(contribution(crc, behind as u64), crc32c::crc32c_combine(crc, 0, behind));
        }
    }
}
