//! Writing figures in the text format of Prometheus.

use std::fmt::{self, Display, Write};

/// What a family of figures is.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text in the [text format](https://prometheus.io/docs/instrumenting/exposition_formats/).
pub(crate) struct Text {
    text: String,
    /// The name of the family that is being written.
    name: String,
}

impl Text {
    pub(crate) fn new() -> Self {
        Self { text: String::new(), name: String::new() }
    }

    pub(crate) fn into_string(self) -> String {
        self.text
    }

    /// Begins a family.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) -> fmt::Result {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        name.clone_into(&mut self.name);
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
    }

    /// Writes a value of the family.
    pub(crate) fn sample(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) -> fmt::Result {
        write!(self.text, "{}{suffix}", self.name)?;
        for (index, (label, value)) in labels.iter().enumerate() {
            let begin = if index == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(self.text, "{begin}{label}=\"{value}\"")?;
        }
        writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" })
    }

    /// Writes a family of one value.
    pub(crate) fn single(&mut self, name: &str, kind: Kind, help: &str, value: u64) -> fmt::Result {
        self.family(name, kind, help)?;
        self.sample("", &[], value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_labels_are_escaped() {
        let mut text = Text::new();
        text.family("a_total", Kind::Counter, "Letters.").unwrap();
        text.sample("", &[("x", "a\"b\\c\nd"), ("y", "z")], 1).unwrap();
        let expected = "# HELP a_total Letters.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"z\"} 1\n";
        assert_eq!(text.into_string(), expected);
    }
}
