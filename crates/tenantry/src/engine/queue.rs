//! The queue of writes: group commit and backpressure, for any engine.
//!
//! An engine commits whatever is queued in one transaction, a *group*: one wait for the disk for
//! all of it. The queue never waits for company. A lone caller's write is a group at once, and
//! those that arrive while the disk works are the next one. So the more callers there are, the
//! larger the groups.
//!
//! A job that must be alone, as the closure of an embedder, is a group by itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_channel::{Receiver, Sender, TrySendError};

use crate::{Error, ErrorKind, Result};

/// How many jobs the queue holds. Further callers wait for a place (backpressure).
const QUEUE_MAX: usize = 1_024;
/// How many callers may wait for a place in the queue. Further ones get `Busy`.
const WAITING_MAX: usize = 16_384;
/// How many jobs one group takes, so that the first of them doesn't wait long for those behind it.
const GROUP_MAX: usize = 1_024;

/// A job in the queue.
pub(crate) trait Queued {
    /// Returns whether the job must have a group to itself.
    fn is_alone(&self) -> bool;
}

/// The callers' end of the queue.
pub(crate) struct Queue<J> {
    sender: Sender<J>,
    waiting: AtomicUsize,
}

/// The engine's end of the queue.
pub(crate) struct Jobs<J> {
    receiver: Receiver<J>,
    /// A job that was received, but belongs to the next group.
    next: Option<J>,
}

/// Returns both ends of a new queue.
pub(crate) fn queue<J>() -> (Queue<J>, Jobs<J>) {
    let (sender, receiver) = async_channel::bounded(QUEUE_MAX);
    (Queue { sender, waiting: AtomicUsize::new(0) }, Jobs { receiver, next: None })
}

impl<J> Queue<J> {
    /// Puts a job into the queue, and waits for a place if there is none.
    ///
    /// # Errors
    ///
    /// Fails with `Closed` if the queue is closed, and with `Busy` if too many callers wait.
    pub(crate) async fn put(&self, job: J) -> Result<()> {
        let job = match self.sender.try_send(job) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job)) => job,
            Err(TrySendError::Closed(_)) => return Err(closed()),
        };
        let waiting = Waiting::enter(&self.waiting);
        if waiting.before >= WAITING_MAX {
            return Err(Error::new(ErrorKind::Busy, "too many writes are waiting: try again"));
        }
        self.sender.send(job).await.map_err(|_| closed())
    }

    /// Puts a job into the queue if there is a place for it, without waiting. Nobody needs it so
    /// much that others should wait for it.
    pub(crate) fn offer(&self, job: J) {
        let _ = self.sender.try_send(job);
    }

    /// Refuses new jobs. Those in the queue are still received.
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    /// Returns how many jobs are in the queue, and how many callers wait for a place in it.
    pub(crate) fn depth(&self) -> usize {
        self.sender.len() + self.waiting.load(Ordering::Relaxed)
    }
}

impl<J: Queued> Jobs<J> {
    /// Waits for the first job of the next group. Returns `None` when the queue is closed and
    /// empty.
    pub(crate) fn first(&mut self) -> Option<J> {
        self.next.take().or_else(|| self.receiver.recv_blocking().ok())
    }

    /// Returns a further job for a group of this size, without waiting for one.
    pub(crate) fn another(&mut self, size: usize) -> Option<J> {
        if size >= GROUP_MAX || self.next.is_some() {
            return None;
        }
        let job = self.receiver.try_recv().ok()?;
        if job.is_alone() {
            self.next = Some(job);
            return None;
        }
        Some(job)
    }
}

/// A caller that waits for a place in the queue. It stops counting even if its future is dropped.
struct Waiting<'c> {
    count: &'c AtomicUsize,
    before: usize,
}

impl<'c> Waiting<'c> {
    fn enter(count: &'c AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the error of every operation on a store that was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store is closed")
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use futures_lite::future::block_on;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Job {
        Grouped(usize),
        Alone(usize),
    }

    impl Queued for Job {
        fn is_alone(&self) -> bool {
            matches!(self, Self::Alone(_))
        }
    }

    fn group(jobs: &mut Jobs<Job>) -> Vec<Job> {
        let mut group: Vec<Job> = jobs.first().into_iter().collect();
        if group.first().is_some_and(|job| !job.is_alone()) {
            while let Some(job) = jobs.another(group.len()) {
                group.push(job);
            }
        }
        group
    }

    #[test]
    fn whatever_is_queued_is_one_group_and_a_job_that_must_be_alone_is_one_by_itself() {
        let (queue, mut jobs) = queue();
        for job in [
            Job::Grouped(1),
            Job::Grouped(2),
            Job::Alone(3),
            Job::Grouped(4),
            Job::Alone(5),
            Job::Alone(6),
        ] {
            block_on(queue.put(job)).unwrap();
        }
        queue.close();
        assert_eq!(group(&mut jobs), [Job::Grouped(1), Job::Grouped(2)]);
        assert_eq!(group(&mut jobs), [Job::Alone(3)]);
        assert_eq!(group(&mut jobs), [Job::Grouped(4)]);
        assert_eq!(group(&mut jobs), [Job::Alone(5)]);
        assert_eq!(group(&mut jobs), [Job::Alone(6)]);
        assert_eq!(group(&mut jobs), []);
    }

    #[test]
    fn a_group_has_a_largest_size() {
        let (queue, mut jobs) = queue();
        for number in 0..QUEUE_MAX {
            block_on(queue.put(Job::Grouped(number))).unwrap();
        }
        let first = jobs.first().unwrap();
        block_on(queue.put(Job::Grouped(QUEUE_MAX))).unwrap();
        assert_eq!(first, Job::Grouped(0));
        let mut size = 1;
        while jobs.another(size).is_some() {
            size += 1;
        }
        assert_eq!(size, GROUP_MAX);
        assert_eq!(jobs.first(), Some(Job::Grouped(GROUP_MAX)));
    }

    #[test]
    fn a_full_queue_makes_callers_wait_and_too_many_of_them_get_busy() {
        let (queue, mut jobs) = queue();
        for number in 0..QUEUE_MAX {
            block_on(queue.put(Job::Grouped(number))).unwrap();
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> =
            (0..WAITING_MAX).map(|number| Box::pin(queue.put(Job::Alone(number)))).collect();
        assert!(waiting.iter_mut().all(|put| put.as_mut().poll(&mut context).is_pending()));
        assert_eq!(queue.depth(), QUEUE_MAX + WAITING_MAX);
        assert_eq!(block_on(queue.put(Job::Grouped(0))).unwrap_err().kind(), ErrorKind::Busy);
        // A caller that gives up makes room for another.
        waiting.pop();
        assert!(pin!(queue.put(Job::Grouped(0))).poll(&mut context).is_pending());
        jobs.first().unwrap();
        assert!(matches!(waiting[0].as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_closed_queue_refuses_jobs_and_hands_out_those_that_it_has() {
        let (queue, mut jobs) = queue();
        block_on(queue.put(Job::Grouped(1))).unwrap();
        queue.close();
        assert_eq!(block_on(queue.put(Job::Grouped(2))).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(jobs.first(), Some(Job::Grouped(1)));
        assert_eq!(jobs.first(), None);
    }
}
