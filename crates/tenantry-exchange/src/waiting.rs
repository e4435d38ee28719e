//! Rows whose address another user still has, but may release in a later row of the import.

use std::collections::{HashMap, HashSet, VecDeque};

use tenantry::{Email, NewUser, UserId};

use crate::Row;

/// How much memory the waiting rows may take, which is enough for some 80,000 usual ones. They stay
/// in memory until the import ends, since any later row may release their address.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// How much memory a row takes besides its text and the attributes: the rest of the user and the
/// entries of the indexes.
const ROW_BYTES: usize = 400;

/// The waiting rows, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    rows: Vec<Row>,
    bytes: usize,
    ids: HashSet<UserId>,
    keys: HashSet<String>,
}

impl Waiting {
    /// Returns whether a waiting row concerns the same user or address. Then a later row must wait
    /// too, so that it is applied later.
    pub(crate) fn concerns(&self, user: &NewUser) -> bool {
        user.id.is_some_and(|id| self.ids.contains(&id)) || self.keys.contains(user.email.key())
    }

    /// Adds a row of a user, or returns it if the limit is reached.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), Box<Row>> {
        let attributes = row.user.as_ref().ok().and_then(|user| user.attributes.as_ref());
        let attributes_bytes = attributes.map_or(0, |attributes| attributes.as_str().len());
        let bytes = row.original().len() + attributes_bytes + ROW_BYTES;
        if self.bytes + bytes > WAITING_BYTES_MAX {
            return Err(Box::new(row));
        }
        if let Ok(user) = &row.user {
            self.bytes += bytes;
            self.ids.extend(user.id);
            self.keys.insert(user.email.key().to_owned());
            self.rows.push(row);
        }
        Ok(())
    }

    pub(crate) fn take(&mut self) -> Vec<Row> {
        std::mem::take(self).rows
    }
}

/// The next of the waiting rows to import.
pub(crate) enum Step {
    /// A row that no longer waits for another one.
    One(Box<Row>),
    /// A cycle: each row waits for the next one, and the last for the first.
    Exchange(Vec<Row>),
}

/// Orders the waiting rows so that each finds its address free, where that is possible.
///
/// A row waits for the row of the user who has its address, and so for at most one row. Following
/// these from any row gives a path that ends or a cycle.
pub(crate) struct Order {
    rows: Vec<Option<Row>>,
    /// The rows of each user, in the order of the file.
    by_user: HashMap<UserId, VecDeque<usize>>,
    /// The row at which the next path begins.
    start: usize,
    /// Rows, each of which waits for the next one.
    path: Vec<usize>,
    /// The index of each row in the path.
    place: HashMap<usize, usize>,
    /// Whether the last row of the path waits for no other.
    is_ready: bool,
}

impl Order {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        let mut by_user: HashMap<_, VecDeque<_>> = HashMap::new();
        for (index, row) in rows.iter().enumerate() {
            if let Some(id) = row.user.as_ref().ok().and_then(|user| user.id) {
                by_user.entry(id).or_default().push_back(index);
            }
        }
        let rows = rows.into_iter().map(Some).collect();
        Self { rows, by_user, start: 0, path: Vec::new(), place: HashMap::new(), is_ready: false }
    }

    /// Returns the next step, once the rows of the step before were imported or rejected. `holder`
    /// returns the user who has an address now.
    pub(crate) fn next<E>(
        &mut self,
        mut holder: impl FnMut(&Email) -> Result<Option<UserId>, E>,
    ) -> Result<Option<Step>, E> {
        loop {
            let Some(&last) = self.path.last() else {
                self.is_ready = false;
                while self.rows.get(self.start).is_some_and(Option::is_none) {
                    self.start += 1;
                }
                if self.start == self.rows.len() {
                    return Ok(None);
                }
                self.push(self.start);
                continue;
            };
            if self.is_ready {
                self.path.pop();
                if let Some(row) = self.take(last) {
                    return Ok(Some(Step::One(Box::new(row))));
                }
                continue;
            }
            match self.waits_for(last, &mut holder)? {
                None => self.is_ready = true,
                Some(next) => match self.place.get(&next) {
                    None => self.push(next),
                    Some(&place) => {
                        self.is_ready = true;
                        let cycle = self.path.split_off(place);
                        let rows = cycle.into_iter().filter_map(|index| self.take(index)).collect();
                        return Ok(Some(Step::Exchange(rows)));
                    }
                },
            }
        }
    }

    fn push(&mut self, index: usize) {
        self.place.insert(index, self.path.len());
        self.path.push(index);
    }

    fn take(&mut self, index: usize) -> Option<Row> {
        self.place.remove(&index);
        self.rows[index].take()
    }

    /// Returns the row that a row waits for, if there is one.
    fn waits_for<E>(
        &mut self,
        index: usize,
        holder: &mut impl FnMut(&Email) -> Result<Option<UserId>, E>,
    ) -> Result<Option<usize>, E> {
        // A row without an id concerns the user who has the address, and waits for nothing.
        let Some((id, email)) = self.rows[index].as_ref().and_then(|row| {
            let user = row.user.as_ref().ok()?;
            Some((user.id?, &user.email))
        }) else {
            return Ok(None);
        };
        let Some(holder) = holder(email)?.filter(|holder| *holder != id) else { return Ok(None) };
        let Some(rows) = self.by_user.get_mut(&holder) else { return Ok(None) };
        while rows.front().is_some_and(|row| self.rows[*row].is_none()) {
            rows.pop_front();
        }
        Ok(rows.front().copied())
    }
}
