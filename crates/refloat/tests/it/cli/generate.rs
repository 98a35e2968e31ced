//! What is generated for a bucket: the documents, what is said beside them, and settings that have no bucket.

use serde_json::Value;

use super::errors::Scene;

const S3: &str = "[repository.offsite]\nurl = \"s3://acme-backups/db1\"\nregion = \"eu-central-1\"\nsse = \"AES256\"\nencryption = \"none\"\n";

fn scene(repositories: &str, retention: &str) -> Scene {
    let scene = Scene::new();
    let root = scene.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let names: Vec<&str> = repositories
        .lines()
        .filter_map(|line| line.strip_prefix("[repository.")?.strip_suffix(']'))
        .collect();
    let text = format!(
        "state = \"{root}/state\"\n{repositories}\n[source.prod]\nkind = \"postgres\"\n\
         data_directory = \"{root}/data\"\nrepositories = {names:?}\nretention = {retention}\n"
    );
    scene.write("refloat.toml", &text, 0o644);
    scene
}

#[test]
fn documents_are_data_and_what_to_do_with_them_is_talk() {
    let scene = scene(S3, "{ full = \"4w\", wal = \"7d\" }");
    for (words, name) in [
        (vec!["generate", "s3-lifecycle", "--lock", "40"], "lifecycle"),
        (vec!["generate", "bucket-policy", "--lock", "40"], "bucket_policy"),
        (vec!["generate", "iam-policy", "--lock", "40"], "agent"),
        (vec!["generate", "iam-policy", "--role", "expirer"], "expirer"),
        (vec!["generate", "iam-policy", "--role", "restorer"], "restorer"),
    ] {
        let run = scene.run(&words);
        assert_eq!(run.code, 0, "{}", run.stderr);
        serde_json::from_str::<Value>(&run.stdout).expect("stdout is the document and nothing else");
        insta::assert_snapshot!(format!("generate_{name}"), format!("{}---\n{}", run.stdout, run.stderr));
    }
}

#[test]
fn a_file_is_written_and_named_in_the_line_that_puts_it_to_use() {
    let scene = scene(S3, "{ full = 4 }");
    let to = scene.path("policies");
    let run = scene.run(&["--json", "generate", "iam-policy", "--output", &to.display().to_string()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let said: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let file = to.join("acme-backups-iam-policy-agent.json");
    let written: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    assert_eq!((&said["format"], &said["document"]), (&Value::from(1), &written));
    assert!(said["apply"].as_str().is_some_and(|line| line.contains(&file.display().to_string())), "{said}");
}

#[test]
fn what_is_in_no_bucket_of_s3_is_refused() {
    let refused = |scene: &Scene, words: &[&str]| {
        let run = scene.run(words);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
        run.stderr
    };
    let directory = Scene::new();
    let text = refused(&directory, &["generate", "s3-lifecycle"]);
    assert!(
        text.contains("repository \"backup\" is in a directory: this is generated for S3 alone"),
        "{text}"
    );
    let two = scene(
        &format!("{S3}{}", S3.replace("offsite", "other").replace("acme-backups", "elsewhere")),
        "{ full = 4 }",
    );
    let text = refused(&two, &["generate", "bucket-policy"]);
    assert!(text.contains("there are repositories in 2 buckets: acme-backups, elsewhere"), "{text}");
    assert!(text.contains("-r NAME"), "{text}");
    assert_eq!(two.run(&["-r", "other", "generate", "bucket-policy"]).code, 0);
    let text = refused(&two, &["-r", "other", "generate", "iam-policy", "--role", "boss"]);
    assert!(text.contains("agent"), "{text}");
}

#[test]
fn who_may_delete_is_named_so_that_the_store_knows_it() {
    let scene = scene(S3, "{ full = 4 }");
    for wrong in [
        "foo",
        "refloat-expire",
        "arn:aws:s3:::acme-backups",
        "arn:aws:iam::123456789012:policy/x",
        "arn:aws:iam::1:role/",
    ] {
        let run = scene.run(&["generate", "bucket-policy", "--expirer", wrong]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{wrong}");
        assert!(run.stderr.contains("it is no ARN of a role or user"), "{}", run.stderr);
    }
    for right in [
        "arn:aws:iam::123456789012:role/refloat-expire",
        "arn:aws-cn:iam::123456789012:role/ops/refloat-*",
        "arn:aws:sts::123456789012:assumed-role/expire/session",
        "arn:aws:iam:::user/expirer",
        "arn:aws:iam::ACCOUNT:role/EXPIRER",
    ] {
        let run = scene.run(&["generate", "bucket-policy", "--expirer", right]);
        assert!(run.code == 0 && run.stdout.contains(right), "{right}: {}", run.stderr);
    }
}
