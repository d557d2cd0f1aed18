//! The other value types of settings, each with the parser that the flags use. A parser's error says
//! what was expected; the caller adds the flag, variable or key.

use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// `--initial-cluster-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Bootstrap a new cluster from `--initial-cluster`.
    New,
    /// Join a running cluster to which this member has been added.
    Existing,
}

impl ClusterState {
    /// The flag's text.
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

impl FromStr for ClusterState {
    type Err = String;

    fn from_str(text: &str) -> Result<ClusterState, String> {
        match text {
            "new" => Ok(ClusterState::New),
            "existing" => Ok(ClusterState::Existing),
            _ => Err(format!("unexpected clusterState {text:?} (use \"new\" or \"existing\")")),
        }
    }
}

/// `--auto-compaction-mode` and `--auto-compaction-retention` combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Retention 0: no auto-compaction.
    Off,
    /// Keep this duration of history.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(NonZeroU64),
}

impl AutoCompaction {
    /// Parses the pair. A bare number means hours in periodic mode and revisions in revision mode.
    pub fn parse(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
        let number = retention.parse::<u64>();
        match mode {
            "revision" => match number {
                Ok(revisions) => Ok(NonZeroU64::new(revisions).map_or(AutoCompaction::Off, AutoCompaction::Revision)),
                Err(_) => Err(format!(
                    "error parsing CompactionRetention: {retention:?} is not a number of revisions \
                     (--auto-compaction-mode=revision needs one, such as 1000)"
                )),
            },
            "periodic" => {
                let kept = match number {
                    Ok(hours) => hours
                        .checked_mul(3600)
                        .map(Duration::from_secs)
                        .filter(|kept| kept.as_nanos() <= i64::MAX as u128)
                        .ok_or_else(|| format!("error parsing CompactionRetention: {hours} hours overflow"))?,
                    Err(_) => parse_duration(retention)
                        .map_err(|reason| format!("error parsing CompactionRetention: {reason}"))?,
                };
                Ok(if kept.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(kept) })
            }
            "" => Err("undefined auto-compaction-mode".to_owned()),
            other => Err(format!("unknown auto-compaction-mode {other:?}")),
        }
    }

    /// The mode's text; `periodic` (the default) when off.
    pub fn mode(self) -> &'static str {
        match self {
            AutoCompaction::Revision(_) => "revision",
            AutoCompaction::Off | AutoCompaction::Periodic(_) => "periodic",
        }
    }

    /// The retention's text.
    pub fn retention(self) -> String {
        match self {
            AutoCompaction::Off => "0".to_owned(),
            AutoCompaction::Periodic(kept) => format_duration(kept),
            AutoCompaction::Revision(revisions) => revisions.to_string(),
        }
    }
}

/// `--quota-backend-bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// 0: the built-in limit of [`Quota::DEFAULT_BYTES`].
    Default,
    /// A positive number of bytes.
    Bytes(NonZeroU64),
    /// A negative number: no limit.
    Unlimited,
}

impl Quota {
    /// The default quota: 2 GiB.
    pub const DEFAULT_BYTES: u64 = 2 << 30;

    /// The limit in bytes, `None` when there is none.
    pub fn limit(self) -> Option<u64> {
        match self {
            Quota::Default => Some(Quota::DEFAULT_BYTES),
            Quota::Bytes(bytes) => Some(bytes.get()),
            Quota::Unlimited => None,
        }
    }

    /// From the flag's number.
    pub fn from_flag(bytes: i64) -> Quota {
        match NonZeroU64::new(u64::try_from(bytes).unwrap_or(0)) {
            Some(bytes) => Quota::Bytes(bytes),
            None if bytes < 0 => Quota::Unlimited,
            None => Quota::Default,
        }
    }

    /// To the flag's number.
    pub fn to_flag(self) -> String {
        match self {
            Quota::Default => "0".to_owned(),
            Quota::Bytes(bytes) => bytes.to_string(),
            Quota::Unlimited => "-1".to_owned(),
        }
    }
}

/// A supported TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

impl TlsVersion {
    /// The flag's text.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V12 => "TLS1.2",
            TlsVersion::V13 => "TLS1.3",
        }
    }

    /// Parses a flag's text; empty means unset.
    pub fn parse(text: &str) -> Result<Option<TlsVersion>, String> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(TlsVersion::V12)),
            "TLS1.3" => Ok(Some(TlsVersion::V13)),
            _ => Err(format!("unexpected TLS version {text:?}, only TLS1.2 and TLS1.3 are supported")),
        }
    }
}

/// A cipher suite accepted by `--cipher-suites`, by its name in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSuite(&'static str);

impl CipherSuite {
    /// Every accepted name. Those with CBC, RC4, 3DES or plain RSA key exchange are accepted, as in
    /// etcd, but never negotiated.
    const NAMES: [&str; 27] = [
        "TLS_RSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_256_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ];

    /// The Go name.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl FromStr for CipherSuite {
    type Err = String;

    fn from_str(text: &str) -> Result<CipherSuite, String> {
        CipherSuite::NAMES
            .iter()
            .find(|name| **name == text)
            .map(|name| CipherSuite(name))
            .ok_or_else(|| format!("unexpected TLS cipher suite {text:?}"))
    }
}

/// `--log-level`, lowest first. `panic`, `dpanic` and `fatal` are treated as `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// The default.
    Info,
    /// Warnings and errors.
    Warn,
    /// Errors only.
    Error,
}

