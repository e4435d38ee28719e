//! `tenantry import`.
//!
//! One thread reads and checks the rows while the store's writer writes those before. They come in chunks, of which
//! only a few are in memory at a time.
//!
//! All or nothing (`--on-conflict fail`) is one transaction, and so is a dry run, which is rolled back in the end.
//! Nobody else can write meanwhile, so standard input, which may take its time, is copied to a file first.
//! Otherwise each chunk is a transaction, between which other processes get their turn.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tenantry::{Imported, Store, WriteTx};

use crate::args::{FileFormat, Import, OnConflict};
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::counted;
use crate::place::Place;
use crate::rows::{Row, RowReader};

/// How many rows are handed over at a time.
const CHUNK_ROWS: usize = 1_000;
/// How many chunks may wait for the writer.
const CHUNKS_WAITING_MAX: usize = 2;
/// How many refused rows are named on standard error if there is no file for them.
const REFUSALS_SHOWN_MAX: u64 = 10;

pub(crate) async fn run(place: &Place, args: Import) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let is_one_transaction = args.dry_run || args.on_conflict == OnConflict::Fail;
    let (progress, mut chunks) = read_in_background(&args, is_one_transaction, &interrupt)?;
    let rejects = args.rejects.as_deref().map(Rejects::create).transpose()?;
    // The first chunk is waited for before the store is opened: a file that can't be used at all creates none.
    let first = chunks.receive()?;
    let importer = Importer { policy: args.on_conflict, tally: Tally::default(), rejects, progress };
    if args.on_conflict == OnConflict::Fail
        && let Some(bad) = first.rows.iter().find(|row| row.user.is_err())
    {
        return Err(importer.refusal_of(bad));
    }

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
        let refused = counted(tally.rejected, "refused row");
        return Err(Failure::new(
            Exit::Invalid,
            match &args.rejects {
                Some(path) => format!("{refused}: {} has line and reason", path.display()),
                None => format!("{refused}: repeat with --rejects FILE to have them all in a file"),
            },
        ));
    }
    Ok(())
}

