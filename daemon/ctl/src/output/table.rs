//! Tables that fit the terminal: columns go before text is wrapped, and nothing is cut where there is no terminal.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::Look;

/// Blanks between two columns.
const GAP: u16 = 2;

/// One column of a table about `T`.
pub(crate) struct Column<T: 'static> {
    /// Heading.
    pub(crate) heading: &'static str,
    /// Width in a table that is printed row by row, where the widest cell is not known yet.
    pub(crate) width: usize,
    /// 0: always shown. The highest goes first where the terminal is narrow.
    pub(crate) dispensable: u8,
    /// Numbers stand right.
    pub(crate) right: bool,
    /// The cell.
    pub(crate) cell: fn(&T) -> String,
}

/// A table of all `rows`, as wide as needed and possible.
pub(crate) fn of<T>(look: Look, columns: &[Column<T>], rows: &[T]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|c| (c.cell)(row)).collect()).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let widest = cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            widest.max(column.heading.chars().count())
        })
        .collect();
    let shown = fitting(look, columns, &widths);
    let headings: Vec<&str> = shown.iter().map(|&at| columns[at].heading).collect();
    let right: Vec<usize> =
        shown.iter().enumerate().filter(|&(_, &column)| columns[column].right).map(|(at, _)| at).collect();
    let rows = cells.into_iter().map(|row| shown.iter().map(|&at| row[at].clone()).collect()).collect();
    plain(look, &headings, rows, &right)
}

/// A table of ready cells of which the columns in `dispensable` go, the last named first, until the rest fits; the
/// columns in `right` stand right. For numbers: one that is broken over two lines is read as two.
pub(crate) fn of_cells(
    look: Look,
    headings: &[&str],
    rows: Vec<Vec<String>>,
    right: &[usize],
    dispensable: &[usize],
) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([headings[at].chars().count()]).max().unwrap_or(0) + usize::from(GAP)
    };
    let mut shown: Vec<usize> = (0..headings.len()).collect();
    for victim in dispensable.iter().rev() {
        let room = look.width.map_or(usize::MAX, |width| usize::from(width.saturating_add(GAP)));
        if shown.iter().map(|&at| width(at)).sum::<usize>() <= room {
            break;
        }
        shown.retain(|at| at != victim);
    }
    let headings: Vec<&str> = shown.iter().map(|&at| headings[at]).collect();
    let right: Vec<usize> = (0..shown.len()).filter(|&at| right.contains(&shown[at])).collect();
    let rows = rows.iter().map(|row| shown.iter().map(|&at| row[at].clone()).collect()).collect();
    plain(look, &headings, rows, &right)
}

/// A table of ready cells; the columns in `right` stand right.
pub(crate) fn plain(look: Look, headings: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings.iter().copied());
    match look.width {
        // The blanks after the last column are trimmed below.
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.saturating_add(GAP))
        }
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The heading line and a function for each row, for tables that are printed as things happen.
pub(crate) struct Rolling<T: 'static> {
    columns: &'static [Column<T>],
    shown: Vec<usize>,
}

impl<T> Rolling<T> {
    /// Chooses the columns once.
    pub(crate) fn new(look: Look, columns: &'static [Column<T>]) -> Rolling<T> {
        let widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
        Rolling { columns, shown: fitting(look, columns, &widths) }
    }

    /// The heading line.
    pub(crate) fn heading(&self) -> String {
        self.joined(|column| column.heading.to_owned())
    }

    /// One row; a name that is too long is cut.
    pub(crate) fn row(&self, row: &T) -> String {
        self.joined(|column| (column.cell)(row))
    }

    fn joined(&self, cell: impl Fn(&Column<T>) -> String) -> String {
        let mut line = String::new();
        for &at in &self.shown {
            let column = &self.columns[at];
            let (text, width) = (cell(column), column.width);
            // A number that is cut is a wrong number: it may push the row instead.
            let padded = if column.right {
                format!("{text:>width$}")
            } else {
                format!("{:<width$}", cut(&text, width))
            };
            line.push_str(&padded);
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

/// The columns to show, in order: the most dispensable go until the rest fits.
fn fitting<T>(look: Look, columns: &[Column<T>], widths: &[usize]) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let Some(width) = look.width else { return shown };
    while shown.iter().map(|&at| widths[at] + usize::from(GAP)).sum::<usize>()
        > usize::from(width.saturating_add(GAP))
    {
        let Some(&victim) = shown.iter().max_by_key(|&&at| columns[at].dispensable) else { break };
        if columns[victim].dispensable == 0 {
            break;
        }
        shown.retain(|&at| at != victim);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column<(&str, u32)>] = &[
        Column { heading: "NAME", width: 6, dispensable: 0, right: false, cell: |row| row.0.to_owned() },
        Column { heading: "COUNT", width: 5, dispensable: 0, right: true, cell: |row| row.1.to_string() },
        Column {
            heading: "SQUARE",
            width: 6,
            dispensable: 1,
            right: true,
            cell: |row| (row.1 * row.1).to_string(),
        },
    ];

    fn check(width: Option<u16>, expected: &str) {
        let look = Look { width, colour: false };
        assert_eq!(of(look, COLUMNS, &[("one", 1), ("twenty", 20)]), expected, "{width:?}");
    }

    #[test]
    fn a_narrow_terminal_loses_columns_not_text() {
        let full = "NAME    COUNT  SQUARE\none         1       1\ntwenty     20     400\n";
        check(None, full);
        check(Some(80), full);
        check(Some(21), full);
        check(Some(20), "NAME    COUNT\none         1\ntwenty     20\n");
    }

    #[test]
    fn rows_that_roll_keep_their_width() {
        let rolling = Rolling::new(Look { width: Some(80), colour: false }, COLUMNS);
        assert_eq!(rolling.heading(), "NAME    COUNT  SQUARE");
        assert_eq!(rolling.row(&("one", 1)), "one         1       1");
        assert_eq!(rolling.row(&("thousand", 1_000)), "thous…   1000  1000000");
    }
}
