//! `tenantry`: operates a Tenantry store through the public API of the library.

// A test may tell a long story.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]

mod args;
mod commands;
mod data_dir;
mod descriptor;
mod failure;
mod human;
mod interrupt;
mod moment;
mod output;
mod progress_bar;
mod prompt;
mod session;
mod stdio;
mod table;
mod target;
mod tips;
mod user_ref;

use std::process::ExitCode;

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Color, Command};
use failure::{Exit, Failure};
use stdio::report;

fn main() -> ExitCode {
    let ended =
        parse_arguments().map_or_else(|ended| ended, |cli| pollster::block_on(commands::run(cli)));
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    let code = match failure {
        Failure::BrokenPipe => 0,
        Failure::Silent(exit) => exit as u8,
        Failure::Message { exit, message } => {
            let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
            report!("{red}error:{red:#} {message}");
            exit as u8
        }
    };
    // A failure after a signal is a consequence of it.
    ExitCode::from(interrupt::code().unwrap_or(code))
}

/// Parses the arguments. Fails with the result of the process if they ask for help or are invalid.
fn parse_arguments() -> Result<Cli, Result<(), Failure>> {
    interrupt::install().map_err(Err)?;
    color_choice(std::env::args_os()).write_global();
    let cli = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = cli.map_err(|error| {
        let error = tips::remove_unsafe(error);
        let text = error.render().ansi().to_string();
        if error.use_stderr() {
            report!("{}", text.trim_end());
            return Err(Failure::Silent(Exit::Usage));
        }
        stdio::print(text)
    })?;
    match cli.global.color {
        // Decided for standard output and standard error separately, with regard to NO_COLOR.
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
    // No person waits for the errors of a service.
    let warns = matches!(cli.command, Command::Serve(_));
    log(cli.global.verbose, warns);
    Ok(cli)
}

/// Returns the choice of `--color` before the arguments are parsed, since help and usage errors
/// have colours too.
fn color_choice(arguments: std::env::ArgsOs) -> ColorChoice {
    let arguments: Vec<String> =
        arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let next = arguments.iter().skip(1).map(String::as_str).chain([""]);
    let said = arguments.iter().zip(next).find_map(|(argument, next)| {
        match argument.strip_prefix("--color") {
            Some("") => Some(next),
            Some(value) => value.strip_prefix('='),
            None => None,
        }
    });
    match said {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

/// Starts the log on standard error, at the level of `--verbose`.
fn log(verbose: u8, warns: bool) {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::fmt::format::FmtSpan;

    let level = match verbose {
        0 if warns => LevelFilter::WARN,
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        // The store's operations are spans: one line each, with the duration. A request has a line
        // of its own.
        .with_span_events(if verbose < 2 { FmtSpan::NONE } else { FmtSpan::CLOSE })
        .with_writer(|| stdio::Log)
        .with_ansi(false)
        .init();
}
