//! Where objects lie in a repository: the one place that knows names of keys. See `docs/src/format/layout.md`.

use refloat_store::Key;
use refloat_types::{
    BackupId, ObjectId, SourceId, SystemIdentifier, TimelineId, WalFileName, WalSegmentName,
};

/// The object that makes a store a repository.
pub const REPOSITORY: &str = "repository";
/// Identities behind passphrases.
pub const IDENTITIES: &str = "keys/identity/";
/// Generations of recipients.
pub const RECIPIENTS: &str = "keys/recipients/";
/// Generations of the repository's secrets.
pub const SECRETS: &str = "keys/secrets/";
/// Confirmations that a passphrase is kept.
pub const CONFIRMATIONS: &str = "keys/confirmation/";
/// Envelopes of data keys.
pub const ENVELOPES: &str = "keys/data/";
/// Enrolled agents.
pub const AGENTS: &str = "agents/";
/// Packs.
pub const PACKS: &str = "packs/";
/// Sources with their commits and owners.
pub const SOURCES: &str = "sources/";
/// WAL.
pub const WAL: &str = "wal/";
/// Operation records.
pub const OPERATIONS: &str = "operations/";
/// What running jobs use.
pub const PINS: &str = "pins/";
/// What will be deleted.
pub const TOMBSTONES: &str = "tombstones/";
/// Backups that must not expire.
pub const HOLDS: &str = "holds/";
/// Hosts that may enrol themselves.
pub const INVITATIONS: &str = "invitations/";
/// Rescue kits.
pub const RESCUE: &str = "rescue/";
/// What a store is tried with. It stays where that may not be deleted, until an expiry of somebody who may.
pub const PROBES: &str = "check/";
/// Ending of the key of what used an invitation up, behind its id.
const USED: &str = "-used";
/// Ending of the key of a release, behind the hold's id.
const RELEASED: &str = "-released";

fn key(text: String) -> Key {
    text.parse().expect("every part is made of letters, digits and dashes")
}

/// The repository object.
pub fn repository() -> Key {
    key(REPOSITORY.to_owned())
}

/// An identity.
pub fn identity(id: ObjectId) -> Key {
    key(format!("{IDENTITIES}{id}"))
}

/// A numbered generation below `prefix`: dense numbers from 1, so the next can be asked for by name.
pub fn generation(prefix: &str, number: u64) -> Key {
    key(format!("{prefix}{number:010}"))
}

