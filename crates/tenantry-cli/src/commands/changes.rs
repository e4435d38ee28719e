//! `tenantry changes`.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tenantry::{Change, ChangePage, ChangesCursor, ErrorKind, Store};

use crate::args::{Changes, Switch};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::session::finish;
use crate::stdio;

/// How many bytes are written at once at most: as many as a pipe takes in one piece (PIPE_BUF of
/// Linux), so that a signal that ends the command leaves no half of a line there.
const WRITTEN_AT_ONCE: usize = 4_096;

pub(super) async fn run(dir: &DataDir, args: Changes) -> Result<(), Failure> {
    let after = match args.after.as_deref() {
        Some(text) if text != NOW => Some(text.parse::<ChangesCursor>()?),
        _ => None,
    };
    let is_from_now = args.after.as_deref() == Some(NOW);
    let store = dir.open().await?;
    let done = async {
        if let Some(logins) = args.logins {
            return Ok(store.set_logins_in_changes(matches!(logins, Switch::On)).await?);
        }
        let after = if is_from_now { Some(store.changes_cursor().await?) } else { after };
        let left = args.limit.unwrap_or(u64::MAX);
        if args.follow {
            let reader = Reader::watch(io::stdout().as_fd().try_clone_to_owned())?;
            let mut changes = store.follow(after);
            follow(|context| pin!(changes.next()).poll(context), left, Lines::new()?, reader).await
        } else {
            print(&store, after, left).await
        }
    };
    let done = done.await;
    finish(&store, done).await
}

/// The next item of a stream of changes.
type Next = Option<tenantry::Result<Change>>;

/// The place behind the newest change, as an argument.
const NOW: &str = "now";

/// Prints the changes that there are.
async fn print(
    store: &Store,
    mut after: Option<ChangesCursor>,
    mut left: u64,
) -> Result<(), Failure> {
    let mut lines = Lines::new()?;
    while left > 0 {
        let limit = usize::try_from(left).unwrap_or(usize::MAX).min(ChangePage::MAX_LIMIT);
        let page = store.changes(after.as_ref(), limit).await?;
        for change in &page.changes {
            lines.add(change)?;
        }
        if !page.more {
            break;
        }
        left -= page.changes.len() as u64;
        after = Some(page.cursor);
    }
    lines.flush()
}

