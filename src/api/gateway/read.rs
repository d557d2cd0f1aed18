//! From JSON to protobuf by the rules of Go's `protojson`, which etcd 3.6 uses: names in either spelling, numbers as
//! numbers or texts, bytes in either base64 alphabet, enums by name or number, `null` for unset, unknown fields and enum
//! names skipped. Faults are told in its sentences, with line and column.
//!
//! Library decoders of proto3 JSON accept nearly the same and say other things about the rest; clients and people see
//! these sentences, so they are kept. The text has passed [`super::scan`] and is one syntactically valid value.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::number;

/// Messages inside each other, as many as the protobuf decoder behind takes.
const MAX_DEPTH: usize = 100;

/// A value that does not fit its field, as one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proto: {0}")]
pub struct ReadError(String);

/// One message, encoded.
///
/// # Errors
/// What does not fit, and where.
pub fn message(text: &[u8], shape: &MessageDescriptor) -> Result<Vec<u8>, ReadError> {
    let mut reader = Reader { text, at: 0 };
    let mut encoded = Vec::with_capacity(text.len());
    reader.message(shape, &mut encoded, 0)?;
    Ok(encoded)
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    Null,
    Bool(bool),
    Number,
    Text(Cow<'a, str>),
    ObjectOpen,
    ObjectClose,
    ArrayOpen,
    ArrayClose,
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq)]
struct Found<'a> {
    token: Token<'a>,
    start: usize,
    raw: &'a [u8],
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn message(&mut self, shape: &MessageDescriptor, out: &mut Vec<u8>, depth: usize) -> Result<(), ReadError> {
        if depth == MAX_DEPTH {
            return Err(ReadError("exceeded max recursion depth".to_owned()));
        }
        let open = self.next()?;
        if open.token != Token::ObjectOpen {
            return Err(self.unexpected(&open));
        }
        let (mut fields, mut unions) = (Vec::new(), Vec::new());
        loop {
            let name = self.next()?;
            let Token::Text(text) = &name.token else {
                // The text is valid: what is not a name ends the object.
                return Ok(());
            };
            let field = shape.get_field_by_json_name(text).or_else(|| shape.get_field_by_name(text));
            let Some(field) = field else {
                self.skip()?;
                continue;
            };
            if fields.contains(&field.number()) {
                return Err(self.fault(&name, &format!("duplicate field {}", raw(&name))));
            }
            fields.push(field.number());
            if self.peek()?.token == Token::Null {
                self.next()?;
                continue;
            }
            if field.is_list() {
                self.list(&field, out, depth)?;
                continue;
            }
            if let Some(union) = field.containing_oneof() {
                if unions.contains(&union.full_name().to_owned()) {
                    let why = format!("error parsing {}, oneof {} is already set", raw(&name), union.full_name());
                    return Err(self.fault(&name, &why));
                }
                unions.push(union.full_name().to_owned());
            }
            self.value(&field, out, depth)?;
        }
    }

    fn list(&mut self, field: &FieldDescriptor, out: &mut Vec<u8>, depth: usize) -> Result<(), ReadError> {
        let open = self.next()?;
        if open.token != Token::ArrayOpen {
            return Err(self.unexpected(&open));
        }
        while self.peek()?.token != Token::ArrayClose {
            self.value(field, out, depth)?;
        }
        self.next()?;
        Ok(())
    }

    /// One value of a field, with its key in front.
    fn value(&mut self, field: &FieldDescriptor, out: &mut Vec<u8>, depth: usize) -> Result<(), ReadError> {
        if let Kind::Message(shape) = field.kind() {
            let mut inner = Vec::new();
            self.message(&shape, &mut inner, depth + 1)?;
            put_bytes(field, &inner, out);
            return Ok(());
        }
        let found = self.next()?;
        if scalar(field, &found, out).is_some() {
            return Ok(());
        }
        let why = format!("invalid value for {} field {}: {}", kind_name(field), field.json_name(), raw(&found));
        Err(self.fault(&found, &why))
    }

    /// Passes over one value of any kind.
    fn skip(&mut self) -> Result<(), ReadError> {
        let mut depth = 0usize;
        loop {
            match self.next()?.token {
                Token::ObjectOpen | Token::ArrayOpen => depth += 1,
                Token::ObjectClose | Token::ArrayClose => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn peek(&mut self) -> Result<Found<'a>, ReadError> {
        let at = self.at;
        let found = self.next();
        self.at = at;
        found
    }

    fn next(&mut self) -> Result<Found<'a>, ReadError> {
        while self.text.get(self.at).is_some_and(|byte| b" \t\r\n,:".contains(byte)) {
            self.at += 1;
        }
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        let (token, length) = match rest.first() {
            Some(b'{') => (Token::ObjectOpen, 1),
            Some(b'}') => (Token::ObjectClose, 1),
            Some(b'[') => (Token::ArrayOpen, 1),
            Some(b']') => (Token::ArrayClose, 1),
            Some(b'"') => self.text_at(rest)?,
            Some(b't') => (Token::Bool(true), 4),
            Some(b'f') => (Token::Bool(false), 5),
            Some(b'n') => (Token::Null, 4),
            Some(_) => (Token::Number, number::length(rest).unwrap_or(1)),
            None => return Err(ReadError("unexpected EOF".to_owned())),
        };
        let raw = rest.get(..length).unwrap_or(rest);
        self.at = start + raw.len();
        Ok(Found { token, start, raw })
    }

    /// The text that `rest` begins with, and how many bytes it takes.
    fn text_at(&self, rest: &'a [u8]) -> Result<(Token<'a>, usize), ReadError> {
        let inner = rest.get(1..).unwrap_or_default();
        let mut at = 0;
        while let Some(&byte) = inner.get(at) {
            match byte {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        let inner = inner.get(..at).unwrap_or(inner);
        // Positions inside a text are not told: the sentence names its beginning.
        let why = |why: &str| ReadError(format!("syntax error ({}): {why}", self.position(self.at)));
        let text = std::str::from_utf8(inner).map_err(|_| why("invalid UTF-8 in string"))?;
        let text = if text.contains('\\') {
            let refuse = |at: usize| match rest.get(1 + at..).and_then(|rest| rest.get(..6)) {
                Some(code) => why(&format!("invalid escape code {:?} in string", String::from_utf8_lossy(code))),
                None => ReadError("unexpected EOF".to_owned()),
            };
            Cow::Owned(unescape(text).map_err(refuse)?)
        } else {
            Cow::Borrowed(text)
        };
        Ok((Token::Text(text), at + 2))
    }

    fn unexpected(&self, found: &Found<'_>) -> ReadError {
        ReadError(format!("syntax error ({}): unexpected token {}", self.position(found.start), raw(found)))
    }

    fn fault(&self, found: &Found<'_>, why: &str) -> ReadError {
        ReadError(format!("({}): {why}", self.position(found.start)))
    }

    /// `line L:C`, both from 1, columns in characters.
    fn position(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let begin = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(before.get(begin..).unwrap_or_default()).chars().count() + 1;
        format!("line {line}:{column}")
    }
}

fn raw<'a>(found: &Found<'a>) -> Cow<'a, str> {
    String::from_utf8_lossy(found.raw)
}

