//! Which HTTP headers a call behind the gateway sees, by grpc-gateway's rules: `Authorization` as it is,
//! `Grpc-Metadata-X` as `x`, well-known request headers as `grpcgateway-…`, and `Grpc-Timeout` as the call's deadline.
//!
//! Who the TLS peer is does not travel: a certificate's name is not a user here, as in etcd (CVE-2018-16886).

use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;

const PREFIX: &str = "grpc-metadata-";

/// Headers that gRPC keeps for itself.
const RESERVED: [&str; 8] = [
    "content-type",
    "user-agent",
    "grpc-message-type",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-timeout",
    "te",
];

/// Request headers of the IANA's permanent list that are passed on under a prefix.
const PERMANENT: [&str; 37] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
    "accept-datetime",
    "access-control-request-headers",
    "access-control-request-method",
    "dnt",
    "forwarded",
    "if-range",
    "prefer",
    "range",
    "sec-websocket-protocol",
    "te",
    "timing-allow-origin",
    "traceparent",
    "x-requested-with",
];

/// The headers of the call, and how long its client gives it.
///
/// # Errors
/// A timeout or a binary header that is not one.
pub fn translate(headers: &HeaderMap) -> Result<(HeaderMap, Option<Duration>), Status> {
    let timeout = headers.get("grpc-timeout").map(timeout).transpose()?.filter(|timeout| !timeout.is_zero());
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let lower = name.as_str();
        if lower == "authorization" {
            metadata.append(name.clone(), value.clone());
        }
        let passed = match lower.strip_prefix(PREFIX) {
            Some(rest) => Some(rest.to_owned()),
            None => PERMANENT.contains(&lower).then(|| format!("grpcgateway-{lower}")),
        };
        let Some(passed) = passed.filter(|passed| is_metadata_name(passed)) else { continue };
        let value = if lower.ends_with("-bin") { binary(name, value)? } else { value.clone() };
        if !value.as_bytes().iter().all(|byte| (0x20..=0x7e).contains(byte)) {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(passed.as_bytes()) {
            metadata.append(name, value);
        }
    }
    Ok((metadata, timeout))
}

fn is_metadata_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.bytes().all(legal) && !RESERVED.contains(&name)
}

/// A binary header in the spelling gRPC sends it.
fn binary(name: &HeaderName, value: &HeaderValue) -> Result<HeaderValue, Status> {
    let text = value.as_bytes();
    let engine = if text.len().is_multiple_of(4) { &BASE64_STANDARD } else { &BASE64_STANDARD_NO_PAD };
    let refuse = || {
        let at = text.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"+/=".contains(byte));
        let at = at.unwrap_or(text.len());
        Status::invalid_argument(format!(
            "invalid binary header {}: illegal base64 data at input byte {at}",
            canonical(name.as_str())
        ))
    };
    let bytes = engine.decode(text).map_err(|_| refuse())?;
    HeaderValue::from_str(&BASE64_STANDARD_NO_PAD.encode(bytes)).map_err(|_| refuse())
}

/// `grpc-metadata-foo-bin` as Go writes header names.
fn canonical(name: &str) -> String {
    let mut first = true;
    name.chars()
        .map(|character| {
            let upper = std::mem::replace(&mut first, character == '-');
            if upper { character.to_ascii_uppercase() } else { character }
        })
        .collect()
}

/// A number and a unit. Negative ones have passed already.
fn timeout(value: &HeaderValue) -> Result<Duration, Status> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let parse = || {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let count = digits.parse::<i64>().ok()?;
        let nanos: u64 = match unit {
            "H" => 3_600_000_000_000,
            "M" => 60_000_000_000,
            "S" => 1_000_000_000,
            "m" => 1_000_000,
            "u" => 1_000,
            "n" => 1,
            _ => return None,
        };
        // The shortest time stands for one in the past.
        let count = if count < 0 { return Some(Duration::from_nanos(1)) } else { count.unsigned_abs() };
        Some(Duration::from_nanos(count.saturating_mul(nanos)))
    };
    parse().ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&'static str, &'static str)]) -> Result<(HeaderMap, Option<Duration>), Status> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        translate(&pairs.iter().map(pair).collect())
    }

    #[test]
    fn tokens_and_named_metadata_reach_the_call() {
        let (metadata, timeout) = from(&[
            ("authorization", "abc.1"),
            ("grpc-metadata-token", "def.2"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-te", "x"),
            ("grpc-metadata-data-bin", "AQI="),
            ("accept", "*/*"),
            ("x-secret", "no"),
        ])
        .expect("good headers");
        assert_eq!(timeout, None);
        assert_eq!(metadata["authorization"], "abc.1");
        assert_eq!(metadata["grpcgateway-authorization"], "abc.1");
        assert_eq!(metadata["token"], "def.2");
        assert_eq!(metadata["hasleader"], "true");
        assert_eq!(metadata["data-bin"], "AQI");
        assert_eq!(metadata["grpcgateway-accept"], "*/*");
        assert_eq!(metadata.len(), 6, "{metadata:?}");
    }

    #[test]
    fn timeouts_are_read_in_every_unit_and_bad_ones_are_named() {
        let timeout = |text| from(&[("grpc-timeout", text)]).map(|(_, timeout)| timeout);
        assert_eq!(timeout("2S").expect("good"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("250m").expect("good"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("-1H").expect("good"), Some(Duration::from_nanos(1)));
        assert_eq!(timeout("0S").expect("good"), None);
        for bad in ["", "5", "S", "5x", "1.5S", "abc"] {
            let status = timeout(bad).expect_err("bad");
            assert_eq!(status.message(), format!("invalid grpc-timeout: {bad}"));
        }
    }

    #[test]
    fn a_bad_binary_header_is_named_as_go_names_it() {
        let status = from(&[("grpc-metadata-foo-bin", "!!")]).expect_err("bad");
        assert_eq!(
            status.message(),
            "invalid binary header Grpc-Metadata-Foo-Bin: illegal base64 data at input byte 0"
        );
    }
}
