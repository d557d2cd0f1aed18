//! TLS versions, cipher suites and ALPN: Go's suite names mapped to rustls' provider.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use super::error::TlsError;
use crate::settings::{CipherSuite, TlsPolicy, TlsVersion};

/// ALPN protocols of the client and metrics ports, the preferred one first. Callers that offer none get HTTP/1.1, or
/// HTTP/2 if they send its preface.
pub const CLIENT_PORT: &[&[u8]] = &[b"h2", b"http/1.1"];

/// ALPN protocols of the peer port: HTTP/1.1 for the member list API. The members' own frames have no ALPN name, and
/// calling members offer none, as in etcd.
pub const PEER_PORT: &[&[u8]] = &[b"http/1.1"];

/// The TLS versions between the policy's minimum and maximum, newest first.
pub fn versions(policy: &TlsPolicy) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::V13, &rustls::version::TLS13), (TlsVersion::V12, &rustls::version::TLS12)]
        .into_iter()
        .filter(|(version, _)| (policy.min_version..=policy.max_version).contains(version))
        .map(|(_, supported)| supported)
        .collect()
}

/// The crypto provider of both sides. A list of suites restricts only TLS 1.2, as in Go; the suites of
/// TLS 1.3 are all secure and always offered.
pub fn provider(policy: &TlsPolicy) -> Result<Arc<CryptoProvider>, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    if !policy.cipher_suites.is_empty() {
        let listed = |suite: &rustls::SupportedCipherSuite| {
            let name = format!("{:?}", suite.suite());
            policy.cipher_suites.iter().any(|wanted| rustls_name(*wanted) == name)
        };
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || listed(suite));
    }
    let has_12 = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
    if !has_12 && policy.max_version == TlsVersion::V12 {
        let names: Vec<&str> = policy.cipher_suites.iter().map(|suite| suite.name()).collect();
        return Err(TlsError::NoCipherSuite(names.join(", ")));
    }
    Ok(Arc::new(provider))
}

/// Go accepts the two CHACHA20 suites also without the hash in their names.
fn rustls_name(suite: CipherSuite) -> String {
    let name = suite.name();
    if name.ends_with("CHACHA20_POLY1305") { format!("{name}_SHA256") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn policy(suites: &[&str], max: TlsVersion) -> TlsPolicy {
        TlsPolicy {
            cipher_suites: suites.iter().map(|name| name.parse().expect("suite")).collect(),
            max_version: max,
            ..Settings::default().tls_policy
        }
    }

    fn twelve(policy: &TlsPolicy) -> Vec<String> {
        let provider = provider(policy).expect("provider");
        let suites = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
        suites.map(|suite| format!("{:?}", suite.suite())).collect()
    }

    #[test]
    fn a_list_of_suites_restricts_tls_12() {
        let listed = policy(
            &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"],
            TlsVersion::V13,
        );
        let mut names = twelve(&listed);
        names.sort();
        assert_eq!(names, ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(twelve(&policy(&[], TlsVersion::V13)).len(), 6);
    }

    #[test]
    fn only_unsafe_suites_and_tls_12_is_refused() {
        let error = provider(&policy(&["TLS_RSA_WITH_AES_128_CBC_SHA"], TlsVersion::V12)).expect_err("suites");
        assert!(error.to_string().contains("TLS_RSA_WITH_AES_128_CBC_SHA"), "{error}");
        assert!(provider(&policy(&["TLS_RSA_WITH_AES_128_CBC_SHA"], TlsVersion::V13)).is_ok());
    }

    #[test]
    fn versions_are_between_minimum_and_maximum() {
        assert_eq!(versions(&policy(&[], TlsVersion::V13)).len(), 2);
        assert_eq!(versions(&policy(&[], TlsVersion::V12)), [&rustls::version::TLS12]);
    }
}
