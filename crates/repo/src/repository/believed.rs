//! Which sources can be used. Whoever can add objects can put anything below `sources/`: that must not touch any source but the
//! one it lies in, and must not make an older description of that one pass for its newest.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use refloat_store::{Key, StoreErrorKind};
use refloat_types::{SourceId, SourceName, SystemIdentifier};

use super::{Repository, SourceInfo, is_damage};
use crate::error::RepoError;
use crate::layout::{self, Named};

/// A source as it was found.
#[derive(Debug)]
pub enum SeenSource {
    /// Its newest description is one of ours.
    Usable(SourceInfo),
    /// Ours has described it, and what lies above that cannot be believed: to go by the older one would be a way back.
    Covered {
        /// What was said of it last; without a description where not even that can be read.
        last: SourceInfo,
        /// What lies above.
        key: Key,
        /// Why that is not believed.
        error: RepoError,
    },
    /// Nothing in it was ever ours.
    Strange {
        /// The newest in it.
        key: Key,
        /// Why that is not believed.
        error: RepoError,
    },
}

/// Whether a source is the one that is asked for.
enum Asked {
    Yes,
    /// It does not say.
    Perhaps,
    No,
}

impl Repository {
    /// Every source, each as it was found.
    ///
    /// # Errors
    /// When the store cannot list, or does not answer.
    pub fn see_sources(&self) -> Result<Vec<SeenSource>, RepoError> {
        let mut generations: BTreeMap<SourceId, BTreeSet<u64>> = BTreeMap::new();
        self.store.list(layout::SOURCES, &mut |info| {
            // What bears no generation's name is none, whatever it holds.
            if let Some(Named::Source(id, number)) = Named::parse(&info.key) {
                generations.entry(id).or_default().insert(number);
            }
            ControlFlow::Continue(())
        })?;
        generations.into_iter().filter_map(|(id, numbers)| self.see_source(id, numbers).transpose()).collect()
    }

    fn see_source(&self, id: SourceId, mut numbers: BTreeSet<u64>) -> Result<Option<SeenSource>, RepoError> {
        let key_of = |number| layout::generation(&layout::source_generations(id), number);
        let Some(key) = numbers.pop_last().map(key_of) else { return Ok(None) };
        let error = match self.read_source(id, &key) {
            Ok(source) => return Ok(Some(SeenSource::Usable(source))),
            Err(error) => of_the_object(error)?,
        };
        // Signed by one of us, and sealed for others.
        let is_signed = |error: &RepoError| matches!(error, RepoError::NoKey { .. });
        let mut ours = is_signed(&error);
        for number in numbers.into_iter().rev() {
            match self.read_source(id, &key_of(number)) {
                Ok(last) => return Ok(Some(SeenSource::Covered { last, key, error })),
                Err(older) => ours |= is_signed(&of_the_object(older)?),
            }
        }
        if !ours {
            return Ok(Some(SeenSource::Strange { key, error }));
        }
        let last = SourceInfo { id, system: None, description: None };
        Ok(Some(SeenSource::Covered { last, key, error }))
    }

    /// The sources whose newest description is ours. Of every other one `wrong` is told.
    ///
    /// # Errors
    /// As for [`Repository::see_sources`].
    pub fn usable_sources(
        &self,
        wrong: &mut dyn FnMut(&Key, RepoError),
    ) -> Result<Vec<SourceInfo>, RepoError> {
        let mut usable = Vec::new();
        for seen in self.see_sources()? {
            match seen {
                SeenSource::Usable(source) => usable.push(source),
                SeenSource::Covered { key, error, .. } | SeenSource::Strange { key, error } => {
                    wrong(&key, error);
                }
            }
        }
        Ok(usable)
    }

    /// The ids of all sources that agents of this repository have described, for what goes by ids alone.
    ///
    /// # Errors
    /// As for [`Repository::see_sources`].
    pub fn own_sources(&self) -> Result<Vec<SourceId>, RepoError> {
        let id = |seen| match seen {
            SeenSource::Usable(source) | SeenSource::Covered { last: source, .. } => Some(source.id),
            SeenSource::Strange { .. } => None,
        };
        Ok(self.see_sources()?.into_iter().filter_map(id).collect())
    }

    /// The usable sources that are asked for. Where there is none, what cannot be read may hide it: it must not be described
    /// again.
    fn find_usable(&self, asked: impl Fn(&SourceInfo) -> Asked) -> Result<Vec<SourceInfo>, RepoError> {
        let (mut found, mut doubt) = (Vec::new(), None);
        for seen in self.see_sources()? {
            match seen {
                SeenSource::Usable(source) => {
                    if matches!(asked(&source), Asked::Yes) {
                        found.push(source);
                    }
                }
                SeenSource::Covered { last, error, .. } => match asked(&last) {
                    Asked::Yes => return Err(error),
                    Asked::Perhaps => doubt = doubt.or(Some(error)),
                    Asked::No => {}
                },
                SeenSource::Strange { error, .. } => doubt = doubt.or(Some(error)),
            }
        }
        match doubt {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// The source called `name`.
    ///
    /// # Errors
    /// As for [`Repository::see_sources`]; where what lies above its description cannot be believed; where it is not found,
    /// also what somebody else has described.
    pub fn find_source(&self, name: &SourceName) -> Result<Option<SourceInfo>, RepoError> {
        let found = self.find_usable(|source| match &source.description {
            Some(description) if description.name == *name => Asked::Yes,
            Some(_) => Asked::No,
            None => Asked::Perhaps,
        })?;
        Ok(found.into_iter().next())
    }

    /// The source of a cluster, on a host that cannot read what sources are called and has not called it itself: the only one
    /// of that cluster, if there is one.
    ///
    /// # Errors
    /// As for [`Repository::find_source`].
    pub fn unreadable_source(&self, system: SystemIdentifier) -> Result<Option<SourceInfo>, RepoError> {
        if self.can_read() && !self.is_behind() {
            return Ok(None);
        }
        let found = self.find_usable(|source| match (&source.description, source.system) {
            (None, Some(of)) if of == system => Asked::Yes,
            (None, None) => Asked::Perhaps,
            _ => Asked::No,
        })?;
        let mut found = found.into_iter();
        Ok(found.next().filter(|_| found.next().is_none()))
    }

    /// A source as its newest description says; `None` where it has none.
    ///
    /// # Errors
    /// When the store cannot list, or that description cannot be believed.
    pub fn source(&self, id: SourceId) -> Result<Option<SourceInfo>, RepoError> {
        match self.highest_number(&layout::source_generations(id))? {
            0 => Ok(None),
            number => self.source_generation(id, number).map(Some),
        }
    }
}

/// An error that says something of the object that was read, and of nothing else; any other comes back as `Err`.
fn of_the_object(error: RepoError) -> Result<RepoError, RepoError> {
    match &error {
        RepoError::Store(of_store) if of_store.kind == StoreErrorKind::Cold || is_damage(&error) => Ok(error),
        RepoError::Store(_) | RepoError::State { .. } | RepoError::Internal { .. } => Err(error),
        _ => Ok(error),
    }
}
