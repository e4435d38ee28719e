//! What a failed fsync means, and any other failure of the files, for later transactions.
//!
//! After an I/O failure, damage or the loss of the files the writer rolls back and refuses every
//! further write until the store is opened again: what a failed fsync left on the disk isn't known,
//! and later writes would build on it.

use super::error::Fault;
use super::transactions::Transactions;
use crate::{Error, ErrorKind};

impl Transactions {
    /// Rolls back after a failure, and draws the conclusion for later transactions.
    pub(super) fn fail(&mut self, error: &Error) {
        self.roll_back();
        self.latch(error);
    }

    /// Draws the conclusion from a failure for later transactions.
    pub(super) fn latch(&mut self, error: &Error) {
        self.refuse_writes_if_of_the_files(error);
        self.was_full = error.kind() == ErrorKind::Full;
    }

    /// Logs a failed checkpoint. The transactions in the WAL are committed all the same.
    pub(super) fn checkpoint_failed(&mut self, error: &Error) {
        tracing::warn!(error = error as &dyn std::error::Error, "a checkpoint failed");
        self.refuse_writes_if_of_the_files(error);
    }

    /// Refuses all further writes if this error leaves the state of the files unknown.
    fn refuse_writes_if_of_the_files(&mut self, error: &Error) {
        if Fault::of(error) == Fault::Files {
            self.refuse_writes(error);
        }
    }

    pub(super) fn refuse_writes(&mut self, error: &Error) {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "no further writes after this failure"
        );
        let message = "the store accepts no writes since an operation on its files failed: close it and open it again";
        self.refusal
            .get_or_insert_with(|| Error::new(error.kind(), message).with_source(error.clone()));
    }
}
