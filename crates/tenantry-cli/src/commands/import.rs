//! `tenantry import`.
//!
//! One thread reads and checks rows while the store's writer writes the ones before. They are
//! passed in chunks, of which only a few are in memory at a time.
//!
//! An all-or-nothing import (`--on-conflict fail`) is one transaction, and so is a dry run, which
//! is rolled back at the end. Other processes can't write during it, so standard input, which may
//! be slow, is first copied to a file. Otherwise each chunk is a transaction, and other processes
//! can write in between.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use tempfile::TempDir;
use tenantry::{NewUser, Store, WriteTx};
use tenantry_exchange::{
    Chunk, Columns, Format, Importer, Omissions, Rejection, RejectsWriter, RowReader, Tally,
    printable,
};

use crate::args::{Import, OnConflict};
use crate::data_dir::{DataDir, temporary_dir};
use crate::failure::{Exit, Failure};
use crate::interrupt::{self, Interrupt};
use crate::output::pluralize;
use crate::progress_bar;
use crate::stdio::{self, report};
use crate::target::Target;

/// How many chunks may wait for the writer, as backpressure on the reading thread.
const CHUNKS_WAITING_MAX: usize = 1;
/// How many rejected rows are reported on standard error if there is no file for them, and how many
/// confusable users.
const ROWS_SHOWN_MAX: u64 = 10;

pub(crate) async fn run(dir: &DataDir, args: Import) -> Result<(), Failure> {
    let interrupt = Interrupt::listen();
    let is_one_transaction = args.dry_run || args.on_conflict == OnConflict::Fail;
    if args.rejects.is_some() && args.on_conflict == OnConflict::Fail {
        return Err(Failure::new(
            Exit::Usage,
            "--rejects needs --on-conflict skip or update: otherwise nothing is imported if a row is rejected",
        ));
    }
    let (progress, mut chunks) = read_in_background(&args, is_one_transaction, &interrupt)?;
    // Wait for the first chunk before opening anything: an unusable file must create neither a
    // store nor a file of rejects.
    let mut first =
        chunks.receive().map_err(|failure| failure.with_outcome("nothing was imported"))?;
    let importer = Importer::new(args.on_conflict.into()).on_confusable(args.on_lookalike.into());
    importer.check(&mut first)?;
    let rejects = match &args.rejects {
        Some(path) => {
            Some(Rejects::create(path, Target::create(path, dir, Some(stdio::input(&args.file)))?)?)
        }
        None => None,
    };
    let job = ImportJob { importer, rejects, shown: 0, confusables_shown: 0, progress };

    let (store, _temporary) = open_store(dir, &args, &first).await?;
    let result = match is_one_transaction {
        true => in_one_transaction(&store, job, first, chunks, args.dry_run).await,
        false => chunk_by_chunk(&store, job, first, chunks).await,
    };
    store.close().await?;
    conclude(&result?, &args)
}

/// Opens the store of the import, which is a temporary one if a new store would stay empty.
async fn open_store(
    dir: &DataDir,
    args: &Import,
    first: &Chunk,
) -> Result<(Store, Option<TempDir>), Failure> {
    let store = match dir.open().await {
        Err(Failure::Message { exit: Exit::NotFound, .. }) => None,
        opened => Some(opened?),
    };
    if let Some(store) = store {
        return Ok((store, None));
    }
    if args.dry_run {
        let temporary = temporary_dir()
            .map_err(|error| Failure::io("creating a temporary directory", &error))?;
        return Ok((Store::open(temporary.path()).await?, Some(temporary)));
    }
    match dir.scratch().await? {
        // The import into the temporary store reports the same rejections.
        Some(scratch) if imports_nothing(&scratch, first, args.on_conflict).await? => {
            Ok((scratch.store, Some(scratch.dir)))
        }
        _ => Ok((dir.open_or_create().await?, None)),
    }
}

/// Reports the outcome, and fails if rows were rejected.
fn conclude(outcome: &Outcome, args: &Import) -> Result<(), Failure> {
    let Outcome { tally, omissions } = outcome;
    report!(
        "{}",
        summary(tally, omissions, if args.dry_run { "would import" } else { "imported" })
    );
    if let Some(ignored) = ignored(omissions) {
        report!("{ignored}");
    }
    if tally.rejected > 0 {
        let rejected = pluralize(tally.rejected, "rejected row");
        return Err(Failure::new(
            Exit::Invalid,
            match &args.rejects {
                Some(path) if path == Path::new("-") => {
                    format!("{rejected}: see standard output for lines and reasons")
                }
                Some(path) => format!("{rejected}: see {} for lines and reasons", path.display()),
                None => {
                    format!("{rejected}: repeat with --rejects FILE to write all of them to a file")
                }
            },
        ));
    }
    Ok(())
}

