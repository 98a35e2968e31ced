//! One `initdb` per (version, options): later clusters are copies of the template, which takes a tenth of the time.
//!
//! Copies share a system identifier. Templates live in the test cache and are found by every test process; a crash leaves
//! a directory with another name, which the next maker removes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::owner::Owner;
use super::run;

/// What initdb is asked for.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) version: u32,
    pub(super) checksums: bool,
    pub(super) wal_segment_size_mb: u32,
}

/// Fills `data`, which must not exist, with a new cluster.
pub(super) fn make_cluster(owner: &Owner, bin: &Path, options: &Options, fresh: bool, data: &Path) {
    if fresh {
        initdb(owner, bin, options, data);
        return;
    }
    let template = template(owner, bin, options);
    let mut copy = owner.command("cp");
    copy.args(["-a", "--reflink=auto", "--"]).arg(&template).arg(data);
    run(&mut copy);
}

fn initdb(owner: &Owner, bin: &Path, options: &Options, data: &Path) {
    let mut command = owner.command(bin.join("initdb"));
    command.arg("-D").arg(data).args([
        "--username=postgres",
        "--auth=trust",
        "--no-sync",
        "--no-instructions",
    ]);
    command.args(["--encoding=UTF8", "--locale=C.UTF-8"]);
    command.arg(format!("--wal-segsize={}", options.wal_segment_size_mb));
    match (options.checksums, options.version) {
        (true, _) => drop(command.arg("--data-checksums")),
        (false, 18..) => drop(command.arg("--no-data-checksums")),
        (false, _) => {}
    }
    run(&mut command);
}

/// The directory of the finished template, made under a lock when it is missing.
fn template(owner: &Owner, bin: &Path, options: &Options) -> PathBuf {
    let place = place(owner);
    let binary = fs::metadata(bin.join("postgres")).expect("the server binary was found");
    let name = format!(
        "{}-{}-{}-{}-{:x}-{:x}",
        options.version,
        if options.checksums { "sums" } else { "nosums" },
        options.wal_segment_size_mb,
        owner.uid,
        binary.mtime(),
        binary.size()
    );
    let finished = place.join(&name);
    if finished.exists() {
        return finished;
    }
    let lock =
        fs::File::create(place.join(format!("{name}.lock"))).expect("the template directory can be written");
    lock.lock().expect("a file can be locked");
    if !finished.exists() {
        let half = place.join(format!("{name}.half"));
        let _ = fs::remove_dir_all(&half);
        initdb(owner, bin, options, &half);
        fs::rename(&half, &finished).expect("a finished template can be renamed");
    }
    finished
}

/// Where templates are kept: in the test cache, or below the temporary directory when that cannot be written.
fn place(owner: &Owner) -> PathBuf {
    let in_cache = super::binaries::cache_directory().join("templates");
    if fs::create_dir_all(&in_cache).is_ok() && fs::write(in_cache.join(".writable"), b"").is_ok() {
        owner.give(&in_cache);
        return in_cache;
    }
    let place = std::env::temp_dir().join(format!("refloat-templates-{}", owner.uid));
    fs::create_dir_all(&place).expect("the temporary directory can be written");
    owner.give(&place);
    place
}
