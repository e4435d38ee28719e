//! The formats of files of users.

use std::path::Path;

/// Names the format of a file of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) with a header of
    /// [`User::FIELDS`](tenantry::User::FIELDS).
    Csv,
    /// [JSON Lines](https://jsonlines.org): one object a line.
    Jsonl,
    /// One array of objects. A reader of JSON or of JSON Lines accepts both, and an array that is
    /// the member `users` of an object.
    Json,
}

impl Format {
    /// Returns the format that the extension of a file names.
    ///
    /// `.csv` is CSV and `.json` is JSON, in any case; every other name is JSON Lines.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry_exchange::Format;
    ///
    /// assert_eq!(Format::from_path("users.CSV".as_ref()), Format::Csv);
    /// assert_eq!(Format::from_path("users.json".as_ref()), Format::Json);
    /// assert_eq!(Format::from_path("-".as_ref()), Format::Jsonl);
    /// ```
    #[must_use]
    pub fn from_path(file: &Path) -> Self {
        match file.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("csv") => Self::Csv,
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::Json,
            _ => Self::Jsonl,
        }
    }
}
