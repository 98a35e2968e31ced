//! A large backup killed in the middle, again and again: what is whole is not stored again, and no key seals twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use refloat_testkit::cluster::TestCluster;
use refloat_testkit::failpoints::arm;

use super::site::{Site, prove, run, start_restored};

/// Bytes of a header; the id is in it.
const HEADER: usize = 64;

fn files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// Everything that was ever in the repository, unfinished files too: links hold what is deleted.
#[derive(Default)]
struct Seen {
    links: Vec<PathBuf>,
}

impl Seen {
    fn look(&mut self, site: &Site) {
        let mut found = Vec::new();
        files(&site.repo(), &mut found);
        let into = site.path("seen-objects");
        fs::create_dir_all(&into).expect("a directory");
        for path in found {
            let link = into.join(self.links.len().to_string());
            fs::hard_link(&path, &link).expect("links");
            self.links.push(link);
        }
    }

    /// Key and nonces derive from an object's id and a frame's place in it: of all files with one id each is the
    /// beginning of the longest. Answers how many ids there are.
    fn sealed_once(&self) -> usize {
        use std::os::unix::fs::MetadataExt as _;
        let mut by_id: BTreeMap<[u8; 16], BTreeMap<u64, &Path>> = BTreeMap::new();
        for link in &self.links {
            let mut head = [0; HEADER];
            let file = fs::File::open(link).expect("opens");
            if std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).is_err() {
                continue;
            }
            let id = head[16..32].try_into().expect("16 bytes");
            by_id.entry(id).or_default().insert(file.metadata().expect("stat").ino(), link);
        }
        for (id, links) in by_id.iter().filter(|(_, links)| links.len() > 1) {
            let all: Vec<Vec<u8>> = links.values().map(|link| fs::read(link).expect("reads")).collect();
            let longest = all.iter().max_by_key(|bytes| bytes.len()).expect("some");
            assert!(all.iter().all(|bytes| longest.starts_with(bytes)), "{id:02x?} seals two plaintexts");
        }
        by_id.len()
    }
}

#[test]
fn a_large_backup_killed_twice_stores_little_again() {
    let mut site = Site::with(TestCluster::builder().checksums(true), true, "jobs = 1\n");
    let text = fs::read_to_string(&site.config).expect("reads");
    let plain = text.replace("[repository.local]\n", "[repository.local]\ncompression = \"none\"\n");
    fs::write(&site.config, plain).expect("writes");
    site.cluster.pgbench_init(10);
    let mut seen = Seen::default();
    let mut begun = Vec::new();
    for round in 1..=2 {
        let mut command = site.command(&["backup", "prod", "--type", "full"]);
        let killed = run(arm(&mut command, "pack.create=kill@4"));
        assert_eq!(killed.code, None, "killed by a signal: {}", killed.stderr);
        seen.look(&site);
        site.run(&["verify", "prod"]).ends(0);
        let mut packs = Vec::new();
        files(&site.repo().join("packs"), &mut packs);
        begun.push(packs.len());
        // Life goes on: pages change, and the server is restarted.
        let change =
            format!("update pgbench_accounts set abalance = {round} where aid % 20000 between 1 and 100");
        site.cluster.psql("postgres", &change);
        site.cluster.restart();
    }
    assert!(begun[1] > begun[0], "{begun:?}");
    let made = site.run(&["backup", "prod", "--type", "full", "--json"]).ends(0).json();
    let report = find(&made, "stored_bytes").expect("a report");
    let of = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"));
    assert_eq!(report["type"], "full");
    assert!(of("stored_bytes") * 2 < of("source_bytes"), "{report}");
    assert!(of("reused_bytes") * 2 > of("source_bytes"), "{report}");
    seen.look(&site);
    assert!(seen.sealed_once() > begun[1]);

    // All of it is there, nothing else is, and it is the cluster.
    let verified = site.run(&["verify", "prod", "--read-data", "--json"]).ends(0);
    assert!(!verified.stdout.contains("\"object\":\"packs/"), "{}", verified.stdout);
    let truth = "select sum(abalance), count(*), sum(hashtext(a::text)) from pgbench_accounts a";
    let before = site.cluster.psql("postgres", truth);
    site.archive_all();
    let directory = site.restore("after", &["latest", "--as", "copy"]);
    let clone = start_restored(15, &directory);
    assert_eq!(clone.psql("postgres", truth), before);
    prove(clone);
}

/// The object that has this field.
fn find<'a>(json: &'a serde_json::Value, field: &str) -> Option<&'a serde_json::Value> {
    match json {
        serde_json::Value::Object(map) if map.contains_key(field) => Some(json),
        serde_json::Value::Object(map) => map.values().find_map(|value| find(value, field)),
        serde_json::Value::Array(all) => all.iter().find_map(|value| find(value, field)),
        _ => None,
    }
}
