//! Small pieces of text: tables, counts, shell words.

use std::path::Path;

/// Rows with their columns aligned, two blanks between, no blanks at the end. Columns in `right` are aligned right.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let (before, after) =
                if right.contains(&column) { (fill.as_str(), "") } else { ("", fill.as_str()) };
            line.push_str(&format!("{}{before}{cell}{after}", if column == 0 { "" } else { "  " }));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `1 fault`, `2 faults`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// `1,204,331`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A word for a POSIX shell, quoted only when it must be.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A path for a POSIX shell.
pub(crate) fn shell_path(path: &Path) -> String {
    shell(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["a", "1", "x"]), row(["long", "22", ""])], &[1]);
        assert_eq!(text, "a      1  x\nlong  22\n");
    }

    #[test]
    fn numbers_and_words() {
        assert_eq!(thousands(1_204_331), "1,204,331");
        assert_eq!((thousands(7), thousands(1000)), ("7".to_owned(), "1,000".to_owned()));
        assert_eq!((count(1, "fault"), count(0, "warning")), ("1 fault".to_owned(), "0 warnings".to_owned()));
        assert_eq!(
            (shell("/a b"), shell("it's"), shell("")),
            ("'/a b'".to_owned(), r"'it'\''s'".to_owned(), "''".to_owned())
        );
    }
}
