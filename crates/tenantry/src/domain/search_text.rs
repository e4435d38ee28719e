//! Texts to search addresses for, as a key has them and as people read it.

use std::borrow::Cow;

use memchr::arch::all::packedpair::Pair;
use memchr::memchr_iter;
use memchr::memmem::Finder;

use crate::domain::confusable::{is_joiner, shown_domain};
use crate::domain::email::{fold, is_label_separator, nfc, to_ascii, why_unreadable};
use crate::{Email, Error, ErrorKind, Result};

/// How a key with labels of another script than Latin begins them.
const ACE: &str = "xn--";
/// Otherwise it would mean all users: joiners are no part of a key.
const NOTHING_LEFT: &str = "the text to look for holds nothing but joiners";

/// The keys of the addresses that begin with a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyPrefix {
    /// The keys that begin with this.
    Key(String),
    /// Of the keys that begin with one of these two, those that [`shown`] gives this beginning.
    Shown { near: [String; 2], shown: String },
}

impl KeyPrefix {
    /// Folds the beginning of an address. A label that it ends within is compared in Unicode,
    /// unless it begins with `xn--`.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::InvalidQuery`] if no address can hold the text.
    pub(crate) fn new(prefix: &str) -> Result<Self> {
        if prefix.len() > Email::MAX_BYTES {
            return Err(refuse("the email prefix is longer than 254 bytes"));
        }
        if is_unreadable(prefix) {
            return Err(refuse("the email prefix holds a character that no address can hold"));
        }
        if fold(prefix).is_empty() {
            return Err(refuse(NOTHING_LEFT));
        }
        let Some((local, domain)) = prefix.split_once('@').filter(|(_, domain)| !domain.is_empty())
        else {
            return Ok(Self::Key(fold(prefix)));
        };
        let local = fold(local);
        let domain = nfc(domain).to_lowercase();
        let labels: Vec<&str> = domain.split(is_label_separator).collect();
        let last = labels[labels.len() - 1];
        if last.starts_with(ACE) {
            let in_key = labels.iter().map(|label| to_ascii(label).unwrap_or(Cow::Borrowed(label)));
            let in_key: Vec<_> =
                in_key.take(labels.len() - 1).chain([Cow::Borrowed(last)]).collect();
            return Ok(Self::Key(format!("{local}@{}", in_key.join("."))));
        }
        let shown: Vec<String> = labels.iter().map(|label| fold(&shown_domain(label))).collect();
        // The first label may be one in ASCII, whole or not, or one that isn't.
        let first = if labels.len() == 1 { shown[0].clone() } else { format!("{}.", shown[0]) };
        let near = [format!("{local}@{first}"), format!("{local}@{ACE}")];
        Ok(Self::Shown { near, shown: format!("{local}@{}", shown.join(".")) })
    }
}

/// A piece of an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// As a key has it.
    pub(crate) in_key: String,
    /// As an address has it.
    pub(crate) in_address: String,
    /// As the text that [`shown`] returns has it.
    pub(crate) in_shown: String,
}

impl Fragment {
    /// Folds a piece of an address.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::InvalidQuery`] if no address can hold the text.
    pub(crate) fn new(text: &str) -> Result<Self> {
        if text.len() > Email::MAX_BYTES || is_unreadable(text) {
            return Err(refuse(
                "the text to look for is longer than 254 bytes or holds a character that no address can hold",
            ));
        }
        if fold(text).is_empty() {
            return Err(refuse(NOTHING_LEFT));
        }
        let lower = nfc(text).to_lowercase();
        let (local, domain) =
            lower.rsplit_once('@').map_or(("", &*lower), |(local, domain)| (local, domain));
        // A label that is there in part isn't one of Punycode, and stays as it is.
        let as_shown = |label: &str| match to_ascii(label) {
            Ok(ascii) => fold(&shown_domain(&ascii)),
            Err(()) => fold(label),
        };
        let labels: Vec<String> = domain.split(is_label_separator).map(as_shown).collect();
        let at = if lower.contains('@') { "@" } else { "" };
        let in_shown = format!("{}{at}{}", fold(local), labels.join("."));
        Ok(Self { in_key: fold(text), in_address: nfc(text).into_owned(), in_shown })
    }
}

