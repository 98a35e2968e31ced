//! Measures how fast page checksums are computed: `cargo run --release -p refloat-pg --example page_speed`.
#![expect(clippy::print_stdout, reason = "a measurement for a person to read")]

use std::hint::black_box;
use std::time::Instant;

use refloat_pg::page::Engine;

fn main() {
    for (name, size) in [("256 KiB (in cache)", 256 << 10), ("256 MiB (from memory)", 256 << 20)] {
        let data: Vec<u8> =
            (0..size).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
        for engine in Engine::available() {
            let rounds = (2 << 30) / size;
            let mut best = f64::MAX;
            for _ in 0..3 {
                let start = Instant::now();
                let mut all = 0_u32;
                for _ in 0..rounds {
                    for (block, page) in (0_u32..).zip(black_box(&data).chunks_exact(8192)) {
                        all = all.wrapping_add(u32::from(engine.checksum(page, block)));
                    }
                }
                black_box(all);
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!("{name:22} {engine:?}: {:.1} GB/s", (rounds * size) as f64 / best / 1e9);
        }
    }
}
