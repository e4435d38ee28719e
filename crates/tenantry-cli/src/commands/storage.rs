//! `tenantry storage …`.

use std::time::SystemTime;

use serde::Serialize;
use tenantry::{ErrorKind, StoragePath, Store, Timestamp, Usage, User, UserId};

use crate::args::StorageCommand;
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Columns, Format, RecordList, pluralize};
use crate::progress_bar;
use crate::session::{finish, report_change};
use crate::stdio::{self, report};
use crate::user_ref::UserRef;

pub(crate) const USAGES: Columns = Columns {
    name: "usages",
    fields: &[
        "id",
        "email",
        "files",
        "apparent_bytes",
        "allocated_bytes",
        "unreadable",
        "measured_at",
        "age_seconds",
    ],
    in_table: &[
        "id",
        "email",
        "files",
        "apparent_bytes",
        "allocated_bytes",
        "unreadable",
        "measured_at",
    ],
};

#[derive(Serialize)]
struct UsageRow {
    id: UserId,
    email: String,
    #[serde(flatten)]
    usage: Usage,
    /// The age of the figures.
    age_seconds: i64,
}

impl UsageRow {
    #[allow(clippy::disallowed_methods, reason = "the clock of the command; the store has its own")]
    fn new(user: &User, usage: Usage) -> Self {
        let now = Timestamp::from(SystemTime::now());
        // The clock may have been set back since the measurement.
        let age_seconds = (now.as_unix_us() - usage.measured_at.as_unix_us()).max(0) / 1_000_000;
        Self { id: user.id, email: user.email.to_string(), usage, age_seconds }
    }
}

pub(crate) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    is_format_given: bool,
    command: StorageCommand,
) -> Result<(), Failure> {
    match command {
        StorageCommand::Path { user } => {
            if is_format_given {
                return Err(Failure::new(
                    Exit::Usage,
                    "the path is printed as it is; --format applies to records",
                ));
            }
            let user = UserRef::parse(&user)?;
            let store = dir.open().await?;
            let path = path(&store, &user).await;
            let path = finish(&store, path).await?;
            let mut line = path.into_os_string().into_encoded_bytes();
            line.push(b'\n');
            stdio::print(line)
        }
        StorageCommand::Usage { user, top, stored } => {
            let user = user.map(|user| UserRef::parse(&user)).transpose()?;
            let store = dir.open().await?;
            let shown = match user {
                Some(user) => usage_of(&store, format, &user, stored).await,
                None => usage_of_all(&store, format, top, stored).await,
            };
            finish(&store, shown).await
        }
        StorageCommand::Adopt { user, dir: adopted_dir } => {
            let user = UserRef::parse(&user)?;
            let path: StoragePath = dir.within_storage(&adopted_dir).parse()?;
            let store = dir.open().await?;
            let adopted = store
                .write(move |tx| {
                    let id = user.find(tx)?.id;
                    tx.adopt(id, &path).map_err(Failure::from)
                })
                .await;
            let user = finish(&store, adopted).await?;
            report_change("storage adopt", format, &user)
        }
    }
}

async fn path(store: &Store, user: &UserRef) -> Result<std::path::PathBuf, Failure> {
    let user = user.find_in(store).await?;
    Ok(store.directory_path(user.id).await?)
}

async fn usage_of(
    store: &Store,
    format: Format<'_>,
    user: &UserRef,
    stored: bool,
) -> Result<(), Failure> {
    let user = user.find_in(store).await?;
    let usage = if stored {
        store.usage(user.id).await?.ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                "the user's directory was never measured: leave out --stored to measure it",
            )
        })?
    } else {
        let progress = progress_bar::start(None, "{spinner} {human_pos} files");
        let shown = progress.clone();
        let measured =
            store.measure_usage(user.id, move |progress| shown.set_position(progress.files)).await;
        progress.finish_and_clear();
        measured?
    };
    let mut list = RecordList::new(format, &USAGES)?;
    list.add(&[UsageRow::new(&user, usage)])?;
    list.finish(&[])
}

async fn usage_of_all(
    store: &Store,
    format: Format<'_>,
    top: u32,
    stored: bool,
) -> Result<(), Failure> {
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
        format!(
            "the directories of {} could not be measured: their figures are older",
            pluralize(failed, "user")
        ),
    ))
}

/// Measures all directories, and returns how many of them failed.
async fn measure_all(store: &Store) -> Result<u64, Failure> {
    let interrupt = Interrupt::listen();
    let users = store.users_with_directory().await?;
    let progress = progress_bar::start(
        Some(users.len() as u64),
        "{wide_bar} {human_pos}/{human_len} directories {eta}",
    );
    let mut failed = 0;
    for id in users {
        match store.measure_usage(id, |_| {}).await {
            Ok(_) => {}
            // Another process deleted the user.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::StorageUnavailable => return Err(error.into()),
            Err(error) => {
                failed += 1;
                progress.suspend(|| report!("{id}: {error}"));
            }
        }
        progress.inc(1);
        if interrupt.is_requested() {
            return Err(Failure::new(
                Exit::Interrupted,
                "interrupted: the figures of the others are older",
            ));
        }
    }
    progress.finish_and_clear();
    Ok(failed)
}
