//! What goes wrong in the program itself, and the one shape in which every error reaches a person.

use std::error::Error;
use std::path::PathBuf;

use refloat_types::{Advice, Explain, Severity};

/// Any error with its advice, ready to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Stable code.
    pub code: &'static str,
    /// What a caller can do; decides the exit code.
    pub severity: Severity,
    /// What failed.
    pub message: String,
    /// Why: the chain of causes, the nearest first.
    pub detail: Vec<String>,
    /// What was not lost.
    pub safe: String,
    /// Ready lines of which one is to be chosen.
    pub either: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
    /// Errors found at the same time.
    pub more: Vec<Failure>,
}

impl Failure {
    /// Takes up an error by reference.
    pub(crate) fn of(error: &dyn Explain) -> Self {
        let mut detail = Vec::new();
        let mut cause = Error::source(&error);
        let message = error.to_string();
        while let Some(error) = cause {
            let text = error.to_string();
            if text != message && detail.last() != Some(&text) {
                detail.push(text);
            }
            cause = error.source();
        }
        Self::with(message, detail, error.advice())
    }

    fn with(message: String, detail: Vec<String>, advice: Advice) -> Self {
        let (mut either, mut hints) = (Vec::new(), Vec::new());
        for hint in advice.hints {
            match hint.strip_prefix("either: ").or_else(|| hint.strip_prefix("or: ")) {
                Some(line) => either.push(line.trim_start().to_owned()),
                None => hints.push(hint),
            }
        }
        let safe = advice.safe.into_owned();
        Self {
            code: advice.code,
            severity: advice.severity,
            message,
            detail,
            safe,
            either,
            hints,
            more: Vec::new(),
        }
    }

    /// All of it in one line.
    pub(crate) fn line(&self) -> String {
        let causes = self.detail.iter().map(|cause| format!(": {cause}"));
        let text: String = std::iter::once(self.message.clone()).chain(causes).collect();
        text.replace(['\n', '\r'], " ")
    }

    /// The exit code of a command that ends with this.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self.severity {
            Severity::Failed => 1,
            Severity::Usage => 2,
            Severity::Locked => 4,
            Severity::Unreachable => 5,
        }
    }
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

/// A configuration with several faults shows each of them as an error of its own.
pub(crate) fn of_config(error: &refloat_config::ConfigError) -> Failure {
    let mut problems = error.problems().iter().map(|problem| Failure::of(problem));
    match problems.next() {
        None => Failure::of(error),
        Some(mut first) => {
            first.more = problems.collect();
            first
        }
    }
}

const UNTOUCHED: &str = "nothing was read or written";

