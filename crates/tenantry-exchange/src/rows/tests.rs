use std::io::{self, Read};

use tenantry::NewUser;

use super::*;
use crate::Error;
use crate::csv_rows::STRAY;
use crate::row::ROW_BYTES_MAX;

fn rows(format: Format, text: &[u8]) -> Vec<(u64, std::result::Result<NewUser, String>)> {
    let mut reader = RowReader::new(format, text).expect("a good header");
    let rows = std::iter::from_fn(|| reader.next_row().expect("a readable file"));
    rows.map(|row| (row.line, row.user.map_err(|bad| bad.reason))).collect()
}

#[test]
fn byte_order_marks_line_ends_and_blank_lines_make_no_difference() {
    let csv = rows(
        Format::Csv,
        b"\xef\xbb\xbfemail,id\r\nada@example.com,\r\n\r\n\"bob@example.com\",\n",
    );
    let jsonl = rows(
        Format::Jsonl,
        b"\xef\xbb\xbf{\"email\":\"ada@example.com\"}\r\n\r\n \n{\"email\":\"bob@example.com\"}",
    );
    for rows in [csv, jsonl] {
        let emails: Vec<_> =
            rows.iter().map(|(_, user)| user.as_ref().unwrap().email.to_string()).collect();
        assert_eq!(emails, ["ada@example.com", "bob@example.com"]);
    }
}

#[test]
fn a_bad_row_says_why_and_the_next_is_read() {
    let csv = rows(Format::Csv, b"email,created_at,version\nada,,\nb@example.com,yesterday,\nc@example.com,,x\nd@example.com\n\xff@example.com,,\n,,\ne@example.com,,\n");
    let reasons: Vec<_> =
        csv.iter().map(|(line, user)| (*line, user.as_ref().err().map(String::as_str))).collect();
    assert_eq!(
        reasons,
        [
            (2, Some("email: the address has no @")),
            (3, Some("created_at: not an RFC 3339 time such as 2026-11-23T07:30:00Z")),
            (4, Some("version: not a whole number")),
            (5, Some("the row has 1 fields and the header 3")),
            (6, Some("email: not UTF-8 (0xFF, in Windows-1252 \u{ff}): save the file as UTF-8")),
            (8, None),
        ]
    );
    let jsonl = rows(
        Format::Jsonl,
        b"{\"mail\":\"a\"}\n{\"email\":\"a@example.com\",\"email\":\"b@example.com\"}\n[]\n{\"email\":7}\n{}\nemail\n{\"email\":\"e@example.com\",\"last_login_at\":null}\n",
    );
    let reasons: Vec<_> =
        jsonl.iter().map(|(_, user)| user.as_ref().err().map_or("", String::as_str)).collect();
    assert!(reasons[0].starts_with(
        "not a user as a JSON object: unknown field `mail`, expected one of `id`, `email`"
    ));
    assert_eq!(reasons[2], "a JSON array where a JSON object is needed");
    assert_eq!(reasons[5], "not a JSON object; if the file is CSV, name its format");
    assert_eq!(reasons[1], "not a user as a JSON object: duplicate field `email`");
    assert_eq!(reasons[4], "email: missing");
    assert!(
        reasons[..6].iter().all(|reason| !reason.is_empty() && !reason.contains("line")),
        "{reasons:?}"
    );
    assert_eq!(reasons[6], "");
}

#[test]
fn an_address_in_the_place_of_a_name_is_not_repeated() {
    let reason = rows(Format::Jsonl, b"{\"ada@example.com\":1}\n")[0].1.clone().unwrap_err();
    assert!(reason.contains("an unknown field, expected one of `id`"), "{reason}");
}

/// Blank lines, quoted line ends and a last line without an end once shifted the numbers.
#[test]
fn line_numbers_are_those_of_an_editor() {
    let text = "email\na@x\n\n\nb@x\n\"c\nc\"\nd@x\n\n\"e\n\ne\"";
    for text in [
        text.to_owned(),
        text.replace('\n', "\r\n"),
        format!("{text}\n"),
        format!("\u{feff}{text}"),
    ] {
        let lines: Vec<_> =
            rows(Format::Csv, text.as_bytes()).iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 5, 6, 8, 10], "{text:?}");
    }
    let lines: Vec<_> =
        rows(Format::Jsonl, b"{}\n\n{}\r\n\r\n{}").iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 5]);
}

