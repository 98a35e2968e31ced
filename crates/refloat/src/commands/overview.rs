//! Bare `refloat`: what is protected here, to when, what is wrong, and where to begin.

use std::path::Path;

use refloat_pg::server::read_pg_version;
use refloat_types::{ByteSize, Clock as _};

use super::list::prepare_reading;
use super::status::{Found, find_out, findings_text, window_text};
use crate::Outcome;
use crate::context::Context;
use crate::error::Failure;
use crate::render::text::table;
use crate::render::time;

/// Does it.
pub(crate) fn run(mut context: Context) -> Result<Outcome, Failure> {
    if context.config.is_none() && !context.is_ad_hoc()? {
        return Ok(unprotected(&context));
    }
    prepare_reading(&mut context, None)?;
    let found = find_out(&context, None)?;
    let now = context.clock.now();
    let mut out = format!(
        "refloat {} on {}    {}\n",
        env!("CARGO_PKG_VERSION"),
        context.host,
        time::with_utc(refloat_types::Timestamp::from_second(now.as_second()).unwrap_or(now))
    );
    out.push_str(&sources(&found, now));
    out.push_str(&findings_text(&found));
    let command = context.command();
    out.push_str(&format!(
        "\nSomething lost or broken?  {command} restore SOURCE 'TIME' --to DIR --as copy   (beside the server; changes nothing there)\n\
         Is all well?  {command} check       More:  refloat help\n"
    ));
    context.out.text(&out);
    context.out.document(&serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "host": context.host, "now": now,
        "sources": found.sources, "findings": found.findings,
    }));
    Ok(Outcome::Done)
}

fn sources(found: &Found, now: refloat_types::Timestamp) -> String {
    let rows: Vec<Vec<String>> = found
        .sources
        .iter()
        .map(|facts| {
            let version = facts.server_version.as_deref().unwrap_or_default();
            let what = match (facts.backups, facts.any_moment) {
                (0, _) => "not protected yet".to_owned(),
                (_, true) => "recoverable to any moment".to_owned(),
                (1, false) => "recoverable to 1 point".to_owned(),
                (backups, false) => format!("recoverable to {backups} points or more"),
            };
            let twice = found.sources.iter().filter(|other| other.source == facts.source).count() > 1;
            let place = if twice { format!(" in {}", facts.repository) } else { String::new() };
            vec![
                format!("  {}{place}", facts.source),
                format!("PostgreSQL {version}").trim_end().to_owned(),
                if facts.source_bytes == 0 {
                    String::new()
                } else {
                    ByteSize(facts.source_bytes).to_string()
                },
                what,
                if facts.backups == 0 { String::new() } else { window_text(facts, now) },
            ]
        })
        .collect();
    table(&rows, &[2])
}

/// What is found on a host without a configuration.
fn unprotected(context: &Context) -> Outcome {
    let clusters = clusters();
    let found: Vec<String> = clusters
        .iter()
        .map(|cluster| {
            let port = cluster.port.map_or_else(|| "stopped".to_owned(), |port| format!("port {port}"));
            format!("PostgreSQL {}/{} ({port}, {})", cluster.version, cluster.name, cluster.data_directory)
        })
        .collect();
    let found = if found.is_empty() { "no PostgreSQL cluster".to_owned() } else { found.join(", ") };
    let example =
        clusters.first().map_or("/var/lib/postgresql/15/main", |cluster| cluster.data_directory.as_str());
    context.out.text(&format!(
        "Nothing is protected on this host. Found: {found}.\n\n\
         Begin:  write {}\n\n\
         \x20 [repository.backup]\n\
         \x20 url = \"file:///backup/db1\"\n\
         \x20 encryption = {{ passphrase = {{ file = \"/etc/refloat/passphrase\" }} }}\n\n\
         \x20 [source.prod]\n\
         \x20 kind = \"postgres\"\n\
         \x20 data_directory = \"{example}\"\n\n\
         then:   sudo refloat init,  sudo refloat check,  sudo refloat backup\n\
         See it first, on a throw-away cluster:  refloat demo       More:  refloat help\n",
        context.config_file.display()
    ));
    context.out.document(&serde_json::json!({ "configuration": null, "clusters": clusters }));
    Outcome::Done
}

#[derive(serde::Serialize)]
struct Cluster {
    version: u32,
    name: String,
    data_directory: String,
    port: Option<u16>,
}

/// Clusters in the places that packages use.
fn clusters() -> Vec<Cluster> {
    let mut found = Vec::new();
    let mut look = |data: &Path, name: &str| {
        if let Ok(version) = read_pg_version(data) {
            let port = refloat_pg::server::listening(data).ok().and_then(|file| file.port);
            found.push(Cluster {
                version,
                name: name.to_owned(),
                data_directory: data.display().to_string(),
                port,
            });
        }
    };
    let names = |directory: &Path| {
        let mut all: Vec<_> =
            std::fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
        all.sort();
        all
    };
    for version in names(Path::new("/var/lib/postgresql")) {
        for cluster in names(&version) {
            look(&cluster, &cluster.file_name().unwrap_or_default().to_string_lossy());
        }
    }
    for version in names(Path::new("/var/lib/pgsql")) {
        look(&version.join("data"), "data");
    }
    found
}
