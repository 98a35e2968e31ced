//! What a person reads in a rescue kit. Names are sealed in a repository, so none stands here: sources are ids until the key
//! is given.

use std::fmt::Write as _;

use refloat_repo::repository::{KitFile, NewKit, Reach};
use refloat_repo::{Repository, layout};
use refloat_types::hex;

use super::{FORMAT, PROGRAM, TEXT};
use crate::reach::Way;

/// What whoever recovers writes there: a kit is not to be believed for its own fingerprint.
const FROM_SHEET: &str = "FROM-THE-SHEET";

/// The pages that describe the format, in the order of their table of contents.
const PAGES: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../../docs/src/format/README.md")),
    ("layout.md", include_str!("../../../../docs/src/format/layout.md")),
    ("objects.md", include_str!("../../../../docs/src/format/objects.md")),
    ("crypto.md", include_str!("../../../../docs/src/format/crypto.md")),
    ("packs.md", include_str!("../../../../docs/src/format/packs.md")),
    ("manifests.md", include_str!("../../../../docs/src/format/manifests.md")),
    ("commits.md", include_str!("../../../../docs/src/format/commits.md")),
    ("wal.md", include_str!("../../../../docs/src/format/wal.md")),
    ("records.md", include_str!("../../../../docs/src/format/records.md")),
    ("expiry.md", include_str!("../../../../docs/src/format/expiry.md")),
    ("rescue.md", include_str!("../../../../docs/src/format/rescue.md")),
    ("numbers.md", include_str!("../../../../docs/src/format/numbers.md")),
];

/// All pages of the format in one file.
pub(super) fn format() -> String {
    let mut out = String::from(
        "<!-- The format of this repository, all pages of it. With them, the key and common libraries a backup can be read\n     without Refloat. Each page begins with a line that names it. -->\n",
    );
    for (name, page) in PAGES {
        let _ = write!(out, "\n<!-- {name} -->\n\n{page}");
    }
    out
}

/// The text of `RESCUE.txt`: how to recover from this repository as it stands.
pub(super) fn rescue(repository: &Repository, kit: &NewKit) -> String {
    let url = kit.addresses.first().map_or("URL", String::as_str);
    let ways = ways(kit, url);
    let generation = repository.generation();
    let run = ways.first().map_or_else(
        || format!("./refloat -r {url}"),
        |reach| Way { reach, generation }.command("./refloat"),
    );
    let mut out = format!(
        "REFLOAT RESCUE KIT\n\n\
         This store is a repository of Refloat: backups of PostgreSQL clusters, and their WAL. It and its key are enough to\n\
         bring the databases back: no configuration, no other host. Nothing below {directory} is secret, and nothing\n\
         there opens a backup.\n\n\
         repository   {id}\n\
         fingerprint  {fingerprint}\n",
        directory = layout::RESCUE,
        id = repository.marker().id,
        fingerprint = repository.fingerprint(),
    );
    for (number, address) in kit.addresses.iter().enumerate() {
        let _ = writeln!(out, "{:<12} {address}", if number == 0 { "reached by" } else { "" });
    }
    for (number, source) in kit.sources.iter().enumerate() {
        let _ = writeln!(out, "{:<12} {source}", if number == 0 { "sources" } else { "" });
    }
    if !kit.sources.is_empty() {
        out.push_str("             (by their ids; what they are called is sealed, and `list` shows it)\n");
    }
    for (number, address) in kit.addresses.iter().enumerate() {
        for (other, reach) in self::ways(kit, address).iter().enumerate() {
            let way = Way { reach, generation };
            let title = match (number, other) {
                (0, 0) => "THE STORE".to_owned(),
                (_, 0) => format!("OR BY {address}"),
                _ => format!("OR BY {address}, AS ANOTHER HOST HAS REACHED IT"),
            };
            let instead = (number > 0).then(|| way.command("./refloat")).filter(|other| *other != run);
            out.push_str(&needs(&way, &title, instead.map(|instead| (instead, run.as_str()))));
        }
    }
    out.push_str(&program(kit, url, ways.first()));
    out.push_str(&key(repository, ways.first().is_some_and(|reach| Way { reach, generation }.needs_file())));
    let _ = write!(
        out,
        "\n3. RECOVER\n\n\
         On a host that has PostgreSQL of the same major version, whose server is stopped:\n\n\
         \x20   {run} list\n\
         \x20   {run} restore SOURCE --to /new/directory --dry-run\n\
         \x20   {run} restore SOURCE --to /new/directory\n\n\
         SOURCE is a name that `list` shows. --dry-run prints the plan, the space it needs and the moments that can be restored,\n\
         and writes nothing. A moment follows the name: restore SOURCE '2026-01-31 14:30:00 UTC' --to /new/directory\n\
         --to wants a directory that is empty or not there; nothing that exists is deleted. As root, the directory and the\n\
         server belong to the user postgres where there is one. At the end `restore` prints how to start the server; leave\n\
         the program where it is until then, because the server calls it for its WAL. ./refloat help restore says more.\n\n\
         4. BEFORE YOU TRUST ALL OF IT\n\n\
         \x20   {run} verify             everything is there, and signed by the hosts of this repository\n\
         \x20   {run} verify --read-data every byte of it is right\n\n\
         Without Refloat: {format} describes every byte, so that common libraries are enough.\n",
        format = kit.files.iter().find(|file| file.name == FORMAT).map_or(FORMAT, |file| file.key.as_str()),
    );
    out
}

