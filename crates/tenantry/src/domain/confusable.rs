//! [Confusable](https://www.unicode.org/reports/tr39/) texts within an address: mixed scripts and
//! number systems, invisible marks, labels of a domain that pass for ASCII.

use std::borrow::Cow;

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::CodePointMapData;
use icu_properties::props::{
    CanonicalCombiningClass, GeneralCategory, HangulSyllableType, JoiningType, Script,
};
use idna::uts46::{AsciiDenyList, Hyphens, Uts46};
use unicode_security::{RestrictionLevel, RestrictionLevelDetection};

/// How many nonspacing marks may follow each other
/// ([UTS 39, section 5.4](https://www.unicode.org/reports/tr39/#Optional_Detection)).
const MARKS_MAX: usize = 4;

/// The strokes of Chinese and Japanese that read as a slash or a dash between letters of ASCII.
/// Browsers have a similar list
/// (<https://chromium.googlesource.com/chromium/src/+/main/docs/idn.md>).
const STROKES: &str = "ノンソゾー一丶丨丿";

/// Texts of ASCII that look alike, by their skeleton, as far as a key in lower case can hold them.
const FORMS: [(&str, &[&str]); 4] =
    [("rn", &["rn", "m"]), ("l", &["l", "1", "|"]), ("O", &["0"]), ("'", &["'", "`"])];
/// How many addresses of ASCII one of other characters is compared with. Each is a lookup, and
/// nearly always there is one.
const ASCII_TWINS_MAX: usize = 64;

/// The values by which the addresses are found that look like an address.
pub(crate) struct ConfusableForms {
    /// The skeleton of all of them.
    pub(crate) skeleton: String,
    /// The confusable addresses of ASCII, if the address itself isn't. They share its characters of
    /// ASCII.
    pub(crate) in_ascii: Vec<String>,
}

impl ConfusableForms {
    /// Finds those of a key as people read it.
    pub(crate) fn of(shown: &str) -> Self {
        let in_ascii = if shown.is_ascii() { Vec::new() } else { ascii_twins(shown) };
        Self { skeleton: skeleton(shown), in_ascii }
    }
}

/// Returns the skeleton of a text, which texts share that look alike
/// ([UTS 39, section 4](https://www.unicode.org/reports/tr39/#Confusable_Detection)).
pub(crate) fn skeleton(text: &str) -> String {
    unicode_security::skeleton(text).collect()
}

/// Returns the texts of ASCII that a text looks like, up to [`ASCII_TWINS_MAX`].
fn ascii_twins(text: &str) -> Vec<String> {
    let mut twins = vec![String::new()];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| c.is_ascii() != first.is_ascii()).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        if run.is_ascii() {
            twins.iter_mut().for_each(|twin| twin.push_str(run));
            continue;
        }
        let skeleton = skeleton(run);
        if !skeleton.is_ascii() {
            return Vec::new();
        }
        let mut left = &*skeleton;
        while !left.is_empty() {
            let itself = [&left[..1]];
            let form = FORMS.iter().find(|(prototype, _)| left.starts_with(prototype));
            let (prototype, forms) =
                form.map_or((itself[0], &itself[..]), |(prototype, forms)| (*prototype, *forms));
            let longer =
                |twin: &String| forms.iter().map(|form| [twin, *form].concat()).collect::<Vec<_>>();
            twins = twins.iter().flat_map(longer).take(ASCII_TWINS_MAX).collect();
            left = &left[prototype.len()..];
        }
    }
    twins
}

/// Returns whether a text is *highly restrictive*
/// ([UTS 39, section 5.2](https://www.unicode.org/reports/tr39/#Restriction_Level_Detection)).
///
/// ASCII's punctuation has no place in an identifier, for which the levels are made, but has in an
/// address.
pub(crate) fn is_highly_restrictive(text: &str) -> bool {
    let letters: String =
        text.chars().filter(|c| !c.is_ascii_punctuation() && !is_joiner(*c)).collect();
    letters.as_str().check_restriction_level(RestrictionLevel::HighlyRestrictive)
}

