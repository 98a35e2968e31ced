//! What is wrong with a configuration: each fault with its position, a stable code, and the line that mends it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use refloat_types::{Advice, Explain, SourceName};

use crate::place::Place;

/// No command changes anything before its whole configuration is checked.
const SAFE: &str = "nothing was changed; the configuration is checked before anything else is done";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no configuration at {}", file.display())]
    Absent {
        /// The file that was looked for.
        file: PathBuf,
    },
    /// The file, or `conf.d` beside it, cannot be read.
    #[error("could not read the configuration {}", file.display())]
    Unreadable {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else than root could change what root is about to obey.
    #[error("{} can be changed by {who} ({mode}), and root would obey it", path.display())]
    WritableByOthers {
        /// The configuration file, or a directory above it.
        path: PathBuf,
        /// Who: `user "bob"`, `group "staff"`, `everybody`.
        who: String,
        /// As `ls -l` prints it, with owner and group.
        mode: String,
        /// The line that mends it.
        mend: String,
    },
    /// What is written there is wrong; every fault that was found, in the order of the files.
    #[error("{}", InvalidText(problems))]
    Invalid {
        /// At least one.
        problems: Vec<Problem>,
    },
    /// No source has this data directory.
    #[error("no source in {} has the data directory {}", file.display(), directory.display())]
    NoSource {
        /// The configuration file.
        file: PathBuf,
        /// The directory asked for.
        directory: PathBuf,
        /// The sources there are, with their directories.
        known: Vec<(SourceName, PathBuf)>,
    },
}

struct InvalidText<'a>(&'a [Problem]);

impl fmt::Display for InvalidText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("the configuration is wrong"),
            [one] => one.fmt(f),
            [first, rest @ ..] => {
                let errors = if rest.len() == 1 { "error" } else { "errors" };
                write!(f, "{first} (and {} more {errors}, listed below)", rest.len())
            }
        }
    }
}

impl ConfigError {
    /// Every single fault, for a caller that prints each of them as an error of its own.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems } => problems,
            _ => &[],
        }
    }
}

impl Explain for ConfigError {
    fn advice(&self) -> Advice {
        match self {
            Self::Absent { .. } => Advice::usage("CFG-001", SAFE)
                .hint("Name another file with --config FILE, or write one: `refloat config schema` lists every setting.")
                .hint("A repository alone is enough to restore: `refloat -r URL restore …` needs no configuration."),
            Self::Unreadable { .. } => Advice::usage("CFG-002", SAFE)
                .hint("Run the command as root or as the owner of the data directory; both have to be able to read it."),
            Self::WritableByOthers { mend, .. } => Advice::usage("CFG-010", SAFE).hint(mend.clone()),
            Self::Invalid { problems } => {
                let Some((first, rest)) = problems.split_first() else { return Advice::usage("CFG-007", SAFE) };
                let mut advice = first.advice();
                for problem in rest {
                    let more = problem.advice();
                    let hint = more.hints.first().map(|hint| format!(" ({hint})")).unwrap_or_default();
                    advice.hints.push(format!("also {}: {problem}{hint}", more.code));
                }
                advice
            }
            Self::NoSource { known, directory, .. } => {
                let advice = Advice::usage("CFG-012", SAFE)
                    .hint(format!("Add [source.NAME] with kind = \"postgres\" and data_directory = \"{}\".", directory.display()));
                known.iter().fold(advice, |advice, (name, at)| {
                    advice.hint(format!("Source \"{name}\" has {}; name it with --source {name}.", at.display()))
                })
            }
        }
    }
}

/// One fault at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

/// What can be wrong at a place. Never holds a value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not TOML.
    Syntax(String),
    /// Set here and before.
    SetTwice {
        /// The key.
        key: String,
        /// Where it is set first; `None` when that cannot be told.
        first: Option<Place>,
    },
    /// No such setting.
    Unknown {
        /// The key.
        key: String,
        /// The table it stands in: `[source.prod]`.
        table: String,
        /// The nearest setting there, or where a setting of that name belongs.
        meant: Option<String>,
    },
    /// A value of another type.
    WrongType {
        /// Dotted path of the setting.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What stands there: `an integer`.
        found: &'static str,
    },
    /// A value of the right type that makes no sense.
    BadValue {
        /// Dotted path of the setting.
        key: String,
        /// Why, without the value where that could be a secret.
        why: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A setting that has to be there.
    Missing {
        /// The key.
        key: &'static str,
        /// The table: `[source.prod]`.
        table: String,
        /// An example line.
        hint: String,
    },
    /// A name that is defined nowhere.
    Undefined {
        /// What is named: `repository "ofsite"`.
        what: String,
        /// Names there are.
        hint: String,
    },
    /// A word of the design that this version does not obey yet.
    NotBuilt {
        /// What: `kind "files" in [source.uploads]`.
        what: String,
        /// What this version can do instead.
        can: String,
    },
    /// A secret written into the configuration itself.
    LiteralSecret {
        /// Dotted path of the setting.
        key: String,
    },
    /// Two sources claim one data directory.
    Claimed {
        /// The other source.
        by: SourceName,
        /// Where that says so.
        at: Place,
    },
}