/// The number of a generation's key, or of a numbered object's (`NNNNNNNNNN` or `NNNNNNNNNN-…`).
pub fn number_of(key: &Key) -> Option<u64> {
    let name = key.file_name();
    let digits = name.split('-').next().unwrap_or(name);
    if digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// A data key's envelope.
pub fn envelope(id: ObjectId) -> Key {
    key(format!("{ENVELOPES}{id}"))
}

/// A data key that was sealed again to the recipients of generation `number`.
pub fn rewrapped(id: ObjectId, number: u64) -> Key {
    key(format!("{ENVELOPES}{id}-{number:010}"))
}

/// An enrolled agent.
pub fn agent(id: ObjectId) -> Key {
    key(format!("{AGENTS}{id}"))
}

/// The object that a store is tried with.
pub fn trial(id: ObjectId) -> Key {
    key(format!("{PROBES}{id}"))
}

/// A pack; two digits fan out, so that no directory grows beyond thousands.
pub fn pack(id: ObjectId) -> Key {
    let id = id.to_string();
    key(format!("{PACKS}{}/{id}", &id[..2]))
}

/// Generations of a source's description.
pub fn source_generations(id: SourceId) -> String {
    format!("{SOURCES}{id}/source/")
}

/// All commits of a source.
pub fn commits(id: SourceId) -> String {
    format!("{SOURCES}{id}/commits/")
}

/// A backup.
pub fn commit(source: SourceId, number: u64, backup: BackupId) -> Key {
    key(format!("{SOURCES}{source}/commits/{number:010}-{backup}"))
}

/// Generations of who a source's owner is.
pub fn owners(id: SourceId) -> String {
    format!("{SOURCES}{id}/owner/")
}

/// All WAL of a cluster.
pub fn wal_of(system: SystemIdentifier) -> String {
    format!("{WAL}{system}/")
}

/// All WAL of a timeline.
pub fn wal_of_timeline(system: SystemIdentifier, timeline: TimelineId) -> String {
    format!("{WAL}{system}/{:08X}/", timeline.get())
}

/// Begin of the keys of every object stored for this WAL file. WAL segments lie in one directory a `log` number (256
/// segments of 16 MiB), so that asking for one never reads a list of thousands.
pub fn wal_file(system: SystemIdentifier, name: WalFileName) -> String {
    let (timeline, log) = match name {
        WalFileName::Segment(s) | WalFileName::Partial(s) | WalFileName::BackupHistory(s, _) => {
            (s.timeline, s.to_string()[8..16].to_owned())
        }
        WalFileName::History(timeline) => (timeline, "history".to_owned()),
    };
    format!("{}{log}/{name}-", wal_of_timeline(system, timeline))
}

/// Begin of the keys of every object stored for this WAL segment and for those whose names differ in the last digit alone.
pub fn wal_around(system: SystemIdentifier, name: WalSegmentName) -> String {
    let mut begin = wal_file(system, WalFileName::Segment(name));
    // The `-`, and the last digit.
    begin.truncate(begin.len() - 2);
    begin
}

/// A stored WAL file.
pub fn wal(system: SystemIdentifier, name: WalFileName, digest: &[u8; 16]) -> Key {
    key(format!("{}{}", wal_file(system, name), refloat_types::hex::encode(digest)))
}

/// WAL file name and digest of a key below [`WAL`].
pub fn parse_wal(key: &Key) -> Option<(WalFileName, [u8; 16])> {
    let (name, digest) = key.file_name().rsplit_once('-')?;
    Some((name.parse().ok()?, refloat_types::hex::decode(digest)?))
}

/// What lies under a key, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The repository object.
    Repository,
    /// An enrolment.
    Agent(ObjectId),
    /// A generation of who can read.
    Generation(u64),
    /// An envelope.
    Envelope(ObjectId),
    /// A data key sealed again to the recipients of a generation.
    Rewrapped(ObjectId, u64),
    /// A confirmation, by its number.
    Confirmation(u64),
    /// A pack.
    Pack(ObjectId),
    /// A generation of a source's description.
    Source(SourceId, u64),
    /// A generation of a source's owner.
    Owner(SourceId, u64),
    /// A commit.
    Commit(SourceId, u64, BackupId),
    /// A WAL file.
    Wal(SystemIdentifier, WalFileName, [u8; 16]),
    /// An operation record.
    Operation(ObjectId, u64, ObjectId),
    /// A generation of a pin.
    Pin(ObjectId, u64),
    /// A tombstone.
    Tombstone(u64, ObjectId),
    /// A hold.
    Hold(ObjectId),
    /// The end of the hold of this id.
    Release(ObjectId),
    /// An invitation.
    Invitation(ObjectId),
    /// The enrolment that used an invitation up.
    InvitationUsed(ObjectId),
    /// What a rescue kit consists of.
    Kit(u64),
}

impl Named {
    /// What `key` names; `None` where this release puts nothing.
    pub fn parse(key: &Key) -> Option<Self> {
        let named = Self::parse_parts(key)?;
        // Only the one key that the parts make is right: not the same pack below another directory.
        (named.key() == *key).then_some(named)
    }

