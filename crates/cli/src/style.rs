//! Colours, numbers and tables for people. Colours vanish for pipes and `NO_COLOR` (anstream).

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

/// Titles and totals.
pub const STRONG: Style = Style::new().bold();
/// What need not be read.
pub const FAINT: Style = Style::new().dimmed();
/// Values that were asked for.
pub const VALUE: Style = AnsiColor::Cyan.on_default();
/// What went well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What deserves a look.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// What went wrong.
pub const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Styles of `--help`, in the same colours.
pub const HELP: clap::builder::Styles = clap::builder::Styles::styled()
    .header(STRONG)
    .usage(STRONG)
    .literal(VALUE)
    .placeholder(FAINT)
    .error(ERROR)
    .valid(GOOD)
    .invalid(WARNING);

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes as `3.1 MiB`.
pub fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut units = ["B", "KiB", "MiB", "GiB"].iter();
    let mut unit = units.next().unwrap_or(&"B");
    while value >= 1024.0 {
        let Some(next) = units.next() else { break };
        value /= 1024.0;
        unit = next;
    }
    if *unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") }
}

/// A fraction as `94.86 %`.
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

/// Seconds as `4.2 s`, `3 min 05 s` or `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Which edge of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, in columns as wide as they must be.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    total: Option<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), total: None }
    }

    /// Adds a row, one cell a column.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Sets the last row, set off from the others.
    pub fn total(&mut self, cells: Vec<String>) {
        self.total = Some(cells);
    }

    /// Writes it.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(title, _)| title.width()).collect();
        for row in self.rows.iter().chain(&self.total) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (i, ((cell, width), (_, align))) in cells.zip(&widths).zip(&self.columns).enumerate() {
                let gap = " ".repeat(width - cell.width());
                if i > 0 {
                    text.push_str("  ");
                }
                match align {
                    Align::Left => text.extend([cell, &gap]),
                    Align::Right => text.extend([&gap, cell]),
                }
            }
            text.truncate(text.trim_end().len());
            text
        };
        let titles = line(&mut self.columns.iter().map(|(title, _)| *title));
        writeln!(out, "{FAINT}{titles}{FAINT:#}")?;
        for row in &self.rows {
            writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
        }
        if let Some(total) = &self.total {
            writeln!(out, "{STRONG}{}{STRONG:#}", line(&mut total.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(568_740_352), "568,740,352");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(duration(4.24), "4.2 s");
        assert_eq!(duration(185.0), "3 min 05 s");
        assert_eq!(duration(7800.0), "2 h 10 min");
    }

    #[test]
    fn columns_line_up_in_any_script() {
        let mut table = Table::new(&[("class", Align::Left), ("n", Align::Right)]);
        table.row(vec!["猫".into(), "1".into()]);
        table.row(vec!["long name".into(), "20".into()]);
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        let text = anstream::adapter::strip_str(std::str::from_utf8(&text).unwrap()).to_string();
        assert_eq!(text, "class       n\n猫          1\nlong name  20\n");
    }
}
