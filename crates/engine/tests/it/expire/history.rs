//! Random histories: several actors, each of which may be slow, stopped or killed at any step, on a store whose lists lag
//! and which replaces what is there without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use refloat_engine::expire::{Keep, Policy};
use refloat_engine::guard::{Guard, GuardRequest};
use refloat_repo::commit::BackupType;
use refloat_repo::repository::{HoldWords, Uses};
use refloat_repo::{Repository, layout};
use refloat_types::{BackupId, ObjectId};

use super::world::{Making, World, run_expire};

/// What happens next.
#[derive(Debug, Clone)]
enum Op {
    /// Time passes; jobs that run renew their pins.
    Pass(u64),
    /// A backup at once.
    Backup(BackupType),
    /// A backup is begun, by a process that is stopped then, if so.
    Begin { kind: BackupType, stopped: bool },
    /// A backup goes on by one step.
    Step(usize),
    /// A backup is killed.
    Kill(usize),
    /// An expiry.
    Expire(usize),
    /// An expiry that is killed at its n-th call.
    Killed(usize, i64),
    /// An expiry that is stopped for hours at its n-th change, while others work.
    Stopped(i64, u64),
    /// A restore of one of the backups begins, or ends.
    Restore(usize),
    /// A backup is held, or let go.
    Hold(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let kind = || prop_oneof![Just(BackupType::Full), Just(BackupType::Incr), Just(BackupType::Incr)];
    prop_oneof![
        4 => prop_oneof![10_u64..600, 3600_u64..40_000, 40_000_u64..90_000].prop_map(Op::Pass),
        4 => kind().prop_map(Op::Backup),
        2 => (kind(), any::<bool>()).prop_map(|(kind, stopped)| Op::Begin { kind, stopped }),
        4 => (0_usize..4).prop_map(Op::Step),
        1 => (0_usize..4).prop_map(Op::Kill),
        4 => (0_usize..2).prop_map(Op::Expire),
        2 => (0_usize..2, 0_i64..60).prop_map(|(host, call)| Op::Killed(host, call)),
        2 => (0_i64..25, 1_u64..60).prop_map(|(call, hours)| Op::Stopped(call, hours)),
        1 => (0_usize..8).prop_map(Op::Restore),
        1 => (0_usize..8).prop_map(Op::Hold),
    ]
}

/// A backup on its way.
struct Flight<'a> {
    making: Making<'a>,
    stage: u8,
    stopped: bool,
}

/// Backups that must stay, whatever happens: restores use them, or somebody holds them.
#[derive(Default)]
struct Promised {
    restores: BTreeMap<usize, (BackupId, bool)>,
    holds: BTreeMap<BackupId, ObjectId>,
}

struct Play<'a> {
    world: World,
    repositories: &'a [Arc<Repository>],
    flights: Vec<Flight<'a>>,
    readers: BTreeMap<usize, Guard<'a>>,
    promised: Promised,
    /// A commit that was seen was taken back: it may have counted meanwhile.
    withdrew: bool,
}

fn words() -> HoldWords {
    HoldWords { reason: "test".to_owned(), who: "me@here".to_owned() }
}

impl<'a> Play<'a> {
    fn renew(&self) {
        for flight in self.flights.iter().filter(|flight| !flight.stopped) {
            flight.making.guard.renew().unwrap();
        }
        self.readers.values().for_each(|guard| guard.renew().unwrap());
    }

    fn pass(&mut self, seconds: u64) {
        // Pins of jobs that run are renewed in time.
        let mut left = seconds;
        while left > 0 {
            let step = left.min(1200);
            self.world.pass(Duration::from_secs(step));
            left -= step;
            if left % 3600 < 1200 {
                self.renew();
            }
        }
        self.renew();
    }

    fn step(&mut self, at: usize) {
        if self.flights.is_empty() {
            return;
        }
        let at = at % self.flights.len();
        let mut flight = self.flights.remove(at);
        let repository = &self.repositories[1];
        let good = match flight.stage {
            0 => flight.making.guard.before_commit(&flight.making.commit, &flight.making.packs).is_ok(),
            1 => self.world.put(repository, &mut flight.making).is_ok(),
            _ => {
                self.withdrew |= !self.world.acknowledge(flight.making);
                return;
            }
        };
        if good {
            flight.stage += 1;
            self.flights.insert(at, flight);
        }
    }

