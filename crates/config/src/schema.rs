//! The JSON schema of the file, and the reference page that is made of it.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json};

use crate::options::File;

/// JSON schema (2020-12) of `refloat.toml`, for editors and for `config schema`.
pub fn schema() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<File>().to_value()
}

/// The reference of all settings as Markdown: `docs/src/reference/settings.md`.
pub fn reference() -> String {
    let schema = schema();
    let at = |path: &[&str]| path.iter().fold(&schema, |json, key| &json[*key]);
    let repository = at(&["properties", "repository", "additionalProperties"]);
    let source = at(&["properties", "source", "additionalProperties"]);
    let mut out = String::from(INTRODUCTION);
    section_about(&mut out, "The top of the file", "Above every `[table]`.", &schema, |key| key == "state");
    section(&mut out, "`[repository.NAME]`", repository, |_| true);
    section(&mut out, "`encryption = { … }`", &repository["properties"]["encryption"]["anyOf"][0], |_| {
        true
    });
    let secret = &repository["properties"]["encryption"]["anyOf"][0]["properties"]["passphrase"];
    section_about(
        &mut out,
        "SECRET",
        "Where a secret is: exactly one of these. A literal string is refused.",
        secret,
        |_| true,
    );
    section(&mut out, "`[source.NAME]`", source, |key| matches!(key, "kind" | "like"));
    let postgres = at(&["properties", "template", "additionalProperties"]);
    section(&mut out, "Settings of PostgreSQL sources", postgres, |_| true);
    section(&mut out, "`retention = { … }`", &source["properties"]["retention"], |_| true);
    out.push_str(
        "\nA key with any other name is the name of a repository and holds a policy of its own for it. A layer that sets\n\
         one of the general keys sets the whole general policy: half a policy is never mixed with half of another.\n",
    );
    section(&mut out, "`schedule = { … }`", &source["properties"]["schedule"], |_| true);
    out
}

const INTRODUCTION: &str = "# Settings\n\n\
<!-- Made from the sources by crates/config; `UPDATE=1 cargo nextest run -p refloat-config` writes it anew. -->\n\n\
One TOML file: `--config FILE`, else `$REFLOAT_CONFIG`, else `/etc/refloat/refloat.toml`; then `conf.d/*.toml` beside it,\n\
by name. A key that is set twice is an error that names both lines; an unknown key is an error. `refloat config check`\n\
checks the file, `refloat config show --origin` prints what applies and where each value came from, and\n\
`refloat config schema` prints this page's content as a JSON schema for editors.\n\n\
Root refuses a configuration that others could change: the files and the directories above them belong to root, and\n\
neither group nor others may write them.\n\n\
What several sources share is written once. A source's own keys win over those of the `[template.NAME]` that it is\n\
`like`, those over `[defaults.postgres]`, and those over what is built in; each of these may stand in a file of its own:\n\n\
```toml\n\
[repository.offsite]\n\
url = \"file:///backup/db1\"\n\
encryption = { passphrase = { file = \"/etc/refloat/passphrase\" } }\n\n\
[repository.cold]\n\
url = \"file:///cold/db1\"\n\
encryption = { passphrase = { file = \"/etc/refloat/passphrase\" } }\n\n\
[defaults.postgres]                    # for every PostgreSQL cluster\n\
repositories = [\"offsite\", \"cold\"]\n\
retention = { full = \"4w\", wal = \"7d\" }\n\n\
[template.tier1]                       # for those that are like it\n\
jobs = 8\n\n\
[source.prod]\n\
kind = \"postgres\"\n\
like = \"tier1\"\n\
data_directory = \"/var/lib/postgresql/15/main\"\n\n\
[source.prod.retention.cold]           # in this repository, something else\n\
yearly = 10\n\
```\n";

fn section(out: &mut String, title: &str, schema: &Json, wanted: impl Fn(&str) -> bool) {
    section_about(out, title, schema["description"].as_str().unwrap_or_default(), schema, wanted);
}

fn section_about(out: &mut String, title: &str, about: &str, schema: &Json, wanted: impl Fn(&str) -> bool) {
    out.push_str(&format!("\n## {title}\n\n{}\n\n", flat(about)));
    out.push_str("| key | takes | default | |\n|---|---|---|---|\n");
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for (key, property) in properties.iter().filter(|(key, _)| wanted(key)) {
        let about = property["description"].as_str().unwrap_or_default();
        let default = property["default"].as_str().map(|text| format!("`\"{text}\"`")).unwrap_or_default();
        out.push_str(&format!("| `{key}` | {} | {default} | {} |\n", takes(property), flat(about)));
    }
}

/// A description on one line, as a cell of a table takes it.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn takes(property: &Json) -> String {
    if let Some(words) = property["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let kind = &property["type"];
    match kind.as_str() {
        Some("integer") => {
            format!("{} to {}", property["minimum"], property["maximum"])
        }
        Some("array") => "list of strings".to_owned(),
        Some("object") => "table".to_owned(),
        Some("string") => "string".to_owned(),
        _ if kind.is_array() => "number or string".to_owned(),
        _ if property["anyOf"].is_array() => {
            let words = property["anyOf"].as_array().into_iter().flatten().map(|one| &one["const"]);
            let words: Vec<String> =
                words.filter(|word| !word.is_null()).map(|word| format!("`{word}`")).collect();
            format!("table or {}", words.join(", "))
        }
        _ => String::new(),
    }
}
