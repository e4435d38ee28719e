//! The thread that writes.
//!
//! SQLite has one writer at a time, and the sync of a commit takes longer than a statement. So all
//! writes of a process go through one [queue](crate::engine::queue) to one thread, which runs a
//! group of them in one transaction (group commit): one operation after the other, one commit, and
//! only then do the callers get their results.
//!
//! An application's closure has a transaction of its own. It may take long, and its tables may have
//! constraints that fail only at the commit. A verb of the store can violate such a constraint too;
//! then the group is rolled back and each verb is rerun alone, so that only the one at fault fails.
//! The same happens if a verb fails after a change, which an application's trigger can cause. That
//! is rare, so a verb of one statement needs no savepoint.
//!
//! The failures, and the results of the callers:
//!
//! | what fails | what the callers get |
//! |---|---|
//! | an operation | its own error; the others go on |
//! | `BEGIN IMMEDIATE`, because another process writes | `Busy`, each after the busy timeout |
//! | the transaction before the commit (disk full, I/O) | that error for the group; nothing was done |
//! | the commit, because the disk is full for the WAL | `Full` for the group; nothing was done |
//! | the commit otherwise, such as its fsync | `OutcomeUnknown` for the group |
//! | the files, which were removed | `Replaced` for the group: no other process sees the change |
//! | a checkpoint | none; if the files are at fault, later writes are refused |
//! | an intent | `Unfinished` for its operation: it is recorded |
//!
//! An operation on a user's directory records an [intent](crate::ops::intents), which the thread
//! executes after the commit, before the callers get their results. An operation that depends on an
//! intent of its own group is deferred and rerun alone.
//!
//! When the callers have their results, the thread begins a [checkpoint](super::checkpoints) if one
//! is due.
//!
//! Rejected: a pool of writing connections (they wait for each other in SQLite's busy handler, and
//! each commit pays for its own fsync), a mutex around one connection (no groups), a delay to
//! gather larger groups (a lone caller pays).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;

use super::checkpoints::Checkpoints;
use super::error::is_trigger_failure;
use super::follow_up::execute_all;
use super::followers::Followers;
use super::guard::TablesBefore;
use super::open::{OpenReport, open_writer};
use super::readers::Readers;
use super::recovery::recover;
use super::session::WriteSession;
use super::transactions::{Ended, Transactions};
use super::tx::TxState;
use crate::data_dir::access::Access;
use crate::data_dir::watch::Watch;
use crate::domain::intent::Pending;
use crate::domain::request::Once;
use crate::engine::metrics::Counters;
use crate::engine::queue::{Jobs, Queue, Queued, queue};
use crate::engine::reply::{Ran, cut_off, reply};
use crate::engine::verbs::{Request, Verb};
use crate::ops::verbs::perform;
use crate::options::Options;
use crate::storage::Storage;
use crate::transaction::{Closure, ClosureCall, WriteTx};
use crate::{Actor, Ambient, Error, ErrorKind, Result};

/// A write in the queue.
struct Job {
    /// Since when the caller waits.
    queued_at: Instant,
    /// Who asks for it.
    actor: Actor,
    work: Work,
}

enum Work {
    Verb(Box<Request>),
    Closure(Box<dyn Closure>),
}

impl Job {
    fn new(actor: Actor, work: Work) -> Self {
        Self { queued_at: Instant::now(), actor, work }
    }

    fn send_result(self, committed: Result<()>, ran_alone: bool) {
        match self.work {
            Work::Verb(request) => request.send_result(committed, ran_alone),
            Work::Closure(closure) => closure.send_result(committed, ran_alone),
        }
    }
}

impl Queued for Job {
    fn is_alone(&self) -> bool {
        matches!(self.work, Work::Closure(_))
    }
}

/// What the thread has in common with the engine.
pub(super) struct Shared {
    pub(super) readers: Arc<Readers>,
    pub(super) watch: Arc<Watch>,
    pub(super) followers: Arc<Followers>,
    pub(super) counters: Arc<Counters>,
}