fn program(kit: &NewKit, url: &str, reach: Option<&Reach>) -> String {
    let Some(file) = kit.files.iter().find(|file| file.name == PROGRAM) else {
        return format!(
            "\n1. GET THE PROGRAM\n\n\
             None lies here. Take refloat {} or a later release from where your organisation has it, for Linux on this kind of\n\
             processor. It is one file and needs no installation.\n",
            kit.release
        );
    };
    format!(
        "\n1. GET THE PROGRAM\n\n\
         {} is refloat {} for Linux on {}: one file that needs nothing installed.\n\n\
         {}\n\
         \x20   chmod 755 refloat\n\n\
         COMPARE IT BEFORE YOU RUN IT. Whoever can write to this store can put a program here, and a {TEXT}, and could be\n\
         waiting for your key. Compare what this prints with the RECOVERY SHEET, not with this file:\n\n\
         \x20   sha256sum refloat\n\n\
         The one that was put here has {}.\n\
         Another one: do not run it; take refloat from where your organisation has it. The same with a sheet that was printed\n\
         before refloat was upgraded: an older program may lie in another directory below {}; try that first.\n",
        file.key,
        kit.release,
        std::env::consts::ARCH,
        fetch(url, file, reach.and_then(|reach| reach.endpoint.as_deref())),
        hex::encode(&file.sha256),
        layout::RESCUE,
    )
}

/// The line that fetches a file by what every host has, or the store's own client.
fn fetch(url: &str, file: &KitFile, endpoint: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.trim_end_matches('/');
    let (key, name) = (&file.key, &file.name);
    match scheme {
        "file" => format!("    cp {}/{key} ./{name}", quoted(&percent_decoded(rest))),
        "s3" => format!(
            "    aws s3 cp ${{AWS_ENDPOINT_URL_S3:+--endpoint-url \"$AWS_ENDPOINT_URL_S3\"}} s3://{rest}/{key} ./{name}"
        ),
        "gs" => format!("    gcloud storage cp gs://{rest}/{key} ./{name}"),
        "azblob" => {
            let (container, path) = rest.split_once('/').unwrap_or((rest, ""));
            let path = if path.is_empty() { key.to_string() } else { format!("{path}/{key}") };
            let at = endpoint
                .map_or_else(String::new, |endpoint| format!(" --blob-endpoint {}", quoted(endpoint)));
            format!(
                "    az storage blob download{at} --container-name {container} --name {path} --file {name}"
            )
        }
        "sftp" => format!("    sftp {}/{key} ./{name}", with_user(url)),
        "webdav" => format!("    curl --fail --user USER --output {name} http://{rest}/{key}"),
        "webdavs" => format!("    curl --fail --user USER --output {name} https://{rest}/{key}"),
        "dropbox" => format!("    with any client of Dropbox, from the folder {rest}: {key}"),
        "gdrive" => {
            format!("    with any client of Google Drive, from the folder {rest}: the file called {key}")
        }
        _ => format!("    with any client of this store: {key}"),
    }
}

/// A URL of SFTP with a place for whoever logs in: who that is stands in no kit.
fn with_user(url: &str) -> String {
    let (scheme, rest) = url.trim_end_matches('/').split_once("://").unwrap_or(("sftp", url));
    format!("{scheme}://USER@{rest}")
}

/// How an address is reached, by each host that has said it; by its URL alone where none has.
fn ways(kit: &NewKit, url: &str) -> Vec<Reach> {
    let place = |reach: Reach| Reach { address: with_place(url), ..reach };
    let known: Vec<Reach> =
        kit.reach.iter().filter(|reach| reach.address == url).cloned().map(place).collect();
    if known.is_empty() { vec![place(Reach::plain(url))] } else { known }
}

/// A URL as a person types it: SFTP has a place for whoever logs in.
fn with_place(url: &str) -> String {
    if url.starts_with("sftp://") { with_user(url) } else { url.to_owned() }
}

/// What the programs need to be told of the store, beside its URL; and, of another address than the first one, which words stand for
/// which below.
fn needs(way: &Way<'_>, title: &str, instead: Option<(String, &str)>) -> String {
    let indented = |lines: &[String]| lines.iter().map(|line| format!("    {line}\n")).collect::<String>();
    let listed = |lines: &[String]| lines.iter().map(|line| format!("- {line}\n")).collect::<String>();
    let (lines, mut about) = if way.needs_file() {
        let (lines, mut about) = way.file(FROM_SHEET);
        about.push("who may log in and by what stands nowhere in this kit".to_owned());
        (lines, about)
    } else {
        (way.exports(), way.about_exports())
    };
    if lines.is_empty() {
        return String::new();
    }
    if way.reach.is_plain() && way.reach.address.starts_with("s3://") {
        let unsaid =
            "AWS_REGION too, and AWS_ENDPOINT_URL_S3 where the store is not Amazon's own (https://host:port)";
        about.insert(0, unsaid.to_owned());
    }
    if let Some((instead, first)) = instead {
        about.push(format!("below  {instead}  instead of  {first}"));
    }
    let file = if way.needs_file() {
        let [directory, then] = Way::before_file();
        format!("    {directory}\n\n{then}\n\n")
    } else {
        String::new()
    };
    format!("\n{title}\n\n{file}{}\n{}", indented(&lines), listed(&about))
}

