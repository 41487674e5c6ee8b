//! Which of the responses stored for a target URI is to answer: a whole one, or a part that holds what
//! is asked for. RFC 9111 §4, §3.3, §4.1.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::policy::range::Spec;
use crate::policy::reason::Why;
use crate::policy::stored::StoredResponse;

/// What was found.
#[derive(Debug)]
pub struct Selection {
    /// The selected response, or why there is none.
    pub selected: Result<Arc<StoredResponse>, Why>,
    /// A fresh part from the front, where a whole response is asked for and none is stored: only the
    /// rest has to be asked for.
    pub prefix: Option<Arc<StoredResponse>>,
}

/// Selects among `variants`, the most recent first. `ranges` are those of the request; `fits` says
/// whether the selecting header fields of a response match (§4.1).
///
/// A whole response comes before a part, and a part answers only a range that lies within it.
pub fn select(
    variants: &[Arc<StoredResponse>],
    ranges: Option<&[Spec]>,
    now: Timestamp,
    mut fits: impl FnMut(&StoredResponse) -> bool,
) -> Selection {
    let mut part: Option<&Arc<StoredResponse>> = None;
    let mut prefix: Option<&Arc<StoredResponse>> = None;
    let mut any_fits = false;
    for stored in variants.iter().filter(|stored| fits(stored)) {
        any_fits = true;
        let Some(held) = stored.part else {
            return Selection { selected: Ok(Arc::clone(stored)), prefix: None };
        };
        let bytes = stored.content.len();
        match ranges {
            Some(specs) if part.is_none() && held.covers(bytes, specs).is_some() => {
                part = Some(stored);
            }
            None if prefix.is_none()
                && held.span.first == 0
                && held.is_full(bytes)
                && held.complete.is_some()
                && stored.is_fresh(now)
                && !stored.directives.no_cache =>
            {
                prefix = Some(stored);
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
    Selection { selected: part.cloned().ok_or(why), prefix: prefix.cloned() }
}
