//! `tenantry import`.
//!
//! One thread reads and checks the rows while the store's writer writes those before. They come in
//! chunks, of which only a few are in memory at a time.
//!
//! All or nothing (`--on-conflict fail`) is one transaction, and so is a dry run, which is rolled
//! back in the end. Nobody else can write meanwhile, so standard input, which may take its time, is
//! copied to a file first. Otherwise each chunk is a transaction, between which other processes get
//! their turn.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use tenantry::{NewUser, Store, WriteTx};
use tenantry_exchange::{
    Chunk, Columns, Format, Importer, PassedOver, Rejection, RejectsWriter, RowReader, Tally, printable,
};

use crate::args::{Import, OnConflict};
use crate::failure::{Exit, Failure};
use crate::interrupt::{self, Interrupt};
use crate::output::{self, counted};
use crate::place::{Place, temporary_dir};
use crate::stdio::{self, tell};
use crate::target::Target;

/// How many chunks may wait for the writer.
const CHUNKS_WAITING_MAX: usize = 1;
/// How many rejected rows are named on standard error if there is no file for them, and how many
/// look-alikes.
const ROWS_SHOWN_MAX: u64 = 10;

pub(crate) async fn run(place: &Place, args: Import) -> Result<(), Failure> {
    let interrupt = Interrupt::listen();
    let is_one_transaction = args.dry_run || args.on_conflict == OnConflict::Fail;
    if args.rejects.is_some() && args.on_conflict == OnConflict::Fail {
        return Err(Failure::new(
            Exit::Usage,
            "--rejects needs --on-conflict skip or update: otherwise nothing is imported if a row is rejected",
        ));
    }
    let (progress, mut chunks) = read_in_background(&args, is_one_transaction, &interrupt)?;
    // The first chunk is waited for before anything is opened: a file that can't be used at all
    // makes neither a store nor a file of rejects.
    let mut first = chunks.receive().map_err(|failure| failure.saying("nothing was imported"))?;
    let importer = Importer::new(args.on_conflict.into()).on_look_alike(args.on_lookalike.into());
    importer.check(&mut first)?;
    let rejects = match &args.rejects {
        Some(path) => Some(Rejects::create(path, Target::create(path, place, Some(stdio::input(&args.file)))?)?),
        None => None,
    };
    let import = Running { importer, rejects, shown: 0, look_alikes_shown: 0, progress };

    let (store, _scratch) = match place.open().await {
        Err(Failure::Told { exit: Exit::NotFound, .. }) if args.dry_run => {
            // Rehearse on an empty store that goes away.
            let dir = temporary_dir().map_err(|error| Failure::io("making a temporary directory", &error))?;
            (Store::open(dir.path()).await?, Some(dir))
        }
        Err(Failure::Told { exit: Exit::NotFound, .. }) => match place.scratch().await? {
            // A store that goes away takes what is to be reported as well, and no store is made for
            // nothing.
            Some(scratch) if imports_nothing(&scratch, &first, args.on_conflict).await? => {
                (scratch.store, Some(scratch.dir))
            }
            _ => (place.open_or_create().await?, None),
        },
        opened => (opened?, None),
    };
    let result = match is_one_transaction {
        true => in_one_transaction(&store, import, first, chunks, args.dry_run).await,
        false => chunk_by_chunk(&store, import, first, chunks).await,
    };
    store.close().await?;
    let Outcome { tally, passed_over } = result?;
    tell!("{}", summary(&tally, &passed_over, if args.dry_run { "would import" } else { "imported" }));
    if let Some(ignored) = ignored(&passed_over) {
        tell!("{ignored}");
    }
    if tally.rejected > 0 {
        let rejected = counted(tally.rejected, "rejected row");
        return Err(Failure::new(
            Exit::Invalid,
            match &args.rejects {
                Some(path) if path == Path::new("-") => {
                    format!("{rejected}: see standard output for lines and reasons")
                }
                Some(path) => format!("{rejected}: see {} for lines and reasons", path.display()),
                None => format!("{rejected}: repeat with --rejects FILE to have all of them in a file"),
            },
        ));
    }
    Ok(())
}

