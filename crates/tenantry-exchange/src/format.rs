//! How a file holds users, and the names of their fields.

use std::path::Path;

/// The fields of a user, in the order in which they are written everywhere.
pub const FIELDS: [&str; 7] = ["id", "email", "created_at", "last_login_at", "storage_path", "updated_at", "version"];

/// How a file holds users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) with a header
    /// that names [`FIELDS`].
    Csv,
    /// [JSON Lines](https://jsonlines.org): one object a line.
    Jsonl,
    /// One array of objects. What is read may be either: a file of JSON Lines or an array, which
    /// may be the member `users` of an object.
    Json,
}

impl Format {
    /// Returns what the name of a file says of its format: CSV if it ends with `.csv`, JSON if it
    /// ends with `.json`, else JSON Lines.
    ///
    /// ```
    /// use tenantry_exchange::Format;
    ///
    /// assert_eq!(Format::of("users.CSV".as_ref()), Format::Csv);
    /// assert_eq!(Format::of("users.json".as_ref()), Format::Json);
    /// assert_eq!(Format::of("-".as_ref()), Format::Jsonl);
    /// ```
    #[must_use]
    pub fn of(file: &Path) -> Self {
        match file.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("csv") => Self::Csv,
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::Json,
            _ => Self::Jsonl,
        }
    }
}
