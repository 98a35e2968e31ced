//! The schema agrees with what is read, and the reference page with the schema.

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::{BASE, parse};

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference/settings.md")
}

/// `UPDATE=1` writes the page.
#[test]
fn the_reference_page_is_fresh() {
    let fresh = refloat_config::reference();
    #[expect(clippy::disallowed_methods, reason = "a switch of this test, not of the product")]
    let update = std::env::var_os("UPDATE").is_some();
    if update {
        std::fs::create_dir_all(page().parent().expect("it is in a directory")).expect("it can be made");
        std::fs::write(page(), &fresh).expect("it can be written");
    }
    let written = std::fs::read_to_string(page()).unwrap_or_default();
    assert!(
        written == fresh,
        "docs/src/reference/settings.md is stale: UPDATE=1 cargo nextest run -p refloat-config"
    );
}

#[test]
fn every_setting_is_described_and_tables_are_closed() {
    fn walk(path: &str, schema: &Json, seen: &mut Vec<String>) {
        let Some(properties) = schema["properties"].as_object() else { return };
        assert!(
            schema["additionalProperties"] == false || schema["additionalProperties"].is_object(),
            "{path} is open"
        );
        for (key, property) in properties {
            let path = format!("{path}.{key}");
            assert!(
                property["description"].as_str().is_some_and(|text| text.len() > 5),
                "{path} is not described"
            );
            for inner in [property, &property["additionalProperties"], &property["anyOf"][0]] {
                walk(&path, inner, seen);
            }
            seen.push(path);
        }
    }
    let mut seen = Vec::new();
    walk("", &refloat_config::schema(), &mut seen);
    for path in [
        ".state",
        ".repository.encryption.passphrase.file",
        ".source.kind",
        ".source.retention.wal",
        ".template.jobs",
        ".defaults.postgres.schedule.zone",
    ] {
        assert!(seen.iter().any(|known| known == path), "{path} of {seen:?}");
    }
}

#[test]
fn documented_defaults_are_the_real_ones() {
    // A bucket has every setting that a directory has, and more.
    let far = BASE.replace("url = \"file:///backup/db1\"", "url = \"s3://bucket/db1\"\nregion = \"eu\"");
    let (schema, config) = (refloat_config::schema(), parse(&far).expect("it is right"));
    let shown = config.view(false);
    let mut compared = 0;
    for (table, name) in [("repository", "offsite"), ("source", "prod")] {
        let properties =
            schema["properties"][table]["additionalProperties"]["properties"].as_object().expect("a table");
        for (key, property) in properties.iter().filter(|(_, property)| !property["default"].is_null()) {
            assert_eq!(property["default"], shown["settings"][table][name][key], "{table}.{key}");
            compared += 1;
        }
    }
    assert_eq!(compared, 12);
}

#[test]
fn patterns_of_the_schema_are_json() {
    let text = serde_json::to_string(&refloat_config::schema()).expect("it is JSON");
    assert!(text.contains("https://json-schema.org/draft/2020-12/schema"));
    assert!(!text.contains("$ref"), "everything is in its place");
}
