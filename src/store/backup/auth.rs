//! Users, roles and the switch, both ways. Both sides keep the same messages; only where they lie differs.

use std::ops::ControlFlow;

use prost::Message;
use rocksdb::WriteBatch;

use super::ImportError;
use super::export::ExportError;
use super::import::BATCH_BYTES;
use super::rows;
use crate::bbolt::{Bucket, ReadAt, Reader};
use crate::proto::authpb;
use crate::store::database::{Database, walk};
use crate::store::keys::{self, Damaged, META, meta};

/// Longest name taken in, bytes; etcd has no limit of its own, and bbolt none below this.
const MAX_NAME: usize = 32_768;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The rows of etcd's buckets `auth`, `authUsers` and `authRoles`.
pub(super) struct AuthRows {
    pub head: Rows,
    pub users: Rows,
    pub roles: Rows,
}

/// What a state has of them. All of it is in memory at once, as it is in a running member.
pub(super) fn of_state(state: &Database) -> Result<AuthRows, ExportError> {
    let head = match state.get(META, meta::AUTH)? {
        None => Vec::new(),
        Some(row) => {
            let (enabled, revision) = row.split_first().ok_or(Damaged("auth"))?;
            let revision: [u8; 8] = revision.try_into().map_err(|_| Damaged("auth"))?;
            vec![(rows::AUTH_ENABLED.to_vec(), vec![*enabled]), (rows::AUTH_REVISION.to_vec(), revision.to_vec())]
        }
    };
    Ok(AuthRows { head, users: named(state, meta::AUTH_USER)?, roles: named(state, meta::AUTH_ROLE)? })
}

fn named(state: &Database, prefix: &[u8]) -> Result<Rows, ExportError> {
    let mut found = Vec::new();
    walk(state.rows(META, prefix, keys::after_prefix(prefix).as_deref()), &mut |name, row| {
        found.push((name[prefix.len()..].to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Adds what a file has of them to a batch. `find` finds buckets.
pub(super) fn import<'a, F: ReadAt>(
    file: &mut Reader<F>,
    find: &dyn Fn(&str) -> Option<&'a Bucket>,
    state: &Database,
    batch: &mut WriteBatch,
) -> Result<(), ImportError> {
    let (mut enabled, mut revision) = (0, None);
    if let Some(bucket) = find(rows::AUTH) {
        file.walk::<ImportError>(bucket, &mut |name, value| {
            match (name, value) {
                (rows::AUTH_ENABLED, [switch @ (0 | 1)]) => enabled = *switch,
                // The upper half of the numbers is damage: there is nothing left to count on from.
                (rows::AUTH_REVISION, [0..=0x7f, rest @ ..]) if rest.len() == 7 => revision = Some(value.to_vec()),
                (rows::AUTH_ENABLED | rows::AUTH_REVISION, _) => return Err(bad("auth")),
                _ => {}
            }
            Ok(())
        })?;
    }
    if revision.is_some() || enabled == 1 {
        let mut head = vec![enabled];
        head.extend(revision.unwrap_or_else(|| vec![0; 8]));
        batch.put_cf(state.family(META), meta::AUTH, head);
    }
    let user = |row: &[u8]| {
        let user = authpb::User::decode(row).ok()?;
        Some((user.name.clone(), user.encode_to_vec()))
    };
    let role = |row: &[u8]| {
        let role = authpb::Role::decode(row).ok()?;
        Some((role.name.clone(), role.encode_to_vec()))
    };
    import_named(file, find(rows::AUTH_USERS), meta::AUTH_USER, &user, state, batch)?;
    import_named(file, find(rows::AUTH_ROLES), meta::AUTH_ROLE, &role, state, batch)
}

fn import_named<F: ReadAt>(
    file: &mut Reader<F>,
    bucket: Option<&Bucket>,
    prefix: &[u8],
    read: &dyn Fn(&[u8]) -> Option<(bytes::Bytes, Vec<u8>)>,
    state: &Database,
    batch: &mut WriteBatch,
) -> Result<(), ImportError> {
    let Some(bucket) = bucket else { return Ok(()) };
    let shown = String::from_utf8_lossy(&bucket.name).into_owned();
    file.walk::<ImportError>(bucket, &mut |key, value| {
        let (name, row) = read(value).filter(|(name, _)| name == key).ok_or_else(|| bad(&shown))?;
        if name.len() > MAX_NAME || std::str::from_utf8(&name).is_err() {
            return Err(bad(&shown));
        }
        batch.put_cf(state.family(META), [prefix, &name].concat(), row);
        if batch.size_in_bytes() > BATCH_BYTES {
            state.write(std::mem::take(batch))?;
        }
        Ok(())
    })
}

fn bad(bucket: &str) -> ImportError {
    ImportError::Contents(format!("a row of bucket {bucket:?} is not as etcd writes it"))
}
