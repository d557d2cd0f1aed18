//! Member and cluster ids, derived as in etcd, so that every member of a static bootstrap computes
//! the same ids without talking to the others.
//!
//! Ids are the first eight bytes, big endian, of a SHA-1 digest. They print as lowercase
//! hexadecimal without padding (see [`hex`]).

use sha1::{Digest, Sha1};

/// Id of a member named in `--initial-cluster`: digest of its sorted, joined peer URLs followed by
/// the cluster token.
pub fn member_id<S: AsRef<str>>(peer_urls: &[S], token: &str) -> u64 {
    digest_of(peer_urls, token)
}

/// Id of a member added at run time: like [`member_id`], with the decimal unix time in seconds in
/// place of the token, so that a re-added URL gets a fresh identity.
pub fn added_member_id<S: AsRef<str>>(peer_urls: &[S], unix_seconds: u64) -> u64 {
    digest_of(peer_urls, &unix_seconds.to_string())
}

/// Id of a cluster: digest of its bootstrap members' ids, ascending, eight bytes big endian each.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut hasher = Sha1::new();
    for id in sorted {
        hasher.update(id.to_be_bytes());
    }
    first_eight(hasher)
}

/// Id of a cluster restored from a snapshot. It differs from the original cluster's and from those of restores from
/// another file (`sum` is its SHA-256) or to another revision, so that their members cannot be mistaken for this one's.
pub fn restored_cluster_id(member_ids: &[u64], sum: &[u8; 32], bump: i64) -> u64 {
    let mut hasher = Sha1::new();
    hasher.update(cluster_id(member_ids).to_be_bytes());
    hasher.update(sum);
    hasher.update(bump.to_be_bytes());
    first_eight(hasher)
}

/// The textual form of an id used in logs, URLs and `etcdctl` output.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}

fn digest_of<S: AsRef<str>>(peer_urls: &[S], suffix: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    let mut hasher = Sha1::new();
    for url in sorted {
        hasher.update(url.as_bytes());
    }
    hasher.update(suffix.as_bytes());
    first_eight(hasher)
}

fn first_eight(hasher: Sha1) -> u64 {
    let digest = hasher.finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_member_equal_the_bytes_etcdctl_prints() {
        let member = member_id(&["https://localhost:20001"], "new");
        assert_eq!(hex(member), "a8f3458387986d");
        assert_eq!(hex(cluster_id(&[member])), "34c21a2d427db393");
    }

    #[test]
    fn order_of_urls_and_of_members_does_not_matter() {
        assert_eq!(member_id(&["http://b:1", "http://a:1"], "t"), member_id(&["http://a:1", "http://b:1"], "t"));
        assert_eq!(cluster_id(&[3, 1, 2]), cluster_id(&[1, 2, 3]));
    }

    #[test]
    fn a_restored_clusters_id_differs_from_the_old_ones_and_other_restores() {
        let id = |sum: u8, bump| restored_cluster_id(&[1, 2], &[sum; 32], bump);
        assert_eq!(id(1, 0), id(1, 0));
        let all = [cluster_id(&[1, 2]), id(1, 0), id(2, 0), id(1, 7), restored_cluster_id(&[1, 3], &[1; 32], 0)];
        let different: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn the_token_and_the_time_of_adding_change_the_id() {
        let urls = ["http://a:1"];
        assert_ne!(member_id(&urls, "one"), member_id(&urls, "two"));
        assert_ne!(added_member_id(&urls, 1), added_member_id(&urls, 2));
        assert_eq!(added_member_id(&urls, 7), member_id(&urls, "7"));
    }
}
