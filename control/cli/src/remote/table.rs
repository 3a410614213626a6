//! Aligned columns, as kubectl prints them.

/// Spaces between columns.
const GAP: usize = 3;

/// Widths of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Columns wide enough for a heading and rows.
    pub(crate) fn new<'a>(head: &[&str], rows: impl Iterator<Item = &'a [String]>) -> Self {
        let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
        for row in rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(&one_line(cell)));
            }
        }
        Self { widths }
    }

    /// One line with its end.
    pub(crate) fn line<S: AsRef<str>>(&self, cells: &[S]) -> String {
        let mut line = String::new();
        for (cell, widest) in cells.iter().zip(&self.widths) {
            let cell = one_line(cell.as_ref());
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', widest.saturating_sub(width(&cell)) + GAP));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// A heading and rows.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let table = Table::new(head, rows.iter().map(Vec::as_slice));
    let mut text = table.line(head);
    text.extend(rows.iter().map(|row| table.line(row)));
    text
}

/// Names and values, one pair a line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in pairs {
        let pad = widest.saturating_sub(width(name)) + 2;
        text.push_str(&format!("{name}:{:pad$}{}", "", one_line(value)));
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A cell is one line, whatever is in it.
fn one_line(text: &str) -> String {
    super::output::harmless(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::{pairs, table};

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_the_end() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&["NAME", "N", "WHY"], &[row(["über", "1", "a\nb"]), row(["longer-name", "", ""])]);
        assert_eq!(text, "NAME          N   WHY\nüber          1   a b\nlonger-name\n");
    }

    #[test]
    fn pairs_are_aligned() {
        assert_eq!(
            pairs(&[("Kind", "x".to_owned()), ("Generation", "7".to_owned())]),
            "Kind:        x\nGeneration:  7\n"
        );
    }
}
