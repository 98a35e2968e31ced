//! What every error owes an operator at 3 a.m.: a stable code, what is safe, and what to do next.

use std::borrow::Cow;
use std::error::Error;

/// What a caller can do about a failure; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It failed; a person has to act. Exit 1.
    Failed,
    /// The command line or the configuration is wrong. Exit 2.
    Usage,
    /// Somebody else holds what is needed. Exit 4.
    Locked,
    /// Something does not answer; the same call may succeed later. Exit 5.
    Unreachable,
}

/// The answer an error gives beside its message.
#[derive(Debug, Clone)]
pub struct Advice {
    /// Stable code such as `WAL-003`; listed in `docs/src/reference/errors.md`, never reused.
    pub code: &'static str,
    /// What the caller can do.
    pub severity: Severity,
    /// What was not lost or not touched.
    pub safe: Cow<'static, str>,
    /// What to do next: whole sentences or ready lines, the likeliest first.
    pub hints: Vec<String>,
}

impl Advice {
    /// An advice for a failure, without hints yet.
    pub fn failed(code: &'static str, safe: impl Into<Cow<'static, str>>) -> Self {
        Self { code, severity: Severity::Failed, safe: safe.into(), hints: Vec::new() }
    }
    /// An advice for a wrong command line or configuration.
    pub fn usage(code: &'static str, safe: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Usage, ..Self::failed(code, safe) }
    }
    /// An advice for something that does not answer now.
    pub fn unreachable(code: &'static str, safe: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Unreachable, ..Self::failed(code, safe) }
    }
    /// An advice for something that somebody else holds.
    pub fn locked(code: &'static str, safe: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Locked, ..Self::failed(code, safe) }
    }
    /// Adds a line that says what to do.
    #[must_use]
    pub fn hint(mut self, line: impl Into<String>) -> Self {
        self.hints.push(line.into());
        self
    }
    /// The exit code of a command that ends with this.
    pub const fn exit_code(&self) -> u8 {
        match self.severity {
            Severity::Failed => 1,
            Severity::Usage => 2,
            Severity::Locked => 4,
            Severity::Unreachable => 5,
        }
    }
}

/// An error that can advise. `Display` says what failed and on which object; `source()` says why and is never repeated
/// in `Display`; `advice()` says the rest.
pub trait Explain: Error {
    /// The stable code, what is safe, what to do next.
    fn advice(&self) -> Advice;
}
