//! System calls that change a store, as strace tells them.

use std::collections::BTreeMap;
use std::path::Path;

/// One call that changes the disk, or an answer to the outside. Paths are relative to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A new, empty file.
    Create { path: String },
    /// A new directory.
    MakeDirectory { path: String },
    /// Bytes appended.
    Write { path: String, length: usize },
    /// The file's data, or the directory's entries, are on the disk.
    Sync { path: String },
    /// Another name.
    Link { from: String, to: String },
    /// A name given up for another, at once.
    Rename { from: String, to: String },
    /// A name removed.
    Remove { path: String },
    /// The world was told that `key` is stored.
    Answer { key: String },
}

/// Every call through which a file system can be changed; an unknown one in the record fails the test.
const CALLS: &str = "trace=open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,write,writev,pwrite64,pwritev,pwritev2,\
    fsync,fdatasync,sync,syncfs,sync_file_range,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,rename,renameat,\
    renameat2,truncate,ftruncate,fallocate,copy_file_range,sendfile,splice";

/// The words that put a command under strace.
pub(super) fn strace(trace: &Path, extra: &[&str]) -> Vec<String> {
    let mut words = vec!["strace", "-f", "-y", "-s", "256", "-e", CALLS, "-e", "signal=none"];
    words.extend(extra);
    let trace = trace.display().to_string();
    words.extend(["-o", trace.as_str()]);
    words.into_iter().map(String::from).collect()
}

/// The events of a trace that concern the store in `root`, in order.
pub(super) fn traced(text: &str, root: &Path) -> Vec<Event> {
    let root = root.canonicalize().unwrap().display().to_string();
    let mut unfinished = BTreeMap::new();
    let mut events = Vec::new();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begun.to_owned());
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (_, end) = resumed.split_once("resumed>").unwrap();
                format!("{}{end}", unfinished.remove(pid).unwrap())
            }
            None => rest.to_owned(),
        };
        events.extend(event(&whole, &root));
    }
    events
}

/// What one line says. `None` for calls that fail, only read, or are about something else.
fn event(line: &str, root: &str) -> Option<Event> {
    if line.contains("answer ") && line.starts_with("write(1<") {
        let said = line.split_once("answer ")?.1;
        let mut words = said.split([' ', '\\']);
        let (_, key, result) = (words.next()?, words.next()?, words.next()?);
        return (result == "ok").then(|| Event::Answer { key: key.to_owned() });
    }
    if !line.contains(root) || line.starts_with("+++") || line.starts_with("---") {
        return None;
    }
    let (call, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let inside = |path: String| path.strip_prefix(root).map(|p| p.trim_start_matches('/').to_owned());
    // Each `fd<directory>, "name"` is a path; a lone `fd<path>` is one too.
    let descriptor = |text: &str| Some(text.split_once('<')?.1.split_once('>')?.0.to_owned());
    let paths: Vec<String> = named_paths(arguments).into_iter().filter_map(inside).collect();
    let first = || paths.first().cloned();
    match call {
        "open" | "openat" if arguments.contains("O_CREAT") => Some(Event::Create { path: first()? }),
        "open" | "openat" => {
            assert!(!arguments.contains("O_TRUNC"), "{line}");
            None
        }
        "mkdirat" => Some(Event::MakeDirectory { path: first()? }),
        "write" => {
            let path = inside(descriptor(arguments)?)?;
            Some(Event::Write { path, length: result.trim().parse().unwrap() })
        }
        "fsync" => Some(Event::Sync { path: inside(descriptor(arguments)?)? }),
        "linkat" => Some(Event::Link { from: first()?, to: paths.get(1)?.clone() }),
        "renameat2" => Some(Event::Rename { from: first()?, to: paths.get(1)?.clone() }),
        "unlinkat" => Some(Event::Remove { path: first()? }),
        other => panic!("the model does not know {other}: {line}"),
    }
}

/// The paths `directory/name` of each pair `fd<directory>, "name"`.
fn named_paths(arguments: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = arguments;
    while let Some((directory, after)) = rest.split_once('<').and_then(|(_, r)| r.split_once('>')) {
        rest = after;
        if let Some(name) = after.strip_prefix(", \"").and_then(|r| r.split_once('"')) {
            let name = name.0;
            paths.push(if name.starts_with('/') { name.to_owned() } else { format!("{directory}/{name}") });
        }
    }
    paths
}
