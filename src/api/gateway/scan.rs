//! Where one JSON value ends, found byte by byte, and what is wrong with it in the words of Go's `encoding/json`, which
//! is what etcd's gateway answers (and what people search for).
//!
//! Values are told apart without a separator: a body may hold one request or, for streams, many.

use std::fmt;

/// Containers inside each other before Go's scanner gives up.
const MAX_DEPTH: usize = 10_000;

/// A byte that no JSON value has there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid character {} {context}", Quoted(*.byte))]
pub struct SyntaxError {
    byte: u8,
    context: &'static str,
}

/// How a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing but white space.
    Empty,
    /// A number, which only its end tells to be complete.
    Complete,
    /// In the middle of a value.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    FirstElement,
    FirstKey,
    Key,
    AfterValue,
    Text,
    Escape,
    Unicode { left: u8 },
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Literal { word: &'static str, at: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Key,
    Object,
    Array,
}

/// Finds the end of one value.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    inside: Vec<Inside>,
    begun: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Value, inside: Vec::new(), begun: false }
    }
}

impl Scanner {
    /// Takes more of the text. `Some(n)`: the value ended with the first `n` of these bytes.
    ///
    /// # Errors
    /// A byte that cannot stand where it does.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, SyntaxError> {
        for (n, &byte) in bytes.iter().enumerate() {
            let container = matches!(byte, b'}' | b']');
            if self.ended() {
                // A number, word or text ends before the byte after it.
                return Ok(Some(n));
            }
            if self.step(byte)? {
                return Ok(Some(n));
            }
            if container && self.ended() {
                return Ok(Some(n + 1));
            }
        }
        Ok(None)
    }

    /// What the end of the text means here.
    pub fn finish(&self) -> End {
        let scalar = matches!(
            self.state,
            State::AfterValue | State::Zero | State::Digits | State::Fraction | State::ExponentDigits
        );
        match (self.begun, self.inside.is_empty() && scalar) {
            (false, _) => End::Empty,
            (true, true) => End::Complete,
            (true, false) => End::Cut,
        }
    }

    fn ended(&self) -> bool {
        self.begun && self.inside.is_empty() && self.state == State::AfterValue
    }

    /// Moves on by one byte; `true` when the value ended before it.
    fn step(&mut self, byte: u8) -> Result<bool, SyntaxError> {
        use State::{
            AfterValue, Digits, Escape, Exponent, ExponentDigits, ExponentSign, FirstElement, FirstKey, Fraction, Key,
            Literal, Minus, Point, Text, Unicode, Value, Zero,
        };
        let refuse = |context| Err(SyntaxError { byte, context });
        let next = match (self.state, byte) {
            (Value | FirstElement | FirstKey | Key | AfterValue, b' ' | b'\t' | b'\r' | b'\n') => self.state,
            (FirstElement, b']') | (FirstKey, b'}') => self.close(),
            (Value | FirstElement, _) => self.begin(byte)?,
            (FirstKey | Key, b'"') => Text,
            (FirstKey | Key, _) => return refuse("looking for beginning of object key string"),
            (AfterValue, _) => return self.after_value(byte),
            (Text, b'"') => AfterValue,
            (Text, b'\\') => Escape,
            (Text, 0..=0x1f) => return refuse("in string literal"),
            (Text, _) => Text,
            (Escape, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => Text,
            (Escape, b'u') => Unicode { left: 4 },
            (Escape, _) => return refuse("in string escape code"),
            (Unicode { left }, _) if byte.is_ascii_hexdigit() => {
                if left == 1 {
                    Text
                } else {
                    Unicode { left: left - 1 }
                }
            }
            (Unicode { .. }, _) => return refuse("in \\u hexadecimal character escape"),
            (Minus, b'0') => Zero,
            (Minus | Digits, b'0'..=b'9') => Digits,
            (Minus, _) => return refuse("in numeric literal"),
            (Zero | Digits, b'.') => Point,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Point, _) => return refuse("after decimal point in numeric literal"),
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Exponent | ExponentSign, _) => return refuse("in exponent of numeric literal"),
            (Zero | Digits | Fraction | ExponentDigits, _) => {
                self.state = AfterValue;
                return if self.inside.is_empty() { Ok(true) } else { self.after_value(byte) };
            }
            (Literal { word, at }, _) => literal(word, at, byte)?,
        };
        self.state = next;
        Ok(false)
    }

    fn begin(&mut self, byte: u8) -> Result<State, SyntaxError> {
        self.begun = true;
        Ok(match byte {
            b'{' => {
                self.open(Inside::Key, byte)?;
                State::FirstKey
            }
            b'[' => {
                self.open(Inside::Array, byte)?;
                State::FirstElement
            }
            b'"' => State::Text,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Literal { word: "true", at: 1 },
            b'f' => State::Literal { word: "false", at: 1 },
            b'n' => State::Literal { word: "null", at: 1 },
            _ => return Err(SyntaxError { byte, context: "looking for beginning of value" }),
        })
    }

    fn after_value(&mut self, byte: u8) -> Result<bool, SyntaxError> {
        let refuse = |context| Err(SyntaxError { byte, context });
        let Some(inside) = self.inside.last_mut() else { return Ok(true) };
        self.state = match (*inside, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => State::AfterValue,
            (Inside::Key, b':') => {
                *inside = Inside::Object;
                State::Value
            }
            (Inside::Key, _) => return refuse("after object key"),
            (Inside::Object, b',') => {
                *inside = Inside::Key;
                State::Key
            }
            (Inside::Object, b'}') | (Inside::Array, b']') => self.close(),
            (Inside::Object, _) => return refuse("after object key:value pair"),
            (Inside::Array, b',') => State::Value,
            (Inside::Array, _) => return refuse("after array element"),
        };
        Ok(false)
    }

    fn open(&mut self, inside: Inside, byte: u8) -> Result<(), SyntaxError> {
        self.inside.push(inside);
        if self.inside.len() > MAX_DEPTH {
            return Err(SyntaxError { byte, context: "exceeded max depth" });
        }
        Ok(())
    }

    fn close(&mut self) -> State {
        self.inside.pop();
        State::AfterValue
    }
}

