//! How the commands report on archives: progress, what was left out, and why one failed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use tenantry::ErrorKind;
use tenantry_exchange::printable;

use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, counted};
use crate::stdio::tell;

/// The progress of what has to clear away before it ends. As long as this is there, a signal asks
/// it to.
pub(crate) struct Progress(indicatif::ProgressBar, Interrupt);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(output::progress(None, "{spinner} {human_pos} files, {msg}"), Interrupt::listen())
    }

    pub(crate) fn callback(&self) -> impl Fn(u64, u64) -> ControlFlow<()> + Send + 'static {
        let (bar, interrupt) = (self.0.clone(), self.1.clone());
        move |files, bytes| {
            bar.set_position(files);
            bar.set_message(HumanBytes(bytes).to_string());
            if interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }

    pub(crate) fn end(self) {
        self.0.finish_and_clear();
    }
}

/// Says what is not in an archive, and why.
pub(crate) fn name_left_out(left_out: &[(PathBuf, String)]) {
    for (path, why) in left_out {
        tell!("left out: {}: {why}", printable(&path.to_string_lossy()));
    }
}

/// Fails after something was restored of which not all came back.
pub(crate) fn refuse_incomplete(incomplete: u64, done: &str) -> Result<(), Failure> {
    if incomplete == 0 {
        return Ok(());
    }
    let attributes = counted(incomplete, "extended attribute");
    Err(Failure::new(Exit::Failure, format!("{done}, but {attributes} could not be set on this file system")))
}

/// The failure of an archive, which is neither the store's nor its disk's.
pub(crate) fn explain(error: tenantry::Error, file: &Path, outcome: &str) -> Failure {
    if error.kind() == ErrorKind::Cancelled {
        return Failure::from(error).saying(outcome);
    }
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    let cause = causes.last().map(|root| format!(" ({root})")).unwrap_or_default();
    Failure::new(Exit::of(error.kind()), format!("{}: {error}{cause}; {outcome}", file.display()))
}
