//! The thread that writes.
//!
//! SQLite has one writer at a time, and a commit waits for the disk for longer than a statement takes. So all
//! writes of a process go through one queue to one thread, which puts whatever is there into one transaction: one
//! operation after the other, one commit and so one wait for the disk for all of them, and only then are they
//! answered. The thread never waits for company: a lone caller's operation begins at once, and those that arrive while
//! the disk works are the next group. The more callers, the larger the groups.
//!
//! A closure of the application's runs alone in its transaction. What it does is not ours to foresee: it may run
//! for long, and its tables may have constraints that only fail at the commit. An operation of ours can meet such a
//! constraint too; then the group is rolled back and each runs again by itself, and the culprit alone fails. The same is
//! done if an operation fails when it has changed something already, which an application's trigger can bring about. That is
//! rare, so an operation of one statement pays for no savepoint.
//!
//! What a failure means for the callers:
//!
//! | what fails | what the callers get |
//! |---|---|
//! | an operation | its own error; the others go on |
//! | `BEGIN IMMEDIATE`, because another process writes | `Busy`, each after having waited for the busy timeout |
//! | the transaction while it runs (disk full, I/O) | that error, all of the group; nothing was done |
//! | the commit, because the disk is full for the log | `Full`, all of the group; nothing was done |
//! | the commit otherwise | `OutcomeUnknown`, all of the group: it may be there after all |
//! | the files, which have gone | `Replaced`, all of the group: it is nowhere where anybody looks |
//! | moving the log into the database | nothing; if the files are at fault, those after it are refused |
//! | what is to follow in the file system | `Unfinished`, the operation that it belongs to: it is recorded |
//!
//! An operation on a user's directory records what is to follow in the file system ([`intents`]). The thread does that
//! after the commit, before it answers the group. An operation that meets an intent of its own group runs after that.
//!
//! After the callers are answered the thread sees to the log ([`Checkpoints`]), which another thread moves into the database.
//!
//! After an I/O failure, damage or the loss of the files the thread rolls back and refuses every further write until the store
//! is opened anew: what a failed fsync left on the disk is not known, and to go on would build on it. Reads go on.
//!
//! Rejected: a pool of writing connections (they wait for each other in SQLite's busy handler, and each commit pays for
//! its own fsync), a mutex around one connection (no groups), a delay to gather larger groups (a lone caller pays).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use futures_channel::oneshot;
use rusqlite::config::DbConfig;

use super::checkpoints::Checkpoints;
use super::directory;
use super::error::{Fault, closed, is_of_shared_memory, is_of_trigger, with_quota_as_full};
use super::guard::{Belongings, GuardedConnection};
use super::intents::{self, Action, Directories, Intent, unfinished};
use super::lifecycle;
use super::open::{Outcome, open_writer};
use super::readers::Readers;
use super::transaction::WriteTx;
use super::wait::wait_while_busy;
use crate::data_dir::access::Access;
use crate::data_dir::lock::Lock;
use crate::data_dir::watch::Watch;
use crate::options::Options;
use crate::storage::Storage;
use crate::{Ambient, Durability, Error, ErrorKind, Result, UserId, failpoint};

/// How many operations may stand in the queue. Callers beyond that wait for a place.
const QUEUE_MAX: usize = 1_024;
/// How many callers may wait for a place in the queue. Those beyond that get `Busy`.
const WAITING_MAX: usize = 16_384;
/// How many intents are acted on in one transaction, so that other processes aren't kept from writing for long: each
/// waits for the disk a few times.
const ACTS_MAX: usize = 64;
/// How long a check may keep an opening from seeing that nobody purges.
const CHECK_MAX: Duration = Duration::from_millis(100);
/// How many operations one transaction takes, so that the first of them isn't kept waiting by those behind it.
const GROUP_MAX: usize = 1_024;

