//! Pins: what a running job uses, so that nobody deletes it meanwhile.
//!
//! A pin is written before anything is chosen, and renewed by numbered generations. Those of the last lease stay, because a
//! list may lag behind, and so does the first, whose age tells since when the job runs. A pin that was not renewed for its lease, by the store's
//! clock, is dead: what a killed job leaves holds nothing for long, and is removed by `expire`. Where a host may only add, a
//! job ends its pin by a last generation whose lease is over at once.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use refloat_store::{Key, Store};
use refloat_types::{BackupId, ObjectId, SourceId, Timestamp, fault};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::random;
use crate::crypt::seal::DataKey;
use crate::crypt::sign::SigningKey;
use crate::error::RepoError;
use crate::kind::{Kind, Suite};
use crate::layout::{self, Named};
use crate::object::document::Signer;
use crate::object::{Body, Document};

/// So many generations may be absent behind the newest one listed before the search for later ones ends.
const LOOK_AHEAD: u32 = 5;
/// Largest pin accepted.
pub(super) const MAX_PIN: u64 = 1 << 20;

/// What a job needs to stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uses {
    /// Everything in the repository.
    Repository,
    /// Every backup of this source: nothing was chosen yet.
    Source(SourceId),
    /// These backups, with all their packs and WAL; none for a job that needs nothing older.
    Backups(Vec<BackupId>),
}

/// The clear section of a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its id.
    pub pin: ObjectId,
    /// Generation.
    pub number: u64,
    /// Host time when the job began.
    pub since: Timestamp,
    /// It is dead when it was not renewed for so long.
    pub lease_seconds: u64,
    /// `backup`, `restore`, `verify`, `expire`.
    pub operation: String,
    /// Who wrote it.
    pub agent: ObjectId,
    /// Keyed digest of the host and state directory: tells a copied state directory from its original.
    #[serde(with = "refloat_types::hex::array")]
    pub holder: [u8; 16],
    /// The backup that is being made.
    pub backup: Option<BackupId>,
    /// Of which source, where it is of one: two hosts see by it that both make a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceId>,
    /// What must stay.
    pub uses: Uses,
}

/// The sealed part of a pin.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PinHost {
    host: String,
}

/// A pin as it was found.
#[derive(Debug, Clone)]
pub struct SeenPin {
    /// Its newest generation.
    pub pin: Pin,
    /// When its first generation was written, by the store's clock; `None` when that is not there.
    pub began: Option<Timestamp>,
    /// When its newest generation was written, by the store's clock.
    pub renewed: Timestamp,
    /// All its generations.
    pub keys: Vec<Key>,
}

impl SeenPin {
    /// Whether its job may still be running at the store's time `now`.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        let lease = i64::try_from(self.pin.lease_seconds).unwrap_or(i64::MAX);
        now.as_second().saturating_sub(self.renewed.as_second()) <= lease
    }
}

/// Writes the generations of one pin; needs no repository, so that a thread can do it.
pub struct PinWriter {
    store: Arc<dyn Store>,
    signing: SigningKey,
    suite: Suite,
    key: Option<Arc<DataKey>>,
    host: Vec<u8>,
    pin: Pin,
    /// Generations that are there, and when each was written.
    written: VecDeque<(u64, Instant)>,
}

impl PinWriter {
    /// What its newest generation says.
    pub const fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Writes the next generation, and removes those that are older than the lease, but never the first.
    ///
    /// # Errors
    /// When it cannot be stored: the pin goes on ageing.
    pub fn renew(&mut self) -> Result<Key, RepoError> {
        self.pin.number += 1;
        let key = layout::pin(self.pin.pin, self.pin.number);
        fault::point("pin.before_write").map_err(|e| RepoError::internal("write a pin", e))?;
        let bytes = Document::encode(
            Kind::Pin,
            self.suite,
            random::object_id(),
            &Signer::Agent(&self.signing),
            &self.pin,
            &[],
            Body::Sealed(&self.host, self.key.as_deref()),
        )?;
        // Noted first: it may be there whatever the answer is.
        self.written.push_back((self.pin.number, Instant::now()));
        self.store.put_new(&key, &bytes)?;
        fault::point("pin.after_write").map_err(|e| RepoError::internal("write a pin", e))?;
        let lease = Duration::from_secs(self.pin.lease_seconds);
        let is_old = |(number, at): &(u64, Instant)| *number > 1 && at.elapsed() > lease;
        while let Some(at) = self.written.iter().position(is_old) {
            let Some((number, _)) = self.written.remove(at) else { continue };
            match self.store.delete(&layout::pin(self.pin.pin, number)) {
                // It stays for whoever may delete: `expire` clears what is dead.
                Err(error) if error.is_denied() => {}
                other => other?,
            }
        }
        Ok(key)
    }

    /// Says what must stay from now on, and writes that.
    ///
    /// # Errors
    /// As [`PinWriter::renew`].
    pub fn uses(&mut self, uses: Uses) -> Result<(), RepoError> {
        self.pin.uses = uses;
        self.renew().map(drop)
    }

