//! Asking a person.

use std::io::{self, BufRead as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::CliError;
use crate::render::complain;

fn read_line() -> Result<String, CliError> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|source| CliError::System { action: "read from the terminal".to_owned(), source })?;
    Ok(line.trim().to_owned())
}

/// Asks for a line.
///
/// # Errors
/// When the terminal cannot be read.
pub(crate) fn line(prompt: &str) -> Result<String, CliError> {
    complain(prompt);
    read_line()
}

/// Asks a question whose answer is yes only when it is said.
///
/// # Errors
/// When the terminal cannot be read.
pub(crate) fn yes(question: &str) -> Result<bool, CliError> {
    let answer = line(&format!("{question} [y/N] "))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a secret, which is not shown.
///
/// # Errors
/// When the terminal cannot be read.
pub(crate) fn secret(prompt: &str) -> Result<String, CliError> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).ok();
    if let Some(mut hidden) = before.clone() {
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        // What was typed before is dropped, so this comes before the prompt: whoever answers at once is heard.
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
    }
    complain(prompt);
    let answer = read_line();
    if let Some(before) = before {
        let _ = tcsetattr(&stdin, OptionalActions::Drain, &before);
    }
    answer
}
