//! The demonstration, played whole, and interrupted.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use refloat_testkit::cluster::skip_without;

fn stages() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/tmp").expect("it can be listed").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("refloat-demo-"))
        .collect()
}

#[test]
fn the_demonstration_proves_itself_and_leaves_nothing_behind() {
    if skip_without(15) {
        return;
    }
    plays(&mut Command::new(crate::program()));
}

/// Root plays as `postgres`, whose name is that of the usual superuser; somebody else has another name.
#[test]
fn anybody_can_play_it() {
    if skip_without(15) {
        return;
    }
    let mut command = Command::new(crate::program());
    if rustix::process::getuid().is_root() {
        const NOBODY: u32 = 65534;
        command.uid(NOBODY).gid(NOBODY);
    }
    plays(&mut command);
}

fn plays(command: &mut Command) {
    let began = Instant::now();
    let output = command.args(["demo", "--json", "--scale", "1"]).output().expect("starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(document["equal"], true);
    assert_eq!(document["tables"].as_array().map(Vec::len), Some(3));
    assert!(document["tables"][1]["rows"].as_u64().is_some_and(|rows| rows > 150_000), "{document}");
    assert!(began.elapsed() < Duration::from_secs(120), "two minutes at most");
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    if skip_without(15) {
        return;
    }
    let mut child = Command::new(crate::program())
        .arg("demo")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let began = Instant::now();
    let mine = loop {
        // Other demonstrations may play at the same time; this one is interrupted while its server starts.
        let own = format!("refloat-demo-{}-", child.id());
        let is_up =
            |name: &String| std::path::Path::new("/tmp").join(name).join("data/postmaster.pid").exists();
        if let Some(up) = stages().into_iter().find(|name| name.starts_with(&own)).filter(is_up) {
            break up;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the demonstration did not begin");
        std::thread::sleep(Duration::from_millis(20));
    };
    let pid = child.id().to_string();
    assert!(Command::new("/bin/kill").args(["-INT", &pid]).status().expect("kill starts").success());
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(130));
    assert!(!std::path::Path::new("/tmp").join(&mine).exists(), "{mine} is still there");
}
