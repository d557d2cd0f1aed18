//! What may differ between two correct servers: ids, terms and the order of ties. Everything else is compared.

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::KeyValue;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;
use prost::Message;

/// Keeps the revision only.
pub fn header(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

/// A sort by something other than the key leaves ties in any order: put ties in key order, and where a limit cuts within
/// ties compare the sort values alone.
pub fn range(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    header(&mut response.header);
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    if target == SortTarget::Key {
        return;
    }
    let mut kvs: Vec<KeyValue> =
        response.kvs.iter().map(|kv| KeyValue::decode(kv.clone()).expect("a key-value")).collect();
    let value = |kv: &KeyValue| match target {
        SortTarget::Version => kv.version.to_be_bytes().to_vec(),
        SortTarget::Create => kv.create_revision.to_be_bytes().to_vec(),
        SortTarget::Mod => kv.mod_revision.to_be_bytes().to_vec(),
        SortTarget::Value | SortTarget::Key => kv.value.to_vec(),
    };
    let descending = request.sort_order == SortOrder::Descend as i32;
    let in_order = kvs
        .windows(2)
        .all(|pair| if descending { value(&pair[0]) >= value(&pair[1]) } else { value(&pair[0]) <= value(&pair[1]) });
    assert!(in_order, "not sorted as {request:?} asks: {kvs:?}");
    if response.more {
        kvs = kvs.iter().map(|kv| KeyValue { value: value(kv).into(), ..Default::default() }).collect();
    } else {
        kvs.sort_by(|left, right| left.key.cmp(&right.key));
    }
    response.kvs = kvs.iter().map(|kv| kv.encode_to_vec().into()).collect();
}

pub fn txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    header(&mut response.header);
    let taken = if response.succeeded { &request.success } else { &request.failure };
    for (operation, answer) in taken.iter().zip(&mut response.responses) {
        match (&operation.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => range(request, response),
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => txn(request, response),
            _ => {}
        }
    }
}