impl Problem {
    pub(crate) const fn new(place: Place, fault: Fault) -> Self {
        Self { place, fault }
    }
    pub(crate) fn bad(place: &Place, key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(place.clone(), Fault::BadValue { key: key.into(), why: why.into(), hint: None })
    }
    pub(crate) fn bad_hint(
        place: &Place,
        key: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(
            place.clone(),
            Fault::BadValue { key: key.into(), why: why.into(), hint: Some(hint.into()) },
        )
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match &self.fault {
            Fault::Syntax(why) => write!(f, "this is not TOML: {why}"),
            Fault::SetTwice { key, first: Some(first) } => {
                let here = if first.file() == self.place.file() {
                    format!("line {}", first.line())
                } else {
                    first.file_and_line()
                };
                write!(f, "\"{key}\" is set twice: here and at {here}")
            }
            Fault::SetTwice { key, first: None } => write!(f, "\"{key}\" is set twice: here and further up"),
            Fault::Unknown { key, table, .. } => write!(f, "unknown setting \"{key}\" in {table}"),
            Fault::WrongType { key, expected, found } => write!(f, "{key} takes {expected}, not {found}"),
            Fault::BadValue { key, why, .. } => write!(f, "{key}: {why}"),
            Fault::Missing { key, table, .. } => write!(f, "{table} lacks \"{key}\""),
            Fault::Undefined { what, .. } => write!(f, "{what} is not defined"),
            Fault::NotBuilt { what, .. } => write!(f, "{what} is not built yet"),
            Fault::LiteralSecret { key } => {
                write!(f, "{key} is a secret; it cannot stand in the configuration itself")
            }
            Fault::Claimed { by, at } => {
                write!(f, "source \"{by}\" already has this data directory ({})", at.file_and_line())
            }
        }
    }
}

impl Explain for Problem {
    fn advice(&self) -> Advice {
        match &self.fault {
            Fault::Syntax(_) => Advice::usage("CFG-003", SAFE),
            Fault::SetTwice { .. } => Advice::usage("CFG-004", SAFE)
                .hint("Keep one of the two lines; none of them wins over the other."),
            Fault::Unknown { meant, .. } => Advice::usage("CFG-005", SAFE)
                .hint(meant.as_deref().unwrap_or("`refloat config schema` lists every setting.")),
            Fault::WrongType { .. } => Advice::usage("CFG-006", SAFE),
            Fault::BadValue { hint, .. } => {
                let advice = Advice::usage("CFG-007", SAFE);
                hint.iter().fold(advice, |advice, hint| advice.hint(hint.clone()))
            }
            Fault::Missing { hint, .. } => Advice::usage("CFG-008", SAFE).hint(hint.clone()),
            Fault::Undefined { hint, .. } => Advice::usage("CFG-009", SAFE).hint(hint.clone()),
            Fault::NotBuilt { can, .. } => Advice::usage("CFG-011", SAFE).hint(can.clone()),
            Fault::LiteralSecret { key } => {
                let name = key.rsplit('.').next().unwrap_or(key);
                Advice::usage("CFG-013", "nothing was changed; the value is not repeated here")
                    .hint(format!(
                        "Move it into a file that only Refloat reads (0600) and write {name} = {{ file = \"/etc/refloat/{name}\" }}."
                    ))
                    .hint("{ env = \"NAME\" }, { command = [\"/path\", \"argument\"] } and { credential = \"NAME\" } (systemd) work too.")
            }
            Fault::Claimed { .. } => Advice::usage("CFG-014", SAFE)
                .hint("One data directory is one source; remove one of the two."),
        }
    }
}
