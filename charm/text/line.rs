//! What is shown to people: one line, without anything a terminal or a hook tool could act on.

/// Longest line, in characters; a status of Juju's is cut at 120.
const MAX_LINE: usize = 1_000;
/// Longest text of several lines, in characters: far below what one argument of a program may hold.
const MAX_TEXT: usize = 32_000;
/// Longest value that is repeated in a refusal, in characters.
const MAX_QUOTED: usize = 40;

/// A text for the status, the log or the result of an action. Control characters, and others that do not
/// show as themselves, are escaped; it never begins as an option of a program does; it is cut at a length
/// that every program can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// One line.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Line(harmless(text, MAX_LINE, false))
    }

    /// Several lines.
    #[must_use]
    pub fn several(text: &str) -> Self {
        Line(harmless(text, MAX_TEXT, true))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// A value of somebody else's, to be repeated in a refusal: on one line, and short.
#[must_use]
pub fn quoted(value: &str) -> String {
    harmless(value, MAX_QUOTED, false)
}

fn harmless(text: &str, max: usize, lines: bool) -> String {
    let mut out = String::new();
    if text.starts_with('-') {
        out.push('\\');
    }
    for (count, c) in text.chars().enumerate() {
        if count == max {
            out.push_str("...");
            break;
        }
        match c {
            '\n' if lines => out.push('\n'),
            // Quotes are harmless here, though `escape_debug` escapes them.
            '\'' | '"' => out.push(c),
            '\\' => out.push('\\'),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_it_holds_and_does_nothing() {
        let text = "a\nb\u{1b}[31m\u{202e}c\0d 'e' \"f\" ä";
        assert_eq!(Line::of(text).text(), "a\\nb\\u{1b}[31m\\u{202e}c\\0d 'e' \"f\" ä");
        assert_eq!(Line::of("--application").text(), "\\--application");
        assert_eq!(Line::several("a\nb\r\n").text(), "a\nb\\r\n");
        assert_eq!(Line::of("").text(), "");
    }

    #[test]
    fn a_long_text_is_cut() {
        let huge = "x".repeat(1 << 20);
        assert_eq!(Line::of(&huge).text().len(), MAX_LINE + 3);
        assert_eq!(Line::several(&huge).text().len(), MAX_TEXT + 3);
        assert_eq!(quoted(&huge).len(), MAX_QUOTED + 3);
        assert_eq!(quoted("\u{1}").len(), 5);
    }
}
