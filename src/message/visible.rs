//! Text from clients and origin servers, shown to people so that it cannot hide anything or change how other text
//! is shown.
//!
//! Whatever a person reads passes through here: the page, what commands print, the log. JSON does not, for programs
//! read it. `page/page.js` has the same characters, and a test that compares the two.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Does a character do something else than to be seen? Controls do; those that turn the direction of writing show a
/// URL as another one; those that take no space make two texts look alike. Beside controls and separators of lines, it
/// is Unicode's property `Default_Ignorable_Code_Point`, and what annotates other text.
pub fn hides(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A text in one line: each character that [`hides`] stands as its number, as in `⟨U+202E⟩`.
pub fn visible(text: &str) -> Cow<'_, str> {
    seen(text, |_, _| false)
}

/// The same of several lines: their ends and tabs stay, but no carriage return that would go back to the beginning of
/// its line.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    seen(text, |c, rest| matches!(c, '\n' | '\t') || c == '\r' && rest.starts_with('\n'))
}

/// `stays` is given a character, and what follows it.
fn seen(text: &str, stays: impl Fn(char, &str) -> bool) -> Cow<'_, str> {
    // Nearly all texts are as they should be, and are not copied.
    let Some(first) = text.find(hides) else { return Cow::Borrowed(text) };
    let mut seen = text[..first].to_string();
    for (at, c) in text[first..].char_indices() {
        if hides(c) && !stays(c, &text[first + at + c.len_utf8()..]) {
            let _ = write!(seen, "\u{27e8}U+{:04X}\u{27e9}", u32::from(c));
        } else {
            seen.push(c);
        }
    }
    Cow::Owned(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_is_seen_as_its_number() {
        #[rustfmt::skip]
        let table = [
            ("/products/1?é=日本", "/products/1?é=日本", "/products/1?é=日本"),
            ("a\u{202e}b\u{1b}[2J", "a⟨U+202E⟩b⟨U+001B⟩[2J", "a⟨U+202E⟩b⟨U+001B⟩[2J"),
            ("a\tb\r\nc\n", "a⟨U+0009⟩b⟨U+000D⟩⟨U+000A⟩c⟨U+000A⟩", "a\tb\r\nc\n"),
            ("good\rbad\r", "good⟨U+000D⟩bad⟨U+000D⟩", "good⟨U+000D⟩bad⟨U+000D⟩"),
            ("v\u{fe0f}\u{34f}", "v⟨U+FE0F⟩⟨U+034F⟩", "v⟨U+FE0F⟩⟨U+034F⟩"),
            ("\u{9b}\u{ad}\u{e0041}", "⟨U+009B⟩⟨U+00AD⟩⟨U+E0041⟩", "⟨U+009B⟩⟨U+00AD⟩⟨U+E0041⟩"),
            ("", "", ""),
        ];
        for (text, in_a_line, in_lines) in table {
            assert_eq!((&*visible(text), &*visible_lines(text)), (in_a_line, in_lines), "{text:?}");
        }
        assert!(matches!(visible("/a"), Cow::Borrowed("/a")));
    }
}
