//! A failure in the one line that PostgreSQL copies into its log.

use crate::error::Failure;
use crate::render::{complain, failure};

/// Longest line for PostgreSQL's log.
const LINE: usize = 199;

/// A failure as one line: code, message, causes, what is safe, and the first hint where it fits. What is safe always fits: whoever
/// reads that line in the middle of the night asks for that first.
pub(super) fn one_line(failed: &Failure, safe: &str) -> String {
    let safe = if safe.is_empty() { String::new() } else { format!("; {safe}") };
    let mut text = what_and_why(failed, LINE - safe.chars().count()) + &safe;
    if let Some(hint) = failed.hints.first()
        && text.chars().count() + hint.chars().count() + 2 <= LINE
    {
        text.push_str("; ");
        text.push_str(&hint.replace(['\n', '\r'], " "));
    }
    text
}

/// Code, message and causes in so many characters. The end, which is the last cause, tells most: what is too long lacks its middle.
fn what_and_why(failed: &Failure, room: usize) -> String {
    let text = format!("refloat[{}]: {}", failed.code, failed.line()).replace(['\n', '\r'], " ");
    let length = text.chars().count();
    if length <= room {
        return text;
    }
    let head = room * 3 / 5;
    let tail = room - head - 1;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

/// Says on stderr what failed.
pub(super) fn say(json: bool, failed: &Failure, safe: &str) {
    complain(&if json { failure::document(failed) } else { format!("{}\n", one_line(failed, safe)) });
}

/// What is safe when a push fails, whatever failed.
pub(super) const KEPT: &str = "WAL is kept and offered again";
/// What is safe when a fetch cannot tell.
pub(super) const STOPS: &str = "recovery stops here and can go on";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CliError;

    #[test]
    fn a_line_fits_into_a_log() {
        let mut failed = Failure::from(CliError::usage("x".repeat(300), "do this"));
        assert_eq!(one_line(&failed, "").chars().count(), LINE);
        failed.detail = vec!["between".to_owned(), "the last cause".to_owned()];
        let cut = one_line(&failed, KEPT);
        assert_eq!(cut.chars().count(), LINE);
        assert!(cut.starts_with("refloat[CLI-001]: xxx") && cut.contains("xxx…xxx"), "{cut}");
        assert!(cut.ends_with(&format!("xxx: between: the last cause; {KEPT}")), "{cut}");
        failed.detail.clear();
        failed.message = "short\nlines".into();
        assert_eq!(one_line(&failed, ""), "refloat[CLI-001]: short lines; do this");
        assert_eq!(one_line(&failed, KEPT), format!("refloat[CLI-001]: short lines; {KEPT}; do this"));
    }
}