/// Returns the deceptive part of a text of one script.
pub(crate) fn deceptive_part(text: &str) -> Option<Cow<'static, str>> {
    if text.is_ascii() {
        return None;
    }
    if has_mixed_digits(text) {
        return Some("digits of more than one number system".into());
    }
    stroke_in_ascii(text)
        .map(|c| format!("a stroke among letters of ASCII (U+{:04X})", u32::from(c)).into())
}

/// Returns the first combining mark that can't be seen: a dot above a letter that has one anyway, a
/// mark for the second time, one more than [`MARKS_MAX`].
pub(crate) fn hidden_mark(text: &str) -> Option<char> {
    if text.is_ascii() {
        return None;
    }
    let mut base = '\0';
    let mut marks: Vec<char> = Vec::new();
    for c in DecomposingNormalizerBorrowed::new_nfd().normalize(text).chars() {
        if !is_nonspacing(c) {
            base = c;
            marks.clear();
            continue;
        }
        let is_above = |c: char| combining_class(c) == CanonicalCombiningClass::Above;
        let is_dot_on_dot = c == '\u{307}' && has_dot(base) && !marks.iter().copied().any(is_above);
        if is_dot_on_dot || marks.last() == Some(&c) || marks.len() == MARKS_MAX {
            return Some(c);
        }
        marks.push(c);
    }
    None
}

/// Checks the labels of a domain in its ASCII form.
///
/// # Errors
///
/// Returns the number of the first label that is refused, from 0, and the reason.
pub(crate) fn check_domain(ascii: &str) -> Result<(), (usize, Cow<'static, str>)> {
    if !ascii.contains("xn--") {
        return Ok(());
    }
    let domain = shown_domain(ascii);
    let labels: Vec<&str> = domain.split('.').collect();
    for (index, label) in labels.iter().enumerate() {
        if let Some(reason) = why_refused(label) {
            return Err((index, reason));
        }
        if passes_for_ascii(label) && !shows_its_script(label, &labels) {
            return Err((index, "looks like one of ASCII characters, but is not".into()));
        }
    }
    Ok(())
}

/// Returns a domain in ASCII form as people read it: with the labels in Unicode, in lower case.
pub(crate) fn shown_domain(ascii: &str) -> Cow<'_, str> {
    if ascii.contains("xn--") {
        Uts46::new().to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast).0
    } else {
        Cow::Borrowed(ascii)
    }
}

/// Returns whether this is ZERO WIDTH NON-JOINER or ZERO WIDTH JOINER.
pub(crate) fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}')
}

/// Returns whether the joiner at `index` changes how its neighbours are written, as [RFC 5892,
/// appendix A](https://www.rfc-editor.org/rfc/rfc5892#appendix-A.1) has it for labels of domains.
pub(crate) fn joins(text: &str, index: usize) -> bool {
    let (before, after) = text.split_at(index);
    let mut after = after.chars();
    let joiner = after.next();
    if before
        .chars()
        .next_back()
        .is_some_and(|c| combining_class(c) == CanonicalCombiningClass::Virama)
    {
        return true;
    }
    let types = CodePointMapData::<JoiningType>::new();
    let is_opaque = |joining: &JoiningType| *joining != JoiningType::Transparent;
    let left = before.chars().rev().map(|c| types.get(c)).find(is_opaque);
    let right = after.map(|c| types.get(c)).find(is_opaque);
    joiner == Some('\u{200C}')
        && matches!(left, Some(JoiningType::LeftJoining | JoiningType::DualJoining))
        && matches!(right, Some(JoiningType::RightJoining | JoiningType::DualJoining))
}

/// Why a label in Unicode is refused for what is in it.
fn why_refused(label: &str) -> Option<Cow<'static, str>> {
    if label.is_ascii() {
        return None;
    }
    let with = |what: &str, c: char| Some(format!("holds {what} (U+{:04X})", u32::from(c)).into());
    if let Some(c) = invalid_in_idna(label) {
        return with("a character that is not allowed there", c);
    }
    if !is_highly_restrictive(label) {
        let is_allowed = |c: &char| is_highly_restrictive(c.encode_utf8(&mut [0; 4]));
        return match label.chars().find(|c| !is_allowed(c)) {
            Some(c) => with("a character that names are not written with", c),
            None => Some("mixes scripts".into()),
        };
    }
    if let Some(c) = hidden_mark(label) {
        return with("a combining mark that can't be seen", c);
    }
    deceptive_part(label).map(|what| format!("holds {what}").into())
}

