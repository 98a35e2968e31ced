//! One line of configuration.

/// How a line asks for other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// `include`: the file must exist.
    File,
    /// `include_if_exists`
    FileIfExists,
    /// `include_dir`: every `*.conf` in it.
    Directory,
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing, or a comment.
    Blank,
    /// A setting.
    Setting {
        /// Its name in lower case (PostgreSQL takes any).
        name: String,
        /// Its value without quotes. Bytes: a path need not be UTF-8.
        value: Vec<u8>,
    },
    /// Another file to read here.
    Include {
        /// In which way.
        how: Include,
        /// Which file or directory, as written.
        path: Vec<u8>,
    },
    /// Something PostgreSQL would refuse.
    Bad,
}

/// A place in a line.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn skip_blank(&mut self) {
        while let Some((b' ' | b'\t' | b'\r', rest)) = self.0.split_first() {
            self.0 = rest;
        }
    }
    fn take_while(&mut self, good: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|b| !good(*b)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
    fn take(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }
    /// Only a comment may follow.
    fn is_at_end(&mut self) -> bool {
        self.skip_blank();
        matches!(self.0.first(), None | Some(b'#' | b'\n'))
    }

    /// What is behind an opening quote, up to the closing one.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'\n' => return None,
                b'\'' if !self.take(b'\'') => return Some(value),
                b'\'' => value.push(b'\''),
                b'\\' => value.push(self.escaped()?),
                _ => value.push(*byte),
            }
        }
    }

    /// The byte that a backslash and what follows stand for.
    fn escaped(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        if let b'0'..=b'7' = byte {
            let mut number = 0_u8;
            for _ in 0..3 {
                let Some((digit @ b'0'..=b'7', rest)) = self.0.split_first() else { break };
                // PostgreSQL keeps the lowest eight bits.
                number = number.wrapping_mul(8).wrapping_add(digit - b'0');
                self.0 = rest;
            }
            return Some(number);
        }
        self.0 = rest;
        Some(match byte {
            b'\n' => return None,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            other => *other,
        })
    }
}

const fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_name(byte: u8) -> bool {
    is_letter(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// What may stand without quotes: words, numbers with units, simple paths behind a letter.
const fn is_plain(byte: u8) -> bool {
    is_name(byte) || matches!(byte, b'.' | b':' | b'/' | b'-' | b'+')
}

/// Reads one line, with or without its line break.
pub fn parse_line(line: &[u8]) -> Line {
    let mut at = Cursor(line);
    if at.is_at_end() {
        return Line::Blank;
    }
    parse(&mut at).unwrap_or(Line::Bad)
}

fn parse(at: &mut Cursor<'_>) -> Option<Line> {
    at.0.first().filter(|b| is_letter(**b))?;
    let mut name = at.take_while(is_name).to_vec();
    if at.take(b'.') {
        // A setting of an extension: `extension.name`.
        at.0.first().filter(|b| is_letter(**b))?;
        name.push(b'.');
        name.extend_from_slice(at.take_while(is_name));
    }
    at.skip_blank();
    at.take(b'=');
    at.skip_blank();
    let value = if at.take(b'\'') {
        at.quoted()?
    } else {
        let starts = |b: &u8| is_letter(*b) || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
        at.0.first().filter(|b| starts(b))?;
        at.take_while(is_plain).to_vec()
    };
    if !at.is_at_end() {
        return None;
    }
    let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
    let how = match name.as_str() {
        "include" => Include::File,
        "include_if_exists" => Include::FileIfExists,
        "include_dir" => Include::Directory,
        _ => return Some(Line::Setting { name, value }),
    };
    Some(Line::Include { how, path: value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &[u8]) -> Line {
        Line::Setting { name: name.to_owned(), value: value.to_vec() }
    }

    #[test]
    fn settings_are_read_as_postgresql_reads_them() {
        for (line, name, value) in [
            ("port = 5432", "port", "5432"),
            ("port=5432#c", "port", "5432"),
            ("  Port\t5432  # the port\r\n", "port", "5432"),
            ("shared_buffers 128MB", "shared_buffers", "128MB"),
            ("a.b_c = on", "a.b_c", "on"),
            ("x = -1", "x", "-1"),
            ("x = 0.5", "x", "0.5"),
            ("x = 1e-3", "x", "1e-3"),
            ("lc = en_US.UTF-8", "lc", "en_US.UTF-8"),
            ("x = ''", "x", ""),
            ("x'y'", "x", "y"),
            ("x = 'it''s \\'so\\''", "x", "it's 'so'"),
            ("x = 'a#b = c' # d", "x", "a#b = c"),
            ("x = '\\b\\f\\n\\r\\t\\\\\\q'", "x", "\u{8}\u{c}\n\r\t\\q"),
            ("x = '\\101\\60\\0611'", "x", "A011"),
        ] {
            assert_eq!(parse_line(line.as_bytes()), setting(name, value.as_bytes()), "{line}");
        }
        assert_eq!(parse_line(b"x = '\xff\\377'"), setting("x", b"\xff\xff"));
    }

    #[test]
    fn blank_lines_includes_and_mistakes_are_told_apart() {
        for line in ["", "\n", "   \t\r\n", "# port = 1", "  #"] {
            assert_eq!(parse_line(line.as_bytes()), Line::Blank, "{line}");
        }
        for (line, how) in [
            ("include 'a.conf'", Include::File),
            ("Include_Dir = 'a.conf'", Include::Directory),
            ("include_if_exists a.conf", Include::FileIfExists),
        ] {
            assert_eq!(parse_line(line.as_bytes()), Line::Include { how, path: b"a.conf".to_vec() });
        }
        for line in [
            "port",
            "port =",
            "port = 1 2",
            "= 1",
            "1 = 1",
            "x = 'open",
            "x = 'open\\",
            "x = 'a' b",
            "x = /bin/true",
            "x = 'a'b'",
            "a. = 1",
            "a.b.c = 1",
            "x = == 1",
        ] {
            assert_eq!(parse_line(line.as_bytes()), Line::Bad, "{line}");
        }
    }
}