    /// Removes the pin: the job is done. Where this host may not delete, it says that it is over.
    ///
    /// # Errors
    /// It stays until its lease is over.
    pub fn remove(&mut self) -> Result<(), RepoError> {
        for (number, _) in &self.written {
            match self.store.delete(&layout::pin(self.pin.pin, *number)) {
                Err(error) if error.is_denied() => return self.end(),
                other => other?,
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RepoError> {
        self.pin.lease_seconds = 0;
        self.pin.backup = None;
        self.written.clear();
        self.uses(Uses::Backups(Vec::new()))
    }
}

/// What a pin whose signature holds says.
pub(super) fn pin_of(key: &Key, document: &Document) -> Result<Pin, RepoError> {
    let pin: Pin = document.unverified().clear_as(key.as_str())?;
    if *key == layout::pin(pin.pin, pin.number) && pin.agent == document.header.agent {
        Ok(pin)
    } else {
        Err(RepoError::damaged(key, "it lies under another pin's name"))
    }
}

impl Repository {
    /// Tells this host and state directory from others that sign as the same agent: a copy of a state directory.
    ///
    /// Made of whatever differs between a machine and its copy. What cannot be read counts as empty.
    pub fn holder(&self, host: &str) -> [u8; 16] {
        use std::os::unix::fs::MetadataExt as _;
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let place = std::fs::metadata(self.state.path()).map_or((0, 0), |meta| (meta.dev(), meta.ino()));
        let text = format!(
            "{host}\n{}\n{}\n{}\n{place:?}",
            read("/etc/machine-id").trim(),
            read("/proc/sys/kernel/random/boot_id").trim(),
            self.state.path().display(),
        );
        let digest = blake3::keyed_hash(self.naming_key(), text.as_bytes());
        let mut out = [0; 16];
        out.copy_from_slice(&digest.as_bytes()[..16]);
        out
    }

    /// Makes ready to write a pin; [`PinWriter::renew`] writes its first generation.
    ///
    /// # Errors
    /// When the key that seals the host's name cannot be had.
    pub fn pin_writer(
        &self,
        operation: &str,
        backup: Option<BackupId>,
        uses: Uses,
        lease_seconds: u64,
        host: &str,
        now: Timestamp,
    ) -> Result<PinWriter, RepoError> {
        self.be_enrolled()?;
        let signing = self.signing.again();
        let signing = signing.ok_or_else(|| RepoError::internal("write a pin", "the signing key is none"))?;
        let host_text = serde_json::to_vec(&PinHost { host: host.to_owned() });
        let pin = Pin {
            pin: random::object_id(),
            number: 0,
            since: now,
            lease_seconds,
            operation: operation.to_owned(),
            agent: self.agent(),
            holder: self.holder(host),
            backup,
            source: match uses {
                Uses::Source(source) => Some(source),
                Uses::Repository | Uses::Backups(_) => None,
            },
            uses,
        };
        Ok(PinWriter {
            store: Arc::clone(&self.store),
            signing,
            suite: self.current.suite,
            key: self.writer_key(now)?,
            host: host_text.map_err(|e| RepoError::internal("write a pin", e))?,
            pin,
            written: VecDeque::new(),
        })
    }

    /// All pins, living and dead.
    ///
    /// # Errors
    /// When one cannot be believed: it may need anything.
    pub fn list_pins(&self) -> Result<Vec<SeenPin>, RepoError> {
        // A pin that is renewed between the list and the look is looked for once more.
        let mut last = None;
        for _ in 0..4 {
            match self.try_list_pins() {
                Err(RepoError::Missing { object }) => last = Some(RepoError::Missing { object }),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| RepoError::internal("list pins", "they change too fast")))
    }

    fn try_list_pins(&self) -> Result<Vec<SeenPin>, RepoError> {
        let mut found: BTreeMap<ObjectId, BTreeMap<u64, Timestamp>> = BTreeMap::new();
        self.store.list(layout::PINS, &mut |info| {
            if let Some(Named::Pin(id, number)) = Named::parse(&info.key) {
                found.entry(id).or_default().insert(number, info.created);
            }
            ControlFlow::Continue(())
        })?;
        let mut out = Vec::new();
        for (id, mut generations) in found {
            self.look_ahead(id, &mut generations)?;
            let Some((number, renewed)) = generations.last_key_value() else { continue };
            let key = layout::pin(id, *number);
            let pin = match self.get_signed(&key, Kind::Pin, MAX_PIN) {
                Ok(document) => pin_of(&key, &document)?,
                // Ended meanwhile, or renewed more than once: only another list can tell.
                Err(RepoError::Missing { object }) if self.has_generations(id)? => {
                    return Err(RepoError::Missing { object });
                }
                Err(RepoError::Missing { .. }) => continue,
                Err(error) => return Err(error),
            };
            out.push(SeenPin {
                pin,
                began: generations.get(&1).copied(),
                renewed: *renewed,
                keys: generations.keys().map(|number| layout::pin(id, *number)).collect(),
            });
        }
        Ok(out)
    }

    /// Generations that a list does not show yet: numbers are dense, so the next ones are asked for by name.
    fn look_ahead(&self, id: ObjectId, generations: &mut BTreeMap<u64, Timestamp>) -> Result<(), RepoError> {
        let mut next = generations.last_key_value().map_or(1, |(last, _)| last + 1);
        let mut absent = 0;
        // Those in between may be removed already.
        while absent < LOOK_AHEAD {
            match self.store.head(&layout::pin(id, next))? {
                Some(info) => {
                    generations.insert(next, info.created);
                    absent = 0;
                }
                None => absent += 1,
            }
            next += 1;
        }
        Ok(())
    }

    fn has_generations(&self, id: ObjectId) -> Result<bool, RepoError> {
        let mut any = false;
        self.store.list(&format!("{}{id}/", layout::PINS), &mut |_| {
            any = true;
            ControlFlow::Break(())
        })?;
        Ok(any)
    }

    /// The host that wrote a pin, where this one can read it.
    pub fn pinned_on(&self, seen: &SeenPin) -> Option<String> {
        let key = seen.keys.last()?;
        let document = self.get_signed(key, Kind::Pin, MAX_PIN).ok()?;
        self.pin_host(key, &document).ok()
    }

    pub(super) fn pin_host(&self, key: &Key, document: &Document) -> Result<String, RepoError> {
        self.open_document::<PinHost>(key, document).map(|host| host.host)
    }
}
