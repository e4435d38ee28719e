//! `tenantry import`.
//!
//! One thread reads and checks the rows while the store's writer writes those before. They come in chunks, of which
//! only a few are in memory at a time.
//!
//! All or nothing (`--on-conflict fail`) is one transaction, and so is a dry run, which is rolled back in the end.
//! Nobody else can write meanwhile, so standard input, which may take its time, is copied to a file first.
//! Otherwise each chunk is a transaction, between which other processes get their turn.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use tenantry::{Imported, Store, WriteTx};

use crate::args::{FileFormat, Import, OnConflict};
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, counted};
use crate::place::Place;
use crate::rows::{self, Row, RowReader, csv_safe, printable};
use crate::target::Target;

/// How many rows are handed over at a time.
const CHUNK_ROWS: usize = 5_000;
/// How many octets of the file are enough for a chunk, whatever the number of rows.
const CHUNK_OCTETS: u64 = 1 << 20;
/// How many chunks may wait for the writer.
const CHUNKS_WAITING_MAX: usize = 1;
/// How many rejected rows are named on standard error if there is no file for them.
const REJECTED_SHOWN_MAX: u64 = 10;

pub(crate) async fn run(place: &Place, args: Import) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let is_one_transaction = args.dry_run || args.on_conflict == OnConflict::Fail;
    if args.rejects.is_some() && args.on_conflict == OnConflict::Fail {
        return Err(Failure::new(
            Exit::Usage,
            "--rejects needs --on-conflict skip or update: otherwise nothing is imported if a row is rejected",
        ));
    }
    let (progress, mut chunks) = read_in_background(&args, is_one_transaction, &interrupt)?;
    // The first chunk is waited for before anything is opened: a file that can't be used at all makes neither a store nor
    // a file of rejects.
    let first = chunks.receive().map_err(|failure| failure.saying("nothing was imported"))?;
    if args.on_conflict == OnConflict::Fail
        && let Some((row, bad)) = first.rows.iter().find_map(|row| Some((row, row.user.as_ref().err()?)))
    {
        return Err(failure_of(row, &bad.reason, Exit::Invalid));
    }
    let rejects = match &args.rejects {
        Some(path) => Some(Rejects::create(path, Target::create(path, place, Some(&args.file))?)?),
        None => None,
    };
    let importer =
        Importer { policy: args.on_conflict, tally: Tally::default(), rejected: Vec::new(), rejects, progress };

    let mut scratch = None;
    let store = match place.open().await {
        Err(Failure::Told { exit: Exit::NotFound, .. }) if args.dry_run => {
            // Rehearse on an empty store that goes away.
            let dir = tempfile::tempdir().map_err(|error| Failure::io("making a temporary directory", &error))?;
            Store::open(scratch.insert(dir).path()).await?
        }
        Err(Failure::Told { exit: Exit::NotFound, .. }) => place.open_or_create().await?,
        opened => opened?,
    };
    let result = match is_one_transaction {
        true => in_one_transaction(&store, importer, first, chunks, args.dry_run).await,
        false => chunk_by_chunk(&store, importer, first, chunks).await,
    };
    store.close().await?;
    let tally = result?;
    anstream::eprintln!("{}", tally.summary(if args.dry_run { "would import" } else { "imported" }));
    if tally.rejected > 0 {
        let rejected = counted(tally.rejected, "rejected row");
        return Err(Failure::new(
            Exit::Invalid,
            match &args.rejects {
                Some(path) => format!("{rejected}: see {} for lines and reasons", path.display()),
                None => format!("{rejected}: repeat with --rejects FILE to have all of them in a file"),
            },
        ));
    }
    Ok(())
}

async fn in_one_transaction(
    store: &Store,
    mut importer: Importer,
    first: Chunk,
    mut chunks: Chunks,
    dry_run: bool,
) -> Result<Tally, Failure> {
    /// Carries the tally of a rehearsal out of the transaction that it undoes.
    enum Undo {
        Rehearsed(Tally),
        Failed(Failure),
    }
    impl From<tenantry::Error> for Undo {
        fn from(error: tenantry::Error) -> Self {
            Self::Failed(error.into())
        }
    }
    let written = store
        .write(move |tx| {
            let mut chunk = first;
            loop {
                importer.tally.empty = chunk.empty_rows;
                importer.write(tx, chunk.rows).and_then(|()| importer.report()).map_err(Undo::Failed)?;
                importer.progress.set_position(chunk.read_bytes);
                if chunk.is_last {
                    break;
                }
                chunk = chunks.receive().map_err(|failure| Undo::Failed(failure.saying("nothing was imported")))?;
            }
            let tally = importer.finish().map_err(Undo::Failed)?;
            if dry_run { Err(Undo::Rehearsed(tally)) } else { Ok(tally) }
        })
        .await;
    match written {
        Ok(tally) | Err(Undo::Rehearsed(tally)) => Ok(tally),
        Err(Undo::Failed(failure)) => Err(failure),
    }
}

