//! The story of a verification.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{Marked, Uses};
use refloat_repo::{RepoError, Repository};
use refloat_types::{BackupId, ObjectId, SourceId, SystemIdentifier, WalFileName};

use super::backups::Known;
use super::census::{self, Census, CommitKeys};
use super::chain::Cluster;
use super::ledger::Ledger;
use super::report::{BackupVerdict, Depends, FindingKind, ObjectCounts, VerifyReport, WalVerdict};
use super::{Scope, SourceRef, VerifyError, VerifyRequest, Which};
use crate::guard::{self, GuardRequest, SinceBoot};

/// What is known of a source.
#[derive(Debug, Default)]
pub(super) struct SourceView {
    pub(super) name: Option<String>,
    system: Option<SystemIdentifier>,
}

/// A verification on its way.
pub(super) struct Run<'a> {
    pub(super) request: &'a VerifyRequest<'a>,
    pub(super) repository: &'a Repository,
    pub(super) ledger: Ledger,
    pub(super) census: Census,
    pub(super) sources: BTreeMap<SourceId, SourceView>,
    /// Commits by their names, of every source in scope.
    pub(super) commit_keys: CommitKeys,
    /// Backups that are looked at.
    pub(super) backups: Vec<Known>,
    /// Packs that no backup names.
    pub(super) unneeded: Vec<ObjectId>,
    pub(super) clusters: BTreeMap<SystemIdentifier, Cluster>,
    pub(super) wal_verdicts: Vec<WalVerdict>,
    /// What was deleted on purpose, or will be.
    pub(super) marked: Marked,
}

/// Proves what can be proved of what is stored, and says what was not. Meanwhile a pin keeps all of it from being deleted,
/// where this host can write one: what goes while it is looked at might seem damaged.
///
/// # Errors
/// When the store does not answer or this host ran out of something: then nothing was proved. What is wrong with the
/// repository is no error but a finding.
pub fn verify(request: &VerifyRequest<'_>) -> Result<VerifyReport, VerifyError> {
    let began = Instant::now();
    let _guard = guard::as_it_is(request.repository, &pin(request))?;
    let mut run = Run {
        request,
        repository: request.repository,
        ledger: Ledger::default(),
        census: Census::default(),
        sources: BTreeMap::new(),
        commit_keys: CommitKeys::new(),
        backups: Vec::new(),
        unneeded: Vec::new(),
        clusters: BTreeMap::new(),
        wal_verdicts: Vec::new(),
        marked: Marked::default(),
    };
    request.progress.phase("objects", 0);
    run.check_marker()?;
    run.check_agents()?;
    run.find_sources()?;
    let chosen = run.choose()?;
    run.read_commits(chosen)?;
    run.take_census()?;
    run.check_recipients()?;
    run.check_sources()?;
    run.check_retention()?;
    if run.is_whole() {
        run.check_confirmations()?;
        run.check_invitations()?;
        run.check_operations()?;
        run.check_kits()?;
        run.find_unneeded();
        run.check_commit_numbers();
    }
    run.check_packs()?;
    run.check_manifests()?;
    run.check_wal()?;
    run.check_envelopes()?;
    run.check_unknown()?;
    run.report_unneeded();
    Ok(run.finish(began))
}

fn pin<'a>(request: &VerifyRequest<'a>) -> GuardRequest<'a> {
    GuardRequest {
        operation: "verify",
        backup: None,
        uses: Uses::Repository,
        host: request.host,
        now: request.now,
        uptime: Arc::new(SinceBoot),
        renew: true,
    }
}

