//! An error as a person reads it, and as a program does.

use serde::Serialize;

use crate::error::Failure;

#[derive(Serialize)]
struct Document<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    code: &'a str,
    message: &'a str,
    detail: &'a [String],
    safe: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    either: &'a [String],
    hints: &'a [String],
    exit_code: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Fields<'a>>,
}

fn fields(failure: &Failure) -> Fields<'_> {
    Fields {
        code: failure.code,
        message: &failure.message,
        detail: &failure.detail,
        safe: &failure.safe,
        either: &failure.either,
        hints: &failure.hints,
        exit_code: failure.exit_code(),
        more: failure.more.iter().map(fields).collect(),
    }
}

/// One JSON document.
pub(crate) fn document(failure: &Failure) -> String {
    format!("{}\n", super::json(&Document { error: fields(failure) }))
}

/// Code and message, then why, what is safe, and what to do.
pub(crate) fn text(failure: &Failure) -> String {
    let mut out = format!("error[{}]: {}\n", failure.code, failure.message);
    let mut line = |label: &str, text: &str| {
        for (number, part) in text.lines().enumerate() {
            let label = if number == 0 { label } else { "" };
            out.push_str(format!("  {label:<8}{part}").trim_end());
            out.push('\n');
        }
    };
    if !failure.detail.is_empty() {
        line("detail:", &failure.detail.join(": "));
    }
    for (number, either) in failure.either.iter().enumerate() {
        line(if number == 0 { "either:" } else { "or:" }, either);
    }
    if !failure.safe.is_empty() {
        line("safe:", &failure.safe);
    }
    for (number, hint) in failure.hints.iter().enumerate() {
        line(if number == 0 { "hint:" } else { "" }, hint);
    }
    for more in &failure.more {
        out.push_str(&text(more));
    }
    out
}
