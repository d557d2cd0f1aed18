//! The fuzz target for v3 requests, and the in-memory world it shares with the v2 target; see `src/fuzzing.rs`.

use bytes::Bytes;
use prost::Message;

use super::apply::apply;
use super::auth::{self, Identity};
use super::command::{self, AuthCommand, Command, LeaseCheckpoints, LeaseGrant, LeaseRevoke};
use super::effects::{Effects, Position, Refusal};
use super::kv::{self, Failure};
use super::memory::MemoryView;
use super::view::View;
use super::{check, quota, txn};
use crate::proto::etcdserverpb as pb;

/// Maximum operations in a transaction; the default of `--max-txn-ops`.
const MAX_TXN_OPS: usize = 128;
const TERM: u64 = 5;
/// Lease id for a grant that names none.
const CHOSEN_LEASE: i64 = 77;

/// A store in memory.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) view: MemoryView,
    index: u64,
    user: String,
}

impl World {
    fn by(&self) -> Identity {
        match self.user.as_str() {
            "" => Identity::nobody(),
            user => Identity { user: user.to_owned(), revision: self.view.auth().revision() },
        }
    }

    /// Encodes, decodes and applies a command, as the log does. Debug builds check the effects against every invariant,
    /// including that a refusal changes nothing.
    pub(crate) fn run(&mut self, command: Command) -> Effects {
        let by = self.by();
        let (_cost, _deletions) = (quota::cost(&command), quota::deletions(&command));
        let entry = command::encode_as(command.clone(), by.user.clone(), by.revision);
        let (envelope, read) = command::decode(entry).expect("whatever is proposed reads back");
        assert_eq!((envelope.user, envelope.auth_revision, &read), (by.user.clone(), by.revision, &command));
        self.index += 1;
        let at = Position { term: TERM, index: self.index };
        let effects = apply(&self.view, &by, &command, at).expect("a view in memory does not fail");
        self.view.absorb(&effects);
        effects
    }

    fn reads(&self, answer: Result<impl Message, Failure>) {
        match answer {
            Ok(answer) => drop(answer.encode_to_vec()),
            Err(Failure::Refusal(refusal)) => assert!(!refusal.to_string().is_empty()),
            Err(Failure::View(error)) => panic!("a view in memory failed: {error}"),
        }
    }

    fn permitted(&self, allowed: impl FnOnce(&Identity) -> Result<(), Failure>) -> bool {
        !self.view.auth_is_on() || allowed(&self.by()).is_ok()
    }
}

/// A sequence of requests, each a kind byte, two length bytes and the message.
pub(crate) fn requests(data: &[u8]) {
    let mut world = World::default();
    let mut rest = Bytes::copy_from_slice(data);
    while rest.len() > 3 {
        let head = rest.split_to(3);
        let length = usize::from(u16::from_le_bytes([head[1], head[2]])).min(rest.len());
        one(&mut world, head[0], rest.split_to(length));
    }
}

/// Handles one request as the client port does: decode, check, then read or propose.
fn one(world: &mut World, kind: u8, message: Bytes) {
    let proposed = match kind % 14 {
        0 => decoded(message).filter(|put| check::put(put).is_ok()).map(Command::Put),
        1 => decoded(message).filter(|delete| check::delete_range(delete).is_ok()).map(Command::DeleteRange),
        2 => {
            let request: Option<pb::TxnRequest> = decoded(message);
            let request = request.filter(|request| check::txn(request, MAX_TXN_OPS).is_ok());
            match request {
                Some(request) if txn::is_read_only(&request) => {
                    let _serializable = txn::is_serializable(&request);
                    if world.permitted(|by| auth::check::txn(&world.view.auth(), &world.view, by, &request)) {
                        world.reads(txn::read_only(&world.view, &request));
                    }
                    None
                }
                request => request.map(Command::Txn),
            }
        }
        3 => decoded(message).map(Command::Compact),
        4 => decoded::<pb::LeaseGrantRequest>(message).filter(|grant| check::lease_grant(grant).is_ok()).map(|grant| {
            let id = if grant.id == 0 { CHOSEN_LEASE } else { grant.id };
            Command::LeaseGrant(LeaseGrant { id, ttl: grant.ttl.max(1) })
        }),
        5 => decoded::<pb::LeaseRevokeRequest>(message)
            .map(|revoke| Command::LeaseRevoke(LeaseRevoke { ids: vec![revoke.id], ..Default::default() })),
        6 => decoded(message).map(Command::Alarm),
        7 => {
            let request: Option<pb::RangeRequest> = decoded(message);
            if let Some(request) = request.filter(|request| check::range(request).is_ok())
                && world.permitted(|by| Ok(auth::check::read(&world.view.auth(), by, &request)?))
            {
                world.reads(kv::range(&world.view, &request));
            }
            None
        }
        8 => decoded(message).filter(|change: &AuthCommand| change.action.is_some()).map(Command::Auth),
        9 => decoded::<LeaseRevoke>(message).map(Command::LeaseRevoke),
        10 => decoded::<LeaseCheckpoints>(message).map(Command::LeaseCheckpoint),
        11 => {
            world.user = String::from_utf8_lossy(&message).into_owned();
            None
        }
        12 => {
            // gRPC decodes it before our code sees it.
            let _watch: Option<pb::WatchRequest> = decoded(message);
            None
        }
        // Unchecked commands also have one deterministic outcome. Bytes that are no v2 command are fatal by design.
        _ => {
            let decoded = command::decode(message).ok().map(|(_, command)| command);
            decoded.filter(|command| !matches!(command, Command::V2(_)))
        }
    };
    if let Some(command) = proposed {
        let before = world.view.revision();
        let effects = world.run(command);
        let refused: Option<Refusal> = effects.outcome.err();
        assert!(refused.is_none() || world.view.revision() == before, "a refusal moved the revision");
    }
}

fn decoded<M: Message + Default>(message: Bytes) -> Option<M> {
    M::decode(message).ok()
}
