//! WAL files on their way into repositories and back, and what is known of those that are there.
//!
//! `push` is PostgreSQL's `archive_command`, `fetch` its `restore_command`: one process each time, so both start nothing
//! they do not need. `facts` is what a stored file tells without being read, `archive` what is stored of a cluster, with
//! its gaps, `source` whose it is and whether it should still come, `status` what a person wants to see of it.

pub mod archive;
pub mod facts;
pub mod fetch;
pub mod push;
pub mod runs;
pub mod source;
pub mod status;

mod check;
mod content;
mod keep;

pub use archive::{Archive, Missing, TimelineArchive};
pub use facts::{ArchivedFacts, SealedFacts, SegmentFacts};
pub use fetch::{FetchError, FetchOptions, fetch, fetch_if_there};
pub use push::{PushError, PushOptions, Pushed, push};
pub use source::{GoesOn, KnownSource};
pub use status::{WalStatus, status};

use refloat_types::Explain;

/// An error as one line for PostgreSQL's log: at most 199 characters, led by its code, with its causes.
pub fn one_line(error: &dyn Explain) -> String {
    let mut text = format!("refloat[{}]: {error}", error.advice().code);
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    shorten(&text.replace(['\n', '\r'], " "), 199)
}

/// At most `limit` characters of `text`, ended by `…` where it was cut.
fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn lines_are_cut_at_characters() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("äöüäöü", 4), "äöü…");
    }
}
