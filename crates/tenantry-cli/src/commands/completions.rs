//! `tenantry completions`.

use std::io::{self, IsTerminal};

use clap::CommandFactory;
use clap_complete::{Generator, Shell as Known, generate};
use clap_complete_nushell::Nushell;

use crate::args::{Cli, Shell};
use crate::failure::Failure;
use crate::stdio::{self, report};

pub(crate) fn print(shell: Shell) -> Result<(), Failure> {
    let script = match shell {
        Shell::Bash => script(Known::Bash),
        Shell::Elvish => script(Known::Elvish),
        Shell::Fish => script(Known::Fish),
        Shell::Nushell => script(Nushell),
        Shell::Powershell => script(Known::PowerShell),
        Shell::Zsh => script(Known::Zsh),
    };
    stdio::print(script)?;
    if io::stderr().is_terminal() {
        report!("install location: {}", location(shell));
    }
    Ok(())
}

/// Generates a script in memory, since the generators panic when a write fails.
fn script(generator: impl Generator) -> Vec<u8> {
    let mut script = Vec::new();
    generate(generator, &mut Cli::command(), "tenantry", &mut script);
    script
}

fn location(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => "~/.local/share/bash-completion/completions/tenantry",
        Shell::Elvish => "at the end of ~/.config/elvish/rc.elv",
        Shell::Fish => "~/.config/fish/completions/tenantry.fish",
        Shell::Nushell => "~/.config/nushell/autoload/tenantry.nu",
        Shell::Powershell => "at the end of $PROFILE",
        Shell::Zsh => "~/.zfunc/_tenantry, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc",
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::args::COMPLETION_LOCATIONS;

    #[test]
    fn every_shell_has_its_install_location_in_help() {
        for shell in Shell::value_variants() {
            let name = shell.to_possible_value().unwrap().get_name().to_owned();
            let file =
                location(*shell).trim_start_matches("at the end of ").split(',').next().unwrap();
            assert!(
                COMPLETION_LOCATIONS.contains(&format!("completions {name} "))
                    && COMPLETION_LOCATIONS.contains(file),
                "{shell:?}"
            );
        }
    }
}
