//! The rescue kit in each repository: this program, what to type, and the format, in plain view and without a secret.
//!
//! `program` is the running executable's own bytes, `text` what a person reads. A kit is renewed when a later release runs,
//! when the repository has other sources, is reached by another URL, or opens with another key; whether that is so is asked
//! of the repository once a day, and at once when something here has changed. Nobody depends on a kit: what cannot be put
//! there is a warning.

mod program;
mod text;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{KIT_PROGRAM as PROGRAM, Kit, KitFile, Kits, NewKit, Reach, sha256_of};
use refloat_repo::{RepoError, Repository};
use refloat_store::{Key, StoreErrorKind};
use refloat_types::{Clock as _, SourceId, Timestamp, hex};
use serde::{Deserialize, Serialize};

use crate::context::{Context, Opened};
use crate::error::Failure;
use crate::reach;
use crate::render::time;
use program::Program;

/// How the texts of a kit are called.
const TEXT: &str = "RESCUE.txt";
const FORMAT: &str = "FORMAT.md";

/// This release.
const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// For so long a kit that was looked at is not looked at again.
const SELDOM: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What this host remembers of the kit that it has seen last.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// A digest of all that a kit depends on and this host knows by itself.
    wanted: String,
    at: Timestamp,
}

/// The program that lies in a repository, for whoever has to compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Where it lies.
    pub key: String,
    /// Its release.
    pub release: String,
    /// What `sha256sum` must print.
    pub sha256: String,
}

impl Stored {
    /// The program of a kit.
    pub(crate) fn of(kit: &Kit) -> Option<Self> {
        let file = kit.file(PROGRAM)?;
        let key = file.key.to_string();
        Some(Self { key, release: kit.release.clone(), sha256: hex::encode(&file.sha256) })
    }
}

/// How thoroughly a kit is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Once a day.
    Seldom,
    /// Whatever was seen lately.
    Now,
}

/// Sees to it that a configured repository has a kit; what cannot be done is a warning.
pub(crate) fn keep(context: &Context, opened: &Opened, look: Look) {
    let result = keep_quietly(context, opened, look);
    if let Err(failure) = result {
        let causes: String = failure.detail.iter().map(|cause| format!(": {cause}")).collect();
        context.out.warn(&format!(
            "repository {}: the rescue kit could not be put there: {}{causes}",
            opened.name, failure.message
        ));
    }
}

/// Deletes those of these files that are ours and were changed, and puts a kit there that has them. Answers which.
///
/// # Errors
/// What the repository says; the next `backup` or `check` puts there what is missing.
pub(crate) fn renew(context: &Context, opened: &Opened, files: &[Key]) -> Result<Vec<Key>, Failure> {
    let deleted = opened.repository.delete_changed_kit_files(files)?;
    if !deleted.is_empty() {
        keep_quietly(context, opened, Look::Now)?;
    }
    Ok(deleted)
}

fn keep_quietly(context: &Context, opened: &Opened, look: Look) -> Result<(), Failure> {
    let mut configs = context.config.iter().flat_map(|config| config.repositories.values());
    // One that no configuration names was not opened to be written.
    let Some(config) = configs.find(|config| config.name.as_str() == opened.name) else { return Ok(()) };
    let reach = in_plain_view(reach::of(config));
    let repository = &opened.repository;
    let program = Program::running();
    let name = format!("repositories/{}/rescue.json", repository.marker().id);
    let now = context.clock.now();
    let wanted = wanted(context, opened, &reach, program.as_ref());
    let seen: Option<Seen> = repository.state().read(&name).unwrap_or_default();
    let lately = |seen: &Seen| seen.at <= now && time::since(seen.at, now) < SELDOM;
    if look == Look::Seldom && seen.is_some_and(|seen| seen.wanted == wanted && lately(&seen)) {
        return Ok(());
    }
    if let Some((kit, before)) = put(repository, &reach, program.as_ref(), now)?
        && kit.number > 1
        && let Some(told) = told(&kit, before)
    {
        context.out.say(&format!("repository {}: {told}", opened.name));
    }
    Ok(repository.state().write(&name, &Seen { wanted, at: now })?)
}

