//! Member and cluster ids, derived as etcd derives them: clients and tests compare them.

use sha1::{Digest, Sha1};

use super::types::NodeId;

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut eight = [0; 8];
    eight.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(eight)
}

fn sorted(peer_urls: &[String]) -> Vec<&String> {
    let mut urls: Vec<&String> = peer_urls.iter().collect();
    urls.sort();
    urls
}

/// The id of a member that is there from the start: SHA-1 over its sorted peer URLs and the cluster token.
pub fn bootstrap_member(peer_urls: &[String], token: &str) -> NodeId {
    let mut hash = Sha1::new();
    for url in sorted(peer_urls) {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    first_eight(hash)
}

/// The id of a member that is added later: SHA-1 over its sorted peer URLs and the second it was asked for.
pub fn added_member(peer_urls: &[String], unix_seconds: u64) -> NodeId {
    bootstrap_member(peer_urls, &unix_seconds.to_string())
}

/// The id of a cluster: SHA-1 over the ids of its first members, ascending, eight bytes each, big-endian.
pub fn cluster(first_members: &[NodeId]) -> u64 {
    let mut ids = first_members.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_etcd_derives() {
        let member = bootstrap_member(&["https://localhost:20001".to_owned()], "new");
        assert_eq!(format!("{member:x}"), "a8f3458387986d");
        assert_eq!(format!("{:x}", cluster(&[member])), "34c21a2d427db393");
    }

    #[test]
    fn the_order_of_urls_and_of_members_does_not_matter() {
        let (a, b) = ("http://a:1".to_owned(), "http://b:2".to_owned());
        assert_eq!(bootstrap_member(&[a.clone(), b.clone()], "t"), bootstrap_member(&[b, a], "t"));
        assert_eq!(cluster(&[1, 2]), cluster(&[2, 1]));
    }

    #[test]
    fn a_member_added_again_later_gets_another_id() {
        let urls = ["http://a:1".to_owned()];
        assert_ne!(added_member(&urls, 1), added_member(&urls, 2));
    }
}
