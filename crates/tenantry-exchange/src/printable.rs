//! Makes any text safe to print on a terminal.

/// Escapes the characters that control a terminal, reorder a line or are invisible.
///
/// Letters of every script stay as they are, with their marks.
///
/// # Examples
///
/// ```
/// assert_eq!(tenantry_exchange::printable("x\u{202e}y\u{7}"), r"x\u{202e}y\u{7}");
/// ```
#[must_use]
pub fn printable(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut printable = String::with_capacity(text.len());
    let mut rest = text.chars();
    let mut previous = None;
    while let Some(c) = rest.next() {
        if is_shown(c, previous, rest.clone().next()) {
            printable.push(c);
        } else {
            printable.extend(c.escape_default());
        }
        previous = Some(c);
    }
    printable
}

fn is_shown(c: char, previous: Option<char>, next: Option<char>) -> bool {
    match c {
        ' '..='~' => true,
        // Some scripts are written with joiners, and look different without them.
        '\u{200C}' | '\u{200D}' => {
            previous.is_some_and(has_joiners) && next.is_some_and(has_joiners)
        }
        // A combining mark at the beginning would modify the character before the text.
        _ if previous.is_none() && c.escape_debug().len() > 1 => false,
        _ => is_visible(c),
    }
}

/// Returns whether a character is visible: `escape_debug` leaves it as it is. It escapes a
/// combining mark at the beginning, so one character is put before.
fn is_visible(c: char) -> bool {
    let mut text = [b'x'; 1 + char::MAX_LEN_UTF8];
    let end = 1 + c.encode_utf8(&mut text[1..]).len();
    !is_invisible(c)
        && str::from_utf8(&text[..end]).is_ok_and(|text| text.escape_debug().eq(['x', c]))
}

/// Returns whether a character belongs to the blocks from Arabic through the scripts of South and
/// Southeast Asia to Mongolian, which are written with joiners.
fn has_joiners(c: char) -> bool {
    matches!(c, '\u{600}'..='\u{1CFF}') && is_visible(c)
}

/// Returns whether a letter, mark or symbol is invisible: those with Unicode's property
/// Default_Ignorable_Code_Point that `escape_debug` doesn't escape, and the blank of Braille.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{34F}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FFA0}'
            | '\u{E0100}'..='\u{E01EF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_script_are_shown_with_their_marks() {
        for text in [
            "\u{938}\u{902}\u{92a}\u{930}\u{94d}\u{915}",
            "\u{e17}\u{e35}\u{e48}",
            "\u{5e9}\u{5c1}",
            "e\u{301}",
            "\u{646}\u{645}\u{6cc}\u{200c}\u{62e}\u{648}",
            "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}",
            "\u{4f8b}\u{3048}",
            "it's \"a\\b\"",
            "\"\u{e9}\" isn't 'a\\b'",
            "\u{1f600}",
        ] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn invisible_characters_and_bidi_controls_are_escaped() {
        for c in [
            '\0',
            '\u{7}',
            '\n',
            '\t',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{a0}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200e}',
            '\u{202e}',
            '\u{2028}',
            '\u{2060}',
            '\u{2067}',
            '\u{2800}',
            '\u{3000}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{e000}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{378}',
        ] {
            assert_eq!(printable(&format!("x{c}y")), format!("x{}y", c.escape_default()), "{c:?}");
        }
        assert_eq!(printable("\u{301}x"), "\\u{301}x");
        assert_eq!(printable("\u{646}\u{200c}"), "\u{646}\\u{200c}");
        assert_eq!(printable("\u{646}\u{202e}\u{200c}\u{645}"), "\u{646}\\u{202e}\\u{200c}\u{645}");
    }
}
