use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::confusable::{self, is_joiner};
use crate::{Error, ErrorKind, Result};

/// An email address, as the person wrote it, with the canonical key by which two addresses are the
/// same.
///
/// Parsing is the only way to make one, so whatever holds an `Email` holds a checked one. Accepted
/// is the dot-atom form of RFC 5321 and RFC 5322 with the UTF-8 local parts of RFC 6531: no quoted
/// local parts, comments, routes or IP addresses. A domain may have a single label
/// (`ada@localhost`). The local part is at most 64 bytes long and the address at most 254, both in
/// normalization form C (NFC), in which the address is kept.
///
/// Parsing refuses what people can't see or distinguish: control, space, invisible, bidirectional
/// and unassigned characters anywhere, domain labels that only pretend to be IDNA (`xn--…`), and
/// names, subaddresses (what follows the first `+`) and labels of the domain that are not at the
/// level *highly restrictive* of [UTS 39, section 5.2](https://www.unicode.org/reports/tr39/), each
/// by itself: those that mix scripts, and those that hold characters outside of its profile for
/// identifiers, such as symbols, phonetic letters and the letters of scripts that are little used.
/// So are digits of several number systems in one of these, and combining marks that can't be seen.
/// A label of the domain must be valid in [IDNA 2008](https://www.rfc-editor.org/rfc/rfc5892) as
/// well, and must not look like one in ASCII while it is of another script, unless the rest of the
/// domain shows the script (`хор.рф`). The zero width joiners are accepted where the script needs
/// them, and make no difference to the key of a local part.
///
/// The **key** is the local part in NFKC and case folded, and the domain in the ASCII form of [UTS
/// 46](https://www.unicode.org/reports/tr46/). Dots and plus tags count: what a provider makes of
/// them is the provider's affair. An address of ASCII characters has itself in lower case as its
/// key.
///
/// `Display` gives the address; `Debug` doesn't, so that no address gets into a log by accident.
///
/// # Examples
///
/// ```
/// use tenantry::Email;
///
/// let email: Email = "Ada@Bücher.example".parse()?;
/// assert_eq!(email.as_str(), "Ada@Bücher.example");
/// assert_eq!(email.key(), "ada@xn--bcher-kva.example");
///
/// let error = "ada@exa mple.com".parse::<Email>().unwrap_err();
/// assert_eq!(error.to_string(), "character 8 of the address is a space (U+0020)");
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email {
    address: String,
    /// `None` where the address is its own key, which is the usual case and then costs nothing.
    key: Option<String>,
}

impl Email {
    /// The longest local part, in bytes (RFC 5321, section 4.5.3.1.1).
    pub const MAX_LOCAL_BYTES: usize = 64;
    /// The longest address, in bytes (RFC 5321, section 4.5.3.1.3, with erratum 1690 to RFC 3696).
    pub const MAX_BYTES: usize = 254;

    /// Returns the address as the person wrote it, in NFC. Mail goes to this one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// Returns the canonical key: two addresses with the same key belong to the same user.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.address)
    }

    /// Returns the key if it isn't the address itself.
    pub(crate) fn folded(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Takes an address from the database, or returns `None` for one that was never parsed.
    ///
    /// It was parsed on its way in, and isn't again: its key must not change when a later version
    /// knows a newer Unicode. But another program may have written to the file, so control
    /// characters, which could do harm where the address is shown, are refused.
    pub(crate) fn from_stored(address: &str, key: &str) -> Option<Self> {
        let is_plausible = |text: &str| {
            // Without a branch, so that several bytes are inspected at once.
            let (ats, has_control) = text.bytes().fold((0_usize, false), |(ats, has_control), byte| {
                (ats + usize::from(byte == b'@'), has_control | byte.is_ascii_control())
            });
            ats == 1 && !has_control && (text.is_ascii() || !text.chars().any(is_control))
        };
        let key_differs = key != address;
        (is_plausible(address) && (!key_differs || is_plausible(key)))
            .then(|| Self { address: address.to_owned(), key: key_differs.then(|| key.to_owned()) })
    }

    /// Parses an address that a store has accepted before, maybe of a version that knew fewer
    /// look-alikes.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::InvalidEmail`] if no version can have accepted it.
    pub(crate) fn parse_accepted(input: &str) -> Result<Self> {
        Self::parse(input, Confusables::Accepted)
    }

    fn parse(input: &str, confusables: Confusables) -> Result<Self> {
        // Normalization never shortens a text to less than a third of its bytes, so that no more
        // than this needs a look, however long the input is.
        if input.len() > 4 * Self::MAX_BYTES {
            return Err(too_long());
        }
        let (local_input, domain_input) = check_characters(input)?;
        let address = nfc(input);
        let (Some((local, domain)), false) = (address.split_once('@'), address.len() > Self::MAX_BYTES) else {
            return Err(too_long());
        };
        if local.len() > Self::MAX_LOCAL_BYTES {
            return Err(refuse("the part before the @ is longer than 64 bytes"));
        }
        let local_key = local_key(local, local_input)?;
        let domain_start = local_input.chars().count() + 2;
        let domain_key = domain_key(domain).map_err(|()| refuse_domain(domain_input, domain_start))?;
        if confusables == Confusables::Refused {
            check_local(local, &local_key, local_input)?;
            confusable::check_domain(&domain_key).map_err(|(index, reason)| {
                let start = label_start(domain_input, index, domain_start);
                refuse(format!("the label of the domain that begins at character {start} {reason}"))
            })?;
        }

        let key_differs = local_key != local || domain_key != domain;
        let key = key_differs.then(|| [&*local_key, "@", &*domain_key].concat());
        Ok(Self { address: address.into_owned(), key })
    }
}

