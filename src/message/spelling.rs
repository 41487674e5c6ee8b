//! How the names of field lines are spelt. RFC 9110 §5.1.
//!
//! A name means the same in any case, but some clients and servers compare it letter by letter, so it is passed on as
//! it came. A spelling says which letters of a name have another case than in the usual capitals, one bit a letter.
//! That is all it can say: no spelling makes another name of a name.

use http::HeaderName;

/// Letters that one word of a spelling has bits for.
const WORD_LETTERS: usize = u64::BITS as usize;

/// The spellings of the names of a header section, in the order of its field lines.
///
/// `None` if all names are in the usual capitals, as they mostly are: then they take no memory but this pointer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Spellings(Option<Box<SpellingWords>>);

/// As many words for each line as its name needs, at least one, so that long names go out as they came, too. Not all
/// are zero.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct SpellingWords(Vec<u64>);

/// The spelling of one name; without words, the usual one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spelling<'a>(&'a [u64]);

impl Spellings {
    /// Adds the spelling of a line whose name is in the usual capitals.
    pub(super) fn append_usual(&mut self, name: &HeaderName) {
        if let Some(words) = &mut self.0 {
            words.0.resize(words.0.len() + words_of(name), 0);
        }
    }

    /// Adds the spelling of a line, as many words as its name needs. `before` are the names of all earlier lines.
    pub(super) fn append<'a>(
        &mut self,
        before: impl ExactSizeIterator<Item = &'a HeaderName>,
        new: impl Iterator<Item = u64> + Clone,
    ) {
        /// A sender that spells one name in its own way spells others so, and few heads have more lines.
        const MORE_LINES: usize = 16;
        if let Some(words) = &mut self.0 {
            return words.0.extend(new);
        }
        if new.clone().any(|word| word != 0) {
            let mut words = Vec::with_capacity(before.len() + MORE_LINES);
            words.resize(before.map(words_of).sum(), 0);
            words.extend(new);
            self.0 = Some(Box::new(SpellingWords(words)));
        }
    }

    /// The spellings of `names`, which must be the names of all lines.
    pub(super) fn of<'a>(
        &'a self,
        names: impl Iterator<Item = &'a HeaderName>,
    ) -> impl Iterator<Item = Spelling<'a>> {
        let mut rest = self.0.as_ref().map_or(&[][..], |words| &words.0);
        names.map(move |name| {
            // Where all names are in the usual capitals, there are no words to take.
            let (words, after) = rest.split_at(words_of(name).min(rest.len()));
            rest = after;
            Spelling(words)
        })
    }

    /// A walk over all lines, on which the caller says which lines stay; `None` if all names are in the usual
    /// capitals, whichever lines stay.
    pub(super) fn sieve(self) -> Option<Sieve> {
        self.0.map(|words| Sieve { words, seen: 0, kept: 0 })
    }

    /// Gives back memory that is allocated and not used.
    pub(super) fn shrink(&mut self) {
        if let Some(words) = &mut self.0 {
            words.0.shrink_to_fit();
        }
    }
}

/// Removes the spellings of lines that are removed.
pub(super) struct Sieve {
    words: Box<SpellingWords>,
    /// Words of the lines that the walk has passed.
    seen: usize,
    /// Words of those among them that stay.
    kept: usize,
}

impl Sieve {
    /// The next line has this name, and stays or goes.
    pub(super) fn next(&mut self, name: &HeaderName, stays: bool) {
        for _ in 0..words_of(name) {
            self.words.0[self.kept] = self.words.0[self.seen];
            self.seen += 1;
            self.kept += usize::from(stays);
        }
    }

    /// The spellings of the lines that stay. The walk must have passed all lines.
    pub(super) fn end(mut self) -> Spellings {
        let words = &mut self.words.0;
        assert!(self.seen == words.len(), "each line has a spelling, or none has");
        words.truncate(self.kept);
        // One state for one meaning: equal lines are equal fields.
        let is_usual = words.iter().all(|word| *word == 0);
        Spellings((!is_usual).then_some(self.words))
    }
}

impl Spelling<'_> {
    /// The words of it for this name, as many as the name needs.
    pub(super) fn words(self, name: &HeaderName) -> impl Iterator<Item = u64> + Clone {
        let words = self.0.iter().copied();
        words.chain(std::iter::repeat(0)).take(words_of(name))
    }

    /// Gives a name in the usual capitals this spelling. Applied twice, it changes nothing.
    pub(super) fn apply(self, letters: &mut [u8]) {
        for (letters, word) in letters.chunks_mut(WORD_LETTERS).zip(self.0) {
            let mut left = *word;
            while left > 0 {
                // The cases of a letter differ in one bit. Only letters have a bit in a spelling.
                letters[left.trailing_zeros() as usize] ^= 0x20;
                left &= left - 1;
            }
        }
    }
}

/// Words that the spelling of a name takes.
fn words_of(name: &HeaderName) -> usize {
    name.as_str().len().div_ceil(WORD_LETTERS)
}

/// The words of a name that came as `spelt`.
pub(super) fn as_it_came<'a>(
    name: &HeaderName,
    spelt: &'a [u8],
) -> impl Iterator<Item = u64> + Clone + 'a {
    // What differs from one capital a word both here and in the usual spelling does not differ from the usual
    // spelling. No exception is longer than one word of bits.
    let exception =
        exception(name.as_str()).map_or(0, |usual| odd_capitals(b'-', usual.as_bytes()));
    spelt.chunks(WORD_LETTERS).enumerate().map(move |(nth, letters)| match nth {
        0 => odd_capitals(b'-', letters) ^ exception,
        _ => odd_capitals(spelt[nth * WORD_LETTERS - 1], letters),
    })
}

