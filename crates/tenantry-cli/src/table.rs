//! Lays out tables of text to fit the terminal.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// How many columns of the terminal separate two columns of the table.
const GAP: usize = 2;
/// The width at which addresses and paths are still distinguishable.
const COMFORTABLE: usize = 24;
/// The width of the first eight digits of an id and the mark of a cut.
const SHORT_ID: usize = 9;
/// The least width of a text, before the whole line is cut.
const LEAST: usize = 8;

/// The mark of a cut.
const CUT: &str = "…";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// The id of a user.
    Id,
    /// Aligned to the right, so that people can compare numbers.
    Number,
    /// A short word, which is only cut with the whole line.
    Word,
}

/// Collects rows, and lays them out when all of them are known.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    header: &'static str,
    kind: Kind,
    /// Whether an empty column is left out.
    is_optional: bool,
    width: usize,
    is_empty: bool,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { columns: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn add_column(&mut self, header: &'static str, kind: Kind, is_optional: bool) {
        self.columns.push(Column {
            header,
            kind,
            is_optional,
            width: width(header),
            is_empty: true,
        });
    }

    /// Adds a row, with a cell for each column. No cell has a line break.
    pub(crate) fn add_row(&mut self, cells: Vec<String>) {
        for (column, cell) in self.columns.iter_mut().zip(&cells) {
            column.width = column.width.max(width(cell));
            column.is_empty &= cell.is_empty();
        }
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns whether every line fits into a width.
    pub(crate) fn fits(&self, available: usize) -> bool {
        self.layout(None).total() <= available
    }

    /// Returns the header and the rows as lines, cut to a width.
    pub(crate) fn lines(&self, available: Option<usize>) -> impl Iterator<Item = String> {
        let layout = self.layout(available);
        let header = layout.line(|index| self.columns[index].header);
        let rows = self.rows.iter().map(move |row| layout.line(|index| &row[index]));
        std::iter::once(header).chain(rows)
    }

    /// Returns the rows as pairs of header and cell.
    pub(crate) fn records(
        &self,
    ) -> impl Iterator<Item = impl Iterator<Item = (&'static str, &str)>> {
        let pair = |(column, cell)| {
            let (column, cell): (&Column, &String) = (column, cell);
            (column.header, cell.as_str())
        };
        self.rows.iter().map(move |row| self.columns.iter().zip(row).map(pair))
    }

    fn layout(&self, available: Option<usize>) -> Layout {
        let is_shown = |(_, column): &(usize, &Column)| !(column.is_optional && column.is_empty);
        let slot = |(index, column): (usize, &Column)| Slot {
            index,
            kind: column.kind,
            width: column.width,
        };
        let slots = self.columns.iter().enumerate().filter(is_shown).map(slot).collect();
        let mut layout = Layout { slots, available: available.unwrap_or(usize::MAX) };
        // Shrink the least distinguishing columns first. An id is cut before an address, since
        // either identifies the user.
        for (kind, least) in [(Kind::Text, COMFORTABLE), (Kind::Id, SHORT_ID), (Kind::Text, LEAST)]
        {
            layout.shrink(kind, least);
        }
        layout
    }
}

/// The positions of the cells in a line.
struct Layout {
    slots: Vec<Slot>,
    available: usize,
}

struct Slot {
    /// The index of the column in the table.
    index: usize,
    kind: Kind,
    width: usize,
}

impl Layout {
    fn total(&self) -> usize {
        let gaps = GAP * self.slots.len().saturating_sub(1);
        self.slots.iter().map(|slot| slot.width).sum::<usize>() + gaps
    }

    /// Narrows the widest columns of a kind until the line fits, or until all have the least width.
    fn shrink(&mut self, kind: Kind, least: usize) {
        while self.total() > self.available {
            let widest = self
                .slots
                .iter_mut()
                .filter(|slot| slot.kind == kind)
                .max_by_key(|slot| slot.width);
            match widest {
                Some(slot) if slot.width > least => slot.width -= 1,
                _ => return,
            }
        }
    }

    fn line<'c>(&self, cell: impl Fn(usize) -> &'c str) -> String {
        let mut line = String::with_capacity(self.total().min(self.available));
        let mut missing = 0;
        for slot in &self.slots {
            let cell = cut(cell(slot.index), slot.width);
            let padding = slot.width - width(&cell).min(slot.width);
            let (before, after) =
                if slot.kind == Kind::Number { (padding, 0) } else { (0, padding) };
            line.extend(std::iter::repeat_n(' ', missing + before));
            line.push_str(&cell);
            missing = after + GAP;
        }
        line.truncate(line.trim_end().len());
        match cut(&line, self.available) {
            Cow::Borrowed(_) => line,
            Cow::Owned(cut) => cut,
        }
    }
}

