//! URLs of members: scheme, host and port, and nothing else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::name::HostName;
use super::parsed_text;

/// Most URLs in one list.
const MAX_URLS: usize = 64;

parsed_text! {
    /// Where a member talks to other members.
    PeerUrl, endpoint
}

parsed_text! {
    /// Where a member serves clients.
    ClientUrl, endpoint
}

parsed_text! {
    /// The addresses a daemon listens on, separated by commas.
    UrlList, |text| {
        let urls: Option<Vec<String>> = text.split(',').map(endpoint).collect();
        Some(urls.filter(|urls| urls.len() <= MAX_URLS)?.join(","))
    }
}

impl PeerUrl {
    /// The URL of a member that Juju gives this address.
    #[must_use]
    pub fn at(address: IpAddr, port: u16) -> Self {
        PeerUrl(at(address, port))
    }

    /// Of a member whose URL cannot be listed. Equal to no URL that anybody publishes.
    #[must_use]
    pub fn unknown() -> Self {
        PeerUrl(String::new())
    }
}

impl ClientUrl {
    /// The URL of a member that Juju gives this address.
    #[must_use]
    pub fn at(address: IpAddr, port: u16) -> Self {
        ClientUrl(at(address, port))
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    }
}

impl UrlList {
    /// These addresses on one port, each once.
    #[must_use]
    pub fn at(addresses: &[IpAddr], port: u16) -> Self {
        let mut urls: Vec<String> = addresses.iter().map(|address| at(*address, port)).collect();
        urls.dedup();
        UrlList(urls.join(","))
    }

    /// The first of them.
    #[must_use]
    pub fn first(&self) -> Option<ClientUrl> {
        self.split(',').next().and_then(ClientUrl::parse)
    }
}

/// `https://<address>:<port>`, with brackets around an IPv6 address.
fn at(address: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address, port))
}

/// Reads `http(s)://host:port`, with a slash at the end or without, and prints it from its parts.
fn endpoint(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.rsplit_once(':')?;
    let port: u16 = Some(port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().ok()?),
        None => HostName::parse(host).filter(|host| !host.contains(':'))?.to_string(),
    };
    (matches!(scheme, "http" | "https") && port != 0).then(|| format!("{scheme}://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_printed_from_its_parts() {
        for (text, printed) in [
            ("https://10.0.0.5:2379", "https://10.0.0.5:2379"),
            ("https://[fd00::0005]:2379/", "https://[fd00::5]:2379"),
            ("http://Box.example.org:80", "http://box.example.org:80"),
        ] {
            assert_eq!(ClientUrl::parse(text).unwrap(), printed);
            assert_eq!(PeerUrl::parse(text).unwrap(), printed);
        }
        assert_eq!(PeerUrl::at("fd00::5".parse().unwrap(), 2380), "https://[fd00::5]:2380");
        assert_eq!(ClientUrl::at("10.0.0.5".parse().unwrap(), 2379).port(), Some(2379));
    }

    #[test]
    fn whatever_is_more_or_less_than_scheme_host_and_port_is_no_url() {
        for bad in [
            "",
            "10.0.0.5:2379",
            "https://10.0.0.5",
            "https://10.0.0.5:",
            "https://10.0.0.5:0",
            "https://10.0.0.5:+1",
            "https://10.0.0.5:70000",
            "https://u@10.0.0.5:2379",
            "https://10.0.0.5:2379/x",
            "https://10.0.0.5:2379?x",
            "https://10.0.0.5:2379#x",
            "https://$(id):2379",
            "https://a b:2379",
            "https://a,b:2379",
            "https://fd00::5:2379",
            "https://[fd00::5%eth0]:2379",
            "ftp://10.0.0.5:2379",
            "javascript://x:1\n",
            "https://10.0.0.5:2379\n",
        ] {
            assert_eq!(ClientUrl::parse(bad), None, "{bad:?}");
        }
        assert_eq!(UrlList::parse("https://a:1,"), None);
        assert_eq!(UrlList::parse("https://a:1,https://b:2/").unwrap(), "https://a:1,https://b:2");
    }
}