async fn chunk_by_chunk(store: &Store, importer: Importer, first: Chunk, mut chunks: Chunks) -> Result<Tally, Failure> {
    let importer = Arc::new(Mutex::new(importer));
    let lock = || importer.lock().unwrap_or_else(PoisonError::into_inner);
    let mut chunk = first;
    let mut landed = Tally::default();
    let ended = loop {
        let (read_bytes, is_last) = (chunk.read_bytes, chunk.is_last);
        let shared = Arc::clone(&importer);
        let written = store
            .write(move |tx| {
                let mut importer = shared.lock().unwrap_or_else(PoisonError::into_inner);
                importer.tally.empty = chunk.empty_rows;
                importer.write(tx, chunk.rows).map(|()| importer.tally)
            })
            .await;
        match written {
            Ok(tally) => landed = tally,
            Err(failure) => {
                // What was rejected with the chunk that didn't land may be right next time.
                lock().rejected.clear();
                break Err(failure);
            }
        }
        // Now that the transaction is over: whoever reads the rejects may be slow.
        if let Err(failure) = lock().report() {
            break Err(failure);
        }
        lock().progress.set_position(read_bytes);
        if is_last {
            break Ok(());
        }
        chunk = match chunks.receive() {
            Ok(chunk) => chunk,
            Err(failure) => break Err(failure),
        };
    };
    // Whatever has happened, the rejects of the rows before it are wanted.
    let finished = lock().finish();
    ended.and(finished).map(|_| landed).map_err(|failure| failure.saying(&landed.summary("imported before that")))
}

/// What has become of the rows.
#[derive(Clone, Copy, Default)]
struct Tally {
    created: u64,
    updated: u64,
    unchanged: u64,
    skipped: u64,
    rejected: u64,
    /// Rows without any value, which were passed over.
    empty: u64,
}

impl Tally {
    fn summary(&self, verb: &str) -> String {
        let Self { created, updated, unchanged, skipped, rejected, empty } = self;
        let empty = if *empty > 0 { format!(", {} passed over", counted(*empty, "empty row")) } else { String::new() };
        format!(
            "{verb}: {created} created, {updated} updated, {unchanged} unchanged, {skipped} skipped, {rejected} rejected{empty}"
        )
    }
}

struct Importer {
    policy: OnConflict,
    tally: Tally,
    /// The rows that were rejected since they were last reported.
    rejected: Vec<(Row, String)>,
    rejects: Option<Rejects>,
    progress: ProgressBar,
}