/// One more byte of `true`, `false` or `null`.
fn literal(word: &'static str, at: usize, byte: u8) -> Result<State, SyntaxError> {
    if word.as_bytes().get(at) != Some(&byte) {
        return Err(SyntaxError { byte, context: expectation(word, at) });
    }
    Ok(if at + 1 == word.len() { State::AfterValue } else { State::Literal { word, at: at + 1 } })
}

fn expectation(word: &str, at: usize) -> &'static str {
    match (word, at) {
        ("true", 1) => "in literal true (expecting 'r')",
        ("true", 2) => "in literal true (expecting 'u')",
        ("true", _) => "in literal true (expecting 'e')",
        ("false", 1) => "in literal false (expecting 'a')",
        ("false", 2) => "in literal false (expecting 'l')",
        ("false", 3) => "in literal false (expecting 's')",
        ("false", _) => "in literal false (expecting 'e')",
        (_, 1) => "in literal null (expecting 'u')",
        _ => "in literal null (expecting 'l')",
    }
}

/// A byte as Go quotes a character: the byte is taken for a code point.
struct Quoted(u8);

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\'' => f.write_str(r"'\''"),
            b'\\' => f.write_str(r"'\\'"),
            0x07 => f.write_str(r"'\a'"),
            0x08 => f.write_str(r"'\b'"),
            0x0c => f.write_str(r"'\f'"),
            b'\n' => f.write_str(r"'\n'"),
            b'\r' => f.write_str(r"'\r'"),
            b'\t' => f.write_str(r"'\t'"),
            0x0b => f.write_str(r"'\v'"),
            byte @ (0..=0x1f | 0x7f) => write!(f, r"'\x{byte:02x}'"),
            byte @ (0x80..=0xa0 | 0xad) => write!(f, r"'\u{byte:04x}'"),
            byte => write!(f, "'{}'", char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Result<Option<usize>, String> {
        Scanner::default().feed(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn values_end_where_they_end_whatever_follows() {
        for (text, end) in [
            ("{} garbage", 2),
            (r#"{"a":[1,{"b":"}\"]"}],"c":null}{"#, 31),
            ("  [1, 2 ]x", 9),
            (r#""text"x"#, 6),
            ("12 ", 2),
            ("-0.5e+7,", 7),
            ("true false", 4),
            ("0x", 1),
        ] {
            assert_eq!(scan(text), Ok(Some(end)), "{text}");
        }
    }

    #[test]
    fn a_text_may_arrive_in_any_pieces() {
        let text = br#" {"key":"\u00e9\\","n":[-1.5e3,true,null,{}]} "#;
        for cut in 0..text.len() {
            let mut scanner = Scanner::default();
            let (first, rest) = text.split_at(cut);
            let found = match scanner.feed(first).expect("valid") {
                Some(end) => end,
                None => cut + scanner.feed(rest).expect("valid").expect("complete"),
            };
            assert_eq!(found, text.len() - 1, "cut at {cut}");
        }
    }

    #[test]
    fn the_end_of_the_text_is_told_apart() {
        for (text, end) in [
            ("", End::Empty),
            (" \n", End::Empty),
            ("1", End::Complete),
            ("1.", End::Cut),
            ("{", End::Cut),
            (r#"{"a":"#, End::Cut),
            ("tru", End::Cut),
            ("-", End::Cut),
        ] {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.feed(text.as_bytes()), Ok(None), "{text}");
            assert_eq!(scanner.finish(), end, "{text}");
        }
    }

    #[test]
    fn faults_are_told_in_gos_words() {
        for (text, sentence) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{x}", "invalid character 'x' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            (r#""\x""#, "invalid character 'x' in string escape code"),
            (r#""\u12g4""#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("nul1", "invalid character '1' in literal null (expecting 'l')"),
            ("\u{e9}", "invalid character 'Ã' looking for beginning of value"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            ("\u{1}", "invalid character '\\x01' looking for beginning of value"),
        ] {
            assert_eq!(scan(text), Err(sentence.to_owned()), "{text}");
        }
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(scan(&deep), Err("invalid character '[' exceeded max depth".to_owned()));
    }
}
