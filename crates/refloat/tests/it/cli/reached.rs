//! What stands on a recovery sheet and in a rescue kit is typed as it stands, with nothing added but who signs in: it reaches the
//! repository from an empty directory without a configuration.

use std::fs;
use std::path::Path;

use refloat_testkit::servers::{Azurite, GcsEmulator, S3sFs, Sshd, WebDav};

use super::errors::{Scene, run};

const PASSPHRASE: &str = "correct horse battery staple\n";
const DIRECTORY: &str = "/var/lib/postgresql/rescue";

/// A scene with a repository in a store, and its sheet.
fn made(lines: impl FnOnce(&Scene) -> String) -> (Scene, String) {
    let scene = Scene::new();
    let root = scene.path("").display().to_string();
    let text = format!(
        "state = \"{root}state\"\n[repository.backup]\n{}\nencryption = {{ passphrase = {{ file = \"{root}passphrase\" }} }}\n\
         [source.prod]\nkind = \"postgres\"\ndata_directory = \"{root}data\"\n",
        lines(&scene)
    );
    scene.write("refloat.toml", &text, 0o644);
    let sheet = scene.path("sheet").display().to_string();
    let init = scene.run(&["init", "--sheet", &sheet]);
    assert_eq!(init.code, 0, "{}", init.stderr);
    let sheet = fs::read_to_string(&sheet).expect("written");
    fs::remove_file(scene.path("refloat.toml")).expect("own file");
    fs::remove_dir_all(scene.path("state")).expect("own directory");
    (scene, sheet)
}

/// Types what stands there: `signs` says what a person puts for what stands for it, and into which files.
fn typed(scene: &Scene, text: &str, signs: &[(&str, &str)], files: &[(&str, &str)]) {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_start_matches(" first").trim_start_matches(" type").trim())
        .collect();
    let run_line = lines.iter().find(|line| {
        line.ends_with(" list") && line.contains("refloat -") || line.ends_with("-r rescue list")
    });
    let run_line = run_line.unwrap_or_else(|| panic!("no line lists:\n{text}"));
    let program = crate::program();
    let run_line = run_line.replace("sudo -u postgres ", "").replacen("./refloat", "refloat", 1);
    let mut script = String::new();
    for export in lines.iter().filter(|line| line.starts_with("export ")) {
        script.push_str(&format!("{export}\n"));
    }
    if run_line.contains("--config") {
        scene.owner().make_dir(&scene.path("rescue"));
        let from = lines.iter().position(|line| line.starts_with("state = ")).expect("a file");
        let to = lines.iter().position(|line| line.starts_with("encryption = ")).expect("a file");
        let toml = lines[from..=to].join("\n");
        scene.write("rescue/rescue.toml", &fill(&toml, scene, signs), 0o600);
        for (name, text) in files.iter().chain(&[("passphrase", PASSPHRASE)]) {
            scene.write(&format!("rescue/{name}"), text, 0o600);
        }
        script.push_str(&run_line);
    } else {
        scene.write("key", PASSPHRASE, 0o600);
        script.push_str(&format!("{run_line} --passphrase-file {}", scene.path("key").display()));
    }
    let script = fill(&script, scene, signs).replace("refloat -", &format!("{program} -"));
    let done = run(scene.program("sh").args(["-ec", &script]));
    assert_eq!((done.code, done.stdout.as_str()), (0, "no backups yet\n"), "{script}\n{}", done.stderr);
    let _ = fs::remove_dir_all(scene.path("rescue"));
}

