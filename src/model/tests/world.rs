//! Helpers for the tests of the rules: request builders, an in-memory store to run them on, and proptest strategies.

use bytes::Bytes;
use proptest::prelude::*;

use crate::model::apply::apply;
use crate::model::auth::{Identity, ROOT};
use crate::model::command::{Command, LeaseGrant, LeaseRevoke};
use crate::model::effects::{Effects, Position, Refusal, Response};
use crate::model::memory::MemoryView;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::proto::mvccpb::KeyValue;

/// The term of every entry that [`World::run`] applies.
pub(crate) const TERM: u64 = 5;

/// An in-memory store to which commands are applied one after the other.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) view: MemoryView,
    index: u64,
}

impl World {
    pub(crate) fn run(&mut self, command: &Command) -> Effects {
        self.run_as(&Identity::nobody(), command)
    }

    /// Runs a command as root.
    pub(crate) fn as_root(&mut self, command: &Command) -> Result<Response, Refusal> {
        use crate::model::view::View;
        let by = Identity { user: ROOT.to_owned(), revision: self.view.auth().revision() };
        self.run_as(&by, command).outcome
    }

    pub(crate) fn run_as(&mut self, by: &Identity, command: &Command) -> Effects {
        self.index += 1;
        let effects = apply(&self.view, by, command, Position { term: TERM, index: self.index }).unwrap();
        self.view.absorb(&effects);
        effects
    }

    /// Runs a command that must succeed.
    pub(crate) fn done(&mut self, command: &Command) -> Response {
        self.run(command).outcome.unwrap()
    }

    /// Runs a command that must be refused.
    pub(crate) fn refused(&mut self, command: &Command) -> Refusal {
        let before = self.view.clone();
        let refusal = self.run(command).outcome.unwrap_err();
        assert_eq!(before, self.view, "a refusal changed something");
        refusal
    }

    pub(crate) fn put(&mut self, key: &'static str, value: &'static str) {
        self.done(&Command::Put(put(key, value)));
    }

    pub(crate) fn put_leased(&mut self, key: &'static str, lease: i64) {
        self.done(&Command::Put(PutRequest { lease, ..put(key, "v") }));
    }

    pub(crate) fn delete(&mut self, key: &'static str) {
        self.done(&Command::DeleteRange(delete(key, "")));
    }

    pub(crate) fn grant(&mut self, id: i64) {
        self.done(&Command::LeaseGrant(LeaseGrant { id, ttl: 60 }));
    }

    /// The live record of a key, decoded.
    pub(crate) fn kv(&self, key: &str) -> Option<KeyValue> {
        use crate::model::view::View;
        self.view.get(key.as_bytes()).unwrap().map(|record| record.decode().unwrap())
    }
}

pub(crate) fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(crate) fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: text(key), value: text(value), ..PutRequest::default() }
}

pub(crate) fn delete(key: &'static str, end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: text(key), range_end: text(end), prev_kv: false }
}

pub(crate) fn range(key: &'static str, end: &'static str) -> RangeRequest {
    RangeRequest { key: text(key), range_end: text(end), ..RangeRequest::default() }
}

pub(crate) fn put_op(request: PutRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(request)) }
}

pub(crate) fn delete_op(request: DeleteRangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

pub(crate) fn range_op(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request)) }
}

pub(crate) fn txn_op(request: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(request)) }
}

/// A transaction without compares.
pub(crate) fn always(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

/// A transaction nested `depth` deep, the outermost counted, around one put.
pub(crate) fn nest(depth: usize) -> TxnRequest {
    (1..depth).fold(always(vec![put_op(put("k", "v"))]), |inner, _| always(vec![txn_op(inner)]))
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just("a"), Just("b"), Just("ba"), Just("c"), Just("d")].prop_map(text)
}

fn any_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(""), 1 => Just("\0"), 1 => Just("b"), 2 => Just("c"), 1 => Just("e")].prop_map(text)
}

fn any_lease() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0i64), 1 => 1..4i64]
}

