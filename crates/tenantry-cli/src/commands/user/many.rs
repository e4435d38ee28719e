//! Changing all users who meet conditions: `tenantry user delete` and `user suspend`.

use std::ops::ControlFlow;

use indicatif::ProgressBar;
use tenantry::{BulkOutcome, ErrorKind, Filter, ListQuery, Progress, Store};

use super::filter::everybody;
use super::list;
use crate::args::ManyUsers;
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Format, pluralize};
use crate::progress_bar;
use crate::prompt::confirm;
use crate::session::finish;
use crate::stdio::report;

/// What is done to the users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Delete,
    Suspend,
}

impl Verb {
    /// Returns the participle.
    fn done(self) -> &'static str {
        match self {
            Self::Delete => "deleted",
            Self::Suspend => "suspended",
        }
    }
}

/// Which users a command line means.
pub(super) enum Chosen {
    /// Those whom it names.
    Named,
    /// Those who meet a filter.
    Where(Filter),
}

/// Returns which users the command line means: it has to say so, and in one way.
pub(super) fn choose(are_named: bool, many: ManyUsers) -> Result<(Chosen, Flags), Failure> {
    let flags = Flags { dry_run: many.dry_run, yes: many.yes };
    let filter = many.filter.parse()?;
    let usage = |message: &str| Err(Failure::new(Exit::Usage, message));
    match (are_named, filter.is_empty(), many.all) {
        (true, true, false) if flags.dry_run => {
            usage("--dry-run is for users who are chosen by conditions")
        }
        (true, true, false) => Ok((Chosen::Named, flags)),
        (true, ..) => usage("name users, or choose them by conditions, but not both"),
        (false, false, true) => usage("--all is without conditions"),
        (false, true, true) => Ok((Chosen::Where(everybody()), flags)),
        (false, false, false) => Ok((Chosen::Where(filter), flags)),
        (false, true, false) => usage(
            "name a user, or choose users by conditions such as --inactive-for 2y, or by --all",
        ),
    }
}

pub(super) struct Flags {
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

/// Changes the users who meet a filter, after their number was shown and confirmed.
pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    verb: Verb,
    filter: Filter,
    flags: Flags,
) -> Result<(), Failure> {
    let store = dir.open().await?;
    let changed = change(&store, format, verb, filter, flags).await;
    finish(&store, changed).await
}

async fn change(
    store: &Store,
    format: Format<'_>,
    verb: Verb,
    mut filter: Filter,
    flags: Flags,
) -> Result<(), Failure> {
    if verb == Verb::Suspend {
        // Those who are suspended stay as they are.
        filter.suspended = filter.suspended.or(Some(false));
    }
    let count = store.count_where(&filter).await?;
    if flags.dry_run {
        let query = ListQuery { limit: ListQuery::MAX_LIMIT, filter, ..ListQuery::default() };
        list::print(store, format, query, true).await?;
        report!("{} would be {}", pluralize(count, "user"), verb.done());
        return Ok(());
    }
    if count == 0 {
        report!("no user meets the conditions");
        return Ok(());
    }
    let users = pluralize(count, "user");
    confirm(flags.yes, verb.done(), || match verb {
        Verb::Delete => format!("Move {users} to the trash?"),
        Verb::Suspend => format!("Suspend {users}?"),
    })?;
    let interrupt = Interrupt::listen();
    let bar = progress_bar::start(Some(count), "{wide_bar} {human_pos}/{human_len} users {eta}");
    let progress = progress(bar.clone(), interrupt.clone());
    let outcome = match verb {
        Verb::Delete => store.delete_where(filter, progress).await?,
        Verb::Suspend => store.suspend_where(filter, progress).await?,
    };
    bar.finish_and_clear();
    report_outcome(verb, outcome)
}

fn progress(
    bar: ProgressBar,
    interrupt: Interrupt,
) -> impl Fn(Progress) -> ControlFlow<()> + Send + 'static {
    move |progress| {
        bar.set_position(progress.users);
        if interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn report_outcome(verb: Verb, outcome: BulkOutcome) -> Result<(), Failure> {
    let BulkOutcome { changed, passed_over, failed, failures, ended_by, .. } = outcome;
    let done = format!("{} {}", verb.done(), pluralize(changed, "user"));
    for (id, error) in &failures {
        report!("{id}: {error}");
    }
    if passed_over > 0 {
        report!("{} did not meet the conditions any more", pluralize(passed_over, "user"));
    }
    match ended_by {
        Some(error) if error.kind() == ErrorKind::Cancelled => {
            Err(Failure::from(error).with_outcome(&done))
        }
        Some(error) => Err(Failure::from(error).with_outcome(&format!("{done} before that"))),
        None if failed > 0 => {
            let message =
                format!("{} could not be {}; {done}", pluralize(failed, "user"), verb.done());
            Err(Failure::new(Exit::Failure, message))
        }
        None => {
            report!("{done}");
            Ok(())
        }
    }
}
