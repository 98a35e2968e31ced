//! A store that misbehaves as planned.
//!
//! ```
//! use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
//! use refloat_testkit::memory_store::Memory;
//! # use refloat_store::Store as _;
//! let plan = FaultPlan::new();
//! let store = Faulty::new(Memory::new(), &plan);
//! plan.add(Rule::new(On::Put, Effect::Lie).key("wal/").nth(2));
//! # let key = |text: &str| text.parse().unwrap();
//! store.put_new(&key("wal/a"), b"1").unwrap();
//! store.put_new(&key("wal/b"), b"2").unwrap();
//! assert!(store.head(&key("wal/a")).unwrap().is_some());
//! assert!(store.head(&key("wal/b")).unwrap().is_none());
//! ```

mod faulty;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use refloat_store::StoreErrorKind;

pub use faulty::Faulty;

/// Which calls a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// `put_new`, and finishing a writer.
    Put,
    /// `read`.
    Read,
    /// `settle`.
    Settle,
    /// `head`.
    Head,
    /// `list`.
    List,
    /// `delete`.
    Delete,
    /// `space`.
    Space,
    /// `clear_abandoned`.
    Clear,
    /// All of them.
    Any,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is done; an error of this kind is answered.
    Refuse(StoreErrorKind),
    /// It is done late.
    Delay(Duration),
    /// A put stores only the first bytes, at most this many, and answers `Ok`; a read beyond them is `Truncated`.
    Truncate(u64),
    /// Nothing is done and `Ok` is answered: a put or delete has no effect, a read gives zeros, `head` and `list` show
    /// nothing.
    Lie,
    /// It is done, and the connection is lost before the answer: `Unreachable`.
    LoseAnswer,
    /// A list comes in reverse order.
    Reverse,
    /// A list lacks the object that was put last.
    Lag,
    /// One bit of what is put or read is flipped: of the byte at this place, modulo the length.
    Flip(u64),
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub struct Rule {
    on: On,
    effect: Effect,
    key_contains: String,
    from: u64,
    to: u64,
    seen: u64,
}

impl Rule {
    /// `effect` at every matching call.
    pub const fn new(on: On, effect: Effect) -> Self {
        Self { on, effect, key_contains: String::new(), from: 1, to: u64::MAX, seen: 0 }
    }
    /// Only where the key, or the prefix of a list, contains this.
    #[must_use]
    pub fn key(mut self, part: &str) -> Self {
        part.clone_into(&mut self.key_contains);
        self
    }
    /// Only at the `n`-th matching call, from 1.
    #[must_use]
    pub const fn nth(mut self, n: u64) -> Self {
        self.from = n;
        self.to = n;
        self
    }
    /// Only at the first `n` matching calls.
    #[must_use]
    pub const fn first(mut self, n: u64) -> Self {
        self.to = n;
        self
    }
    /// From the `n`-th matching call on.
    #[must_use]
    pub const fn from(mut self, n: u64) -> Self {
        self.from = n;
        self
    }
}

/// What goes wrong and when; shared with the stores it is given to, and changed while they work.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    /// Bytes that may be stored in all; `None` for any number.
    space: Option<u64>,
    used: u64,
    calls: Vec<On>,
}

impl FaultPlan {
    /// A plan in which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a rule. Of several that match a call, the first added takes effect.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }
    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.space = None;
    }
    /// The store is full when it holds this many bytes, counted from its first put.
    pub fn limit_space(&self, bytes: u64) {
        self.lock().space = Some(bytes);
    }
    /// How many calls were made, whatever became of them.
    pub fn calls(&self) -> u64 {
        self.lock().calls.len() as u64
    }
    /// How many calls of this kind were made, whatever became of them.
    pub fn calls_of(&self, on: On) -> usize {
        self.lock().calls.iter().filter(|one| **one == on).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what becomes of it.
    fn decide(&self, on: On, key: &str) -> Option<Effect> {
        let mut state = self.lock();
        state.calls.push(on);
        let mut effect = None;
        for rule in &mut state.rules {
            if (rule.on == on || rule.on == On::Any) && key.contains(&rule.key_contains) {
                rule.seen += 1;
                if (rule.from..=rule.to).contains(&rule.seen) {
                    effect = effect.or(Some(rule.effect));
                }
            }
        }
        effect
    }

    /// Takes space for an object; `false` when the store is full.
    fn take_space(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        let used = state.used.saturating_add(bytes);
        if state.space.is_some_and(|limit| used > limit) {
            return false;
        }
        state.used = used;
        true
    }

    fn give_space_back(&self, bytes: u64) {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(bytes);
    }
}