/// What a person is told of a kit that replaces another one: whether the digest on the recovery sheet is still that of its program,
/// which was the one `before`.
fn told(kit: &Kit, before: Option<Stored>) -> Option<String> {
    let (directory, stored) = (layout::kit_directory(kit.number), Stored::of(kit)?);
    Some(match before {
        Some(before) if before.sha256 == stored.sha256 && before.key == stored.key => {
            format!(
                "the texts of the rescue kit are renewed, in {directory}; the program and its digest on the recovery sheet stay"
            )
        }
        Some(before) if before.sha256 == stored.sha256 => format!(
            "a new rescue kit, {directory}; the program is the same and lies at {} now; its digest on the recovery sheet stays",
            stored.key
        ),
        _ => format!(
            "a new rescue kit, {directory}; on the recovery sheet the digest of {} is now {}: print it again by key sheet",
            stored.key, stored.sha256
        ),
    })
}

/// All that a kit depends on and that is known without asking the repository.
fn wanted(context: &Context, opened: &Opened, reach: &Reach, program: Option<&Program>) -> String {
    let mut all = Vec::new();
    let sources = context.config.iter().flat_map(|config| config.sources.values());
    let mine = sources.filter(|source| source.repositories.iter().any(|name| name.as_str() == opened.name));
    let program = program.map(Program::identity).unwrap_or_default();
    let generation = opened.repository.generation().number.to_string();
    let reach = serde_json::to_string(reach).unwrap_or_default();
    let parts = [RELEASE, &reach, &program, &generation].map(str::to_owned);
    for part in parts.into_iter().chain(mine.map(|source| source.name.to_string())) {
        all.extend_from_slice(&(part.len() as u64).to_le_bytes());
        all.extend_from_slice(part.as_bytes());
    }
    hex::encode(&sha256_of(&all))
}

/// A way to a repository without who logs in there: a kit lies in plain view and holds no name.
fn in_plain_view(reach: Reach) -> Reach {
    Reach {
        address: without_user(&reach.address),
        endpoint: reach.endpoint.as_deref().map(without_user),
        ..reach
    }
}

fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
}

/// Puts a kit there unless the newest one is right. Answers the new one, and the program of the one before.
fn put(
    repository: &Repository,
    reach: &Reach,
    program: Option<&Program>,
    now: Timestamp,
) -> Result<Option<(Kit, Option<Stored>)>, RepoError> {
    for _ in 0..3 {
        let kits = repository.kits()?;
        let sources = sources(repository)?;
        let Some(needed) = Needed::of(repository, &kits, reach, sources, program)? else { return Ok(None) };
        match needed.put(repository, now) {
            // Another host has just put one there: perhaps that one is right.
            Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => {}
            other => return other.map(|kit| Some((kit, kits.newest().and_then(Stored::of)))),
        }
    }
    Ok(None)
}

/// The ids of all sources; what they are called is nobody's business here.
fn sources(repository: &Repository) -> Result<Vec<SourceId>, RepoError> {
    let mut found = BTreeSet::new();
    repository.store().list(layout::SOURCES, &mut |info| {
        if let Some(Named::Source(id, _)) = Named::parse(&info.key) {
            found.insert(id);
        }
        ControlFlow::Continue(())
    })?;
    Ok(found.into_iter().collect())
}

/// A kit that is to be put there.
struct Needed {
    kit: NewKit,
    /// Files that do not lie there yet.
    new: Vec<(KitFile, Vec<u8>)>,
}

impl Needed {
    fn of(
        repository: &Repository,
        kits: &Kits,
        reach: &Reach,
        sources: Vec<SourceId>,
        program: Option<&Program>,
    ) -> Result<Option<Self>, RepoError> {
        let newest = kits.newest();
        let is_later = newest.is_none_or(|kit| release(RELEASE) > release(&kit.release));
        let there = newest.and_then(|kit| kit.file(PROGRAM)).filter(|file| kits.seems_whole(file));
        // Once for each release, and where it has been taken away. What is not linked statically displaces nothing.
        let program = program.filter(|_| is_later || there.is_none());
        let renews = program.is_some() || (is_later && there.is_none());
        let mut addresses: Vec<String> = Vec::new();
        let known = newest.iter().flat_map(|kit| kit.addresses.iter().map(String::as_str));
        for address in known.chain([reach.address.as_str()]) {
            if !addresses.iter().any(|there| there == address) {
                addresses.push(address.to_owned());
            }
        }
        // Hosts may reach it in several ways; none of them makes a kit anew because of another's.
        let mut ways: Vec<Reach> = newest.map(|kit| kit.reach.clone()).unwrap_or_default();
        if !reach.is_plain() && !ways.contains(reach) {
            ways.insert(0, reach.clone());
        }
        let right = newest.is_some_and(|kit| {
            kit.sources == sources
                && kit.addresses == addresses
                && kit.reach == ways
                && kit.generation == repository.generation().number
                && kit.files.iter().all(|file| kits.seems_whole(file))
        });
        if right && !renews {
            return Ok(None);
        }
        let kept = newest.filter(|_| !renews);
        let mut needed = Self {
            kit: NewKit {
                number: kits.next_number(),
                release: kept.map_or(RELEASE, |kit| &kit.release).to_owned(),
                addresses,
                reach: ways,
                sources,
                files: Vec::new(),
            },
            new: Vec::new(),
        };
        match program {
            Some(program) => {
                let bytes = program.bytes().map_err(|e| RepoError::internal("read this program", e))?;
                needed.add(kits, PROGRAM, bytes)?;
            }
            None => needed.kit.files.extend(there.cloned()),
        }
        match kept.and_then(|kit| kit.file(FORMAT)).filter(|file| kits.seems_whole(file)) {
            Some(kept) => needed.kit.files.push(kept.clone()),
            None => needed.add(kits, FORMAT, text::format().into_bytes())?,
        }
        let text = text::rescue(repository, &needed.kit);
        needed.add(kits, TEXT, text.into_bytes())?;
        Ok(Some(needed))
    }