/// Returns how many columns of a terminal a text takes.
fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// Cuts a text to a width, between two graphemes, and marks the cut.
fn cut(text: &str, available: usize) -> Cow<'_, str> {
    if width(text) <= available {
        return Cow::Borrowed(text);
    }
    let room = available.saturating_sub(width(CUT));
    let mut used = 0;
    let fits = |(_, letter): &(usize, &str)| {
        used += width(letter);
        used <= room
    };
    let end = text
        .grapheme_indices(true)
        .take_while(fits)
        .last()
        .map_or(0, |(start, letter)| start + letter.len());
    Cow::Owned(format!("{}{CUT}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 4]]) -> Table {
        let mut table = Table::new();
        table.add_column("id", Kind::Id, false);
        table.add_column("email", Kind::Text, false);
        table.add_column("size", Kind::Number, false);
        table.add_column("storage_path", Kind::Text, true);
        for row in rows {
            table.add_row(row.iter().map(|cell| (*cell).to_owned()).collect());
        }
        table
    }

    fn lines(table: &Table, available: usize) -> Vec<String> {
        table.lines(Some(available)).collect()
    }

    #[test]
    fn every_line_fits_at_every_width() {
        let id = "3fa2b1c4-0000-4000-8000-000000000001";
        let wide = "\u{4f8b}\u{3048}\u{4f8b}\u{3048}\u{4f8b}\u{3048}\u{4f8b}\u{3048}@example.com";
        let marks = "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}@example.com";
        let table = table(&[
            [id, wide, "1.00 KiB", "customers/ada"],
            [id, marks, "2 B", ""],
            [
                id,
                "ada@example.com",
                "",
                "customers/bob/with/a/long/path/that/goes/on/and/on/and/on",
            ],
        ]);
        for available in 1..200 {
            let lines = lines(&table, available);
            assert_eq!(lines.len(), 4);
            for line in lines {
                assert!(line.as_str().width() <= available, "{available}: {line}");
                assert!(!line.contains("…\u{301}"), "{line}");
            }
        }
        assert!(table.fits(200) && !table.fits(100));
        assert_eq!(table.lines(None).collect::<Vec<_>>(), lines(&table, usize::MAX));
    }

    #[test]
    fn columns_line_up_whatever_the_width_of_the_letters() {
        let table = table(&[["1", "\u{4f8b}\u{3048}@x", "10", ""], ["22", "e\u{301}@x", "9", ""]]);
        let expected =
            ["id  email   size", "1   \u{4f8b}\u{3048}@x    10", "22  e\u{301}@x        9"];
        assert_eq!(table.lines(None).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn texts_are_cut_first_then_ids_then_texts_to_their_least_width() {
        let id = "3fa2b1c4-0000-4000-8000-000000000001";
        let email = "christopher.von-und-zu-liechtenstein@department-of-affairs.example";
        let table = table(&[[id, email, "7", ""]]);
        assert_eq!(
            lines(&table, 80)[1],
            format!("{id}  christopher.von-und-zu-liechtenstei…     7")
        );
        assert_eq!(
            lines(&table, 60)[1],
            "3fa2b1c4-0000-4000-8000-000…  christopher.von-und-zu-…     7"
        );
        assert_eq!(lines(&table, 40)[1], "3fa2b1c4…  christopher.von-und-zu…     7");
        assert_eq!(lines(&table, 20)[1], "3fa2b1c4…  christo……");
    }

    #[test]
    fn an_empty_optional_column_is_left_out() {
        assert_eq!(table(&[]).lines(None).collect::<Vec<_>>(), ["id  email  size"]);
        let table = table(&[["1", "a@x", "1", ""], ["2", "b@x", "2", "c"]]);
        assert_eq!(table.lines(None).next().unwrap(), "id  email  size  storage_path");
        assert_eq!(table.records().next().unwrap().last(), Some(("storage_path", "")));
    }
}
