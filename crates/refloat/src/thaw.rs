//! Backups in a cold class: says what has to be thawed, has it asked for by the configured program, and waits.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use refloat_engine::progress::Progress as _;
use refloat_engine::thaw::{self, Frozen};
use refloat_repo::commit::CommitRecord;
use refloat_store::{Key, Readiness};
use refloat_types::{Advice, Clock as _, Explain, Location};

use crate::context::{Context, Opened};
use crate::error::Failure;
use crate::progress::Meter;
use crate::render::can_ask;
use crate::terminal;

/// How long after the program has ended its store may still say that nobody has asked.
const GRACE: Duration = Duration::from_secs(15);
/// How long is waited at most: longer than any class takes.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Time between two looks at first, and at most.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why what is cold cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThawError {
    /// Nobody has said that it may be asked for.
    #[error("{what} must be thawed before it can be read")]
    NotAsked {
        /// How much, in which class.
        what: String,
        /// The repository.
        repository: String,
        /// Whether a program is configured that asks for it.
        can: bool,
    },
    /// The program failed.
    #[error("thaw_command of {repository} failed: {program}: {why}")]
    Command {
        /// The repository.
        repository: String,
        /// What was started.
        program: String,
        /// What it ended with.
        why: String,
    },
    /// The program ended well, and the store knows of nothing that was asked for.
    #[error("thaw_command of {repository} ended well, and {key} was not asked for")]
    Unasked {
        /// The repository.
        repository: String,
        /// The first that was not.
        key: String,
    },
    /// What was there first was cold again when the last came.
    #[error("{key} was readable, and is cold again before everything else is readable")]
    Refrozen {
        /// The first that is.
        key: String,
    },
    /// It was asked for, and did not come.
    #[error("{key} was not readable {} hours after it was asked for", .hours)]
    Late {
        /// The first that is not.
        key: String,
        /// How long was waited.
        hours: u64,
    },
}

impl Explain for ThawError {
    fn advice(&self) -> Advice {
        match self {
            Self::NotAsked { can: true, .. } => Advice::failed("THA-001", "nothing was written, and nothing was asked for")
                .hint("Run it again with --thaw: thaw_command asks for it, which the store may charge, and it is waited for.")
                .hint("--dry-run --json lists the objects."),
            Self::NotAsked { repository, .. } => Advice::failed("THA-001", "nothing was written, and nothing was asked for")
                .hint(format!("Write thaw_command = [\"/path\"] into [repository.{repository}], and run it again with --thaw; the page \"Cold classes\" of the manual has such a program."))
                .hint("Or ask for the objects yourself and run the same command again: --dry-run --json lists them."),
            Self::Command { .. } => Advice::failed("THA-002", "nothing was written; what was asked for already stays asked for")
                .hint("Correct the program, and run the same command again."),
            Self::Unasked { .. } => Advice::failed("THA-002", "nothing was written; what was asked for already stays asked for")
                .hint("Run the program by hand: it reads one name in each line, as they are in the bucket, and must ask for each of them.")
                .hint("Then run the same command again."),
            Self::Refrozen { .. } => Advice::failed("THA-004", "nothing was written")
                .hint("Let the program ask for more days, and run the same command again."),
            Self::Late { .. } => Advice::failed("THA-003", "nothing was written")
                .hint("Look at the object in the store; then run the same command again: it goes on to wait."),
        }
    }
}

/// What may be done about what is cold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consent {
    /// `--thaw`.
    pub given: bool,
    /// A person may be asked, where there is a terminal: nothing else can help.
    pub ask: bool,
    /// `--dry-run`: only say it.
    pub dry_run: bool,
    /// Another repository may have it at hand, and is asked first: nothing is done here.
    pub elsewhere: bool,
}

/// Sees to it that these backups can be read. Answers what cannot be, which is nothing unless it is a dry run.
///
/// # Errors
/// Nobody agreed, the program failed, or it takes too long. Nothing was written.
pub(crate) fn thaw(
    context: &Context,
    opened: &Opened,
    records: &[CommitRecord],
    (operation, consent): (&str, Consent),
) -> Result<Vec<Frozen>, Failure> {
    let frozen = thaw::frozen(&opened.repository, records)?;
    if frozen.is_empty() {
        return Ok(frozen);
    }
    let what = thaw::describe(&frozen);
    let asks = command(context, opened);
    let cold: Vec<&Frozen> = frozen.iter().filter(|one| !one.is_thawing).collect();
    let refused = |can| ThawError::NotAsked { what: what.clone(), repository: opened.name.clone(), can };
    if consent.elsewhere {
        return Err(refused(asks.is_some()).into());
    }
    context.out.say(&format!("repository {}: {what} must be thawed before it can be read", opened.name));
    if consent.dry_run {
        return Ok(frozen);
    }
    if !cold.is_empty() {
        if asks.is_none() {
            return Err(refused(false).into());
        }
        let ask = "Ask for it now, which the store may charge, and wait?";
        let agreed = consent.given || (consent.ask && can_ask() && terminal::yes(ask)?);
        if !agreed {
            return Err(refused(true).into());
        }
    }
    let now = context.clock.now();
    let _held = thaw::hold(&opened.repository, records, operation, &context.host, now)?;
    if let Some(words) = asks.filter(|_| !cold.is_empty()) {
        run(opened, &words, &cold)?;
        see_asked(opened, &cold)?;
    }
    wait(context, opened, &frozen)?;
    // Days may have gone by: what came first stays for as long as was asked for, and no longer.
    let again = thaw::frozen(&opened.repository, records)?;
    match again.first() {
        None => Ok(Vec::new()),
        Some(one) => Err(ThawError::Refrozen { key: one.key.to_string() }.into()),
    }
}

