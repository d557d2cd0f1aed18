//! The identity in a certificate: names, addresses and validity.

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use x509_parser::extensions::GeneralName;

use super::files::without_leading_zeros;

/// Timeout of resolving the names in a peer's certificate.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// A certificate's public key, as a `SubjectPublicKeyInfo`; `None` when it does not decode.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// The identity in a verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Common name of the subject; the user name under `--client-cert-auth`.
    pub common_name: Option<String>,
    /// DNS names in the SANs.
    pub dns_names: Vec<String>,
    /// IP addresses in the SANs.
    pub ip_addresses: Vec<IpAddr>,
    /// Serial number, big-endian, no leading zeros.
    pub serial: Vec<u8>,
    /// Start of its validity, since 1970 UTC.
    pub not_before: Duration,
    /// End of its validity, since 1970 UTC.
    pub not_after: Duration,
}

/// Whether a certificate's SANs match the caller's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressMatch {
    /// It has the address, or no names and no addresses at all.
    Yes,
    /// It has other addresses and no DNS names.
    No,
    /// It has DNS names; the caller must check whether one of them resolves to the address.
    ByName(Vec<String>),
}

impl PeerIdentity {
    /// Decodes a certificate; `None` when it does not decode.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let mut identity = PeerIdentity {
            common_name: common_name.map(str::to_owned),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            serial: without_leading_zeros(parsed.raw_serial()),
            not_before: since_1970(parsed.validity().not_before.timestamp()),
            not_after: since_1970(parsed.validity().not_after.timestamp()),
        };
        let names = parsed.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => identity.ip_addresses.extend(address_of(bytes)),
                _ => {}
            }
        }
        Some(identity)
    }

    /// Whether the certificate is valid for this host name or address; a left-most `*` label in the
    /// certificate matches any one label. The common name is ignored.
    pub fn is_valid_for(&self, host: &str) -> bool {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.ip_addresses.contains(&ip);
        }
        let host = host.trim_end_matches('.');
        self.dns_names.iter().any(|name| {
            let name = name.trim_end_matches('.');
            match name.strip_prefix("*.") {
                Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
                None => name.eq_ignore_ascii_case(host),
            }
        })
    }

    /// Whether a caller from `ip` may be the certificate's holder, by etcd's rule for peers.
    pub fn matches_address(&self, ip: IpAddr) -> AddressMatch {
        let ip = ip.to_canonical();
        if self.ip_addresses.contains(&ip) || (self.ip_addresses.is_empty() && self.dns_names.is_empty()) {
            AddressMatch::Yes
        } else if self.dns_names.is_empty() {
            AddressMatch::No
        } else {
            AddressMatch::ByName(self.dns_names.clone())
        }
    }

    /// The same, resolving the certificate's DNS names if necessary.
    ///
    /// # Errors
    /// The reason, in etcd's words.
    pub async fn comes_from(&self, ip: IpAddr) -> Result<(), String> {
        let ip = ip.to_canonical();
        match self.matches_address(ip) {
            AddressMatch::Yes => Ok(()),
            AddressMatch::No => {
                Err(format!("tls: {ip} does not match any of the certificate's IP addresses {:?}", self.ip_addresses))
            }
            AddressMatch::ByName(names) if resolves_to(&names, ip).await => Ok(()),
            AddressMatch::ByName(names) => Err(format!("tls: {ip:?} does not match any of DNSNames {names:?}")),
        }
    }

    /// Whether the certificate is within its validity period.
    pub fn lives_at(&self, unix: Duration) -> bool {
        self.not_before <= unix && unix <= self.not_after
    }
}

async fn resolves_to(names: &[String], ip: IpAddr) -> bool {
    let look_up = async {
        for name in names {
            let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await else { continue };
            if found.any(|address| address.ip().to_canonical() == ip) {
                return true;
            }
        }
        false
    };
    timeout(LOOKUP_TIMEOUT, look_up).await.unwrap_or(false)
}

fn since_1970(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| IpAddr::from(sixteen).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(dns: &[&str], ips: &[&str]) -> PeerIdentity {
        PeerIdentity {
            common_name: None,
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            ip_addresses: ips.iter().map(|ip| ip.parse().expect("ip")).collect(),
            serial: vec![1],
            not_before: Duration::from_secs(10),
            not_after: Duration::from_secs(20),
        }
    }

    #[test]
    fn host_names_match_as_in_go() {
        let identity = identity(&["a.example", "*.wild.example"], &["10.0.0.1"]);
        for (host, matches) in [
            ("a.example", true),
            ("A.EXAMPLE.", true),
            ("b.example", false),
            ("x.wild.example", true),
            ("x.y.wild.example", false),
            ("wild.example", false),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
        ] {
            assert_eq!(identity.is_valid_for(host), matches, "{host}");
        }
    }

    #[test]
    fn a_callers_address_is_compared_with_the_certificate() {
        let from = "10.0.0.1".parse().expect("ip");
        let mapped = "::ffff:10.0.0.1".parse().expect("ip");
        assert_eq!(identity(&[], &["10.0.0.1"]).matches_address(from), AddressMatch::Yes);
        assert_eq!(identity(&[], &["10.0.0.1"]).matches_address(mapped), AddressMatch::Yes);
        assert_eq!(identity(&[], &[]).matches_address(from), AddressMatch::Yes);
        assert_eq!(identity(&[], &["10.0.0.9"]).matches_address(from), AddressMatch::No);
        let by_name = AddressMatch::ByName(vec!["a".to_owned()]);
        assert_eq!(identity(&["a"], &["10.0.0.9"]).matches_address(from), by_name);
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let identity = identity(&[], &[]);
        for (second, lives) in [(9, false), (10, true), (20, true), (21, false)] {
            assert_eq!(identity.lives_at(Duration::from_secs(second)), lives);
        }
    }
}
