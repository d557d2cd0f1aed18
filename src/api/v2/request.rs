//! A key request, checked in etcd's order: the first thing wrong answers (reference: etcd-v2 §1.1, §6).

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;

use crate::model::v2::types::{Command, UnixNanos, Verb};

/// Largest accepted body, bytes; etcd's own limit.
pub(super) const MAX_BODY_BYTES: usize = 10 << 20;
/// Deepest accepted path, in parts. etcd has no such limit; without one a listing could exhaust the stack.
const MAX_DEPTH: usize = 256;
/// Longest TTL in seconds that fits the clock.
const MAX_TTL: u64 = 9_000_000_000;

/// Why a request is refused before the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRequest {
    pub(super) code: u32,
    pub(super) cause: String,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeyRequest {
    pub(super) method: Method,
    /// Clean and absolute.
    pub(super) path: Bytes,
    /// Whether the path that was asked for ended in a slash: etcd's permissions see it.
    slashed: bool,
    pub(super) recursive: bool,
    pub(super) wait: bool,
    pub(super) stream: bool,
    pub(super) quorum: bool,
    pub(super) no_value_on_success: bool,
    pub(super) wait_index: u64,
    dir: bool,
    value: Bytes,
    prev_value: Bytes,
    prev_index: u64,
    prev_exist: Option<bool>,
    refresh: bool,
    ttl: Option<u64>,
}

