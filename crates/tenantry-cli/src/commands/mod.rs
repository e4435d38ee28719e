//! Runs the commands: a file for each of them.

mod archive_report;
mod backup;
mod changes;
mod check;
mod completions;
mod export;
mod import;
mod man;
mod serve;
mod status;
mod storage;
mod token;
mod trash;
mod user;

use std::io::{self, IsTerminal};

use backup::one_user;

use crate::args::{
    BackupCommand, Cli, Command, FormatName, StorageCommand, TokenCommand, UserCommand,
};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::{self, Columns, Format};

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let default = if io::stdout().is_terminal() { FormatName::Table } else { FormatName::Jsonl };
    let name = cli.global.format.unwrap_or(default);
    let format = Format::new(name, cli.global.columns.as_deref(), printed_columns(&cli.command))?;
    let is_format_given = cli.global.format.is_some();
    let global = &cli.global;
    let dir =
        || DataDir::find(global.data_dir.clone(), !global.no_snapshot, global.allow_network_fs);
    check_format(cli.global.format, &cli.command)?;
    match cli.command {
        Command::User(command) => user::run(&dir()?, format, command).await,
        Command::Import(args) => import::run(&dir()?, args).await,
        Command::Export(args) => {
            let dir = dir()?;
            let store = dir.open().await?;
            let exported = export::run(&dir, &store, args).await;
            store.close().await?;
            exported
        }
        Command::Trash(command) => trash::run(&dir()?, format, command).await,
        Command::Storage(command) => storage::run(&dir()?, format, is_format_given, command).await,
        Command::Backup(BackupCommand::Create { file, database_only, keep }) => {
            backup::create(&dir()?, format, file, database_only, keep).await
        }
        Command::Backup(BackupCommand::Verify { file }) => backup::verify(format, &file).await,
        Command::Backup(BackupCommand::List { file, user }) => {
            one_user::list(format, &file, user.as_deref()).await
        }
        Command::Backup(BackupCommand::Restore(restore)) => match (&restore.user, &restore.into) {
            (Some(user), _) => {
                let options = one_user::Options {
                    even_if_purged: restore.even_if_purged,
                    dry_run: restore.dry_run,
                };
                one_user::restore(&dir()?, format, &restore.file, user, options).await
            }
            (None, Some(into)) => backup::restore(format, &restore.file, into).await,
            (None, None) => Err(Failure::new(
                Exit::Usage,
                "name a directory with --into, or a user with --user",
            )),
        },
        Command::Token(command) => token::run(&dir()?, format, is_format_given, command).await,
        Command::Changes(args) => changes::run(&dir()?, args).await,
        Command::Check(args) => check::run(&dir()?, format, args).await,
        Command::Serve(args) => serve::run(&dir()?, &args),
        Command::Status => status::run(&dir()?, format).await,
        Command::Completions { shell } => completions::print(shell),
        Command::Man { dir } => man::write_into(&dir),
    }
}

/// Refuses a format where it would change nothing.
fn check_format(format: Option<FormatName>, command: &Command) -> Result<(), Failure> {
    let message = match command {
        Command::Changes(_) if format.is_some_and(|name| name != FormatName::Jsonl) => {
            "changes are printed as one JSON object a line, in no other format"
        }
        Command::Import(_) | Command::Export(_) if format.is_some() => {
            "--format applies to printed records; for files use --from (import) or --to (export)"
        }
        _ => return Ok(()),
    };
    Err(Failure::new(Exit::Usage, message))
}

/// Returns the fields that a command prints, if `--columns` can select from them.
fn printed_columns(command: &Command) -> Option<&'static Columns> {
    match command {
        Command::User(
            UserCommand::ExportArchive { .. }
            | UserCommand::ImportArchive { .. }
            | UserCommand::Count(_),
        ) => None,
        Command::User(UserCommand::Delete(delete)) => delete.many.dry_run.then_some(&output::USERS),
        Command::User(UserCommand::Purge(purge)) => purge.dry_run.then_some(&trash::TRASHED_USERS),
        Command::User(UserCommand::History { .. }) => Some(&user::history::CHANGES),
        Command::User(_) | Command::Storage(StorageCommand::Adopt { .. }) => Some(&output::USERS),
        Command::Trash(_) => Some(&trash::TRASHED_USERS),
        Command::Storage(StorageCommand::Usage { .. }) => Some(&storage::USAGES),
        Command::Token(TokenCommand::List) => Some(&token::TOKENS),
        Command::Check(_) => Some(&check::FINDINGS),
        Command::Backup(BackupCommand::List { .. }) => Some(&one_user::BACKUP_USERS),
        _ => None,
    }
}
