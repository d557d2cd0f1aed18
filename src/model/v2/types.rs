//! v2 commands, nodes, events and errors, and their encoding in the log and in the store.

/// Nanoseconds since 1970, UTC.
pub type UnixNanos = i64;

/// One mutation. Everything that depends on the clock is decided by the proposer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do; see [`Verb`].
    #[prost(enumeration = "Verb", tag = "1")]
    pub verb: i32,
    /// Absolute, clean path: `/` or `/a/b`. Ignored by [`Verb::Expire`].
    #[prost(bytes = "bytes", tag = "2")]
    pub path: ::bytes::Bytes,
    /// Make or delete a directory.
    #[prost(bool, tag = "3")]
    pub dir: bool,
    /// New value.
    #[prost(bytes = "bytes", tag = "4")]
    pub value: ::bytes::Bytes,
    /// When the node expires; absent = permanent.
    #[prost(int64, optional, tag = "5")]
    pub expiration: Option<UnixNanos>,
    /// Keep the value and wake no watcher.
    #[prost(bool, tag = "6")]
    pub refresh: bool,
    /// Condition on the value; empty = none.
    #[prost(bytes = "bytes", tag = "7")]
    pub prev_value: ::bytes::Bytes,
    /// Condition on the modified index; 0 = none.
    #[prost(uint64, tag = "8")]
    pub prev_index: u64,
    /// Delete a directory with everything below it.
    #[prost(bool, tag = "9")]
    pub recursive: bool,
    /// The proposer's clock: what remaining seconds are counted from, and for [`Verb::Expire`] the cutoff.
    #[prost(int64, tag = "10")]
    pub now: UnixNanos,
    /// The change of [`Verb::Auth`].
    #[prost(message, optional, tag = "11")]
    pub auth: Option<super::auth::types::Command>,
}

/// The mutations, named as the events they cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Verb {
    /// Changes nothing: a read that must pass through the log.
    Sync = 0,
    /// PUT.
    Set = 1,
    /// PUT with `prevExist=false`.
    Create = 2,
    /// PUT with `prevExist=true`.
    Update = 3,
    /// PUT with a condition.
    CompareAndSwap = 4,
    /// POST: a child named after the new index.
    CreateInOrder = 5,
    /// DELETE.
    Delete = 6,
    /// DELETE with a condition.
    CompareAndDelete = 7,
    /// The leader's sweep: deletes what expired up to `now`.
    Expire = 8,
    /// A change of users, roles or the switch of authentication.
    Auth = 9,
}

/// A stored file or directory. Its path is its key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    /// Directories have no value.
    #[prost(bool, tag = "1")]
    pub dir: bool,
    /// Value of a file.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: ::bytes::Bytes,
    /// Index of the write that created it.
    #[prost(uint64, tag = "3")]
    pub created: u64,
    /// Index of the last write of it.
    #[prost(uint64, tag = "4")]
    pub modified: u64,
    /// When it expires; absent = permanent.
    #[prost(int64, optional, tag = "5")]
    pub expiration: Option<UnixNanos>,
}

/// A node as it appears in events and answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Absolute path; `/` for the root.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: ::bytes::Bytes,
    /// Absent on directories, and on the node of a deletion.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub value: Option<::bytes::Bytes>,
    /// Whether it is a directory.
    #[prost(bool, tag = "3")]
    pub dir: bool,
    /// Absent when permanent.
    #[prost(int64, optional, tag = "4")]
    pub expiration: Option<UnixNanos>,
    /// Remaining whole seconds, rounded up; 0 is not shown.
    #[prost(int64, tag = "5")]
    pub ttl: i64,
    /// 0 on the root.
    #[prost(uint64, tag = "6")]
    pub modified: u64,
    /// 0 on the root.
    #[prost(uint64, tag = "7")]
    pub created: u64,
    /// Children, when listed.
    #[prost(message, repeated, tag = "8")]
    pub nodes: Vec<Node>,
}

/// What a mutation did.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// etcd's word: `set`, `create`, `update`, `compareAndSwap`, `delete`, `compareAndDelete`, `expire`.
    #[prost(string, tag = "1")]
    pub action: String,
    /// The node after it.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// The node before it.
    #[prost(message, optional, tag = "3")]
    pub prev_node: Option<Node>,
    /// A refresh: occupies a place in the window, but is never sent to clients.
    #[prost(bool, tag = "4")]
    pub refresh: bool,
    /// Paths deleted below the node, without the node itself. Only on live events, not in the window.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub removed: Vec<::bytes::Bytes>,
}

impl Event {
    /// The event's own index: the modified index of its node.
    pub fn index(&self) -> u64 {
        self.node.as_ref().map_or(0, |node| node.modified)
    }

    /// Whether the node is new: answered with 201.
    pub fn is_created(&self) -> bool {
        self.action == "create" || (self.action == "set" && self.prev_node.is_none())
    }
}

/// Why a mutation or a read was refused: etcd's v2 error.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Error {
    /// etcd's error code, such as 100.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// etcd's `cause`, usually a path; empty = not sent.
    #[prost(bytes = "bytes", tag = "2")]
    pub cause: ::bytes::Bytes,
    /// Index of the keyspace when it was refused.
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

/// Codes of [`Error`], by etcd's names.
pub mod code {
    /// Key not found.
    pub const KEY_NOT_FOUND: u32 = 100;
    /// Compare failed.
    pub const TEST_FAILED: u32 = 101;
    /// Not a file.
    pub const NOT_FILE: u32 = 102;
    /// Not a directory.
    pub const NOT_DIR: u32 = 104;
    /// Key already exists.
    pub const NODE_EXIST: u32 = 105;
    /// Root is read only.
    pub const ROOT_READ_ONLY: u32 = 107;
    /// Directory not empty.
    pub const DIR_NOT_EMPTY: u32 = 108;
    /// The request requires user authentication.
    pub const UNAUTHORIZED: u32 = 110;
    /// The event in requested index is outdated and cleared.
    pub const EVENT_INDEX_CLEARED: u32 = 401;
}

/// The response to a mutation's proposer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Outcome {
    /// Absent on a refusal, and for [`Verb::Sync`], [`Verb::Expire`] and [`Verb::Auth`].
    #[prost(message, optional, tag = "1")]
    pub event: Option<Event>,
    /// Why nothing changed.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Error>,
    /// Index of the keyspace afterwards.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// The answer of [`Verb::Auth`].
    #[prost(message, optional, tag = "4")]
    pub auth: Option<super::auth::types::Outcome>,
}
