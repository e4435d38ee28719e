//! The local part of an address: its key, and what in it passes for something else.

use std::borrow::Cow;

use super::characters::{fold, is_combining, is_inner_character, is_local_character};
use super::refusal::{refuse, refuse_at};
use crate::Result;
use crate::domain::confusable;

/// Returns the key of a local part that is in NFC. `input` is the local part as it was given, to
/// say where something is wrong.
pub(super) fn local_key<'a>(local: &'a str, input: &str) -> Result<Cow<'a, str>> {
    if local.is_ascii() {
        if local != input {
            // NFC makes ASCII of few characters, and a semicolon of U+037E.
            check_folded(local, input)?;
        }
        return Ok(match local.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(local.to_ascii_lowercase()),
            false => Cow::Borrowed(local),
        });
    }
    let key = fold(local);
    check_folded(&key, input)?;
    Ok(Cow::Owned(key))
}

/// Refuses a local part that looks like another one.
pub(super) fn check_local(local: &str, key: &str, input: &str) -> Result<()> {
    if local.is_ascii() {
        return Ok(());
    }
    check_scripts(key, input)?;
    // Not in the key: that of İ, whose dot can be seen, is i with a dot above.
    if let Some(c) = confusable::hidden_mark(local) {
        let code = u32::from(c);
        return Err(refuse(format!(
            "the part before the @ holds a combining mark that can't be seen (U+{code:04X})"
        )));
    }
    match parts(key).find_map(confusable::deceptive_part) {
        Some(what) => Err(refuse(format!("the part before the @ holds {what}"))),
        None => Ok(()),
    }
}

/// Returns the name and the subaddress of a local part. They are checked apart, because people tag
/// in other scripts than their own.
fn parts(local: &str) -> impl Iterator<Item = &str> {
    local.splitn(2, '+')
}

/// Refuses a local part whose name or subaddress is not *highly restrictive* (UTS 39, section 5.2),
/// going by its key, so that a compatibility form brings in nothing that its plain form couldn't.
fn check_scripts(key: &str, input: &str) -> Result<()> {
    let is_restrictive = |text: &str| parts(text).all(confusable::is_highly_restrictive);
    if is_restrictive(key) {
        return Ok(());
    }
    // Where the text up to a character is the first that isn't, the character is what is wrong.
    let ends = input.char_indices().map(|(index, c)| (&input[..index + c.len_utf8()], c));
    match (1..).zip(ends).find(|(_, (start, _))| !is_restrictive(&fold(start))) {
        Some((number, (_, c))) if !is_restrictive(&fold(c.encode_utf8(&mut [0; 4]))) => {
            Err(refuse_at(number, c, "not allowed in identifiers"))
        }
        Some((number, (_, c))) => {
            Err(refuse_at(number, c, "of another script than the characters before"))
        }
        None => Err(refuse("the part before the @ mixes scripts")),
    }
}

/// Refuses a local part some character of which becomes something in the key that a local part
/// can't hold, such as the full-width forms of `@` and `"`.
fn check_folded(key: &str, input: &str) -> Result<()> {
    if let Some(c) = input.chars().next().filter(|c| is_combining(*c)) {
        return Err(refuse_at(1, c, "a combining mark with nothing before it"));
    }
    let dots_stand_alone = !key.starts_with('.') && !key.ends_with('.') && !key.contains("..");
    if key.chars().all(is_local_character) && dots_stand_alone {
        return Ok(());
    }
    let folds_badly = |c: char| {
        !c.is_ascii() && fold(c.encode_utf8(&mut [0; 4])).chars().any(|c| !is_inner_character(c))
    };
    match (1..).zip(input.chars()).find(|(_, c)| folds_badly(*c)) {
        Some((number, c)) => {
            Err(refuse_at(number, c, "not allowed, being a form of a character that isn't"))
        }
        None => Err(refuse(
            "the part before the @ holds a form of a character that is not allowed there",
        )),
    }
}
