//! The index and auth flag that every v2 request needs, cached beside the rows.

use bytes::Bytes;

use super::auth::switched_on;
use super::{FIRST_INDEX, layout, tree};
use crate::model::view::ViewError;

/// Index and auth flag of a keyspace. A store caches one and updates it with every row it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Index of the keyspace.
    pub index: u64,
    /// Whether authentication is on.
    pub auth_is_on: bool,
}

impl Default for Head {
    fn default() -> Self {
        Self { index: FIRST_INDEX, auth_is_on: false }
    }
}

impl Head {
    /// The rows it is loaded from: call [`Head::take_in`] with each of them.
    pub const ROWS: [&[u8]; 2] = [layout::INDEX, layout::AUTH_SWITCH];

    /// Updates the head from a row's current value; rows that are not part of the head are ignored.
    ///
    /// # Errors
    /// The row does not decode.
    pub fn take_in(&mut self, key: &[u8], value: Option<&Bytes>) -> Result<(), ViewError> {
        match key {
            layout::INDEX => self.index = tree::index_of(value)?,
            layout::AUTH_SWITCH => self.auth_is_on = switched_on(value),
            _ => {}
        }
        Ok(())
    }
}

/// Whether commands read this row again, so that it is worth caching once written: nodes, the index, users and roles,
/// but not the event window or the expiry order.
pub fn is_read_back(key: &[u8]) -> bool {
    !key.starts_with(layout::EVENTS) && !key.starts_with(layout::TTLS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_follows_the_rows_that_are_written() {
        let mut head = Head::default();
        for key in Head::ROWS {
            head.take_in(key, None).unwrap();
        }
        assert_eq!(head, Head { index: FIRST_INDEX, auth_is_on: false });
        head.take_in(layout::INDEX, Some(&Bytes::copy_from_slice(&9u64.to_be_bytes()))).unwrap();
        head.take_in(layout::AUTH_SWITCH, Some(&"1".into())).unwrap();
        head.take_in(&layout::node(b"/a"), None).unwrap();
        assert_eq!(head, Head { index: 9, auth_is_on: true });
        head.take_in(layout::AUTH_SWITCH, Some(&"0".into())).unwrap();
        assert!(!head.auth_is_on);
        assert!(head.take_in(layout::INDEX, Some(&"short".into())).is_err());
    }

    #[test]
    fn nodes_are_read_back_and_events_are_not() {
        assert!(is_read_back(&layout::node(b"/e/t")) && is_read_back(layout::INDEX));
        assert!(!is_read_back(&layout::event(7)) && !is_read_back(&layout::ttl(1, b"/n")));
    }
}
