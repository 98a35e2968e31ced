//! What goes wrong on demand.

use std::sync::{Mutex, PoisonError};

use super::http::{Reply, Request};

/// What happens to a request.
enum Fault {
    /// It is refused with this.
    Refuse(Box<dyn Fn() -> Reply + Send>),
    /// It is done, and the connection breaks before the answer.
    LoseAnswer,
    /// The connection breaks before anything is done.
    LoseRequest,
}

/// Faults that wait for the requests that they concern.
#[derive(Default)]
pub(in super::super) struct Faults {
    waiting: Mutex<Vec<(String, Fault)>>,
    seen: Mutex<Vec<String>>,
}

impl Faults {
    fn add(&self, what: &str, fault: Fault) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((what.to_owned(), fault));
    }
    /// The next request whose method and path hold `what` is refused.
    pub(in super::super) fn refuse(&self, what: &str, reply: impl Fn() -> Reply + Send + 'static) {
        self.add(what, Fault::Refuse(Box::new(reply)));
    }
    /// The next such request is done, and its answer is lost.
    pub(in super::super) fn lose_answer(&self, what: &str) {
        self.add(what, Fault::LoseAnswer);
    }
    /// The next such request is lost.
    pub(in super::super) fn lose_request(&self, what: &str) {
        self.add(what, Fault::LoseRequest);
    }
    /// How many requests came so far whose method and path hold `what`.
    pub(in super::super) fn count(&self, what: &str) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|one| one.contains(what)).count()
    }
    /// Whether a fault is still waiting.
    pub(in super::super) fn is_waiting(&self) -> bool {
        !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
    /// Answers a request, as it is to go wrong.
    pub(in super::super) fn around(
        &self,
        request: &Request,
        answer: impl FnOnce() -> Reply,
    ) -> Option<Reply> {
        let name = format!("{} {}", request.method, request.path);
        let fault = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let at = waiting.iter().position(|(what, _)| name.contains(what.as_str()));
            at.map(|at| waiting.remove(at).1)
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        match fault {
            None => Some(answer()),
            Some(Fault::Refuse(reply)) => Some(reply()),
            Some(Fault::LoseRequest) => None,
            Some(Fault::LoseAnswer) => {
                answer();
                None
            }
        }
    }
}
