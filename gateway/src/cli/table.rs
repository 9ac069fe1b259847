//! Plain tables, and times that people can read.

use crate::domain::calendar::Day;

/// Columns as wide as their widest cell, two spaces between.
pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: &[String; N]| {
        let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let head = head.map(str::to_owned);
    [&head].into_iter().chain(&rows).map(line).collect::<Vec<_>>().join("\n")
}

/// `2026-11-22 22:30:01`, UTC, from Unix microseconds.
pub(super) fn time(us: i64) -> String {
    let day = Day::of_us(us.max(0));
    let secs = (us.max(0) - day.start_us()) / 1_000_000;
    format!("{day} {:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![["a".to_owned(), "bb".to_owned()], ["ccc".to_owned(), String::new()]];
        assert_eq!(table(["X", "Y"], rows), "X    Y\na    bb\nccc");
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_400_000_000), "2000-02-29 00:00:00");
        assert_eq!(time(1_795_386_601_000_000), "2026-11-22 22:30:01");
    }
}