/// Returns whether it is clear from the first rows that an import into a new store would leave it
/// empty.
async fn imports_nothing(scratch: &Store, first: &Chunk, on_conflict: OnConflict) -> Result<bool, Failure> {
    /// Undoes the rehearsal.
    enum Undo {
        Rehearsed { imported: u64, rejected: u64 },
        Failed(tenantry::Error),
    }
    impl From<tenantry::Error> for Undo {
        fn from(error: tenantry::Error) -> Self {
            Self::Failed(error)
        }
    }
    let users: Vec<NewUser> = first.rows.iter().filter_map(|row| row.user.as_ref().ok().cloned()).collect();
    let rehearsed: Result<(), Undo> = scratch
        .write(move |tx| {
            let (mut imported, mut rejected) = (0, 0);
            for user in &users {
                match tx.import(user, on_conflict.into()) {
                    Ok(_) => imported += 1,
                    Err(error) if matches!(Exit::of(error.kind()), Exit::Conflict | Exit::Invalid) => rejected += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Undo::Rehearsed { imported, rejected })
        })
        .await;
    let is_whole_file = first.end.is_some();
    match rehearsed {
        Ok(()) => Ok(false),
        Err(Undo::Rehearsed { rejected, .. }) if on_conflict == OnConflict::Fail => Ok(rejected > 0),
        Err(Undo::Rehearsed { imported, .. }) => Ok(is_whole_file && imported == 0),
        Err(Undo::Failed(error)) => Err(error.into()),
    }
}

async fn in_one_transaction(
    store: &Store,
    mut import: Running,
    first: Chunk,
    mut chunks: Chunks,
    dry_run: bool,
) -> Result<Outcome, Failure> {
    /// Carries the outcome of a rehearsal out of the transaction that it undoes.
    enum Undo {
        Rehearsed(Box<Outcome>),
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
                let stopped = chunks.interrupt.go_on();
                stopped.map_err(|failure| Undo::Failed(failure.saying("nothing was imported")))?;
                let (read_octets, is_last) = (chunk.read_octets, chunk.end.is_some());
                import.importer.write(tx, chunk).map_err(|error| Undo::Failed(error.into()))?;
                import.report().map_err(Undo::Failed)?;
                import.progress.set_position(read_octets);
                if is_last {
                    break;
                }
                chunk = chunks.receive().map_err(|failure| Undo::Failed(failure.saying("nothing was imported")))?;
            }
            import.importer.finish(tx).map_err(|error| Undo::Failed(error.into()))?;
            import.report().map_err(Undo::Failed)?;
            import.finish().map_err(Undo::Failed)?;
            let outcome = Box::new(Outcome::of(&import.importer));
            if dry_run { Err(Undo::Rehearsed(outcome)) } else { Ok(outcome) }
        })
        .await;
    match written {
        Ok(outcome) | Err(Undo::Rehearsed(outcome)) => Ok(*outcome),
        Err(Undo::Failed(failure)) => Err(failure),
    }
}

async fn chunk_by_chunk(store: &Store, import: Running, first: Chunk, mut chunks: Chunks) -> Result<Outcome, Failure> {
    let import = Arc::new(Mutex::new(import));
    let lock = || import.lock().unwrap_or_else(PoisonError::into_inner);
    let mut chunk = first;
    let mut landed = Outcome::default();
    let mut must_give_up = false;
    let ended = loop {
        let (read_octets, is_last) = (chunk.read_octets, chunk.end.is_some());
        match write(store, &import, move |importer, tx| importer.write(tx, chunk)).await {
            Ok(outcome) => landed = outcome,
            Err(failure) => {
                must_give_up = true;
                break Err(failure);
            }
        }
        // Now that the transaction is over: whoever reads the rejects may be slow.
        if let Err(failure) = lock().report() {
            break Err(failure);
        }
        lock().progress.set_position(read_octets);
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
        landed.tally.rejected += lock().importer.give_up();
    } else {
        settled = write(store, &import, |importer, tx| importer.finish(tx)).await.map(|outcome| landed = outcome);
    }
    // Whatever has happened, the rejects of the rows before it are wanted.
    let reported = lock().report();
    let finished = lock().finish();
    ended
        .and(settled)
        .and(reported)
        .and(finished)
        .map_err(|failure| failure.saying(&summary(&landed.tally, &landed.passed_over, "imported before that")))?;
    Ok(landed)
}

