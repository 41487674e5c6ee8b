//! Which of the responses stored for a target URI is to answer: a whole one, or a part that holds what
//! is asked for. RFC 9111 §4, §3.3, §4.1.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::message::fields::Fields;
use crate::policy::precondition::if_range_holds;
use crate::policy::range::{self, Spec};
use crate::policy::reason::Why;
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredResponse;

/// What was found.
#[derive(Debug)]
pub struct Selection {
    /// The selected response, or why there is none.
    pub selected: Result<Arc<StoredResponse>, Why>,
    /// What a fresh part says about what to ask for, where none is selected.
    pub lacking: Lacking,
}

/// What is lacking where no stored response is selected.
#[derive(Debug)]
pub enum Lacking {
    /// What the client asks for.
    Asked,
    /// The rest of this part from the front: the client asks for the whole.
    Rest(Arc<StoredResponse>),
    /// The whole, as if there were no `Range`: the client's `If-Range` does not hold (RFC 9110 §13.1.5).
    Whole,
}

impl Selection {
    /// The stored response that is given out, or completed.
    pub fn used(self) -> Option<Arc<StoredResponse>> {
        match (self.selected, self.lacking) {
            (Ok(stored), _) | (Err(_), Lacking::Rest(stored)) => Some(stored),
            _ => None,
        }
    }
}

/// What a request asks for of the representation.
#[derive(Debug)]
pub struct Sought<'a> {
    ranges: Option<Vec<Spec>>,
    fields: &'a Fields,
}

impl<'a> Sought<'a> {
    /// Reads the ranges of a request with these fields, if they mean anything.
    pub fn read(presented: &Presented, fields: &'a Fields) -> Self {
        let ranges = if presented.range { range::read(fields) } else { None };
        Self { ranges, fields }
    }
}

/// Selects among `variants`, the most recent first; `fits` says whether the selecting header fields of
/// a response match (§4.1).
///
/// A whole response comes before a part, and a part answers only a range that lies within it, if
/// `If-Range` lets it.
pub fn select(
    variants: &[Arc<StoredResponse>],
    sought: &Sought<'_>,
    now: Timestamp,
    mut fits: impl FnMut(&StoredResponse) -> bool,
) -> Selection {
    let mut part: Option<&Arc<StoredResponse>> = None;
    let (mut any_fits, mut lacking) = (false, Lacking::Asked);
    for stored in variants.iter().filter(|stored| fits(stored)) {
        any_fits = true;
        let Some(held) = stored.part else {
            let selected = Ok(Arc::clone(stored));
            return Selection { selected, lacking };
        };
        let bytes = stored.content.len();
        let usable = stored.is_fresh(now) && !stored.directives.no_cache;
        match &sought.ranges {
            Some(specs) if part.is_none() && held.covers(bytes, specs).is_some() => {
                if if_range_holds(sought.fields, stored) {
                    part = Some(stored);
                } else if usable {
                    lacking = Lacking::Whole;
                }
            }
            None if matches!(lacking, Lacking::Asked)
                && held.span.first == 0
                && held.is_full(bytes)
                && held.complete.is_some()
                && usable =>
            {
                lacking = Lacking::Rest(Arc::clone(stored));
            }
            _ => {}
        }
    }
    let why = if any_fits {
        Why::Partial
    } else if variants.is_empty() {
        Why::UriMiss
    } else {
        Why::VaryMiss
    };
    Selection { selected: part.cloned().ok_or(why), lacking }
}
