//! From a path of the gateway to its method. The paths themselves stand with the methods in `api::methods`.

use crate::api::methods::Rpc;

/// The method behind a path, which may be written with escapes. `/v3beta/` means `/v3/`.
pub fn find(path: &str) -> Option<Rpc> {
    let path = unescape(path);
    let rest = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))?;
    Rpc::ALL.into_iter().find(|rpc| rpc.gateway_paths().contains(&rest))
}

fn unescape(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::gateway::schema;
    use crate::api::methods::Service;

    #[test]
    fn every_method_but_those_of_the_health_service_has_a_path_and_a_description() {
        for rpc in Rpc::ALL {
            let is_there = rpc.service() != Service::Health;
            assert_eq!(!rpc.gateway_paths().is_empty(), is_there, "{rpc:?}");
            assert!(schema::shape(rpc.service().name(), rpc.name()).is_some(), "{rpc:?}");
            for path in rpc.gateway_paths() {
                assert_eq!(find(&format!("/v3/{path}")), Some(rpc));
            }
        }
    }

    #[test]
    fn paths_are_found_in_either_prefix_and_with_escapes_and_not_otherwise() {
        assert_eq!(find("/v3/kv/put"), Some(Rpc::Put));
        assert_eq!(find("/v3beta/kv/put"), Some(Rpc::Put));
        assert_eq!(find("/v3/kv/%70ut"), Some(Rpc::Put));
        for path in ["/v3/kv/put/", "/v3/kv", "/v3/", "/v3alpha/kv/put", "/v3/kv/%zzput", "/v3/KV/put"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
