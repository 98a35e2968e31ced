//! A file system that keeps nothing it was not made to keep.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::record::Event;

/// Names one file or directory, whatever it is called.
type Id = usize;

#[derive(Debug, Clone)]
enum Node {
    File {
        /// The name under which its bytes were made: the final one is not known yet, so it is found later.
        lengths: Vec<usize>,
        synced: usize,
    },
    Directory {
        live: BTreeMap<String, Id>,
        durable: BTreeMap<String, Id>,
        /// Changes since the last sync. Each may have reached the disk or not, whatever became of the others.
        pending: Vec<Change>,
    },
}

/// Names set and removed at once.
type Change = Vec<(String, Option<Id>)>;

/// The disk as processes see it, with all that is known about what is really on it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    nodes: Vec<Node>,
}

/// What may be found in a file or directory after a cut.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found {
    /// A file with this many right bytes, then zeros.
    File { right: usize, zeros: usize },
    /// A directory.
    Directory(State),
}

/// A directory after a cut.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct State(BTreeMap<String, Found>);

impl Default for Disk {
    fn default() -> Self {
        Self { nodes: vec![Node::empty_directory()] }
    }
}

impl Node {
    fn empty_directory() -> Self {
        Self::Directory { live: BTreeMap::new(), durable: BTreeMap::new(), pending: Vec::new() }
    }
}

impl Disk {
    /// Takes one event into account.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Create { path } => self.add(path, Node::File { lengths: vec![0], synced: 0 }),
            Event::MakeDirectory { path } => self.add(path, Node::empty_directory()),
            Event::Write { path, length } => match self.node(path) {
                Node::File { lengths, .. } => lengths.push(lengths.last().unwrap() + length),
                Node::Directory { .. } => panic!("{path} is a directory"),
            },
            Event::Sync { path } => match self.node(path) {
                Node::File { lengths, synced } => *synced = *lengths.last().unwrap(),
                Node::Directory { live, durable, pending } => {
                    durable.clone_from(live);
                    pending.clear();
                }
            },
            Event::Link { from, to } => {
                let id = self.find(from);
                self.change(parent(to), vec![(name(to), Some(id))]);
            }
            Event::Rename { from, to } => {
                assert_eq!(parent(from), parent(to), "the model renames within a directory");
                let id = self.find(from);
                self.change(parent(to), vec![(name(from), None), (name(to), Some(id))]);
            }
            Event::Remove { path } => self.change(parent(path), vec![(name(path), None)]),
            Event::Answer { .. } => {}
        }
    }

    fn add(&mut self, path: &str, node: Node) {
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.change(parent(path), vec![(name(path), Some(id))]);
    }

    fn change(&mut self, directory: &str, change: Change) {
        let Node::Directory { live, pending, .. } = self.node(directory) else {
            panic!("{directory} is a file")
        };
        apply(live, &change);
        pending.push(change);
    }

    fn node(&mut self, path: &str) -> &mut Node {
        let id = self.find(path);
        &mut self.nodes[id]
    }

    fn find(&self, path: &str) -> Id {
        path.split('/').filter(|part| !part.is_empty()).fold(0, |id, part| match &self.nodes[id] {
            Node::Directory { live, .. } => {
                *live.get(part).unwrap_or_else(|| panic!("no {part} on the way to {path}"))
            }
            Node::File { .. } => panic!("{part} is below a file"),
        })
    }

    /// Everything that may be found when the power goes now.
    pub(super) fn states_after_a_cut(&self) -> Vec<State> {
        self.outcomes(0)
            .into_iter()
            .map(|found| match found {
                Found::Directory(state) => state,
                Found::File { .. } => unreachable!("the root is a directory"),
            })
            .collect()
    }

    fn outcomes(&self, id: Id) -> Vec<Found> {
        match &self.nodes[id] {
            Node::File { lengths, synced } => file_outcomes(lengths, *synced),
            Node::Directory { durable, pending, .. } => {
                assert!(pending.len() <= 10, "too many changes to try all of their combinations");
                let mut all = Vec::new();
                for chosen in 0..1_u32 << pending.len() {
                    let mut names = durable.clone();
                    for (number, change) in pending.iter().enumerate() {
                        if chosen & 1 << number != 0 {
                            apply(&mut names, change);
                        }
                    }
                    all.extend(self.combinations(&names));
                }
                all.sort();
                all.dedup();
                all
            }
        }
    }

    /// Each entry in each of its outcomes.
    fn combinations(&self, names: &BTreeMap<String, Id>) -> Vec<Found> {
        let mut states = vec![State::default()];
        for (name, id) in names {
            let outcomes = self.outcomes(*id);
            let with = |state: &State, found: &Found| {
                let mut state = state.clone();
                state.0.insert(name.clone(), found.clone());
                state
            };
            states = states.iter().flat_map(|state| outcomes.iter().map(move |f| with(state, f))).collect();
        }
        states.into_iter().map(Found::Directory).collect()
    }
}

/// Nothing, each write, half of each, or zeros of any of these lengths in place of what was not synced.
fn file_outcomes(lengths: &[usize], synced: usize) -> Vec<Found> {
    let mut found = Vec::new();
    let mut before = synced;
    for &length in lengths.iter().filter(|&&length| length >= synced) {
        for right in [usize::midpoint(before, length), length] {
            found.push(Found::File { right, zeros: 0 });
        }
        found.push(Found::File { right: synced, zeros: length - synced });
        before = length;
    }
    found.sort();
    found.dedup();
    found
}

fn apply(names: &mut BTreeMap<String, Id>, change: &Change) {
    for (name, id) in change {
        match id {
            Some(id) => names.insert(name.clone(), *id),
            None => names.remove(name),
        };
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn name(path: &str) -> String {
    path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned()
}

impl State {
    /// Makes the files and directories below `place`; `body` gives the bytes that belong under a path. Modes are those of
    /// directories whose change of mode was lost, too.
    pub(super) fn make_real(&self, place: &Path, body: impl Fn(&str, usize) -> Vec<u8> + Copy) {
        self.make_below(place, "", body);
    }

    fn make_below(&self, place: &Path, above: &str, body: impl Fn(&str, usize) -> Vec<u8> + Copy) {
        for (name, found) in &self.0 {
            let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
            match found {
                Found::Directory(state) => {
                    std::fs::DirBuilder::new().mode(0o700).create(place.join(&path)).unwrap();
                    state.make_below(place, &path, body);
                }
                Found::File { right, zeros } => {
                    let mut bytes = body(&path, *right);
                    bytes.resize(right + zeros, 0);
                    std::fs::write(place.join(&path), bytes).unwrap();
                }
            }
        }
    }
}