/// Returns the first character that IDNA 2008 allows in no label, or not in this place ([RFC
/// 5892](https://www.rfc-editor.org/rfc/rfc5892)). UTS 46 has gone before, with what is about case
/// and normalization.
fn invalid_in_idna(label: &str) -> Option<char> {
    let chars: Vec<char> = label.chars().collect();
    chars.iter().enumerate().find_map(|(index, c)| {
        let previous = index.checked_sub(1).map(|index| chars[index]);
        let next = chars.get(index + 1).copied();
        let is_valid = match c {
            '-' => true,
            // The joiners were checked with UTS 46.
            '\u{200C}' | '\u{200D}' => true,
            '\u{B7}' => previous == Some('l') && next == Some('l'),
            '\u{375}' => next.is_some_and(|c| script(c) == Script::Greek),
            '\u{5F3}' | '\u{5F4}' => previous.is_some_and(|c| script(c) == Script::Hebrew),
            '\u{30FB}' => chars
                .iter()
                .any(|c| matches!(script(*c), Script::Hiragana | Script::Katakana | Script::Han)),
            '\u{6FD}' | '\u{6FE}' | '\u{F0B}' | '\u{3007}' => true,
            '\u{640}'
            | '\u{7FA}'
            | '\u{302E}'
            | '\u{302F}'
            | '\u{3031}'..='\u{3035}'
            | '\u{303B}' => false,
            _ => is_letter_or_digit(*c) && !is_old_jamo(*c),
        };
        (!is_valid).then_some(*c)
    })
}

/// *LetterDigits* of RFC 5892, section 2.1.
fn is_letter_or_digit(c: char) -> bool {
    matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::LowercaseLetter
            | GeneralCategory::UppercaseLetter
            | GeneralCategory::OtherLetter
            | GeneralCategory::ModifierLetter
            | GeneralCategory::DecimalNumber
            | GeneralCategory::NonspacingMark
            | GeneralCategory::SpacingMark
    )
}

/// *OldHangulJamo* of RFC 5892, section 2.9.
fn is_old_jamo(c: char) -> bool {
    matches!(
        CodePointMapData::<HangulSyllableType>::new().get(c),
        HangulSyllableType::LeadingJamo
            | HangulSyllableType::VowelJamo
            | HangulSyllableType::TrailingJamo
    )
}

/// Whether a label that isn't ASCII has the skeleton of one that is. Latin letters that ASCII
/// lacks, such as æ and ı, have such skeletons too, but people who write with them know them apart.
fn passes_for_ascii(label: &str) -> bool {
    label.chars().any(|c| !c.is_ascii() && script(c) != Script::Latin) && skeleton(label).is_ascii()
}

/// Whether the rest of the domain says that a label isn't meant as ASCII, as browsers decide it:
/// the top-level label is of the same script, and some label of it has letters that no one takes
/// for ASCII, as in `хор.рф` and `почта.рус`.
fn shows_its_script(label: &str, labels: &[&str]) -> bool {
    let script_of = |label: &str| {
        label.chars().map(script).find(|s| !matches!(*s, Script::Common | Script::Inherited))
    };
    let own = script_of(label);
    let is_akin = |other: &str| own.is_some() && script_of(other) == own;
    own != Some(Script::Latin)
        && labels.last().is_some_and(|top| is_akin(top))
        && labels.iter().any(|other| is_akin(other) && !passes_for_ascii(other))
}

fn has_mixed_digits(text: &str) -> bool {
    let categories = CodePointMapData::<GeneralCategory>::new();
    let mut systems = text
        .chars()
        .filter(|c| categories.get(*c) == GeneralCategory::DecimalNumber)
        // The ten digits of a system lie together, and no two systems share sixteen places (a test
        // looks at all).
        .map(|c| u32::from(c) >> 4);
    let first = systems.next();
    systems.any(|system| Some(system) != first)
}