/// Runs one transaction of an import, and returns what has become of all rows by its end.
async fn write(
    store: &Store,
    import: &Arc<Mutex<Running>>,
    step: impl FnOnce(&mut Importer, &mut WriteTx<'_>) -> tenantry_exchange::Result<()> + Send + 'static,
) -> Result<Outcome, Failure> {
    let shared = Arc::clone(import);
    let written = store
        .write(move |tx| {
            let importer = &mut shared.lock().unwrap_or_else(PoisonError::into_inner).importer;
            step(importer, tx)?;
            Ok::<_, Failure>(Outcome::of(importer))
        })
        .await;
    if written.is_err() {
        // What was rejected with the rows that didn't land may be right next time.
        let importer = &mut import.lock().unwrap_or_else(PoisonError::into_inner).importer;
        importer.take_rejected();
        importer.take_look_alikes();
    }
    written
}

/// What has become of the file.
#[derive(Default)]
struct Outcome {
    tally: Tally,
    passed_over: PassedOver,
}

impl Outcome {
    fn of(importer: &Importer) -> Self {
        Self { tally: importer.tally(), passed_over: importer.passed_over().clone() }
    }
}

fn summary(tally: &Tally, passed_over: &PassedOver, verb: &str) -> String {
    let Tally { created, updated, unchanged, skipped, rejected, look_alikes, .. } = tally;
    let alike = if *look_alikes > 0 { format!(", {look_alikes} that look like others") } else { String::new() };
    let PassedOver { empty_rows, empty_columns, .. } = passed_over;
    let empty: String = [(*empty_rows, "empty row"), (*empty_columns, "empty column")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, thing)| format!(", {} passed over", counted(count, thing)))
        .collect();
    format!(
        "{verb}: {created} created, {updated} updated, {unchanged} unchanged, {skipped} skipped, {rejected} rejected{empty}{alike}"
    )
}

/// The columns or keys that were dropped, in words.
fn ignored(passed_over: &PassedOver) -> Option<String> {
    let names: Vec<_> = passed_over.ignored_names().iter().map(|name| format!("\"{}\"", printable(name))).collect();
    let more = if passed_over.ignored > names.len() as u64 { ", and others" } else { "" };
    (!names.is_empty()).then(|| format!("ignored: {}{more}", names.join(", ")))
}

/// An import on its way.
struct Running {
    importer: Importer,
    rejects: Option<Rejects>,
    /// How many rejected rows were named on standard error.
    shown: u64,
    look_alikes_shown: u64,
    progress: ProgressBar,
}

impl Running {
    /// Reports the rows that were rejected since the last time, in the file for them or else on
    /// standard error, and those that look like others.
    fn report(&mut self) -> Result<(), Failure> {
        for look_alike in self.importer.take_look_alikes() {
            if self.look_alikes_shown < ROWS_SHOWN_MAX {
                self.look_alikes_shown += 1;
                self.progress.suspend(|| tell!("{look_alike}"));
            }
        }
        for rejection in self.importer.take_rejected() {
            match &mut self.rejects {
                Some(rejects) => rejects.add(&rejection)?,
                None if self.shown < ROWS_SHOWN_MAX => {
                    self.shown += 1;
                    self.progress.suspend(|| tell!("{rejection}"));
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

/// The chunks as the reading thread hands them over.
struct Chunks {
    receiver: Receiver<Result<Chunk, Failure>>,
    interrupt: Interrupt,
}

impl Chunks {
    /// Waits for the next chunk, but not for longer than until Ctrl-C: a pipe may have nothing to
    /// say for hours.
    fn receive(&mut self) -> Result<Chunk, Failure> {
        loop {
            self.interrupt.go_on()?;
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
    let format = args.from.map_or_else(|| Format::of(&args.file), Format::from);
    let columns = columns(args)?;
    let name = args.file.display().to_string();
    let (input, length): (Box<dyn Read + Send>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let path = args.file.clone();
        // A named pipe may take its time to be opened.
        let opened = interrupt::unless_stopped(move || File::open(path)).and_then(|opened| opened);
        let file = opened.map_err(|error| Failure::io(&name, &error))?;
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
                spool(input).and_then(|file| read_rows(format, columns, file, all_or_nothing, &sender))
            } else {
                read_rows(format, columns, input, all_or_nothing, &sender)
            };
            if let Err(failure) = read {
                // If nobody listens any more, the import has ended for another reason.
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
                // Its loss is noticed when the failure is sent.
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
            Err(error) => Err(told(&name, &error)),
        }
    }

    fn add(&mut self, rejection: &Rejection) -> Result<(), Failure> {
        self.writer.write(rejection).map_err(|error| told(&self.name, &error))
    }

    fn finish(self) -> Result<(), Failure> {
        let Self { writer, name } = self;
        writer.finish().map_err(|error| told(&name, &error))?.finish()
    }
}

/// Unlike with standard output, a reader of the rejects who goes away is a failure: somebody wanted
/// them.
fn told(name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("{name}: {error}"))
}
