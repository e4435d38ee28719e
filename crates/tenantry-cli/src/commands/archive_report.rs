//! Reports on archives: progress, omissions and failures.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use tenantry::ErrorKind;
use tenantry_exchange::printable;

use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::pluralize;
use crate::progress_bar;
use crate::stdio::report;

/// The progress of an operation that cleans up when it is interrupted. While this exists, a signal
/// requests a stop.
pub(crate) struct Progress(indicatif::ProgressBar, Interrupt);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(progress_bar::start(None, "{spinner} {human_pos} files, {msg}"), Interrupt::listen())
    }

    pub(crate) fn callback(
        &self,
    ) -> impl Fn(tenantry::Progress) -> ControlFlow<()> + Send + 'static {
        let (bar, interrupt) = (self.0.clone(), self.1.clone());
        move |progress: tenantry::Progress| {
            bar.set_position(progress.files);
            bar.set_message(HumanBytes(progress.bytes).to_string());
            if interrupt.is_requested() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }

    pub(crate) fn end(self) {
        self.0.finish_and_clear();
    }
}

/// Reports the files that aren't in an archive, with the reasons.
pub(crate) fn report_left_out(left_out: &[(PathBuf, String)]) {
    for (path, why) in left_out {
        report!("left out: {}: {why}", printable(&path.to_string_lossy()));
    }
}

/// Fails if extended attributes could not be restored.
pub(crate) fn fail_if_incomplete(incomplete: u64, done: &str) -> Result<(), Failure> {
    if incomplete == 0 {
        return Ok(());
    }
    let attributes = pluralize(incomplete, "extended attribute");
    Err(Failure::new(
        Exit::Failure,
        format!("{done}, but {attributes} could not be set on this file system"),
    ))
}

/// Converts the failure of an archive, with its name and the outcome.
pub(crate) fn explain(error: tenantry::Error, file: &Path, outcome: &str) -> Failure {
    if error.kind() == ErrorKind::Cancelled {
        return Failure::from(error).with_outcome(outcome);
    }
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    let cause = causes.last().map(|root| format!(" ({root})")).unwrap_or_default();
    Failure::new(
        Exit::from_kind(error.kind()),
        format!("{}: {error}{cause}; {outcome}", file.display()),
    )
}
