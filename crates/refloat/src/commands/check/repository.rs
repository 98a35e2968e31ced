//! Stores and keys.

use std::time::{Duration, Instant};

use refloat_config::{Encryption, RepositoryConfig, SourceConfig};
use refloat_repo::repository::KitWrong;
use refloat_store::Conditional;
use refloat_types::ByteSize;

use super::{Lines, bucket};
use crate::asking::{Waiting, read_each};
use crate::commands::key::{confirmation, named, prove, unencrypted};
use crate::context::abilities::shortcomings;
use crate::context::{Access, Opened};
use crate::error::Failure;
use crate::healing;
use crate::render::time;
use crate::rescue::{self, Look, Stored};

/// How long a store may take for each call.
const PATIENCE: Duration = Duration::from_secs(15);

/// Looks at every repository of these sources; answers those that can be used.
pub(super) fn check_all(lines: &mut Lines<'_>, sources: &[SourceConfig]) -> Result<Vec<Opened>, Failure> {
    let mut configs: Vec<RepositoryConfig> = Vec::new();
    for source in sources {
        for config in lines.context().repositories(Some(source))? {
            if configs.iter().all(|known| known.name != config.name) {
                configs.push(config);
            }
        }
    }
    let mut opened = Vec::new();
    let access = Access::Soon { first: PATIENCE / 2, then: PATIENCE };
    for (config, result) in read_each(lines.context(), configs, access, |_| Ok(())) {
        let about = format!("repository {}", config.name);
        match result {
            Err(failure) => lines.failure(about, &failure),
            Ok((one, ())) => {
                let _waiting = Waiting::on(lines.context().out, config.name.as_str());
                check(lines, &config, &one, &about);
                opened.push(one);
            }
        }
    }
    Ok(opened)
}

fn check(lines: &mut Lines<'_>, config: &RepositoryConfig, opened: &Opened, about: &str) {
    let began = Instant::now();
    let store = opened.repository.store();
    match lines.context().try_store(config, Access::Within(PATIENCE)) {
        Err(failure) => lines.failure(about, &failure),
        Ok(abilities) => {
            let free = store
                .space()
                .ok()
                .flatten()
                .map_or_else(String::new, |space| format!(", {} free", ByteSize(space.free)));
            let conditional = abilities.conditional == Conditional::Refuses;
            let what = format!(
                "{}: write, read, list{}{} proven; {} ms{free}",
                config.url,
                if abilities.deletes { ", delete" } else { "" },
                if conditional { ", conditional create" } else { "" },
                began.elapsed().as_millis()
            );
            lines.ok(about, what);
            // Others need not be careful with it any more.
            lines.context().note_answer(config.name.as_str(), Ok(()));
            for said in shortcomings(&abilities) {
                lines.warn(about, said, "");
            }
            bucket::check(lines, config, opened, abilities.deletes);
        }
    }
    let name = &config.name;
    match opened.repository.store().head(&refloat_repo::layout::agent(opened.repository.agent())) {
        Ok(Some(_)) => {}
        Ok(None) => lines.fault(
            format!("host in {name}"),
            "this host is not enrolled: nothing that it writes would be believed",
            format!("{} init", lines.context().command()),
        ),
        Err(error) => lines.failure(format!("host in {name}"), &Failure::from(error)),
    }
    kit(lines, config, opened);
    if !opened.repository.is_encrypted() {
        let key = format!("key {name}");
        if matches!(config.encryption, Encryption::None) {
            lines.warn(key, "the repository is not encrypted", "");
        } else {
            let turn_on = format!("{} -r {name} key rotate", lines.context().command());
            lines.fault(
                key,
                "the configuration says that the repository is encrypted, and it is not",
                turn_on,
            );
        }
        return;
    }
    if opened.repository.is_left_behind() {
        let what = "who can read was changed elsewhere: this host writes on, and cannot read what is newer";
        lines.warn(format!("key {name}"), what, format!("{} init", lines.context().command()));
    }
    let opens = agree(lines, config, opened);
    match unencrypted(opened) {
        Ok(None) => {}
        Ok(Some(what)) => lines.warn(format!("key {name}"), what, ""),
        Err(failure) => lines.failure(format!("key {name}"), &failure),
    }
    match confirmation(opened) {
        _ if !opened.repository.needs_confirmation() => lines.ok(
            format!("key {name}"),
            format!(
                "this host only writes, and keeps nothing that opens it; fingerprint {}",
                opened.repository.fingerprint()
            ),
        ),
        // What was shown then is not what is there now.
        Ok(Some(shown)) if !opens => lines.look(
            format!("key {name}"),
            format!(
                "somebody has shown at {} what opens it: make sure that this is still kept",
                time::moment(shown.at)
            ),
            format!("{} key confirm", lines.context().command()),
        ),
        Ok(Some(_)) => lines.ok(
            format!("key {name}"),
            format!("kept, as somebody has shown; fingerprint {}", opened.repository.fingerprint()),
        ),
        Ok(None) => lines.look(
            format!("key {name}"),
            "no one has shown that the recovery sheet is kept",
            format!("{} key confirm", lines.context().command()),
        ),
        Err(failure) => lines.failure(format!("key {name}"), &failure),
    }
}

