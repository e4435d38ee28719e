//! Filters the tips for mistyped words, so that none of them leads to a loss of data.

use clap::error::{ContextKind, ContextValue};

/// Verbs that destroy data, and options that skip a question or a safeguard. Someone who follows a
/// tip blindly must do no harm: for `user merge` the tip was once `purge`.
const UNSAFE_WORDS: [&str; 12] = [
    "purge",
    "revoke",
    "delete",
    "rm",
    "--yes",
    "--all",
    "--older-than",
    "--repair",
    "--even-if-many",
    "--keep",
    "--no-snapshot",
    "--allow-network-fs",
];

/// Removes the tips with unsafe words from an error.
pub(crate) fn remove_unsafe(mut error: clap::Error) -> clap::Error {
    for kind in
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::Suggested]
    {
        let kept = match error.remove(kind) {
            Some(ContextValue::String(tip)) => is_safe(&tip).then_some(ContextValue::String(tip)),
            Some(ContextValue::Strings(mut tips)) => {
                tips.retain(|tip| is_safe(tip));
                (!tips.is_empty()).then_some(ContextValue::Strings(tips))
            }
            Some(ContextValue::StyledStrs(mut tips)) => {
                tips.retain(|tip| is_safe(&tip.to_string()));
                (!tips.is_empty()).then_some(ContextValue::StyledStrs(tips))
            }
            other => other,
        };
        if let Some(kept) = kept {
            error.insert(kind, kept);
        }
    }
    error
}

fn is_safe(tip: &str) -> bool {
    let mut words = tip.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    !words.any(|word| UNSAFE_WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory};

    use super::*;
    use crate::args::Cli;

    /// Returns the tips for invalid arguments.
    fn tips(arguments: &[&str]) -> String {
        let error = Cli::command().try_get_matches_from(arguments).unwrap_err();
        let text = remove_unsafe(error).to_string();
        text.lines().filter(|line| line.contains("tip:")).collect()
    }

    /// Returns a word with each letter left out, or swapped with the next.
    fn mistypings(word: &str) -> Vec<String> {
        let chars: Vec<char> = word.chars().collect();
        let mut words = Vec::new();
        for index in 0..chars.len() {
            let mut without = chars.clone();
            without.remove(index);
            let mut swapped = chars.clone();
            swapped.swap(index, (index + 1) % chars.len());
            words.extend([without, swapped].map(|chars| chars.into_iter().collect()));
        }
        words
    }

    fn words(command: &Command, found: &mut BTreeSet<String>) {
        found.insert(command.get_name().to_owned());
        found.extend(command.get_all_aliases().map(ToOwned::to_owned));
        found.extend(
            command
                .get_arguments()
                .filter_map(|argument| Some(format!("--{}", argument.get_long()?))),
        );
        command.get_subcommands().for_each(|command| words(command, found));
    }

    #[test]
    fn no_tip_names_a_verb_that_destroys() {
        let mut all = BTreeSet::new();
        words(&Cli::command(), &mut all);
        all.extend(
            ["merge", "remove", "prune", "erase", "wipe", "drop", "clean", "del"]
                .map(ToOwned::to_owned),
        );
        let groups = ["", "user", "backup", "user list"];
        for word in all.iter().flat_map(|word| mistypings(word)).chain(all.iter().cloned()) {
            for group in groups {
                let mut arguments = vec!["tenantry"];
                arguments.extend(group.split_whitespace());
                arguments.push(&word);
                let Err(error) = Cli::command().try_get_matches_from(&arguments) else { continue };
                let text = remove_unsafe(error).to_string();
                let tips = text.lines().filter(|line| line.contains("tip:"));
                for word in tips.flat_map(|tip| tip.split([' ', '\'', ','])) {
                    assert!(!UNSAFE_WORDS.contains(&word), "{arguments:?}: {text}");
                }
            }
        }
    }

    #[test]
    fn other_tips_are_given() {
        assert_eq!(tips(&["tenantry", "user", "merge", "a", "b"]), "");
        assert_eq!(
            tips(&["tenantry", "user", "lst"]),
            "  tip: some similar subcommands exist: 'ls', 'list'"
        );
        assert_eq!(
            tips(&["tenantry", "user", "list", "--limt", "3"]),
            "  tip: a similar argument exists: '--limit'"
        );
    }
}
