//! `show BACKUP`.

use clap::Args;
use refloat_repo::commit::CommitRecord;
use refloat_types::{BackupId, ByteSize};

use super::list::{Listed, live_bytes, locks_of, prepare_reading, source_name, sources_of};
use crate::Outcome;
use crate::asking::open_all;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::render::time;

/// Show what is known of a backup
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its id, as `refloat list` prints it
    #[arg(value_name = "BACKUP")]
    backup: String,
}

impl Show {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let id: BackupId = self.backup.parse().map_err(|error: refloat_types::id::BadId| {
            CliError::usage(
                error.to_string(),
                "Ids are a letter and seven letters or digits; refloat list shows them.",
            )
        })?;
        prepare_reading(&mut context, None)?;
        for opened in open_all(&context, Access::ASKED)? {
            for source in sources_of(&context, &opened, None)? {
                if let Some(record) = opened.repository.find_commit(source.id, id)? {
                    return tell(&context, &opened, &source_name(&source), &record);
                }
            }
        }
        let place = context.global.repository.clone().unwrap_or_else(|| "the repositories".to_owned());
        Err(CliError::NoBackup { id: self.backup, source_name: "any source".to_owned(), place }.into())
    }
}

fn tell(context: &Context, opened: &Opened, source: &str, record: &CommitRecord) -> Result<Outcome, Failure> {
    let commit = &record.commit;
    let names = opened.repository.read_commit_names(record).ok();
    let point = &commit.cluster;
    let major = point.server_version / 10_000;
    let minor = point.server_version % 10_000;
    let mut out =
        format!("backup {} of {source}, {} number {}\n", commit.backup, commit.kind.as_str(), commit.number);
    let mut line = |label: &str, text: String| out.push_str(&format!("  {label:<14}{text}\n"));
    line("repository", opened.name.clone());
    if let Some(parent) = commit.parent {
        line("since", format!("{parent}; it can be restored without that one"));
    }
    line("made", format!("{} … {}", time::moment(commit.started), time::moment(commit.finished)));
    line("restorable", format!("from {} on", time::exact(point.stop_time)));
    line(
        "server",
        format!(
            "PostgreSQL {major}.{minor}, cluster {}, timeline {}{}",
            point.system,
            point.timeline,
            if point.standby { ", a standby" } else { "" }
        ),
    );
    line(
        "WAL",
        format!(
            "{} … {}, {}",
            point.start_lsn,
            point.stop_lsn,
            if commit.own_wal { "in the backup" } else { "in the archive" }
        ),
    );
    line(
        "size",
        format!(
            "{} in {} files, {} of them read, {} stored; it needs {} in {} packs",
            ByteSize(commit.sizes.source),
            commit.sizes.entries,
            ByteSize(commit.sizes.read),
            ByteSize(commit.sizes.stored),
            ByteSize(live_bytes(record)),
            record.packs.len()
        ),
    );
    let locks = locks_of(context, opened, std::iter::once(record));
    let locked = locks.get(&commit.backup).copied();
    if let Some(end) = locked {
        let text = format!("until {}: the store lets nobody destroy what it needs", time::moment(end));
        line("locked", text);
    }
    line(
        "checksums",
        if point.checksums {
            "every page that was read is verified".to_owned()
        } else {
            "the cluster has none".to_owned()
        },
    );
    if let Some(names) = &names {
        line("host", format!("{}: {}", names.host, names.data_directory));
        for (name, bytes) in &names.databases {
            line("database", format!("{name}  {}", ByteSize(*bytes)));
        }
        if let Some(label) = &names.label {
            line("label", label.clone());
        }
        for (path, block) in &names.bad_pages {
            line("! damaged", format!("block {block} in {path}"));
        }
    }
    line(
        "restore",
        format!(
            "{} restore {source} {} --target immediate --to /new/directory",
            context.command(),
            commit.backup
        ),
    );
    context.out.text(&out);
    let mut listed = Listed::new(opened, source, record, names.as_ref());
    listed.locked_until = locked;
    context
        .out
        .document(&serde_json::json!({ "backup": listed, "names": names, "packs": record.packs.len() }));
    Ok(Outcome::Done)
}