async fn in_one_transaction(
    store: &Store,
    mut importer: Importer,
    first: Chunk,
    chunks: Chunks,
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
    let mut chunks = chunks;
    let written = store
        .write(move |tx| {
            let mut chunk = first;
            loop {
                importer.write(tx, &chunk).map_err(Undo::Failed)?;
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
    let mut chunk = first;
    let mut landed = Tally::default();
    loop {
        let (read_bytes, is_last) = (chunk.read_bytes, chunk.is_last);
        let shared = Arc::clone(&importer);
        let written = store
            .write(move |tx| {
                let mut importer = shared.lock().unwrap_or_else(PoisonError::into_inner);
                importer.write(tx, &chunk).map(|()| importer.tally)
            })
            .await;
        landed = written.map_err(|failure| failure.saying(&landed.summary("until then imported")))?;
        importer.lock().unwrap_or_else(PoisonError::into_inner).progress.set_position(read_bytes);
        if is_last {
            return importer.lock().unwrap_or_else(PoisonError::into_inner).finish();
        }
        chunk = chunks.receive().map_err(|failure| failure.saying(&landed.summary("until then imported")))?;
    }
}

/// What has become of the rows.
#[derive(Clone, Copy, Default)]
struct Tally {
    created: u64,
    updated: u64,
    unchanged: u64,
    skipped: u64,
    rejected: u64,
}

impl Tally {
    fn summary(&self, verb: &str) -> String {
        let Self { created, updated, unchanged, skipped, rejected } = self;
        format!(
            "{verb}: {created} created, {updated} updated, {unchanged} unchanged, {skipped} skipped, {rejected} refused"
        )
    }
}

struct Importer {
    policy: OnConflict,
    tally: Tally,
    rejects: Option<Rejects>,
    progress: ProgressBar,
}

impl Importer {
    /// Writes the rows of a chunk. With `fail` the first that is refused ends it.
    fn write(&mut self, tx: &mut WriteTx<'_>, chunk: &Chunk) -> Result<(), Failure> {
        let policy = match self.policy {
            OnConflict::Fail => tenantry::OnConflict::Fail,
            OnConflict::Skip => tenantry::OnConflict::Skip,
            OnConflict::Update => tenantry::OnConflict::Update,
        };
        for row in &chunk.rows {
            let user = match &row.user {
                Ok(user) => user,
                Err(bad) => {
                    self.refuse(row, &bad.reason, Exit::Invalid)?;
                    continue;
                }
            };
            match tx.import(user, policy) {
                Ok(Imported::Created) => self.tally.created += 1,
                Ok(Imported::Updated) => self.tally.updated += 1,
                Ok(Imported::Unchanged) => self.tally.unchanged += 1,
                Ok(Imported::Skipped) => self.tally.skipped += 1,
                Err(error) => match Exit::of(error.kind()) {
                    exit @ (Exit::Conflict | Exit::Invalid) => self.refuse(row, &error.to_string(), exit)?,
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    fn refuse(&mut self, row: &Row, reason: &str, exit: Exit) -> Result<(), Failure> {
        if self.policy == OnConflict::Fail {
            return Err(refusal(row, reason, exit));
        }
        self.tally.rejected += 1;
        match &mut self.rejects {
            Some(rejects) => rejects.add(row, reason)?,
            None if self.tally.rejected <= REFUSALS_SHOWN_MAX => {
                self.progress.suspend(|| anstream::eprintln!("line {}: {}{reason}", row.line, named(row)));
            }
            None => {}
        }
        Ok(())
    }

    fn refusal_of(&self, row: &Row) -> Failure {
        refusal(row, row.user.as_ref().err().map_or("", |bad| &bad.reason), Exit::Invalid)
    }

    fn finish(&mut self) -> Result<Tally, Failure> {
        self.progress.finish_and_clear();
        self.rejects.as_mut().map(Rejects::finish).transpose()?;
        Ok(self.tally)
    }
}

/// Why an import that is all or nothing is nothing.
fn refusal(row: &Row, reason: &str, exit: Exit) -> Failure {
    Failure::new(
        exit,
        format!(
            "line {}: {}{reason}; nothing was imported: mend the line, or import the others with --on-conflict skip",
            row.line,
            named(row)
        ),
    )
}

/// The address of a row, for messages, as far as there is one.
fn named(row: &Row) -> String {
    let address = match &row.user {
        Ok(user) => user.email.to_string(),
        // It may be anything, so it is shown as no terminal could misunderstand.
        Err(bad) => bad.address.escape_debug().to_string(),
    };
    if address.is_empty() { address } else { format!("{address}: ") }
}

/// Some rows, in the order of the file.
struct Chunk {
    rows: Vec<Row>,
    read_bytes: u64,
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
    let progress = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::no_length(),
    };
    let template = if length.is_some() { "{wide_bar} {bytes}/{total_bytes} {eta}" } else { "{spinner} {bytes}" };
    progress.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));

    let (sender, receiver) = sync_channel(CHUNKS_WAITING_MAX);
    let must_spool = is_one_transaction && length.is_none();
    thread::Builder::new()
        .name("tenantry-import".to_owned())
        .spawn(move || {
            let read = if must_spool {
                spool(input).and_then(|file| read_rows(format, file, &sender))
            } else {
                read_rows(format, input, &sender)
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

fn read_rows(format: FileFormat, input: impl Read, sender: &SyncSender<Result<Chunk, Failure>>) -> Result<(), Failure> {
    let mut reader = RowReader::new(format, input)?;
    loop {
        let mut rows = Vec::with_capacity(CHUNK_ROWS);
        while rows.len() < CHUNK_ROWS
            && let Some(row) = reader.next()?
        {
            rows.push(row);
        }
        let is_last = rows.len() < CHUNK_ROWS;
        let chunk = Chunk { rows, read_bytes: reader.read_bytes(), is_last };
        if sender.send(Ok(chunk)).is_err() || is_last {
            return Ok(());
        }
    }
}

/// The file of refused rows: CSV with the columns line, reason and row, where row is the line of a JSON Lines file
/// or the fields of a CSV file as they stood there.
struct Rejects {
    csv: csv::Writer<File>,
    name: String,
}

impl Rejects {
    fn create(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let mut options = OpenOptions::new();
        // It holds addresses, so nobody else reads it.
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(|error| Failure::io(&name, &error))?;
        let mut rejects = Self { csv: csv::Writer::from_writer(file), name };
        rejects.record(&["line".as_bytes(), b"reason", b"row"])?;
        Ok(rejects)
    }

    fn add(&mut self, row: &Row, reason: &str) -> Result<(), Failure> {
        self.record(&[row.line.to_string().as_bytes(), reason.as_bytes(), &row.original()])
    }

    fn record(&mut self, fields: &[&[u8]]) -> Result<(), Failure> {
        self.csv.write_record(fields).map_err(|error| Failure::io(&self.name, &error.into()))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.csv.flush().map_err(|error| Failure::io(&self.name, &error))
    }
}
