//! How a command on the store ends: the change in the log and on standard output, and the store
//! closed.

use tenantry::{Store, User, UserId};

use crate::failure::Failure;
use crate::output::{self, Format};

/// Notes in the log what was done to a user. Addresses are personal data, and have no place there.
pub(crate) fn did(verb: &str, user: UserId) {
    tracing::info!(target: "tenantry", %user, "{verb}");
}

/// Notes and prints the user after a change, which has happened even if nobody can be shown.
pub(crate) fn changed(verb: &str, format: Format<'_>, user: &User) -> Result<(), Failure> {
    did(verb, user.id);
    output::user(format, user).map_err(|failure| failure.saying("the change itself was made"))
}

/// Closes the store, whatever came of the command.
pub(crate) async fn finish<T>(store: &Store, result: Result<T, Failure>) -> Result<T, Failure> {
    store.close().await?;
    result
}