/// Prints the changes that there are and those to come, each as soon as it is committed.
async fn follow(
    mut poll_next: impl FnMut(&mut Context<'_>) -> Poll<Next>,
    mut left: u64,
    mut lines: Lines,
    reader: Reader,
) -> Result<(), Failure> {
    while left > 0 {
        let ready = poll_fn(|context| Poll::Ready(poll_next(context))).await;
        let ready = match ready {
            Poll::Ready(change) => change,
            Poll::Pending => {
                // Before waiting, whoever reads gets what there is.
                lines.flush()?;
                let Some(change) = reader.or_next(&mut poll_next).await else {
                    return Err(Failure::BrokenPipe);
                };
                change
            }
        };
        match ready {
            Some(Ok(change)) => {
                lines.add(&change)?;
                left -= 1;
            }
            // The stream goes on. It has waited for the busy timeout, so this is no busy loop.
            Some(Err(error)) if error.kind() == ErrorKind::Busy => {
                lines.flush()?;
                if reader.has_gone() {
                    return Err(Failure::BrokenPipe);
                }
            }
            Some(Err(error)) => {
                lines.flush()?;
                return Err(error.into());
            }
            None => break,
        }
    }
    lines.flush()
}

/// Whoever reads standard output, who may go while there is nothing to write.
struct Reader(Arc<Mutex<ReaderState>>);

#[derive(Default)]
struct ReaderState {
    has_gone: bool,
    waker: Option<Waker>,
}

impl Reader {
    /// Has a thread wait until nobody reads any more. It ends with the process.
    fn watch(output: io::Result<OwnedFd>) -> Result<Self, Failure> {
        let output = output.map_err(|error| stdio::failure(&error))?;
        let reader = Self(Arc::default());
        let state = Arc::clone(&reader.0);
        let wait = move || {
            // No event is asked for but the error of a pipe or a socket without a reader.
            while rustix::event::poll(&mut [PollFd::new(&output, PollFlags::empty())], None)
                == Err(Errno::INTR)
            {}
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.has_gone = true;
            state.waker.take().map(Waker::wake)
        };
        let thread = thread::Builder::new().name("tenantry-output".to_owned()).spawn(wait);
        thread.map_err(|error| Failure::io("a thread can't be started", &error))?;
        Ok(reader)
    }

    fn has_gone(&self) -> bool {
        self.state().has_gone
    }

    fn state(&self) -> MutexGuard<'_, ReaderState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next change, or returns `None` when nobody reads any more.
    async fn or_next(
        &self,
        poll_next: &mut impl FnMut(&mut Context<'_>) -> Poll<Next>,
    ) -> Option<Next> {
        poll_fn(|context| {
            if let Poll::Ready(change) = poll_next(context) {
                return Poll::Ready(Some(change));
            }
            let mut state = self.state();
            if state.has_gone {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Standard output, to which whole lines are written.
struct Lines {
    out: anstream::AutoStream<std::fs::File>,
    waiting: Vec<u8>,
}

impl Lines {
    fn new() -> Result<Self, Failure> {
        Ok(Self { out: stdio::stdout()?, waiting: Vec::with_capacity(WRITTEN_AT_ONCE) })
    }

    fn add(&mut self, change: &Change) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(change).map_err(|error| stdio::failure(&error.into()))?;
        line.push(b'\n');
        if self.waiting.len() + line.len() > WRITTEN_AT_ONCE {
            self.flush()?;
        }
        self.waiting.append(&mut line);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.write_all(&self.waiting).map_err(|error| stdio::failure(&error))?;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pollster::block_on;
    use tenantry::{Error, NewUser};

    use super::*;

    /// A store with two changes, these changes, and an error that doesn't end a stream.
    fn changes_and_busy(data_dir: &std::path::Path) -> (Store, Vec<Change>, Error) {
        let open = || Store::builder(data_dir).busy_timeout(Duration::from_millis(1)).open();
        let (store, other) = (block_on(open()).unwrap(), block_on(open()).unwrap());
        let new = |address: &str| NewUser::new(address.parse().unwrap());
        for address in ["ada@example.com", "bob@example.com"] {
            block_on(store.create(new(address))).unwrap();
        }
        let late = new("cleo@example.com");
        let refused = move |_: &mut tenantry::WriteTx<'_>| Ok(block_on(other.create(late)));
        let busy = block_on(store.write::<_, Error>(refused)).unwrap().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        let changes = block_on(store.changes(None, 10)).unwrap().changes;
        (store, changes, busy)
    }

    /// The story: the command ended with the exit code of `Busy`, while the stream of the library
    /// goes on, and lines that were read before were lost.
    #[test]
    fn following_goes_on_after_busy_and_loses_no_line_by_another_error() {
        let dir = tempfile::tempdir().unwrap();
        let (store, changes, busy) = changes_and_busy(&dir.path().join("data"));
        block_on(store.close()).unwrap();
        let closed = block_on(store.changes(None, 10)).unwrap_err();
        let expected: Vec<_> = changes.iter().map(|change| json(change) + "\n").collect();
        assert_eq!(expected.len(), 2);

        let output = dir.path().join("output");
        let file = std::fs::File::create(&output).unwrap();
        let reader = Reader::watch(file.try_clone().map(OwnedFd::from)).unwrap();
        let lines = Lines { out: anstream::AutoStream::never(file), waiting: Vec::new() };
        let [first, second] = <[Change; 2]>::try_from(changes).unwrap();
        let mut items = vec![Err(busy), Ok(first), Ok(second), Err(closed)].into_iter();
        let done = block_on(follow(|_| Poll::Ready(items.next()), 10, lines, reader));
        assert!(done.is_err(), "{done:?}");
        assert_eq!(items.len(), 0);
        assert_eq!(std::fs::read_to_string(output).unwrap(), expected.concat());
    }

    fn json(change: &Change) -> String {
        serde_json::to_string(change).unwrap()
    }
}
