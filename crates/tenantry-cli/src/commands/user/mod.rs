//! `tenantry user …`: a file for each of its verbs.

mod archive;
mod create;
mod delete;
mod filter;
mod get;
pub(crate) mod history;
mod list;
mod login;
mod many;
mod profile;
pub(crate) mod purge;
mod restore;
mod suspend;
mod update;

use crate::args::UserCommand;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::Format;

/// Runs a verb. Each checks its arguments before it opens the store, so that a mistyped one never
/// creates a store.
pub(crate) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    command: UserCommand,
) -> Result<(), Failure> {
    match command {
        UserCommand::Create(args) => create::run(dir, format, args).await,
        UserCommand::Get { user } => get::run(dir, format, &user).await,
        UserCommand::List(args) => list::run(dir, format, args).await,
        UserCommand::Update(args) => update::run(dir, format, args).await,
        UserCommand::Rename { user, email, expect_version } => {
            update::rename(dir, format, &user, &email, expect_version).await
        }
        UserCommand::Count(filter) => list::count(dir, format, filter).await,
        UserCommand::Suspend(args) => suspend::suspend(dir, format, args).await,
        UserCommand::Resume { user } => suspend::resume(dir, format, &user).await,
        UserCommand::Login { user, create } => login::run(dir, format, &user, create).await,
        UserCommand::Delete(args) => delete::run(dir, format, args).await,
        UserCommand::Restore { user, email } => {
            restore::run(dir, format, &user, email.as_deref()).await
        }
        UserCommand::History { user, limit, cursor } => {
            history::run(dir, format, &user, cursor, limit).await
        }
        UserCommand::Purge(args) => purge::run(dir, format, args).await,
        UserCommand::ExportArchive { user, file } => {
            archive::export(dir, format, &user, &file).await
        }
        UserCommand::ImportArchive { file } => archive::import(dir, format, &file).await,
    }
}
