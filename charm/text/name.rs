//! Names and other short words.

use std::net::IpAddr;

use super::parsed_text;
use super::url::PeerUrl;

/// Longest name of a member; ours are unit names without the slash.
const MAX_MEMBER_NAME: usize = 128;
/// Longest common name, by X.509.
const MAX_COMMON_NAME: usize = 64;
/// Longest host name, by DNS.
const MAX_HOST_NAME: usize = 253;
/// Longest word; a fingerprint in hex has 64 letters, and the token of a later cluster a number behind it.
const MAX_WORD: usize = 80;
/// Longest version.
const MAX_VERSION: usize = 32;
/// Most members that one static list may name; etcd's advice is seven.
const MAX_MEMBERS: usize = 64;

fn is_letter_or_digit(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn is_word(text: &str, max: usize, others: &str) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text.starts_with(is_letter_or_digit)
        && text.chars().all(|c| is_letter_or_digit(c) || others.contains(c))
}

fn word(text: &str, max: usize, others: &str) -> Option<String> {
    is_word(text, max, others).then(|| text.to_owned())
}

parsed_text! {
    /// A fingerprint, a token, a generation: letters, digits and `-`.
    Word, |text| word(text, MAX_WORD, "-")
}

impl Word {
    /// At most 28 bytes in hex behind a short prefix.
    #[must_use]
    pub fn hex(prefix: &'static str, bytes: &[u8]) -> Self {
        let hex: String = bytes.iter().take(28).map(|byte| format!("{byte:02x}")).collect();
        Word(format!("{prefix}{hex}"))
    }
}

parsed_text! {
    /// A version such as `3.7.1` or `3.8.0-rc.1`.
    Version, |text| word(text, MAX_VERSION, ".-+").filter(|text| text.starts_with(|c: char| c.is_ascii_digit()))
}

parsed_text! {
    /// The subject of a client's certificate, which is a user's name while access control is on: letters,
    /// digits and `. _ @ : -`, beginning with a letter or a digit, without two dots in a row.
    CommonName, |text| word(text, MAX_COMMON_NAME, "._@:-").filter(|text| !text.contains(".."))
}

parsed_text! {
    /// A storage's id, such as `data/0`.
    StorageId, |text| {
        let (name, number) = text.split_once('/')?;
        let number: u32 = number.parse().ok()?;
        let id = format!("{name}/{number}");
        (is_word(name, MAX_WORD, "-") && id == text).then_some(id)
    }
}

parsed_text! {
    /// A relation's id, such as `peer:0`.
    RelationId, |text| {
        let (endpoint, number) = text.split_once(':')?;
        let number: u32 = number.parse().ok()?;
        let id = format!("{endpoint}:{number}");
        (is_word(endpoint, MAX_WORD, "-_") && id == text).then_some(id)
    }
}

parsed_text! {
    /// A secret's URI: `secret:<id>`, or `secret://<uuid of its model>/<id>`.
    SecretId, |text| {
        let bare = match text.strip_prefix("secret:")?.strip_prefix("//") {
            Some(foreign) => foreign.split_once('/').filter(|(model, _)| is_uuid(model))?.1,
            None => &text["secret:".len()..],
        };
        is_bare_secret(bare).then(|| text.to_owned())
    }
}

impl SecretId {
    /// Reads an id as Juju lists it, bare or as a URI.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if is_bare_secret(text) { Some(SecretId(format!("secret:{text}"))) } else { SecretId::parse(text) }
    }
}

/// 20 digits of base 32, as Juju's `xid` writes them.
fn is_bare_secret(text: &str) -> bool {
    text.len() == 20 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'))
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let hex = |byte: u8| byte == b'-' || matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(hex)
}

parsed_text! {
    /// What a certificate can be for: a host name or an address, in normal form.
    HostName, |text| match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_string()),
        Err(_) => word(text, MAX_HOST_NAME, ".-_").map(|name| name.trim_end_matches('.').to_ascii_lowercase()),
    }
}

parsed_text! {
    /// The name of a member in the member list. Empty until it has started for the first time; `?` when it
    /// is none that a static member list could hold, as no unit's ever is.
    MemberName, |text| (text.is_empty() || is_word(text, MAX_MEMBER_NAME, "._-")).then(|| text.to_owned())
}

impl MemberName {
    /// Reads any name of a member list.
    #[must_use]
    pub fn read(text: &str) -> Self {
        MemberName::parse(text).unwrap_or_else(|| MemberName("?".to_owned()))
    }
}

parsed_text! {
    /// A static list of members: `name=url`, sorted, separated by commas.
    InitialCluster, |text| {
        let members: Option<Vec<(MemberName, PeerUrl)>> = text
            .split(',')
            .map(|member| {
                let (name, url) = member.split_once('=')?;
                Some((MemberName::parse(name)?, PeerUrl::parse(url)?))
            })
            .collect();
        InitialCluster::of(members?).map(|list| list.0)
    }
}

