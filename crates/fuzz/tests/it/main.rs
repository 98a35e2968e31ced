//! Each parser of foreign bytes over its seeds and some mutations of them, the same ones with every run.

mod seeds;

use std::fs;

use refloat_fuzz::mutate::Numbers;
use refloat_fuzz::{TARGETS, Target, seeds_of};

/// Mutations of each target: all targets together take some seconds without optimisation.
const MUTATIONS: usize = 2000;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = seeds_of(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("it can be read")).collect()
}

fn run(target: &Target) {
    let seeds = seeds(target.name);
    assert!(!seeds.is_empty(), "{} has no seed", target.name);
    for seed in &seeds {
        (target.body)(seed);
    }
    (target.body)(&[]);
    let mut numbers = Numbers::of(target.name);
    for round in 0..MUTATIONS {
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        let other = seeds[numbers.below(seeds.len())].as_slice();
        numbers.mutate(&mut bytes, other);
        if std::panic::catch_unwind(|| (target.body)(&bytes)).is_err() {
            let kept = std::env::temp_dir().join(format!("{}-{round}", target.name));
            fs::write(&kept, &bytes).expect("a temporary file");
            panic!("what it was given is in {}; once mended, it becomes a seed", kept.display());
        }
    }
}

macro_rules! each {
    ($($name:ident,)*) => {
        $(#[test]
        fn $name() {
            let target = TARGETS.iter().find(|target| target.name == stringify!($name));
            run(target.expect("it is a target"));
        })*

        #[test]
        fn every_target_is_run_here_and_by_the_fuzzer() {
            let here = [$(stringify!($name)),*];
            let all: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(here.as_slice(), all);
            let fuzz = seeds_of("..");
            let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the fuzzer's workspace");
            for name in all {
                let source = fuzz.join(format!("fuzz_targets/{name}.rs"));
                assert!(source.exists(), "{} is not there", source.display());
                assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in fuzz/Cargo.toml");
            }
        }
    };
}

each! {
    wal_segment,
    wal_record,
    control_file,
    backup_label,
    tablespace_map,
    timeline_history,
    backup_history,
    server_configuration,
    page,
    file_names,
    object_header,
    document,
    leaf,
    manifest_part,
    pack,
    frame,
    commit_packs,
    wal_object,
    configuration,
}
