//! "Did you mean": the name that was mistyped, among those that there are.

/// Typing errors in the name of a flag that still say which flag is meant.
const EDITS_MAX: usize = 3;

/// The one of the names that was meant, probably.
pub(super) fn closest<T: AsRef<str> + Ord>(
    name: &str,
    known: impl Iterator<Item = T>,
) -> Option<T> {
    // Among equally close names the one of the same length: a letter was mistyped more often than left out.
    let likeness =
        |known: &str| (strsim::levenshtein(name, known), name.len().abs_diff(known.len()));
    let closest = known.map(|known| (likeness(known.as_ref()), known)).min();
    // A short name is like any other that is as short.
    let edits_max = EDITS_MAX.min(name.len() / 2);
    closest.filter(|((edits, _), _)| *edits <= edits_max).map(|(_, known)| known)
}
