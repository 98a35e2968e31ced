//! Asking several repositories for somebody who waits for the answer.
//!
//! All are asked at once, so that one that does not answer holds up nobody who asks the others; whoever waits is told for
//! which; and what one of them has not answered is said beside what the others have.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use refloat_config::RepositoryConfig;
use serde::Serialize;

use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::render::Out;

/// So long nobody has to be told what is waited for.
const SILENT: Duration = Duration::from_secs(2);

/// What one repository answered.
pub(crate) type Answer<T, E = Failure> = (RepositoryConfig, Result<T, E>);

/// What all of them answered.
pub(crate) struct Answers<T> {
    /// Those that did, and what.
    pub said: Vec<(Opened, T)>,
    /// Those that did not.
    pub away: Vec<Away>,
}

/// A repository that was asked and did not say what it was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Away {
    /// Its name in the configuration.
    pub repository: String,
    /// Why, in one line.
    pub why: String,
    /// Code of the error.
    pub code: &'static str,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Away {
    /// Takes up what was said.
    pub(crate) fn new(repository: &str, failure: &Failure) -> Self {
        let mend = failure.hints.first().cloned();
        Self { repository: repository.to_owned(), why: failure.line(), code: failure.code, mend }
    }

    /// As a line of a command's answer: `what` it does not hold because of this.
    pub(crate) fn text(&self, what: &str) -> String {
        let mend = self.mend.as_ref().map_or_else(String::new, |mend| format!("     {mend}"));
        format!("! repository {}: {what}: {} ({}){mend}\n", self.repository, self.why, self.code)
    }
}

/// Says on stderr what is waited for, unless this is dropped before that takes long.
pub(crate) struct Waiting {
    /// Dropped, it ends the thread.
    _keep: Option<Sender<()>>,
}

impl Waiting {
    /// Waits for a repository from now on.
    pub(crate) fn on(out: Out, repository: &str) -> Self {
        // Whoever reads documents is told by the last one.
        if out.json {
            return Self { _keep: None };
        }
        let line = format!("waiting for repository {repository}…");
        Self { _keep: tell_after(SILENT, move || out.say(&line)) }
    }
}

/// `None` where no thread can be started, which is no reason to fail.
fn tell_after(silent: Duration, tell: impl FnOnce() + Send + 'static) -> Option<Sender<()>> {
    let (keep, ended) = channel::<()>();
    let wait = move || {
        if ended.recv_timeout(silent) == Err(RecvTimeoutError::Timeout) {
            tell();
        }
    };
    std::thread::Builder::new().name("waiting".to_owned()).spawn(wait).ok().map(|_| keep)
}

/// Asks each of them in a thread of its own; the answers are in the order of the questions.
pub(crate) fn at_once<T: Send>(
    configs: Vec<RepositoryConfig>,
    ask: impl Fn(&RepositoryConfig) -> T + Sync,
) -> Vec<(RepositoryConfig, T)> {
    if configs.len() < 2 {
        return configs
            .into_iter()
            .map(|config| (ask(&config), config))
            .map(|(said, of)| (of, said))
            .collect();
    }
    let ask = &ask;
    std::thread::scope(|scope| {
        let started: Vec<_> = configs
            .into_iter()
            .map(|config| {
                scope.spawn(move || {
                    let said = ask(&config);
                    (config, said)
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Opens each of these and reads from it what is wanted.
pub(crate) fn read_each<T: Send>(
    context: &Context,
    configs: Vec<RepositoryConfig>,
    access: Access,
    read: impl Fn(&Opened) -> Result<T, Failure> + Sync,
) -> Vec<Answer<(Opened, T)>> {
    let is_one = configs.len() < 2;
    at_once(configs, |config| {
        let _waiting = Waiting::on(context.out, config.name.as_str());
        let access = match is_one {
            true => access.of_one(),
            false => access.sooner(context.is_left_alone(config.name.as_str())),
        };
        let opened = context.open(config, access)?;
        let of_it = read(&opened)?;
        Ok((opened, of_it))
    })
}

/// What every repository that a command reads has said: that of `-r`, or all that are configured; and which have not.
///
/// # Errors
/// None has.
pub(crate) fn read_all<T: Send>(
    context: &Context,
    access: Access,
    read: impl Fn(&Opened) -> Result<T, Failure> + Sync,
) -> Result<Answers<T>, Failure> {
    if context.is_ad_hoc()? {
        let opened = context.open_for(None, access.of_one())?;
        let of_it = read(&opened)?;
        return Ok(Answers { said: vec![(opened, of_it)], away: Vec::new() });
    }
    let (mut said, mut silent) = (Vec::new(), Vec::new());
    for (config, result) in read_each(context, context.repositories(None)?, access, read) {
        match result {
            Ok(one) => said.push(one),
            Err(failure) => silent.push((config.name, failure)),
        }
    }
    if said.is_empty() {
        let mut all = silent.into_iter().map(|(_, failure)| failure);
        let none = || CliError::usage("there is no repository", "Write [repository.NAME].").into();
        let mut first: Failure = all.next().unwrap_or_else(none);
        first.more.extend(all);
        return Err(first);
    }
    let away = silent.iter().map(|(name, failure)| Away::new(name.as_str(), failure)).collect();
    Ok(Answers { said, away })
}

/// The repositories that a command reads, as far as they answer; which do not is told.
///
/// # Errors
/// None answers.
pub(crate) fn open_all(context: &Context, access: Access) -> Result<Vec<Opened>, Failure> {
    let Answers { said, away } = read_all(context, access, |_| Ok(()))?;
    for one in away {
        context.out.warn(&format!("repository {}: {}", one.repository, one.why));
    }
    Ok(said.into_iter().map(|(opened, ())| opened).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_wait_is_told() {
        let (tell, told) = channel();
        let again = tell.clone();
        let keep = tell_after(Duration::from_millis(1), move || tell.send("long").expect("heard"));
        assert_eq!(told.recv(), Ok("long"));
        drop(keep);
        drop(tell_after(Duration::from_secs(600), move || again.send("short").expect("heard")));
        // Its end takes the sender along.
        assert!(told.recv().is_err(), "nobody waited");
    }
}
