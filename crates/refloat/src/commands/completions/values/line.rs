//! The line that is being completed.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::cli::Global;

/// The words of a line, and which of them the cursor is in.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) words: Vec<OsString>,
    pub(super) index: usize,
    /// How much of the current word bash takes for words before it.
    pub(super) cut: usize,
}

impl Line {
    /// The line of these words. bash makes words of their own of `=` and `:`, which are joined again.
    pub(super) fn new(words: Vec<OsString>, index: usize, of_bash: bool) -> Self {
        let mut line = Self { words: Vec::new(), index, cut: 0 };
        let mut glued = false;
        for (at, word) in words.into_iter().enumerate().take(index + 1) {
            let breaks =
                of_bash && !word.is_empty() && word.as_encoded_bytes().iter().all(|b| b"=:".contains(b));
            let before = match line.words.last_mut() {
                Some(last) if line_continues(at, breaks || glued) => {
                    let before = last.len();
                    last.push(&word);
                    before
                }
                _ => {
                    line.words.push(word.clone());
                    0
                }
            };
            line.cut = if breaks { before + word.len() } else { before };
            glued = breaks;
        }
        // The cursor may be behind the last word.
        if line.words.len() <= index && !of_bash {
            line.words.resize(index + 1, OsString::new());
        }
        line.index = line.words.len().saturating_sub(1);
        line
    }

    /// The word that the cursor is in.
    pub(super) fn current(&self) -> Cow<'_, str> {
        self.words.get(self.index).map_or(Cow::Borrowed(""), |word| word.to_string_lossy())
    }

    /// The words before it that are no options, without the program's name.
    pub(super) fn before(&self) -> impl Iterator<Item = &str> {
        let words = self.words.iter().take(self.index).skip(1).filter_map(|word| word.to_str());
        words.filter(|word| !word.starts_with('-'))
    }

    /// The options that say which configuration and which repository are meant.
    pub(super) fn global(&self) -> Global {
        Global {
            config: self.option(&["--config"]).map(PathBuf::from),
            repository: self.option(&["-r", "--repository"]).map(|name| name.to_string_lossy().into_owned()),
            passphrase_file: None,
            json: false,
            quiet: true,
            verbose: 0,
        }
    }

    /// The value of an option before the cursor.
    fn option(&self, names: &[&str]) -> Option<&OsStr> {
        let words = self.words.get(..self.index)?;
        words.iter().enumerate().find_map(|(at, word)| {
            if names.iter().any(|name| word == name) {
                return words.get(at + 1).map(OsString::as_os_str);
            }
            let word = word.to_str()?;
            names.iter().find_map(|name| Some(OsStr::new(word.strip_prefix(name)?.strip_prefix('=')?)))
        })
    }
}

/// Whether a word belongs to the one before it: never the first one behind the program's name.
const fn line_continues(at: usize, is_joined: bool) -> bool {
    is_joined && at > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str], of_bash: bool) -> Line {
        Line::new(words.iter().map(OsString::from).collect(), words.len() - 1, of_bash)
    }

    #[test]
    fn what_bash_has_split_is_joined() {
        let joined = line(&["refloat", "--config", "=", "/etc/x", "list", "--repository", "=", "off"], true);
        assert_eq!(joined.words, ["refloat", "--config=/etc/x", "list", "--repository=off"]);
        assert_eq!((joined.index, joined.cut, &*joined.current()), (3, 13, "--repository=off"));
        assert_eq!(joined.global().config.as_deref(), Some(std::path::Path::new("/etc/x")));
        let behind = line(&["refloat", "-r", "file", ":", "///backup", "list", "--repository", "="], true);
        assert_eq!(behind.words, ["refloat", "-r", "file:///backup", "list", "--repository="]);
        assert_eq!((behind.cut, behind.global().repository.as_deref()), (13, Some("file:///backup")));
    }

    #[test]
    fn words_before_the_cursor_are_found() {
        let other = line(&["refloat", "--config", "/c", "-v", "restore", "prod", ""], false);
        assert_eq!(other.before().collect::<Vec<_>>(), ["/c", "restore", "prod"]);
        assert_eq!(&*other.current(), "");
        assert_eq!(other.global().config.as_deref(), Some(std::path::Path::new("/c")));
    }
}
