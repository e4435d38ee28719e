//! Questions to the person at the terminal.

use std::io::{self, BufRead, IsTerminal};

use crate::failure::{Exit, Failure};
use crate::stdio;

/// Asks for a confirmation, unless `--yes` gave it. `done` is the participle of the action.
pub(crate) fn confirm(
    yes: bool,
    done: &str,
    question: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            format!("nothing was {done}: without a terminal for the question, --yes is required"),
        ));
    }
    let mut answer = String::new();
    let asked = stdio::ask(&question()).and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::io("asking", &error))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Failure, format!("nothing was {done}")))
}
