//! JSON numbers as protojson reads them for integer fields: `1e3` and `10.0` are whole, `1.5` is not.

use std::str::FromStr;

/// Digits of the largest 64-bit number.
const MAX_DIGITS: usize = 20;

/// How many bytes the number takes that `text` begins with; `None` when there is none, or it runs into a word.
pub fn length(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    match text.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at += digits(at),
        _ => return None,
    }
    if text.get(at) == Some(&b'.') && digits(at + 1) > 0 {
        at += 1 + digits(at + 1);
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let count = digits(at + 1 + sign);
        if count > 0 {
            at += 1 + sign + count;
        }
    }
    let runs_on = |byte: &u8| byte.is_ascii_alphanumeric() || b"-+._".contains(byte);
    (!text.get(at).is_some_and(runs_on)).then_some(at)
}

/// The whole number that `text` is; `None` when it is none or too large.
pub fn integer<T: FromStr>(text: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = if whole == "0" { "" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return "0".parse().ok();
    }
    let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
    let digits = if exponent >= 0 {
        if fraction.len() > shift || whole.len() + shift > MAX_DIGITS {
            return None;
        }
        format!("{whole}{fraction}{}", "0".repeat(shift - fraction.len()))
    } else {
        let kept = whole.len().checked_sub(shift)?;
        let (kept, dropped) = whole.split_at_checked(kept)?;
        (fraction.is_empty() && dropped.bytes().all(|digit| digit == b'0')).then(|| kept.to_owned())?
    };
    format!("{sign}{digits}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_be_written_with_point_and_exponent() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("12", 12),
            ("-7", -7),
            ("1.0", 1),
            ("1.50e1", 15),
            ("1e3", 1000),
            ("1E+2", 100),
            ("1200e-2", 12),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer::<i64>(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["1.5", "1e-1", "15e-1", "1e30", "1e99999999999", "9223372036854775808", "0.1e0"] {
            assert_eq!(integer::<i64>(text.as_bytes()), None, "{text}");
        }
        assert_eq!(integer::<u64>(b"-1"), None);
        assert_eq!(integer::<u64>(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(integer::<i32>(b"2147483648"), None);
    }

    #[test]
    fn numbers_end_at_a_delimiter() {
        for (text, end) in [
            ("12", Some(2)),
            ("12,3", Some(2)),
            ("-1.5e-3]", Some(7)),
            ("012", None),
            ("12a", None),
            ("1.", None),
            ("1e", None),
            ("-", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(length(text.as_bytes()), end, "{text}");
        }
    }
}
