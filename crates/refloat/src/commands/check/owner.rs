//! Whether the data directory holds the source's cluster, and whether another server writes WAL beside the owner's.

use refloat_config::SourceConfig;
use refloat_engine::wal::{Archive, GoesOn, KnownSource};
use refloat_pg::control::read_settled;

use super::Lines;
use crate::context::Opened;
use crate::error::Failure;
use crate::facts::{goes_on, other_cluster, recent};

/// Looks at what each repository knows of the source.
pub(super) fn check(lines: &mut Lines<'_>, source: &SourceConfig, opened: &[&Opened]) {
    for one in opened {
        let about = format!("owner {}", source.name);
        let (known, go_on) = match look(one, source) {
            Err(failure) => {
                lines.failure(about, &failure);
                continue;
            }
            // There is no backup yet.
            Ok(None) => continue,
            Ok(Some(found)) => found,
        };
        if let Some(what) = left_behind(source, &known) {
            let mend = format!(
                "{} restore {} --in-place --as standby --delta     with its server stopped",
                lines.context().command(),
                source.name
            );
            lines.fault(about, what, mend);
            continue;
        }
        let other = other_cluster(source, known.system);
        let context = lines.context();
        let go_on = recent(context, go_on).map(|it| goes_on(context, source.name.as_str(), &it));
        let findings: Vec<_> = other.into_iter().chain(go_on).collect();
        let quiet = findings.is_empty();
        for finding in findings {
            lines.fault(about.clone(), finding.what, finding.mend.unwrap_or_default());
        }
        if let Some(owner) = known.owner.filter(|_| quiet) {
            let what =
                format!("cluster {}, timeline {}, as {} knows it", owner.system, owner.timeline, one.name);
            lines.ok(about, what);
        }
    }
}

/// That the standby in a data directory follows what the source has left.
fn left_behind(source: &SourceConfig, known: &KnownSource) -> Option<String> {
    let directory = &source.data_directory;
    let (control, _) = read_settled(directory).ok().filter(|_| directory.join("standby.signal").exists())?;
    let timeline = control.min_recovery_timeline.unwrap_or(control.checkpoint.timeline);
    let at = control.min_recovery_point?;
    let left = known.left(control.system_identifier, timeline).filter(|left| left.is_passed(at))?;
    Some(format!(
        "this standby follows timeline {timeline}, which {} left for timeline {}: it is not backed up, and must not take over",
        source.name, left.owner
    ))
}

fn look(opened: &Opened, source: &SourceConfig) -> Result<Option<(KnownSource, Vec<GoesOn>)>, Failure> {
    let repository = &opened.repository;
    let Some(known) = KnownSource::read(repository, &source.name)? else { return Ok(None) };
    let go_on = match known.system {
        Some(system) => known.all_that_go_on(repository, &Archive::read(repository, system, None)?)?,
        None => Vec::new(),
    };
    Ok(Some((known, go_on)))
}
