//! `refloat.toml.5`, of the reference of all settings: the little Markdown that it has, as roff.

use super::{escape, title};

/// The page.
pub(super) fn page() -> String {
    let mut out = title("refloat.toml", 5);
    out.push_str(".SH NAME\nrefloat.toml \\- the configuration of Refloat\n.SH DESCRIPTION\n");
    let reference = refloat_config::reference();
    let mut is_code = false;
    let mut before = "";
    for line in reference.lines().skip_while(|line| !line.starts_with("One TOML file")) {
        if let Some(language) = line.strip_prefix("```") {
            is_code = !language.is_empty();
            out.push_str(if is_code { ".PP\n.nf\n" } else { ".fi\n" });
        } else if is_code {
            out.push_str(&format!("{}\n", escape(line)));
        } else if let Some(title) = line.strip_prefix("## ") {
            out.push_str(&format!(".SH \"{}\"\n", escape(&title.replace(['`', '"'], ""))));
        } else if line.starts_with("| `") {
            out.push_str(&row(line));
        } else if line.starts_with('|') {
            // The head of a table.
        } else if line.is_empty() {
            if !before.is_empty() && !before.starts_with(['#', '|']) {
                out.push_str(".PP\n");
            }
        } else {
            out.push_str(&format!("{}\n", inline(line)));
        }
        before = line;
    }
    let out = out.replace(".PP\n.PP\n", ".PP\n").replace(".PP\n.SH", ".SH");
    format!("{}\n.SH \"SEE ALSO\"\n\\fBrefloat\\fR(1)\n", out.trim_end().trim_end_matches(".PP").trim_end())
}

/// A setting: its name and what it takes, then what it is for.
fn row(line: &str) -> String {
    let guarded = line.replace("\\|", "\u{0}");
    let mut cells = guarded.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|"));
    let mut next = || cells.next().unwrap_or_default();
    let (key, takes, default, about) = (next(), next(), next(), next());
    let mut head = format!("\\fB{}\\fR", escape(key.trim_matches('`')));
    if !takes.is_empty() {
        head.push_str(&format!(" = {}", inline(&takes)));
    }
    if !default.is_empty() {
        head.push_str(&format!(" (default: {})", inline(&default)));
    }
    format!(".TP\n{head}\n{}\n", inline(&about))
}

/// Text with `code` in it.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in text.split('`').enumerate() {
        let part = escape(part);
        out.push_str(&if at % 2 == 1 { format!("\\fB{part}\\fR") } else { part });
    }
    out
}
