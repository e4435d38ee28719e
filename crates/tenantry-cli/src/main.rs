//! `tenantry`: operates a Tenantry store. What it does to the data it does through the library's public face.

mod archive;
mod archive_report;
mod args;
mod backup;
mod bring_back;
mod check;
mod completions;
mod descriptor;
mod export;
mod failure;
mod human;
mod import;
mod interrupt;
mod man;
mod moment;
mod output;
mod place;
mod prompt;
mod session;
mod stdio;
mod storage;
mod table;
mod target;
mod tips;
mod trash;
mod user;
mod who;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::{CommandFactory, FromArgMatches};
use serde_json::json;
use tenantry::sqlite;

use args::{BackupCommand, Cli, Color, Command, FormatName, StorageCommand, UserCommand};
use failure::{Exit, Failure};
use output::{Columns, Format};
use place::Place;
use stdio::tell;

fn main() -> ExitCode {
    let ended = understood().map_or_else(|ended| ended, |cli| pollster::block_on(run(cli)));
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    let code = match failure {
        Failure::BrokenPipe => 0,
        Failure::Shown(exit) => exit as u8,
        Failure::Told { exit, message } => {
            let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
            tell!("{red}error:{red:#} {message}");
            exit as u8
        }
    };
    // Whatever failed after the signal failed because of it.
    ExitCode::from(interrupt::code().unwrap_or(code))
}

/// Understands the arguments. Fails with what the process ends with if they are a question or can't be understood.
fn understood() -> Result<Cli, Result<(), Failure>> {
    interrupt::install().map_err(Err)?;
    color_of(std::env::args_os()).write_global();
    let cli = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = cli.map_err(|error| {
        let error = tips::without_unsafe(error);
        let text = error.render().ansi().to_string();
        if error.use_stderr() {
            tell!("{}", text.trim_end());
            return Err(Failure::Shown(Exit::Usage));
        }
        stdio::print(text)
    })?;
    match cli.global.color {
        // Standard output and standard error are inspected one by one, and NO_COLOR is heeded.
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
    log(cli.global.verbose);
    Ok(cli)
}

/// Returns what `--color` says, before the arguments are understood: help, and that they can't be, have colours too.
fn color_of(arguments: std::env::ArgsOs) -> ColorChoice {
    let arguments: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let next = arguments.iter().skip(1).map(String::as_str).chain([""]);
    let said = arguments.iter().zip(next).find_map(|(argument, next)| match argument.strip_prefix("--color") {
        Some("") => Some(next),
        Some(value) => value.strip_prefix('='),
        None => None,
    });
    match said {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
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
        Command::Backup(BackupCommand::List { file, user }) => bring_back::list(format, &file, user.as_deref()).await,
        Command::Backup(BackupCommand::Restore(restore)) => match (&restore.user, &restore.into) {
            (Some(user), _) => {
                let options = bring_back::Options { even_if_purged: restore.even_if_purged, dry_run: restore.dry_run };
                bring_back::restore(&place()?, format, &restore.file, user, options).await
            }
            (None, Some(into)) => backup::restore(format, &restore.file, into).await,
            (None, None) => Err(Failure::new(Exit::Usage, "whereto? Name a directory with --into, or a --user")),
        },
        Command::Check(args) => check::run(&place()?, format, args).await,
        Command::Status => status(&place()?, format).await,
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
        Command::Backup(BackupCommand::List { .. }) => Some(&bring_back::BACKED_UP),
        _ => None,
    }
}

async fn status(place: &Place, format: Format<'_>) -> Result<(), Failure> {
    let store = place.open().await?;
    let status = sqlite::status(&store).await;
    store.close().await?;
    let status = status?;
    output::record(
        format,
        &[
            ("path", json!(status.path.display().to_string())),
            ("store_id", json!(status.store_id.to_string())),
            ("schema_version", json!(status.schema_version)),
            ("sqlite_version", json!(status.sqlite_version)),
            ("journal_mode", json!(status.journal_mode)),
            ("read_only", json!(status.read_only)),
            ("open_method", json!(status.open_method)),
            ("move_method", json!(status.move_method)),
            ("user_count", json!(status.user_count)),
            ("database_bytes", json!(status.database_bytes)),
            ("wal_bytes", json!(status.wal_bytes)),
        ],
    )
}

/// Logs to standard error, from nothing at all to everything.
fn log(verbose: u8) {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::fmt::format::FmtSpan;

    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        // The store's operations are spans: one line for each, with how long it took.
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(|| stdio::Log)
        .with_ansi(false)
        .init();
}