impl LogLevel {
    /// The flag's text.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevel, String> {
        match text {
            "debug" => Ok(LogLevel::Debug),
            "info" => Ok(LogLevel::Info),
            "warn" => Ok(LogLevel::Warn),
            "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
            _ => Err(format!("unrecognized level: {text:?} (use debug, info, warn, error, panic or fatal)")),
        }
    }
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Tab-separated text for people.
    Console,
}

impl LogFormat {
    /// The flag's text.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Json => "json",
            LogFormat::Console => "console",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "json" => Ok(LogFormat::Json),
            "console" => Ok(LogFormat::Console),
            _ => Err(format!("unknown log format: {text}, supported values json, console")),
        }
    }
}

/// Parses a Go duration: `100ms`, `1h30m`, `1.5s`, `0`. Negative durations are refused: no setting
/// here allows them.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("invalid duration {text:?} (write it like 100ms, 10s, 5m or 1h30m)");
    if text.starts_with('-') {
        return Err(format!("negative duration {text:?} (use 0 or more)"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        let unit_nanos = unit_nanos(unit).ok_or_else(wrong)?;
        total = total.saturating_add(scaled(number, unit_nanos).ok_or_else(wrong)?);
        rest = after;
    }
    if total > i64::MAX as u128 {
        return Err(format!("duration {text:?} is too long (292 years is the most)"));
    }
    Ok(Duration::from_nanos(total as u64))
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (digits with at most one dot) times `unit`, truncated to whole nanoseconds.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    let fraction = &fraction[..fraction.len().min(18)];
    let part = u128::from(digits(fraction)?) * unit / 10u128.pow(fraction.len() as u32);
    Some(u128::from(digits(whole)?) * unit + part)
}

/// Formats a duration for [`parse_duration`], in the largest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, size) in
        [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)]
    {
        if nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    format!("{nanos}ns")
}

/// Parses a boolean as Go's flag package does.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error (use true or false)".to_owned()),
    }
}

/// Parses a whole number, decimal or `0x` hexadecimal, up to `most`.
pub fn parse_unsigned(text: &str, most: u64) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(number) if number <= most => Ok(number),
        Ok(_) => Err(format!("value out of range (at most {most})")),
        Err(error) if matches!(error.kind(), std::num::IntErrorKind::PosOverflow) => {
            Err(format!("value out of range (at most {most})"))
        }
        Err(_) => Err("parse error (use a whole number, 0 or more)".to_owned()),
    }
}

/// Parses a signed whole number.
pub fn parse_signed(text: &str) -> Result<i64, String> {
    text.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            "value out of range (64-bit number)".to_owned()
        }
        _ => "parse error (use a whole number)".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_parse_and_format_back() {
        for (text, nanos, back) in [
            ("0", 0, "0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1h30m", 5_400_000_000_000, "90m"),
            ("1.5s", 1_500_000_000, "1500ms"),
            (".5s", 500_000_000, "500ms"),
            ("+2h", 7_200_000_000_000, "2h"),
            ("3us", 3_000, "3us"),
            ("7ns", 7, "7ns"),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration.as_nanos(), nanos, "{text}");
            assert_eq!(format_duration(duration), back);
        }
    }

    #[test]
    fn invalid_durations_are_refused() {
        for text in ["", "5", "s", "1x", ".s", "-1s", "1..2s", "9999999999h", "1h 2m", "١s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn compaction_retention_parses_hours_durations_and_revisions() {
        let hours = |n: u64| Ok(AutoCompaction::Periodic(Duration::from_secs(n * 3600)));
        assert_eq!(AutoCompaction::parse("periodic", "5"), hours(5));
        assert_eq!(AutoCompaction::parse("periodic", "5m"), Ok(AutoCompaction::Periodic(Duration::from_secs(300))));
        assert_eq!(AutoCompaction::parse("periodic", "0"), Ok(AutoCompaction::Off));
        assert_eq!(AutoCompaction::parse("revision", "0"), Ok(AutoCompaction::Off));
        assert_eq!(
            AutoCompaction::parse("revision", "1000"),
            Ok(AutoCompaction::Revision(NonZeroU64::new(1000).expect("not zero")))
        );
        for (mode, retention) in
            [("periodic", "-1"), ("periodic", "x"), ("revision", "5m"), ("revision", "-1"), ("", "1")]
        {
            assert!(AutoCompaction::parse(mode, retention).is_err(), "{mode} {retention}");
        }
        assert_eq!(AutoCompaction::parse("yearly", "1").expect_err("mode"), "unknown auto-compaction-mode \"yearly\"");
    }

    #[test]
    fn numbers_outside_their_range_are_refused_without_wrapping() {
        assert_eq!(parse_unsigned("0x10", 100), Ok(16));
        assert!(parse_unsigned("-1", 100).is_err());
        assert!(parse_unsigned("101", 100).expect_err("range").contains("at most 100"));
        assert!(parse_unsigned("99999999999999999999", u64::MAX).expect_err("range").contains("out of range"));
        assert_eq!(parse_signed("-5"), Ok(-5));
    }

    #[test]
    fn quota_zero_is_two_gibibytes_and_negative_is_none() {
        assert_eq!(Quota::from_flag(0).limit(), Some(2 << 30));
        assert_eq!(Quota::from_flag(9).limit(), Some(9));
        assert_eq!(Quota::from_flag(-1).limit(), None);
        assert_eq!(Quota::from_flag(i64::MIN).to_flag(), "-1");
    }
}