    fn parse_parts(key: &Key) -> Option<Self> {
        let parts: Vec<&str> = key.as_str().split('/').collect();
        let numbered = |name: &str| number_of(key).filter(|n| name == format!("{n:010}"));
        Some(match parts.as_slice() {
            ["repository"] => Self::Repository,
            ["agents", id] => Self::Agent(id.parse().ok()?),
            ["keys", "recipients", number] => Self::Generation(numbered(number)?),
            ["keys", "data", name] => match name.split_once('-') {
                Some((id, number)) => Self::Rewrapped(id.parse().ok()?, number.parse().ok()?),
                None => Self::Envelope(name.parse().ok()?),
            },
            ["keys", "confirmation", number] => Self::Confirmation(numbered(number)?),
            ["packs", _, id] => Self::Pack(id.parse().ok()?),
            ["sources", id, "source", number] => Self::Source(id.parse().ok()?, numbered(number)?),
            ["sources", id, "owner", number] => Self::Owner(id.parse().ok()?, numbered(number)?),
            ["sources", id, "commits", name] => {
                Self::Commit(id.parse().ok()?, number_of(key)?, name.split_once('-')?.1.parse().ok()?)
            }
            ["wal", system, _, _, _] => {
                let (name, digest) = parse_wal(key)?;
                Self::Wal(system.parse().ok()?, name, digest)
            }
            ["operations", agent, name] => {
                Self::Operation(agent.parse().ok()?, number_of(key)?, name.split_once('-')?.1.parse().ok()?)
            }
            ["pins", id, number] => Self::Pin(id.parse().ok()?, numbered(number)?),
            ["tombstones", name] => Self::Tombstone(number_of(key)?, name.split_once('-')?.1.parse().ok()?),
            ["holds", name] => match name.strip_suffix(RELEASED) {
                Some(id) => Self::Release(id.parse().ok()?),
                None => Self::Hold(name.parse().ok()?),
            },
            ["invitations", name] => match name.strip_suffix(USED) {
                Some(id) => Self::InvitationUsed(id.parse().ok()?),
                None => Self::Invitation(name.parse().ok()?),
            },
            ["rescue", number, "kit"] => Self::Kit(number.parse().ok()?),
            _ => return None,
        })
    }

    /// The key of what is named.
    pub fn key(&self) -> Key {
        match self {
            Self::Repository => repository(),
            Self::Agent(id) => agent(*id),
            Self::Generation(number) => generation(RECIPIENTS, *number),
            Self::Envelope(id) => envelope(*id),
            Self::Rewrapped(id, number) => rewrapped(*id, *number),
            Self::Confirmation(number) => generation(CONFIRMATIONS, *number),
            Self::Pack(id) => pack(*id),
            Self::Source(id, number) => generation(&source_generations(*id), *number),
            Self::Owner(id, number) => generation(&owners(*id), *number),
            Self::Commit(source, number, backup) => commit(*source, *number, *backup),
            Self::Wal(system, name, digest) => wal(*system, *name, digest),
            Self::Operation(agent, number, id) => operation(*agent, *number, *id),
            Self::Pin(id, number) => pin(*id, *number),
            Self::Tombstone(number, id) => tombstone(*number, *id),
            Self::Hold(id) => hold(*id),
            Self::Release(id) => release(*id),
            Self::Invitation(id) => invitation(*id),
            Self::InvitationUsed(id) => invitation_used(*id),
            Self::Kit(number) => kit(*number),
        }
    }
}

/// Whether nobody but us gives an object such a name: what is left of an object's creation may be cleared by it, also where
/// others use the same place.
pub fn is_only_ours(key: &Key) -> bool {
    match Named::parse(key) {
        // A word that anybody may use.
        Some(Named::Repository) => false,
        Some(_) => true,
        None => kit_number(key).is_some(),
    }
}

/// A generation of a pin.
pub fn pin(id: ObjectId, number: u64) -> Key {
    generation(&format!("{PINS}{id}/"), number)
}

/// A tombstone.
pub fn tombstone(number: u64, id: ObjectId) -> Key {
    key(format!("{TOMBSTONES}{number:010}-{id}"))
}

/// An invitation.
pub fn invitation(id: ObjectId) -> Key {
    key(format!("{INVITATIONS}{id}"))
}

/// The enrolment that used an invitation up.
pub fn invitation_used(id: ObjectId) -> Key {
    key(format!("{INVITATIONS}{id}{USED}"))
}

/// What rescue kit `number` consists of.
pub fn kit(number: u64) -> Key {
    key(format!("{}kit", kit_directory(number)))
}

/// Where the files of rescue kit `number` lie.
pub fn kit_directory(number: u64) -> String {
    format!("{RESCUE}{number:010}/")
}

/// The number of the rescue kit in whose directory `key` lies.
pub fn kit_number(key: &Key) -> Option<u64> {
    let (number, _) = key.as_str().strip_prefix(RESCUE)?.split_once('/')?;
    let is_number = number.len() == 10 && number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| is_number)
}

/// A hold. Its name is random, so that two hosts that hold a backup at the same time never replace each other's.
pub fn hold(id: ObjectId) -> Key {
    key(format!("{HOLDS}{id}"))
}

/// The end of a hold.
pub fn release(id: ObjectId) -> Key {
    key(format!("{HOLDS}{id}{RELEASED}"))
}

/// Operation records of an agent.
pub fn operations_of(agent: ObjectId) -> String {
    format!("{OPERATIONS}{agent}/")
}

