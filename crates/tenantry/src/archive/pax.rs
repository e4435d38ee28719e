//! The metadata of an entry, as records of a [PAX
//! header](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03).
//!
//! `mtime` holds nanoseconds, for which the header itself has no room, `SCHILY.xattr.NAME` an
//! extended attribute, and `GNU.sparse.…` announces that the entry begins with a
//! [map](super::sparse). GNU tar and bsdtar read all of them.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::format::damaged;
use crate::Result;
use crate::storage::{Attributes, Extended, Modified};

/// The limit for the header of one entry. Some dozens of the largest attributes fit in, of which
/// Linux allows 64 KiB each.
pub(super) const PAX_BYTES_MAX: u64 = 2 << 20;
/// Precedes the name of an extended attribute.
const EXTENDED: &[u8] = b"SCHILY.xattr.";
const NANOSECONDS: u64 = 1_000_000_000;

/// The records of an entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) modified: Option<Modified>,
    pub(super) extended: Vec<Extended>,
    pub(super) sparse: Option<Sparse>,
}

/// The records of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    length: Option<Vec<u8>>,
}

impl Sparse {
    pub(super) fn new(path: &Path, length: u64) -> Self {
        let text = |text: &[u8]| Some(text.to_owned());
        Self {
            major: text(b"1"),
            minor: text(b"0"),
            name: text(path.as_os_str().as_bytes()),
            length: text(length.to_string().as_bytes()),
        }
    }
}

impl Records {
    /// Returns the largest records of an entry with these attributes, except for a path.
    pub(super) fn for_attributes(attributes: &Attributes) -> Self {
        Self {
            modified: Some(attributes.modified),
            extended: attributes.extended.clone(),
            sparse: None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(modified) = self.modified {
            push(&mut bytes, b"mtime", decimal(modified).as_bytes());
        }
        if let Some(Sparse { major, minor, name, length }) = &self.sparse {
            let fields: [(&[u8], _); 4] = [
                (b"GNU.sparse.major", major),
                (b"GNU.sparse.minor", minor),
                (b"GNU.sparse.name", name),
                (b"GNU.sparse.realsize", length),
            ];
            for (key, value) in fields {
                push(&mut bytes, key, value.as_deref().unwrap_or_default());
            }
        }
        for Extended { name, value } in &self.extended {
            push(&mut bytes, &[EXTENDED, &*escaped(name.to_bytes())].concat(), value);
        }
        bytes
    }

    /// Parses the records. Refuses any but those that [`Self::to_bytes`] writes, and refuses
    /// duplicates.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let refused = || damaged("the archive has a PAX header that can't be parsed");
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = split(bytes).ok_or_else(refused)?;
            bytes = rest;
            if let Some(name) = key.strip_prefix(EXTENDED) {
                let name =
                    unescaped(name).and_then(|name| CString::new(name).ok()).ok_or_else(refused)?;
                let is_new = records.extended.iter().all(|extended| extended.name != name);
                if !is_new || !Extended::is_taken(&name) {
                    return Err(refused());
                }
                records.extended.push(Extended { name, value: value.to_owned() });
                continue;
            }
            if key == b"mtime" {
                let modified = parse_decimal(value).ok_or_else(refused)?;
                if records.modified.replace(modified).is_some() {
                    return Err(refused());
                }
                continue;
            }
            let sparse = records.sparse.get_or_insert_default();
            let field = match key {
                b"GNU.sparse.major" => &mut sparse.major,
                b"GNU.sparse.minor" => &mut sparse.minor,
                b"GNU.sparse.name" => &mut sparse.name,
                b"GNU.sparse.realsize" => &mut sparse.length,
                _ => return Err(refused()),
            };
            if field.replace(value.to_owned()).is_some() {
                return Err(refused());
            }
        }
        Ok(records)
    }
}

/// Appends a record: its length in decimal digits, which includes them, a space, the key, `=`, the
/// value and a line feed.
fn push(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + b" =\n".len();
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    bytes.extend_from_slice(length.to_string().as_bytes());
    for part in [&b" "[..], key, b"=", value, b"\n"] {
        bytes.extend_from_slice(part);
    }
}

/// Splits off the first record.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let digits = &bytes[..space];
    if digits.is_empty() || digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Escapes the name of an attribute as GNU tar does, since it may hold the end of a key.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

