//! `tenantry`: operates a Tenantry store. What it does to the data it does through the library's
//! public face.

mod args;
mod commands;
mod descriptor;
mod failure;
mod human;
mod interrupt;
mod moment;
mod output;
mod place;
mod prompt;
mod session;
mod stdio;
mod table;
mod target;
mod tips;
mod who;

use std::process::ExitCode;

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Color};
use failure::{Exit, Failure};
use stdio::tell;

fn main() -> ExitCode {
    let ended = understood().map_or_else(|ended| ended, |cli| pollster::block_on(commands::run(cli)));
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

/// Understands the arguments. Fails with what the process ends with if they are a question or can't
/// be understood.
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

/// Returns what `--color` says, before the arguments are understood: help, and that they can't be,
/// have colours too.
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
