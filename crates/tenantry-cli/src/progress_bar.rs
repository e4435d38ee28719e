//! Progress bars on standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// Returns a progress bar on standard error, if that is a terminal, or a spinner if there is no
/// length.
pub(crate) fn start(length: Option<u64>, template: &str) -> ProgressBar {
    let progress = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    progress.with_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}