/// The way to the writer's thread.
pub(super) struct Writer {
    queue: Queue<Job>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Writer {
    /// Starts the thread, which opens the store and finishes what a crash left. Returns the
    /// directories, and a report of the opening.
    pub(super) async fn start(
        options: Options,
        ambient: Arc<dyn Ambient>,
        shared: Shared,
    ) -> Result<(Self, Arc<Result<Storage>>, OpenReport)> {
        let (queue, jobs) = queue();
        let (alive, ended) = async_channel::bounded(1);
        let (sender, opened) = oneshot::channel();
        thread::Builder::new()
            .name("tenantry-writer".to_owned())
            .spawn(move || {
                // Dropped last, after the connection is closed.
                let _alive: Sender<()> = alive;
                let readers = Arc::clone(&shared.readers);
                match open(options, ambient, shared) {
                    Ok((transactions, report)) => {
                        let is_read_only = report.read_only;
                        if sender.send(Ok((Arc::clone(&transactions.storage), report))).is_ok() {
                            WriterThread { transactions, jobs }.run(&readers, is_read_only);
                        }
                    }
                    Err(error) => drop(sender.send(Err(error))),
                }
            })
            .map_err(|error| {
                Error::new(ErrorKind::Io, "the writer's thread can't be started").with_source(error)
            })?;
        let (storage, report) = opened.await.unwrap_or_else(|_| Err(cut_off()))?;
        Ok((Self { queue, ended }, storage, report))
    }

    /// Performs a verb. It may be performed more than once; the last run counts.
    pub(super) async fn apply<V: Verb>(
        &self,
        actor: Actor,
        verb: V,
        once: Option<Once<V::Reply>>,
    ) -> Result<V::Reply> {
        let (reply, awaited) = reply();
        self.queue.put(Job::new(actor, Work::Verb(Box::new(verb.request(reply, once))))).await?;
        awaited.result().await
    }

    /// Performs a verb, whose result nobody needs, if the queue isn't full.
    pub(super) fn offer<V: Verb>(&self, verb: V) {
        let (reply, _) = reply();
        self.queue
            .offer(Job::new(Actor::default(), Work::Verb(Box::new(verb.request(reply, None)))));
    }

    /// Runs a closure of the application's, once, in a transaction of its own.
    pub(super) async fn run_alone<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        actor: Actor,
        closure: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (reply, awaited) = reply();
        let call = ClosureCall { closure: Some(closure), reply };
        self.queue.put(Job::new(actor, Work::Closure(Box::new(call)))).await?;
        awaited.result().await
    }

    pub(super) fn queue_depth(&self) -> usize {
        self.queue.depth()
    }

    /// Refuses new writes. Those in the queue get their results, and then the database is closed.
    pub(super) fn refuse(&self) {
        self.queue.close();
    }

    /// Refuses new writes, and waits until those in the queue have their results and the database
    /// is closed.
    pub(super) async fn close(&self) {
        self.refuse();
        // Nothing is ever sent: this ends when the thread does.
        let _ = self.ended.recv().await;
    }
}

/// Opens the store and finishes what a crash left.
fn open(
    options: Options,
    ambient: Arc<dyn Ambient>,
    shared: Shared,
) -> Result<(Transactions, OpenReport)> {
    let Shared { readers, watch, followers, counters } = shared;
    let opened = open_writer(&options, &*ambient, &watch)?;
    let read_only = opened.access == Access::Read;
    let report = OpenReport { created: opened.created, upgraded: opened.upgraded, read_only };
    let checkpoints = Checkpoints::new(readers, Arc::clone(&counters));
    let (conn, storage, lock) = (opened.conn, opened.storage, opened.lock);
    let mut transactions = Transactions::new(
        conn,
        options,
        ambient,
        watch,
        storage,
        checkpoints,
        followers,
        counters,
        lock,
    )?;
    if read_only {
        transactions.refuse_as_read_only();
    } else {
        recover(&mut transactions);
    }
    Ok((transactions, report))
}

/// A job of a group.
struct Member {
    job: Job,
    /// The intents to execute after the commit.
    pending: Vec<Pending>,
    /// Whether it has to wait until an intent of the group is executed.
    is_deferred: bool,
}

impl Member {
    fn new(job: Job) -> Self {
        Self { job, pending: Vec::new(), is_deferred: false }
    }
}

struct WriterThread {
    transactions: Transactions,
    jobs: Jobs<Job>,
}

impl WriterThread {
    fn run(mut self, readers: &Readers, is_read_only: bool) {
        while let Some(job) = self.jobs.first() {
            let began = Instant::now();
            // Only foreign code panics here: an `Ambient`, or a value that is dropped because its
            // caller doesn't wait. The callers without a result get `OutcomeUnknown`, and the
            // thread goes on for the others.
            let group = || {
                self.group(job);
                self.transactions.checkpoint_if_due();
            };
            if catch_unwind(AssertUnwindSafe(group)).is_err() {
                tracing::error!("a panic on the writer's thread");
                self.transactions.roll_back();
            }
            self.transactions.counters.add_writer_time(began.elapsed());
        }
        readers.close();
        if !is_read_only {
            self.transactions.close();
        }
    }

    /// Runs a job, with all that are queued and may run beside it, in one transaction, and sends
    /// the results.
    fn group(&mut self, first: Job) {
        if first.is_alone() {
            return self.run_alone(first);
        }
        if let Err(error) = self.transactions.begin(first.queued_at) {
            return first.send_result(Err(error), true);
        }
        let mut state = TxState::default();
        let mut group = vec![Member::new(first)];
        let ended = match self.run_group(&mut group, &mut state) {
            Ok(()) => self.transactions.commit(&state),
            Err(ended) => self.transactions.undo(ended),
        };
        tracing::debug!(operations = group.len(), "transaction ended");
        let ran_alone = group.len() == 1;
        match ended {
            Ended::Refused(_) if !ran_alone || group[0].is_deferred => {
                group.into_iter().for_each(|member| self.run_alone(member.job));
            }
            ended => self.end(group, &state, &ended, ran_alone),
        }
    }

