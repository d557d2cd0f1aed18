//! URLs as in etcd's flags: `http`, `https`, `unix` or `unixs`, a host and a port (or a
//! socket path), and nothing else. A value of these types satisfies etcd's syntax rules.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Why a text is not a valid URL. The messages are etcd's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Unknown or missing scheme.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// Host or port missing.
    #[error("URL address does not have the form \"host:port\": {0}")]
    Address(String),
    /// The port is not a number from 0 to 65535.
    #[error("invalid port in URL (use a number from 0 to 65535): {0}")]
    Port(String),
    /// A path, query or fragment follows the address.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// Userinfo, whitespace or control characters.
    #[error("URL must be scheme://host:port and nothing else: {0}")]
    Characters(String),
    /// An empty list.
    #[error("no valid URLs given")]
    Empty,
}

/// The four schemes of listen and advertise URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// TCP, plain.
    Http,
    /// TCP, TLS.
    Https,
    /// Unix socket, plain.
    Unix,
    /// Unix socket, TLS.
    Unixs,
}

impl Scheme {
    /// True for `https` and `unixs`.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    /// True for `unix` and `unixs`.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// One URL, kept as written (ids are computed over the text) and split into its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Url {
    /// The URL as text, scheme in lower case.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host name or address without brackets; empty for `http://:2379` and for unix sockets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port; 0 lets the system choose a free one. Unix sockets also return 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an IP address, `localhost` as 127.0.0.1; `None` for other names and for unix
    /// sockets. Exactly the hosts with an address here can be bound.
    pub fn bind_ip(&self) -> Option<IpAddr> {
        if self.scheme.is_unix() {
            return None;
        }
        if self.host == "localhost" {
            return Some(IpAddr::from([127, 0, 0, 1]));
        }
        self.host.parse().ok()
    }

    /// Path of the socket file of a `unix`/`unixs` URL: everything after the scheme.
    pub fn socket_path(&self) -> Option<PathBuf> {
        if !self.scheme.is_unix() {
            return None;
        }
        let (_, rest) = self.text.split_once(':')?;
        Some(PathBuf::from(rest.strip_prefix("//").unwrap_or(rest)))
    }

    /// `host:port` for a connection, brackets around IPv6; the socket path for unix sockets.
    pub fn authority(&self) -> String {
        match self.socket_path() {
            Some(path) => path.display().to_string(),
            None if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(given: &str) -> Result<Url, UrlError> {
        let given = given.trim();
        let owned = || given.to_owned();
        let (scheme_text, rest) = given.split_once(':').ok_or_else(|| UrlError::Scheme(owned()))?;
        let scheme = match scheme_text.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(UrlError::Scheme(owned())),
        };
        if given.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(UrlError::Characters(given.escape_debug().to_string()));
        }
        let text = format!("{}:{rest}", scheme_text.to_ascii_lowercase());
        if scheme.is_unix() {
            if rest.trim_start_matches('/').is_empty() {
                return Err(UrlError::Address(owned()));
            }
            return Ok(Url { text, scheme, host: String::new(), port: 0 });
        }
        let address = rest.strip_prefix("//").ok_or_else(|| UrlError::Address(owned()))?;
        if address.contains(['/', '?', '#']) {
            return Err(UrlError::Path(owned()));
        }
        if address.contains('@') {
            return Err(UrlError::Characters(owned()));
        }
        let (host, port) = split_host_port(address).ok_or_else(|| UrlError::Address(owned()))?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(UrlError::Port(owned()));
        }
        let port = port.parse().map_err(|_| UrlError::Port(owned()))?;
        Ok(Url { text, scheme, host: host.to_owned(), port })
    }
}

/// Splits `host:port` or `[v6]:port`; a bare IPv6 address is ambiguous and refused.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    if let Some(bracketed) = address.strip_prefix('[') {
        let (host, port) = bracketed.split_once("]:")?;
        return Some((host, port));
    }
    let (host, port) = address.rsplit_once(':')?;
    (!host.contains([':', '[', ']'])).then_some((host, port))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A sorted list of distinct URLs; may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UrlList(Vec<Url>);

impl UrlList {
    /// Sorts and deduplicates.
    pub fn new(urls: impl IntoIterator<Item = Url>) -> UrlList {
        let mut urls: Vec<Url> = urls.into_iter().collect();
        urls.sort_by(|a, b| a.text.cmp(&b.text));
        urls.dedup();
        UrlList(urls)
    }

    /// The URLs as texts, in order.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|url| url.text.clone()).collect()
    }
}

impl std::ops::Deref for UrlList {
    type Target = [Url];

    fn deref(&self) -> &[Url] {
        &self.0
    }
}

impl FromStr for UrlList {
    type Err = UrlError;

    /// Comma-separated; an empty string is an empty list, an empty item is an error.
    fn from_str(given: &str) -> Result<UrlList, UrlError> {
        if given.trim().is_empty() {
            return Ok(UrlList::default());
        }
        let urls: Result<Vec<Url>, UrlError> = given.split(',').map(str::parse).collect();
        Ok(UrlList::new(urls?))
    }
}

