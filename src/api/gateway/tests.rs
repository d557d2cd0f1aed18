//! Reading JSON: what becomes of good requests, and etcd's sentences for bad ones. The sentences were taken from the wire
//! of etcd 3.6.14 (whose builds write either kind of space after `proto:`).

use std::fmt::Debug;

use prost::Message;

use super::{read, schema};
use crate::proto::etcdserverpb as pb;

fn encode(service: &str, method: &str, text: &[u8]) -> Result<Vec<u8>, String> {
    let shape = schema::shape(service, method).expect("a method");
    read::message(text, &shape.input).map_err(|error| error.to_string())
}

fn decoded<M: Message + Default>(service: &str, method: &str, text: &[u8]) -> M {
    let text_shown = String::from_utf8_lossy(text);
    let encoded = encode(service, method, text).unwrap_or_else(|error| panic!("{text_shown}: {error}"));
    M::decode(encoded.as_slice()).expect("protobuf")
}

fn range(text: &[u8]) -> pb::RangeRequest {
    decoded("etcdserverpb.KV", "Range", text)
}

fn same<M: Message + Default + PartialEq + Debug>(service: &str, method: &str, text: &str, expected: &M) {
    assert_eq!(&decoded::<M>(service, method, text.as_bytes()), expected, "{text}");
}

