//! CSV as RFC 4180 has it, for spreadsheets: lines end with CRLF, and what a stranger named is never taken for a formula.

use std::fmt::{Display, Write};

/// A table in the making.
#[derive(Clone, Debug, Default)]
pub struct Csv {
    text: String,
    is_in_line: bool,
}

impl Csv {
    /// A table with these columns.
    pub fn new(columns: &[&str]) -> Self {
        let mut csv = Self::default();
        for column in columns {
            csv = csv.text(column);
        }
        csv.end()
    }

    /// A field of text. One that a spreadsheet would compute gets an apostrophe before it.
    pub fn text(mut self, text: &str) -> Self {
        self.separate();
        let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let quoted =
            is_formula || text.contains(['"', ',', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ');
        if !quoted {
            self.text.push_str(text);
            return self;
        }
        self.text.push('"');
        self.text.push_str(if is_formula { "'" } else { "" });
        self.text.push_str(&text.replace('"', "\"\""));
        self.text.push('"');
        self
    }

    /// A field that is a number, an amount, a date or an id of ours.
    pub fn number(mut self, number: impl Display) -> Self {
        self.separate();
        let _ = write!(self.text, "{number}"); // into memory
        self
    }

    /// The same; empty where there is none.
    pub fn optional(self, number: Option<impl Display>) -> Self {
        match number {
            Some(number) => self.number(number),
            None => self.number(""),
        }
    }

    /// The end of a line.
    pub fn end(mut self) -> Self {
        self.text.push_str("\r\n");
        self.is_in_line = false;
        self
    }

    /// The whole table.
    pub fn finish(self) -> String {
        self.text
    }

    fn separate(&mut self) {
        if self.is_in_line {
            self.text.push(',');
        }
        self.is_in_line = true;
    }
}

/// What can be a line of a table.
pub trait Row {
    /// The names of the columns.
    const HEAD: &'static [&'static str];

    /// Adds its fields, in that order.
    fn fields(&self, csv: Csv) -> Csv;
}

/// A head and a line for each row.
pub fn document<T: Row>(rows: &[T]) -> String {
    rows.iter().fold(Csv::new(T::HEAD), |csv, row| row.fields(csv).end()).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let csv = Csv::new(&["name", "amount_usd"]).text("Ana").number("-3.5").end();
        let csv = csv.text("a \"b\", c").number(1).end().text("").number(0).end();
        assert_eq!(csv.finish(), "name,amount_usd\r\nAna,-3.5\r\n\"a \"\"b\"\", c\",1\r\n,0\r\n");
    }

    #[test]
    fn a_name_is_not_taken_for_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"] {
            assert!(Csv::default().text(formula).finish().starts_with("\"'"), "{formula:?}");
        }
    }
}
