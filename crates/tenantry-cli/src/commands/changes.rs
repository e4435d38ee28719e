//! `tenantry changes`.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tenantry::{Change, ChangePage, ChangesCursor, Follow, Store};

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
            follow(store.follow(after), left).await
        } else {
            print(&store, after, left).await
        }
    };
    let done = done.await;
    finish(&store, done).await
}

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
async fn follow(mut changes: Follow, mut left: u64) -> Result<(), Failure> {
    let mut lines = Lines::new()?;
    let reader = Reader::watch(io::stdout().as_fd().try_clone_to_owned())?;
    while left > 0 {
        let ready = poll_fn(|context| Poll::Ready(pin!(changes.next()).poll(context))).await;
        let ready = match ready {
            Poll::Ready(change) => change,
            Poll::Pending => {
                // Before waiting, whoever reads gets what there is.
                lines.flush()?;
                let Some(change) = reader.or_next(&mut changes).await else {
                    return Err(Failure::BrokenPipe);
                };
                change
            }
        };
        let Some(change) = ready else { break };
        lines.add(&change?)?;
        left -= 1;
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

    /// Waits for the next change, or returns `None` when nobody reads any more.
    async fn or_next(&self, changes: &mut Follow) -> Option<Option<tenantry::Result<Change>>> {
        let mut next = pin!(changes.next());
        poll_fn(|context| {
            if let Poll::Ready(change) = next.as_mut().poll(context) {
                return Poll::Ready(Some(change));
            }
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