impl Run<'_> {
    /// Whether everything in the repository is looked at.
    pub(super) fn is_whole(&self) -> bool {
        self.request.scope == Scope::Repository
    }

    /// How a source is called: its name, or its id where that cannot be read.
    pub(super) fn source_name(&self, id: SourceId) -> String {
        self.sources.get(&id).and_then(|view| view.name.clone()).unwrap_or_else(|| id.to_string())
    }

    fn find_sources(&mut self) -> Result<(), VerifyError> {
        let mut described: BTreeMap<SourceId, BTreeSet<u64>> = BTreeMap::new();
        let store = self.repository.store();
        let listed = store.list(layout::SOURCES, &mut |info| {
            if let Some(Named::Source(id, number)) = Named::parse(&info.key) {
                described.entry(id).or_default().insert(number);
            }
            ControlFlow::Continue(())
        });
        listed.map_err(RepoError::from)?;
        for (id, numbers) in described {
            let info = self.newest_description(id, &numbers)?;
            let name = info.as_ref().and_then(|info| info.description.as_ref());
            let view = SourceView {
                name: name.map(|description| description.name.to_string()),
                system: info.as_ref().and_then(|info| info.system),
            };
            self.sources.insert(id, view);
        }
        Ok(())
    }

    /// Lists commits, and answers those that shall be looked at.
    fn choose(&mut self) -> Result<Vec<(SourceId, u64, BackupId)>, VerifyError> {
        let all = |keys: &CommitKeys| {
            let of = |(id, commits): (&SourceId, &BTreeSet<(u64, BackupId)>)| {
                let id = *id;
                commits.clone().into_iter().map(move |(number, backup)| (id, number, backup))
            };
            keys.iter().flat_map(of).collect::<Vec<_>>()
        };
        let Scope::Source(source, which) = &self.request.scope else {
            self.commit_keys = census::commits(self.repository, None)?;
            return Ok(all(&self.commit_keys));
        };
        let id = self.resolve(source)?;
        self.commit_keys = census::commits(self.repository, Some(id))?;
        let mut chosen = all(&self.commit_keys);
        match which {
            Which::All => {}
            Which::Latest => drop(chosen.drain(..chosen.len().saturating_sub(1))),
            Which::Backup(backup) => {
                chosen.retain(|(_, _, id)| id == backup);
                if chosen.is_empty() {
                    return Err(VerifyError::NoSuchBackup {
                        store: self.repository.store().describe().to_owned(),
                        source_name: self.source_name(id),
                        backup: *backup,
                    });
                }
            }
        }
        Ok(chosen)
    }

    fn resolve(&self, source: &SourceRef) -> Result<SourceId, VerifyError> {
        let found = match source {
            SourceRef::Id(id) => self.sources.contains_key(id).then_some(*id),
            SourceRef::Name(name) => {
                let named =
                    |(_, view): &(&SourceId, &SourceView)| view.name.as_deref() == Some(name.as_str());
                self.sources.iter().find(named).map(|(id, _)| *id)
            }
        };
        found.ok_or_else(|| VerifyError::NoSuchSource {
            store: self.repository.store().describe().to_owned(),
            source_name: match source {
                SourceRef::Id(id) => id.to_string(),
                SourceRef::Name(name) => name.to_string(),
            },
            unreadable: self.sources.values().filter(|view| view.name.is_none()).count(),
        })
    }

    fn take_census(&mut self) -> Result<(), VerifyError> {
        self.census = match &self.request.scope {
            Scope::Repository => Census::of_all(self.repository)?,
            Scope::Source(source, _) => {
                let id = self.resolve(source)?;
                let mut systems: BTreeSet<SystemIdentifier> =
                    self.backups.iter().map(|backup| backup.record.commit.cluster.system).collect();
                systems.extend(self.sources.get(&id).and_then(|view| view.system));
                let what = "other sources, operation records, and what no backup of this source needs";
                self.ledger.not_proved.insert(what.to_owned());
                Census::of_source(self.repository, id, &systems)?
            }
        };
        Ok(())
    }

    /// Whether a WAL file is looked at.
    pub(super) fn wants(&self, system: SystemIdentifier, name: WalFileName) -> bool {
        let segment = match name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => segment,
            WalFileName::History(_) | WalFileName::BackupHistory(..) => return true,
        };
        let which = match &self.request.scope {
            Scope::Repository | Scope::Source(_, Which::All) => return true,
            Scope::Source(_, which) => which,
        };
        self.backups.iter().any(|backup| {
            let point = &backup.record.commit.cluster;
            let Some(size) = refloat_types::WalSegmentSize::new(point.wal_segment_size) else { return true };
            let number = segment.number(size);
            let from = point.start_lsn.0 / size.bytes();
            let to = point.stop_lsn.0.saturating_sub(1) / size.bytes();
            point.system == system && number >= from && (*which == Which::Latest || number <= to)
        })
    }

    /// Numbers of commits are dense, but for those that expired.
    fn check_commit_numbers(&mut self) {
        for (source, commits) in self.commit_keys.clone() {
            let name = self.source_name(source);
            let last = commits.last().map_or(0, |(number, _)| *number);
            let holes = super::chain::holes(1, last, commits.iter().map(|(number, _)| *number));
            let lost = holes.into_iter().flat_map(|(first, behind)| {
                self.marked.other_commits(source, first, behind.saturating_sub(1))
            });
            for (first, behind) in lost.map(|(first, last)| (first, last + 1)).collect::<Vec<_>>() {
                let object = format!("{}{first:010}", layout::commits(source));
                let what = format!("{} commits from number {first} on are not there", behind - first);
                let finding = self.ledger.add(FindingKind::Missing, object, what);
                finding.depends.merge(Depends::other(format!("backups of {name}")));
            }
        }
        for (source, _) in self.commit_keys.clone() {
            let name = self.source_name(source);
            if !self.census.descriptions.contains_key(&source) {
                let object = layout::generation(&layout::source_generations(source), 1);
                let finding = self.ledger.add(FindingKind::Missing, object.as_str(), "it is not there");
                finding.depends.merge(Depends::other(format!("what source {name} is called")));
            }
            if !self.census.owners.contains_key(&source) {
                let object = layout::generation(&layout::owners(source), 1);
                let finding = self.ledger.add(FindingKind::Missing, object.as_str(), "it is not there");
                finding.depends.merge(Depends::other(format!("which server source {name} is")));
            }
        }
    }

    fn find_unneeded(&mut self) {
        let named: BTreeSet<ObjectId> =
            self.backups.iter().flat_map(|backup| backup.record.packs.iter().map(|pack| pack.id)).collect();
        self.unneeded = self.census.packs.keys().filter(|pack| !named.contains(pack)).copied().collect();
        self.unneeded.sort_unstable();
    }

    fn report_unneeded(&mut self) {
        let commits: usize = self.commit_keys.values().map(BTreeSet::len).sum();
        let unread = commits - self.backups.len().min(commits);
        for pack in std::mem::take(&mut self.unneeded) {
            self.ledger.present += 1;
            let what = match unread {
                0 => "no backup needs it: one is being made, or one died before its commit".to_owned(),
                count => {
                    format!("no backup needs it, as far as is known: {count} commits cannot be believed")
                }
            };
            let finding = self.ledger.add(FindingKind::NotNeeded, layout::pack(pack).to_string(), what);
            finding.depends.merge(Depends::other("no backup that is known here"));
        }
    }

    fn finish(mut self, began: Instant) -> VerifyReport {
        self.ledger.settle(self.repository.agent());
        let mut not_proved = std::mem::take(&mut self.ledger.not_proved);
        // Without an identity nothing could be opened, whatever was asked for.
        let read_data = self.request.read_data && self.repository.can_read();
        if !read_data {
            not_proved.insert("that bytes of files and WAL are right (--read-data)".to_owned());
        }
        not_proved.insert("that PostgreSQL starts with it (--restore)".to_owned());
        not_proved.insert("that the last record of each kind was not taken away".to_owned());
        let objects = ObjectCounts {
            expected: self.ledger.present + self.ledger.missing,
            present: self.ledger.present,
        };
        let bytes_read = self.ledger.bytes_read;
        let (cold_packs, cold_bytes) = self.ledger.cold;
        let (findings, findings_left_out) = self.ledger.finish();
        let verdict = |backup: &Known| {
            let hits = |set: fn(&Depends) -> &BTreeSet<super::BackupName>| {
                findings.iter().any(|finding| set(&finding.depends).contains(&backup.name))
            };
            let restorable = !hits(|depends| &depends.backups);
            BackupVerdict {
                name: backup.name.clone(),
                restorable,
                recoverable: restorable && !hits(|depends| &depends.recovery),
                manifest_read: backup.manifest.as_ref().is_some_and(|seen| seen.whole),
                entries: backup.record.commit.sizes.entries,
                bytes: backup.record.commit.sizes.source,
            }
        };
        let backups = self.backups.iter().map(verdict).collect();
        VerifyReport {
            objects,
            read_data,
            bytes_read,
            cold_packs,
            cold_bytes,
            backups,
            wal: self.wal_verdicts,
            findings,
            findings_left_out,
            not_proved: not_proved.into_iter().collect(),
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}
