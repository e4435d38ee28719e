//! `tenantry export`.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use tenantry::{ListQuery, Store, User};

use crate::args::{Export, FileFormat};
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, counted};
use crate::place::Place;
use crate::rows;
use crate::target::Target;

pub(crate) async fn run(place: &Place, store: &Store, args: Export) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let format = args.to.unwrap_or_else(|| FileFormat::of(&args.file));
    if args.file == Path::new("-") {
        let count = write_users(store, format, io::stdout().lock(), &interrupt).await?;
        anstream::eprintln!("exported {}", counted(count, "user"));
        return Ok(());
    }
    let mut target = Target::create(&args.file, place, None)?;
    let count = write_users(store, format, &mut target, &interrupt).await?;
    target.finish()?;
    anstream::eprintln!("exported {} to {}", counted(count, "user"), args.file.display());
    Ok(())
}

/// Writes all users as of one moment, and says how many.
async fn write_users(
    store: &Store,
    format: FileFormat,
    output: impl Write,
    interrupt: &Interrupt,
) -> Result<u64, Failure> {
    let mut sink = Sink::new(format, BufWriter::with_capacity(1 << 16, output))?;
    let progress = output::progress(Some(store.count().await?), "{wide_bar} {human_pos}/{human_len} users {eta}");
    store
        .read(|tx| {
            let mut query = ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() };
            let mut count = 0;
            loop {
                let page = tx.list(&query)?;
                page.users.iter().try_for_each(|user| sink.write(user))?;
                count += page.users.len() as u64;
                progress.set_position(count);
                if interrupt.is_requested() {
                    return Err(Failure::new(
                        Exit::Interrupted,
                        format!("interrupted after {}: the export is incomplete", counted(count, "user")),
                    ));
                }
                match page.next_cursor {
                    Some(cursor) => query.cursor = Some(cursor),
                    None => {
                        sink.finish()?;
                        progress.finish_and_clear();
                        return Ok(count);
                    }
                }
            }
        })
        .await
}

enum Sink<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Jsonl(W),
}

impl<W: Write> Sink<W> {
    fn new(format: FileFormat, writer: W) -> Result<Self, Failure> {
        Ok(match format {
            FileFormat::Jsonl => Self::Jsonl(writer),
            FileFormat::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(rows::FIELDS).map_err(|error| failure(rows::io_error(error)))?;
                Self::Csv(Box::new(csv))
            }
        })
    }

    fn write(&mut self, user: &User) -> Result<(), Failure> {
        match self {
            Self::Csv(csv) => rows::write_csv(csv, user).map_err(|error| failure(rows::io_error(error))),
            Self::Jsonl(writer) => serde_json::to_writer(&mut *writer, user)
                .map_err(io::Error::from)
                .and_then(|()| writer.write_all(b"\n"))
                .map_err(failure),
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Self::Csv(csv) => csv.flush(),
            Self::Jsonl(writer) => writer.flush(),
        }
        .map_err(failure)
    }
}

fn failure(error: io::Error) -> Failure {
    Failure::io("writing the export", &error)
}
