//! One log line: etcd's four keys first, then the event's fields.

use time::OffsetDateTime;

use crate::settings::LogFormat;

/// Maximum length of a field's value; the rest is truncated.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// Keys of every line; a field with one of these names gets a trailing underscore.
const RESERVED: [&str; 4] = ["level", "ts", "caller", "msg"];

/// A line being built.
#[derive(Debug)]
pub struct Line {
    format: LogFormat,
    /// JSON: everything before `msg`. Console: the first three columns.
    head: String,
    message: String,
    fields: String,
}

impl Line {
    /// Starts a line with the current time. `file` is shortened to its last two components.
    pub fn new(format: LogFormat, level: &str, file: Option<&str>, line: u32) -> Line {
        Line::at(OffsetDateTime::now_utc(), format, level, file, line)
    }

    /// Starts a line with the given time.
    pub fn at(now: OffsetDateTime, format: LogFormat, level: &str, file: Option<&str>, line: u32) -> Line {
        let ts = timestamp(now);
        let caller = format!("{}:{line}", short(file.unwrap_or("unknown")));
        let head = match format {
            LogFormat::Json => {
                format!(r#"{{"level":"{level}","ts":"{ts}","caller":{}"#, quoted(&caller))
            }
            LogFormat::Console => format!("{ts}\t{}\t{caller}\t", level.to_ascii_uppercase()),
        };
        Line { format, head, message: String::new(), fields: String::new() }
    }

    /// Sets `msg`.
    pub fn message(&mut self, text: &str) {
        self.message = text.to_owned();
    }

    /// Adds a string field.
    pub fn text(&mut self, name: &str, value: &str) {
        self.raw(name, &quoted(value));
    }

    /// Adds a number or boolean, unquoted.
    pub fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        self.raw(name, &value.to_string());
    }

    fn raw(&mut self, name: &str, json: &str) {
        let separator = if self.fields.is_empty() { "" } else { "," };
        let name = if RESERVED.contains(&name) { format!("{name}_") } else { name.to_owned() };
        self.fields.push_str(&format!("{separator}{}:{json}", quoted(&name)));
    }

    /// The line's bytes, with the newline.
    pub fn finish(self) -> Vec<u8> {
        let Line { format, head, message, fields } = self;
        let text = match format {
            LogFormat::Json if fields.is_empty() => format!("{head},\"msg\":{}}}\n", quoted(&message)),
            LogFormat::Json => format!("{head},\"msg\":{},{fields}}}\n", quoted(&message)),
            LogFormat::Console if fields.is_empty() => format!("{head}{}\n", message.escape_debug()),
            LogFormat::Console => format!("{head}{}\t{{{fields}}}\n", message.escape_debug()),
        };
        text.into_bytes()
    }
}

/// `2006-01-02T15:04:05.123456Z`.
fn timestamp(now: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.microsecond()
    )
}

/// The last two components of a path.
fn short(path: &str) -> &str {
    match path.rmatch_indices('/').nth(1) {
        Some((at, _)) => &path[at + 1..],
        None => path,
    }
}

/// A JSON string, truncated at [`MAX_VALUE_BYTES`].
fn quoted(value: &str) -> String {
    if value.len() <= MAX_VALUE_BYTES {
        return serde_json::Value::from(value).to_string();
    }
    let end = (0..=MAX_VALUE_BYTES).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    serde_json::Value::from(format!("{}…", &value[..end])).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn line(format: LogFormat, file: &str) -> Line {
        Line::at(datetime!(2026-02-03 04:05:06.000789 UTC), format, "info", Some(file), 7)
    }

    fn text(line: Line) -> String {
        String::from_utf8(line.finish()).expect("UTF-8")
    }

    #[test]
    fn a_json_line_has_etcds_keys_in_etcds_order() {
        let mut built = line(LogFormat::Json, "/x/src/api/kv.rs");
        built.message("ready to serve client requests");
        built.plain("count", 3);
        built.text("name", "m\"1\n");
        assert_eq!(
            text(built),
            "{\"level\":\"info\",\"ts\":\"2026-02-03T04:05:06.000789Z\",\"caller\":\"api/kv.rs:7\",\
             \"msg\":\"ready to serve client requests\",\"count\":3,\"name\":\"m\\\"1\\n\"}\n"
        );
    }

    #[test]
    fn a_console_line_is_tab_separated() {
        let mut built = line(LogFormat::Console, "main.rs");
        built.message("hello");
        assert_eq!(text(built), "2026-02-03T04:05:06.000789Z\tINFO\tmain.rs:7\thello\n");
    }

    #[test]
    fn fields_cannot_override_etcds_keys() {
        let mut built = line(LogFormat::Json, "a/b.rs");
        built.text("level", "x");
        let parsed: serde_json::Value = serde_json::from_str(&text(built)).expect("JSON");
        assert_eq!(parsed["level"], "info");
        assert_eq!(parsed["level_"], "x");
    }

    #[test]
    fn huge_values_are_truncated_at_a_character_boundary() {
        let mut built = line(LogFormat::Json, "a/b.rs");
        built.text("value", &"ä".repeat(MAX_VALUE_BYTES));
        let parsed: serde_json::Value = serde_json::from_str(&text(built)).expect("JSON");
        let value = parsed["value"].as_str().expect("text");
        assert!(value.len() <= MAX_VALUE_BYTES + 3 && value.ends_with('…'));
    }
}