/// The rescue kit: put there if need be, then compared byte by byte.
fn kit(lines: &mut Lines<'_>, config: &RepositoryConfig, opened: &Opened) {
    let about = format!("rescue {}", config.name);
    rescue::keep(lines.context(), opened, Look::Now);
    healing::keep_copies(lines.context(), opened);
    let looked = opened.repository.kits().and_then(|kits| Ok((opened.repository.inspect_kits(&kits)?, kits)));
    let (findings, kits) = match looked {
        Ok(looked) => looked,
        Err(error) => return lines.failure(about, &Failure::from(error)),
    };
    let missing = findings.iter().any(|finding| finding.wrong == KitWrong::Missing);
    for finding in &findings {
        let (what, mend) = match finding.wrong {
            KitWrong::Foreign | KitWrong::Changed => (
                "whoever recovers must not run it or give it a key",
                "find out who can write to this store, then delete it there; `backup` puts what is missing",
            ),
            KitWrong::Missing => ("the kit is not whole", "run `backup`, and see what it says"),
        };
        lines.fault(about.clone(), format!("{}: {}; {what}", finding.key, finding.what), mend);
    }
    match kits.newest() {
        None => lines.warn(about, "there is no rescue kit in this repository", "run `backup`, and see what it says"),
        Some(_) if missing => {}
        Some(kit) => match Stored::of(kit) {
            Some(stored) => lines.ok(
                about,
                format!("{} is refloat {}; sha256 {}, as on the recovery sheet?", stored.key, stored.release, stored.sha256),
            ),
            None => lines.warn(
                about,
                "the rescue kit holds no program, because the one that runs here needs libraries of this host",
                "use a released refloat, which is linked statically (scripts/build-release makes one); `backup` then puts it there",
            ),
        },
    }
}

/// Whether the configuration opens, and seals to, what the repository is sealed to now. Answers `false` where what it names to open
/// it was tried and does not.
fn agree(lines: &mut Lines<'_>, config: &RepositoryConfig, opened: &Opened) -> bool {
    let (about, generation) = (format!("key {}", config.name), opened.repository.generation());
    let tried = match named(lines.context(), config, opened) {
        Ok(read) => prove(opened, read).map(drop),
        Err(failure) if matches!(config.encryption, Encryption::None) => Err(failure),
        // A secret that cannot be read, and recipients that are others, are told of elsewhere.
        Err(_) => Ok(()),
    };
    let opens = tried.is_ok();
    if let Err(failure) = tried {
        lines.failure(about.clone(), &failure);
    }
    let Encryption::Recipients { recipients, .. } = &config.encryption else { return opens };
    let sealed: Vec<&str> = generation.recipients.iter().map(|one| one.as_str()).collect();
    let same =
        sealed.len() == recipients.len() && recipients.iter().all(|one| sealed.contains(&one.as_str()));
    if !same {
        let what = format!(
            "backups are sealed to {}, and the configuration names others: correct `recipients`, or rotate to them",
            sealed.join(", ")
        );
        lines.warn(about, what, format!("{} -r {} key rotate", lines.context().command(), config.name));
    }
    opens
}
