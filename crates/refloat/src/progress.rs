//! How far it is: a bar with rate and ETA on a terminal, elsewhere a line every 30 seconds, nothing with `-q`.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use refloat_engine::progress::Progress;
use refloat_types::ByteSize;

use crate::render::{Out, time};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(30);

/// Tells how far it is on stderr.
pub(crate) struct Meter {
    out: Out,
    bar: Option<ProgressBar>,
    done: AtomicU64,
    phase: Mutex<Phase>,
}

struct Phase {
    name: String,
    total: u64,
    began: Instant,
    told: Instant,
}

impl Meter {
    /// A new one.
    pub(crate) fn new(out: Out) -> Self {
        let bar = (!out.quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(spinner());
            bar
        });
        let now = Instant::now();
        let phase = Mutex::new(Phase { name: String::new(), total: 0, began: now, told: now });
        Self { out, bar, done: AtomicU64::new(0), phase }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(phase: &Phase, done: u64) -> String {
        let seconds = phase.began.elapsed().as_secs_f64().max(0.001);
        let rate = done as f64 / seconds;
        let mut line = format!("{}: {}", phase.name, ByteSize(done));
        if let Some(share) = done.saturating_mul(100).checked_div(phase.total) {
            line.push_str(&format!(" of {} ({}%)", ByteSize(phase.total), share.min(100)));
        }
        line.push_str(&format!(", {}/s", ByteSize(rate as u64)));
        if phase.total > done && rate > 1.0 {
            let left = Duration::from_secs_f64((phase.total - done) as f64 / rate);
            line.push_str(&format!(", about {} left", time::length(left)));
        }
        line
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn spinner() -> ProgressStyle {
    style("{spinner} {msg}  {elapsed}")
}

impl Progress for Meter {
    fn phase(&self, name: &str, total_bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        let now = Instant::now();
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) =
            Phase { name: name.to_owned(), total: total_bytes, began: now, told: now };
        let Some(bar) = &self.bar else {
            tracing::info!(phase = name, bytes = total_bytes, "begins");
            return;
        };
        bar.reset();
        bar.set_length(total_bytes);
        bar.set_message(name.to_owned());
        if total_bytes == 0 {
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            bar.disable_steady_tick();
            bar.set_style(style("{msg:12} [{bar:30}] {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"));
        }
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        if self.out.quiet {
            return;
        }
        // Whoever finds the lock taken leaves the line to the other.
        let Ok(mut phase) = self.phase.try_lock() else { return };
        if phase.told.elapsed() >= EVERY {
            phase.told = Instant::now();
            self.out.say(&Self::line(&phase, done));
        }
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.say(&format!("note: {text}"))),
            None => self.out.say(&format!("note: {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_rate_and_rest() {
        let began = Instant::now().checked_sub(Duration::from_secs(10)).expect("the clock is old enough");
        let phase = Phase { name: "copying".into(), total: 4 << 30, began, told: began };
        let line = Meter::line(&phase, 1 << 30);
        assert!(line.starts_with("copying: 1.0 GB of 4.0 GB (25%), 102 MB/s, about 30 s left"), "{line}");
    }
}
