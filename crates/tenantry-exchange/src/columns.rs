//! Which columns or keys of a file are which fields.

use std::collections::BTreeSet;

use crate::{Error, FIELDS, Result};

/// How many names of ignored columns or keys are kept: as many as a person reads. Keys of JSON may
/// be without end.
const IGNORED_NAMES_MAX: usize = 50;
/// How many characters of a name are kept, which may be as long as a row.
const NAME_CHARACTERS_MAX: usize = 100;

/// Says which columns of a CSV file, or keys of JSON, are which of the [`FIELDS`], and whether
/// there may be others.
///
/// By default a field is called as it is in [`FIELDS`], and another name is an error. Names are
/// compared without regard to case and surrounding space.
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
/// assert_eq!(reader.passed_over().ignored_names(), ["First Name"]);
/// # Ok::<(), tenantry_exchange::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// For each of [`FIELDS`] how it is called in the file, if otherwise.
    names: [Option<Name>; FIELDS.len()],
    ignores_unknown: bool,
}

/// The name of a column. If it is empty, the column isn't in the file.
#[derive(Clone, Debug)]
struct Name {
    given: String,
    folded: String,
}

impl Columns {
    /// Says that a field is called `name` in the file, or isn't in it if `name` is empty.
    ///
    /// A column that is called as the field is in [`FIELDS`] is then unknown.
    ///
    /// # Errors
    ///
    /// `Mapping` if there is no such field, or the field or the name was mapped before.
    pub fn map(&mut self, field: &str, name: &str) -> Result<()> {
        let Some(index) = FIELDS.iter().position(|known| known.eq_ignore_ascii_case(field.trim())) else {
            let fields = FIELDS.join(", ");
            return Err(Error::Mapping(format!("there is no field {field:?}; the fields are {fields}")));
        };
        let folded = fold(name);
        if self.names[index].is_some() {
            return Err(Error::Mapping(format!("the field {} is mapped twice", FIELDS[index])));
        }
        if !folded.is_empty() && self.names.iter().flatten().any(|other| other.folded == folded) {
            return Err(Error::Mapping(format!("{name:?} is mapped to two fields")));
        }
        self.names[index] = Some(Name { given: name.trim().to_owned(), folded });
        Ok(())
    }

    /// Allows columns and keys that are no field's. They are dropped, and [their
    /// names](crate::PassedOver) are kept.
    pub fn ignore_unknown(&mut self) {
        self.ignores_unknown = true;
    }

    pub(crate) fn ignores_unknown(&self) -> bool {
        self.ignores_unknown
    }

    /// Returns which of [`FIELDS`] a column or a key is, if it is one.
    pub(crate) fn field(&self, name: &str) -> Option<usize> {
        let folded = fold(name);
        if folded.is_empty() {
            return None;
        }
        let mapped = self.names.iter().position(|known| known.as_ref().is_some_and(|known| known.folded == folded));
        mapped.or_else(|| FIELDS.iter().position(|field| *field == folded).filter(|field| self.names[*field].is_none()))
    }

    /// Returns the fields that must be in a header, because they were mapped, with how they are
    /// called there.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.names.iter().enumerate().filter_map(|(field, name)| Some((field, name.as_ref()?.given.as_str())))
    }
}

/// Names as they are compared.
fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Returns the beginning of a name that may be as long as a row.
pub(crate) fn cut(name: &str) -> &str {
    name.char_indices().nth(NAME_CHARACTERS_MAX).map_or(name, |(end, _)| &name[..end])
}

/// What of a file was passed over, because it holds nothing or isn't needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// How many rows of CSV without any value there were. Blank lines don't count.
    pub empty_rows: u64,
    /// How many columns without name and value there were behind the others.
    pub empty_columns: u64,
    /// How many columns of CSV, or keys of JSON with different names, were
    /// [ignored](Columns::ignore_unknown). Keys are counted up to 51.
    pub ignored: u64,
    names: Vec<String>,
    seen: BTreeSet<String>,
}

impl PassedOver {
    /// Returns the names of the first 50 columns or keys that were ignored. They may be anything.
    #[must_use]
    pub fn ignored_names(&self) -> &[String] {
        &self.names
    }

    /// Counts a column or a key, if its name is a new one.
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
        // What a field is mapped to comes before what another is called.
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
    fn names_of_ignored_keys_are_counted_once_and_not_without_end() {
        let mut passed_over = PassedOver::default();
        for number in 0..10_000 {
            passed_over.ignore("name");
            passed_over.ignore(&number.to_string());
        }
        assert_eq!(passed_over.ignored_names().len(), IGNORED_NAMES_MAX);
        assert_eq!(passed_over.ignored_names()[..2], ["name", "0"]);
        assert_eq!((passed_over.seen.len(), passed_over.ignored), (IGNORED_NAMES_MAX, 51));
    }
}
