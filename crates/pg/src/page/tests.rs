use super::*;

/// Bytes that look random and are the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn page(seed: u64, block: u32) -> Vec<u8> {
    let mut page = noise(seed, 8192);
    for (at, value) in [(10, 0_u16), (12, 100), (14, 4000), (16, 8176)] {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let sum = checksum(&page, block);
    page[8..10].copy_from_slice(&sum.to_le_bytes());
    page
}

/// The definition, one column after the other.
fn slow(page: &[u8], block: u32) -> u16 {
    let mut page = page.to_vec();
    page[8] = 0;
    page[9] = 0;
    let mut all = 0;
    for (lane, seed) in SEEDS.iter().enumerate() {
        let mut sum = *seed;
        for row in 0..page.len() / 128 + 2 {
            let at = row * 128 + lane * 4;
            let word = page.get(at..at + 4).map_or(0, |w| u32::from_le_bytes(w.try_into().unwrap()));
            let x = sum ^ word;
            sum = x.wrapping_mul(PRIME) ^ (x >> 17);
        }
        all ^= sum;
    }
    ((all ^ block) % 65535 + 1) as u16
}

#[test]
fn all_engines_agree_with_the_definition() {
    for length in [1024, 2048, 4096, 8192, 16384, 32768] {
        for seed in 0..20 {
            let page = noise(seed, length);
            for block in [0, 1, 131_072, u32::MAX] {
                for engine in Engine::available() {
                    assert_eq!(engine.checksum(&page, block), slow(&page, block), "{engine:?}");
                }
            }
        }
    }
}

#[test]
fn states_are_told_apart() {
    let good = page(1, 7);
    assert_eq!(check_page(&good, 7), PageState::Valid);
    assert!(matches!(check_page(&good, 8), PageState::BadChecksum { .. }), "a page in another's place");
    assert_eq!(check_page(&[0; 8192], 7), PageState::Zero);
    assert_eq!(check_page(&[], 7), PageState::Partial { length: 0 });
    for at in 0..8192 {
        let mut zero = vec![0; 8192];
        zero[at] = 1;
        assert!(!check_page(&zero, 7).is_good(), "byte {at}");
    }
    let mut odd = good.clone();
    odd[12..14].copy_from_slice(&5000_u16.to_le_bytes());
    assert_eq!(check_page_header(&odd), PageState::BadHeader);
    let sum = checksum(&odd, 7);
    odd[8..10].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(check_page(&odd, 7), PageState::BadHeader, "its checksum holds");
    assert_eq!(check_page_header(&good), PageState::Valid);
}

#[test]
fn a_buffer_is_judged_block_by_block() {
    let mut data: Vec<u8> = (0..9).flat_map(|block| page(block, 100 + block as u32)).collect();
    data[8192 * 3 + 5000] ^= 1;
    data[8192 * 6..8192 * 7].fill(0);
    data.extend_from_slice(&[1; 100]);
    let mut found = Vec::new();
    assert_eq!(check_pages(&data, 100, 8192, true, |block, state| found.push((block, state))), 9);
    assert_eq!(found.len(), 2);
    assert!(matches!(found[0], (103, PageState::BadChecksum { .. })));
    assert_eq!(found[1], (109, PageState::Partial { length: 100 }));
    found.clear();
    check_pages(&data, 100, 8192, false, |block, state| found.push((block, state)));
    assert_eq!(found, [(109, PageState::Partial { length: 100 })]);
}

#[test]
fn the_lsn_is_two_words() {
    let mut page = vec![0; 8192];
    page[0..4].copy_from_slice(&0x16_u32.to_le_bytes());
    page[4..8].copy_from_slice(&0xB374_D848_u32.to_le_bytes());
    assert_eq!(page_lsn(&page).map(|lsn| lsn.to_string()), Some("16/B374D848".to_owned()));
    assert_eq!(page_lsn(&page[..7]), None);
}
