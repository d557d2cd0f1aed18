//! Nodes, events and errors as etcd 3.4 writes them: field order, omissions and string escapes included.

use std::fmt::Write;

use http::StatusCode;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::model::v2::types::{Error, Event, Node, UnixNanos, code};

/// `{"action":…}` and a newline. With `bare` only the action, for `noValueOnSuccess`.
pub(super) fn event(event: &Event, bare: bool) -> String {
    let mut out = String::from("{\"action\":");
    text(&mut out, &event.action);
    if !bare {
        if let Some(shown) = &event.node {
            out.push_str(",\"node\":");
            node(&mut out, shown);
        }
        if let Some(shown) = &event.prev_node {
            out.push_str(",\"prevNode\":");
            node(&mut out, shown);
        }
    }
    out.push_str("}\n");
    out
}

/// A read: an event whose action is `get`.
pub(super) fn found(shown: &Node) -> String {
    let mut out = String::from("{\"action\":\"get\",\"node\":");
    node(&mut out, shown);
    out.push_str("}\n");
    out
}

/// `{"errorCode":…}` and a newline.
pub(super) fn error(refusal: &Error) -> String {
    let mut out = format!("{{\"errorCode\":{},\"message\":", refusal.code);
    text(&mut out, sentence(refusal.code));
    if !refusal.cause.is_empty() {
        out.push_str(",\"cause\":");
        text(&mut out, &String::from_utf8_lossy(&refusal.cause));
    }
    let _ = writeln!(out, ",\"index\":{}}}", refusal.index);
    out
}

/// HTTP status of an error code.
pub(super) fn status(error_code: u32) -> StatusCode {
    match error_code {
        code::KEY_NOT_FOUND => StatusCode::NOT_FOUND,
        code::NOT_FILE | code::DIR_NOT_EMPTY => StatusCode::FORBIDDEN,
        code::UNAUTHORIZED => StatusCode::UNAUTHORIZED,
        code::TEST_FAILED | code::NODE_EXIST => StatusCode::PRECONDITION_FAILED,
        300 | 301 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn sentence(error_code: u32) -> &'static str {
    match error_code {
        code::KEY_NOT_FOUND => "Key not found",
        code::TEST_FAILED => "Compare failed",
        code::NOT_FILE => "Not a file",
        code::NOT_DIR => "Not a directory",
        code::NODE_EXIST => "Key already exists",
        code::ROOT_READ_ONLY => "Root is read only",
        code::DIR_NOT_EMPTY => "Directory not empty",
        code::UNAUTHORIZED => "The request requires user authentication",
        201 => "PrevValue is Required in POST form",
        202 => "The given TTL in POST form is not a number",
        203 => "The given index in POST form is not a number",
        209 => "Invalid field",
        210 => "Invalid POST form",
        211 => "Value provided on refresh",
        212 => "A TTL must be provided on refresh",
        300 => "Raft Internal Error",
        301 => "During Leader Election",
        code::EVENT_INDEX_CLEARED => "The event in requested index is outdated and cleared",
        _ => "Unknown error",
    }
}

fn node(out: &mut String, shown: &Node) {
    out.push('{');
    let start = out.len();
    if shown.key.as_ref() != b"/" {
        out.push_str("\"key\":");
        text(out, &String::from_utf8_lossy(&shown.key));
    }
    if let Some(value) = &shown.value {
        comma(out, start);
        out.push_str("\"value\":");
        text(out, &String::from_utf8_lossy(value));
    }
    if shown.dir {
        comma(out, start);
        out.push_str("\"dir\":true");
    }
    if let Some(expiration) = shown.expiration {
        comma(out, start);
        let _ = write!(out, "\"expiration\":\"{}\"", rfc3339(expiration));
    }
    if shown.ttl != 0 {
        comma(out, start);
        let _ = write!(out, "\"ttl\":{}", shown.ttl);
    }
    if !shown.nodes.is_empty() {
        comma(out, start);
        out.push_str("\"nodes\":[");
        for (place, child) in shown.nodes.iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            node(out, child);
        }
        out.push(']');
    }
    for (name, index) in [("modifiedIndex", shown.modified), ("createdIndex", shown.created)] {
        if index != 0 {
            comma(out, start);
            let _ = write!(out, "\"{name}\":{index}");
        }
    }
    out.push('}');
}

fn comma(out: &mut String, start: usize) {
    if out.len() > start {
        out.push(',');
    }
}

/// A JSON string with Go's escapes.
pub(super) fn text(out: &mut String, plain: &str) {
    out.push('"');
    let mut rest = plain;
    // The first byte of U+2028 and U+2029 begins other characters too; they go the same way and come out as they are.
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | ..0x20 | 0xe2))
    {
        let (clear, from) = rest.split_at(at);
        out.push_str(clear);
        let mut characters = from.chars();
        match characters.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(escaped @ ('<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}')) => {
                let _ = write!(out, "\\u{:04x}", u32::from(escaped));
            }
            other => out.extend(other),
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

/// UTC with as many fraction digits as it takes, none when whole.
pub(super) fn rfc3339(at: UnixNanos) -> String {
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut out = moment.format(&seconds).unwrap_or_default();
    let nanos = moment.nanosecond();
    if nanos != 0 {
        let _ = write!(out, ".{nanos:09}");
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push('Z');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_shows_neither_key_nor_indexes() {
        let root = Node { key: "/".into(), dir: true, ..Default::default() };
        assert_eq!(found(&root), "{\"action\":\"get\",\"node\":{\"dir\":true}}\n");
    }

    #[test]
    fn fields_come_in_etcds_order_and_empty_values_are_shown() {
        let shown = Node {
            key: "/k".into(),
            value: Some("".into()),
            expiration: Some(1_500_000_000_120_000_000),
            ttl: 5,
            modified: 7,
            created: 6,
            ..Default::default()
        };
        let set = Event { action: "set".into(), node: Some(shown.clone()), ..Default::default() };
        assert_eq!(
            event(&set, false),
            "{\"action\":\"set\",\"node\":{\"key\":\"/k\",\"value\":\"\",\"expiration\":\"2017-07-14T02:40:00.12Z\",\"ttl\":5,\"modifiedIndex\":7,\"createdIndex\":6}}\n"
        );
        assert_eq!(event(&set, true), "{\"action\":\"set\"}\n");
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let mut out = String::new();
        text(&mut out, "a\"\\<&>\u{2028}\u{1}\nü");
        assert_eq!(out, "\"a\\\"\\\\\\u003c\\u0026\\u003e\\u2028\\u0001\\nü\"");
    }

    #[test]
    fn an_error_without_a_cause_leaves_it_out() {
        let refusal = Error { code: 102, cause: "".into(), index: 4 };
        assert_eq!(error(&refusal), "{\"errorCode\":102,\"message\":\"Not a file\",\"index\":4}\n");
        let refusal = Error { code: 100, cause: "/x".into(), index: 0 };
        assert_eq!(error(&refusal), "{\"errorCode\":100,\"message\":\"Key not found\",\"cause\":\"/x\",\"index\":0}\n");
    }

    #[test]
    fn whole_seconds_have_no_fraction() {
        assert_eq!(rfc3339(1_500_000_000_000_000_000), "2017-07-14T02:40:00Z");
    }
}
