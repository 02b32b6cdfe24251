//! Medians with their spread, and tables of them.

use std::fmt::{self, Write};

/// The median, minimum and maximum of a figure's samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Computes the spread of at least one sample.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (lower, upper) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Spread { median: (lower + upper) / 2.0, min: sorted[0], max: sorted[sorted.len() - 1] }
    }

    /// Formats as `median (min-max)`, with each number formatted by `number`.
    pub(crate) fn show(self, number: impl Fn(f64) -> String) -> String {
        format!("{} ({}-{})", number(self.median), number(self.min), number(self.max))
    }
}

/// Thousands, for rates.
pub(crate) fn thousands(number: f64) -> String {
    format!("{:.0}k", number / 1000.0)
}

/// Two decimal places, for microseconds and ratios.
pub(crate) fn hundredths(number: f64) -> String {
    format!("{number:.2}")
}

/// Whole numbers.
pub(crate) fn whole(number: f64) -> String {
    format!("{number:.0}")
}

/// A table of text with a title: the first column is left-aligned, the others are right-aligned.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with a heading and no rows.
    pub(crate) fn new(title: impl Into<String>, heading: &[&str]) -> Table {
        Table { title: title.into(), rows: vec![heading.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row with as many cells as the heading.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.rows[0].len(), "a row as wide as its heading");
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = &self.rows;
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        writeln!(f, "\n{}", self.title)?;
        for (number, row) in rows.iter().enumerate() {
            let mut line = format!("  {:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(line, " | {cell:>width$}")?;
            }
            writeln!(f, "{line}")?;
            if number == 0 {
                let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                writeln!(f, "  {}", rule.join("-|-"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_sample_or_between_the_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("title", &["peer", "x"]);
        table.row(["a".into(), "12345".into()]);
        assert_eq!(table.to_string(), "\ntitle\n  peer |     x\n  -----|------\n  a    | 12345\n");
    }
}
