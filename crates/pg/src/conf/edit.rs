//! Changes to configuration text.

use super::line::{Line, parse_line};

/// What [`comment_out`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commented {
    /// The text after it.
    pub text: Vec<u8>,
    /// The settings that are comments now, in order; a name as often as it stood there.
    pub names: Vec<String>,
}

/// Turns every line that sets one of `names` into a comment, below a line that gives the reason. Every other byte stays
/// as it is; the commented lines keep theirs behind a `#`.
pub fn comment_out(text: &[u8], names: &[&str], reason: &str) -> Commented {
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut out = Commented { text: Vec::with_capacity(text.len() + 200), names: Vec::new() };
    let mut running = false;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let found = match parse_line(line) {
            Line::Setting { name, .. } if names.contains(&name.as_str()) => Some(name),
            _ => None,
        };
        if found.is_some() {
            if !running {
                out.text.extend_from_slice(format!("# {reason}\n").as_bytes());
            }
            out.text.push(b'#');
        }
        out.text.extend_from_slice(line);
        running = found.is_some();
        out.names.extend(found);
    }
    out
}

/// `value` in quotes, as configuration takes it; `None` when it holds a zero byte, which configuration cannot say.
pub fn quote(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('\'');
    for c in value.chars() {
        match c {
            '\0' => return None,
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            other => out.push(other),
        }
    }
    out.push('\'');
    Some(out)
}

/// Appends `name = 'value'`; PostgreSQL takes the last of several. `None` when the value holds a zero byte or the name
/// is not one.
#[must_use]
pub fn set(text: &[u8], name: &str, value: &str) -> Option<Vec<u8>> {
    let line = format!("{name} = {}\n", quote(value)?);
    match parse_line(line.as_bytes()) {
        Line::Setting { name: read, .. } if read == name.to_ascii_lowercase() => {}
        _ => return None,
    }
    let mut out = text.to_vec();
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    out.extend_from_slice(line.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_targets_become_comments_and_nothing_else_changes() {
        let text = b"# mine\r\nport = 1\r\nRecovery_Target_Time = 'x' # why\r\nrestore_command 'cp a b'\n\
            #restore_command = 'no'\nrecovery_target_name = bad value\ninclude 'recovery_target'\n\xff\xfe\nrestore_command = 'last'";
        let done = comment_out(text, &["recovery_target_time", "restore_command"], "set aside by\na restore");
        let expected =
            b"# mine\r\nport = 1\r\n# set aside by a restore\n#Recovery_Target_Time = 'x' # why\r\n\
            #restore_command 'cp a b'\n#restore_command = 'no'\nrecovery_target_name = bad value\n\
            include 'recovery_target'\n\xff\xfe\n# set aside by a restore\n#restore_command = 'last'";
        assert_eq!(done.text, expected, "{}", String::from_utf8_lossy(&done.text));
        assert_eq!(done.names, ["recovery_target_time", "restore_command", "restore_command"]);
        let again = comment_out(&done.text, &["recovery_target_time", "restore_command"], "again");
        assert_eq!((again.text, again.names), (done.text, Vec::<String>::new()));
        assert_eq!(comment_out(b"", &["port"], "x").text, b"");
    }

    #[test]
    fn what_is_set_is_read_back() {
        for value in [
            "",
            "plain",
            "it's",
            "back\\slash",
            "two\nlines\r",
            "é#=''",
            "/usr/bin/refloat wal fetch %f \"%p\"",
        ] {
            let text = set(b"port = 1", "restore_command", value).expect("can be said");
            let last = text.split_inclusive(|b| *b == b'\n').next_back().expect("a line");
            let expected =
                Line::Setting { name: "restore_command".to_owned(), value: value.as_bytes().to_vec() };
            assert_eq!(parse_line(last), expected);
            assert!(text.starts_with(b"port = 1\n"));
        }
        for (name, value) in [("port", "a\0b"), ("a b", "c"), ("", "c"), ("x\ny", "c"), ("include", "c")] {
            assert_eq!(set(b"", name, value), None, "{name}");
        }
    }
}
