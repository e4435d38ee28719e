use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::domain::confusable::is_joiner;

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
fn a_refusal_names_the_character_that_is_wrong() {
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
        (
            "\u{202e}ada@example.com",
            "character 1 of the address is a bidirectional control (U+202E)",
        ),
        (
            "ada\u{378}@example.com",
            "character 4 of the address is not assigned in Unicode (U+0378)",
        ),
        ("ada\u{e000}@example.com", "character 4 of the address is of private use (U+E000)"),
        ("\u{3164}@example.com", "character 1 of the address is invisible (U+3164)"),
        (".ada@example.com", "character 1 of the address is a dot at the beginning (U+002E)"),
        ("ada.@example.com", "character 4 of the address is a dot before the @ (U+002E)"),
        ("a..da@example.com", "character 3 of the address is a second dot in a row (U+002E)"),
        (
            "\"ada\"@example.com",
            "character 1 of the address is a quote; quoted local parts are not accepted (U+0022)",
        ),
        (
            "ada(x)@example.com",
            "character 4 of the address is a parenthesis; comments are not accepted (U+0028)",
        ),
        ("ada,b@example.com", "character 4 of the address is not allowed before the @ (U+002C)"),
        ("Ada <ada@example.com>", "character 4 of the address is a space (U+0020)"),
        (
            "\u{430}da@example.com",
            "character 2 of the address is of another script than the characters before (U+0064)",
        ),
        (
            "p\u{1d6c2}ypal@example.com",
            "character 2 of the address is of another script than the characters before (U+1D6C2)",
        ),
        (
            "\u{251}da@example.com",
            "character 1 of the address is not allowed in identifiers (U+0251)",
        ),
        (
            "a\u{2800}@example.com",
            "character 2 of the address is not allowed in identifiers (U+2800)",
        ),
        (
            "\u{2615}@example.com",
            "character 1 of the address is not allowed in identifiers (U+2615)",
        ),
        (
            "\u{301}a@example.com",
            "character 1 of the address is a combining mark with nothing before it (U+0301)",
        ),
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

#[test]
fn a_refusal_names_the_label_of_the_domain_that_is_wrong() {
    for (address, expected) in [
        ("ada@[127.0.0.1]", "an IP address in place of a domain is not accepted"),
        (
            "ada@127.0.0.1",
            "the domain ends in a number: an IP address in place of a domain is not accepted",
        ),
        ("ada@example..com", "the label of the domain that begins at character 13 is empty"),
        ("ada@example.com.", "the label of the domain that begins at character 17 is empty"),
        ("ada@-a.example", "the label of the domain that begins at character 5 is not valid"),
        ("ada@a_b.example", "the label of the domain that begins at character 5 is not valid"),
        ("ada@a[b.example", "the label of the domain that begins at character 5 is not valid"),
        ("ada@a.xn--example", "the label of the domain that begins at character 7 is not valid"),
        (
            "ada@xn--ls8h=.example",
            "the label of the domain that begins at character 5 is not valid",
        ),
        ("ada@xn--a.example", "the label of the domain that begins at character 5 is not valid"),
        (
            "ada@example.0x",
            "the domain ends in a number: an IP address in place of a domain is not accepted",
        ),
        (
            "ada@1.2.3.0x4",
            "the domain ends in a number: an IP address in place of a domain is not accepted",
        ),
        ("e\u{301}@e\u{301}..com", "the label of the domain that begins at character 7 is empty"),
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
        (
            "\u{430}\u{440}\u{440}\u{4cf}\u{435}.com",
            "looks like one of ASCII characters, but is not",
        ),
        (
            "\u{441}\u{43e}\u{440}\u{443}.\u{440}\u{443}\u{441}",
            "looks like one of ASCII characters, but is not",
        ),
        ("\u{440}\u{443}\u{441}", "looks like one of ASCII characters, but is not"),
        ("\u{3bf}\u{3c1}.example", "looks like one of ASCII characters, but is not"),
        ("g\u{3007}\u{3007}gle.example", "looks like one of ASCII characters, but is not"),
        ("\u{30ce}.example", "looks like one of ASCII characters, but is not"),
        (
            "com\u{30ce}\u{30ce}login\u{4f8b}.example",
            "holds a stroke among letters of ASCII (U+30CE)",
        ),
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
fn a_local_part_that_is_confusable_with_another_is_refused() {
    for (local, expected) in [
        ("i\u{307}da", "a combining mark that can't be seen (U+0307)"),
        ("\u{12f}\u{307}da", "a combining mark that can't be seen (U+0307)"),
        ("a\u{323}\u{323}", "a combining mark that can't be seen (U+0323)"),
        ("a\u{323}\u{301}\u{302}\u{303}\u{304}", "a combining mark that can't be seen (U+0304)"),
        ("\u{915}1\u{967}", "digits of more than one number system"),
        ("\u{661}\u{6f1}", "digits of more than one number system"),
    ] {
        assert_eq!(
            refusal(&format!("{local}@example.com")),
            format!("the part before the @ holds {expected}")
        );
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
        assert_eq!(
            format!("{text}@example.com").parse::<Email>().unwrap().as_str(),
            format!("{text}@example.com")
        );
        let with_joiner = key(&format!("ada@{text}.example"));
        assert_eq!(key(&with_joiner), with_joiner);
        assert_ne!(with_joiner, key(&format!("ada@{plain}.example")));
    }
    for text in [
        "a\u{200c}b",
        "\u{646}\u{200d}\u{645}",
        "\u{200c}\u{646}",
        "\u{646}\u{200c}",
        "\u{627}\u{200c}\u{645}",
    ] {
        let (number, joiner) = (1..).zip(text.chars()).find(|(_, c)| is_joiner(*c)).unwrap();
        let expected = |before| {
            format!(
                "character {} of the address is invisible (U+{:04X})",
                before + number,
                joiner as u32
            )
        };
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

/// Another program may have written to the database.
#[test]
fn a_stored_address_or_key_with_a_control_character_or_without_one_at_sign_is_refused() {
    for implausible in
        ["ada\u{7}@example.com", "ada\u{85}@example.com", "ada.example.com", "a@b@example.com", ""]
    {
        for (address, key) in [
            (implausible, implausible),
            (implausible, "ada@example.com"),
            ("Ada@Example.com", implausible),
        ] {
            assert_eq!(Email::from_stored(address, key), None, "{address:?} {key:?}");
        }
    }
    assert_eq!(
        Email::from_stored("Ada@Example.com", "ada@example.com").unwrap().key(),
        "ada@example.com"
    );
}

#[test]
fn the_limits_are_exact() {
    let local = "l".repeat(64);
    let label = "d".repeat(63);
    let longest = format!("{local}@{label}.{label}.{}", "d".repeat(61));
    assert_eq!(longest.len(), Email::MAX_BYTES);
    assert_eq!(key(&longest), longest);
    assert_eq!(refusal(&format!("{longest}d")), "the address is longer than 254 bytes");
    assert_eq!(
        refusal(&format!("l{local}@example.com")),
        "the part before the @ is longer than 64 bytes"
    );
    assert_eq!(key(&format!("{}@example.com", "\u{e9}".repeat(32))).len(), 64 + 12);
    for (address, expected) in [
        (
            format!("{}@example.com", "\u{e9}".repeat(33)),
            "the part before the @ is longer than 64 bytes",
        ),
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