/// Resolves escapes. The error is where half a surrogate pair lacks the other.
fn unescape(text: &str) -> Result<String, usize> {
    let unit = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        out.push_str(&text[at..at + found]);
        at += found;
        let (character, taken) = match text.as_bytes().get(at + 1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => {
                let first = unit(at).ok_or(at)?;
                match (char::from_u32(u32::from(first)), unit(at + 6)) {
                    (Some(character), _) => (character, 6),
                    (None, Some(second)) => match char::decode_utf16([first, second]).next() {
                        Some(Ok(character)) => (character, 12),
                        _ => return Err(at + 6),
                    },
                    (None, None) => return Err(at + 6),
                }
            }
            Some(&other) => (char::from(other), 2),
            None => return Err(at),
        };
        out.push(character);
        at += taken;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Ok(out)
}

/// Encodes a value that is not a message; `None` when it does not fit the field.
fn scalar(field: &FieldDescriptor, found: &Found<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (field.kind(), &found.token) {
        (Kind::Bool, Token::Bool(value)) => put_varint(field, u64::from(*value), out),
        (Kind::Int64, _) => put_varint(field, integer::<i64>(found)?.cast_unsigned(), out),
        (Kind::Uint64, _) => put_varint(field, integer::<u64>(found)?, out),
        (Kind::Int32, _) => put_varint(field, i64::from(integer::<i32>(found)?).cast_unsigned(), out),
        (Kind::Uint32, _) => put_varint(field, u64::from(integer::<u32>(found)?), out),
        (Kind::String, Token::Text(text)) => put_bytes(field, text.as_bytes(), out),
        (Kind::Bytes, Token::Text(text)) => put_bytes(field, &base64(text)?, out),
        (Kind::Enum(values), Token::Text(text)) => {
            // An unknown name counts as unset.
            if let Some(value) = values.get_value_by_name(text) {
                put_varint(field, i64::from(value.number()).cast_unsigned(), out);
            }
        }
        (Kind::Enum(_), Token::Number) => {
            put_varint(field, i64::from(number::integer::<i32>(found.raw)?).cast_unsigned(), out);
        }
        _ => return None,
    }
    Some(())
}

/// A whole number, written as a number or inside a text.
fn integer<T: std::str::FromStr>(found: &Found<'_>) -> Option<T> {
    match &found.token {
        Token::Number => number::integer(found.raw),
        Token::Text(text) => {
            // What follows the number after a delimiter is not looked at, as in protojson.
            let length = number::length(text.as_bytes())?;
            (text.trim().len() == text.len()).then_some(())?;
            number::integer(text.as_bytes().get(..length)?)
        }
        _ => None,
    }
}

/// Either alphabet; padded when the length says so; bits beyond the last byte are not looked at.
fn base64(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let padding =
        if text.len().is_multiple_of(4) { DecodePaddingMode::RequireCanonical } else { DecodePaddingMode::RequireNone };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding).with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(alphabet, config);
    if text.contains(['\r', '\n']) {
        return engine.decode(text.replace(['\r', '\n'], "")).ok();
    }
    engine.decode(text).ok()
}

fn put_varint(field: &FieldDescriptor, value: u64, out: &mut Vec<u8>) {
    encode_key(field.number(), WireType::Varint, out);
    encode_varint(value, out);
}

fn put_bytes(field: &FieldDescriptor, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(field.number(), WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn kind_name(field: &FieldDescriptor) -> &'static str {
    match field.kind() {
        Kind::Bool => "bool",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Enum(_) => "enum",
        _ => "message",
    }
}
