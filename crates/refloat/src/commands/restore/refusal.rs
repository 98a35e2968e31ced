//! What a restore refuses before it reads anything, with the corrected lines.

use refloat_engine::restore::RestoreError;
use refloat_types::{Advice, Explain};

use crate::context::Context;
use crate::error::Failure;
use crate::render::text::shell;

const UNTOUCHED: &str = "nothing was read or written";

/// A restore that is not begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreRefusal {
    /// A time that may be two.
    #[error("the time \"{text}\" has no zone")]
    Zoneless {
        /// As typed.
        text: String,
        /// Both readings as ready lines.
        lines: Vec<String>,
    },
    /// A backup without a target.
    #[error("backup {id} says where to begin, not how far to go")]
    NoTarget {
        /// The backup.
        id: String,
        /// Both meanings as ready lines.
        lines: Vec<String>,
    },
    /// More than one target.
    #[error("{first} and {second} both say how far to go")]
    TwoTargets {
        /// One.
        first: String,
        /// Another.
        second: String,
    },
    /// A value that makes no sense.
    #[error("{message}")]
    BadTarget {
        /// What is wrong.
        message: String,
        /// What to write.
        hint: String,
    },
    /// An option of a later release.
    #[error("{option} is not in this release")]
    Later {
        /// The option.
        option: &'static str,
        /// What can be done instead.
        instead: String,
    },
    /// Neither `--to` nor `--in-place`.
    #[error("it is not said where to restore to")]
    Where {
        /// Both as ready lines.
        lines: Vec<String>,
    },
    /// Nothing can be restored.
    #[error("nothing is stored of \"{source_name}\" in {place}")]
    NothingStored {
        /// The source.
        source_name: String,
        /// The repository.
        place: String,
    },
}

impl Explain for RestoreRefusal {
    fn advice(&self) -> Advice {
        let either = |advice: Advice, lines: &[String]| {
            lines.iter().fold(advice, |advice, line| advice.hint(format!("either: {line}")))
        };
        match self {
            Self::Zoneless { lines, .. } => either(Advice::usage("RST-011", UNTOUCHED), lines),
            Self::NoTarget { lines, .. } => either(Advice::usage("RST-014", UNTOUCHED), lines),
            Self::TwoTargets { .. } => Advice::usage("RST-015", UNTOUCHED).hint("Give one of them."),
            Self::BadTarget { hint, .. } => Advice::usage("RST-016", UNTOUCHED).hint(hint.clone()),
            Self::Later { instead, .. } => Advice::usage("RST-017", UNTOUCHED).hint(instead.clone()),
            Self::Where { lines } => either(Advice::usage("RST-021", UNTOUCHED), lines),
            Self::NothingStored { .. } => Advice::failed("RST-022", "nothing was written")
                .hint("refloat list  shows what is stored; -r names another repository."),
        }
    }
}

/// What to type where data of the backup are damaged: what else is, another repository, another backup.
pub(super) fn of_restore(context: &Context, options: &super::Restore, error: RestoreError) -> Failure {
    let is_damage = error.is_damage();
    let mut failure = of_plan(context, &options.source, error);
    if !is_damage {
        return failure;
    }
    let (command, source) = (context.command(), &options.source);
    let to = super::ask::where_to(options);
    let becomes = options.becomes.map_or_else(String::new, |becomes| format!(" --as {}", becomes.word()));
    failure.hints = vec![format!("What else is damaged:  {command} verify {source} --read-data")];
    if let Some(named) = &context.global.repository
        && context.config.as_ref().is_some_and(|config| {
            config.sources.values().any(|of| of.name.as_str() == source && of.repositories.len() > 1)
        })
    {
        let others = command.replace(&format!(" -r {}", shell(named)), "");
        failure.hints.push(format!(
            "With what other repositories have of it:  {others} restore {source} … {to}{becomes}"
        ));
    }
    failure.hints.push(format!(
        "From another backup ({command} list {source}):  {command} restore {source} BACKUP --target latest {to}{becomes}"
    ));
    failure
}

/// A refusal of the plan; a running server is refused beginning with what needs no stop.
pub(super) fn of_plan(context: &Context, source: &str, error: RestoreError) -> Failure {
    let RestoreError::Running { path, .. } = &error else { return error.into() };
    let command = context.command();
    let etc = std::path::Path::new("/etc/postgresql");
    let stop = refloat_pg::server::debian_cluster(etc, path)
        .map_or_else(|| "stop it".to_owned(), |cluster| format!("sudo systemctl stop {}", cluster.unit()));
    let mut failure = Failure::from(error);
    failure.hints = vec![
        format!(
            "To look at another moment beside it, nothing has to stop:  {command} restore {source} T --to /srv/copy --as copy"
        ),
        format!("To put the whole cluster back:  {stop}, then  {command} restore {source} T --in-place"),
    ];
    failure
}