impl KeyRequest {
    /// Reads path (still percent-encoded, after `/v2/keys`), query and, for PUT and POST, a form body.
    pub(super) fn parse(method: &Method, path: &str, query: &str, form: Option<&[u8]>) -> Result<Self, BadRequest> {
        let fields = Fields::parse(query, form)?;
        let prev_index = fields.number("prevIndex")?;
        let wait_index = fields.number("waitIndex")?;
        let recursive = fields.flag("recursive")?;
        fields.flag("sorted")?;
        let wait = fields.flag("wait")?;
        let dir = fields.flag("dir")?;
        let quorum = fields.flag("quorum")?;
        let stream = fields.flag("stream")?;
        if wait && method != Method::GET {
            return Err(bad(209, r#""wait" can only be used with GET requests"#));
        }
        let prev_value = fields.get("prevValue");
        if prev_value.is_some_and(<[u8]>::is_empty) {
            return Err(bad(201, r#""prevValue" cannot be empty"#));
        }
        let no_value_on_success = fields.flag("noValueOnSuccess")?;
        let ttl = fields.ttl()?;
        let prev_exist = fields.tri_state("prevExist")?;
        let refresh = fields.tri_state("refresh")?.unwrap_or(false);
        let value = fields.get("value").unwrap_or_default();
        if refresh && !value.is_empty() {
            return Err(bad(211, "A value was provided on a refresh"));
        }
        if refresh && ttl.is_none() {
            return Err(bad(212, "No TTL value set"));
        }
        let decoded = unescape(path.as_bytes(), false)?;
        let path = clean(&decoded)?;
        if method == Method::POST {
            // What it makes is one part deeper.
            check_depth(path.iter().filter(|byte| **byte == b'/').count() + 1)?;
        }
        Ok(Self {
            method: method.clone(),
            path,
            slashed: decoded.ends_with(b"/"),
            recursive,
            wait,
            stream,
            quorum,
            no_value_on_success,
            wait_index,
            dir,
            value: Bytes::copy_from_slice(value),
            prev_value: Bytes::copy_from_slice(prev_value.unwrap_or_default()),
            prev_index,
            prev_exist,
            refresh,
            ttl,
        })
    }

    /// The path as etcd compares it with permissions: clean, with the trailing slash that it was asked for with. The bare
    /// root is empty.
    pub(super) fn asked_path(&self) -> Cow<'_, str> {
        let path = String::from_utf8_lossy(&self.path);
        match (self.path.as_ref(), self.slashed) {
            (b"/", false) => Cow::Borrowed(""),
            (b"/", true) | (_, false) => path,
            (_, true) => Cow::Owned(format!("{path}/")),
        }
    }

    /// The mutation that a PUT, POST or DELETE means.
    pub(super) fn command(&self, now: UnixNanos) -> Command {
        let conditional = self.prev_index > 0 || !self.prev_value.is_empty();
        let verb = match (self.method.as_str(), self.prev_exist) {
            ("POST", _) => Verb::CreateInOrder,
            ("DELETE", _) if conditional => Verb::CompareAndDelete,
            ("DELETE", _) => Verb::Delete,
            (_, Some(false)) => Verb::Create,
            (_, Some(true)) if !conditional => Verb::Update,
            (_, None) if !conditional => Verb::Set,
            _ => Verb::CompareAndSwap,
        };
        Command {
            verb: verb as i32,
            path: self.path.clone(),
            dir: self.dir,
            value: self.value.clone(),
            expiration: self.ttl.map(|seconds| after(now, seconds)),
            refresh: self.refresh && verb != Verb::CreateInOrder,
            prev_value: self.prev_value.clone(),
            prev_index: self.prev_index,
            recursive: self.recursive,
            now,
            auth: None,
        }
    }
}

/// `now` plus `seconds`; beyond the clock's range the last moment of it.
fn after(now: UnixNanos, seconds: u64) -> UnixNanos {
    let nanos = i64::try_from(seconds.min(MAX_TTL)).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    now.saturating_add(nanos)
}

/// Decoded names and values; body fields come first and win.
struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl Fields {
    fn parse(query: &str, form: Option<&[u8]>) -> Result<Self, BadRequest> {
        let mut fields = Vec::new();
        if let Some(form) = form {
            read_form(form, &mut fields)?;
        }
        read_form(query.as_bytes(), &mut fields)?;
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(field, _)| field == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    fn number(&self, name: &str) -> Result<u64, BadRequest> {
        let Some(value) = self.get(name) else { return Ok(0) };
        unsigned(value).ok_or_else(|| bad(203, &format!(r#"invalid value for "{name}""#)))
    }

    fn ttl(&self) -> Result<Option<u64>, BadRequest> {
        match self.get("ttl") {
            None | Some([]) => Ok(None),
            Some(value) => unsigned(value).map(Some).ok_or_else(|| bad(202, r#"invalid value for "ttl""#)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, BadRequest> {
        let Some(value) = self.get(name) else { return Ok(false) };
        boolean(value).ok_or_else(|| bad(209, &format!(r#"invalid value for "{name}""#)))
    }

    /// The two names whose causes etcd spells without quotes.
    fn tri_state(&self, name: &str) -> Result<Option<bool>, BadRequest> {
        let Some(value) = self.get(name) else { return Ok(None) };
        boolean(value).map(Some).ok_or_else(|| bad(209, &format!("invalid value for {name}")))
    }
}

fn bad(code: u32, cause: &str) -> BadRequest {
    BadRequest { code, cause: cause.to_owned() }
}

fn unsigned(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Some(false),
        _ => None,
    }
}

fn read_form(text: &[u8], fields: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), BadRequest> {
    for pair in text.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        if pair.contains(&b';') {
            return Err(bad(210, "invalid semicolon separator in query"));
        }
        let (name, value) = match pair.iter().position(|&byte| byte == b'=') {
            Some(equals) => (&pair[..equals], &pair[equals + 1..]),
            None => (pair, &b""[..]),
        };
        fields.push((unescape(name, true)?, unescape(value, true)?));
    }
    Ok(())
}

/// A part of a path as text. What does not decode stands as it is.
pub(super) fn decoded(part: &str) -> String {
    let plain = unescape(part.as_bytes(), false).unwrap_or_else(|_| part.as_bytes().to_vec());
    String::from_utf8_lossy(&plain).into_owned()
}

/// Undoes percent encoding; in forms `+` is a space.
pub(super) fn unescape(text: &[u8], form: bool) -> Result<Vec<u8>, BadRequest> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let digits = tail.get(..2).and_then(|pair| Some((hex(pair[0])?, hex(pair[1])?)));
                let Some((high, low)) = digits else {
                    let shown = String::from_utf8_lossy(&text[text.len() - tail.len() - 1..])
                        .chars()
                        .take(3)
                        .collect::<String>();
                    return Err(bad(210, &format!("invalid URL escape \"{shown}\"")));
                };
                plain.push(high << 4 | low);
                rest = &tail[2..];
            }
            b'+' if form => plain.push(b' '),
            _ => plain.push(byte),
        }
    }
    Ok(plain)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn check_depth(parts: usize) -> Result<(), BadRequest> {
    if parts > MAX_DEPTH {
        return Err(bad(210, &format!("a path of {parts} parts is too deep, {MAX_DEPTH} is the most")));
    }
    Ok(())
}

/// Resolves empty, `.` and `..` parts, as a path cleaner would.
pub(super) fn clean(decoded: &[u8]) -> Result<Bytes, BadRequest> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in decoded.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    check_depth(parts.len())?;
    let mut cleaned = Vec::with_capacity(decoded.len() + 1);
    for part in &parts {
        cleaned.push(b'/');
        cleaned.extend_from_slice(part);
    }
    if cleaned.is_empty() {
        cleaned.push(b'/');
    }
    Ok(cleaned.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(query: &str, form: &str) -> Result<KeyRequest, BadRequest> {
        KeyRequest::parse(&Method::PUT, "/k", query, Some(form.as_bytes()))
    }

    fn refused(query: &str, form: &str) -> (u32, String) {
        let refusal = put(query, form).expect_err("must be refused");
        (refusal.code, refusal.cause)
    }

    #[test]
    fn the_first_thing_wrong_answers_in_etcds_order() {
        assert_eq!(refused("prevIndex=x&recursive=maybe", ""), (203, r#"invalid value for "prevIndex""#.into()));
        assert_eq!(refused("waitIndex=-1", ""), (203, r#"invalid value for "waitIndex""#.into()));
        assert_eq!(refused("prevIndex=", ""), (203, r#"invalid value for "prevIndex""#.into()));
        assert_eq!(refused("dir=yes&prevValue=", ""), (209, r#"invalid value for "dir""#.into()));
        assert_eq!(refused("wait=true", ""), (209, r#""wait" can only be used with GET requests"#.into()));
        assert_eq!(refused("prevValue=&ttl=x", ""), (201, r#""prevValue" cannot be empty"#.into()));
        assert_eq!(refused("ttl=1.5&prevExist=maybe", ""), (202, r#"invalid value for "ttl""#.into()));
        assert_eq!(refused("prevExist=maybe", ""), (209, "invalid value for prevExist".into()));
        assert_eq!(refused("refresh=2", ""), (209, "invalid value for refresh".into()));
        assert_eq!(refused("refresh=true&ttl=5", "value=x"), (211, "A value was provided on a refresh".into()));
        assert_eq!(refused("refresh=true", "value="), (212, "No TTL value set".into()));
        assert_eq!(refused("x=%zz", ""), (210, r#"invalid URL escape "%zz""#.into()));
    }

    #[test]
    fn a_body_field_wins_over_the_query_and_the_first_of_equals_wins() {
        let request = put("value=query&ttl=3", "value=body&value=later&ttl=").expect("valid");
        assert_eq!(request.value, "body");
        assert_eq!(request.ttl, None);
    }

    #[test]
    fn conditions_choose_the_mutation() {
        let verb = |query: &str| put(query, "value=v").expect("valid").command(0).verb();
        assert_eq!(verb(""), Verb::Set);
        assert_eq!(verb("prevIndex=0"), Verb::Set);
        assert_eq!(verb("prevExist=false&prevIndex=3"), Verb::Create);
        assert_eq!(verb("prevExist=true"), Verb::Update);
        assert_eq!(verb("prevExist=true&prevIndex=3"), Verb::CompareAndSwap);
        assert_eq!(verb("prevValue=a"), Verb::CompareAndSwap);
    }

    #[test]
    fn paths_are_decoded_and_cleaned() {
        let get = |text: &str| KeyRequest::parse(&Method::GET, text, "", None);
        let path = |text: &str| get(text).expect("valid").path;
        assert_eq!(path(""), "/");
        assert_eq!(path("/a//b/"), "/a/b");
        assert_eq!(path("/a%2Fb/./c/../d+e%20f"), "/a/b/d+e f");
        assert_eq!(path("/../.."), "/");
        assert!(get(&"/x".repeat(300)).is_err());
        let deepest = |method: &Method, parts: usize| KeyRequest::parse(method, &"/x".repeat(parts), "", None);
        assert!(deepest(&Method::PUT, MAX_DEPTH).is_ok() && deepest(&Method::PUT, MAX_DEPTH + 1).is_err());
        assert!(deepest(&Method::POST, MAX_DEPTH - 1).is_ok(), "its child is the deepest node there can be");
        assert!(deepest(&Method::POST, MAX_DEPTH).is_err(), "its child would be too deep for an export");
        let asked = |text: &str| get(text).expect("valid").asked_path().into_owned();
        assert_eq!((asked("").as_str(), asked("/").as_str(), asked("/a/").as_str()), ("", "/", "/a/"));
        assert_eq!(asked("/a/../b%2F"), "/b/", "permissions see where a path leads, not how it is written");
    }

    #[test]
    fn long_lifetimes_end_with_the_clock_instead_of_wrapping() {
        assert_eq!(after(10, 5), 5_000_000_010);
        assert_eq!(after(1_700_000_000_000_000_000, u64::MAX), i64::MAX);
    }
}
