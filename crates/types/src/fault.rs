//! Named failpoints at every step that changes something outside the process.
//!
//! Without the feature `failpoints` a point is nothing. With it, the variable `REFLOAT_FAILPOINTS` arms points:
//! `name=action[@n][,name=action…]`, where `@n` means "at the n-th pass" (default: every pass) and the action is
//! `kill` (SIGKILL to ourselves), `stop` (SIGSTOP), `error`, `nospace`, or `sleep:MS`.
//! Library tests arm points with [`arm`] instead. A clock that is a point too can be put ahead while a process is stopped:
//! `name=ahead:FILE`, by as many seconds as stand in the file.

use std::io;
use std::time::Duration;

/// Passes the point `name`; an armed point fails, sleeps, stops or kills here.
///
/// # Errors
/// Only what an armed point was told to fail with.
#[inline]
pub fn point(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    return armed::pass(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Ok(())
    }
}

/// How far the clock `name` is put ahead.
#[inline]
pub fn ahead(name: &'static str) -> Duration {
    #[cfg(feature = "failpoints")]
    return armed::ahead(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Duration::ZERO
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{arm, names_passed};

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    #[derive(Clone)]
    struct Plan {
        action: String,
        at: Option<u64>,
        passes: u64,
    }

    struct State {
        plans: BTreeMap<String, Plan>,
        passed: BTreeSet<&'static str>,
    }

    fn state() -> &'static Mutex<State> {
        static STATE: OnceLock<Mutex<State>> = OnceLock::new();
        STATE.get_or_init(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "test builds only: the one switch that is not configuration"
            )]
            let text = std::env::var("REFLOAT_FAILPOINTS").unwrap_or_default();
            Mutex::new(State { plans: parse(&text), passed: BTreeSet::new() })
        })
    }

    fn parse(text: &str) -> BTreeMap<String, Plan> {
        text.split(',')
            .filter_map(|item| {
                let (name, action) = item.trim().split_once('=')?;
                let (action, at) = match action.split_once('@') {
                    Some((a, n)) => (a, n.parse().ok()),
                    None => (action, None),
                };
                Some((name.to_owned(), Plan { action: action.to_owned(), at, passes: 0 }))
            })
            .collect()
    }

    /// Replaces the armed points of this process.
    pub fn arm(text: &str) {
        state().lock().unwrap_or_else(PoisonError::into_inner).plans = parse(text);
    }

    /// The names of all points passed so far, armed or not: lets a test prove that it met every one.
    pub fn names_passed() -> Vec<&'static str> {
        state().lock().unwrap_or_else(PoisonError::into_inner).passed.iter().copied().collect()
    }

    pub(super) fn ahead(name: &'static str) -> Duration {
        let state = state().lock().unwrap_or_else(PoisonError::into_inner);
        let action = state.plans.get(name).map(|plan| plan.action.clone());
        drop(state);
        let file = action.as_deref().and_then(|action| action.strip_prefix("ahead:"));
        let text = file.and_then(|file| std::fs::read_to_string(file).ok());
        Duration::from_secs(text.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }

    pub(super) fn pass(name: &'static str) -> io::Result<()> {
        let action = {
            let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
            if state.passed.insert(name) {
                note(name);
            }
            let Some(plan) = state.plans.get_mut(name) else { return Ok(()) };
            plan.passes += 1;
            if plan.at.is_some_and(|at| at != plan.passes) {
                return Ok(());
            }
            plan.action.clone()
        };
        let me = std::process::id().to_string();
        match action.split_once(':').unwrap_or((action.as_str(), "")) {
            ("kill", _) => signal("-KILL", &me),
            ("stop", _) => signal("-STOP", &me),
            ("nospace", _) => return Err(io::Error::from_raw_os_error(28)),
            ("sleep", ms) => std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0))),
            _ => return Err(io::Error::other(format!("failpoint {name}"))),
        }
        Ok(())
    }

    /// Appends the name to the file `REFLOAT_FAILPOINTS_SEEN`, so that a test can list the points of a command.
    fn note(name: &str) {
        use std::io::Write as _;
        #[expect(clippy::disallowed_methods, reason = "test builds only")]
        let Some(path) = std::env::var_os("REFLOAT_FAILPOINTS_SEEN") else { return };
        if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
            let _ = writeln!(file, "{name}");
        }
    }

    fn signal(what: &str, pid: &str) {
        let _ = std::process::Command::new("/bin/kill").args([what, pid]).status();
        if what == "-KILL" {
            // The signal is on its way; nothing after this line may run.
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}
