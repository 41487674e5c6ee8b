//! What comes of storing a response, and of a purge.

use crate::policy::reason::Detail;

/// The outcome of storing a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Put {
    /// It is stored.
    Stored,
    /// It was purged, or its key invalidated, since the request for it began.
    Cleared,
    /// It does not fit.
    TooLarge,
    /// The response that it was made from is not stored any more (RFC 9111 §4.3.4).
    Replaced,
}

impl Put {
    /// Why it is not stored; `None` if it is.
    pub fn refusal(self) -> Option<Detail> {
        match self {
            Self::Stored => None,
            Self::Cleared => Some(Detail::Cleared),
            Self::TooLarge => Some(Detail::TooLarge),
            Self::Replaced => Some(Detail::Replaced),
        }
    }
}

/// The outcome of a purge.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Purged {
    /// Stored responses that it has removed.
    pub count: usize,
    /// The name of the backing store, if that has not carried it out. It is owed then: nothing that it may
    /// concern is used from there until it is done.
    pub owed_by: Option<String>,
}

impl Purged {
    /// Adds the outcome of another purge.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        // The first store that owes is named; the operator tries again for all.
        self.owed_by = self.owed_by.take().or(other.owed_by);
    }

    /// One line for the operator, if it is not done everywhere.
    pub fn shortfall(&self) -> Option<String> {
        let (store, count) = (self.owed_by.as_ref()?, self.count);
        Some(format!(
            "{store}: not purged yet, only {count} here; nothing is taken from it until it is done"
        ))
    }
}