/// The way to the writer's thread.
pub(super) struct Writer {
    queue: Sender<Box<dyn Job>>,
    waiting: AtomicUsize,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Writer {
    /// Starts the thread, which opens the store and finishes what a crash left. Answers with the directories, and
    /// what opening came to.
    pub(super) async fn start(
        options: Options,
        ambient: Arc<dyn Ambient>,
        readers: Arc<Readers>,
        watch: Arc<Watch>,
    ) -> Result<(Self, Arc<Result<Storage>>, Outcome)> {
        let (queue, jobs) = async_channel::bounded(QUEUE_MAX);
        let (alive, ended) = async_channel::bounded(1);
        let (opened_sender, opened) = oneshot::channel();
        thread::Builder::new()
            .name("tenantry-writer".to_owned())
            .spawn(move || {
                // Dropped last, after the connection is closed.
                let _alive: Sender<()> = alive;
                let thread = open_writer(&options, &*ambient, &watch).and_then(|opened| {
                    // `begin` does the waiting.
                    opened.conn.busy_timeout(Duration::ZERO)?;
                    let read_only = opened.access == Access::Read;
                    let thread = WriterThread {
                        conn: GuardedConnection::new(opened.conn)?,
                        options,
                        ambient,
                        watch,
                        storage: Arc::new(opened.storage),
                        jobs,
                        next_job: None,
                        refusing: read_only.then(|| {
                            Error::new(
                                ErrorKind::ReadOnly,
                                "the store is open for reading only: its file system is read-only",
                            )
                        }),
                        was_full: false,
                        checkpoints: Checkpoints::new(Arc::clone(&readers)),
                        _lock: opened.lock,
                    };
                    Ok((thread, Outcome { created: opened.created, upgraded: opened.upgraded, read_only }))
                });
                match thread {
                    Ok((mut thread, outcome)) => {
                        let is_for_reading = outcome.read_only;
                        if !is_for_reading {
                            thread.finish_intents();
                        }
                        if opened_sender.send(Ok((Arc::clone(&thread.storage), outcome))).is_ok() {
                            thread.run(&readers, is_for_reading);
                        }
                    }
                    Err(error) => {
                        let _ = opened_sender.send(Err(error));
                    }
                }
            })
            .map_err(|error| Error::new(ErrorKind::Io, "the writer's thread can't be started").with_source(error))?;
        let (storage, outcome) = opened.await.unwrap_or_else(|_| Err(died()))?;
        Ok((Self { queue, waiting: AtomicUsize::new(0), ended }, storage, outcome))
    }

    /// Runs an operation of the store's own. It may be run more than once; the last run counts.
    pub(super) async fn operate<T: Send + 'static>(
        &self,
        operation: impl FnMut(&mut WriteTx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.submit(false, operation).await
    }

    /// Runs a closure of the application's, once, in a transaction of its own.
    pub(super) async fn run_alone<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        closure: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let mut closure = Some(closure);
        self.submit(true, move |tx| match closure.take() {
            Some(closure) => closure(tx),
            None => Err(Error::new(ErrorKind::Internal, "a closure was to be run twice").into()),
        })
        .await
    }

    async fn submit<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        alone: bool,
        work: impl FnMut(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (answer, answered) = oneshot::channel();
        let task = Box::new(Task { alone, queued_at: Instant::now(), work, result: None, answer });
        self.enqueue(task).await?;
        match answered.await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(died().into()),
        }
    }

    async fn enqueue(&self, job: Box<dyn Job>) -> Result<()> {
        let job = match self.queue.try_send(job) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job)) => job,
            Err(TrySendError::Closed(_)) => return Err(closed()),
        };
        let waiting = Waiting::enter(&self.waiting);
        if waiting.before >= WAITING_MAX {
            return Err(Error::new(ErrorKind::Busy, "too many writes are waiting: try again"));
        }
        self.queue.send(job).await.map_err(|_| closed())
    }

    /// Refuses new writes. Those in the queue are answered, and then the database is closed.
    pub(super) fn refuse(&self) {
        self.queue.close();
    }

    /// Refuses new writes, and waits until those in the queue are answered and the database is closed.
    pub(super) async fn close(&self) {
        self.refuse();
        // Nothing is ever sent: this ends when the thread does.
        let _ = self.ended.recv().await;
    }
}

