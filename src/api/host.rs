//! The `Host` header: which host a request is addressed to, and requests that do not say so as HTTP/1.1 asks. Those are
//! refused before anything else is looked at, in the words of Go's HTTP server, which ends the connection with it.

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use super::body::ClientBody;
use super::http::typed;

/// What the sentences begin with and a status line has already.
const STATUS: &str = "400 ";
/// What Go says of a `Host` that is missing, and of one that is none. It has no words for two of them.
const MISSING: &str = "400 Bad Request: missing required Host header";
const MANY: &str = "400 Bad Request";
const MALFORMED: &str = "400 Bad Request: malformed Host header";

/// The answer to a request on HTTP/1 whose `Host` is missing, there twice, or none; HTTP/2 has `:authority` instead.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Response<ClientBody>> {
    if request.version() > Version::HTTP_11 {
        return None;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let said = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() < Version::HTTP_11 => return None,
        (None, _) => MISSING,
        (Some(_), Some(_)) => MANY,
        (Some(host), None) if host.as_bytes().iter().all(|byte| may_be_in_a_host(*byte)) => return None,
        (Some(_), None) => MALFORMED,
    };
    let mut response = typed(StatusCode::BAD_REQUEST, HeaderValue::from_static("text/plain; charset=utf-8"), said);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    // The sentence is in the status line too.
    let reason = ReasonPhrase::from_static(&said.as_bytes()[STATUS.len()..]);
    response.extensions_mut().insert(reason);
    Some(response)
}

/// The host a request is addressed to, without its port.
pub(super) fn name<B>(request: &Request<B>) -> String {
    let header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str).or_else(header).unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Letters, digits, and what RFC 3986 lets stand in an authority.
fn may_be_in_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, hosts: &[&'static str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri("/health").body(()).expect("a request");
        for host in hosts {
            request.headers_mut().append(header::HOST, HeaderValue::from_static(host));
        }
        request
    }

    #[test]
    fn hosts_are_read_without_their_port() {
        let host = |value: &'static str| name(&request(Version::HTTP_11, &[value]));
        assert_eq!(host("a.example:2379"), "a.example");
        assert_eq!(host("a.example"), "a.example");
        assert_eq!(host("[::1]:2379"), "::1");
        assert_eq!(host("[::1]"), "::1");
    }

    #[test]
    fn a_request_on_http_1_1_names_one_host() {
        let said = |version, hosts: &[&'static str]| {
            refuse(&request(version, hosts)).map(|response| {
                assert_eq!(response.status(), StatusCode::BAD_REQUEST);
                assert_eq!(response.headers()["connection"], "close");
                let reason = response.extensions().get::<ReasonPhrase>().expect("a reason");
                format!("400 {}", String::from_utf8_lossy(reason.as_bytes()))
            })
        };
        let refused = |sentence: &str| Some(sentence.to_owned());
        assert_eq!(said(Version::HTTP_11, &[]), refused(MISSING));
        assert_eq!(said(Version::HTTP_11, &["a", "b"]), refused(MANY));
        assert_eq!(said(Version::HTTP_11, &["a", "a"]), refused(MANY));
        assert_eq!(said(Version::HTTP_10, &["a", "b"]), refused(MANY));
        assert_eq!(said(Version::HTTP_11, &["a/b"]), refused(MALFORMED));
        assert_eq!(said(Version::HTTP_11, &["a b"]), refused(MALFORMED));
        assert_eq!(said(Version::HTTP_10, &[]), None);
        assert_eq!(said(Version::HTTP_2, &[]), None, "there it is :authority");
        for host in ["a", "a.example:2379", "[::1]:2379", "", "%25eth0"] {
            assert_eq!(said(Version::HTTP_11, &[host]), None, "{host}");
        }
    }
}
