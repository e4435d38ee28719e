//! The files of a user: download, upload, removal, and listings.
//!
//! A path of a URL becomes segments ([`path`]), and these are only ever looked up from the handle
//! of the user's directory, without following a link ([`beneath`]). All blocking calls are made on
//! threads for them ([`work`]), but for reads that can't block ([`download`]).

mod beneath;
mod conditions;
mod digest;
mod download;
mod endpoints;
mod header;
mod list;
mod ownership;
mod path;
mod quota;
mod range;
mod receive;
mod spool;
mod upload;
mod work;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenantry::cap_std::fs::Dir;
use tenantry::{Store, UserId};
use tokio::runtime::Handle;

pub(crate) use endpoints::routes;
pub(crate) use header::attachment;
use quota::Quotas;
pub(crate) use receive::to_its_end;
pub(crate) use spool::{Finished, spool};
use work::Work;

use crate::problem::{Problem, Type};

/// The number of locks that all names share: more than the threads that do file work.
const LOCKS: usize = 64;

/// What requests on files share.
#[derive(Debug)]
pub(crate) struct Files {
    work: Work,
    quotas: Arc<Quotas>,
    /// Held from the check of a condition on a file until the file is changed. So of racing
    /// requests with one `If-Match` one succeeds, within a process.
    names: [Mutex<()>; LOCKS],
    hasher: RandomState,
    /// The length of a file, in bytes.
    file_bytes_max: u64,
    /// What all files of a user may take together, in bytes.
    user_bytes_max: Option<u64>,
}

impl Files {
    pub(crate) fn new(file_bytes_max: u64, user_bytes_max: Option<u64>) -> Self {
        Self {
            work: Work::default(),
            quotas: Arc::default(),
            names: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            file_bytes_max,
            user_bytes_max,
        }
    }

    /// Runs file work on a thread for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.work.run(work).await.unwrap_or_else(|error| {
            tracing::error!("file work failed: {error}");
            Err(Problem::new(Type::Panicked, "the request met a mistake in the service"))
        })
    }

    /// Keeps other requests away from a name of a user's.
    fn lock(&self, id: UserId, above: &str, name: &str) -> MutexGuard<'_, ()> {
        // Smaller than their number, so it fits.
        let number = (self.hasher.hash_one((id, above, name)) % LOCKS as u64) as usize;
        self.names[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a user's directory, if it was made yet. To be called on a thread for file work: it opens
/// the directory.
fn existing_dir(store: &Store, id: UserId) -> Result<Option<Dir>, Problem> {
    Ok(Handle::current().block_on(store.existing_directory(id))?)
}

/// Returns a user's directory, which is made if it wasn't yet. To be called on a thread for file
/// work.
fn dir(store: &Store, id: UserId) -> Result<Dir, Problem> {
    Ok(Handle::current().block_on(store.directory(id))?)
}