fn stroke_in_ascii(text: &str) -> Option<char> {
    let is_stroke = |c: &char| STROKES.contains(*c);
    let is_ascii = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_ascii_alphanumeric());
    text.char_indices().filter(|(_, c)| is_stroke(c)).find_map(|(index, c)| {
        let (before, after) = text.split_at(index);
        let before = before.chars().rev().find(|c| !is_stroke(c));
        let after = after.chars().find(|c| !is_stroke(c));
        (is_ascii(before) && is_ascii(after)).then_some(c)
    })
}

/// Whether a letter has a dot above, or looks like one that has.
fn has_dot(c: char) -> bool {
    matches!(c, 'i' | 'j' | 'l' | '\u{131}' | '\u{237}' | '\u{456}' | '\u{458}')
}

fn is_nonspacing(c: char) -> bool {
    CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::NonspacingMark
}

fn combining_class(c: char) -> CanonicalCombiningClass {
    CodePointMapData::<CanonicalCombiningClass>::new().get(c)
}

fn script(c: char) -> Script {
    CodePointMapData::<Script>::new().get(c)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use unicode_security::GeneralSecurityProfile;

    use super::*;

    #[test]
    fn an_address_of_other_characters_finds_those_of_ascii_that_it_passes_for() {
        let twins = |text: &str| ConfusableForms::of(text).in_ascii;
        assert_eq!(twins("сосо@example.com"), ["coco@example.com"]);
        assert_eq!(twins("a@сосо.com"), ["a@coco.com"]);
        assert!(twins("coco@example.com").is_empty());
        // An accent can be seen.
        assert!(twins("a@b\u{fc}cher.example").is_empty());
        // A palochka, which is an l, a 1 or a stroke.
        assert_eq!(twins("\u{4cf}@x.org"), ["l@x.org", "1@x.org", "|@x.org"]);
        // A Cyrillic г and an Armenian ո.
        assert_eq!(twins("\u{433}\u{578}@x.org"), ["rn@x.org", "m@x.org"]);
        assert_eq!(twins(&"\u{4cf}".repeat(60)).len(), ASCII_TWINS_MAX);
        for text in twins("\u{4cf}\u{433}\u{578}@\u{9e6}.org") {
            assert_eq!(skeleton(&text), skeleton("\u{4cf}\u{433}\u{578}@\u{9e6}.org"), "{text}");
        }
    }

    /// Whatever a key in lower case can hold of ASCII.
    #[test]
    fn the_forms_are_all_that_ascii_has() {
        for c in (b'!'..=b'~')
            .map(char::from)
            .filter(|c| !c.is_ascii_uppercase() && !"\"%(),:;<>@[\\]".contains(*c))
        {
            let text = c.to_string();
            let prototype = skeleton(&text);
            let forms =
                FORMS.iter().find(|(of, _)| *of == prototype).map_or(&[][..], |(_, forms)| forms);
            assert!(prototype == text || forms.contains(&&*text), "{text} is like {prototype}");
        }
        // One that is ASCII itself, and like none of them.
        assert!(!skeleton("%").is_ascii());
    }

    /// The stores hold skeletons of this version: with another, a migration has to make them anew.
    #[test]
    fn the_skeletons_in_the_stores_are_those_of_the_program() {
        assert_eq!(unicode_security::UNICODE_VERSION, (18, 0, 0));
    }

    #[test]
    fn no_two_number_systems_share_sixteen_places() {
        let categories = CodePointMapData::<GeneralCategory>::new();
        let mut systems = BTreeMap::<u32, Vec<u32>>::new();
        for c in ('\0'..=char::MAX).filter(|c| c.identifier_allowed()) {
            if categories.get(c) == GeneralCategory::DecimalNumber {
                systems.entry(u32::from(c) >> 4).or_default().push(u32::from(c));
            }
        }
        assert!(systems.len() > 10);
        for digits in systems.values() {
            assert!(digits.len() == 10 && digits[9] - digits[0] == 9, "{digits:x?}");
        }
    }
}
