//! `tenantry storage …`.

use std::time::SystemTime;

use serde::Serialize;
use tenantry::{ErrorKind, StoragePath, Store, Timestamp, Usage, User, UserId};

use crate::args::StorageCommand;
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, Columns, Format, RecordList, counted};
use crate::place::Place;
use crate::session::{changed, finish};
use crate::stdio::{self, tell};
use crate::who::Who;

pub(crate) const USAGES: Columns = Columns {
    name: "usages",
    fields: &["id", "email", "files", "apparent_bytes", "allocated_bytes", "unreadable", "measured_at", "age_seconds"],
    in_table: &["id", "email", "files", "apparent_bytes", "allocated_bytes", "unreadable", "measured_at"],
};

#[derive(Serialize)]
struct UsageRow {
    id: UserId,
    email: String,
    #[serde(flatten)]
    usage: Usage,
    /// How old the figures are.
    age_seconds: i64,
}

impl UsageRow {
    #[allow(clippy::disallowed_methods, reason = "the person's now; the store has its own")]
    fn new(user: &User, usage: Usage) -> Self {
        let now = Timestamp::from(SystemTime::now());
        // The clock may have been set back since.
        let age_seconds = (now.as_unix_us() - usage.measured_at.as_unix_us()).max(0) / 1_000_000;
        Self { id: user.id, email: user.email.to_string(), usage, age_seconds }
    }
}

pub(crate) async fn run(
    place: &Place,
    format: Format<'_>,
    is_format_given: bool,
    command: StorageCommand,
) -> Result<(), Failure> {
    match command {
        StorageCommand::Path { user } => {
            if is_format_given {
                return Err(Failure::new(Exit::Usage, "a path is printed as it is: --format is for data"));
            }
            let who = Who::parse(&user)?;
            let store = place.open().await?;
            let path = path(&store, &who).await;
            let path = finish(&store, path).await?;
            let mut line = path.into_os_string().into_encoded_bytes();
            line.push(b'\n');
            stdio::print(line)
        }
        StorageCommand::Usage { user, top, stored } => {
            let who = user.map(|user| Who::parse(&user)).transpose()?;
            let store = place.open().await?;
            let shown = match who {
                Some(who) => usage_of(&store, format, &who, stored).await,
                None => usage_of_all(&store, format, top, stored).await,
            };
            finish(&store, shown).await
        }
        StorageCommand::Adopt { user, dir } => {
            let who = Who::parse(&user)?;
            let path: StoragePath = place.within_storage(&dir).parse()?;
            let store = place.open().await?;
            let adopted = store
                .write(move |tx| {
                    let id = who.find(tx)?.id;
                    tx.adopt(id, &path).map_err(Failure::from)
                })
                .await;
            let user = finish(&store, adopted).await?;
            changed("storage adopt", format, &user)
        }
    }
}

async fn path(store: &Store, who: &Who) -> Result<std::path::PathBuf, Failure> {
    let user = store.read(|tx| who.find(tx)).await?;
    Ok(store.storage_path(user.id).await?)
}

async fn usage_of(store: &Store, format: Format<'_>, who: &Who, stored: bool) -> Result<(), Failure> {
    let user = store.read(|tx| who.find(tx)).await?;
    let usage = if stored {
        store.usage(user.id).await?.ok_or_else(|| {
            Failure::new(Exit::NotFound, "the user's directory was never measured: leave out --stored to do so")
        })?
    } else {
        let progress = output::progress(None, "{spinner} {human_pos} files");
        let shown = progress.clone();
        let measured = store.measure_usage(user.id, move |files| shown.set_position(files)).await;
        progress.finish_and_clear();
        measured?
    };
    let mut list = RecordList::new(format, &USAGES)?;
    list.add(&[UsageRow::new(&user, usage)])?;
    list.finish(&[])
}

async fn usage_of_all(store: &Store, format: Format<'_>, top: u32, stored: bool) -> Result<(), Failure> {
    let failed = if stored { 0 } else { measure_all(store).await? };
    let rows: Vec<UsageRow> = store
        .top_usage(usize::try_from(top).unwrap_or(usize::MAX))
        .await?
        .into_iter()
        .map(|(user, usage)| UsageRow::new(&user, usage))
        .collect();
    let mut list = RecordList::new(format, &USAGES)?;
    list.add(&rows)?;
    list.finish(&[])?;
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        format!("the directories of {} could not be measured: their figures are older", counted(failed, "user")),
    ))
}

/// Measures everybody's directory, and says how many could not be.
async fn measure_all(store: &Store) -> Result<u64, Failure> {
    let interrupt = Interrupt::listen();
    let users = store.users_with_directory().await?;
    let progress = output::progress(Some(users.len() as u64), "{wide_bar} {human_pos}/{human_len} directories {eta}");
    let mut failed = 0;
    for id in users {
        match store.measure_usage(id, |_| {}).await {
            Ok(_) => {}
            // Deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::StorageUnavailable => return Err(error.into()),
            Err(error) => {
                failed += 1;
                progress.suspend(|| tell!("{id}: {error}"));
            }
        }
        progress.inc(1);
        if interrupt.is_requested() {
            return Err(Failure::new(Exit::Interrupted, "interrupted: the figures of the others are older"));
        }
    }
    progress.finish_and_clear();
    Ok(failed)
}