fn percent_decoded(path: &str) -> String {
    let decoded = refloat_store::file_path(&format!("file://{path}")).ok().flatten();
    decoded.map_or_else(|| path.to_owned(), |path| path.display().to_string())
}

fn quoted(path: &str) -> String {
    crate::render::text::shell(path)
}

fn key(repository: &Repository, by_file: bool) -> String {
    let generation = repository.generation();
    let what = if generation.recipients.is_empty() {
        "This repository is not encrypted: there is no key, and whoever can read the store can read the databases.".to_owned()
    } else if generation.has_passphrase {
        "The program asks for the passphrase on the recovery sheet, and shows the fingerprint of the repository first: it must\n\
         be the one on the sheet. Without a terminal: --passphrase-file FILE."
            .to_owned()
    } else {
        let recipients: Vec<&str> = generation.recipients.iter().map(|one| one.as_str()).collect();
        format!(
            "It opens with the private key (AGE-SECRET-KEY-1…) of one of these:\n\n    {}\n\n\
             The program asks for that line, and shows the fingerprint of the repository first: it must be the one on the\n\
             recovery sheet. Without a terminal: --passphrase-file FILE, with that line in it.",
            recipients.join("\n    ")
        )
    };
    let by_file = if by_file && !generation.recipients.is_empty() {
        "\nWith rescue.toml it asks for nothing: the key is in the file that `encryption` names there."
    } else {
        ""
    };
    format!("\n2. HAVE THE KEY\n\n{what}{by_file}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_the_format_is_in_the_kit() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/format");
        let entries = std::fs::read_dir(directory).expect("the book");
        for name in entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()) {
            assert!(PAGES.iter().any(|(page, _)| *page == name), "{name} is not in the rescue kit");
        }
        let format = format();
        assert!(PAGES.iter().all(|(_, page)| format.contains(page)));
    }

    #[test]
    fn the_program_is_fetched_as_the_store_wants_it() {
        let key = "rescue/0000000001/refloat".parse().expect("a key");
        let file = KitFile { name: PROGRAM.to_owned(), key, size: 1, sha256: [0; 32] };
        for (url, line) in [
            ("file:///backup/db%201", "cp '/backup/db 1'/rescue/0000000001/refloat ./refloat"),
            (
                "s3://bucket/pg/",
                "aws s3 cp ${AWS_ENDPOINT_URL_S3:+--endpoint-url \"$AWS_ENDPOINT_URL_S3\"} s3://bucket/pg/rescue/0000000001/refloat ./refloat",
            ),
            (
                "azblob://box/pg",
                "az storage blob download --container-name box --name pg/rescue/0000000001/refloat --file refloat",
            ),
            ("sftp://host:22/pg", "sftp sftp://USER@host:22/pg/rescue/0000000001/refloat ./refloat"),
            (
                "dropbox://app/pg",
                "with any client of Dropbox, from the folder app/pg: rescue/0000000001/refloat",
            ),
            (
                "gdrive://pg",
                "with any client of Google Drive, from the folder pg: the file called rescue/0000000001/refloat",
            ),
        ] {
            assert_eq!(fetch(url, &file, None).trim(), line);
        }
        let own = fetch("azblob://box/pg", &file, Some("https://own:10000/acme"));
        assert!(
            own.contains("download --blob-endpoint https://own:10000/acme --container-name box"),
            "{own}"
        );
    }

    #[test]
    fn what_a_store_wants_to_be_told_names_it_and_nobody() {
        let generation = crate::reach::tests::generation(0, false);
        let needs = |url: &str| {
            let kit = NewKit {
                number: 1,
                release: String::new(),
                addresses: vec![url.to_owned()],
                reach: Vec::new(),
                sources: Vec::new(),
                files: Vec::new(),
            };
            needs(&Way { reach: &ways(&kit, url)[0], generation: &generation }, "THE STORE", None)
        };
        let sftp = needs("sftp://backup.example.net/pg");
        assert!(sftp.contains("url = \"sftp://USER@backup.example.net/pg\"\n"), "{sftp}");
        let webdav = needs("webdavs://backup.example.net/pg");
        assert!(webdav.contains("url = \"webdavs://backup.example.net/pg\"\n"), "{webdav}");
        for (url, variable) in [
            ("s3://b", "AWS_ENDPOINT_URL_S3"),
            ("gs://b", "CLOUDSDK_AUTH_ACCESS_TOKEN"),
            ("azblob://b", "AZURE_STORAGE_SAS_TOKEN"),
        ] {
            assert!(needs(url).contains(variable), "{url}");
        }
        assert_eq!(needs("file:///pg"), "");
    }
}