/// Returns whether the first rows show that an import would leave a new store empty.
async fn imports_nothing(
    scratch: &Store,
    first: &Chunk,
    on_conflict: OnConflict,
) -> Result<bool, Failure> {
    /// Rolls the rehearsal back.
    enum Rollback {
        Counts { imported: u64, rejected: u64 },
        Failed(tenantry::Error),
    }
    impl From<tenantry::Error> for Rollback {
        fn from(error: tenantry::Error) -> Self {
            Self::Failed(error)
        }
    }
    let users: Vec<NewUser> =
        first.rows.iter().filter_map(|row| row.user.as_ref().ok().cloned()).collect();
    let rehearsed: Result<(), Rollback> = scratch
        .write(move |tx| {
            let (mut imported, mut rejected) = (0, 0);
            for user in &users {
                match tx.upsert(user, on_conflict.into()) {
                    Ok(_) => imported += 1,
                    Err(error)
                        if matches!(
                            Exit::from_kind(error.kind()),
                            Exit::Conflict | Exit::Invalid
                        ) =>
                    {
                        rejected += 1
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Rollback::Counts { imported, rejected })
        })
        .await;
    let is_whole_file = first.end.is_some();
    match rehearsed {
        Ok(()) => Ok(false),
        Err(Rollback::Counts { rejected, .. }) if on_conflict == OnConflict::Fail => {
            Ok(rejected > 0)
        }
        Err(Rollback::Counts { imported, .. }) => Ok(is_whole_file && imported == 0),
        Err(Rollback::Failed(error)) => Err(error.into()),
    }
}

async fn in_one_transaction(
    store: &Store,
    mut job: ImportJob,
    first: Chunk,
    mut chunks: Chunks,
    dry_run: bool,
) -> Result<Outcome, Failure> {
    /// Rolls a transaction back: that of a dry run, whose outcome is kept, or one that failed.
    enum Rollback {
        DryRun(Box<Outcome>),
        Failed(Failure),
    }
    impl From<tenantry::Error> for Rollback {
        fn from(error: tenantry::Error) -> Self {
            Self::Failed(error.into())
        }
    }
    let written = store
        .write(move |tx| {
            let mut chunk = first;
            loop {
                let stopped = chunks.interrupt.check();
                stopped.map_err(|failure| {
                    Rollback::Failed(failure.with_outcome("nothing was imported"))
                })?;
                let (bytes_read, is_last) = (chunk.bytes_read, chunk.end.is_some());
                job.importer.write(tx, chunk).map_err(|error| Rollback::Failed(error.into()))?;
                job.report().map_err(Rollback::Failed)?;
                job.progress.set_position(bytes_read);
                if is_last {
                    break;
                }
                chunk = chunks.receive().map_err(|failure| {
                    Rollback::Failed(failure.with_outcome("nothing was imported"))
                })?;
            }
            job.importer.finish(tx).map_err(|error| Rollback::Failed(error.into()))?;
            job.report().map_err(Rollback::Failed)?;
            job.finish().map_err(Rollback::Failed)?;
            let outcome = Box::new(Outcome::new(&job.importer));
            if dry_run { Err(Rollback::DryRun(outcome)) } else { Ok(outcome) }
        })
        .await;
    match written {
        Ok(outcome) | Err(Rollback::DryRun(outcome)) => Ok(*outcome),
        Err(Rollback::Failed(failure)) => Err(failure),
    }
}

async fn chunk_by_chunk(
    store: &Store,
    job: ImportJob,
    first: Chunk,
    mut chunks: Chunks,
) -> Result<Outcome, Failure> {
    let job = Arc::new(Mutex::new(job));
    let lock = || job.lock().unwrap_or_else(PoisonError::into_inner);
    let mut chunk = first;
    let mut landed = Outcome::default();
    let mut must_give_up = false;
    let ended = loop {
        let (bytes_read, is_last) = (chunk.bytes_read, chunk.end.is_some());
        match write(store, &job, move |importer, tx| importer.write(tx, chunk)).await {
            Ok(outcome) => landed = outcome,
            Err(failure) => {
                must_give_up = true;
                break Err(failure);
            }
        }
        // After the transaction, since the reader of the rejects may be slow.
        if let Err(failure) = lock().report() {
            break Err(failure);
        }
        lock().progress.set_position(bytes_read);
        if is_last {
            break Ok(());
        }
        chunk = match chunks.receive() {
            Ok(chunk) => chunk,
            Err(failure) => break Err(failure),
        };
    };
    let mut settled = Ok(());
    if must_give_up || chunks.interrupt.is_requested() {
        landed.tally.rejected += lock().importer.reject_waiting();
    } else {
        settled = write(store, &job, |importer, tx| importer.finish(tx))
            .await
            .map(|outcome| landed = outcome);
    }
    // Even after a failure, write the rejects of the rows before it.
    let reported = lock().report();
    let finished = lock().finish();
    ended.and(settled).and(reported).and(finished).map_err(|failure| {
        failure.with_outcome(&summary(&landed.tally, &landed.omissions, "imported before that"))
    })?;
    Ok(landed)
}

/// Runs one transaction of an import, and returns the outcome of all rows so far.
async fn write(
    store: &Store,
    job: &Arc<Mutex<ImportJob>>,
    step: impl FnOnce(&mut Importer, &mut WriteTx<'_>) -> tenantry_exchange::Result<()> + Send + 'static,
) -> Result<Outcome, Failure> {
    let shared = Arc::clone(job);
    let written = store
        .write(move |tx| {
            let importer = &mut shared.lock().unwrap_or_else(PoisonError::into_inner).importer;
            step(importer, tx)?;
            Ok::<_, Failure>(Outcome::new(importer))
        })
        .await;
    if written.is_err() {
        // Rows that were rejected in a transaction that failed may succeed the next time.
        let importer = &mut job.lock().unwrap_or_else(PoisonError::into_inner).importer;
        importer.take_rejected();
        importer.take_confusables();
    }
    written
}

/// The outcome of an import so far.
#[derive(Default)]
struct Outcome {
    tally: Tally,
    omissions: Omissions,
}

impl Outcome {
    fn new(importer: &Importer) -> Self {
        Self { tally: importer.tally(), omissions: importer.omissions().clone() }
    }
}

fn summary(tally: &Tally, omissions: &Omissions, verb: &str) -> String {
    let Tally { created, updated, unchanged, skipped, rejected, confusables, .. } = tally;
    let alike =
        if *confusables > 0 { format!(", {confusables} confusable") } else { String::new() };
    let Omissions { empty_rows, empty_columns, .. } = omissions;
    let empty: String = [(*empty_rows, "empty row"), (*empty_columns, "empty column")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, thing)| format!(", {} ignored", pluralize(count, thing)))
        .collect();
    format!(
        "{verb}: {created} created, {updated} updated, {unchanged} unchanged, {skipped} skipped, {rejected} rejected{empty}{alike}"
    )
}

/// Describes the ignored columns or keys.
fn ignored(omissions: &Omissions) -> Option<String> {
    let names: Vec<_> =
        omissions.ignored_names().iter().map(|name| format!("\"{}\"", printable(name))).collect();
    let more = if omissions.ignored > names.len() as u64 { ", and others" } else { "" };
    (!names.is_empty()).then(|| format!("ignored: {}{more}", names.join(", ")))
}

/// The state of an import.
struct ImportJob {
    importer: Importer,
    rejects: Option<Rejects>,
    /// How many rejected rows were reported on standard error.
    shown: u64,
    confusables_shown: u64,
    progress: ProgressBar,
}

impl ImportJob {
    /// Reports the rows that were rejected since the last call, in their file or else on standard
    /// error, and the confusable users.
    fn report(&mut self) -> Result<(), Failure> {
        for confusable in self.importer.take_confusables() {
            if self.confusables_shown < ROWS_SHOWN_MAX {
                self.confusables_shown += 1;
                self.progress.suspend(|| report!("{confusable}"));
            }
        }
        for rejection in self.importer.take_rejected() {
            match &mut self.rejects {
                Some(rejects) => rejects.add(&rejection)?,
                None if self.shown < ROWS_SHOWN_MAX => {
                    self.shown += 1;
                    self.progress.suspend(|| report!("{rejection}"));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.progress.finish_and_clear();
        self.rejects.take().map_or(Ok(()), Rejects::finish)
    }
}

/// Receives the chunks from the reading thread.
struct Chunks {
    receiver: Receiver<Result<Chunk, Failure>>,
    interrupt: Interrupt,
}

impl Chunks {
    /// Waits for the next chunk or for a signal: a pipe may stay silent for hours.
    fn receive(&mut self) -> Result<Chunk, Failure> {
        loop {
            self.interrupt.check()?;
            match self.receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => return chunk,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(
                        Exit::Failure,
                        "the file could not be read to its end",
                    ));
                }
            }
        }
    }
}

/// Starts the thread that reads the file and checks its rows.
fn read_in_background(
    args: &Import,
    is_one_transaction: bool,
    interrupt: &Interrupt,
) -> Result<(ProgressBar, Chunks), Failure> {
    let format = args.from.map_or_else(|| Format::from_path(&args.file), Format::from);
    let columns = columns(args)?;
    let name = args.file.display().to_string();
    let (input, length): (Box<dyn Read + Send>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let path = args.file.clone();
        // Opening a named pipe blocks until a writer opens it.
        let opened = interrupt::until_signal(move || File::open(path)).and_then(|opened| opened);
        let file = opened.map_err(|error| Failure::io(&name, &error))?;
        let metadata = file.metadata().map_err(|error| Failure::io(&name, &error))?;
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let template = if length.is_some() {
        "{wide_bar} {bytes}/{total_bytes} {eta}"
    } else {
        "{spinner} {bytes}"
    };
    let progress = progress_bar::start(length, template);

    let (sender, receiver) = sync_channel(CHUNKS_WAITING_MAX);
    let must_spool = is_one_transaction && length.is_none();
    let all_or_nothing = args.on_conflict == OnConflict::Fail;
    thread::Builder::new()
        .name("tenantry-import".to_owned())
        .spawn(move || {
            let read = if must_spool {
                spool(input)
                    .and_then(|file| read_rows(format, columns, file, all_or_nothing, &sender))
            } else {
                read_rows(format, columns, input, all_or_nothing, &sender)
            };
            if let Err(failure) = read {
                // If the receiver is gone, the import has ended for another reason.
                let _ = sender.send(Err(failure));
            }
        })
        .map_err(|error| Failure::io("starting a thread", &error))?;
    Ok((progress, Chunks { receiver, interrupt: interrupt.clone() }))
}

fn columns(args: &Import) -> Result<Columns, Failure> {
    let mut columns = Columns::default();
    for mapping in &args.map {
        let Some((field, column)) = mapping.split_once('=') else {
            let message = format!("--map: \"{}\" is not FIELD=COLUMN", printable(mapping));
            return Err(Failure::new(Exit::Usage, message));
        };
        columns.map(field, column)?;
    }
    if args.ignore_unknown {
        columns.ignore_unknown();
    }
    Ok(columns)
}

/// Copies input that may be slow into an unnamed temporary file.
fn spool(mut input: impl Read) -> Result<File, Failure> {
    let failed = |error| Failure::io("copying the input to a temporary file", &error);
    let mut file = tempfile::tempfile().map_err(failed)?;
    io::copy(&mut input, &mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file)
}

/// Sends the rows in chunks. A failure follows the rows before it, unless they would be rolled
/// back.
fn read_rows(
    format: Format,
    columns: Columns,
    input: impl Read,
    all_or_nothing: bool,
    sender: &SyncSender<Result<Chunk, Failure>>,
) -> Result<(), Failure> {
    let mut reader = RowReader::with_columns(format, columns, input)?;
    loop {
        let mut chunk = reader.next_chunk()?;
        if let Some(Err(error)) = chunk.end.take_if(|end| end.is_err()) {
            if !all_or_nothing {
                // If the receiver is gone, sending the failure shows it.
                let _ = sender.send(Ok(chunk));
            }
            return Err(error.into());
        }
        let is_last = chunk.end.is_some();
        if sender.send(Ok(chunk)).is_err() || is_last {
            return Ok(());
        }
    }
}

/// The file of rejected rows.
struct Rejects {
    writer: RejectsWriter<Target>,
    name: String,
}

impl Rejects {
    fn create(path: &Path, target: Target) -> Result<Self, Failure> {
        let name = path.display().to_string();
        match RejectsWriter::new(target) {
            Ok(writer) => Ok(Self { writer, name }),
            Err(error) => Err(rejects_failure(&name, &error)),
        }
    }

    fn add(&mut self, rejection: &Rejection) -> Result<(), Failure> {
        self.writer.write(rejection).map_err(|error| rejects_failure(&self.name, &error))
    }

    fn finish(self) -> Result<(), Failure> {
        let Self { writer, name } = self;
        writer.finish().map_err(|error| rejects_failure(&name, &error))?.finish()
    }
}

/// Converts a failure to write rejects. A reader that went away is one, unlike on standard output:
/// the rejects were asked for.
fn rejects_failure(name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("{name}: {error}"))
}