impl Fragment {
    /// Returns a quick test for the addresses that may hold the fragment.
    pub(crate) fn needle(&self) -> Needle {
        Needle::new(self.in_key.as_bytes())
    }
}

/// Rejects addresses that can't hold a [`Fragment`], from their bytes alone.
///
/// It inspects nearly all addresses of a store, so each nanosecond counts.
#[derive(Clone, Debug)]
pub(crate) struct Needle {
    finder: Finder<'static>,
    /// Two of its bytes that texts rarely have.
    rare: [u8; 2],
}

impl Needle {
    fn new(in_key: &[u8]) -> Self {
        let rare = match (Pair::new(in_key), in_key.first()) {
            (Some(pair), _) => {
                [pair.index1(), pair.index2()].map(|index| in_key[usize::from(index)])
            }
            (None, Some(only)) => [*only; 2],
            // Each address has it.
            (None, None) => [b'@'; 2],
        };
        Self { finder: Finder::new(in_key).into_owned(), rare }
    }

    /// Returns whether this address may hold the fragment.
    ///
    /// An address of ASCII characters holds the fragment only if its lower case holds the fragment
    /// of a key, or if a label that begins with `xn--` is shown in another form. Any other may hold
    /// it.
    pub(crate) fn may_be_in(&self, address: &[u8]) -> bool {
        let inspected = Inspected::new(address, self.rare);
        (inspected.has_rare() && self.finder.find(address).is_some())
            || (inspected.is_unusual() && self.may_be_in_unusual(address))
    }

    fn may_be_in_unusual(&self, address: &[u8]) -> bool {
        !address.is_ascii()
            || memchr_iter(b'-', address).any(|at| address[at..].starts_with(b"--"))
            || self.finder.find(&address.to_ascii_lowercase()).is_some()
    }
}

/// Number of bytes that are inspected at once.
const LANES: usize = 16;

/// What one pass over an address finds, each byte in its lane.
#[derive(Default)]
struct Inspected {
    unusual: [u8; LANES],
    rare: [[u8; LANES]; 2],
}

impl Inspected {
    fn new(address: &[u8], rare: [u8; 2]) -> Self {
        let mut inspected = Self::default();
        if let Some(last) = address.last_chunk() {
            for chunk in address.as_chunks().0 {
                inspected.add(chunk, rare);
            }
            // It overlaps with the one before.
            inspected.add(last, rare);
        } else {
            let mut padded = [b'@'; LANES];
            padded[..address.len()].copy_from_slice(address);
            inspected.add(&padded, rare);
        }
        inspected
    }

    fn add(&mut self, chunk: &[u8; LANES], [first, second]: [u8; 2]) {
        let [with_first, with_second] = &mut self.rare;
        let lanes = self.unusual.iter_mut().zip(with_first).zip(with_second);
        for (byte, ((unusual, with_first), with_second)) in chunk.iter().zip(lanes) {
            *unusual |= u8::from(byte.is_ascii_uppercase() | !byte.is_ascii() | (*byte == b'-'));
            *with_first |= u8::from(*byte == first);
            *with_second |= u8::from(*byte == second);
        }
    }

    /// Returns whether the address may be another text than its key, or its key another than is
    /// shown: it has a capital, a character beyond ASCII or a hyphen.
    fn is_unusual(&self) -> bool {
        u128::from_ne_bytes(self.unusual) != 0
    }

    /// Returns whether both of the rare bytes are there.
    fn has_rare(&self) -> bool {
        self.rare.iter().all(|lanes| u128::from_ne_bytes(*lanes) != 0)
    }
}

/// Returns a key as people read it, folded as the texts are that it is searched for.
pub(crate) fn shown(key: &str) -> Cow<'_, str> {
    match key.split_once('@') {
        Some((local, domain)) if domain.contains(ACE) => {
            Cow::Owned(format!("{local}@{}", fold(&shown_domain(domain))))
        }
        _ => Cow::Borrowed(key),
    }
}

