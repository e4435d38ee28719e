//! `tenantry export`.

use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use tenantry::Store;
use tenantry_exchange::{Error, Format, UserWriter};

use crate::args::Export;
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::pluralize;
use crate::progress_bar;
use crate::stdio::report;
use crate::target::Target;

pub(crate) async fn run(dir: &DataDir, store: &Store, args: Export) -> Result<(), Failure> {
    let interrupt = Arc::new(Interrupt::listen());
    let format = args.to.map_or_else(|| Format::from_path(&args.file), Format::from);
    let target = Target::create(&args.file, dir, None)?;
    let (count, target) = write_users(store, format, target, &interrupt).await?;
    target.finish()?;
    let to = if args.file == Path::new("-") {
        String::new()
    } else {
        format!(" to {}", args.file.display())
    };
    report!("exported {}{to}", pluralize(count, "user"));
    Ok(())
}

/// Writes all users of one snapshot, and returns their number and the file.
async fn write_users(
    store: &Store,
    format: Format,
    target: Target,
    interrupt: &Arc<Interrupt>,
) -> Result<(u64, Target), Failure> {
    let output = BufWriter::with_capacity(1 << 16, target);
    let mut writer = UserWriter::new(format, output).map_err(|error| failure(&error))?;
    let progress = progress_bar::start(
        Some(store.count().await?),
        "{wide_bar} {human_pos}/{human_len} users {eta}",
    );
    let (shown, asked) = (progress.clone(), Arc::clone(interrupt));
    let exported = store
        .read(move |tx| {
            let count = tenantry_exchange::export(tx, &mut writer, |count| {
                shown.set_position(count);
                if asked.is_requested() {
                    return Err(Abort::Interrupted(count));
                }
                Ok(())
            })?;
            Ok((count, writer))
        })
        .await;
    match exported {
        Ok((count, writer)) => {
            let ended = writer.finish().and_then(|output| Ok(output.into_inner()?));
            let target = ended.map_err(|error| failure(&error))?;
            progress.finish_and_clear();
            Ok((count, target))
        }
        Err(Abort::Interrupted(count)) => Err(interrupted(count)),
        // The signal may have interrupted a write to a pipe without a reader.
        Err(_) if interrupt.is_requested() => Err(interrupted(progress.position())),
        Err(Abort::Failed(Error::Io(error))) => Err(failure(&error)),
        Err(Abort::Failed(error)) => Err(error.into()),
    }
}

fn interrupted(count: u64) -> Failure {
    let message =
        format!("interrupted after {}: the export is incomplete", pluralize(count, "user"));
    Failure::new(Exit::Interrupted, message)
}

/// The reason why an export ended early.
enum Abort {
    Interrupted(u64),
    Failed(Error),
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<tenantry::Error> for Abort {
    fn from(error: tenantry::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn failure(error: &io::Error) -> Failure {
    Failure::io("writing the export", error)
}