impl Importer {
    /// Writes rows. With `fail` the first that is rejected ends it.
    fn write(&mut self, tx: &mut WriteTx<'_>, rows: Vec<Row>) -> Result<(), Failure> {
        let policy = match self.policy {
            OnConflict::Fail => tenantry::OnConflict::Fail,
            OnConflict::Skip => tenantry::OnConflict::Skip,
            OnConflict::Update => tenantry::OnConflict::Update,
        };
        for row in rows {
            let user = match &row.user {
                Ok(user) => user,
                Err(bad) => {
                    let reason = bad.reason.clone();
                    self.reject(row, reason, Exit::Invalid)?;
                    continue;
                }
            };
            match tx.import(user, policy) {
                Ok(Imported::Created) => self.tally.created += 1,
                Ok(Imported::Updated) => self.tally.updated += 1,
                Ok(Imported::Unchanged) => self.tally.unchanged += 1,
                Ok(Imported::Skipped) => self.tally.skipped += 1,
                Err(error) => match Exit::of(error.kind()) {
                    exit @ (Exit::Conflict | Exit::Invalid) => self.reject(row, error.to_string(), exit)?,
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    fn reject(&mut self, row: Row, reason: String, exit: Exit) -> Result<(), Failure> {
        if self.policy == OnConflict::Fail {
            return Err(failure_of(&row, &reason, exit));
        }
        self.tally.rejected += 1;
        if self.rejects.is_some() || self.tally.rejected <= REJECTED_SHOWN_MAX {
            self.rejected.push((row, reason));
        }
        Ok(())
    }

    /// Tells of the rows that were rejected: in the file for them, or else on standard error.
    fn report(&mut self) -> Result<(), Failure> {
        for (row, reason) in self.rejected.drain(..) {
            match &mut self.rejects {
                Some(rejects) => rejects.add(&row, &reason)?,
                None => self.progress.suspend(|| anstream::eprintln!("line {}: {}{reason}", row.line, named(&row))),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Tally, Failure> {
        self.progress.finish_and_clear();
        self.rejects.take().map(Rejects::finish).transpose()?;
        Ok(self.tally)
    }
}

/// Why an import that is all or nothing is nothing.
fn failure_of(row: &Row, reason: &str, exit: Exit) -> Failure {
    Failure::new(
        exit,
        format!(
            "line {}: {}{reason}; nothing was imported: correct the line, or import the others with --on-conflict skip",
            row.line,
            named(row)
        ),
    )
}

/// The address of a row, for messages, as far as there is one.
fn named(row: &Row) -> String {
    let address = match &row.user {
        Ok(user) => printable(user.email.as_str()),
        // It may be anything, so it is shown as no terminal could misunderstand.
        Err(bad) => printable(&bad.address),
    };
    if address.is_empty() { address } else { format!("{address}: ") }
}

/// Some rows, in the order of the file.
struct Chunk {
    rows: Vec<Row>,
    read_bytes: u64,
    /// How many rows without any value came up to its end, since the beginning of the file.
    empty_rows: u64,
    is_last: bool,
}

/// The chunks as the reading thread hands them over.
struct Chunks {
    receiver: Receiver<Result<Chunk, Failure>>,
    interrupt: Interrupt,
}

impl Chunks {
    /// Waits for the next chunk, but not for longer than until Ctrl-C: a pipe may have nothing to say for hours.
    fn receive(&mut self) -> Result<Chunk, Failure> {
        loop {
            if self.interrupt.is_requested() {
                return Err(Failure::new(Exit::Interrupted, "interrupted"));
            }
            match self.receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => return chunk,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Exit::Failure, "the file could not be read to its end"));
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
    let format = args.from.unwrap_or_else(|| FileFormat::of(&args.file));
    let name = args.file.display().to_string();
    let (input, length): (Box<dyn Read + Send>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&args.file).map_err(|error| Failure::io(&name, &error))?;
        let metadata = file.metadata().map_err(|error| Failure::io(&name, &error))?;
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let template = if length.is_some() { "{wide_bar} {bytes}/{total_bytes} {eta}" } else { "{spinner} {bytes}" };
    let progress = output::progress(length, template);

    let (sender, receiver) = sync_channel(CHUNKS_WAITING_MAX);
    let must_spool = is_one_transaction && length.is_none();
    let all_or_nothing = args.on_conflict == OnConflict::Fail;
    thread::Builder::new()
        .name("tenantry-import".to_owned())
        .spawn(move || {
            let read = if must_spool {
                spool(input).and_then(|file| read_rows(format, file, all_or_nothing, &sender))
            } else {
                read_rows(format, input, all_or_nothing, &sender)
            };
            if let Err(failure) = read {
                // If nobody listens any more, the import has ended for another reason.
                let _ = sender.send(Err(failure));
            }
        })
        .map_err(|error| Failure::io("starting a thread", &error))?;
    Ok((progress, Chunks { receiver, interrupt: interrupt.clone() }))
}

/// Copies what may come slowly into a file that has no name and goes with the process.
fn spool(mut input: impl Read) -> Result<File, Failure> {
    let failed = |error| Failure::io("copying the input to a temporary file", &error);
    let mut file = tempfile::tempfile().map_err(failed)?;
    io::copy(&mut input, &mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file)
}

/// Sends the rows in chunks, and a failure after the rows before it, unless these are in vain.
fn read_rows(
    format: FileFormat,
    input: impl Read,
    all_or_nothing: bool,
    sender: &SyncSender<Result<Chunk, Failure>>,
) -> Result<(), Failure> {
    let mut reader = RowReader::new(format, input)?;
    loop {
        let mut rows = Vec::new();
        let read_before = reader.read_bytes();
        let end = loop {
            let is_full = rows.len() == CHUNK_ROWS || reader.read_bytes() - read_before >= CHUNK_OCTETS;
            if is_full {
                break None;
            }
            match reader.next() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => break Some(Ok(())),
                // The good rows before it are good all the same.
                Err(failure) => break Some(Err(failure)),
            }
        };
        let end = match end {
            Some(Err(failure)) if all_or_nothing || rows.is_empty() => return Err(failure),
            end => end,
        };
        let is_last = matches!(end, Some(Ok(())));
        let (read_bytes, empty_rows) = (reader.read_bytes(), reader.empty_rows());
        if sender.send(Ok(Chunk { rows, read_bytes, empty_rows, is_last })).is_err() {
            return Ok(());
        }
        if let Some(end) = end {
            return end;
        }
    }
}

/// The file of rejected rows: CSV with the columns line, reason and row, where row is the line of a JSON Lines file or the
/// fields of a CSV file as they stood there.
struct Rejects {
    csv: csv::Writer<Target>,
    name: String,
}

impl Rejects {
    fn create(path: &Path, target: Target) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let mut rejects = Self { csv: csv::Writer::from_writer(target), name };
        rejects.record(["line", "reason", "row"])?;
        Ok(rejects)
    }

    fn add(&mut self, row: &Row, reason: &str) -> Result<(), Failure> {
        let original = row.original();
        self.record([&row.line.to_string(), &csv_safe(reason), &csv_safe(&String::from_utf8_lossy(&original))])
    }

    fn record(&mut self, fields: [&str; 3]) -> Result<(), Failure> {
        self.csv.write_record(fields).map_err(|error| self.failure(&rows::io_error(error)))
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.csv.flush().map_err(|error| self.failure(&error))?;
        let name = self.name;
        let target = self.csv.into_inner().map_err(|error| told(&name, error.error()))?;
        target.finish()
    }

    fn failure(&self, error: &io::Error) -> Failure {
        told(&self.name, error)
    }
}

/// Unlike with standard output, a reader of the rejects who goes away is a failure: somebody wanted them.
fn told(name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("{name}: {error}"))
}