    /// A file, at the place where the same bytes lie already, or a new one.
    fn add(&mut self, kits: &Kits, name: &str, bytes: Vec<u8>) -> Result<(), RepoError> {
        let (size, sha256) = (bytes.len() as u64, sha256_of(&bytes));
        let mut all = kits.kits.iter().rev().flat_map(|kit| &kit.files);
        let there = all.find(|file| file.name == name && file.sha256 == sha256 && kits.seems_whole(file));
        if let Some(there) = there {
            self.kit.files.push(there.clone());
            return Ok(());
        }
        let key = format!("{}{name}", layout::kit_directory(self.kit.number));
        let key = key.parse().map_err(|error| RepoError::internal("name a file of the rescue kit", error))?;
        let file = KitFile { name: name.to_owned(), key, size, sha256 };
        self.kit.files.push(file.clone());
        self.new.push((file, bytes));
        Ok(())
    }

    fn put(self, repository: &Repository, now: Timestamp) -> Result<Kit, RepoError> {
        let kit = repository.put_kit(self.kit, now)?;
        for (file, bytes) in &self.new {
            repository.put_kit_file(file, bytes)?;
        }
        Ok(kit)
    }
}

/// A release as numbers that can be compared.
fn release(text: &str) -> Vec<u64> {
    text.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use refloat_repo::StateDirectory;
    use refloat_repo::repository::{InitOptions, Protection};
    use refloat_store::{Store as _, read_whole};
    use refloat_testkit::memory_store::Memory;
    use refloat_types::SystemClock;

    use super::program::tests::linked_statically;
    use super::*;

    #[test]
    fn a_program_goes_there_once_and_its_text_says_how_to_compare_it() {
        let (store, state) = (Memory::new(), tempfile::tempdir().expect("a directory"));
        let now = SystemClock.now();
        let options = InitOptions { protection: Protection::None, now };
        let repository =
            Repository::init(Arc::new(store.clone()), StateDirectory::new(state.path()), options)
                .expect("made");
        let read = |file: &KitFile| read_whole(&store, &file.key, 10 << 20).expect("it is there");
        let put_by = |reach: &Reach, program: Option<&Program>| {
            put(&repository, reach, program, now).expect("put").map(|(kit, _)| kit)
        };
        let put = |url: &str, program: Option<&Program>| put_by(&Reach::plain(url), program);

        // A program that needs libraries is none; one that is linked statically takes its place as soon as it comes.
        let without = put("file:///backup/db1", None).expect("the first");
        assert!(without.file(PROGRAM).is_none());
        assert!(
            String::from_utf8_lossy(&read(without.file(TEXT).expect("a text"))).contains("None lies here")
        );
        assert_eq!(put("file:///backup/db1", None), None, "nothing has changed");
        let program = linked_statically(b"does everything");
        let with = put("file:///backup/db1", Some(&program)).expect("a program");
        let file = with.file(PROGRAM).expect("a program").clone();
        assert_eq!(file.key.as_str(), "rescue/0000000002/refloat");
        assert!(read(&file) == program.bytes().expect("its bytes"), "it lies there as it is");
        let text = String::from_utf8(read(with.file(TEXT).expect("a text"))).expect("text");
        assert!(text.contains("cp /backup/db1/rescue/0000000002/refloat ./refloat"), "{text}");
        assert!(text.contains(&hex::encode(&sha256_of(&program.bytes().expect("its bytes")))), "{text}");
        let stored = Stored::of(&with).expect("a program");
        assert_eq!(stored.sha256, hex::encode(&file.sha256));

        // Another build of the same release puts no other one there, and a host with another URL only says so.
        assert_eq!(put("file:///backup/db1", Some(&linked_statically(b"the same, built again"))), None);
        let moved = put("s3://bucket/pg", Some(&program)).expect("another URL");
        assert_eq!(moved.file(PROGRAM), Some(&file), "it is named where it lies");
        assert_eq!(moved.addresses, ["file:///backup/db1", "s3://bucket/pg"]);
        for (url, address) in [
            ("sftp://root@host:2222/a@b", "sftp://host:2222/a@b"),
            ("sftp://host/a@b", "sftp://host/a@b"),
            ("file:///a@b", "file:///a@b"),
        ] {
            assert_eq!(without_user(url), address);
        }
        assert_eq!(put("file:///backup/db1", None), None);

        // What a URL does not say is said, once for each way, whoever comes next.
        let near = |endpoint: &str| Reach {
            endpoint: Some(endpoint.to_owned()),
            own_certificates: true,
            ..Reach::plain("s3://bucket/pg")
        };
        let (first, second) = (near("https://minio:9000"), near("https://10.0.0.1:9000"));
        let said = put_by(&first, None).expect("how it is reached");
        assert_eq!(said.reach, std::slice::from_ref(&first));
        let text = String::from_utf8(read(said.file(TEXT).expect("a text"))).expect("text");
        assert!(text.contains("OR BY s3://bucket/pg\n"), "{text}");
        assert!(
            text.contains("below  ./refloat -r s3://bucket/pg  instead of  ./refloat -r file:///backup/db1"),
            "{text}"
        );
        assert!(
            text.contains(
                "export AWS_REGION=us-east-1 AWS_ENDPOINT_URL_S3=https://minio:9000 AWS_CA_BUNDLE=ca.pem"
            ),
            "{text}"
        );
        assert_eq!(put_by(&second, None).expect("another way").reach, [second.clone(), first.clone()]);
        for reach in [&first, &second, &Reach::plain("s3://bucket/pg")] {
            assert_eq!(put_by(reach, None), None, "no host makes it anew because of another");
        }
        let hidden = Reach { endpoint: Some("https://me@h".to_owned()), ..Reach::plain("sftp://me@h/p") };
        assert_eq!(
            in_plain_view(hidden),
            Reach { endpoint: Some("https://h".to_owned()), ..Reach::plain("sftp://h/p") }
        );
        let kits = repository.kits().expect("lists");
        assert_eq!(repository.inspect_kits(&kits).expect("reads"), []);

        // Taken away, it is put there again.
        store.delete(&file.key).expect("deletes");
        let again = put("s3://bucket/pg", Some(&program)).expect("a new one");
        assert!(read(again.file(PROGRAM).expect("a program")) == program.bytes().expect("its bytes"));
    }

    #[test]
    fn a_digest_that_stays_is_not_told_as_a_new_one() {
        let (store, state) = (Memory::new(), tempfile::tempdir().expect("a directory"));
        let options = InitOptions { protection: Protection::None, now: SystemClock.now() };
        let state = StateDirectory::new(state.path());
        let repository = Repository::init(Arc::new(store.clone()), state, options).expect("made");
        let program = linked_statically(b"does everything");
        let put = |url: &str| {
            let put = put(&repository, &Reach::plain(url), Some(&program), SystemClock.now());
            let (kit, before) = put.expect("put").expect("a new one");
            (told(&kit, before).expect("it has a program"), Stored::of(&kit).expect("it has a program"))
        };
        let (first, stored) = put("file:///a");
        assert!(first.contains(&stored.sha256) && first.contains("print it again"), "{first}");
        let (texts, _) = put("file:///b");
        assert!(texts.contains("its digest on the recovery sheet stay"), "{texts}");
        assert!(!texts.contains("print it again") && !texts.contains(&stored.sha256), "{texts}");
        // Taken away and put there again it lies elsewhere.
        store.delete(&stored.key.parse().expect("a key")).expect("deletes");
        let (moved, again) = put("file:///b");
        assert_ne!(again.key, stored.key);
        assert!(moved.contains(&again.key) && !moved.contains("print it again"), "{moved}");
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(release("0.10.0") > release("0.9.12"));
        assert!(release("1.0.0") > release("0.99.99"));
        assert_eq!(release("1.2.3"), release("1.2.3-rc1"));
    }
}