    fn kill(&mut self, at: usize) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.remove(at % self.flights.len());
        if flight.stage == 2 {
            // Killed between its commit and the last look after having been stopped: seen, broken, never acknowledged.
            self.withdrew |= !self.world.acknowledge(flight.making);
        } else {
            std::mem::forget(flight.making.guard);
        }
    }

    fn present(&self) -> Vec<BackupId> {
        let made = self.world.made.iter().map(|record| record.commit.backup);
        made.filter(|id| self.world.is_there(*id)).collect()
    }

    fn is_marked(&self, backup: BackupId) -> bool {
        let stones = self.world.hosts[0].repository.list_tombstones().unwrap();
        let ending = format!("-{backup}");
        let lag = self.world.lag;
        // What was marked a moment ago may not be seen yet by whoever asks.
        let seen = |created| created + lag + lag >= self.world.now();
        stones.iter().any(|s| seen(s.created) || s.names.iter().any(|n| n.as_str().ends_with(&ending)))
    }

    fn restore(&mut self, at: usize) {
        if self.readers.remove(&at).is_some() {
            self.promised.restores.remove(&at);
            return;
        }
        let present = self.present();
        if present.is_empty() {
            return;
        }
        let backup = present[at % present.len()];
        let request = GuardRequest {
            operation: "restore",
            backup: None,
            uses: Uses::Backups(vec![backup]),
            host: "db2",
            now: self.world.now(),
            uptime: self.world.uptime(),
            renew: false,
        };
        let safe = !self.is_marked(backup);
        self.readers.insert(at, Guard::begin(&self.repositories[1], &request).unwrap());
        self.promised.restores.insert(at, (backup, safe));
    }

    fn hold(&mut self, at: usize) {
        let present = self.present();
        if present.is_empty() {
            return;
        }
        let backup = present[at % present.len()];
        let repository = &self.repositories[0];
        if let Some(hold) = self.promised.holds.remove(&backup) {
            repository.release_hold(hold, &words(), self.world.now()).unwrap();
        } else if !self.is_marked(backup) {
            let (source, now) = (self.world.source, self.world.now());
            let hold = repository.add_hold(source, backup, &words(), None, now).unwrap();
            self.promised.holds.insert(backup, hold.id);
        }
    }

    /// An expiry that stands still for hours in the middle, while another host expires and backs up.
    fn stopped(&mut self, call: i64, hours: u64) {
        let clock = Arc::clone(&self.world.clock);
        let other = Arc::clone(&self.repositories[1]);
        let (source, policy) = (self.world.source, self.world.policy.clone());
        let hook = move || {
            clock.advance(Duration::from_secs(hours * 3600));
            let _ = run_expire(&other, source, policy.as_ref(), &clock);
        };
        *self.world.hosts[0].view.stop.lock().unwrap() = Some((call, Box::new(hook)));
        let _ = self.world.expire(0);
        *self.world.hosts[0].view.stop.lock().unwrap() = None;
        self.renew();
    }

    fn play(&mut self, op: &Op) {
        match op {
            Op::Pass(seconds) => self.pass(*seconds),
            Op::Backup(kind) => drop(self.world.backup(0, *kind)),
            Op::Begin { kind, stopped } => {
                if self.flights.len() < 4
                    && let Ok(making) = self.world.begin(&self.repositories[1], *kind)
                {
                    self.flights.push(Flight { making, stage: 0, stopped: *stopped });
                }
            }
            Op::Step(at) => self.step(*at),
            Op::Kill(at) => self.kill(*at),
            Op::Expire(host) => drop(self.world.expire(*host)),
            Op::Killed(host, call) => {
                let dies = Arc::clone(&self.world.hosts[*host].view.dies_in);
                dies.store(*call, Ordering::SeqCst);
                let _ = self.world.expire(*host);
                dies.store(-1, Ordering::SeqCst);
            }
            // Jobs that renew would be stopped too, here: only where nobody is promised anything.
            Op::Stopped(call, hours) => {
                if self.readers.is_empty() {
                    self.flights.iter_mut().for_each(|flight| flight.stopped = true);
                    self.stopped(*call, *hours);
                }
            }
            Op::Restore(at) => self.restore(*at),
            Op::Hold(at) => self.hold(*at),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let world = &self.world;
        let present: BTreeSet<BackupId> = self.present().into_iter().collect();
        for record in world.made.iter().filter(|record| present.contains(&record.commit.backup)) {
            prop_assert_eq!(world.lacks(record), 0, "packs of {} are gone", record.commit.backup);
            let first = record.commit.cluster.start_lsn.0 / super::world::SIZE.bytes();
            let there = refloat_store::Store::head(&world.store, &world.wal_key(first)).unwrap().is_some();
            prop_assert!(there, "WAL of {} is gone", record.commit.backup);
        }
        let fulls = |r: &&refloat_repo::commit::CommitRecord| r.commit.kind == BackupType::Full;
        let made = world.made.iter().filter(fulls).count();
        let left = world.made.iter().filter(fulls).filter(|r| present.contains(&r.commit.backup)).count();
        // A commit that is there counts, whether or not its process knows already.
        let seen = self.flights.iter().filter(|flight| {
            let commit = &flight.making.commit;
            flight.stage == 2 && commit.kind == BackupType::Full && world.is_there(commit.backup)
        });
        let (left, needed) = (left + seen.count(), if self.withdrew { 1 } else { 2 });
        prop_assert!(left >= made.min(needed), "{left} of {made} fulls are left");
        for backup in self.promised.holds.keys() {
            prop_assert!(present.contains(backup), "{backup} was held");
        }
        for (backup, safe) in self.promised.restores.values() {
            prop_assert!(!safe || present.contains(backup), "{backup} was being restored");
        }
        Ok(())
    }

    /// Everybody comes to an end; then days go by with backups and expiries, and nothing unneeded is left.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        while !self.flights.is_empty() {
            self.step(0);
        }
        self.readers.clear();
        self.promised.restores.clear();
        for hold in std::mem::take(&mut self.promised.holds).into_values() {
            self.repositories[0].release_hold(hold, &words(), self.world.now()).unwrap();
        }
        self.check()?;
        for _ in 0..14 {
            self.pass(85_400);
            self.world.backup(0, BackupType::Full);
            self.pass(1000);
            self.world.expire(0).map_err(|error| TestCaseError::fail(error.to_string()))?;
            self.check()?;
        }
        let world = &self.world;
        let mut needed = BTreeSet::new();
        let commits = world.objects(&layout::commits(world.source));
        prop_assert!(commits.len() <= 5, "{} backups are left", commits.len());
        for key in &commits {
            let record = self.repositories[0].read_commit(key).unwrap();
            needed.extend(record.packs.iter().map(|pack| layout::pack(pack.id)));
        }
        // The last days' are marked, and wait for the grace time.
        let waiting: BTreeSet<_> = self.repositories[0]
            .list_tombstones()
            .unwrap()
            .into_iter()
            .flat_map(|stored| stored.names)
            .collect();
        for pack in world.objects(layout::PACKS) {
            prop_assert!(needed.contains(&pack) || waiting.contains(&pack), "{pack} stays for ever");
        }
        prop_assert!(world.objects(layout::TOMBSTONES).len() <= 4);
        prop_assert!(world.objects(layout::PINS).is_empty());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_needed_goes_and_nothing_unneeded_stays(
        lag in prop_oneof![Just(0_u64), Just(0), 1_u64..900],
        ops in proptest::collection::vec(op(), 5..50),
    ) {
        let mut world = World::new(Duration::from_secs(lag));
        world.policy = Some(Policy { full: Some(Keep::Count(2)), incr: Some(Keep::Count(1)), ..Policy::default() });
        let repositories: Vec<_> = world.hosts.iter().map(|host| Arc::clone(&host.repository)).collect();
        let mut play = Play {
            world,
            repositories: &repositories,
            flights: Vec::new(),
            readers: BTreeMap::new(),
            promised: Promised::default(),
            withdrew: false,
        };
        for op in &ops {
            play.play(op);
            play.check()?;
        }
        play.settle()?;
    }
}