pub(crate) fn any_put() -> impl Strategy<Value = PutRequest> {
    let value = prop_oneof![Just(""), Just("1"), Just("2")].prop_map(text);
    let flags = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (any_key(), value, any_lease(), flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| {
        let value = if ignore_value { Bytes::new() } else { value };
        let lease = if ignore_lease { 0 } else { lease };
        PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
    })
}

pub(crate) fn any_delete() -> impl Strategy<Value = DeleteRangeRequest> {
    let parts = (any_key(), any_end(), any::<bool>());
    parts.prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest { key, range_end, prev_kv })
}

/// Revisions near those that a short run reaches, and often the default.
fn any_revision() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 3 => -2..12i64]
}

pub(crate) fn any_range() -> impl Strategy<Value = RangeRequest> {
    // Half of all ranges are wide, so that limits and sort orders matter.
    let span = prop_oneof![(any_key(), any_end()), Just((text("a"), text("\0")))];
    let keys = (span, -1..4i64, any_revision());
    let shape = (0..3i32, 0..5i32, any::<bool>(), prop::bool::weighted(0.1), any::<bool>());
    let filters = (any_revision(), any_revision(), any_revision(), any_revision());
    (keys, shape, filters, prop::bool::weighted(0.3)).prop_map(|(keys, shape, filters, filtered)| {
        let ((key, range_end), limit, revision) = keys;
        let (sort_order, sort_target, keys_only, count_only, serializable) = shape;
        let mut request = RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable,
            keys_only,
            count_only,
            ..RangeRequest::default()
        };
        if filtered {
            request.min_mod_revision = filters.0;
            request.max_mod_revision = filters.1;
            request.min_create_revision = filters.2;
            request.max_create_revision = filters.3;
        }
        request
    })
}

pub(crate) fn any_compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        Just(None),
        (-1..8i64).prop_map(|number| Some(TargetUnion::Version(number))),
        (-1..8i64).prop_map(|number| Some(TargetUnion::CreateRevision(number))),
        (-1..8i64).prop_map(|number| Some(TargetUnion::ModRevision(number))),
        (0..4i64).prop_map(|number| Some(TargetUnion::Lease(number))),
        prop_oneof![Just(""), Just("1"), Just("2")].prop_map(|value| Some(TargetUnion::Value(text(value)))),
    ];
    // Includes one unknown number of both enums.
    (0..5i32, 0..6i32, any_key(), any_end(), operand).prop_map(|(result, target, key, range_end, target_union)| {
        Compare { result, target, key, range_end, target_union }
    })
}

/// Any transaction, up to three deep; some break the rules of `check`.
pub(crate) fn any_txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => any_put().prop_map(put_op),
        2 => any_delete().prop_map(delete_op),
        3 => any_range().prop_map(range_op),
    ];
    let txn = |op: BoxedStrategy<RequestOp>| {
        let compares = prop::collection::vec(any_compare(), 0..2);
        let branch = || prop::collection::vec(op.clone(), 0..4);
        (compares, branch(), branch()).prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    };
    let op = leaf.prop_recursive(2, 12, 4, move |inner| txn(inner).prop_map(txn_op));
    txn(op.boxed())
}

pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => any_put().prop_map(Command::Put),
        1 => any_delete().prop_map(Command::DeleteRange),
        6 => any_txn().prop_map(Command::Txn),
        1 => any_revision().prop_map(|revision| Command::Compact(CompactionRequest { revision, physical: false })),
        2 => (1..4i64).prop_map(|id| Command::LeaseGrant(LeaseGrant { id, ttl: 60 })),
        1 => (1..4i64, 0..2u64).prop_map(|(id, expired)| {
            Command::LeaseRevoke(LeaseRevoke { ids: vec![id], expired_by_term: expired * TERM, ..LeaseRevoke::default() })
        }),
    ]
}

/// A transaction of ranges only.
pub(crate) fn any_read_txn() -> impl Strategy<Value = TxnRequest> {
    let branch = || prop::collection::vec(any_range().prop_map(range_op), 0..4);
    (prop::collection::vec(any_compare(), 0..2), branch(), branch())
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}