fn unescaped(mut name: &[u8]) -> Option<Vec<u8>> {
    let mut unescaped = Vec::new();
    while let Some((byte, rest)) = name.split_first() {
        name = rest;
        if *byte == b'%' {
            let (code, rest) = name.split_at_checked(2)?;
            unescaped.push(match code {
                b"25" => b'%',
                b"3D" => b'=',
                _ => return None,
            });
            name = rest;
        } else {
            unescaped.push(*byte);
        }
    }
    Some(unescaped)
}

/// Formats seconds since 1970, with nine decimal places if there are any. Times before 1970 are
/// negative.
fn decimal(modified: Modified) -> String {
    let Modified { seconds, nanoseconds } = modified;
    let nanoseconds = u64::from(nanoseconds);
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", seconds.unsigned_abs() - 1, NANOSECONDS - nanoseconds),
    };
    if nanoseconds == 0 {
        format!("{sign}{seconds}")
    } else {
        format!("{sign}{seconds}.{nanoseconds:09}")
    }
}

fn parse_decimal(text: &[u8]) -> Option<Modified> {
    let text = std::str::from_utf8(text).ok()?;
    let (is_before, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (seconds, places) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || !is_number(places) || places.len() > 9 {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanoseconds: u32 = format!("{places:0<9}").parse().ok()?;
    Some(match (is_before, nanoseconds) {
        (false, _) => Modified { seconds, nanoseconds },
        (true, 0) => Modified { seconds: -seconds, nanoseconds },
        (true, _) => {
            Modified { seconds: -seconds - 1, nanoseconds: NANOSECONDS as u32 - nanoseconds }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let extended = |name: &str, value: &[u8]| Extended {
            name: CString::new(name).unwrap(),
            value: value.to_owned(),
        };
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1_700_000_000, 1, "1700000000.000000001"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.500000000"),
            (-1, 999_999_999, "-0.000000001"),
            (i64::MAX, 999_999_999, "9223372036854775807.999999999"),
        ] {
            let modified = Modified { seconds, nanoseconds };
            assert_eq!(decimal(modified), text);
            let records = Records {
                modified: Some(modified),
                extended: vec![
                    extended("user.a", b""),
                    extended("user.%25=b\n", &(0..=255).collect::<Vec<u8>>()),
                    extended("user.long", &[b'x'; 100_000]),
                    extended("system.posix_acl_access", b"\x02\0\0\0"),
                ],
                sparse: Some(Sparse::new(Path::new("a/b\n=c"), 1 << 40)),
            };
            assert_eq!(Records::parse(&records.to_bytes()).unwrap(), records, "{text}");
        }
        // At these lengths another digit makes the record longer.
        for length in [1, 80, 88, 89, 90, 91, 92, 987, 988, 989, 990] {
            let records = Records {
                extended: vec![extended("user.a", &vec![b'x'; length])],
                ..Records::default()
            };
            assert_eq!(Records::parse(&records.to_bytes()).unwrap(), records, "{length}");
        }
    }

    #[test]
    fn records_that_no_archive_has_are_refused() {
        for text in [
            "x",
            "5 a=",
            "6 a=b",
            "6 a=b\n\n",
            "06 a=b\n",
            "99 mtime=1\n",
            "11 mtime=1\n11 mtime=2\n",
            "12 mtime=1.\n",
            "12 mtime=.1\n",
            "12 mtime=+1\n",
            "11 mtime=x\n",
            "13 mtime=--1\n",
            "17 path=../../x\n\n",
            "16 path=../../x\n",
            "19 linkpath=/etc/x\n",
            "10 size=1\n",
            "9 uid=0\n",
            "28 SCHILY.xattr.trusted.a=1\n",
            "40 SCHILY.xattr.security.capability=xxx\n",
            "25 SCHILY.xattr.user.a=1\n25 SCHILY.xattr.user.a=1\n",
            "27 SCHILY.xattr.user.%41=1\n",
            "25 SCHILY.xattr.user.%=1\n",
            "22 GNU.sparse.size=10\n",
            "22 GNU.sparse.major=1\n22 GNU.sparse.major=1\n",
            "-1 mtime=1\n",
            "18446744073709551615 mtime=1\n",
        ] {
            assert!(Records::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Records::parse(b"11 mtime=1\n").is_ok());
        assert!(Records::parse(b"25 SCHILY.xattr.user.a=1\n").is_ok());
    }
}
