//! `tenantry completions`.

use std::io::{self, IsTerminal, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;

/// Where a person's completions are.
pub(crate) const PLACES: &str = "\
Where they go:
  bash        tenantry completions bash > ~/.local/share/bash-completion/completions/tenantry
  zsh         tenantry completions zsh > ~/.zfunc/_tenantry
              (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)
  fish        tenantry completions fish > ~/.config/fish/completions/tenantry.fish
  elvish      tenantry completions elvish >> ~/.config/elvish/rc.elv
  powershell  tenantry completions powershell >> $PROFILE";

pub(crate) fn print(shell: Shell) -> Result<(), Failure> {
    // Into memory, since the generators panic when they can't write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tenantry", &mut script);
    io::stdout().write_all(&script).map_err(|error| Failure::io("standard output", &error))?;
    if io::stderr().is_terminal() {
        anstream::eprintln!("where this goes: {}", place(shell));
    }
    Ok(())
}

fn place(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => "~/.local/share/bash-completion/completions/tenantry",
        Shell::Zsh => "~/.zfunc/_tenantry, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc",
        Shell::Fish => "~/.config/fish/completions/tenantry.fish",
        Shell::Elvish => "at the end of ~/.config/elvish/rc.elv",
        Shell::PowerShell => "at the end of $PROFILE",
        _ => "where the shell looks for completions",
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_has_its_place_in_help() {
        for shell in Shell::value_variants() {
            let place = place(*shell).trim_start_matches("at the end of ");
            let file = place.split(',').next().unwrap();
            assert!(PLACES.contains(&format!("completions {shell} ")) && PLACES.contains(file), "{shell}");
        }
    }
}
