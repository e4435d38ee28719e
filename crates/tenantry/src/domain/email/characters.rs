//! The characters of an address, and how they are folded.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};

use super::refusal::{refuse, refuse_at};
use crate::Result;
use crate::domain::confusable::{self, is_joiner};

/// Splits an address into the local part and the domain. Refuses a character that no address can
/// hold, and a wrong order of two.
pub(super) fn split(input: &str) -> Result<(&str, &str)> {
    let mut at = None;
    let mut previous = None;
    for (number, (index, c)) in (1..).zip(input.char_indices()) {
        let is_joining = is_joiner(c) && confusable::joins(input, index);
        if let Some(reason) = why_unreadable(c).filter(|_| !is_joining) {
            return Err(refuse_at(number, c, reason));
        }
        match (at, c) {
            (Some(_), '@') => return Err(refuse_at(number, c, "a second @")),
            (Some((_, start)), '[') if number == start => {
                return Err(refuse("an IP address in place of a domain is not accepted"));
            }
            (None, '@') if index == 0 => return Err(refuse("there is nothing before the @")),
            (None, '@') if previous == Some('.') => {
                return Err(refuse_at(number - 1, '.', "a dot before the @"));
            }
            (None, '@') => at = Some((index, number + 1)),
            (None, '"') => {
                return Err(refuse_at(number, c, "a quote; quoted local parts are not accepted"));
            }
            (None, '(' | ')') => {
                return Err(refuse_at(number, c, "a parenthesis; comments are not accepted"));
            }
            (None, '.') if index == 0 => {
                return Err(refuse_at(number, c, "a dot at the beginning"));
            }
            (None, '.') if previous == Some('.') => {
                return Err(refuse_at(number, c, "a second dot in a row"));
            }
            (None, _) if !is_joining && !is_local_character(c) => {
                return Err(refuse_at(number, c, "not allowed before the @"));
            }
            _ => {}
        }
        previous = Some(c);
    }
    match at {
        None if input.is_empty() => Err(refuse("the address is empty")),
        None => Err(refuse("the address has no @")),
        Some((index, _)) if index + 1 == input.len() => Err(refuse("there is nothing after the @")),
        Some((index, _)) => Ok((&input[..index], &input[index + 1..])),
    }
}

/// Returns `text` in NFKC and case folded, to the point where doing it again changes nothing, and
/// without joiners.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let text = &*text.chars().filter(|c| !is_joiner(*c)).collect::<String>();
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let once = |text: &str| {
        nfkc.normalize(&CaseMapper::new().fold_string(&nfkc.normalize(text))).into_owned()
    };
    // Folding may undo the normalization and the other way round. Two rounds settle every character
    // there is (a test goes through all); the bound is for those that are not there yet.
    let mut folded = once(text);
    for _ in 0..3 {
        let again = once(&folded);
        if again == folded {
            break;
        }
        folded = again;
    }
    folded
}

pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        Cow::Borrowed(text)
    } else {
        ComposingNormalizerBorrowed::new_nfc().normalize(text)
    }
}

/// `atext` of RFC 5322, section 3.2.3, widened by RFC 6531, section 3.3, and the dot.
pub(super) fn is_local_character(c: char) -> bool {
    c == '.' || is_inner_character(c)
}

pub(super) fn is_inner_character(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || !c.is_ascii() && why_unreadable(c).is_none()
}

/// Returns whether a terminal acts on this character instead of showing it.
pub(super) fn is_control(c: char) -> bool {
    c.is_control() || !c.is_ascii() && is_bidi_control(c)
}

/// Returns Unicode's property Bidi_Control.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

pub(super) fn is_combining(c: char) -> bool {
    !c.is_ascii()
        && GeneralCategoryGroup::Mark.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}

/// Returns why no address can hold this character, or `None` if one can.
pub(crate) fn why_unreadable(c: char) -> Option<&'static str> {
    if c.is_ascii_graphic() {
        return None;
    }
    match c {
        _ if is_bidi_control(c) => return Some("a bidirectional control"),
        _ if CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) => {
            return Some("invisible");
        }
        _ => {}
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        GeneralCategory::Control => Some("a control character"),
        GeneralCategory::Format => Some("invisible"),
        GeneralCategory::SpaceSeparator
        | GeneralCategory::LineSeparator
        | GeneralCategory::ParagraphSeparator => Some("a space"),
        GeneralCategory::Unassigned => Some("not assigned in Unicode"),
        GeneralCategory::PrivateUse => Some("of private use"),
        _ => None,
    }
}