#[test]
fn an_unclosed_quote_is_found_after_blank_lines_and_between_rows() {
    for (text, line) in [
        ("email\n\"ada@example.com", 2),
        ("email\n\"broken@example.com\nx@example.com\n", 2),
        ("email\na@x\n\nb@x\n\"c@x\nd@x\ne@x\n", 5),
    ] {
        let mut reader = CsvRows::new(Columns::default(), text.as_bytes()).expect("a good header");
        let failure = std::iter::repeat_with(|| reader.next()).find_map(Result::err);
        let failure = failure.unwrap_or_else(|| panic!("{text:?} was read"));
        assert_eq!(
            failure.to_string(),
            format!("line {line}: a quote is opened here and never closed")
        );
    }
    // A quote that is closed right after a line end is another case, wherever it is.
    for text in ["email\n\"a@x\n\"\nb@x\n", "email\nb@x\n\"a@x\n\"\n", "email\nb@x\n\"a@x\n\""] {
        let rows = rows(Format::Csv, text.as_bytes());
        assert_eq!(rows.iter().filter(|(_, user)| user.is_err()).count(), 1, "{text:?}");
        assert_eq!(rows.len(), 2, "{text:?}");
    }
}

/// `"ada@example.com"x` once became a user with the address ada@example.comx.
#[test]
fn text_after_a_closing_quote_is_a_bad_row_in_its_line() {
    for (text, line, reason) in [
        ("email\n\"a@x\"x\nb@x\n", 2, STRAY.to_owned()),
        ("email\nb@x\n\n\"a@x\" \n", 4, STRAY.to_owned()),
        // Read at once, and the fault belongs to the second row alone.
        ("email\nlonger.than.a.signature@x\n\"a@x\"x\n", 3, STRAY.to_owned()),
        ("email,id\n\"a@x\",\"\"\"\"x\nb@x,\n", 2, STRAY.to_owned()),
        ("email\n\"a@x\"\r\"\nb@x\n", 2, STRAY.to_owned()),
        ("email\nb@x\n\"a\n@x\"x\"y\n", 3, format!("{STRAY}, in line 4")),
    ] {
        let rows = rows(Format::Csv, text.as_bytes());
        let bad: Vec<_> = rows
            .iter()
            .filter_map(|(line, user)| Some((*line, user.as_ref().err()?.clone())))
            .collect();
        assert_eq!(bad, [(line, reason)], "{text:?}");
        assert_eq!(rows.len(), 2, "{text:?}");
    }
    assert!(CsvRows::new(Columns::default(), &b"\"email\"x\n"[..]).is_err());
    for text in ["email,id\r\n\"a@x\",\r\n\"b@x\",\"\"\r\n", "id,\"email\"\n,\"a@x\"\r\n,\"b@x\"\r"]
    {
        assert!(
            rows(Format::Csv, text.as_bytes()).iter().all(|(_, user)| user.is_ok()),
            "{text:?}"
        );
    }
}

/// Spreadsheets write empty rows and columns as commas only.
#[test]
fn empty_rows_and_empty_trailing_columns_are_ignored_and_counted() {
    let text = b"email,,\n,,\na@x,,\nb@x,,,\n\"\"\n\nc@x\n";
    let mut reader = RowReader::new(Format::Csv, &text[..]).expect("a good header");
    let rows: Vec<_> = std::iter::from_fn(|| reader.next_row().expect("a readable file")).collect();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 4, 7]);
    assert!(rows.iter().all(|row| row.user.is_ok()));
    assert_eq!(reader.omissions().empty_rows, 2);
    // A value there isn't left out, nor is a CR, which was once taken for a blank line.
    for text in ["email,\na@x,value\n", "email\n\"\r\"\n", "email,id\n\r,\n", "email\n \n"] {
        let rows = super::tests::rows(Format::Csv, text.as_bytes());
        assert!(rows.len() == 1 && rows[0].1.is_err(), "{text:?}");
    }
    assert!(
        CsvRows::new(Columns::default(), &b"email,,id\n"[..]).is_err(),
        "a nameless column between others"
    );
}

