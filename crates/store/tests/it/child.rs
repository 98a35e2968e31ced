//! A process that uses a store as it is told, so that it can be traced, limited and killed.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use refloat_store::{Key, Options, PosixStore, Store, StoreError};
use refloat_types::fault;

/// `length` bytes that differ from key to key.
pub(crate) fn body(key: &str, length: usize) -> Vec<u8> {
    let seed = key.bytes().fold(7_u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b))) | 1;
    (0..length as u64).map(|i| (seed.wrapping_mul(i * i + 1) >> 24) as u8 | 1).collect()
}

/// Runs the commands in `script` on the store in `root`, in a process of its own below `wrapper`. `Output::stdout` holds
/// a line `answer COMMAND KEY RESULT` for each.
pub(crate) fn run(wrapper: &[String], root: &Path, script: &str) -> Output {
    let me = std::env::current_exe().unwrap();
    let mut words: Vec<String> = wrapper.to_vec();
    words.extend([me.display().to_string()]);
    words.extend(["--exact", "child::serve", "--ignored", "--nocapture"].map(String::from));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let script = format!("open {}\n{script}", root.display());
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The answers among what [`run`] printed.
pub(crate) fn answers(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| Some(line.split_once("answer ")?.1.to_owned())).collect()
}

fn one(store: &PosixStore, command: &str, key: &Key, length: usize) -> Result<(), StoreError> {
    let bytes = body(key.as_str(), length);
    match command {
        "put" => store.put_new(key, &bytes),
        "stream" => {
            let mut writer = store.create(key)?;
            for piece in bytes.chunks(2000) {
                writer.write(piece)?;
            }
            writer.finish()
        }
        "settle" => store.settle(key),
        "delete" => store.delete(key),
        other => panic!("no such command: {other}"),
    }
}

/// Not a test: what [`run`] starts. Without commands on its standard input it does nothing.
#[test]
#[ignore = "is started by other tests"]
fn serve() {
    let mut store = None;
    let mut held = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["open", path] => store = Some(PosixStore::open(path, Options::default()).unwrap()),
            ["arm", points] => fault::arm(points),
            // Everything up to the limit of open files, but for `n`.
            ["leave-files", n] => {
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    held.push(file);
                }
                held.truncate(held.len() - n.parse::<usize>().unwrap());
            }
            ["release-files"] => held.clear(),
            [command, key, rest @ ..] => {
                let length = rest.first().map_or(0, |n| n.parse().unwrap());
                let result = one(store.as_ref().unwrap(), command, &key.parse().unwrap(), length);
                let result =
                    result.map_or_else(|e| format!("{:?}: {}", e.kind, e.source), |()| "ok".to_owned());
                let text = format!("answer {command} {key} {result}\n");
                // One call, so that a trace shows one line.
                rustix::io::write(rustix::stdio::stdout(), text.as_bytes()).unwrap();
            }
            _ => panic!("what is {line:?}?"),
        }
    }
}
