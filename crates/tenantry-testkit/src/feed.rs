use std::collections::BTreeMap;

use futures_lite::future::block_on;
use tenantry::{
    Change, ChangeKind, ChangePage, ChangesCursor, ListQuery, Store, TrashQuery, UserId,
};

/// All changes behind a place, read in pages of a size that doesn't divide them.
pub fn changes_after(store: &Store, after: Option<&ChangesCursor>) -> Vec<Change> {
    let (mut changes, mut after) = (Vec::new(), after.copied());
    loop {
        let page = block_on(store.changes(after.as_ref(), 7)).unwrap();
        changes.extend(page.changes);
        if !page.more {
            return changes;
        }
        after = Some(page.cursor);
    }
}

/// The kinds of changes, by their names.
pub fn kinds(changes: &[Change]) -> Vec<&'static str> {
    changes.iter().map(|change| change.kind.name()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Living(u64),
    Trashed(u64),
    Purged,
}

/// What the changes make of the users, each of which has to be possible after those before it.
#[derive(Debug, Default)]
struct Replay {
    users: BTreeMap<UserId, State>,
    last_seq: u64,
}

impl Replay {
    fn apply(&mut self, change: &Change) {
        assert_eq!(change.seq, self.last_seq + 1, "{change:?}");
        self.last_seq = change.seq;
        let before = self.users.get(&change.user_id).copied();
        let version = change.version;
        let after = match (change.kind, before) {
            (ChangeKind::Created, None) => State::Living(version),
            (
                ChangeKind::Updated | ChangeKind::Adopted | ChangeKind::LoggedIn,
                Some(State::Living(known)),
            )
            | (ChangeKind::Suspended | ChangeKind::Resumed, Some(State::Living(known)))
                if version >= known =>
            {
                State::Living(version)
            }
            (ChangeKind::Deleted, Some(State::Living(known))) if version >= known => {
                State::Trashed(version)
            }
            // A living one, if files came back.
            (ChangeKind::Restored, Some(State::Trashed(known) | State::Living(known)))
                if version >= known =>
            {
                State::Living(version)
            }
            (ChangeKind::Purged, Some(State::Trashed(known))) if version == known => State::Purged,
            _ => panic!("{change:?} can't follow {before:?}"),
        };
        self.users.insert(change.user_id, after);
    }
}

/// Checks that the feed of a store, which has been kept from the beginning, says of every user what
/// is so.
pub fn assert_feed_is_true(store: &Store) {
    let mut replay = Replay::default();
    changes_after(store, None).iter().for_each(|change| replay.apply(change));
    let mut users = BTreeMap::new();
    let mut pages = store.pages(ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() });
    while let Some(page) = block_on(pages.next()).unwrap() {
        users.extend(page.into_iter().map(|user| (user.id, State::Living(user.version))));
    }
    let mut query = TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() };
    loop {
        let page = block_on(store.list_trash(&query)).unwrap();
        users.extend(
            page.users
                .into_iter()
                .map(|trashed| (trashed.user.id, State::Trashed(trashed.user.version))),
        );
        if page.next_cursor.is_none() {
            break;
        }
        query.cursor = page.next_cursor;
    }
    for (id, state) in
        replay.users.extract_if(.., |_, state| *state == State::Purged).collect::<Vec<_>>()
    {
        assert!(block_on(store.read(move |tx| tx.was_purged(id))).unwrap(), "{id}: {state:?}");
    }
    assert_eq!(replay.users, users);
    assert_eq!(
        block_on(store.changes(None, ChangePage::MAX_LIMIT))
            .unwrap()
            .changes
            .first()
            .map_or(1, |c| c.seq),
        1
    );
}