#[test]
fn a_leap_second_is_rejected_by_name() {
    let text = b"email,created_at\na@x,2016-12-31T23:59:60Z\nb@x,2016-13-31T23:59:60Z\n";
    let rows = rows(Format::Csv, text);
    assert_eq!(rows[0].1.as_ref().unwrap_err(), "created_at: a leap second, which can't be stored");
    assert!(rows[1].1.as_ref().unwrap_err().contains("not an RFC 3339 time"));
}

#[test]
fn names_of_columns_ignore_case_and_surrounding_space() {
    let rows = rows(Format::Csv, b" Email ,Created_At\r\na@x,2026-01-01T00:00:00Z\r\n");
    assert!(rows[0].1.as_ref().unwrap().created_at.is_some());
}

#[test]
fn utf16_is_read_and_half_a_surrogate_pair_is_found_in_its_line() {
    for format in [Format::Csv, Format::Jsonl] {
        let text = match format {
            Format::Csv => "\u{feff}email\r\na@x\r\nb@x\r\n",
            Format::Jsonl | Format::Json => {
                "\u{feff}{\"email\":\"a@x\"}\r\n{\"email\":\"b@x\"}\r\n"
            }
        };
        let mut bytes: Vec<_> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(rows(format, &bytes).iter().filter(|(_, user)| user.is_ok()).count(), 2);
        bytes.extend([0x00, 0xd8, b'\n', 0]);
        let mut reader = RowReader::new(format, bytes.as_slice()).expect("a good header");
        let failure =
            std::iter::repeat_with(|| reader.next_row()).find_map(Result::err).expect("a failure");
        let line = if format == Format::Csv { 4 } else { 3 };
        let message = failure.to_string();
        assert!(
            message.starts_with(&format!("line {line}: the file is UTF-16 and has half")),
            "{message}"
        );
    }
}

#[test]
fn a_json_line_over_the_limit_is_rejected_and_the_next_is_read() {
    let long = format!("{{\"email\":\"{}\"}}", "x".repeat(ROW_BYTES_MAX));
    let lines = rows(Format::Jsonl, format!("{long}\n{{\"email\":\"a@x\"}}\n{long}").as_bytes());
    let bad: Vec<_> = lines.iter().map(|(line, user)| (*line, user.is_err())).collect();
    assert_eq!(bad, [(1, true), (2, false), (3, true)]);
}

#[test]
fn terminal_escape_sequences_in_a_file_are_escaped_in_reasons() {
    let lines = rows(Format::Jsonl, b"{\"email\":\"a@x\",\"\\u001b]0;pwn\\u0007\\nerror: no\":1}");
    let reason = lines[0].1.as_ref().unwrap_err();
    assert!(!reason.chars().any(char::is_control) && reason.contains("pwn"), "{reason}");
}

#[test]
fn an_endless_row_is_refused_within_constant_memory() {
    let endless =
        |start: &str| io::Cursor::new(start.to_owned()).chain(io::repeat(b'x').take(1 << 30));
    let mut reader = CsvRows::new(Columns::default(), endless("email\na@example.com\n\"x"))
        .expect("a good header");
    let failure =
        std::iter::repeat_with(|| reader.next()).find_map(Result::err).expect("a failure");
    let message = failure.to_string();
    assert!(message == "line 3: a quote is opened here and not closed within 1 MiB", "{message}");
    assert!(CsvRows::new(Columns::default(), endless("email")).is_err());
}

#[test]
fn a_header_is_checked() {
    for header in ["email,mail\n", "id\n", "email,email\n", ""] {
        assert!(
            matches!(
                CsvRows::new(Columns::default(), header.as_bytes()),
                Err(Error::Header { .. })
            ),
            "{header:?}"
        );
    }
}