/// A caller who waits for a place in the queue, counted also if the caller gives up.
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

fn died() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "the write was cut off by a panic: look whether it happened")
}

/// A queued operation with its caller, whatever the types of its answer.
trait Job: Send {
    /// Whether it must have a transaction to itself.
    fn is_alone(&self) -> bool;
    /// Since when the caller waits.
    fn queued_at(&self) -> Instant;
    /// Forgets the result of a run that was undone.
    fn forget(&mut self);
    /// Runs the operation and keeps its result for the answer.
    fn run(&mut self, tx: &mut WriteTx<'_>) -> Ran;
    /// Answers with the result if the transaction was committed, and also if the operation failed with nothing else
    /// in the transaction (`ran_alone`). Otherwise with the error: in a group, an operation doesn't know better than
    /// the transaction, since the address that it found taken may be undone as well.
    fn answer(self: Box<Self>, committed: Result<()>, ran_alone: bool);
}

enum Ran {
    Ok,
    /// The operation has to wait until an intent of this transaction is acted on; what it did is to be undone.
    TooEarly,
    /// The operation failed; what it did is to be undone. In a trigger it may have done something that nobody counts.
    Failed {
        in_trigger: bool,
    },
    /// The transaction can't go on, because of this.
    Fatal(Error),
}

struct Task<F, T, E> {
    alone: bool,
    queued_at: Instant,
    work: F,
    result: Option<thread::Result<Result<T, E>>>,
    answer: oneshot::Sender<thread::Result<Result<T, E>>>,
}

impl<F, T, E> Job for Task<F, T, E>
where
    F: FnMut(&mut WriteTx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send + 'static,
{
    fn is_alone(&self) -> bool {
        self.alone
    }

    fn queued_at(&self) -> Instant {
        self.queued_at
    }

    fn forget(&mut self) {
        self.result = None;
    }

    fn run(&mut self, tx: &mut WriteTx<'_>) -> Ran {
        let result = catch_unwind(AssertUnwindSafe(|| (self.work)(tx)));
        // A closure may hide a failure, or put it into an error of its own.
        let ran = match (tx.take_fault(), &result) {
            (Some(fault), _) => Ran::Fatal(fault),
            (None, Ok(Ok(_))) => Ran::Ok,
            (None, Ok(Err(error))) => match (error as &dyn Any).downcast_ref::<Error>() {
                Some(error) if Fault::of(error) != Fault::Local => Ran::Fatal(error.clone()),
                _ if tx.is_too_early() && !self.alone => Ran::TooEarly,
                error => Ran::Failed { in_trigger: error.is_some_and(is_of_trigger) },
            },
            (None, Err(_)) => Ran::Failed { in_trigger: false },
        };
        self.result = Some(result);
        ran
    }

    fn answer(self: Box<Self>, committed: Result<()>, ran_alone: bool) {
        let answer = match (self.result, committed) {
            (Some(Err(panic)), _) => Err(panic),
            (Some(Ok(result)), Ok(())) => Ok(result),
            (Some(Ok(Err(error))), Err(_)) if ran_alone => Ok(Err(error)),
            (_, Err(error)) => Ok(Err(error.into())),
            (None, Ok(())) => Ok(Err(died().into())),
        };
        // A caller who no longer waits doesn't want to know.
        let _ = self.answer.send(answer);
    }
}

/// How a transaction ended.
enum Ended {
    Committed,
    /// Rolled back before the commit, so certainly not there; with the cause, unless that is the operation's own affair.
    Undone(Option<Error>),
    /// Something in the transaction made it impossible to commit, so it is certainly not there.
    Refused(Error),
    /// The commit failed otherwise.
    Unknown(Error),
}

/// An operation of a group.
struct Member {
    job: Box<dyn Job>,
    /// What is to follow in the file system, by number.
    intents: Vec<i64>,
    /// Whether it has to wait until an intent of the group is acted on.
    is_too_early: bool,
}

impl Member {
    fn new(job: Box<dyn Job>) -> Self {
        Self { job, intents: Vec::new(), is_too_early: false }
    }
}

struct WriterThread {
    conn: GuardedConnection,
    options: Options,
    ambient: Arc<dyn Ambient>,
    watch: Arc<Watch>,
    storage: Arc<Result<Storage>>,
    jobs: Receiver<Box<dyn Job>>,
    /// A job that was taken from the queue for the transaction after this one.
    next_job: Option<Box<dyn Job>>,
    /// Why no write is accepted, or none any more.
    refusing: Option<Error>,
    /// Whether the disk was full at the last write.
    was_full: bool,
    checkpoints: Checkpoints,
    /// Dropped after the connection is closed.
    _lock: Option<Lock>,
}

impl WriterThread {
    fn run(mut self, readers: &Readers, is_for_reading: bool) {
        while let Some(job) = self.next_job.take().or_else(|| self.jobs.recv_blocking().ok()) {
            // What panics here is foreign: an `Ambient`, or a value that is dropped because nobody waits for it. Those
            // who were not answered by then get `OutcomeUnknown`, and the thread goes on for the others.
            let group = || {
                self.group(job);
                self.look_after_log();
            };
            if catch_unwind(AssertUnwindSafe(group)).is_err() {
                tracing::error!("a panic on the writer's thread");
                self.roll_back();
            }
        }
        readers.close();
        if is_for_reading {
            return;
        }
        if let Err(error) = self.checkpoints.close() {
            self.log_failed(&error);
        }
        let are_there = self.watch.check().inspect_err(|error| {
            tracing::warn!(error = error as &dyn std::error::Error, "closed without a checkpoint");
        });
        if are_there.is_ok() && !self.checkpoints.is_in_doubt() {
            // A reader that is still under way may keep it from being cut; then the next to open the store does it.
            self.truncate_log();
        }
        // Where the files have gone, what others have written since to what has these names now would be overwritten. And
        // to truncate the log may have failed just now.
        if are_there.is_err() || self.checkpoints.is_in_doubt() {
            let _ = self.conn.unguarded().set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    /// Runs a job, with all that are there and may run beside it, in one transaction, and answers them.
    fn group(&mut self, first: Box<dyn Job>) {
        if first.is_alone() {
            return self.run_alone(first);
        }
        if let Err(error) = self.begin(first.queued_at()) {
            return first.answer(Err(error), true);
        }
        let storage = Arc::clone(&self.storage);
        let directories = Directories::new(&storage, 0);
        let mut group = vec![Member::new(first)];
        let ended = match self.run_group(&mut group, &directories) {
            Ok(()) => self.commit(),
            Err(ended) => self.undo(ended),
        };
        tracing::debug!(operations = group.len(), "transaction ended");
        let ran_alone = group.len() == 1;
        match ended {
            Ended::Refused(_) if !ran_alone || group[0].is_too_early => {
                group.into_iter().for_each(|member| self.run_alone(member.job))
            }
            ended => self.end(group, &directories.met.borrow(), &ended, ran_alone),
        }
    }

    /// Runs one job in a transaction of its own: an application's closure, or one of a group that was refused, or in which
    /// it came too early.
    fn run_alone(&mut self, mut job: Box<dyn Job>) {
        // It may not come to another run, and what it found in the group is no answer.
        job.forget();
        let queued_at = job.queued_at();
        let mut group = vec![Member::new(job)];
        let storage = Arc::clone(&self.storage);
        let mut met = Vec::new();
        let ended = match self.begin_alone(queued_at) {
            Err(error) => Ended::Undone(Some(error)),
            Ok(on_disk) => {
                let directories = Directories::new(&storage, on_disk);
                let ran = group.iter_mut().try_for_each(|member| self.run_job(member, true, &directories));
                met = directories.met.take();
                match ran {
                    Ok(()) => self.commit(),
                    Err(ended) => self.undo(ended),
                }
            }
        };
        self.end(group, &met, &ended, true);
    }

    /// Does what is to follow a transaction in the file system, with what it met of earlier ones, and answers.
    fn end(&mut self, group: Vec<Member>, met: &[i64], ended: &Ended, ran_alone: bool) {
        let mut failures = Vec::new();
        if matches!(ended, Ended::Committed) {
            let recorded = group.iter().flat_map(|member| member.intents.iter().copied());
            let intents: Vec<i64> = met.iter().copied().chain(recorded).collect();
            failures = self.act(&intents, !met.is_empty());
        }
        let mut too_early = Vec::new();
        for member in group {
            let failure = failures.iter().find(|(seq, _)| member.intents.contains(seq));
            match (failure, ended) {
                (_, Ended::Committed) if member.is_too_early => too_early.push(member.job),
                (Some((_, error)), _) => member.job.answer(Err(error.clone()), ran_alone),
                (None, ended) => member.job.answer(answer_of(ended), ran_alone),
            }
        }
        too_early.into_iter().for_each(|job| self.run_alone(job));
    }

    /// Runs the first job of the group, then takes more from the queue while there are any.
    fn run_group(&mut self, group: &mut Vec<Member>, directories: &Directories<'_>) -> Result<(), Ended> {
        loop {
            if let Some(member) = group.last_mut() {
                self.run_job(member, false, directories)?;
            }
            if group.len() == GROUP_MAX {
                return Ok(());
            }
            match self.jobs.try_recv() {
                Ok(job) if job.is_alone() => {
                    self.next_job = Some(job);
                    return Ok(());
                }
                Ok(job) => group.push(Member::new(job)),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Runs a job, alone in the transaction or with others. An error is of the whole transaction.
    fn run_job(&self, member: &mut Member, alone: bool, directories: &Directories<'_>) -> Result<(), Ended> {
        let fatal = |error| Ended::Undone(Some(self.told_by_system(error)));
        let conn = &self.conn;
        let before = if alone { Some(Belongings::of(conn).map_err(fatal)?) } else { None };
        let changes_before = conn.total_changes();
        let new_id = || self.ambient.new_id();
        let recorded_before = directories.recorded.borrow().len();
        let ran = member.job.run(&mut WriteTx::new(conn, self.ambient.now(), &new_id, directories));
        let mut recorded = directories.recorded.borrow_mut();
        match ran {
            Ran::Fatal(error) => Err(fatal(error)),
            _ if !conn.is_intact() => Err(Ended::Refused(Error::new(
                ErrorKind::Constraint,
                "the database gave up the transaction in the middle: nothing was written",
            ))),
            Ran::Failed { .. } | Ran::TooEarly if alone => Err(Ended::Undone(None)),
            Ran::Failed { .. } | Ran::TooEarly => {
                recorded.truncate(recorded_before);
                member.is_too_early = matches!(ran, Ran::TooEarly);
                directories.is_too_early.set(false);
                let in_trigger = matches!(ran, Ran::Failed { in_trigger: true });
                if conn.total_changes() == changes_before && !in_trigger {
                    return Ok(());
                }
                Err(Ended::Refused(Error::new(ErrorKind::Internal, "an operation failed halfway: nothing was written")))
            }
            Ran::Ok => {
                member.intents = recorded.split_off(recorded_before);
                recorded.extend_from_slice(&member.intents);
                before.map_or(Ok(()), |before| before.check(conn)).map_err(fatal)
            }
        }
    }

    /// Acts on intents that are committed, and removes them. Answers with those that failed and why, as their callers
    /// are to be told. They stay for the next opening. With `sync`, some may not be on the disk yet.
    fn act(&mut self, seqs: &[i64], sync: bool) -> Vec<(i64, Error)> {
        let mut failures = Vec::new();
        if seqs.is_empty() {
            return failures;
        }
        let mut acted = Ok(());
        if sync || self.options.durability == Durability::Normal {
            acted = self.sync_log(Instant::now()).map(drop);
        }
        let mut erasing = None;
        let mut done = 0;
        while acted.is_ok() && done < seqs.len() {
            let some = &seqs[done..seqs.len().min(done + ACTS_MAX)];
            acted = self.act_on(some, &mut erasing, &mut failures);
            done += if acted.is_ok() { some.len() } else { 0 };
        }
        acted = acted.map_err(|error| self.told_by_system(error));
        if let Err(error) = &acted {
            self.roll_back();
            self.latch(error);
            let message = "the change was made, but what is to follow in the file system may still be to be done: it is tried again when the store is opened";
            let error = Error::new(ErrorKind::Unfinished, message).with_source(error.clone());
            failures.extend(seqs[done..].iter().map(|seq| (*seq, error.clone())));
        }
        if let Some(intent) = erasing {
            let erased = acted.and_then(|()| self.erase(&intent));
            if let Err(error) = erased {
                tracing::warn!(error = &error as &dyn std::error::Error, "the database could not be rewritten");
                self.roll_back();
                self.latch(&error);
                failures.push((intents::ERASE, unfinished(&intent.action, error)));
            }
        }
        failures
    }

    /// Acts on some in one transaction, but for erasing, which is answered.
    fn act_on(&mut self, seqs: &[i64], erasing: &mut Option<Intent>, failures: &mut Vec<(i64, Error)>) -> Result<()> {
        self.begin(Instant::now())?;
        for seq in seqs {
            let conn = self.conn.unguarded();
            if *seq == intents::ERASE {
                *erasing = intents::erase(&conn)?;
                continue;
            }
            // If it isn't there, another process was faster.
            let Some(intent) = intents::get(&conn, *seq)? else { continue };
            drop(conn);
            match intent.action {
                // That it is on the disk is all that is wanted here.
                Action::Purge(_) | Action::Erase => {}
                _ => {
                    if let Err(error) = self.act_on_one(&intent) {
                        if Fault::of(&error) != Fault::Local {
                            return Err(error);
                        }
                        let name = intent.action.name();
                        tracing::warn!(action = name, error = &error as &dyn std::error::Error, "unfinished");
                        failures.push((*seq, unfinished(&intent.action, error)));
                    }
                }
            }
        }
        failpoint::reach("commit: the intents are done");
        Ok(self.conn.commit()?)
    }

    fn act_on_one(&self, intent: &Intent) -> Result<()> {
        intents::act(&self.conn.unguarded(), self.storage()?, intent)
    }

    fn storage(&self) -> Result<&Storage> {
        self.storage.as_ref().as_ref().map_err(Error::clone)
    }

    /// Has everything that was committed on the disk, whatever the durability: what follows in the file system mustn't
    /// get there first. A commit with `synchronous=FULL` waits for all that is in the log before it. Answers the number of
    /// the last intent that is there then.
    fn sync_log(&mut self, waiting_since: Instant) -> Result<i64> {
        self.conn.unguarded().execute_batch("PRAGMA synchronous = FULL")?;
        let synced = self.begin(waiting_since).and_then(|()| {
            let last = intents::last(&self.conn.unguarded())?;
            self.conn.unguarded().execute_batch("UPDATE tenantry_store SET log_syncs = log_syncs + 1")?;
            failpoint::reach("commit: what came before is on the disk");
            self.conn.commit()?;
            Ok(last)
        });
        let synced = synced.map_err(|error| self.told_by_system(error));
        if let Err(error) = &synced {
            self.roll_back();
            self.latch(error);
        }
        if self.options.durability == Durability::Normal {
            self.conn.unguarded().execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        synced
    }

    /// Takes the write lock for a job that may act on intents itself, and answers up to which number.
    fn begin_alone(&mut self, waiting_since: Instant) -> Result<i64> {
        let mut on_disk = 0;
        if self.refusing.is_none() && intents::are_any_quick(&self.conn.unguarded())? {
            on_disk = self.sync_log(waiting_since)?;
        }
        self.begin(waiting_since)?;
        Ok(on_disk)
    }

    /// Rewrites the database, so that nothing is left in it of rows that are gone: `secure_delete` doesn't reach the
    /// copies that pages leave behind when they are rearranged. Then cuts the log, and says so in the database.
    fn erase(&mut self, intent: &Intent) -> Result<()> {
        failpoint::reach("erase: rewrite the database");
        self.wait_while_busy(Instant::now(), || Ok(self.conn.vacuum()?))?;
        failpoint::reach("erase: cut the log");
        let deadline = Instant::now() + self.options.busy_timeout;
        wait_while_busy(deadline, || self.checkpoints.truncate_log(&self.conn))?;
        self.begin(Instant::now())?;
        intents::remove(&self.conn.unguarded(), intent.seq)?;
        failpoint::reach("commit: the database is rewritten");
        Ok(self.conn.commit()?)
    }

    /// Does what a crash, or a failure, left of earlier transactions. What fails again is left for the next time.
    fn finish_intents(&mut self) {
        let left = match intents::all(&self.conn.unguarded()) {
            Ok(left) => left,
            Err(error) => return tracing::warn!(error = &error as &dyn std::error::Error, "the intents can't be read"),
        };
        if left.is_empty() {
            return;
        }
        tracing::info!(intents = left.len(), "finishing what was left");
        let quick: Vec<i64> = left.iter().filter(|intent| intent.action.is_quick()).map(|intent| intent.seq).collect();
        self.act(&quick, true);
        // If somebody is purging, that is theirs to finish.
        let storage = Arc::clone(&self.storage);
        let alone = storage.as_ref().as_ref().map(|storage| storage.try_lock_out_purges(CHECK_MAX));
        if matches!(alone, Ok(None)) {
            return;
        }
        if let Err(error) = self.sync_log(Instant::now()) {
            return tracing::warn!(error = &error as &dyn std::error::Error, "purges could not be finished");
        }
        for intent in &left {
            if let (Action::Purge(user), Ok(_)) = (&intent.action, &alone)
                && let Err(error) = self.finish_purge(*user)
            {
                self.roll_back();
                self.latch(&error);
                tracing::warn!(error = &error as &dyn std::error::Error, "a purge could not be finished");
            }
        }
        self.act(&[intents::ERASE], false);
    }

    fn finish_purge(&mut self, user: UserId) -> Result<()> {
        let storage = self.storage()?;
        let Some(directory) = directory::trashed_directory(&self.conn.unguarded(), user)? else { return Ok(()) };
        if !storage.remove(user, &directory.path, &|_| {})?.is_complete() {
            return Ok(());
        }
        self.begin(Instant::now())?;
        lifecycle::end_purge(&self.conn.unguarded(), user, self.ambient.now())?;
        failpoint::reach("commit: a purge is done");
        Ok(self.conn.commit()?)
    }

    /// Takes the write lock, waiting for other processes up to the busy timeout.
    fn begin(&mut self, waiting_since: Instant) -> Result<()> {
        if std::mem::take(&mut self.was_full) && self.refusing.is_none() {
            // A log that can't grow has to begin anew, and SQLite sees to that only after a write that worked.
            self.truncate_log();
        }
        if let Some(error) = &self.refusing {
            return Err(error.clone());
        }
        self.wait_while_busy(waiting_since, || Ok(self.conn.begin()?))?;
        self.watch.check().inspect_err(|error| {
            self.roll_back();
            self.latch(error);
        })
    }

    fn wait_while_busy(&self, waiting_since: Instant, attempt: impl Fn() -> Result<()>) -> Result<()> {
        wait_while_busy(waiting_since + self.options.busy_timeout, attempt)
    }

    fn commit(&mut self) -> Ended {
        failpoint::reach("commit: the rows");
        let error = match self.conn.commit() {
            // An answer is worth nothing if the files went away meanwhile.
            Ok(()) => match self.watch.check() {
                Ok(()) => return Ended::Committed,
                Err(error) => {
                    self.latch(&error);
                    return Ended::Undone(Some(error));
                }
            },
            Err(error) => self.told_by_system(error.into()),
        };
        self.roll_back();
        match error.kind() {
            ErrorKind::Constraint => return Ended::Refused(error),
            // The frame that makes it a transaction is the last to be written, and it wasn't.
            ErrorKind::Full if !is_of_shared_memory(&error) => {
                self.latch(&error);
                return Ended::Undone(Some(error));
            }
            _ => {}
        }
        tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
        self.latch(&error);
        let message = "the commit failed; whether the change was written is known only after the store is opened again";
        Ended::Unknown(Error::new(ErrorKind::OutcomeUnknown, message).with_source(error))
    }

    /// The failure of a statement, with what the system said of it.
    fn told_by_system(&self, error: Error) -> Error {
        with_quota_as_full(&self.conn.unguarded(), error)
    }

    fn undo(&mut self, ended: Ended) -> Ended {
        self.roll_back();
        if let Ended::Undone(Some(error)) = &ended {
            self.latch(error);
        }
        ended
    }

    fn roll_back(&mut self) {
        let rolled_back = self.conn.roll_back();
        if let Err(error) = rolled_back {
            self.refuse_writes(&error.into());
        }
    }

    /// What the failure of a transaction means for those after it.
    fn latch(&mut self, error: &Error) {
        self.refuse_writes_if_of_the_files(error);
        self.was_full = error.kind() == ErrorKind::Full;
    }

    /// Has the log moved into the database when it is long.
    fn look_after_log(&mut self) {
        if self.refusing.is_some() {
            return;
        }
        if let Err(error) = self.checkpoints.after_commit(&self.conn) {
            self.log_failed(&error);
        }
    }

    /// Moves the log into the database and truncates it, if no reader is in the way.
    fn truncate_log(&mut self) {
        match self.checkpoints.truncate_log(&self.conn) {
            Err(error) if error.kind() != ErrorKind::Busy => self.log_failed(&error),
            _ => {}
        }
    }

    /// The log could not be moved into the database. What is in it was committed all the same.
    fn log_failed(&mut self, error: &Error) {
        tracing::warn!(error = error as &dyn std::error::Error, "the log could not be moved into the database");
        self.refuse_writes_if_of_the_files(error);
    }

    /// Refuses all further writes if this error leaves the state of the files unknown.
    fn refuse_writes_if_of_the_files(&mut self, error: &Error) {
        if Fault::of(error) == Fault::OfTheFiles {
            self.refuse_writes(error);
        }
    }

    fn refuse_writes(&mut self, error: &Error) {
        tracing::error!(error = error as &dyn std::error::Error, "no further writes after this failure");
        let message = "the store accepts no writes since an operation on its files failed: close it and open it again";
        self.refusing.get_or_insert_with(|| Error::new(error.kind(), message).with_source(error.clone()));
    }
}

fn answer_of(ended: &Ended) -> Result<()> {
    match ended {
        Ended::Committed => Ok(()),
        Ended::Undone(Some(error)) | Ended::Refused(error) | Ended::Unknown(error) => Err(error.clone()),
        Ended::Undone(None) => Err(Error::new(ErrorKind::Internal, "the transaction was rolled back")),
    }
}