/// Sees that the store knows of everything that the program was to ask for: else days would be waited for nothing.
fn see_asked(opened: &Opened, cold: &[&Frozen]) -> Result<(), Failure> {
    let began = Instant::now();
    for one in cold {
        while let Some(Readiness::Cold(_)) = readiness(opened, &one.key)? {
            if began.elapsed() > GRACE {
                let (repository, key) = (opened.name.clone(), one.key.to_string());
                return Err(ThawError::Unasked { repository, key }.into());
            }
            std::thread::sleep(LOOKS.0);
        }
    }
    Ok(())
}

/// The program that asks, where one is configured.
fn command(context: &Context, opened: &Opened) -> Option<Vec<String>> {
    let config = context.config.as_ref()?;
    let repository = config.repositories.values().find(|one| one.name.as_str() == opened.name)?;
    repository.store.thaw_command.clone()
}

/// Starts the program and gives it the names, as they are in the bucket.
fn run(opened: &Opened, words: &[String], cold: &[&Frozen]) -> Result<(), Failure> {
    let program = words.first().cloned().unwrap_or_default();
    let fail =
        |why: String| ThawError::Command { repository: opened.name.clone(), program: program.clone(), why };
    let (bucket, prefix) = place(opened);
    let mut command = Command::new(&program);
    command.args(words.get(1..).unwrap_or_default()).env_clear().current_dir("/");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("REFLOAT_BUCKET", bucket).env("REFLOAT_REPOSITORY", &opened.name);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    let mut names = String::new();
    for one in cold {
        names.push_str(&format!("{prefix}{}\n", one.key));
    }
    if let Some(mut input) = child.stdin.take()
        && let Err(error) = input.write_all(names.as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        tracing::warn!(%error, "thaw_command did not take all names");
    }
    let status = child.wait().map_err(|error| fail(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(fail(status.to_string()).into()) }
}

/// The bucket, and what stands before the names of objects in it.
fn place(opened: &Opened) -> (String, String) {
    let location: Option<Location> = opened.repository.store().describe().parse().ok();
    let Some(location) = location else { return (String::new(), String::new()) };
    let path = location.path().to_string_lossy();
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    (location.host().to_owned(), prefix)
}

/// Waits until all of them can be read. Only one is asked for at a time: all have to come.
fn wait(context: &Context, opened: &Opened, frozen: &[Frozen]) -> Result<(), Failure> {
    context
        .out
        .say("waiting until it is thawed; this can be interrupted, and the same command goes on to wait");
    let meter = Meter::new(context.out);
    meter.phase("thawing", frozen.iter().map(|one| one.size).sum());
    let began = Instant::now();
    let mut pause = LOOKS.0;
    for one in frozen {
        while !readiness(opened, &one.key)?.is_some_and(|it| it.is_ready()) {
            if began.elapsed() > LONGEST {
                meter.finish();
                let hours = LONGEST.as_secs() / 3600;
                return Err(ThawError::Late { key: one.key.to_string(), hours }.into());
            }
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(LOOKS.1);
        }
        meter.advance(one.size);
    }
    meter.finish();
    Ok(())
}

/// Whether an object can be read now; `None` where the store does not answer for a while, which ends no wait of days.
fn readiness(opened: &Opened, key: &Key) -> Result<Option<Readiness>, Failure> {
    match opened.repository.store().readiness(key) {
        Ok(readiness) => Ok(Some(readiness)),
        Err(error) if error.is_retryable() => {
            tracing::warn!(%error, cause = %error.source, "it is asked again later");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// As JSON.
pub(crate) fn document(opened: &Opened, frozen: &[Frozen]) -> serde_json::Value {
    let (_, prefix) = place(opened);
    let one = |one: &Frozen| {
        serde_json::json!({
            "object": format!("{prefix}{}", one.key), "bytes": one.size, "class": one.class, "thawing": one.is_thawing,
        })
    };
    serde_json::json!({ "repository": opened.name, "objects": frozen.iter().map(one).collect::<Vec<_>>() })
}