fn is_unreadable(text: &str) -> bool {
    text.chars().any(|c| !is_joiner(c) && why_unreadable(c).is_some())
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidQuery, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begins(prefix: &str, address: &str) -> bool {
        let email: Email = address.parse().unwrap();
        match KeyPrefix::new(prefix).unwrap() {
            KeyPrefix::Key(prefix) => email.key().starts_with(&prefix),
            KeyPrefix::Shown { near, shown: prefix } => {
                near.iter().any(|near| email.key().starts_with(near))
                    && shown(email.key()).starts_with(&prefix)
            }
        }
    }

    #[test]
    fn a_prefix_is_folded_as_the_key_is() {
        for prefix in [
            "ADA",
            "ada@",
            "Ada@b",
            "ada@B\u{dc}C",
            "ada@b\u{fc}cher",
            "ada@XN--",
            "ada@xn--bcher-kva.ex",
        ] {
            assert!(begins(prefix, "ada@B\u{fc}cher.Example"), "{prefix}");
        }
        for prefix in [
            "ada@x",
            "ada@xn",
            "ada@xn-",
            "ada@bu",
            "ada@b\u{fc}-",
            "ada@b.",
            "ada@xn--b\u{fc}",
            "ad@",
        ] {
            assert!(!begins(prefix, "ada@b\u{fc}cher.example"), "{prefix}");
        }
        for prefix in ["ada@mail.xn--bcher", "ada@Mail.b\u{fc}", "ada@mail\u{3002}b", "ada@m"] {
            assert!(begins(prefix, "ada@mail.b\u{fc}cher.example"), "{prefix}");
        }
        assert!(begins("ada@b\u{fc}cher.xn--", "ada@b\u{fc}cher.\u{440}\u{444}"));
        assert!(begins("ada@x", "ada@x.example") && begins("ada@xn", "ada@xn.example"));
        assert!(
            begins("ada@stra\u{df}e.e", "ada@strasse.example")
                && begins("ada@strasse.e", "ada@stra\u{df}e.example")
        );
        assert_eq!(KeyPrefix::new("a b").unwrap_err().kind(), ErrorKind::InvalidQuery);
        assert_eq!(KeyPrefix::new(&"a".repeat(255)).unwrap_err().kind(), ErrorKind::InvalidQuery);
    }

    #[test]
    fn a_fragment_is_found_in_the_key_or_in_what_is_shown() {
        let holds = |text: &str, address: &str| {
            let email: Email = address.parse().unwrap();
            let Fragment { in_key, in_address, in_shown } = Fragment::new(text).unwrap();
            email.key().contains(&in_key)
                || address.contains(&in_address)
                || shown(email.key()).contains(&in_shown)
        };
        let address = "Ada@B\u{fc}cher.\u{440}\u{444}";
        for text in [
            "b\u{fc}cher",
            "B\u{dc}CH",
            "\u{fc}",
            "\u{fc}cher.\u{420}",
            "da@b\u{fc}",
            "xn--bcher-kva.\u{440}",
            "@XN--BCHER-KVA",
            "bcher-kva",
            "b\u{fc}cher\u{3002}",
            "cher.\u{440}\u{444}",
            "@",
        ] {
            assert!(holds(text, address), "{text}");
        }
        for text in ["bucher", "b\u{fc}cher@", "\u{fc}b"] {
            assert!(!holds(text, address), "{text}");
        }
    }

    #[test]
    fn a_needle_rejects_no_address_that_holds_the_fragment() {
        let needle = |text: &str| Fragment::new(text).unwrap().needle();
        for (text, address) in [
            ("da@e", "Ada@Example.com"),
            ("DA@E", "ada@example.com"),
            ("a-b", "x.a-B@example.com"),
            ("ass", "stra\u{df}e@example.com"),
            ("\u{fc}cher", "bob@xn--bcher-kva.example"),
            ("\u{fc}cher", "bob@XN--bcher-kva.example"),
            ("z\u{fc}", "bob@z\u{fc}rich.example"),
            ("q", "ada.Q@example.com"),
        ] {
            assert!(needle(text).may_be_in(address.as_bytes()), "{text} in {address}");
        }
        for (text, address) in [
            ("bda@", "ada@b.example.com"),
            ("ad-a", "a-da@example.com"),
            ("adaa", "Ada@example.com"),
            ("\u{fc}", "ada@example.com"),
            ("a@example.comm", "a@example.com"),
        ] {
            assert!(!needle(text).may_be_in(address.as_bytes()), "{text} in {address}");
        }
        // All that is left of joiners is nothing, which every address holds.
        assert!(Fragment::new("\u{200d}").is_err() && KeyPrefix::new("\u{200c}\u{200d}").is_err());
    }

    #[test]
    fn a_capital_a_hyphen_and_what_is_not_ascii_are_unusual_wherever_they_are() {
        for byte in 0..=u8::MAX {
            let is_unusual_byte = byte.is_ascii_uppercase() || byte >= 0x80 || byte == b'-';
            for length in 1..3 * LANES {
                for at in 0..length {
                    let mut address = vec![b'a'; length];
                    address[at] = byte;
                    let inspected = Inspected::new(&address, [b'a'; 2]);
                    assert_eq!(
                        inspected.is_unusual(),
                        is_unusual_byte,
                        "{byte:#x} at {at} of {length}"
                    );
                }
            }
        }
    }

    /// Where either is missing, the address is rejected without a search.
    #[test]
    fn rare_bytes_are_found_wherever_they_are_and_only_both_count() {
        for length in 2..3 * LANES {
            for (at, other) in (0..length).flat_map(|at| (0..length).map(move |other| (at, other)))
            {
                let mut address = vec![b'a'; length];
                address[at] = b'z';
                address[other] = b'q';
                let has_both = at != other;
                assert_eq!(
                    Inspected::new(&address, *b"zq").has_rare(),
                    has_both,
                    "{at} and {other} of {length}"
                );
                assert!(
                    !Inspected::new(&address, *b"xq").has_rare()
                        && !Inspected::new(&address, *b"zx").has_rare()
                );
            }
        }
    }

    proptest! {
        /// A rejected address is missing from the results, so the test must agree with the search.
        #[test]
        fn every_piece_of_an_address_may_be_in_it(
            text in "[a-cA-C\u{df}\u{e0}-\u{e5}-]{1,6}@([a-cA-C\u{e0}-\u{e5}\u{ff41}]{1,3}(-[ab]{1,2})?\\.){1,2}(com|\u{440}\u{444})",
            capitals in any::<bool>(),
        ) {
            if let Ok(email) = text.parse::<Email>() {
                let address = email.as_str();
                let ends = || address.char_indices().map(|(index, c)| (index, index + c.len_utf8()));
                for (start, _) in ends() {
                    for (_, end) in ends().filter(|(_, end)| *end > start) {
                        let piece = &address[start..end];
                        let piece = if capitals { piece.to_uppercase() } else { piece.to_owned() };
                        let Ok(fragment) = Fragment::new(&piece) else { continue };
                        let holds = email.key().contains(&fragment.in_key)
                            || address.contains(&fragment.in_address)
                            || shown(email.key()).contains(&fragment.in_shown);
                        let needle = fragment.needle();
                        prop_assert!(!holds || needle.may_be_in(address.as_bytes()), "{} in {}", piece, address);
                    }
                }
            }
        }

        /// Each beginning is what a person may have typed of an address so far.
        #[test]
        fn every_beginning_of_an_address_finds_it(
            text in "[a-z\u{e0}-\u{ff}]{1,4}@([a-zA-Z\u{e0}-\u{ff}\u{3b1}-\u{3c9}]{1,5}\\.){1,2}(com|\u{440}\u{444})"
        ) {
            if let Ok(email) = text.parse::<Email>() {
                for (index, c) in email.as_str().char_indices() {
                    let prefix = &email.as_str()[..index + c.len_utf8()];
                    prop_assert!(begins(prefix, email.as_str()), "{} of {}", prefix, email.as_str());
                }
                let local = email.key().split('@').next().unwrap_or_default();
                let as_ace = format!("{local}@xn--");
                prop_assert_eq!(begins(&as_ace, email.as_str()), email.key().starts_with(&as_ace));
            }
        }
    }
}
