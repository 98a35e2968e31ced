//! How far it is: a bar with rate and ETA on a terminal, elsewhere a line every 30 seconds, nothing with `-q`.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
    state: Arc<State>,
    /// Dropped, it ends the thread that writes lines.
    _lines: Option<Sender<()>>,
}

struct State {
    done: AtomicU64,
    phase: Mutex<Phase>,
}

struct Phase {
    name: String,
    total: u64,
    began: Instant,
}

impl Meter {
    /// A new one.
    pub(crate) fn new(out: Out) -> Self {
        let bar = (!out.quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(spinner());
            bar
        });
        let phase = Mutex::new(Phase { name: String::new(), total: 0, began: Instant::now() });
        let state = Arc::new(State { done: AtomicU64::new(0), phase });
        let wants_lines = bar.is_none() && !out.quiet;
        let lines = wants_lines.then(|| tell_every(EVERY, Arc::clone(&state), move |line| out.say(&line)));
        Self { out, bar, state, _lines: lines.flatten() }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Tells a line again and again, also while nothing moves: a sync can take minutes, and silence looks like a hang. `None`
/// where no thread can be started, which is no reason to fail.
fn tell_every(
    every: Duration,
    state: Arc<State>,
    tell: impl Fn(String) + Send + 'static,
) -> Option<Sender<()>> {
    let (keep, ended) = channel::<()>();
    let lines = move || {
        while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            tell(state.line());
        }
    };
    std::thread::Builder::new().name("progress".to_owned()).spawn(lines).ok().map(|_| keep)
}

impl State {
    fn line(&self) -> String {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        phase.line(self.done.load(Ordering::Relaxed))
    }
}

impl Phase {
    fn line(&self, done: u64) -> String {
        let taken = self.began.elapsed();
        if done == 0 && self.total == 0 {
            return format!("{}: {} so far", self.name, time::length(taken));
        }
        let rate = done as f64 / taken.as_secs_f64().max(0.001);
        let mut line = format!("{}: {}", self.name, ByteSize(done));
        if let Some(share) = done.saturating_mul(100).checked_div(self.total) {
            line.push_str(&format!(" of {} ({}%)", ByteSize(self.total), share.min(100)));
        }
        line.push_str(&format!(", {}/s", ByteSize(rate as u64)));
        if self.total > done && rate > 1.0 {
            let left = Duration::from_secs_f64((self.total - done) as f64 / rate);
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
        self.state.done.store(0, Ordering::Relaxed);
        *self.state.phase.lock().unwrap_or_else(PoisonError::into_inner) =
            Phase { name: name.to_owned(), total: total_bytes, began: Instant::now() };
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
        let done = self.state.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
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
        let phase = Phase { name: "copying".into(), total: 4 << 30, began };
        let line = phase.line(1 << 30);
        assert!(line.starts_with("copying: 1.0 GB of 4.0 GB (25%), 102 MB/s, about 30 s left"), "{line}");
        let durable = Phase { name: "making it durable".into(), total: 0, began };
        assert_eq!(durable.line(0), "making it durable: 10 s so far");
    }

    #[test]
    fn lines_come_while_nothing_moves_and_end_with_the_meter() {
        let phase = Mutex::new(Phase { name: "waiting".into(), total: 100, began: Instant::now() });
        let state = Arc::new(State { done: AtomicU64::new(0), phase });
        let (tell, told) = channel();
        let keep = tell_every(Duration::from_millis(1), state, move |line| drop(tell.send(line)));
        for _ in 0..2 {
            let line = told.recv().expect("it goes on");
            assert!(line.starts_with("waiting: 0 B of 100 B (0%)"), "{line}");
        }
        drop(keep);
        // Its end takes the sender along.
        while told.recv().is_ok() {}
    }
}
