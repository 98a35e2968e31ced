//! `explain CODE`, from the page of codes that is built in: works offline.

use clap::Args;

use crate::Outcome;
use crate::cli::Global;
use crate::error::{CliError, Failure};
use crate::render::Out;

/// The page.
const PAGE: &str = include_str!("../../../../docs/src/reference/errors.md");

/// Say what an error code means and what to do
#[derive(Debug, Args)]
#[command(after_help = "Example:  refloat explain WAL-105")]
pub(crate) struct Explain {
    /// The code, as it is printed in error[CODE]
    code: String,
}

impl Explain {
    /// Does it.
    pub(crate) fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let code = self.code.to_ascii_uppercase();
        let Some((section, meaning, mend)) = find(&code) else {
            let area = code.split('-').next().unwrap_or_default();
            let known: Vec<&str> = codes().filter(|known| known.starts_with(&format!("{area}-"))).collect();
            let hint = if known.is_empty() {
                "Codes look like WAL-105; the page \"Error codes\" of the manual lists them.".to_owned()
            } else {
                format!("Of this area there are: {}", known.join(", "))
            };
            return Err(CliError::usage(format!("there is no code \"{}\"", self.code), hint).into());
        };
        let out = Out { json: global.json, quiet: global.quiet };
        out.text(&format!("{code} ({section})\n  means:  {meaning}\n  to do:  {mend}\n"));
        out.document(&serde_json::json!({ "code": code, "area": section, "means": meaning, "to_do": mend }));
        Ok(Outcome::Done)
    }
}

fn cells(line: &str) -> Option<(&str, &str, &str)> {
    let mut cells = line.strip_prefix("| `")?.split(" | ");
    let code = cells.next()?.trim_end_matches('`');
    Some((code, cells.next()?, cells.next()?.trim_end().trim_end_matches('|').trim_end()))
}

fn codes() -> impl Iterator<Item = &'static str> {
    PAGE.lines().filter_map(cells).map(|(code, ..)| code)
}

fn find(code: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let mut section = "";
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        if let Some((found, meaning, mend)) = cells(line)
            && found == code
        {
            return Some((section, meaning, mend));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_understood() {
        let (section, meaning, mend) = find("CFG-001").expect("it is there");
        assert_eq!(section, "Settings");
        assert!(meaning.contains("configuration") && mend.contains("--config"), "{meaning} {mend}");
        assert!(codes().count() > 50);
        assert!(find("XXX-001").is_none());
    }
}
