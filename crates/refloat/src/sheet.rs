//! The recovery sheet: what a person needs when the host is gone.

mod file;

use std::fmt::Write as _;

use refloat_repo::repository::{Generation, Reach};
use refloat_types::Timestamp;

use crate::reach::Way;
use crate::render::time;
use crate::rescue::Stored;

pub(crate) use file::SheetFile;

/// What stands on the sheet.
pub(crate) struct Sheet<'a> {
    /// Name in the configuration.
    pub name: &'a str,
    /// Where it is, and how it is reached.
    pub reach: &'a Reach,
    /// The certificates of a store that has its own: which file holds them here, with its digest.
    pub certificates: Option<String>,
    /// Who can read it.
    pub generation: &'a Generation,
    /// How people compare it.
    pub fingerprint: String,
    /// The passphrase, where one opens it.
    pub passphrase: Option<&'a str>,
    /// This host.
    pub host: &'a str,
    /// When it is printed.
    pub now: Timestamp,
    /// What the clusters are: `prod: PostgreSQL 15 in /var/lib/postgresql/15/main`.
    pub clusters: Vec<String>,
    /// The program that lies in the repository.
    pub stored: Option<Stored>,
}

impl Sheet<'_> {
    /// The text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, " {label:<13}{text}");
        };
        let opened_by = match (self.passphrase, self.generation.recipients.is_empty()) {
            (Some(passphrase), _) => passphrase.to_owned(),
            (None, true) => "none: this repository is not encrypted".to_owned(),
            (None, false) => format!(
                "none: it opens with the private key of {}",
                self.generation.recipients.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(" or ")
            ),
        };
        let way = Way { reach: self.reach, generation: self.generation };
        line("store", &self.reach.address);
        line("", "who can sign in to it: ______________________");
        line(if self.generation.has_passphrase { "passphrase" } else { "key" }, &opened_by);
        line("fingerprint", &self.fingerprint);
        line("program", concat!("refloat ", env!("CARGO_PKG_VERSION"), ", or a later one"));
        if let Some(stored) = &self.stored {
            line("", &format!("one lies in the store, refloat {}: {}", stored.release, stored.key));
            line("", "compare it before it gets a key: sha256sum must print");
            line("", &stored.sha256);
        }
        for cluster in &self.clusters {
            line("cluster", cluster);
        }
        let mut label = "first";
        if way.needs_file() {
            let (file, about) = way.file(&self.fingerprint);
            let [directory, then] = Way::before_file();
            line(label, &directory);
            label = "";
            line(label, &then);
            file.iter().chain(&about).for_each(|text| line("", text));
        } else {
            for export in way.exports() {
                line(label, &export);
                label = "";
            }
            way.about_exports().iter().for_each(|text| line("", &format!("({text})")));
        }
        if let Some(certificates) = &self.certificates {
            line(label, certificates);
        }
        let run = way.command("refloat");
        line("type", &format!("{run} list"));
        line("", &format!("{run} restore SOURCE --to /new/directory"));
        line("", "refloat help restore");
        format!(
            "REFLOAT RECOVERY SHEET · repository {} · printed {} on {}\n\
             Keep on paper or in a password manager. Not on {}. Not in this repository.\n{out}",
            self.name,
            time::moment(self.now),
            self.host,
            self.host
        )
    }
}
