//! From protobuf to JSON as etcd 3.6 prints it: field names as in the `.proto` files, 64-bit numbers as texts, bytes as
//! padded standard base64, enums by name, nothing that is unset, no spaces.

use std::fmt::Write;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

use crate::api::error::ApiError;
use crate::work::{Lane, Source, Undone, driven};

/// Answers larger than this are printed away from the serving thread, bytes.
const BIG: usize = 256 * 1024;

/// One message as JSON.
///
/// # Errors
/// A message that does not fit its description, which is a fault of ours.
pub async fn message(printer: &Printer, encoded: Bytes, shape: &MessageDescriptor) -> Result<String, Status> {
    if encoded.len() < BIG {
        return print(encoded, shape.clone());
    }
    let shape = shape.clone();
    let Printer { lane, source } = printer.clone();
    // A task: the lines of a stream are asked for only as their reader takes them.
    let printed = driven(async move { lane.run(source, None, move |_| print(encoded, shape)).await }).await;
    printed.unwrap_or(Err(Undone::Stopped)).unwrap_or_else(|undone| {
        Err(match undone {
            Undone::Late | Undone::TooMany => ApiError::TooManyRequests.into(),
            Undone::Stopped => ApiError::Stopped.into(),
        })
    })
}

/// Where large answers are printed, and for whom.
#[derive(Debug, Clone)]
pub struct Printer {
    /// Turns at it.
    pub lane: Lane,
    /// The connection.
    pub source: Source,
}

fn print(encoded: Bytes, shape: MessageDescriptor) -> Result<String, Status> {
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "failed to print an answer of the gateway");
        Status::internal("failed to print the answer as JSON; the cause is in this member's log")
    };
    let message = DynamicMessage::decode(shape, encoded).map_err(|error| failed(&error))?;
    let mut printed = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut printed), &options)
        .map_err(|error| failed(&error))?;
    String::from_utf8(printed).map_err(|error| failed(&error))
}

/// An error as JSON: `{"code":3,"message":"…"}`.
pub fn status(status: &Status) -> String {
    let mut printed = format!("{{\"code\":{}", status.code() as i32);
    if !status.message().is_empty() {
        // A text always becomes JSON, and writing to a string cannot fail.
        let _infallible = write!(printed, ",\"message\":{}", serde_json::Value::from(status.message()));
    }
    printed.push('}');
    printed
}

/// One line of a stream: `{"result":…}` or `{"error":…}`. Go escapes here what could be HTML.
pub fn line(kind: &str, json: &str) -> Bytes {
    let mut line = String::with_capacity(json.len() + 16);
    let _infallible = write!(line, "{{\"{kind}\":");
    let mut rest = json;
    while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        let (plain, special) = rest.split_at(at);
        line.push_str(plain);
        let mut characters = special.chars();
        let code = characters.next().map_or(0, u32::from);
        let _infallible = write!(line, "\\u{code:04x}");
        rest = characters.as_str();
    }
    line.push_str(rest);
    line.push_str("}\n");
    line.into()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::gateway::schema;
    use crate::proto::etcdserverpb as pb;
    use crate::proto::mvccpb::{Event, KeyValue, event::EventType};

    fn printed(service: &str, method: &str, message: &impl Message) -> String {
        let shape = schema::shape(service, method).expect("a method");
        print(message.encode_to_vec().into(), shape.output).expect("printable")
    }

    #[test]
    fn answers_are_printed_as_etcd_prints_them() {
        let header = || Some(pb::ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: -1, raft_term: 0 });
        let kv = KeyValue { key: "k\u{fb}\u{ff}".into(), mod_revision: 7, ..Default::default() };
        let range = pb::RangeResponse { header: header(), kvs: vec![kv.encode_to_vec().into()], more: true, count: 2 };
        assert_eq!(
            printed("etcdserverpb.KV", "Range", &range),
            r#"{"header":{"cluster_id":"18446744073709551615","member_id":"1","revision":"-1"},"kvs":[{"key":"a8O7w78=","mod_revision":"7"}],"more":true,"count":"2"}"#
        );
        let event = Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None };
        let watch = pb::WatchResponse { events: vec![event.encode_to_vec().into()], ..Default::default() };
        assert_eq!(
            printed("etcdserverpb.Watch", "Watch", &watch),
            r#"{"events":[{"type":"DELETE","kv":{"key":"a8O7w78=","mod_revision":"7"}}]}"#
        );
        let status = pb::StatusResponse {
            db_size: 5,
            errors: vec!["a \"b\"".to_owned()],
            downgrade_info: Some(pb::DowngradeInfo::default()),
            ..Default::default()
        };
        assert_eq!(
            printed("etcdserverpb.Maintenance", "Status", &status),
            r#"{"dbSize":"5","errors":["a \"b\""],"downgradeInfo":{}}"#
        );
        let hash = pb::HashKvResponse { hash: u32::MAX, compact_revision: -1, ..Default::default() };
        assert_eq!(
            printed("etcdserverpb.Maintenance", "HashKV", &hash),
            r#"{"hash":4294967295,"compact_revision":"-1"}"#
        );
        let unknown = pb::AlarmResponse { header: None, alarms: vec![pb::AlarmMember { member_id: 1, alarm: 7 }] };
        assert_eq!(
            printed("etcdserverpb.Maintenance", "Alarm", &unknown),
            r#"{"alarms":[{"memberID":"1","alarm":7}]}"#
        );
        assert_eq!(printed("etcdserverpb.Maintenance", "Defragment", &pb::DefragmentResponse::default()), "{}");
    }

    #[test]
    fn errors_and_lines_are_printed_as_etcd_prints_them() {
        assert_eq!(status(&Status::invalid_argument("a \"b\" <c>")), r#"{"code":3,"message":"a \"b\" <c>"}"#);
        assert_eq!(status(&Status::unimplemented("")), r#"{"code":12}"#);
        assert_eq!(line("result", r#"{"a":"<b>&\u2028"}"#), "{\"result\":{\"a\":\"\\u003cb\\u003e\\u0026\\u2028\"}}\n");
    }
}