    /// Runs one job in a transaction of its own: an application's closure, a verb of a group that
    /// was refused, or one that was deferred.
    fn run_alone(&mut self, mut job: Job) {
        // It may not be run again, and its outcome in the group isn't a result.
        if let Work::Verb(request) = &mut job.work {
            request.forget();
        }
        let queued_at = job.queued_at;
        let mut member = Member::new(job);
        let mut state = TxState::default();
        let ended = match self.transactions.begin_alone(queued_at) {
            Err(error) => Ended::Undone(Some(error)),
            Ok(durable_intents) => {
                state = TxState::new(durable_intents);
                match self.run_job(&mut member, true, &mut state) {
                    Ok(()) => self.transactions.commit(&state),
                    Err(ended) => self.transactions.undo(ended),
                }
            }
        };
        self.end(vec![member], &state, &ended, true);
    }

    /// Executes the intents of a transaction, with those of earlier ones that it encountered, and
    /// sends the results.
    fn end(&mut self, group: Vec<Member>, state: &TxState, ended: &Ended, ran_alone: bool) {
        let mut failures = Vec::new();
        if matches!(ended, Ended::Committed) {
            self.transactions.counters.count_group(group.len());
            let encountered = state.encountered.iter().map(|seq| Pending::Intent(*seq));
            let pending: Vec<_> = encountered
                .chain(group.iter().flat_map(|member| member.pending.iter().copied()))
                .collect();
            failures = execute_all(&mut self.transactions, &pending, !state.encountered.is_empty());
        }
        let mut deferred = Vec::new();
        for member in group {
            let failure = failures.iter().find(|(pending, _)| member.pending.contains(pending));
            match (failure, ended) {
                (_, Ended::Committed) if member.is_deferred => deferred.push(member.job),
                (Some((_, error)), _) => member.job.send_result(Err(error.clone()), ran_alone),
                (None, ended) => member.job.send_result(ended.result(), ran_alone),
            }
        }
        deferred.into_iter().for_each(|job| self.run_alone(job));
    }

    /// Runs the first job of the group, then takes more from the queue while there are any.
    fn run_group(&mut self, group: &mut Vec<Member>, state: &mut TxState) -> Result<(), Ended> {
        loop {
            if let Some(member) = group.last_mut() {
                self.run_job(member, false, state)?;
            }
            match self.jobs.another(group.len()) {
                Some(job) => group.push(Member::new(job)),
                None => return Ok(()),
            }
        }
    }

    /// Runs a job, alone in the transaction or with others. An error is of the whole transaction.
    fn run_job(&self, member: &mut Member, alone: bool, state: &mut TxState) -> Result<(), Ended> {
        let fatal = |error| Ended::Undone(Some(self.transactions.with_errno(error)));
        let conn = &self.transactions.conn;
        let before = if alone { Some(TablesBefore::of(conn).map_err(fatal)?) } else { None };
        let changes_before = conn.total_changes();
        let mark = state.mark();
        state.actor.clone_from(&member.job.actor);
        let ran = match &mut member.job.work {
            Work::Verb(request) => self.transactions.with_tx(state, |tx| perform(request, tx)),
            Work::Closure(closure) => self.run_closure(&mut **closure, state),
        };
        match ran {
            Ran::Broken(error) => Err(fatal(error)),
            _ if !conn.is_intact() => Err(Ended::Refused(Error::new(
                ErrorKind::Constraint,
                "the database gave up the transaction in the middle: nothing was written",
            ))),
            Ran::Failed(_) | Ran::Later if alone => Err(Ended::Undone(None)),
            Ran::Failed(_) | Ran::Later => {
                state.go_back_to(mark);
                member.is_deferred = matches!(ran, Ran::Later);
                // A trigger's changes may not be counted.
                let is_in_trigger =
                    matches!(&ran, Ran::Failed(Some(error)) if is_trigger_failure(error));
                if conn.total_changes() == changes_before && !is_in_trigger {
                    return Ok(());
                }
                Err(Ended::Refused(Error::new(
                    ErrorKind::Internal,
                    "an operation failed halfway: nothing was written",
                )))
            }
            Ran::Done => {
                member.pending = state.pending_since(mark).to_vec();
                before.map_or(Ok(()), |before| before.check(conn)).map_err(fatal)
            }
        }
    }

    fn run_closure(&self, closure: &mut dyn Closure, state: &mut TxState) -> Ran {
        let transactions = &self.transactions;
        let new_id = || transactions.ambient.new_id();
        let now = transactions.ambient.now();
        closure.run(WriteSession::new(
            &transactions.conn,
            &transactions.storage,
            now,
            &new_id,
            state,
        ))
    }
}