impl InitialCluster {
    /// Lists these members; `None` when one has no name or no URL that can be listed, or there is none.
    #[must_use]
    pub fn of(members: Vec<(MemberName, PeerUrl)>) -> Option<Self> {
        let named = |(name, url): &(MemberName, PeerUrl)| is_word(name, MAX_MEMBER_NAME, "._-") && !url.is_empty();
        if members.is_empty() || members.len() > MAX_MEMBERS || !members.iter().all(named) {
            return None;
        }
        let mut parts: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        parts.sort();
        Some(InitialCluster(parts.join(",")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_may_be_any_user_that_a_shell_cannot_misread() {
        for good in ["root", "etcd-client", "system:kube-apiserver", "a.b_c@d", "7"] {
            assert_eq!(CommonName::parse(good).unwrap(), good);
        }
        for bad in ["", "-x", ":x", "a..b", "a b", "a/b", "a=b", "a\u{202e}b", "ä", &"x".repeat(65)] {
            assert_eq!(CommonName::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_member_without_a_name_is_not_one_with_a_name_that_cannot_be_listed() {
        assert!(MemberName::read("").is_empty());
        assert_eq!(MemberName::read("etcd0"), "etcd0");
        for foreign in ["a,b=https://x:1", "a b", "a\nb", "$(id)", "?"] {
            assert_eq!(MemberName::read(foreign), "?", "{foreign:?}");
        }
    }

    #[test]
    fn a_static_list_is_sorted_and_holds_only_members_that_can_be_listed() {
        let list = InitialCluster::parse("etcd1=https://10.0.0.2:2380,etcd0=https://10.0.0.1:2380").unwrap();
        assert_eq!(list, "etcd0=https://10.0.0.1:2380,etcd1=https://10.0.0.2:2380");
        for bad in ["", "etcd0", "=https://10.0.0.1:2380", "etcd0=", "etcd0=https://10.0.0.1:2380,", "a=b"] {
            assert_eq!(InitialCluster::parse(bad), None, "{bad:?}");
        }
        let url = PeerUrl::parse("https://10.0.0.1:2380").unwrap();
        assert_eq!(InitialCluster::of(vec![(MemberName::read("a,b"), url.clone())]), None);
        assert_eq!(InitialCluster::of(vec![(MemberName::read("a"), PeerUrl::unknown())]), None);
    }

    #[test]
    fn a_host_name_is_a_name_or_an_address_in_normal_form() {
        for (text, wanted) in [("Box.Example.org.", "box.example.org"), ("::0001", "::1"), ("10.0.0.5", "10.0.0.5")] {
            assert_eq!(HostName::parse(text).unwrap(), wanted);
        }
        assert_eq!(HostName::parse("bad name!"), None);
    }

    #[test]
    fn ids_and_versions_are_what_juju_and_etcd_give() {
        assert!(StorageId::parse("data/0").is_some() && Version::parse("3.7.1").is_some());
        for bad in ["data", "data/", "data/x", "data/+1", "data/01", "/0", "-d/0", "data/0/1"] {
            assert_eq!(StorageId::parse(bad), None, "{bad}");
        }
        for bad in ["", "--help", "v3", "3.7\n", "3 7"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_and_a_relation_are_named_in_jujus_spelling_only() {
        let (bare, model) = ("9m4e2mr0ui3e8a215n4g", "36d83d07-9e76-4f9f-9f0c-5f0d2c1f8a11");
        for good in [format!("secret:{bare}"), format!("secret://{model}/{bare}")] {
            assert_eq!(SecretId::parse(&good).unwrap(), good);
            assert_eq!(SecretId::read(&good).unwrap(), good);
        }
        assert_eq!(SecretId::read(bare).unwrap(), format!("secret:{bare}"));
        for bad in [
            "".to_owned(),
            "secret:".to_owned(),
            "secret:pki".to_owned(),
            format!("secret:{bare}0"),
            format!("secret:{}", bare.to_uppercase()),
            format!("secret:{bare}\n"),
            format!("secret:/{bare}"),
            format!("secret://{bare}"),
            format!("secret://other/{bare}"),
            format!("secret://{model}/{model}/{bare}"),
            format!("secret://{model}/{bare}?name=x"),
            format!("--owner={bare}"),
        ] {
            assert_eq!(SecretId::read(&bad), None, "{bad:?}");
        }
        assert_eq!(SecretId::parse(bare), None, "a tool takes a bare id for something else");
        assert_eq!(RelationId::parse("etcd_peers-2:17").unwrap(), "etcd_peers-2:17");
        for bad in ["", "peer", "peer:", ":0", "peer:x", "peer:01", "peer:+1", "-r:0", "peer:0:1", "peer:0 --app"] {
            assert_eq!(RelationId::parse(bad), None, "{bad}");
        }
    }
}
