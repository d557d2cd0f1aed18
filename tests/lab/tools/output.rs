//! The three output formats of hook tools.

use serde_json::Value;

/// Renders `value` as `smart`, `yaml` or `json`; an unknown format is an error text.
pub fn print(value: &Value, format: &str) -> Result<String, String> {
    match format {
        "json" => Ok(format!("{}\n", escape_like_go(&value.to_string()))),
        "yaml" => yaml(value),
        "smart" => smart(value),
        other => Err(format!("invalid value {other:?} for option --format: unknown format {other:?}")),
    }
}

/// Go's encoder writes `<`, `>` and `&` as escapes.
fn escape_like_go(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn yaml(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        value => serde_yaml::to_string(value).map_err(|error| error.to_string()),
    }
}

fn smart(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) if text.is_empty() => Ok(String::new()),
        Value::String(text) => Ok(format!("{text}\n")),
        Value::Bool(true) => Ok("True\n".to_owned()),
        Value::Bool(false) => Ok("False\n".to_owned()),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Ok(items.iter().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect())
        }
        other => yaml(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn smart_output_is_that_of_jujus_tools() {
        let cases = [
            (json!("text"), "text\n"),
            (json!(""), ""),
            (json!(null), ""),
            (json!(true), "True\n"),
            (json!(["a", "b"]), "a\nb\n"),
            (json!([]), ""),
            (json!({"a": 1}), "a: 1\n"),
        ];
        for (value, expected) in cases {
            assert_eq!(print(&value, "smart").unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn json_escapes_as_go_does_and_unknown_formats_are_refused() {
        assert_eq!(print(&json!("<a&b>"), "json").unwrap(), "\"\\u003ca\\u0026b\\u003e\"\n");
        assert!(print(&json!(1), "toml").is_err());
    }
}