/// The words of a name that was stored as `stored`: capitals stand for letters that differ.
pub(super) fn as_it_was_stored(stored: &[u8]) -> impl Iterator<Item = u64> + Clone {
    stored.chunks(WORD_LETTERS).map(|letters| bits(letters, |eight| cases(eight).1))
}

/// A bit for each letter that is not as it would be with one capital a word. `before` is the byte in front of them.
fn odd_capitals(before: u8, letters: &[u8]) -> u64 {
    let mut begins = if before == b'-' { FIRST_MARK } else { 0 };
    bits(letters, |eight| {
        // The byte behind a hyphen begins a word; it may be the first of the next eight.
        let hyphens = hyphens(eight);
        begins |= hyphens << 8;
        let (is_letter, is_capital) = cases(eight);
        let odd = is_capital ^ (is_letter & begins);
        begins = hyphens >> 56;
        odd
    })
}

/// Times this: the same for each of eight bytes.
const EACH: u64 = 0x0101_0101_0101_0101;
/// The mark of the first of eight bytes: the highest bit of each is its mark. Names are ASCII, so it is free.
const FIRST_MARK: u64 = 0x80;
/// The marks of eight bytes.
const MARKS: u64 = EACH * FIRST_MARK;

/// A bit for each of at most [`WORD_LETTERS`] letters that `mark` marks, the first in the lowest bit.
///
/// `mark` gets eight letters at once, the first in the lowest byte, and zero where there are fewer. Every name of
/// every message comes through here: letter by letter, it took as long as reading the name.
fn bits(letters: &[u8], mut mark: impl FnMut(u64) -> u64) -> u64 {
    /// Brings the lowest bits of all bytes into the highest byte, in the order of the bytes.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let (mut word, mut at, mut rest) = (0, 0, letters);
    while !rest.is_empty() {
        let eight = match (rest.first_chunk(), letters.last_chunk()) {
            (Some(eight), _) => u64::from_le_bytes(*eight),
            // Fewer are left: they are the last ones of the last eight.
            (None, Some(last)) => u64::from_le_bytes(*last) >> (8 * (8 - rest.len())),
            (None, None) => rest.iter().rev().fold(0, |eight, byte| eight << 8 | u64::from(*byte)),
        };
        let marks = mark(eight);
        // Mostly there are none.
        if marks != 0 {
            word |= ((marks >> 7).wrapping_mul(GATHER) >> 56) << at;
        }
        at += 8;
        rest = rest.get(8..).unwrap_or_default();
    }
    word
}

/// Marks of the bytes that are letters, and of those that are capitals.
fn cases(eight: u64) -> (u64, u64) {
    // No byte has its highest bit set, so no sum here is carried into the next byte.
    let lower = eight | (EACH * 0x20);
    let from_a = lower + EACH * u64::from(0x80 - b'a');
    let beyond_z = lower + EACH * u64::from(0x7f - b'z');
    let is_letter = from_a & !beyond_z & MARKS;
    (is_letter, is_letter & !(eight << 2))
}

/// Marks of the bytes that are hyphens.
fn hyphens(eight: u64) -> u64 {
    // A byte that differs from a hyphen in any bit brings the sum to 0x80 or more.
    let differing = eight ^ (EACH * u64::from(b'-'));
    !(differing + EACH * 0x7f) & MARKS
}

/// Writes a name in the usual capitals: `Content-Type`, `ETag`.
pub(super) fn write_usual(out: &mut Vec<u8>, name: &HeaderName) {
    let name = name.as_str();
    if let Some(usual) = exception(name) {
        return out.extend_from_slice(usual.as_bytes());
    }
    let begin = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut begins = true;
    for letter in &mut out[begin..] {
        if begins {
            letter.make_ascii_uppercase();
        }
        begins = *letter == b'-';
    }
}

/// The usual spelling of a name, if it is not one capital a word.
fn exception(name: &str) -> Option<&'static str> {
    // Stored responses hold the difference from what stands here (`store/codec.rs`): a new line changes how names
    // that were stored before go out.
    Some(match name {
        "cdn-cache-control" => "CDN-Cache-Control",
        "content-md5" => "Content-MD5",
        "dnt" => "DNT",
        "etag" => "ETag",
        "expect-ct" => "Expect-CT",
        "nel" => "NEL",
        "sec-gpc" => "Sec-GPC",
        "sec-websocket-key" => "Sec-WebSocket-Key",
        "te" => "TE",
        "www-authenticate" => "WWW-Authenticate",
        "x-ua-compatible" => "X-UA-Compatible",
        "x-xss-protection" => "X-XSS-Protection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_capitals_are_one_a_word_but_for_a_few_names() {
        let table = [
            ("content-type", "Content-Type"),
            ("etag", "ETag"),
            ("te", "TE"),
            ("x-a", "X-A"),
            ("--a-1b_c", "--A-1b_c"),
            ("sec-websocket-key", "Sec-WebSocket-Key"),
        ];
        for (name, usual) in table {
            let mut out = Vec::new();
            let name = HeaderName::from_static(name);
            write_usual(&mut out, &name);
            assert_eq!(String::from_utf8_lossy(&out), usual);
            assert!(as_it_came(&name, usual.as_bytes()).all(|word| word == 0), "{usual}");
        }
    }
}