#[test]
fn numbers_may_be_numbers_or_texts() {
    for limit in ["1", "\"1\"", "1.0", "\"1e0\"", "10e-1", "\"1,2\""] {
        let text = format!(r#"{{"key":"Zm9v","limit":{limit}}}"#);
        assert_eq!(range(text.as_bytes()).limit, 1, "{text}");
    }
    same(
        "etcdserverpb.Cluster",
        "MemberRemove",
        r#"{"ID":"18446744073709551615"}"#,
        &pb::MemberRemoveRequest { id: u64::MAX },
    );
    same("etcdserverpb.Lease", "LeaseGrant", r#"{"TTL":"-3","ID":-7}"#, &pb::LeaseGrantRequest { ttl: -3, id: -7 });
}

#[test]
fn names_may_be_spelled_either_way_and_strangers_are_skipped() {
    let expected =
        pb::RangeRequest { key: "foo".into(), range_end: "fop".into(), keys_only: true, ..Default::default() };
    for text in [
        r#"{"key":"Zm9v","range_end":"Zm9w","keys_only":true}"#,
        r#"{"key":"Zm9v","rangeEnd":"Zm9w","keysOnly":true}"#,
        r#"{"no":{"a":[1,{"b":"]"}],"c":null},"key":"Zm9v","[ext]":1,"range_end":"Zm9w","@type":"x","keys_only":true}"#,
        "{ \"key\" : \"\\u005am9v\" ,\r\n\t\"range_end\":\"Zm9w\",\"keys_only\":true}",
    ] {
        assert_eq!(range(text.as_bytes()), expected, "{text}");
    }
    let lower = decoded::<pb::LeaseGrantRequest>("etcdserverpb.Lease", "LeaseGrant", br#"{"ttl":1,"id":2}"#);
    assert_eq!(lower, pb::LeaseGrantRequest::default(), "TTL and ID have one spelling");
}

#[test]
fn bytes_may_be_in_either_alphabet_with_or_without_padding() {
    for (text, bytes) in [
        ("Zm9v", "foo".as_bytes()),
        ("Zm8=", b"fo"),
        ("Zm8", b"fo"),
        ("-_8=", &[0xfb, 0xff]),
        ("+/8", &[0xfb, 0xff]),
        ("Zh==", b"f"),
        (r"Zm\n9v", b"foo"),
        ("", b""),
    ] {
        assert_eq!(range(format!(r#"{{"key":"{text}"}}"#).as_bytes()).key, bytes, "{text}");
    }
}

#[test]
fn enums_may_be_names_or_numbers_and_unknown_names_are_unset() {
    for (text, order) in [("\"DESCEND\"", 2), ("2", 2), ("9", 9), ("\"NOPE\"", 0), ("null", 0)] {
        assert_eq!(range(format!(r#"{{"sort_order":{text}}}"#).as_bytes()).sort_order, order, "{text}");
    }
    let filters = br#"{"create_request":{"filters":["NODELETE",0,"NOPE"]}}"#;
    let watch = decoded::<pb::WatchRequest>("etcdserverpb.Watch", "Watch", filters);
    let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = watch.request_union else { panic!("{watch:?}") };
    assert_eq!(create.filters, [1, 0]);
}

#[test]
fn unions_lists_and_nulls_are_read() {
    let text = r#"{"compare":[{"key":"YQ==","version":null,"mod_revision":"0"}],"success":[{"requestPut":{"key":"YQ=="}},{"requestNope":{}}],"failure":null}"#;
    let txn = decoded::<pb::TxnRequest>("etcdserverpb.KV", "Txn", text.as_bytes());
    assert_eq!(txn.compare[0].target_union, Some(pb::compare::TargetUnion::ModRevision(0)));
    assert!(matches!(txn.success[0].request, Some(pb::request_op::Request::RequestPut(_))), "{txn:?}");
    assert_eq!((txn.success[1].request.as_ref(), txn.failure.len()), (None, 0));
}

#[test]
fn what_does_not_fit_is_told_in_etcds_words() {
    let cases: &[(&str, &[u8], &str)] = &[
        ("Range", br#"{"limit":1.5}"#, "(line 1:10): invalid value for int64 field limit: 1.5"),
        ("Range", br#"{"limit":" 1"}"#, r#"(line 1:10): invalid value for int64 field limit: " 1""#),
        ("Range", br#"{"limit":""}"#, r#"(line 1:10): invalid value for int64 field limit: """#),
        ("Range", br#"{"limit":true}"#, "(line 1:10): invalid value for int64 field limit: true"),
        (
            "Range",
            br#"{"limit":9223372036854775808}"#,
            "(line 1:10): invalid value for int64 field limit: 9223372036854775808",
        ),
        ("Range", br#"{"sort_order":1.5}"#, "(line 1:15): invalid value for enum field sortOrder: 1.5"),
        ("Range", br#"{"serializable":"true"}"#, r#"(line 1:17): invalid value for bool field serializable: "true""#),
        ("Range", br#"{"key":"Zm9v","key":"Zm9v"}"#, r#"(line 1:15): duplicate field "key""#),
        ("Range", br#"{"range_end":"Zm9v","rangeEnd":"Zm9v"}"#, r#"(line 1:21): duplicate field "rangeEnd""#),
        ("Range", br#"{"key":"Zm9v="}"#, r#"(line 1:8): invalid value for bytes field key: "Zm9v=""#),
        ("Range", br#"{"key":"+_8="}"#, r#"(line 1:8): invalid value for bytes field key: "+_8=""#),
        ("Range", br#"{"key":["Zm9v"]}"#, "(line 1:8): invalid value for bytes field key: ["),
        ("Range", br#"{"key":"\ud800x"}"#, "unexpected EOF"),
        ("Range", br#"{"key":"\ud83d\ude00"}"#, r#"(line 1:8): invalid value for bytes field key: "\ud83d\ude00""#),
        ("Range", b"{\"key\":\"\xff\"}", "syntax error (line 1:8): invalid UTF-8 in string"),
        ("Range", b"{\"n\xffo\":1}", "syntax error (line 1:2): invalid UTF-8 in string"),
        (
            "Range",
            "{\n  \"k\": 1,\n  \"é\": 2, \"key\": 3}".as_bytes(),
            "(line 3:18): invalid value for bytes field key: 3",
        ),
        ("Range", br#""text""#, r#"syntax error (line 1:1): unexpected token "text""#),
        ("Range", b"null", "syntax error (line 1:1): unexpected token null"),
        ("Range", b"[]", "syntax error (line 1:1): unexpected token ["),
        ("Txn", br#"{"success":{}}"#, "syntax error (line 1:12): unexpected token {"),
        ("Txn", br#"{"success":[null]}"#, "syntax error (line 1:13): unexpected token null"),
        (
            "Txn",
            br#"{"compare":[{"key":"YQ==","version":"0","mod_revision":"1"}]}"#,
            r#"(line 1:41): error parsing "mod_revision", oneof etcdserverpb.Compare.target_union is already set"#,
        ),
    ];
    for (method, text, sentence) in cases {
        let refused = encode("etcdserverpb.KV", method, text);
        assert_eq!(refused, Err(format!("proto: {sentence}")), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_request_nested_without_end_is_refused_and_not_followed() {
    let levels = 3_000;
    let text = format!("{}{{}}{}", r#"{"success":[{"request_txn":"#.repeat(levels), "}]}".repeat(levels));
    assert_eq!(
        encode("etcdserverpb.KV", "Txn", text.as_bytes()),
        Err("proto: exceeded max recursion depth".to_owned())
    );
}
