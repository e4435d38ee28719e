//! What the command does: a file for each of its commands.

mod archive_report;
mod backup;
mod check;
mod completions;
mod export;
mod import;
mod man;
mod status;
mod storage;
mod trash;
mod user;

use std::io::{self, IsTerminal};

use backup::one_user;

use crate::args::{BackupCommand, Cli, Command, FormatName, StorageCommand, UserCommand};
use crate::failure::{Exit, Failure};
use crate::output::{self, Columns, Format};
use crate::place::Place;

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let default = if io::stdout().is_terminal() { FormatName::Table } else { FormatName::Jsonl };
    let name = cli.global.format.unwrap_or(default);
    let format = Format::new(name, cli.global.columns.as_deref(), columns_of(&cli.command))?;
    let is_format_given = cli.global.format.is_some();
    let global = &cli.global;
    let place = || Place::find(global.data_dir.clone(), !global.no_snapshot, global.allow_network_fs);
    if is_format_given && matches!(cli.command, Command::Import(_) | Command::Export(_)) {
        return Err(Failure::new(
            Exit::Usage,
            "--format is for what is printed: the format of a file is --from of an import and --to of an export",
        ));
    }
    match cli.command {
        Command::User(command) => user::run(&place()?, format, command).await,
        Command::Import(args) => import::run(&place()?, args).await,
        Command::Export(args) => {
            let place = place()?;
            let store = place.open().await?;
            let exported = export::run(&place, &store, args).await;
            store.close().await?;
            exported
        }
        Command::Trash(command) => trash::run(&place()?, format, command).await,
        Command::Storage(command) => storage::run(&place()?, format, is_format_given, command).await,
        Command::Backup(BackupCommand::Create { file, database_only, keep }) => {
            backup::create(&place()?, format, file, database_only, keep).await
        }
        Command::Backup(BackupCommand::Verify { file }) => backup::verify(format, &file).await,
        Command::Backup(BackupCommand::List { file, user }) => one_user::list(format, &file, user.as_deref()).await,
        Command::Backup(BackupCommand::Restore(restore)) => match (&restore.user, &restore.into) {
            (Some(user), _) => {
                let options = one_user::Options { even_if_purged: restore.even_if_purged, dry_run: restore.dry_run };
                one_user::restore(&place()?, format, &restore.file, user, options).await
            }
            (None, Some(into)) => backup::restore(format, &restore.file, into).await,
            (None, None) => Err(Failure::new(Exit::Usage, "whereto? Name a directory with --into, or a --user")),
        },
        Command::Check(args) => check::run(&place()?, format, args).await,
        Command::Status => status::run(&place()?, format).await,
        Command::Completions { shell } => completions::print(shell),
        Command::Man { dir } => man::write_into(&dir),
    }
}

/// The fields of what a command prints, if `--columns` can choose from them.
fn columns_of(command: &Command) -> Option<&'static Columns> {
    match command {
        Command::User(
            UserCommand::ExportArchive { .. } | UserCommand::ImportArchive { .. } | UserCommand::Delete { .. },
        ) => None,
        Command::User(UserCommand::Purge(purge)) => purge.dry_run.then_some(&trash::TRASHED),
        Command::User(_) | Command::Storage(StorageCommand::Adopt { .. }) => Some(&output::USERS),
        Command::Trash(_) => Some(&trash::TRASHED),
        Command::Storage(StorageCommand::Usage { .. }) => Some(&storage::USAGES),
        Command::Check(_) => Some(&check::FINDINGS),
        Command::Backup(BackupCommand::List { .. }) => Some(&one_user::BACKED_UP),
        _ => None,
    }
}
