//! Maps the columns or keys of a file to the fields of a user.

use std::collections::BTreeSet;

use tenantry::User;

use crate::{Error, Result};

/// How many names of ignored columns or keys are kept: as many as a person reads. A JSON file may
/// have any number of keys.
const IGNORED_NAMES_MAX: usize = 50;
/// How many characters of a name are kept. A name may be as long as a row.
const NAME_CHARACTERS_MAX: usize = 100;

/// Maps the columns of a CSV file, or the keys of JSON, to the fields of a user.
///
/// By default a field has its name in [`User::FIELDS`], and an unknown name is an error. Case and
/// surrounding space of names are ignored.
///
/// # Examples
///
/// ```
/// use tenantry_exchange::{Columns, Format, RowReader};
///
/// let mut columns = Columns::default();
/// columns.map("email", "Email Address [Required]")?;
/// columns.ignore_unknown();
/// let file = &b"First Name,Email Address [Required]\nAda,ada@example.com\n"[..];
/// let mut reader = RowReader::with_columns(Format::Csv, columns, file)?;
/// assert!(reader.next_row()?.is_some_and(|row| row.user.is_ok()));
/// assert_eq!(reader.omissions().ignored_names(), ["First Name"]);
/// # Ok::<(), tenantry_exchange::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// For each of [`User::FIELDS`], the name in the file if it is another one.
    names: [Option<Name>; User::FIELDS.len()],
    ignores_unknown: bool,
}

/// The name of a column. An empty one means that the field isn't read.
#[derive(Clone, Debug)]
struct Name {
    given: String,
    folded: String,
}

impl Columns {
    /// Maps a field to the column `name`. With an empty name the field isn't read.
    ///
    /// A column with the field's own name is unknown after that.
    ///
    /// # Errors
    ///
    /// [`Mapping`](Error::Mapping) if no field has this name, or the field or the column was mapped
    /// before.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry_exchange::Columns;
    ///
    /// let mut columns = Columns::default();
    /// columns.map("email", "Login")?;
    /// columns.map("id", "")?;
    /// assert!(columns.map("storage_path", "login").is_err());
    /// # Ok::<(), tenantry_exchange::Error>(())
    /// ```
    pub fn map(&mut self, field: &str, name: &str) -> Result<()> {
        let Some(index) =
            User::FIELDS.iter().position(|known| known.eq_ignore_ascii_case(field.trim()))
        else {
            let fields = User::FIELDS.join(", ");
            return Err(Error::Mapping(format!(
                "there is no field {field:?}; the fields are {fields}"
            )));
        };
        let folded = fold(name);
        if self.names[index].is_some() {
            return Err(Error::Mapping(format!(
                "the field {} is mapped twice",
                User::FIELDS[index]
            )));
        }
        if !folded.is_empty() && self.names.iter().flatten().any(|other| other.folded == folded) {
            return Err(Error::Mapping(format!("{name:?} is mapped to two fields")));
        }
        self.names[index] = Some(Name { given: name.trim().to_owned(), folded });
        Ok(())
    }

    /// Ignores columns and keys that aren't fields.
    ///
    /// Their names are among the [`Omissions`].
    pub fn ignore_unknown(&mut self) {
        self.ignores_unknown = true;
    }

    pub(crate) fn ignores_unknown(&self) -> bool {
        self.ignores_unknown
    }

    /// Returns the index in [`User::FIELDS`] of a column or a key, if it is a field.
    pub(crate) fn field(&self, name: &str) -> Option<usize> {
        let folded = fold(name);
        if folded.is_empty() {
            return None;
        }
        let mapped = self
            .names
            .iter()
            .position(|known| known.as_ref().is_some_and(|known| known.folded == folded));
        mapped.or_else(|| {
            User::FIELDS
                .iter()
                .position(|field| *field == folded)
                .filter(|field| self.names[*field].is_none())
        })
    }

    /// Returns the mapped fields, which a header must have, with their names there.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.names
            .iter()
            .enumerate()
            .filter_map(|(field, name)| Some((field, name.as_ref()?.given.as_str())))
    }
}

/// Returns a name in the form in which names are compared.
fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Returns the beginning of a name that may be as long as a row.
pub(crate) fn cut(name: &str) -> &str {
    name.char_indices().nth(NAME_CHARACTERS_MAX).map_or(name, |(end, _)| &name[..end])
}

/// Returns whether a text in the place of a name is rather an address, which no message repeats.
pub(crate) fn may_be_address(name: &str) -> bool {
    name.contains('@')
}

/// Counts the parts of a file that were left out because they are empty or ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Omissions {
    /// How many CSV rows without a value there were. Blank lines don't count.
    pub empty_rows: u64,
    /// How many columns without a name and without a value followed the others.
    pub empty_columns: u64,
    /// How many columns of CSV, or different keys of JSON, were [ignored](Columns::ignore_unknown).
    /// The count of keys stops at 51.
    pub ignored: u64,
    names: Vec<String>,
    seen: BTreeSet<String>,
}

impl Omissions {
    /// Returns the names of the first 50 ignored columns or keys. They may be any text.
    #[must_use]
    pub fn ignored_names(&self) -> &[String] {
        &self.names
    }

    /// Counts a key, unless one with its name was counted before.
    pub(crate) fn ignore(&mut self, name: &str) {
        let name = cut(name);
        if self.seen.contains(name) {
            return;
        }
        if self.names.len() < IGNORED_NAMES_MAX {
            self.seen.insert(name.to_owned());
            self.names.push(name.to_owned());
        }
        self.ignored = (self.ignored + 1).min(IGNORED_NAMES_MAX as u64 + 1);
    }

    /// Counts a column, whatever its name.
    pub(crate) fn ignore_column(&mut self, name: &str) {
        if self.names.len() < IGNORED_NAMES_MAX {
            self.names.push(cut(name).to_owned());
        }
        self.ignored += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_under_its_name_or_the_one_it_is_mapped_to() {
        let mut columns = Columns::default();
        assert_eq!(columns.field(" EMAIL "), Some(1));
        assert_eq!(columns.field("mail"), None);
        columns.map("email", "Größe [Required] ").unwrap();
        assert_eq!(columns.field("GRÖSSE [required]"), None);
        assert_eq!(columns.field("GRÖßE [required]"), Some(1));
        assert_eq!(columns.field("email"), None);
        // A mapping takes precedence over the name of another field.
        columns.map("created_at", "updated_at").unwrap();
        assert_eq!(columns.field("updated_at"), Some(2));
        columns.map("id", "").unwrap();
        assert_eq!((columns.field("id"), columns.field("")), (None, None));
    }

    #[test]
    fn a_mapping_that_is_ambiguous_is_refused() {
        let mut columns = Columns::default();
        columns.map("email", "Login").unwrap();
        for (field, name) in [("email", "x"), ("id", "LOGIN "), ("mail", "x"), ("", "x")] {
            assert!(matches!(columns.map(field, name), Err(Error::Mapping(_))), "{field}={name}");
        }
        columns.map("id", "").unwrap();
        columns.map("version", "").unwrap();
    }

    #[test]
    fn names_of_ignored_keys_are_counted_once_and_have_a_limit() {
        let mut omissions = Omissions::default();
        for number in 0..10_000 {
            omissions.ignore("name");
            omissions.ignore(&number.to_string());
        }
        assert_eq!(omissions.ignored_names().len(), IGNORED_NAMES_MAX);
        assert_eq!(omissions.ignored_names()[..2], ["name", "0"]);
        assert_eq!((omissions.seen.len(), omissions.ignored), (IGNORED_NAMES_MAX, 51));
    }
}
