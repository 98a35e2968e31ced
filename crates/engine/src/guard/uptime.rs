//! How long things take, in a way that a stopped process and a sleeping machine cannot hide.

use std::time::Duration;

/// Time since some fixed moment, that goes on while the process or the machine is suspended.
pub trait Uptime: Send + Sync {
    /// So long it is since then.
    fn get(&self) -> Duration;
}

/// The time since the machine was started.
#[derive(Debug, Clone, Copy, Default)]
pub struct SinceBoot;

impl Uptime for SinceBoot {
    fn get(&self) -> Duration {
        // `Instant` stands still while the machine sleeps.
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let since = Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0));
        since + refloat_types::fault::ahead("guard.uptime")
    }
}
