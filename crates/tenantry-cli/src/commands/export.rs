//! `tenantry export`.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use tenantry::Store;
use tenantry_exchange::{Error, Format, UserWriter};

use crate::args::Export;
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, counted};
use crate::place::Place;
use crate::stdio::tell;
use crate::target::Target;

pub(crate) async fn run(place: &Place, store: &Store, args: Export) -> Result<(), Failure> {
    let interrupt = Interrupt::listen();
    let format = args.to.map_or_else(|| Format::of(&args.file), Format::from);
    let mut target = Target::create(&args.file, place, None)?;
    let count = write_users(store, format, &mut target, &interrupt).await?;
    target.finish()?;
    let to = if args.file == Path::new("-") { String::new() } else { format!(" to {}", args.file.display()) };
    tell!("exported {}{to}", counted(count, "user"));
    Ok(())
}

/// Writes all users as of one moment, and returns how many.
async fn write_users(store: &Store, format: Format, output: impl Write, interrupt: &Interrupt) -> Result<u64, Failure> {
    let output = BufWriter::with_capacity(1 << 16, output);
    let mut writer = UserWriter::new(format, output).map_err(|error| failure(&error))?;
    let progress = output::progress(Some(store.count().await?), "{wide_bar} {human_pos}/{human_len} users {eta}");
    let exported = store
        .read(|tx| {
            tenantry_exchange::export(tx, &mut writer, |count| {
                progress.set_position(count);
                if interrupt.is_requested() {
                    return Err(Ended::Interrupted(count));
                }
                Ok(())
            })
        })
        .await;
    match exported {
        Ok(count) => {
            writer.finish().map_err(|error| failure(&error))?;
            progress.finish_and_clear();
            Ok(count)
        }
        Err(Ended::Interrupted(count)) => Err(interrupted(count)),
        // It may have been waiting for a reader.
        Err(_) if interrupt.is_requested() => Err(interrupted(progress.position())),
        Err(Ended::Failed(Error::Io(error))) => Err(failure(&error)),
        Err(Ended::Failed(error)) => Err(error.into()),
    }
}

fn interrupted(count: u64) -> Failure {
    let message = format!("interrupted after {}: the export is incomplete", counted(count, "user"));
    Failure::new(Exit::Interrupted, message)
}

/// Why an export didn't come to its end.
enum Ended {
    Interrupted(u64),
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<tenantry::Error> for Ended {
    fn from(error: tenantry::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn failure(error: &io::Error) -> Failure {
    Failure::io("writing the export", error)
}