impl fmt::Display for UrlList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

/// `--initial-cluster`: member name → its peer URLs, as `name=url,name=url`; repeat a name to give it
/// several URLs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitialCluster(BTreeMap<String, UrlList>);

impl InitialCluster {
    /// Builds one from pairs; URLs of the same name are merged.
    pub fn new(members: impl IntoIterator<Item = (String, Url)>) -> InitialCluster {
        let mut grouped: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for (name, url) in members {
            grouped.entry(name).or_default().push(url);
        }
        InitialCluster(grouped.into_iter().map(|(name, urls)| (name, UrlList::new(urls))).collect())
    }

    /// The first URL that appears twice, under one name or two.
    pub fn duplicate_url(&self) -> Option<&Url> {
        let mut seen = std::collections::BTreeSet::new();
        self.0.values().flat_map(|urls| urls.iter()).find(|url| !seen.insert(url.as_str()))
    }
}

impl std::ops::Deref for InitialCluster {
    type Target = BTreeMap<String, UrlList>;

    fn deref(&self) -> &BTreeMap<String, UrlList> {
        &self.0
    }
}

impl FromStr for InitialCluster {
    type Err = UrlError;

    fn from_str(given: &str) -> Result<InitialCluster, UrlError> {
        let mut members = Vec::new();
        for item in given.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, url) = item.split_once('=').unwrap_or((item, ""));
            members.push((name.to_owned(), url.parse()?));
        }
        Ok(InitialCluster::new(members))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_etcd_accepts_are_accepted_and_split() {
        for (text, host, port, tls) in [
            ("http://127.0.0.1:2379", "127.0.0.1", 2379, false),
            ("https://[::1]:2380", "::1", 2380, true),
            (" HTTP://localhost:0 ", "localhost", 0, false),
            ("https://m1.example:443", "m1.example", 443, true),
            ("unix:///run/etcd.sock", "", 0, false),
            ("unixs://localhost:m1", "", 0, true),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!((url.host(), url.port(), url.scheme().is_tls()), (host, port, tls), "{text}");
        }
    }

    #[test]
    fn urls_that_etcd_rejects_are_rejected_with_its_messages() {
        for (text, said) in [
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("127.0.0.1:2379", "URL scheme must be http, https, unix, or unixs: 127.0.0.1:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://::1:2", "URL address does not have the form \"host:port\": http://::1:2"),
            ("http://[::1]", "URL address does not have the form \"host:port\": http://[::1]"),
            ("http:a:1", "URL address does not have the form \"host:port\": http:a:1"),
            ("unix://", "URL address does not have the form \"host:port\": unix://"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:1?x", "URL must not contain a path: http://a:1?x"),
            ("http://a:x", "invalid port in URL (use a number from 0 to 65535): http://a:x"),
            ("http://a:65536", "invalid port in URL (use a number from 0 to 65535): http://a:65536"),
            ("http://u:p@a:1", "URL must be scheme://host:port and nothing else: http://u:p@a:1"),
            ("http://a b:1", "URL must be scheme://host:port and nothing else: http://a b:1"),
        ] {
            assert_eq!(text.parse::<Url>().expect_err(text).to_string(), said);
        }
    }

    #[test]
    fn lists_are_sorted_and_deduplicated() {
        let list: UrlList = "http://b:1,http://a:1,http://b:1".parse().expect("list");
        assert_eq!(list.to_string(), "http://a:1,http://b:1");
        assert!("http://a:1,".parse::<UrlList>().is_err());
        assert!("".parse::<UrlList>().expect("empty").is_empty());
    }

    #[test]
    fn an_initial_cluster_groups_urls_by_name_and_prints_sorted() {
        let cluster: InitialCluster = "b=http://h:2,a=http://h:1,b=http://h:3".parse().expect("cluster");
        assert_eq!(cluster.to_string(), "a=http://h:1,b=http://h:2,b=http://h:3");
        assert_eq!(cluster["b"].len(), 2);
        assert!(cluster.duplicate_url().is_none());
        let twice: InitialCluster = "a=http://h:1,b=http://h:1".parse().expect("cluster");
        assert_eq!(twice.duplicate_url().map(Url::as_str), Some("http://h:1"));
        assert!("a".parse::<InitialCluster>().is_err());
    }

    #[test]
    fn socket_paths_and_authorities_follow_etcd() {
        let url: Url = "unix:///run/etcd.sock".parse().expect("url");
        assert_eq!(url.socket_path(), Some(PathBuf::from("/run/etcd.sock")));
        let url: Url = "unix://localhost:m1".parse().expect("url");
        assert_eq!(url.authority(), "localhost:m1");
        let url: Url = "https://[::1]:9".parse().expect("url");
        assert_eq!(url.authority(), "[::1]:9");
    }
}