/// What the program itself refuses or cannot do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A command line that makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hints: Vec<String>,
    },
    /// A word of another tool, or one of a later release.
    #[error("{message}")]
    OtherWord {
        /// What it is.
        message: String,
        /// The right command.
        hint: String,
    },
    /// Fewer repositories hold a backup than must.
    #[error(
        "backup {backup} is whole in {first}, and only {holders} of the {enough} repositories that must acknowledge have it"
    )]
    TooFew {
        /// The backup.
        backup: String,
        /// The repository that has it for sure.
        first: String,
        /// How many have it.
        holders: usize,
        /// How many must.
        enough: usize,
        /// Which do not.
        behind: Vec<String>,
    },
    /// Fewer repositories answer than must have what is to be stored.
    #[error("{what}: acknowledge = {needed}, and {}", there(answering))]
    NotEnough {
        /// What is not done.
        what: String,
        /// The source.
        source_name: String,
        /// How many must have it.
        needed: usize,
        /// Those that answer.
        answering: Vec<String>,
        /// Those that do not.
        away: Vec<String>,
        /// What one that does not answer makes of it.
        severity: Severity,
    },
    /// No such source.
    #[error("there is no source \"{name}\" in {place}")]
    NoSource {
        /// What was asked for.
        name: String,
        /// The configuration file or the repository.
        place: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Several sources, none named.
    #[error("there are {} sources; {what} needs one of them", known.len())]
    WhichSource {
        /// The command.
        what: &'static str,
        /// What there is.
        known: Vec<String>,
    },
    /// `--to` that names no directory.
    #[error("{message}")]
    To {
        /// What is wrong.
        message: String,
        /// The corrected line.
        hint: String,
    },
    /// No such repository.
    #[error("there is no repository \"{name}\" in {place}")]
    NoRepository {
        /// What was asked for.
        name: String,
        /// The configuration file.
        place: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No such backup.
    #[error("there is no backup \"{id}\" of \"{source_name}\" in {place}")]
    NoBackup {
        /// What was asked for.
        id: String,
        /// Of which source.
        source_name: String,
        /// Where.
        place: String,
    },
    /// Another user than the one everything belongs to.
    #[error("this has to run as {wanted}, the owner of {}; you are {found}", of.display())]
    OtherUser {
        /// Who should run it.
        wanted: String,
        /// Who runs it.
        found: String,
        /// What decides that.
        of: PathBuf,
    },
    /// A system call about users failed.
    #[error("could not {action}")]
    System {
        /// What was attempted.
        action: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A person has to be asked and there is no terminal.
    #[error("{message}")]
    NeedsTerminal {
        /// What would have been asked.
        message: String,
        /// How to do without.
        hints: Vec<String>,
    },
    /// A person said no.
    #[error("{0} was not begun: you did not agree")]
    NotAgreed(&'static str),
    /// What was pasted does not open the repository.
    #[error("what you entered does not open repository \"{0}\"")]
    NotTheKey(String),
    /// What the configuration names opens nothing.
    #[error("{what} does not open repository \"{repository}\"")]
    OpensNothing {
        /// `the passphrase in /etc/refloat/passphrase`.
        what: String,
        /// Which repository.
        repository: String,
        /// What it says.
        #[source]
        source: refloat_repo::RepoError,
    },
    /// The configuration names nothing that could open the repository.
    #[error("repository \"{0}\" opens with a passphrase, and the configuration names none")]
    NoKeyNamed(String),
    /// All was done but the sheet.
    #[error("could not write the recovery sheet to {}", path.display())]
    SheetNotWritten {
        /// Which file.
        path: PathBuf,
        /// What prints it.
        again: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the program itself.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A step of the demonstration failed.
    #[error("the demonstration stopped: {0}")]
    Demo(String),
}

impl CliError {
    /// A usage error with one hint.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hints: vec![hint.into()] }
    }
    /// A failed file operation.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }
}

fn there(answering: &[String]) -> String {
    match answering {
        [] => "none answers".to_owned(),
        [one] => format!("only {one} answers"),
        several => format!("only {} answer", several.join(", ")),
    }
}

fn there_is(advice: Advice, what: &str, known: &[String]) -> Advice {
    if known.is_empty() {
        advice.hint(format!("There is no {what} at all yet."))
    } else {
        advice.hint(format!("There is: {}.", known.join(", ")))
    }
}

impl Explain for CliError {
    fn advice(&self) -> Advice {
        match self {
            Self::Usage { hints, .. } => hints
                .iter()
                .fold(Advice::usage("CLI-001", UNTOUCHED), |advice, hint| advice.hint(hint.clone())),
            Self::OtherWord { hint, .. } => Advice::usage("CLI-002", UNTOUCHED).hint(hint.clone()),
            Self::NoSource { known, .. } => there_is(Advice::usage("CLI-003", UNTOUCHED), "source", known),
            Self::WhichSource { known, .. } => there_is(Advice::usage("CLI-005", UNTOUCHED), "source", known),
            Self::To { hint, .. } => Advice::usage("CLI-004", UNTOUCHED).hint(hint.clone()),
            Self::NoRepository { known, .. } => {
                there_is(Advice::usage("CLI-006", UNTOUCHED), "repository", known)
            }
            Self::NoBackup { .. } => {
                Advice::usage("CLI-007", UNTOUCHED).hint("refloat list  shows every backup.")
            }
            Self::OtherUser { wanted, .. } => Advice::usage("CLI-008", UNTOUCHED)
                .hint(format!("Run it with sudo, or as that user: sudo -u {wanted} refloat …")),
            Self::System { .. } => Advice::failed("CLI-009", UNTOUCHED),
            Self::NeedsTerminal { hints, .. } => hints
                .iter()
                .fold(Advice::usage("CLI-010", UNTOUCHED), |advice, hint| advice.hint(hint.clone())),
            Self::NotAgreed(_) => Advice::failed("CLI-011", "nothing was changed"),
            Self::NotTheKey(_) => {
                Advice::failed("CLI-012", "nothing was changed; this host can still open its backups")
                    .hint("Was it pasted from where you keep it? `refloat key sheet` prints the sheet again.")
            }
            Self::OpensNothing { repository, .. } => Advice::failed(
                "CLI-015",
                "nothing was printed or recorded of it; this host goes on with what it keeps of the repository, and all backups stay as they are",
            )
            .hint("Put back there what opens it: the passphrase of the newest recovery sheet, or an identity of one of its recipients. `refloat key confirm` tries one that is pasted.")
            .hint(format!(
                "Or let the repository open with another passphrase, or other recipients, from now on: refloat -r {repository} key rotate [--new-passphrase-file FILE]"
            )),
            Self::NoKeyNamed(_) => Advice::failed("CLI-016", "nothing was printed or recorded; no backup was touched")
                .hint("Let the configuration name it: encryption = { passphrase = { file = … } }"),
            Self::SheetNotWritten { again, .. } => Advice::failed(
                "CLI-017",
                "the repository and its key are as they shall be, and this host is enrolled; only the sheet is missing",
            )
            .hint(format!("Print it, while this host has the key: {again}, or {again} --sheet FILE")),
            Self::File { .. } => Advice::failed("CLI-013", "nothing else was changed"),
            Self::TooFew { backup, behind, .. } => Advice::failed("CLI-020", "the backup is made and can be restored")
                .hint(format!(
                    "{} lacks it and gets it as soon as it answers; refloat copy does that at once. Lower `acknowledge`, if {backup} counts as made without that.",
                    behind.join(", ")
                )),
            Self::NotEnough { source_name, away, severity, .. } => {
                let advice = Advice::failed("CLI-021", "nothing was stored; what was stored before can be restored");
                let advice = Advice { severity: *severity, ..advice };
                let advice = advice.hint(format!("Run it again when {} can be used.", away.join(" and ")));
                advice.hint(format!("If fewer are enough: lower `acknowledge` in [source.{source_name}]."))
            }
            Self::Demo(_) => {
                Advice::failed("CLI-014", "nothing is left behind; no other cluster was touched")
                    .hint("Run it with -v to see every command.")
            }
        }
    }
}