/// Returns the line, the element and the address or the reason of each row, and how the file ends.
fn json(text: &str) -> (Vec<(u64, Option<u64>, String)>, String) {
    let mut reader = match RowReader::new(Format::Json, text.as_bytes()) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), error.to_string()),
    };
    let mut rows = Vec::new();
    loop {
        match reader.next_row() {
            Ok(Some(row)) => {
                let user = row.user.map_or_else(|bad| bad.reason, |user| user.email.to_string());
                rows.push((row.line, row.element, user));
            }
            Ok(None) => return (rows, String::new()),
            Err(error) => return (rows, error.to_string()),
        }
    }
}

#[test]
fn a_json_array_is_read_element_by_element() {
    let two = [(1, Some(1), "a@x".to_owned()), (1, Some(2), "b@x".to_owned())];
    assert_eq!(json(r#"[{"email":"a@x"},{"email":"b@x"}]"#), (two.to_vec(), String::new()));
    assert_eq!(
        json("\u{feff} [ {\"email\" : \"a@x\"} , {\"email\":\"b@x\"} ] \n"),
        (two.to_vec(), String::new())
    );
    let pretty = "[\n  {\n    \"email\": \"a@x\"\n  },\r\n  {\n    \"email\": 7\n  },\n  3,\n  [\"]\"],\n  {\"email\":\"c@x\"}\n]";
    let (rows, end) = json(pretty);
    assert_eq!((rows.len(), end.as_str()), (5, ""));
    assert_eq!(rows[0], (2, Some(1), "a@x".to_owned()));
    assert_eq!((rows[1].0, rows[1].1), (5, Some(2)));
    assert_eq!(
        rows[1].2,
        "not a user as a JSON object: email: invalid type: integer `7`, expected a string"
    );
    assert_eq!(
        rows[2],
        (8, Some(3), "not a JSON object; if the file is CSV, name its format".to_owned())
    );
    assert_eq!(rows[3], (9, Some(4), "a JSON array where a JSON object is needed".to_owned()));
    assert_eq!(rows[4], (10, Some(5), "c@x".to_owned()));
    // Brackets, quotes and backslashes within strings end nothing.
    let (rows, end) = json(r#"[{"email":"a@x","x]}\"\\":0},{"email":"b@x"}]"#);
    assert_eq!((rows.len(), rows[1].2.as_str(), end.as_str()), (2, "b@x", ""));
    assert_eq!(json("[]"), (Vec::new(), String::new()));
}

#[test]
fn an_array_of_users_is_found_in_an_object() {
    for text in [
        r#"{"users":[{"email":"a@x"}],"next_cursor":null}"#,
        "{ \"realm\" : \"x\", \"n\": -1.5e3, \"o\":{\"users\":[1]}, \"users\" : [\n{\"email\":\"a@x\"}\n], \"roles\":{\"a\":\"}]\"}}\n",
    ] {
        let (rows, end) = json(text);
        assert_eq!((rows.len(), rows[0].2.as_str(), end.as_str()), (1, "a@x", ""), "{text}");
    }
    let (rows, end) = json(r#"{"users":[{"email":"a@x"}]"#);
    assert_eq!(
        (rows.len(), end.as_str()),
        (1, "line 1: the JSON object around the array isn't closed")
    );
    // These are JSON Lines, whatever they contain.
    for text in ["{\"email\":\"a@x\"}", "{\"email\":\"a@x\"}\n{\"email\":\"a@x\"}\n"] {
        let (rows, _) = json(text);
        assert!(rows.iter().all(|row| row.1.is_none() && row.2 == "a@x"), "{text}");
    }
}

#[test]
fn a_malformed_json_array_is_an_error_with_line_and_element() {
    for (text, count, reason) in [
        ("[{\"email\":\"a@x\"}", 1, "line 1: the JSON array isn't closed: the file ends within it"),
        ("[", 0, "line 1: the JSON array isn't closed: the file ends within it"),
        (
            "[\n{\"email\":\"a@x\"},\n{\"email\":",
            1,
            "line 3: the file ends within element 2 of the JSON array",
        ),
        (
            "[{\"email\":\"a@x\"}\n{}]",
            1,
            "line 2: a comma or ] is needed after element 1 of the JSON array",
        ),
        (
            "[{\"email\":\"a@x\"},]",
            1,
            "line 1: a comma without an element before or after it, after element 1",
        ),
        ("[,]", 0, "line 1: a comma without an element before or after it, after element 0"),
        (
            "[{\"email\":\"a@x}\n,{}]",
            0,
            "line 1: a string in element 1 of the JSON array isn't closed on its line",
        ),
        ("[]\n[]", 0, "line 2: text after the end of the JSON array"),
        (
            "[{\"email\":\"a@x\"}\n}]",
            1,
            "line 2: a comma or ] is needed after element 1 of the JSON array",
        ),
    ] {
        let (rows, end) = json(text);
        assert_eq!((rows.len(), end.as_str()), (count, reason), "{text}");
    }
}

#[test]
fn a_json_element_over_the_limit_is_rejected_in_constant_memory() {
    let huge = "x".repeat(ROW_BYTES_MAX);
    let (rows, end) = json(&format!("[{{\"email\":\"{huge}\"}},{{\"email\":\"b@x\"}}]"));
    assert_eq!(
        (rows.len(), rows[0].2.as_str(), rows[1].2.as_str()),
        (2, "the element is longer than 1 MiB", "b@x")
    );
    assert_eq!(end, "");
    // If the element never ends, the bytes are counted and not kept.
    let endless = io::Cursor::new("[{\"email\":\"").chain(io::repeat(b'x').take(1 << 26));
    let mut reader = RowReader::new(Format::Json, endless).expect("an array");
    assert!(reader.next_row().is_err());
    assert!(reader.bytes_read() > 1 << 26);
}

#[test]
fn a_multi_line_json_object_outside_an_array_is_rejected() {
    let (rows, _) = json("{\n  \"email\": \"a@x\"\n}\n");
    assert_eq!(
        rows[0].2,
        "the JSON object isn't complete; outside an array, each object must be on one line"
    );
    // Concatenated files have a byte order mark in the middle.
    let (rows, _) = json("{\"email\":\"a@x\"}\n\u{feff}{\"email\":\"b@x\"}\n");
    assert_eq!(rows.iter().map(|row| row.2.as_str()).collect::<Vec<_>>(), ["a@x", "b@x"]);
}

fn mapped(mappings: &[(&str, &str)], ignores: bool) -> Columns {
    let mut columns = Columns::default();
    mappings.iter().for_each(|(field, name)| columns.map(field, name).expect("a mapping"));
    if ignores {
        columns.ignore_unknown();
    }
    columns
}

#[test]
fn columns_and_keys_are_mapped_and_unknown_ones_ignored() {
    let csv = "First Name [Required], EMAIL address [required] ,Status,,Status\nAda,a@x,\u{fc},,Active\nBob,b@x,,,\n";
    let csv: Vec<u8> = csv.chars().map(|c| if c == '\u{fc}' { 0xfc } else { c as u8 }).collect();
    let json = br#"{"First Name":"Ada","Email Address [Required]":"a@x","Status":{"is":[1]}}
{"email address [required]":"b@x","Status":null,"Manager":"a@x"}"#;
    for (format, text, names) in [
        (Format::Csv, csv, &["First Name [Required]", "Status", "", "Status"][..]),
        (Format::Jsonl, json.to_vec(), &["First Name", "Status", "Manager"]),
    ] {
        let columns = mapped(&[("email", "Email Address [Required]")], true);
        let mut reader =
            RowReader::with_columns(format, columns, text.as_slice()).expect("a good header");
        let emails: Vec<_> = std::iter::from_fn(|| reader.next_row().expect("a readable file"))
            .map(|row| row.user.expect("a user").email.to_string())
            .collect();
        assert_eq!(emails, ["a@x", "b@x"]);
        assert_eq!(reader.omissions().ignored_names(), names);
        assert_eq!(reader.omissions().ignored, names.len() as u64);
    }
}

#[test]
fn a_header_that_does_not_fit_the_mapping_is_refused() {
    for (columns, header, reason) in [
        (
            mapped(&[], false),
            "email,ada@example.com\n",
            // An address isn't repeated.
            "column 2 is unknown; the columns are id",
        ),
        (
            mapped(&[("email", "Login")], false),
            "email\n",
            "unknown column \"email\"; the columns are",
        ),
        (
            mapped(&[("email", "Login")], true),
            "email\n",
            "there is no column \"Login\", which is mapped to email",
        ),
        (
            mapped(&[("id", "Login")], false),
            "email\n",
            "there is no column \"Login\", which is mapped to id",
        ),
        (mapped(&[("email", "Login")], true), "Login,LOGIN\n", "the column email appears twice"),
        (mapped(&[("id", "")], false), "email,id\n", "unknown column \"id\""),
        (mapped(&[], true), "name,mail\n", "there is no column email"),
        (mapped(&[], false), "Email,e-mail\n", "unknown column \"e-mail\""),
        (mapped(&[], false), "e1f,ada@example.com,true\n", "the file has no header"),
        (mapped(&[], true), "e1f,ada@example.com,true\n", "the file has no header"),
    ] {
        let error = RowReader::with_columns(Format::Csv, columns, header.as_bytes())
            .err()
            .expect("a bad header");
        assert!(
            matches!(&error, Error::Header { line: 1, reason: found } if found.contains(reason)),
            "{header}: {error}"
        );
    }
    let columns = mapped(&[("id", "")], true);
    let mut reader = RowReader::with_columns(Format::Csv, columns, &b"id,email\n00u1,a@x\n"[..])
        .expect("a header");
    assert!(
        reader
            .next_row()
            .expect("a row")
            .is_some_and(|row| row.user.is_ok_and(|user| user.id.is_none()))
    );
}

#[test]
fn semicolons_tabs_sep_lines_and_lines_before_the_header_are_parsed() {
    for text in [
        "email;id\na@x;\n",
        "email\tid\na@x\t\n",
        "\"email\";\"id\"\n\"a@x\";\"\"\n",
        "sep=;\r\nemail;id\r\na@x;\r\n",
        "\"sep=;\"\nemail;id\na@x;\n",
        "SEP=\t\nemail\tid\na@x\t\n",
        "sep=|\nemail|id\na@x|\n",
        "#TYPE System.Object\r\nemail,id\r\na@x,\r\n",
        "\n\n,,,\nemail,id\na@x,\n",
        "email,id\r\r\na@x,\r\r\n",
        "email\n a@x\u{a0}\n",
    ] {
        let rows = rows(Format::Csv, text.as_bytes());
        assert_eq!(rows.len(), 1, "{text:?}");
        assert_eq!(rows[0].1.as_ref().unwrap().email.as_str(), "a@x", "{text:?}");
        let line = text.lines().count() as u64;
        assert_eq!(rows[0].0, line, "{text:?}");
    }
    // A comma takes precedence as the separator.
    let rows = rows(Format::Csv, b"email,id\na@x;b,\n");
    assert!(rows[0].1.as_ref().unwrap_err().starts_with("email: "));
    let error = RowReader::new(Format::Csv, &b"email,id\ra@x,\r"[..]).err().expect("no lines");
    assert!(error.to_string().starts_with("line 1: the lines end in CR alone"), "{error}");
    let mut reader = RowReader::new(Format::Csv, &b"email;version\na@x;y\n"[..]).expect("a header");
    let row = reader.next_row().expect("a row").expect("a row");
    assert_eq!(row.original(), &b"a@x;y"[..]);
}

#[test]
fn empty_trailing_columns_are_counted() {
    for (text, count) in [
        ("email,,\na@x,,\n", 2),
        ("email\na@x,,,\nb@x\n", 3),
        ("email\na@x\n", 0),
        ("email,\na@x,\n", 1),
    ] {
        let mut reader = RowReader::new(Format::Csv, text.as_bytes()).expect("a header");
        while let Some(row) = reader.next_row().expect("a row") {
            assert!(row.user.is_ok(), "{text:?}");
        }
        assert_eq!(reader.omissions().empty_columns, count, "{text:?}");
    }
}

#[test]
fn invalid_utf8_and_nul_bytes_are_rejected_with_the_name_of_the_field() {
    let csv = rows(Format::Csv, b"email\nj\xfcrgen@x\n\x80@x\na\0b@x\n");
    let jsonl = rows(Format::Jsonl, b"{\"email\":\"j\xfcrgen@x\"}\n{\"email\":\"a\\u0000@x\"}");
    let reasons: Vec<_> =
        csv.iter().chain(&jsonl).map(|(_, user)| user.as_ref().unwrap_err().as_str()).collect();
    assert_eq!(
        reasons,
        [
            "email: not UTF-8 (0xFC, in Windows-1252 \u{fc}): save the file as UTF-8",
            "email: not UTF-8 (0x80): save the file as UTF-8",
            "email: a NUL byte, which text can't contain: the file is damaged or isn't text",
            "not UTF-8 (0xFC, in Windows-1252 \u{fc}): save the file as UTF-8",
            "email: a NUL byte, which text can't contain: the file is damaged or isn't text",
        ]
    );
    let error = RowReader::new(Format::Csv, &b"email,Stra\xdfe\n"[..]).err().expect("a header");
    assert_eq!(
        error.to_string(),
        "line 1: the name of column 2: not UTF-8 (0xDF, in Windows-1252 \u{df}): save the file as UTF-8"
    );
}

#[test]
fn an_unclosed_quote_is_reported_with_the_line_of_its_opening() {
    let text = b"email,storage_path\na@x,\"b\nc\"\n\"d\n@x\",\"e\nf\n";
    let mut reader = RowReader::new(Format::Csv, &text[..]).expect("a header");
    let error =
        std::iter::repeat_with(|| reader.next_row()).find_map(Result::err).expect("an error");
    assert_eq!(error.to_string(), "line 5: a quote is opened here and never closed");
    // A doubled quote on a later line opens nothing.
    let mut reader =
        RowReader::new(Format::Csv, &b"email\n\"a\n\"\"b\"\"\nc\n"[..]).expect("a header");
    let error =
        std::iter::repeat_with(|| reader.next_row()).find_map(Result::err).expect("an error");
    assert_eq!(error.to_string(), "line 2: a quote is opened here and never closed");
    let error = RowReader::new(Format::Csv, &b"email,\"id\n"[..]).err().expect("a bad header");
    assert_eq!(error.to_string(), "line 1: a quote is opened here and never closed");
    let long = format!("email,id\na@x,\n\"\",\n\"{}", "x\n".repeat(ROW_BYTES_MAX));
    let mut reader = RowReader::new(Format::Csv, long.as_bytes()).expect("a header");
    let error =
        std::iter::repeat_with(|| reader.next_row()).find_map(Result::err).expect("an error");
    assert_eq!(error.to_string(), "line 4: a quote is opened here and not closed within 1 MiB");
    let long = format!("email,id\na@x,\n{}", "x".repeat(2 * ROW_BYTES_MAX));
    let mut reader = RowReader::new(Format::Csv, long.as_bytes()).expect("a header");
    let error =
        std::iter::repeat_with(|| reader.next_row()).find_map(Result::err).expect("an error");
    assert_eq!(error.to_string(), "line 3: the row is longer than 1 MiB");
}

#[test]
fn invalid_times_are_rejected_with_the_reason() {
    for (time, reason) in [
        (
            "9999-12-31T00:00:00Z",
            "created_at: the time is not between 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z",
        ),
        (
            "0000-01-01T00:00:00Z",
            "created_at: the time is not between 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z",
        ),
        (
            "-0044-03-15T00:00:00Z",
            "created_at: the time is not between 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z",
        ),
        (
            "+10000-01-01T00:00:00Z",
            "created_at: the time is not between 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z",
        ),
        ("2025-02-29T00:00:00Z", "created_at: there is no such time"),
        ("2025-02-28T24:00:00Z", "created_at: there is no such time"),
        (
            "1609459200000",
            "created_at: a number, not an RFC 3339 time such as 2026-11-23T07:30:00Z",
        ),
        ("2025-01-01", "created_at: not an RFC 3339 time such as 2026-11-23T07:30:00Z"),
    ] {
        let csv = rows(Format::Csv, format!("email,created_at\na@x,{time}\n").as_bytes());
        assert_eq!(csv[0].1.as_ref().unwrap_err(), reason);
    }
}

/// A truncated row may lack more than its last field.
#[test]
fn a_truncated_row_with_fewer_fields_than_the_header_is_rejected() {
    let rows = rows(Format::Csv, b"email,id\na@x\nb@x,\n");
    assert_eq!(rows[0].1.as_ref().unwrap_err(), "the row has 1 fields and the header 2");
    assert!(rows[1].1.is_ok());
}

#[test]
fn a_chunk_holds_the_rows_before_a_failure_and_the_failure_as_its_end() {
    let mut reader = RowReader::new(Format::Csv, &b"email\na@x\nb@x\n\"c\n"[..]).expect("a header");
    let chunk = reader.next_chunk().expect("a chunk");
    assert_eq!(chunk.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 3]);
    let Some(Err(error)) = chunk.end else { panic!("the file goes on") };
    assert_eq!(error.to_string(), "line 4: a quote is opened here and never closed");
    let mut reader = RowReader::new(Format::Csv, &b"email\n\"c\n"[..]).expect("a header");
    assert!(reader.next_chunk().is_err(), "a failure without a row before it is that of the call");
    let mut reader = RowReader::new(Format::Csv, &b"email\n"[..]).expect("a header");
    let chunk = reader.next_chunk().expect("a chunk");
    assert!(chunk.rows.is_empty() && matches!(chunk.end, Some(Ok(()))));
}

#[test]
fn a_chunk_ends_at_its_limit_of_rows_or_of_bytes() {
    let rows: String = (0..CHUNK_ROWS + 1).map(|n| format!("{n}@x\n")).collect();
    let file = format!("email\n{rows}");
    let mut reader = RowReader::new(Format::Csv, file.as_bytes()).expect("a header");
    let first = reader.next_chunk().expect("a chunk");
    assert_eq!((first.rows.len(), first.end.is_none()), (CHUNK_ROWS, true));
    let second = reader.next_chunk().expect("a chunk");
    assert_eq!((second.rows.len(), second.end.is_some()), (1, true));
    assert_eq!(second.bytes_read, file.len() as u64);

    let long = "x".repeat(200 << 10);
    let file = format!("email,extra\n{}", format!("a@x,{long}\n").repeat(11));
    let mut columns = Columns::default();
    columns.ignore_unknown();
    let mut reader =
        RowReader::with_columns(Format::Csv, columns, file.as_bytes()).expect("a header");
    let mut counts = Vec::new();
    loop {
        let chunk = reader.next_chunk().expect("a chunk");
        counts.push(chunk.rows.len());
        if chunk.end.is_some() {
            break;
        }
    }
    assert_eq!(counts.iter().sum::<usize>(), 11);
    // The reader is ahead by one buffer, so a chunk has 5 or 6 of these rows.
    assert!(counts.iter().all(|count| *count <= 6) && counts.len() >= 2, "{counts:?}");
}

#[test]
fn ignored_columns_are_all_counted_and_the_first_50_named() {
    let names: Vec<String> = (0..60).map(|n| format!("column {n}")).collect();
    let file = format!("email,{}\n", names.join(","));
    let mut columns = Columns::default();
    columns.ignore_unknown();
    let reader = RowReader::with_columns(Format::Csv, columns, file.as_bytes()).expect("a header");
    assert_eq!(reader.omissions().ignored, 60);
    assert_eq!(reader.omissions().ignored_names(), &names[..50]);
}

#[test]
fn a_line_of_json_may_have_the_limit_of_bytes_and_no_more() {
    let first = r#"{"email":"a@x"}"#;
    for (bytes, is_accepted) in [(ROW_BYTES_MAX, true), (ROW_BYTES_MAX + 1, false)] {
        let spaces = " ".repeat(bytes - first.len() - 1);
        let rows =
            rows(Format::Jsonl, format!("{first}{spaces}\n{{\"email\":\"b@x\"}}\n").as_bytes());
        assert_eq!(
            (rows.len(), rows[0].1.is_ok(), rows[1].1.is_ok()),
            (2, is_accepted, true),
            "{bytes}"
        );
    }
}
