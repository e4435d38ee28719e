//! Ends a command on the store: logs and prints the change, and closes the store.

use tenantry::{Store, User, UserId};

use crate::failure::Failure;
use crate::output::{self, Format};

/// Logs a change by the user's id. Addresses are personal data, and never logged.
pub(crate) fn log_change(verb: &str, user: UserId) {
    tracing::info!(target: "tenantry", %user, "{verb}");
}

/// Logs a change and prints the user. The change is made even if printing fails.
pub(crate) fn report_change(verb: &str, format: Format<'_>, user: &User) -> Result<(), Failure> {
    log_change(verb, user.id);
    output::user(format, user).map_err(|failure| failure.with_outcome("the change was made"))
}

/// Closes the store, whether or not the command succeeded.
pub(crate) async fn finish<T>(store: &Store, result: Result<T, Failure>) -> Result<T, Failure> {
    store.close().await?;
    result
}