/// Whether parsing refuses an address that looks like another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confusables {
    Refused,
    Accepted,
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidEmail`].
impl FromStr for Email {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self> {
        Self::parse(input, Confusables::Refused)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

impl AsRef<str> for Email {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// # Errors
///
/// Fails as parsing does.
impl TryFrom<String> for Email {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// # Errors
///
/// Fails as parsing does.
impl TryFrom<&str> for Email {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(value: Email) -> Self {
        value.as_str().to_owned()
    }
}

impl Serialize for Email {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address)
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Goes once through the input and refuses what is wrong with a single character or with the order
/// of two. Returns the local part and the domain.
fn check_characters(input: &str) -> Result<(&str, &str)> {
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
            (None, '@') if previous == Some('.') => return Err(refuse_at(number - 1, '.', "a dot before the @")),
            (None, '@') => at = Some((index, number + 1)),
            (None, '"') => return Err(refuse_at(number, c, "a quote; quoted local parts are not accepted")),
            (None, '(' | ')') => return Err(refuse_at(number, c, "a parenthesis; comments are not accepted")),
            (None, '.') if index == 0 => return Err(refuse_at(number, c, "a dot at the beginning")),
            (None, '.') if previous == Some('.') => return Err(refuse_at(number, c, "a second dot in a row")),
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

/// Returns the key of a local part that is in NFC. `input` is the local part as it was given, to
/// say where something is wrong.
fn local_key<'a>(local: &'a str, input: &str) -> Result<Cow<'a, str>> {
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
fn check_local(local: &str, key: &str, input: &str) -> Result<()> {
    if local.is_ascii() {
        return Ok(());
    }
    check_scripts(key, input)?;
    // Not in the key: that of İ, whose dot can be seen, is i with a dot above.
    if let Some(c) = confusable::hidden_mark(local) {
        let code = u32::from(c);
        return Err(refuse(format!("the part before the @ holds a combining mark that can't be seen (U+{code:04X})")));
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
        Some((number, (_, c))) => Err(refuse_at(number, c, "of another script than the characters before")),
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
    let folds_badly =
        |c: char| !c.is_ascii() && fold(c.encode_utf8(&mut [0; 4])).chars().any(|c| !is_inner_character(c));
    match (1..).zip(input.chars()).find(|(_, c)| folds_badly(*c)) {
        Some((number, c)) => Err(refuse_at(number, c, "not allowed, being a form of a character that isn't")),
        None => Err(refuse("the part before the @ holds a form of a character that is not allowed there")),
    }
}

/// Returns the domain in the ASCII form of UTS 46, if it has one and isn't an IP address.
fn domain_key(domain: &str) -> Result<Cow<'_, str>, ()> {
    let ascii = to_ascii(domain)?;
    if ends_in_number(&ascii) { Err(()) } else { Ok(ascii) }
}

pub(crate) fn to_ascii(domain: &str) -> Result<Cow<'_, str>, ()> {
    Uts46::new()
        .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| ())
}

/// Returns whether browsers take the domain for an IPv4 address:
/// <https://url.spec.whatwg.org/#ends-in-a-number-checker>.
fn ends_in_number(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns why a domain has no key, as it was given. Its first character has the number `start`.
fn refuse_domain(domain: &str, start: usize) -> Error {
    for (index, label) in domain.split(is_label_separator).enumerate() {
        if to_ascii(label).is_err() {
            let what = if label.is_empty() { "is empty" } else { "is not valid" };
            let start = label_start(domain, index, start);
            return refuse(format!("the label of the domain that begins at character {start} {what}"));
        }
    }
    match to_ascii(domain) {
        Ok(_) => refuse("the domain ends in a number: an IP address in place of a domain is not accepted"),
        Err(()) => refuse("the domain is not valid: it is longer than 253 characters in its ASCII form"),
    }
}

/// Returns the number of the first character of a label, where that of the domain is `start`.
fn label_start(domain: &str, index: usize, start: usize) -> usize {
    domain.split(is_label_separator).take(index).fold(start, |start, label| start + label.chars().count() + 1)
}

/// Returns whether IDNA takes this for the full stop of ASCII
/// ([UTS 46, section 4.5](https://www.unicode.org/reports/tr46/#Implementation_Notes)).
pub(crate) fn is_label_separator(c: char) -> bool {
    matches!(c, '.' | '\u{3002}' | '\u{FF0E}' | '\u{FF61}')
}

/// Returns `text` in NFKC and case folded, to the point where doing it again changes nothing, and
/// without joiners.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let text = &*text.chars().filter(|c| !is_joiner(*c)).collect::<String>();
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let once = |text: &str| nfkc.normalize(&CaseMapper::new().fold_string(&nfkc.normalize(text))).into_owned();
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
    if text.is_ascii() { Cow::Borrowed(text) } else { ComposingNormalizerBorrowed::new_nfc().normalize(text) }
}

/// `atext` of RFC 5322, section 3.2.3, widened by RFC 6531, section 3.3, and the dot.
fn is_local_character(c: char) -> bool {
    c == '.' || is_inner_character(c)
}

fn is_inner_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii() && why_unreadable(c).is_none()
}

/// Returns whether a terminal acts on this character instead of showing it.
fn is_control(c: char) -> bool {
    c.is_control() || !c.is_ascii() && is_bidi_control(c)
}

/// Returns Unicode's property Bidi_Control.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn is_combining(c: char) -> bool {
    !c.is_ascii() && GeneralCategoryGroup::Mark.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}

/// Returns why no address can hold this character, or `None` if one can.
pub(crate) fn why_unreadable(c: char) -> Option<&'static str> {
    if c.is_ascii_graphic() {
        return None;
    }
    match c {
        _ if is_bidi_control(c) => return Some("a bidirectional control"),
        _ if CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) => return Some("invisible"),
        _ => {}
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        GeneralCategory::Control => Some("a control character"),
        GeneralCategory::Format => Some("invisible"),
        GeneralCategory::SpaceSeparator | GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator => {
            Some("a space")
        }
        GeneralCategory::Unassigned => Some("not assigned in Unicode"),
        GeneralCategory::PrivateUse => Some("of private use"),
        _ => None,
    }
}

fn refuse(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidEmail, message)
}

fn refuse_at(number: usize, c: char, reason: &str) -> Error {
    refuse(format!("character {number} of the address is {reason} (U+{:04X})", u32::from(c)))
}

fn too_long() -> Error {
    refuse("the address is longer than 254 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(address: &str) -> String {
        address.parse::<Email>().unwrap_or_else(|error| panic!("{address:?}: {error}")).key().to_owned()
    }

    fn refusal(address: &str) -> String {
        match address.parse::<Email>() {
            Ok(email) => panic!("{address:?} was accepted with the key {:?}", email.key()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidEmail);
                error.to_string()
            }
        }
    }

    #[test]
    fn an_address_is_kept_and_its_key_is_folded() {
        for (address, expected) in [
            ("ada@example.com", "ada@example.com"),
            ("Ada@Example.COM", "ada@example.com"),
            ("ada@localhost", "ada@localhost"),
            ("ada@example.0xg", "ada@example.0xg"),
            ("a.d+tag@example.com", "a.d+tag@example.com"),
            ("!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~@example.com"),
            ("ada@r3---sn-x.example.com", "ada@r3---sn-x.example.com"),
            ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@B\u{dc}CHER.example", "ada@xn--bcher-kva.example"),
            ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
            ("ada@XN--BCHER-KVA.example", "ada@xn--bcher-kva.example"),
            ("ada@b\u{fc}cher\u{3002}example", "ada@xn--bcher-kva.example"),
            ("mi\u{212A}e@example.com", "mike@example.com"),
            ("stra\u{df}e@example.com", "strasse@example.com"),
            ("\u{ff21}da@example.com", "ada@example.com"),
            ("\u{fb01}n@example.com", "fin@example.com"),
            ("\u{0130}@example.com", "i\u{307}@example.com"),
            ("\u{0131}@example.com", "\u{0131}@example.com"),
            ("\u{3a3}\u{3c2}@example.com", "\u{3c3}\u{3c3}@example.com"),
            ("\u{7530}\u{4e2d}taro@example.com", "\u{7530}\u{4e2d}taro@example.com"),
        ] {
            assert_eq!(key(address), expected, "{address:?}");
        }
        assert_eq!("Ada@Example.COM".parse::<Email>().unwrap().as_str(), "Ada@Example.COM");
        assert_eq!("e\u{301}@example.com".parse::<Email>().unwrap().as_str(), "\u{e9}@example.com");
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        for (address, expected) in [
            ("", "the address is empty"),
            ("ada", "the address has no @"),
            ("@example.com", "there is nothing before the @"),
            ("ada@", "there is nothing after the @"),
            ("ada@@example.com", "character 5 of the address is a second @ (U+0040)"),
            (" ada@example.com", "character 1 of the address is a space (U+0020)"),
            ("ada@example.com ", "character 16 of the address is a space (U+0020)"),
            ("ada@example.com\n", "character 16 of the address is a control character (U+000A)"),
            ("a\0da@example.com", "character 2 of the address is a control character (U+0000)"),
            ("ada\u{85}@example.com", "character 4 of the address is a control character (U+0085)"),
            ("ada\u{a0}@example.com", "character 4 of the address is a space (U+00A0)"),
            ("ad\u{200b}a@example.com", "character 3 of the address is invisible (U+200B)"),
            ("ad\u{ad}a@example.com", "character 3 of the address is invisible (U+00AD)"),
            ("ada@exam\u{feff}ple.com", "character 9 of the address is invisible (U+FEFF)"),
            ("\u{202e}ada@example.com", "character 1 of the address is a bidirectional control (U+202E)"),
            ("ada\u{378}@example.com", "character 4 of the address is not assigned in Unicode (U+0378)"),
            ("ada\u{e000}@example.com", "character 4 of the address is of private use (U+E000)"),
            ("\u{3164}@example.com", "character 1 of the address is invisible (U+3164)"),
            (".ada@example.com", "character 1 of the address is a dot at the beginning (U+002E)"),
            ("ada.@example.com", "character 4 of the address is a dot before the @ (U+002E)"),
            ("a..da@example.com", "character 3 of the address is a second dot in a row (U+002E)"),
            (
                "\"ada\"@example.com",
                "character 1 of the address is a quote; quoted local parts are not accepted (U+0022)",
            ),
            ("ada(x)@example.com", "character 4 of the address is a parenthesis; comments are not accepted (U+0028)"),
            ("ada,b@example.com", "character 4 of the address is not allowed before the @ (U+002C)"),
            ("Ada <ada@example.com>", "character 4 of the address is a space (U+0020)"),
            ("ada@[127.0.0.1]", "an IP address in place of a domain is not accepted"),
            ("ada@127.0.0.1", "the domain ends in a number: an IP address in place of a domain is not accepted"),
            ("ada@example..com", "the label of the domain that begins at character 13 is empty"),
            ("ada@example.com.", "the label of the domain that begins at character 17 is empty"),
            ("ada@-a.example", "the label of the domain that begins at character 5 is not valid"),
            ("ada@a_b.example", "the label of the domain that begins at character 5 is not valid"),
            ("ada@a.xn--example", "the label of the domain that begins at character 7 is not valid"),
            ("ada@xn--ls8h=.example", "the label of the domain that begins at character 5 is not valid"),
            ("ada@xn--a.example", "the label of the domain that begins at character 5 is not valid"),
            ("ada@example.0x", "the domain ends in a number: an IP address in place of a domain is not accepted"),
            ("ada@1.2.3.0x4", "the domain ends in a number: an IP address in place of a domain is not accepted"),
            ("e\u{301}@e\u{301}..com", "the label of the domain that begins at character 7 is empty"),
            (
                "\u{430}da@example.com",
                "character 2 of the address is of another script than the characters before (U+0064)",
            ),
            (
                "p\u{1d6c2}ypal@example.com",
                "character 2 of the address is of another script than the characters before (U+1D6C2)",
            ),
            ("\u{251}da@example.com", "character 1 of the address is not allowed in identifiers (U+0251)"),
            ("a\u{2800}@example.com", "character 2 of the address is not allowed in identifiers (U+2800)"),
            ("\u{2615}@example.com", "character 1 of the address is not allowed in identifiers (U+2615)"),
            ("\u{301}a@example.com", "character 1 of the address is a combining mark with nothing before it (U+0301)"),
            (
                "ad\u{ff20}a@example.com",
                "character 3 of the address is not allowed, being a form of a character that isn't (U+FF20)",
            ),
            (
                "a\u{37e}@example.com",
                "character 2 of the address is not allowed, being a form of a character that isn't (U+037E)",
            ),
            (
                "a\u{a8}@example.com",
                "character 2 of the address is not allowed, being a form of a character that isn't (U+00A8)",
            ),
            (
                "\u{ff0e}a@example.com",
                "character 1 of the address is not allowed, being a form of a character that isn't (U+FF0E)",
            ),
        ] {
            assert_eq!(refusal(address), expected, "{address:?}");
        }
    }

    /// Each of these domains had been accepted beside the one that it looks like.
    #[test]
    fn a_domain_that_looks_like_another_one_is_refused() {
        for (domain, expected) in [
            ("g\u{43e}\u{43e}gle.example", "mixes scripts"),
            ("xn--ggle-55da.example", "mixes scripts"),
            ("\u{3b1}mazon.example", "mixes scripts"),
            ("\u{440}\u{430}ypal.example", "mixes scripts"),
            ("exam\u{2044}ple.com", "holds a character that is not allowed there (U+2044)"),
            ("exam\u{2215}ple.com", "holds a character that is not allowed there (U+2215)"),
            ("o\u{2019}brien.example", "holds a character that is not allowed there (U+2019)"),
            ("\u{2615}.example", "holds a character that is not allowed there (U+2615)"),
            ("a\u{b7}b.example", "holds a character that is not allowed there (U+00B7)"),
            ("a\u{30fb}b.example", "holds a character that is not allowed there (U+30FB)"),
            ("\u{5f3}\u{5d0}.example", "holds a character that is not allowed there (U+05F3)"),
            ("goo\u{261}le.example", "holds a character that names are not written with (U+0261)"),
            ("\u{441}\u{43e}\u{440}\u{443}.example", "looks like one of ASCII characters, but is not"),
            ("\u{430}\u{440}\u{440}\u{4cf}\u{435}.com", "looks like one of ASCII characters, but is not"),
            ("\u{441}\u{43e}\u{440}\u{443}.\u{440}\u{443}\u{441}", "looks like one of ASCII characters, but is not"),
            ("\u{440}\u{443}\u{441}", "looks like one of ASCII characters, but is not"),
            ("\u{3bf}\u{3c1}.example", "looks like one of ASCII characters, but is not"),
            ("g\u{3007}\u{3007}gle.example", "looks like one of ASCII characters, but is not"),
            ("\u{30ce}.example", "looks like one of ASCII characters, but is not"),
            ("com\u{30ce}\u{30ce}login\u{4f8b}.example", "holds a stroke among letters of ASCII (U+30CE)"),
            ("i\u{307}bm.example", "holds a combining mark that can't be seen (U+0307)"),
            ("\u{130}bm.example", "holds a combining mark that can't be seen (U+0307)"),
            ("e\u{301}\u{301}.example", "holds a combining mark that can't be seen (U+0301)"),
            ("\u{915}1\u{967}.example", "holds digits of more than one number system"),
        ] {
            let expected = format!("the label of the domain that begins at character 5 {expected}");
            assert_eq!(refusal(&format!("ada@{domain}")), expected, "{domain:?}");
        }
        assert_eq!(
            refusal("ada@b\u{fc}cher\u{3002}g\u{43e}gle\u{ff0e}example"),
            "the label of the domain that begins at character 12 mixes scripts"
        );
    }

    #[test]
    fn a_domain_of_any_script_is_accepted() {
        for domain in [
            "b\u{fc}cher.example",
            "stra\u{df}e.example",
            "n\u{e6}ste.example",
            "\u{131}ss\u{131}z.example",
            "l\u{b7}l.example",
            "\u{3b5}\u{3bb}\u{3bb}\u{3b7}\u{3bd}\u{3b9}\u{3ba}\u{3cc}\u{3c2}.example",
            "\u{43f}\u{440}\u{438}\u{43c}\u{435}\u{440}.example",
            "\u{43f}\u{440}\u{438}\u{43c}\u{435}\u{440}-2.example",
            "\u{43f}\u{43e}\u{447}\u{442}\u{430}.\u{440}\u{443}\u{441}",
            "\u{445}\u{43e}\u{440}.\u{440}\u{444}",
            "\u{4f8b}\u{3048}.example",
            "\u{30b5}\u{30fc}\u{30d0}\u{30fc}.example",
            "T\u{30b7}\u{30e3}\u{30c4}.example",
            "\u{30a2}\u{30fb}\u{30a4}.example",
            "\u{bd80}\u{c0b0}bank.example",
            "\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}.example",
            "\u{645}\u{62b}\u{627}\u{644}.example",
            "\u{5d3}\u{5d5}\u{5d2}\u{5de}\u{5d4}.example",
            "xn--e1afmkfd.example",
        ] {
            key(&format!("ada@{domain}"));
        }
    }

    /// People tag in Latin, whatever their own script is. The whole local part had been judged as
    /// one.
    #[test]
    fn a_subaddress_is_judged_apart_from_the_name() {
        assert_eq!(
            key("\u{438}\u{432}\u{430}\u{43d}+News@example.com"),
            "\u{438}\u{432}\u{430}\u{43d}+news@example.com"
        );
        key("ada+\u{43f}\u{43e}\u{447}\u{442}\u{430}@example.com");
        assert_eq!(
            refusal("\u{438}\u{432}a\u{43d}+news@example.com"),
            "character 3 of the address is of another script than the characters before (U+0061)"
        );
        assert_eq!(
            refusal("\u{438}\u{432}\u{430}\u{43d}+n\u{435}ws@example.com"),
            "character 7 of the address is of another script than the characters before (U+0435)"
        );
        assert_eq!(
            refusal("ada+a+\u{43f}@example.com"),
            "character 7 of the address is of another script than the characters before (U+043F)"
        );
    }

    #[test]
    fn what_cannot_be_told_apart_in_a_local_part_is_refused() {
        for (local, expected) in [
            ("i\u{307}da", "a combining mark that can't be seen (U+0307)"),
            ("\u{12f}\u{307}da", "a combining mark that can't be seen (U+0307)"),
            ("a\u{323}\u{323}", "a combining mark that can't be seen (U+0323)"),
            ("a\u{323}\u{301}\u{302}\u{303}\u{304}", "a combining mark that can't be seen (U+0304)"),
            ("\u{915}1\u{967}", "digits of more than one number system"),
            ("\u{661}\u{6f1}", "digits of more than one number system"),
        ] {
            assert_eq!(refusal(&format!("{local}@example.com")), format!("the part before the @ holds {expected}"));
        }
        for local in ["\u{130}brahim", "vi\u{1ec7}t", "\u{915}\u{967}\u{968}", "\u{915}\u{967}+1"] {
            key(&format!("{local}@example.com"));
        }
    }

    /// They had been refused as invisible, though the same domain was accepted as an A-label.
    #[test]
    fn joiners_are_accepted_where_the_script_needs_them() {
        let persian = "\u{646}\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}";
        let sinhala = "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}";
        for text in [persian, sinhala] {
            let plain = text.replace(is_joiner, "");
            assert_eq!(key(&format!("{text}@example.com")), format!("{plain}@example.com"));
            assert_eq!(format!("{text}@example.com").parse::<Email>().unwrap().as_str(), format!("{text}@example.com"));
            let with_joiner = key(&format!("ada@{text}.example"));
            assert_eq!(key(&with_joiner), with_joiner);
            assert_ne!(with_joiner, key(&format!("ada@{plain}.example")));
        }
        for text in
            ["a\u{200c}b", "\u{646}\u{200d}\u{645}", "\u{200c}\u{646}", "\u{646}\u{200c}", "\u{627}\u{200c}\u{645}"]
        {
            let (number, joiner) = (1..).zip(text.chars()).find(|(_, c)| is_joiner(*c)).unwrap();
            let expected =
                |before| format!("character {} of the address is invisible (U+{:04X})", before + number, joiner as u32);
            assert_eq!(refusal(&format!("{text}@example.com")), expected(0), "{text:?}");
            assert_eq!(refusal(&format!("ada@{text}.example")), expected(4), "{text:?}");
        }
    }

    #[test]
    fn an_address_that_an_earlier_version_accepted_keeps_its_key() {
        for (address, expected) in [
            ("ada@g\u{43e}\u{43e}gle.example", "ada@xn--ggle-55da.example"),
            ("Ada@exam\u{2044}ple.com", "ada@xn--example-4d7c.com"),
            ("i\u{307}da@example.com", "i\u{307}da@example.com"),
        ] {
            refusal(address);
            assert_eq!(Email::parse_accepted(address).unwrap().key(), expected);
            assert_eq!(Email::from_stored(address, expected).unwrap().as_str(), address);
        }
        for address in ["ada@a_b.example", "a b@example.com", "ada@[127.0.0.1]"] {
            assert_eq!(Email::parse_accepted(address).unwrap_err().to_string(), refusal(address));
        }
    }

    #[test]
    fn the_limits_are_exact() {
        let local = "l".repeat(64);
        let label = "d".repeat(63);
        let longest = format!("{local}@{label}.{label}.{}", "d".repeat(61));
        assert_eq!(longest.len(), Email::MAX_BYTES);
        assert_eq!(key(&longest), longest);
        assert_eq!(refusal(&format!("{longest}d")), "the address is longer than 254 bytes");
        assert_eq!(refusal(&format!("l{local}@example.com")), "the part before the @ is longer than 64 bytes");
        assert_eq!(key(&format!("{}@example.com", "\u{e9}".repeat(32))).len(), 64 + 12);
        for (address, expected) in [
            (format!("{}@example.com", "\u{e9}".repeat(33)), "the part before the @ is longer than 64 bytes"),
            (
                format!("ada@{}.example", "d".repeat(64)),
                "the label of the domain that begins at character 5 is not valid",
            ),
            // Short enough as it is written, and each label as it is encoded.
            (
                format!("ada@{}example", "\u{fc}.".repeat(40)),
                "the domain is not valid: it is longer than 253 characters in its ASCII form",
            ),
            // Neither is read to the end, where it would be refused for want of an @.
            ("x".repeat(4 * Email::MAX_BYTES + 1), "the address is longer than 254 bytes"),
            ("x".repeat(1 << 20), "the address is longer than 254 bytes"),
            ("x".repeat(4 * Email::MAX_BYTES), "the address has no @"),
        ] {
            assert_eq!(refusal(&address), expected, "{} characters", address.chars().count());
        }
    }

    #[test]
    fn folding_every_character_settles_and_keeps_ascii_keys_apart_from_nothing_else() {
        for c in '\0'..=char::MAX {
            let folded = fold(c.encode_utf8(&mut [0; 4]));
            assert_eq!(fold(&folded), folded, "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn no_address_shows_in_debug_output() {
        let email: Email = "ada@example.com".parse().unwrap();
        assert_eq!(format!("{email:?}"), "Email(…)");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in any::<String>()) {
            let _ = text.parse::<Email>();
        }

        #[test]
        fn a_key_is_an_address_with_itself_as_its_key(text in "[a-zA-Z\u{c0}-\u{17f}\u{ff21}-\u{ff5a}.+]{1,12}@[a-zA-Z\u{e0}-\u{ff}-]{1,8}\\.(com|Example)") {
            if let Ok(email) = text.parse::<Email>() {
                // The key of İ is i with a dot above, which is refused where it is written.
                let again = Email::parse_accepted(email.key()).unwrap();
                prop_assert_eq!(again.key(), email.key());
                prop_assert_eq!(again.as_str(), email.key());
                let reread: Email = email.as_str().parse().unwrap();
                prop_assert!(reread == email);
            }
        }

        /// The CHECK of the table relies on this.
        #[test]
        fn the_key_of_an_ascii_address_is_the_address_in_lower_case(text in "[ -~]{1,20}@[a-zA-Z0-9.-]{1,20}") {
            if let Ok(email) = text.parse::<Email>() {
                prop_assert_eq!(email.key(), email.as_str().to_ascii_lowercase());
            }
        }
    }
}
