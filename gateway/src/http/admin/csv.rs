//! CSV (RFC 4180) that a spreadsheet cannot be made to execute.

/// What can be a line of CSV.
pub trait Row {
    /// The names of the columns.
    const HEAD: &'static [&'static str];

    /// The cells, in that order.
    fn cells(&self) -> Vec<String>;
}

/// A head and a line for each row.
pub fn document<T: Row>(rows: &[T]) -> String {
    let mut text = T::HEAD.join(",") + "\r\n";
    for row in rows {
        let cells: Vec<String> = row.cells().iter().map(|text| cell(text)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// One cell. Text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV Injection");
/// numbers stay numbers.
fn cell(text: &str) -> String {
    let is_number = text.parse::<lumbung_openapi::money::NanoUsd>().is_ok();
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number;
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"\n", "\"say \"\"hi\"\"\n\""),
            ("-3.5", "-3.5"),
            ("=1+1", "'=1+1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-cmd|x", "'-cmd|x"),
            ("+1", "'+1"),
        ] {
            assert_eq!(cell(text), expected);
        }
    }
}