/// An operation record.
pub fn operation(agent: ObjectId, number: u64, id: ObjectId) -> Key {
    key(format!("{OPERATIONS}{agent}/{number:010}-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn around_a_segment_are_those_with_another_last_digit() {
        let system = SystemIdentifier(7);
        let name = |text: &str| text.parse::<WalSegmentName>().expect("a name");
        let around = wal_around(system, name("0000000100000000000000F9"));
        let is_around = |text: &str| {
            wal(system, WalFileName::Segment(name(text)), &[1; 16]).as_str().starts_with(&around)
        };
        assert!(is_around("0000000100000000000000F0") && is_around("0000000100000000000000FF"));
        assert!(!is_around("0000000100000000000000EF") && !is_around("000000010000000100000000"));
        assert!(!is_around("0000000200000000000000F9"));
    }

    #[test]
    fn every_key_tells_what_it_names() {
        let (id, source) = (ObjectId([0xab; 16]), SourceId([0xcd; 16]));
        let backup = BackupId::from_random([7; 8]);
        let system = SystemIdentifier(7_123_456_789_012_345_678);
        let file = |text: &str| text.parse::<WalFileName>().expect("a name");
        for named in [
            Named::Repository,
            Named::Agent(id),
            Named::Envelope(id),
            Named::Generation(2),
            Named::Rewrapped(id, 2),
            Named::Confirmation(3),
            Named::Pack(id),
            Named::Source(source, 1),
            Named::Owner(source, 12),
            Named::Commit(source, 41, backup),
            Named::Wal(system, file("0000000100000A2B000000FE"), [1; 16]),
            Named::Wal(system, file("0000000100000A2B000000FE.partial"), [1; 16]),
            Named::Wal(system, file("0000000100000A2B000000FE.00000028.backup"), [1; 16]),
            Named::Wal(system, file("0000000A.history"), [1; 16]),
            Named::Operation(id, 9, id),
            Named::Pin(id, 4),
            Named::Tombstone(2, id),
            Named::Hold(id),
            Named::Release(id),
            Named::Invitation(id),
            Named::InvitationUsed(id),
            Named::Kit(3),
        ] {
            assert_eq!(Named::parse(&named.key()), Some(named), "{}", named.key());
        }
    }

    #[test]
    fn what_others_may_have_named_is_not_only_ours() {
        let id = ObjectId([0xab; 16]);
        let wal = wal(SystemIdentifier(7), "0000000100000A2B000000FE".parse().expect("a name"), &[1; 16]);
        let kit: Key = "rescue/0000000003/refloat-x86_64".parse().expect("a key");
        for key in [pack(id), wal, kit, pin(id, 1), envelope(id)] {
            assert!(is_only_ours(&key), "{key}");
        }
        for text in
            ["repository", "packs/1", "packs/aa/dump", "wal/x/y", "dumps/1", "rescue/3/kit", "check/1"]
        {
            assert!(!is_only_ours(&text.parse().expect("a key")), "{text}");
        }
    }

    #[test]
    fn nothing_of_ours_lies_elsewhere() {
        let id = ObjectId([0xab; 16]);
        for text in [
            "repository2".to_owned(),
            format!("packs/aa/{id}"),
            format!("packs/{id}"),
            format!("agents/{id}/x"),
            format!("keys/data/{}", id.to_string().to_uppercase()),
            "keys/recipients/1".to_owned(),
            "keys/identity/0000000001".to_owned(),
            "keys/secrets/0000000001".to_owned(),
            format!("keys/data/{id}-2"),
            format!("pins/{id}/1"),
            format!("tombstones/2-{id}"),
            format!("holds/{id}-"),
            "rescue/3/kit".to_owned(),
            "rescue/0000000003/refloat".to_owned(),
            format!("sources/{id}/source/1"),
            format!("sources/{id}/source/0000000001-{id}"),
            format!("wal/1/00000001/00000000/000000010000000000000003-{}", "0".repeat(31)),
            format!("wal/01/00000001/00000000/000000010000000000000003-{}", "0".repeat(32)),
            format!("wal/1/00000002/00000000/000000010000000000000003-{}", "0".repeat(32)),
        ] {
            assert_eq!(Named::parse(&text.parse().expect("a key")), None, "{text}");
        }
    }
}
