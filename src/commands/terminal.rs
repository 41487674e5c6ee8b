//! The terminal, if there is one: its size, its keys, and text that is drawn in place.
//!
//! Nothing else names a control sequence. The control characters of text that comes from outside are seen as
//! their numbers (`message::visible`), so that no URL can move the cursor or change what is shown.

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use unicode_width::UnicodeWidthChar;

use caching_proxy::message::visible::visible;

/// What a terminal is taken to have that does not say how large it is.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// How a line is shown; without colours, all are the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    /// As the terminal shows text.
    Plain,
    /// A heading.
    Bold,
    /// What an operator should look at.
    Warning,
}

/// A line to be shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StyledLine {
    /// How all of it is shown.
    pub style: Style,
    /// What it says; it may be from outside, and longer than the terminal is wide.
    pub text: String,
}

/// Can text be drawn in place there? Not in a file or a pipe, nor in a terminal that knows no sequences.
pub fn draws(stream: &impl IsTerminal) -> bool {
    let is_able = env::var_os("TERM").is_some_and(|name| !name.is_empty() && name != "dumb");
    is_able && stream.is_terminal()
}

/// The columns and rows of the terminal behind a stream.
pub fn size(stream: &impl AsFd) -> (usize, usize) {
    let found = tcgetwinsize(stream).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or((COLUMNS, ROWS), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// As much of a text as has room in so many columns, with an ellipsis if that is not all; control characters are seen as
/// their numbers.
pub fn fitted(text: &str, columns: usize) -> String {
    let text = visible(text);
    let (mut taken, mut kept) = (0, 0);
    for (at, letter) in text.char_indices() {
        // Marks that stand above the letter before them take no column.
        taken += letter.width().unwrap_or(0);
        if taken > columns {
            return if columns == 0 { String::new() } else { format!("{}…", &text[..kept]) };
        }
        // There is space for this letter, and for an ellipsis.
        if taken < columns {
            kept = at + letter.len_utf8();
        }
    }
    text.into_owned()
}

/// The whole terminal, as long as it is drawn on: restored when it is dropped, however that happens.
pub struct Screen {
    is_plain: bool,
    /// What the terminal does with keys otherwise; `None` where the standard input is no terminal.
    keys: Option<Termios>,
}

impl Screen {
    /// Takes the terminal of the standard output, and the keys of the standard input if that is one.
    pub fn open() -> Self {
        let keys = tcgetattr(io::stdin()).ok();
        if let Some(before) = &keys {
            let mut now = before.clone();
            // Each key at once and unseen. Ctrl-C and Ctrl-Z are keys, too: a process that is stopped could
            // not give the terminal back.
            now.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &now);
        }
        let mut out = io::stdout();
        // The other screen, without a cursor: what stood in the terminal comes back at the end.
        let _ = out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J").and_then(|()| out.flush());
        let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { is_plain, keys }
    }

    /// Does anybody press keys?
    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Draws the lines that are made for so many columns and rows, as many and as much of them as there is space for; the
    /// error is that the terminal is gone.
    pub fn draw(&self, lines: impl FnOnce((usize, usize)) -> Vec<StyledLine>) -> io::Result<()> {
        let (columns, rows) = size(&io::stdout());
        let mut out = io::stdout();
        // In one piece, so that nobody sees half of it.
        out.write_all(drawn(&lines((columns, rows)), columns, rows, self.is_plain).as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        if let Some(before) = &self.keys {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The sequences that show these lines.
fn drawn(lines: &[StyledLine], columns: usize, rows: usize, is_plain: bool) -> String {
    let mut out = String::from("\x1b[H");
    for (row, StyledLine { style, text }) in lines.iter().take(rows).enumerate() {
        // Not behind the last row: that would move everything up.
        out.push_str(if row == 0 { "" } else { "\r\n" });
        let (begins, ends) = match style {
            _ if is_plain => ("", ""),
            Style::Plain => ("", ""),
            Style::Bold => ("\x1b[1m", "\x1b[0m"),
            Style::Warning => ("\x1b[31m", "\x1b[0m"),
        };
        // Before the line: behind one that ends in the last column, this would take its last letter away.
        out.extend(["\x1b[K", begins, &fitted(text, columns), ends]);
    }
    if lines.len() < rows {
        out.push_str(if lines.is_empty() { "\x1b[J" } else { "\r\n\x1b[J" });
    }
    out
}

/// Reads one key of the standard input; `None` at its end.
pub fn key() -> Option<u8> {
    let mut key = [0];
    match io::stdin().read(&mut key) {
        Ok(1) => Some(key[0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_their_columns_and_control_nothing() {
        #[rustfmt::skip]
        let table = [
            ("/products/1", 80, "/products/1"),
            ("/products/1", 11, "/products/1"),
            ("/products/1", 5, "/pro…"),
            ("/products/1", 1, "…"),
            ("/products/1", 0, ""),
            ("/a\x1b[2J\r\n\u{9b}31m/b", 80, "/a⟨U+001B⟩[2J⟨U+000D⟩⟨U+000A⟩⟨U+009B⟩31m/b"),
            ("/\u{202e}gnp.exe\u{2066}", 80, "/⟨U+202E⟩gnp.exe⟨U+2066⟩"),
            // Wide letters take two columns, and marks none.
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}e\u{301}e\u{301}", 3, "e\u{301}e\u{301}e\u{301}"),
            ("e\u{301}e\u{301}e", 2, "e\u{301}…"),
            ("", 0, ""),
        ];
        for (text, columns, expected) in table {
            assert_eq!(fitted(text, columns), expected, "{text:?}");
        }
    }

    #[test]
    fn no_more_is_drawn_than_there_is_space_for() {
        let line = |style, text: &str| StyledLine { style, text: text.to_string() };
        let lines = [line(Style::Bold, "wide"), line(Style::Warning, "b"), line(Style::Plain, "c")];
        assert_eq!(
            drawn(&lines, 3, 2, false),
            "\x1b[H\x1b[K\x1b[1mwi…\x1b[0m\r\n\x1b[K\x1b[31mb\x1b[0m"
        );
        assert_eq!(drawn(&lines, 3, 2, true), "\x1b[H\x1b[Kwi…\r\n\x1b[Kb");
        assert_eq!(drawn(&lines[1..], 3, 3, true), "\x1b[H\x1b[Kb\r\n\x1b[Kc\r\n\x1b[J");
        assert_eq!(drawn(&lines, 3, 0, true), "\x1b[H");
        assert_eq!(drawn(&[], 3, 2, true), "\x1b[H\x1b[J");
    }
}