fn fill(text: &str, scene: &Scene, signs: &[(&str, &str)]) -> String {
    let text = text.replace(DIRECTORY, &scene.path("rescue").display().to_string());
    signs.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

fn fingerprint_of(sheet: &str) -> String {
    let words = sheet.lines().find_map(|line| line.trim().strip_prefix("fingerprint "));
    words.expect("it stands there").trim().to_owned()
}

fn kit(repository: &Path) -> String {
    fs::read_to_string(repository.join("rescue/0000000001/RESCUE.txt")).expect("a kit")
}

#[test]
fn a_directory() {
    let (scene, sheet) = made(|scene| format!("url = \"file://{}\"", scene.path("repo").display()));
    typed(&scene, &sheet, &[], &[]);
    typed(&scene, &kit(&scene.path("repo")), &[], &[]);
}

#[test]
fn a_bucket_that_is_not_amazons() {
    let Some(server) = S3sFs::start() else { return };
    let bucket = server.bucket("backups");
    let (scene, sheet) = made(|scene| {
        scene.write("s3", server.secret_key(), 0o600);
        format!(
            "url = \"s3://{bucket}/db1\"\nendpoint = \"{}\"\ncredentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}",
            server.endpoint(),
            server.access_key(),
            scene.path("s3").display()
        )
    });
    let (id, key) = (
        format!("AWS_ACCESS_KEY_ID={}", server.access_key()),
        format!("AWS_SECRET_ACCESS_KEY='{}'", server.secret_key()),
    );
    let signs = [("AWS_ACCESS_KEY_ID=…", id.as_str()), ("AWS_SECRET_ACCESS_KEY=…", key.as_str())];
    for text in [sheet, kit(&server.root().join(&bucket).join("db1"))] {
        assert!(!text.contains(server.secret_key()) && !text.contains(server.access_key()), "{text}");
        typed(&scene, &text, &signs, &[]);
    }
}

#[test]
fn a_container_and_a_bucket_of_others() {
    if let Some(server) = Azurite::start() {
        let container = server.container("backups");
        let (scene, sheet) = made(|scene| {
            scene.write("azure", server.account_key(), 0o600);
            format!(
                "url = \"azblob://{container}/db1\"\nendpoint = \"{}\"\ncredentials = {{ account_name = \"{}\", account_key = {{ file = \"{}\" }} }}",
                server.endpoint(),
                server.account(),
                scene.path("azure").display()
            )
        });
        let key = format!("AZURE_STORAGE_KEY='{}'", server.account_key());
        typed(&scene, &sheet, &[("AZURE_STORAGE_KEY=…", &key)], &[]);
    }
    if let Some(server) = GcsEmulator::start() {
        let bucket = server.bucket("backups");
        let (scene, sheet) = made(|scene| {
            scene.write("token", "a token of tests alone\n", 0o600);
            format!(
                "url = \"gs://{bucket}/db1\"\nendpoint = \"{}\"\ncredentials = {{ access_token = {{ file = \"{}\" }} }}",
                server.endpoint(),
                scene.path("token").display()
            )
        });
        assert!(!sheet.contains("a token of tests alone"));
        typed(
            &scene,
            &sheet,
            &[("GOOGLE_APPLICATION_CREDENTIALS=…", "CLOUDSDK_AUTH_ACCESS_TOKEN=anything")],
            &[],
        );
    }
}

#[test]
fn stores_that_no_variable_describes() {
    if let Some(server) = Sshd::start() {
        let directory = server.directory("backups");
        let (scene, sheet) = made(|_| {
            format!(
                "url = \"sftp://{}@127.0.0.1:{}{}\"\nknown_hosts = \"{}\"\ncredentials = {{ private_key = {{ file = \"{}\" }} }}",
                server.user(),
                server.port(),
                directory.display(),
                server.known_hosts().display(),
                server.private_key().display()
            )
        });
        let read = |path: &Path| fs::read_to_string(path).expect("reads");
        let (known, key) = (read(&server.known_hosts()), read(&server.private_key()));
        let files = [("known_hosts", known.as_str()), ("private_key", key.as_str())];
        typed(&scene, &sheet, &[], &files);
        let kit = kit(&directory);
        assert!(!kit.contains(&format!("{}@", server.user())), "{kit}");
        let fingerprint = fingerprint_of(&sheet);
        typed(&scene, &kit, &[("USER", &server.user()), ("FROM-THE-SHEET", &fingerprint)], &files);
    }
    if let Some(server) = WebDav::start() {
        let (scene, sheet) = made(|scene| {
            scene.write("webdav", server.password(), 0o600);
            format!(
                "url = \"webdav://127.0.0.1:{}/{}\"\ncredentials = {{ user = \"{}\", password = {{ file = \"{}\" }} }}",
                server.port(),
                server.directory("backups"),
                server.user(),
                scene.path("webdav").display()
            )
        });
        let fingerprint = fingerprint_of(&sheet);
        for text in [sheet, kit(&server.root().join("backups"))] {
            let signs = [("USER", server.user()), ("FROM-THE-SHEET", fingerprint.as_str())];
            typed(&scene, &text, &signs, &[("password", server.password())]);
        }
    }
}
