//! Rows whose address somebody has who may give it up in a later row of the same import.

use std::collections::{HashMap, HashSet, VecDeque};

use tenantry::{Email, NewUser, UserId};

use crate::Row;

/// How much memory the rows that wait may take, all in all some 80,000 usual ones: they are in
/// memory until the import ends, since any row may be the one they wait for.
const WAITING_OCTETS_MAX: usize = 32 << 20;
/// What a row takes beside its text: the user, and the places in which it is found again.
const ROW_OCTETS: usize = 400;

/// The rows that wait, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    rows: Vec<Row>,
    octets: usize,
    ids: HashSet<UserId>,
    keys: HashSet<String>,
}

impl Waiting {
    /// Whether a row that waits is about the same user, or wants the same address: what comes later
    /// in the file has to be done later.
    pub(crate) fn concerns(&self, user: &NewUser) -> bool {
        user.id.is_some_and(|id| self.ids.contains(&id)) || self.keys.contains(user.email.key())
    }

    /// Adds a row of a user, or returns it if there is no room.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), Box<Row>> {
        let octets = row.original().len() + ROW_OCTETS;
        if self.octets + octets > WAITING_OCTETS_MAX {
            return Err(Box::new(row));
        }
        if let Ok(user) = &row.user {
            self.octets += octets;
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

/// What is to be imported next of the rows that waited.
pub(crate) enum Step {
    /// A row that waits for no other any more.
    One(Box<Row>),
    /// Rows each of which waits for the next, and the last for the first.
    Exchange(Vec<Row>),
}

/// Brings rows that waited into an order in which each finds its address free, if that is possible.
///
/// A row waits for the row of the user who has its address, so for one at most: what is followed
/// from a row is a path that ends, or comes back to itself.
pub(crate) struct Order {
    rows: Vec<Option<Row>>,
    /// The rows of each user, in the order of the file.
    of_user: HashMap<UserId, VecDeque<usize>>,
    /// The next row to begin with.
    start: usize,
    /// Rows each of which waits for the one behind it.
    path: Vec<usize>,
    /// Where each row is in the path.
    place: HashMap<usize, usize>,
    /// Whether the last row of the path waits for none.
    is_ready: bool,
}

impl Order {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        let mut of_user: HashMap<_, VecDeque<_>> = HashMap::new();
        for (index, row) in rows.iter().enumerate() {
            if let Some(id) = row.user.as_ref().ok().and_then(|user| user.id) {
                of_user.entry(id).or_default().push_back(index);
            }
        }
        let rows = rows.into_iter().map(Some).collect();
        Self { rows, of_user, start: 0, path: Vec::new(), place: HashMap::new(), is_ready: false }
    }

    /// Returns the next step, after those before were imported or rejected. `holder` returns who
    /// has an address now.
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
                        let circle = self.path.split_off(place);
                        let rows = circle.into_iter().filter_map(|index| self.take(index)).collect();
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

    /// Returns the row for which another one waits, if there is one.
    fn waits_for<E>(
        &mut self,
        index: usize,
        holder: &mut impl FnMut(&Email) -> Result<Option<UserId>, E>,
    ) -> Result<Option<usize>, E> {
        // A row without an id is about whoever has the address.
        let Some((id, email)) = self.rows[index].as_ref().and_then(|row| {
            let user = row.user.as_ref().ok()?;
            Some((user.id?, &user.email))
        }) else {
            return Ok(None);
        };
        let Some(holder) = holder(email)?.filter(|holder| *holder != id) else { return Ok(None) };
        let Some(rows) = self.of_user.get_mut(&holder) else { return Ok(None) };
        while rows.front().is_some_and(|row| self.rows[*row].is_none()) {
            rows.pop_front();
        }
        Ok(rows.front().copied())
    }
}
